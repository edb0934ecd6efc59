"""Heads read at a distance, against the running model's own scores and dense matrices."""

import pytest
import torch

import tw_lens as tw
from tests.architectures.support import PROMPT
from tests.models import shared_bridge
from tests.zoo import zoo_bridge
from tw_lens.reading.forward import run

YARN = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
    "original_max_position_embeddings": 8,
}  # fmt: skip
ROTATING = {
    "Llama": ("LlamaForCausalLM", {}),
    "Llama with YaRN": ("LlamaForCausalLM", {"rope_parameters": YARN}),
    "GPT-J": ("GPTJForCausalLM", {}),
    "GPT-NeoX": ("GPTNeoXForCausalLM", {}),
    "Phi": ("PhiForCausalLM", {}),
    "Qwen3": ("Qwen3ForCausalLM", {}),
    "Gemma 2": ("Gemma2ForCausalLM", {}),
    "OLMo 2": ("Olmo2ForCausalLM", {}),
    "GLM": ("GlmForCausalLM", {}),
    "HunYuan": ("HunYuanDenseV1ForCausalLM", {}),
    "DeepSeek V3": ("DeepseekV3ForCausalLM", {}),
}


@pytest.fixture(scope="module", params=ROTATING)
def rotating(request):
    """Return weights, a prompt, and score differences from the running model's pattern in layer 0.

    Not every model has a hook for scores, but `log pattern[i, j] - log pattern[i, i]` is the
    difference of a key's score from the score of the query's own token.
    """
    architecture, own = ROTATING[request.param]
    model = zoo_bridge(architecture, **own)
    tokens = torch.tensor(PROMPT)
    hook = "blocks.0.attn.hook_pattern"
    _, values = run(model, tokens, ["blocks.0.hook_resid_pre"], also=[hook])
    logs = values[hook].double().log()
    return tw.read_weights(model), tokens, logs - logs.diagonal(0, 1, 2)[..., None]


def probed(weights, query: int, key: int, distance: int) -> torch.Tensor:
    """Return a key token's score by `head_probe`, plus the part that is constant over keys."""
    k = len(weights.vocabulary)
    table = tw.head_probe(weights, layer=0, words=[query], k=k, distance=distance).to_dataframe()
    score = torch.tensor(table[table.token_index == key].score.to_numpy()).double()
    block = weights.block(0)
    if not block.bilinear:
        return score
    q = block.query_at_distance(
        block.queries(weights.vocabulary.embed(torch.tensor([query]))), distance
    )
    constant = (q[0] * block.a_K[block.kv_head]).sum(-1)
    assert block.attention_scores.softcap is None or not constant.any()
    return score + constant


def own_score(weights, word: int, position: int) -> torch.Tensor:
    """Return the certified score of a token with itself at one position."""
    block = weights.block(0)
    x = weights.vocabulary.embed(torch.tensor([word] * (position + 1)))
    return block.scores(block.queries(x), block.keys(x))[:, position, position].double()


@pytest.mark.parametrize("distance", [1, 2, 3])
def test_probe_scores_are_the_models_at_that_distance(rotating, distance):
    weights, tokens, theirs = rotating
    compared = 0
    block = weights.block(0)
    positions = (3, 6, 11)
    if block.attention_scores.norm_after_rotary:  # such scores depend on both positions
        assert "norm after rotation" in {caveat.name for caveat in weights.caveats}
        positions = (distance,)
    for i in positions:
        j = i - distance
        query, key = int(tokens[i]), int(tokens[j])
        ours = probed(weights, query, key, distance) - own_score(weights, query, i)
        seen = theirs[:, i, j].isfinite()
        torch.testing.assert_close(ours[seen], theirs[:, i, j][seen], rtol=1e-4, atol=1e-3)
        compared += int(seen.sum())
    assert compared > 3 * (len(positions) > 1)


