"""Parts of a score sum to the model's own, and removing a part changes it by what was said."""

from __future__ import annotations

import pytest
import torch

import tw_lens as tw
from tests.models import golden_bridge, shared_bridge
from tests.zoo import zoo_bridge
from tw_lens.analyses.score_attribution import parts_of_all_pairs
from tw_lens.analyses.step_parts import BIASES

PROMPT = [5, 9, 7, 30, 11, 12]
LAYER, HEAD, QUERY, KEY = 2, 1, 4, 2


def own_scores(model, hooks=()) -> torch.Tensor:
    """Return the running model's scores before the mask."""
    found = {}

    def record(value, hook):
        found["scores"] = value.detach()

    name = f"blocks.{LAYER}.attn.hook_attn_scores"
    with torch.no_grad():
        model.run_with_hooks(torch.tensor([PROMPT]), fwd_hooks=[*hooks, (name, record)])
    return found["scores"][0].double()


@pytest.mark.parametrize("kind", ["gpt2", "neox", "llama", "gemma", "mistral", "qwen2"])
def test_parts_sum_to_the_models_own_score(kind: str):
    model = shared_bridge(kind)
    weights, states = tw.read_weights(model), tw.read_states(model, PROMPT)
    scores = own_scores(model)[HEAD]
    size = float(scores[torch.ones_like(scores).tril().bool()].abs().max())
    one = tw.score_attribution(weights, states, layer=LAYER, head=HEAD, query=QUERY, key=KEY)
    expected = float(scores[QUERY, KEY] - scores[QUERY, : QUERY + 1].mean())
    assert one.total == pytest.approx(expected, abs=1e-5 * size) and one.error < 1e-5
    assert float(one.matrix.sum()) == pytest.approx(one.total, abs=1e-5 * size)
    plain = tw.score_attribution(
        weights, states, layer=LAYER, head=HEAD, query=QUERY, key=KEY, relative=False
    )
    assert plain.total == pytest.approx(float(scores[QUERY, KEY]), abs=1e-5 * size)
    rows = [scores[i, : i + 1] for i in range(len(PROMPT))]
    weighted = [float((row.softmax(-1) * row).sum() - row.mean()) for row in rows]
    row = tw.score_attribution(weights, states, layer=LAYER, head=HEAD, query=QUERY)
    assert row.total == pytest.approx(weighted[QUERY], abs=1e-5 * size)
    text = tw.score_attribution(weights, states, layer=LAYER, head=HEAD)
    assert text.total == pytest.approx(sum(weighted) / len(weighted), abs=1e-5 * size)
    assert float(text.matrix.sum()) == pytest.approx(text.total, abs=1e-5 * size)
    assert {"embedding", BIASES, "L0H0", "L1 MLP"} <= set(text.parts)
    assert ("position" in text.parts) == (kind == "gpt2")


@pytest.mark.parametrize("kind", ["gpt2", "neox", "llama"])
@pytest.mark.parametrize("part", ["embedding", "L0H1", "L1 MLP"])
def test_removing_a_part_changes_the_score_by_what_was_said(kind: str, part: str):
    """The part is subtracted behind the norm, with the divisor of the whole state."""
    model = shared_bridge(kind)
    weights, states = tw.read_weights(model), tw.read_states(model, PROMPT)
    result = tw.score_attribution(
        weights, states, layer=LAYER, head=HEAD, query=QUERY, key=KEY, relative=False
    )
    index = result.parts.index(part)
    x, block = states.stream[LAYER], weights.block(LAYER)
    if part == "embedding":
        removed = states.stream[0].clone()
        removed -= 0 if weights.positions is None else weights.positions[: len(PROMPT)]
    elif part == "L1 MLP":
        removed = states.mlp_out[1]
    else:
        earlier = weights.block(0)
        x0 = states.stream[0]
        pattern = earlier.attention_pattern(x0)
        removed = earlier.head_outputs(pattern, earlier.values(x0), x0)[1]
    normalised = block.norm.linear_at(x)(removed)
    before = own_scores(model)[HEAD, QUERY, KEY]
    for position, axis in ((QUERY, 1), (KEY, 0)):

        def subtract(value, hook, position=position):
            value = value.clone()
            value[0, position] -= normalised[position]
            return value

        after = own_scores(model, [(f"blocks.{LAYER}.ln1.hook_out", subtract)])[HEAD, QUERY, KEY]
        said = float(result.matrix.sum(axis)[index])
        assert float(before - after) == pytest.approx(said, rel=1e-3, abs=1e-5)
        assert abs(said) > 1e-4


