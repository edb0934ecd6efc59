"""Directions of W_QK sum to the running model's scores; leading ones against a float64 oracle."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import tw_lens as tw
from tests.models import shared_bridge
from tests.zoo import zoo_bridge

PROMPT = [5, 9, 7, 30, 11, 12]
LAYER, HEAD, QUERY, KEY = 2, 1, 4, 2


def oracle(model, r: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return GPT-2's scores by the leading r directions, and its own, in float64 from `n(x)`."""
    found = {}

    def record(value, hook):
        found[hook.name] = value.detach()[0].double()

    names = [f"blocks.{LAYER}.{name}" for name in ("hook_in", "attn.hook_attn_scores")]
    with torch.no_grad():
        model.run_with_hooks(torch.tensor([PROMPT]), fwd_hooks=[(name, record) for name in names])
    x, scores = found[names[0]], found[names[1]][HEAD]
    hf = model.original_model.transformer.h[LAYER]
    gain, d = hf.ln_1.weight.detach().double(), x.shape[-1]
    centred = x - x.mean(-1, keepdim=True)
    y = centred / (centred.square().mean(-1, keepdim=True) + hf.ln_1.eps).sqrt()
    W = hf.attn.c_attn.weight.detach().double()
    d_head = d // model.cfg.n_heads
    rows = slice(HEAD * d_head, (HEAD + 1) * d_head)
    P = torch.eye(d).double() - 1 / d
    A_Q, A_K = (
        P @ (gain[:, None] * W[:, :d][:, rows]),
        P @ (gain[:, None] * W[:, d : 2 * d][:, rows]),
    )
    U, S, V = torch.linalg.svd(A_Q @ A_K.T)
    leading = y @ U[:, :r] * S[:r] @ V[:r] @ y.T / d_head**0.5
    return leading, scores


def above_mean(scores: torch.Tensor) -> torch.Tensor:
    """Return causal scores less the mean of each query's keys."""
    sees = torch.ones_like(scores).tril()
    return (scores - (scores * sees).sum(-1, keepdim=True) / sees.sum(-1, keepdim=True)) * sees


@pytest.mark.parametrize("r", [1, 4, 12])
def test_leading_directions_of_gpt2_against_an_oracle(r: int):
    model = shared_bridge("gpt2")
    weights, states = tw.read_weights(model), tw.read_states(model, PROMPT)
    result = tw.score_directions(weights, states, layer=LAYER, head=HEAD, query=QUERY, key=KEY)
    leading, scores = (above_mean(found) for found in oracle(model, r))
    assert float(result.score[r - 1]) == pytest.approx(float(leading[QUERY, KEY]), rel=1e-3)
    assert result.total == pytest.approx(float(scores[QUERY, KEY]), rel=1e-4)
    explained = 1 - float((scores - leading).square().sum() / scores.square().sum())
    assert float(result.explained[r - 1]) == pytest.approx(explained, abs=1e-3)


@pytest.mark.parametrize("kind", ["gpt2", "neox", "llama", "gemma", "mistral", "qwen2"])
def test_directions_constants_and_positions_sum_to_the_score(kind: str):
    model = shared_bridge(kind)
    weights, states = tw.read_weights(model), tw.read_states(model, PROMPT)
    result = tw.score_directions(weights, states, layer=LAYER, head=HEAD, query=QUERY)
    attributed = tw.score_attribution(weights, states, layer=LAYER, head=HEAD, query=QUERY)
    whole = float(result.score[-1]) + result.constant + result.position_bias
    assert whole == pytest.approx(result.total, abs=1e-4) and result.error < 1e-5
    assert result.total == pytest.approx(attributed.total, abs=1e-5)
    # every rotated basis spans the same two spaces
    assert result.rotated_score[:, -1].tolist() == pytest.approx(
        [float(result.score[-1])] * len(result.rotated_score), abs=1e-4
    )
    assert not torch.allclose(result.rotated_score[:, 0], result.score[0], atol=1e-3)


@pytest.mark.parametrize("architecture", ["Qwen3ForCausalLM", "DeepseekV3ForCausalLM"])
def test_divisors_of_whole_vectors_are_named(architecture: str):
    model = zoo_bridge(architecture)
    weights, states = tw.read_weights(model), tw.read_states(model, PROMPT)
    result = tw.score_directions(weights, states, layer=1, head=1)
    assert result.error < 1e-5 and "fixed divisors" in {own.name for own in result.caveats}


def test_a_head_of_one_direction_is_explained_by_it():
    """A planted W_QK of rank 1, without constants: one direction explains all."""
    model = shared_bridge("llama")
    weights, states = tw.read_weights(model), tw.read_states(model, PROMPT)
    block = weights.block(LAYER)
    rank_one = torch.zeros_like(block.W_K)
    rank_one[..., 3] = block.W_K[..., 3]
    planted = replace(
        block, W_K=rank_one,
        attention_scores=replace(block.attention_scores, rotary=None),
    )  # fmt: skip
    alone = replace(weights, read_block=lambda layer: planted)
    result = tw.score_directions(alone, states, layer=LAYER, head=HEAD)
    assert result.explained.tolist() == pytest.approx([1.0] * len(result.explained), abs=1e-4)
    assert float(result.rotated_explained[:, 0].mean()) < 0.9


def test_the_headline_tells_both_shares():
    model = shared_bridge("llama")
    weights, states = tw.read_weights(model), tw.read_states(model, PROMPT)
    result = tw.score_directions(weights, states, layer=LAYER, head=HEAD, rotations=3)
    r = min(5, len(result.explained))
    for share in (result.explained[r - 1], result.rotated_explained[:, r - 1].mean()):
        assert f"{100 * float(share):.0f} %" in result.headline()
    table = result.to_dataframe()
    assert table.explained.tolist() == pytest.approx(result.explained.tolist())
    assert table.rotated_explained.tolist() == pytest.approx(
        result.rotated_explained.mean(0).tolist()
    )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"key": 1}, ValueError, "needs query="),
        ({"query": 1, "key": 3}, ValueError, "does not see the key at position 3"),
        ({"rotations": 0}, ValueError, "rotations must be at least 1"),
        ({"head": 12}, IndexError, "head 12"),
    ],
)
def test_bad_input(options: dict, error: type, message: str):
    model = shared_bridge("gpt2")
    weights, states = tw.read_weights(model), tw.read_states(model, PROMPT)
    with pytest.raises(error, match=message):
        tw.score_directions(weights, states, **{"layer": LAYER, "head": HEAD, **options})