@pytest.mark.parametrize("distance", [0, 2, 5])
def test_a_spectrum_is_that_of_the_dense_matrix(rotating, distance):
    """`R(distance)` comes from rotating unit vectors to two positions, not from `turn`."""
    weights, _, _ = rotating
    block = weights.block(0)
    ours = tw.head_spectrum(weights, layer=0, n=1, distance=distance).singular_values.double()
    eye = torch.eye(block.d_head)
    positions = torch.zeros(distance + 1, block.d_head, block.d_head)
    positions[:] = eye
    turned = block.attention_scores.rotary.rotate(positions)
    R = turned[distance].double() @ turned[0].double().mT
    for h, kv in enumerate(block.kv_head):
        A_Q, A_K = block.A_Q[h].double(), block.A_K[kv].double()
        if block.attention_scores.norm_after_rotary:
            A_Q = A_Q @ R
        if block.attention_scores.q_norm is not None:
            A_Q = A_Q * block.attention_scores.q_norm.gains(block.n_heads, block.d_head)[h]
            A_K = A_K * block.attention_scores.k_norm.gains(len(block.W_K), block.d_head)[kv]
        if not block.attention_scores.norm_after_rotary:
            A_Q = A_Q @ R
        S = torch.linalg.svdvals(block.attention_scores.scale * A_Q @ A_K.mT)[: block.d_head]
        assert torch.allclose(ours[h], S, atol=1e-5 * float(S[0]))


def test_a_sweep_is_the_probe_at_every_distance(rotating):
    weights, tokens, _ = rotating
    words = tokens[:2].tolist()
    sweep = tw.head_probe_by_distance(
        weights, layer=0, words=words, distances=[0, 4], k=3
    ).to_dataframe()
    for distance in (0, 4):
        probe = tw.head_probe(weights, layer=0, words=words, k=3, distance=distance).to_dataframe()
        of_sweep = sweep[sweep.distance == distance].reset_index(drop=True)
        assert of_sweep.token_index.equals(probe.token_index)
        assert of_sweep.score.tolist() == pytest.approx(probe.score.tolist(), rel=1e-5)


def test_the_curve_is_the_mean_over_pairs_of_certified_scores(rotating):
    weights, tokens, _ = rotating
    words = [int(tokens[9]), int(tokens[6])]
    curve = tw.head_score_by_distance(weights, layer=0, words=words, distances=[3])
    block = weights.block(0)
    x = weights.vocabulary.embed(torch.tensor(words))
    sequence = x.new_zeros(4, x.shape[-1])
    scores = []
    for q, k in ((0, 0), (0, 1), (1, 0), (1, 1)):
        sequence[3], sequence[0] = x[q], x[k]
        scores.append(block.scores(block.queries(sequence), block.keys(sequence))[:, 3, 0])
    pairs = torch.stack(scores)
    torch.testing.assert_close(curve.mean[:, 0], pairs.mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(curve.std[:, 0], pairs.std(0, correction=0), rtol=1e-3, atol=1e-4)


def test_alibi_falls_with_its_slope():
    weights = tw.read_weights(zoo_bridge("BloomForCausalLM"))
    curve = tw.head_score_by_distance(weights, layer=1, words=[5, 6, 7], distances=[0, 10])
    slopes = weights.block(1).attention_scores.slopes
    torch.testing.assert_close(curve.mean[:, 0] - curve.mean[:, 1], 10 * slopes)
    assert torch.allclose(curve.std[:, 0], curve.std[:, 1])


REJECTED = {
    "OV has no distance": ("llama", {"circuit": "OV", "distance": 1}, "W_OV and the published"),
    "nor has the paper": ("llama", {"convention": "published", "distance": 1}, "on a distance"),
    "positions do not rotate": ("gpt2", {"distance": 1}, "does not rotate"),
    "a causal query cannot look ahead": ("llama", {"distance": -1}, "look ahead"),
    "beyond the context": ("llama", {"distance": 100_000}, "beyond the"),
}


@pytest.mark.parametrize("name", REJECTED)
def test_undefined_distances_are_rejected(name):
    architecture, options, sentence = REJECTED[name]
    weights = tw.read_weights(shared_bridge(architecture))
    with pytest.raises(ValueError, match=sentence):
        tw.head_probe(weights, layer=0, words=[5], **options)
    with pytest.raises(ValueError, match=sentence):
        tw.head_spectrum(weights, layer=0, **options)


def test_a_curve_needs_scores_that_depend_on_distance():
    weights = tw.read_weights(shared_bridge("gpt2"))
    with pytest.raises(ValueError, match="do not depend on the distance"):
        tw.head_score_by_distance(weights, layer=0, words=[5])
    with pytest.raises(ValueError, match="distances is empty"):
        tw.head_probe_by_distance(weights, layer=0, words=[5], distances=[])
