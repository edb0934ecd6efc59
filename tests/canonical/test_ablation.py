"""Ablation of rank-one pieces: ablating nothing or everything gives the known results."""

import warnings
from dataclasses import replace

import pytest
import torch

import tw_lens as tw
from tests.zoo import zoo_bridge
from tw_lens.analyses.head_directions import head_svd
from tw_lens.canonical import HeadNorm, RankOnePieces, ablate_pieces
from tw_lens.studies.ablation_pieces import rank_one_pieces
from tw_lens.studies.prompts import seeded_generator

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


def whole_map(block, head: int, circuit: str) -> RankOnePieces:
    """Return the whole map of a head, as pieces along an orthonormal basis of the stream."""
    A = block.A_Q[head] if circuit == "QK" else block.A_V[block.kv_head[head]]
    return RankOnePieces(torch.eye(len(A))[None], A[None])


def test_linearised_whole_vectors_are_normalised_and_rotated(block_and_stream):
    block, x = block_and_stream
    q, k = block.queries(x), block.keys(x)
    rotated_q, rotated_k = block.attention_scores.norm_and_rotate(q, k)
    for head in range(block.n_heads):
        result = block.attention_scores.linearised(q[:, [head]], q, head)[:, 0]
        assert torch.allclose(result, rotated_q[:, head], atol=1e-5, rtol=1e-5)
    for head in range(k.shape[1]):
        result = block.attention_scores.linearised(k[:, [head]], k, head, key=True)[:, 0]
        assert torch.allclose(result, rotated_k[:, head], atol=1e-5, rtol=1e-5)


def test_ablating_nothing_changes_nothing(block_and_stream):
    block, x = block_and_stream
    pattern = block.attention_pattern(x)
    written = block.head_outputs(pattern, block.values(x), x)
    for circuit in ("QK", "OV"):
        no_pieces = RankOnePieces(
            *(torch.zeros_like(part) for part in whole_map(block, 1, circuit))
        )
        ablated = ablate_pieces(block, x, 1, circuit, no_pieces)
        assert torch.allclose(ablated.pattern[0], pattern[1], atol=1e-6)
        assert torch.allclose(ablated.written[0], written[1], atol=1e-5, rtol=1e-5)
        assert float(ablated.change.abs().max()) < 1e-5 * float(written.abs().max())


def test_ablating_all_of_ov_leaves_the_constant_part_of_the_values(block_and_stream):
    """`sum_j pattern_ij n_v(v_j)` with `v_j = a_V`, with the divisor of the original values."""
    block, x = block_and_stream
    ablated = ablate_pieces(block, x, 1, "OV", whole_map(block, 1, "OV"))
    kv = block.kv_head[1]
    assert block.bottleneck_KV is None or not block.a_V.any()  # otherwise the bottleneck divides it
    constant = block.a_V[kv].expand(len(x), 1, -1)
    if block.v_norm is not None:
        constant = block.v_norm.linear_at(block.values(x), kv)(constant)
    z_head = block.attention_pattern(x)[1] @ constant[:, 0]
    z = block.weighted_values(block.attention_pattern(x), block.values(x))
    z[:, 1] = z_head
    expected = block.gated(z, x)[:, 1] @ block.W_O[1]
    size = float(block.head_outputs(block.attention_pattern(x), block.values(x), x).abs().max())
    assert float((ablated.written[0] - expected).abs().max()) < 1e-5 * size


@pytest.mark.parametrize("architecture", ["CohereForCausalLM", "StableLmForCausalLM"])
def test_a_centring_query_key_norm_removes_the_mean_from_the_map(architecture: str):
    """A number added to all dimensions of a query or key changes neither scores nor W_QK."""
    weights = tw.read_weights(zoo_bridge(architecture))
    block = weights.block(weights.attention_layers[-1])
    g = torch.Generator().manual_seed(2)
    shifts = (torch.randn(weights.d_model, 1, generator=g) for _ in range(2))
    W_Q, W_K = (W + shift for W, shift in zip((block.W_Q, block.W_K), shifts, strict=True))
    other = replace(block, W_Q=W_Q, W_K=W_K)
    x = torch.randn(7, weights.d_model, generator=g)
    assert torch.allclose(block.attention_pattern(x), other.attention_pattern(x), atol=1e-4)
    for factors, shifted in zip(block.qk_factors(), other.qk_factors(), strict=True):
        assert torch.allclose(factors, shifted, atol=1e-4 * float(factors.abs().max()))


@pytest.mark.parametrize("architecture", ["CohereForCausalLM", "StableLmForCausalLM"])
def test_random_pieces_have_matched_singular_values_under_a_centring_query_key_norm(
    architecture: str,
):
    weights = tw.read_weights(zoo_bridge(architecture))
    block = weights.block(weights.attention_layers[-1])
    svd, norm = head_svd(block, [1], "QK"), block.attention_scores.q_norm
    sets = ((0,), (3, 1, 2))
    pieces = rank_one_pieces(
        svd, block.A_Q[1], sets, keep=False, n_random=2, generator=seeded_generator("", 0, 0)
    )
    sends = pieces.sends - pieces.sends.mean(-1, keepdim=True)
    sends = block.attention_scores.rotary.turn(
        sends * norm.gains(block.n_heads, block.d_head)[1], 0
    )
    result = block.attention_scores.scale * sends @ block.qk_factors()[1][block.kv_head[1]].T
    dense = pieces.reads.mT.double() @ result.double()
    for row, directions in enumerate(s for s in sets for _ in range(3)):
        strengths = torch.linalg.svdvals(dense[row])[: len(directions)]
        assert torch.allclose(strengths, svd.S[0, sorted(directions)].double(), rtol=1e-4)


def test_a_norm_that_centres_all_heads_is_rejected():
    norm = HeadNorm(torch.ones(8), torch.zeros(8), 1e-6, centred=True, across=True)
    with pytest.raises(ValueError, match="gives no head a map of its own"):
        norm.linear_at(torch.ones(3, 2, 4), 0)
