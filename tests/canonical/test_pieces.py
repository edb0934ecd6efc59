"""Pieces of a head: parts that are the whole must come out as the whole does."""

import warnings

import pytest
import torch

import tw_lens as tw
from tests.zoo import zoo_bridge
from tw_lens.canonical import HeadNorm, Pieces, without_pieces

KINDS = {
    "Qwen3ForCausalLM": "query-key norm",
    "CohereForCausalLM": "query-key norm that centres",
    "StableLmForCausalLM": "one query-key norm per head",
    "HunYuanDenseV1ForCausalLM": "query-key norm after the rotation",
    "Olmo2ForCausalLM": "query-key norm across heads",
    "DeepseekV3ForCausalLM": "latent attention",
    "Ministral3ForCausalLM": "temperature",
    "Gemma2ForCausalLM": "soft-cap and post-norm",
    "Gemma4ForCausalLM": "norm of values",
    "BitNetForCausalLM": "norm before W_O",
    "GptOssForCausalLM": "sinks",
    "GPTJForCausalLM": "interleaved rotation",
    "BloomForCausalLM": "ALiBi",
}


@pytest.fixture(params=KINDS, ids=KINDS.get)
def block_and_stream(request):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weights = tw.read_weights(zoo_bridge(request.param))
    block = weights.block(weights.attention_layers[-1])
    return block, torch.randn(7, weights.d_model, generator=torch.Generator().manual_seed(1))


def everything(block, head: int, circuit: str) -> Pieces:
    """All that a head reads by, as pieces of an orthonormal basis of the stream."""
    A = block.A_Q[head] if circuit == "QK" else block.A_V[block.kv_head[head]]
    return Pieces(torch.eye(len(A))[None], A[None])


def test_the_whole_as_a_part_is_the_whole(block_and_stream):
    block, x = block_and_stream
    q, k = block.queries(x), block.keys(x)
    placed_q, placed_k = block.scoring.placed(q, k)
    for head in range(block.n_heads):
        met = block.scoring.met(q[:, [head]], q, head)[:, 0]
        assert torch.allclose(met, placed_q[:, head], atol=1e-5, rtol=1e-5)
    for head in range(k.shape[1]):
        met = block.scoring.met(k[:, [head]], k, head, key=True)[:, 0]
        assert torch.allclose(met, placed_k[:, head], atol=1e-5, rtol=1e-5)


def test_nothing_taken_out_is_the_head_itself(block_and_stream):
    block, x = block_and_stream
    pattern = block.pattern_on(x)
    written = block.head_outputs(pattern, block.values(x), x)
    for circuit in ("QK", "OV"):
        nothing = Pieces(*(torch.zeros_like(part) for part in everything(block, 1, circuit)))
        found = without_pieces(block, x, 1, circuit, nothing)
        assert torch.allclose(found.pattern[0], pattern[1], atol=1e-6)
        assert torch.allclose(found.written[0], written[1], atol=1e-5, rtol=1e-5)
        assert float(found.change.abs().max()) < 1e-5 * float(written.abs().max())


def test_without_its_values_a_head_writes_what_no_word_decides(block_and_stream):
    """`sum_j pattern_ij n_v(v_j)` with `v_j = a_V`, divided by what the values were divided by."""
    block, x = block_and_stream
    found = without_pieces(block, x, 1, "OV", everything(block, 1, "OV"))
    kv = block.kv_head[1]
    assert block.latent_KV is None or not block.a_V.any()  # else the bottleneck divides it
    constant = block.a_V[kv].expand(len(x), 1, -1)
    if block.v_norm is not None:
        constant = block.v_norm.linear_at(block.values(x), kv)(constant)
    own = block.pattern_on(x)[1] @ constant[:, 0]
    z = block.mixed(block.pattern_on(x), block.values(x))
    z[:, 1] = own
    expected = block.opened(z, x)[:, 1] @ block.W_O[1]
    size = float(block.head_outputs(block.pattern_on(x), block.values(x), x).abs().max())
    assert float((found.written[0] - expected).abs().max()) < 1e-5 * size


def test_a_norm_that_centres_all_heads_is_refused():
    norm = HeadNorm(torch.ones(8), torch.zeros(8), 1e-6, centred=True, across=True)
    with pytest.raises(ValueError, match="gives no head a map of its own"):
        norm.linear_at(torch.ones(3, 2, 4), 0)