@pytest.mark.parametrize("architecture", ["GPT2LMHeadModel", "Qwen3ForCausalLM", "BertForMaskedLM"])
def test_the_parts_of_all_pairs_are_those_of_each_score(architecture: str):
    model = zoo_bridge(architecture)
    weights, states = tw.read_weights(model), tw.read_states(model, PROMPT)
    names, heads = parts_of_all_pairs(weights, states, 1, 5)
    for of in heads:
        for i, j in ((4, 2), (3, 0), (1, 1)):
            single = tw.score_attribution(
                weights, states, layer=1, head=of.head, query=i, key=j, relative=True
            )
            assert names == single.parts and bool(of.sees[i, j])
            for parts, axis in ((of.by_query, 1), (of.by_key, 0)):
                assert torch.allclose(parts[i, j], single.matrix.sum(axis), atol=1e-4)
            assert float(of.score[i, j]) == pytest.approx(single.total, abs=1e-4)
    assert of.score.shape == (5, 5, 1)


def test_alibi_is_a_part_of_its_own():
    model = zoo_bridge("BloomForCausalLM")
    weights, states = tw.read_weights(model), tw.read_states(model, PROMPT)
    result = tw.score_attribution(
        weights, states, layer=1, head=1, query=QUERY, key=KEY, relative=False
    )
    slope = float(weights.block(1).attention_scores.slopes[1])
    assert result.position_bias == pytest.approx(slope * (KEY - QUERY), rel=1e-5)
    parts = float(result.matrix.sum())
    assert parts + result.position_bias == pytest.approx(result.total, abs=1e-4)


@pytest.mark.parametrize(
    ("architecture", "caveat"),
    [("Qwen3ForCausalLM", "fixed divisors"), ("Gemma2ForCausalLM", "before the soft-cap")],
)
def test_caveats(architecture: str, caveat: str):
    model = zoo_bridge(architecture)
    result = tw.score_attribution(
        tw.read_weights(model), tw.read_states(model, PROMPT), layer=1, head=0
    )
    assert caveat in {own.name for own in result.caveats} and result.error < 1e-5


def test_tables_hold_the_matrix():
    model = shared_bridge("gpt2")
    result = tw.score_attribution(
        tw.read_weights(model), tw.read_states(model, PROMPT), layer=LAYER, head=HEAD, query=QUERY
    )
    table = result.to_dataframe()
    assert len(table) == 2 * len(result.parts)
    for side, axis in (("query", 1), ("key", 0)):
        own = table[table.side == side]
        assert own.contribution.tolist() == pytest.approx(result.matrix.sum(axis).tolist())
        assert own.share.sum() == pytest.approx(1, abs=1e-3)
    pairs = result.top_pairs(3)
    first = pairs.iloc[0]
    q, k = result.parts.index(first.query_part), result.parts.index(first.key_part)
    assert abs(first.contribution) == pytest.approx(float(result.matrix.abs().max()))
    assert float(result.matrix[q, k]) == pytest.approx(first.contribution)
    assert f"the query's {first.query_part} and the key's {first.key_part}" in result.headline()
    assert len(result.plot(3).data) == 2


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"query": 9}, IndexError, "query"),
        ({"query": 3, "key": 9}, IndexError, "key"),
        ({"query": 1, "key": 3}, ValueError, "does not see the key at position 3"),
        ({"key": 1}, ValueError, "needs query="),
        ({"head": 12}, IndexError, "head 12"),
        ({"layer": 3}, IndexError, "layer 3"),
        ({"query": 0.5}, TypeError, "query must be an int"),
    ],
)
def test_bad_input(options: dict, error: type, message: str):
    model = shared_bridge("gpt2")
    weights, states = tw.read_weights(model), tw.read_states(model, PROMPT)
    with pytest.raises(error, match=message):
        tw.score_attribution(weights, states, **({"layer": 2, "head": 1} | options))
    other = tw.read_states(golden_bridge(), PROMPT)
    with pytest.raises(ValueError, match="not of the weights' model"):
        tw.score_attribution(weights, other, layer=1, head=0)
