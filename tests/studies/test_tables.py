"""Tables and headlines say what the tensors hold: every value, interval and count, by hand."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest
import torch

import tw_lens as tw
from tests.models import shared_bridge
from tests.planted import planted
from tests.zoo import zoo_bridge
from tw_lens.canonical import AttentionOutput
from tw_lens.geometry import measure_path
from tw_lens.studies import ABLATION_MEASURES, Estimate
from tw_lens.studies.ablation_pieces import N_ROUNDINGS, half_step, rounding_kl
from tw_lens.studies.ablation_sets import set_label
from tw_lens.studies.bootstrap import BootstrapSums, estimate

PROMPTS = [[*range(5 + i, 13 + i)] for i in range(6)]


@pytest.fixture(scope="module")
def ablation():
    return tw.direction_ablation(
        shared_bridge("gpt2"), PROMPTS, layer=1, head=2, directions=[0, 3, (1, 2)], n_random=3
    )


def test_every_number_of_the_ablation_table(ablation):
    table = ablation.to_dataframe()
    assert len(table) == 3 * len(ABLATION_MEASURES)
    for row_number, row in table.iterrows():
        i, m = divmod(row_number, len(ABLATION_MEASURES))
        assert row.directions == ("0", "3", "1+2")[i] and row.measure == ABLATION_MEASURES[m]
        for names, estimated, index in (
            (("value", "low", "high"), ablation.effect, (0, i, m)),
            (("random", "random_low", "random_high"), ablation.effect, (1, i, m)),
            (("difference", "difference_low", "difference_high"), ablation.difference, (i, m)),
        ):
            expected = torch.stack([part[index] for part in estimated]).tolist()
            assert row[list(names)].tolist() == pytest.approx(expected, nan_ok=True)
        assert row.energy == pytest.approx(float(ablation.energy[i]))
    assert table.value.tolist() != table.random.tolist()


def test_the_ablation_headline_counts_the_sets_above_random_pieces(ablation):
    kl = ABLATION_MEASURES.index("kl")
    shape = ablation.difference.value.shape
    low = torch.full(shape, -1.0)
    high = torch.full(shape, 1.0)
    low[1, kl] = 0.5  # one set above, one level, one below
    high[2, kl] = -0.5
    value = ablation.effect.value.clone()
    value[0, :, kl] = torch.tensor([0.25, 0.75, 0.5])
    value[1, :, kl] = torch.tensor([9.0, 9.0, 9.0])
    ends = Estimate(value, value - 0.125, value + 0.125)
    result = replace(ablation, effect=ends, difference=Estimate(low + 0.5, low, high))
    text = result.headline()
    assert "to ablate 3 changes the next token most, KL 0.75 [0.62, 0.88] nats" in text
    assert "1 of 3 change it more" in text


def test_the_attribution_headline_counts_layers_and_gives_the_share_in_percent():
    model = shared_bridge("gpt2")
    result = tw.trajectory_attribution(tw.read_weights(model), tw.read_states(model, PROMPTS[0]))
    n_layers, n_components = result.share.shape[:2] if result.share.ndim > 1 else (0, 0)
    assert n_layers == 3 and len(result.components) != n_layers and n_components
    grown = replace(result, share=2 * result.share)  # so that one percent more shows
    top = float(grown.mean_share().nan_to_num(-9).max())
    assert f"({100 * top:.0f} % of its step)" in grown.headline() and top > 0.7
    top = top / 2
    assert f": 3 layers, {len(result.components)} components;" in result.headline()
    assert f"({100 * top:.0f} % of its step)" in result.headline()


@pytest.mark.parametrize(
    ("members", "label"),
    [((), "none"), ((4,), "4"), ((0, 1, 2), "0+1+2"), ((2, 3, 4, 5), "2 to 5"),
     ((2, 3, 4, 6), "2+3+4+6"), ((5, 4, 3, 2), "5+4+3+2")],
)  # fmt: skip
def test_labels_of_sets(members: tuple[int, ...], label: str):
    assert set_label(members) == label


def test_an_estimate_of_nothing_has_three_parts_of_its_shape():
    parts = estimate(torch.zeros(5, 0, 2))
    assert [part.shape for part in parts] == [(0, 2)] * 3
    resampled = torch.arange(41.0)[:, None]
    value, low, high = estimate(resampled)
    assert (float(value), float(low), float(high)) == pytest.approx((0, 1.975, 39.025))


def test_rounding_changes_entries_by_half_a_step_in_both_directions(monkeypatch):
    model = shared_bridge("gpt2")
    weights = tw.read_weights(model)
    block, tokens = weights.block(1), torch.tensor(PROMPTS[0])
    x = tw.read_states(model, PROMPTS[0]).stream[1]
    changes = []
    import tw_lens.studies.ablation_pieces as pieces

    def record(_model, _block, _tokens, _x, change):
        changes.append(change)
        return real(_model, _block, _tokens, _x, change)

    real = pieces.run_with_head_change
    monkeypatch.setattr(pieces, "run_with_head_change", record)
    rounding_kl(model, block, tokens, x)
    (change,) = changes
    output = block.head_outputs(block.attention_pattern(x), block.values(x), x).sum(0) + block.b_O
    assert len(change) == 1 + N_ROUNDINGS and not change[0].any()
    signs = change[1:] / (half_step(model) * output)
    assert torch.allclose(signs.abs(), torch.ones_like(signs), atol=1e-4)
    assert abs(float(signs.mean())) < 0.1


def test_the_multiplier_of_an_attention_output_is_one_unless_given():
    x = torch.randn(3, 8)
    assert torch.equal(AttentionOutput().written(x), x)


def test_results_weights_and_states_are_frozen():
    model = shared_bridge("gpt2")
    weights, states = tw.read_weights(model), tw.read_states(model, PROMPTS[0])
    vocabulary = tw.layer_vocabulary(model, source="embedding")
    faithful = tw.faithfulness(model, PROMPTS, vocabulary=vocabulary)
    for held, name in (
        (weights, "model_name"), (states, "tokens"), (vocabulary, "source"), (faithful, "n_seen"),
        (weights.block(0), "layer"), (weights.block(0).norm, "eps"), (weights.readout, "scale"),
    ):  # fmt: skip
        with pytest.raises(FrozenInstanceError):
            setattr(held, name, 0)


def test_lists_of_two_tokens_have_a_null_and_lists_of_one_have_none():
    weights = tw.read_weights(shared_bridge("gpt2"))
    one, two = (tw.head_probe(weights, layer=0, words=[5], k=k).lists.null for k in (1, 2))
    assert one is None and two is not None


def test_alibi_is_scored_by_distance_and_negative_distances_are_refused():
    weights = tw.read_weights(zoo_bridge("BloomForCausalLM"))
    scores = tw.head_score_by_distance(weights, layer=0, words=[5, 6], distances=[0, 3])
    falls = scores.mean[:, 0] - scores.mean[:, 1]
    slopes = weights.block(0).attention_scores.slopes
    assert torch.allclose(falls, 3 * slopes, atol=1e-4)
    with pytest.raises(ValueError, match="does not rotate"):
        tw.head_score_by_distance(weights, layer=0, words=[5, 6], distances=[-1])


def test_a_path_that_does_not_move_has_angles_of_zero():
    measures = measure_path(torch.ones(4, 2, 3))
    assert not measures.step_angle[:-1].any() and measures.step_angle[-1].isnan().all()


def test_the_difference_is_that_of_the_directions_and_their_random_pieces(ablation):
    directions, random_pieces = ablation.effect.value
    known = ~directions.isnan()
    difference = (directions - random_pieces)[known]
    assert torch.allclose(ablation.difference.value[known], difference, rtol=1e-4, atol=1e-7)
    assert difference.any()


def test_differences_in_the_alignment_table_are_those_of_its_row():
    result = tw.trajectory_alignment(
        shared_bridge("gpt2"), PROMPTS, controls=["permuted weights", "random steps"]
    )
    table = result.summary()
    rows = table[table.quantity.isin(["fall", "trend"]) & (table.source != "model")]
    assert len(rows.source.unique()) > 2
    for row in rows.itertuples():
        own = table[
            (table.quantity == row.quantity) & (table.target == row.target)
            & (table.place == row.place) & (table.source == "model")
        ]  # fmt: skip
        if own.empty or row.value != row.value:
            continue
        assert row.difference == pytest.approx(float(own.value.iloc[0]) - row.value, abs=1e-5)


def test_positions_of_examples_are_counted_without_the_first_ones():
    result = tw.direction_examples(
        shared_bridge("gpt2"), PROMPTS, layer=1, head=0, first_position=3, context=1
    )
    assert result.n_positions == len(PROMPTS) * (len(PROMPTS[0]) - 3)


def test_a_direction_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(IndexError, match="directions 0 to 11"):
        tw.direction_examples(shared_bridge("gpt2"), PROMPTS, layer=1, head=0, direction=12)


def test_mean_shares_leave_out_position_0_if_there_are_others():
    model = shared_bridge("gpt2")
    weights = tw.read_weights(model)
    for tokens in ([5, 6], [5, 6, 7, 8], [5]):
        result = tw.trajectory_attribution(weights, tw.read_states(model, tokens))
        share = result.share[:, :, 1:] if len(tokens) > 1 else result.share
        assert torch.allclose(result.mean_share(), share.nanmean(-1), equal_nan=True)


def test_the_deviation_of_states_is_that_of_the_values():
    sums = BootstrapSums.empty(2)
    values = torch.tensor([[1.0, 2.0, 4.0], [3.0, 3.5, float("nan")]])
    sums.add(values, seed=0, number=0)
    expected = [float(values[0].std(correction=0)), float(values[1, :2].std(correction=0))]
    assert sums.std().tolist() == pytest.approx(expected) and min(expected) < 1


def test_streams_are_not_multiplied_unless_a_model_does():
    weights = tw.read_weights(shared_bridge("gpt2"))
    assert weights.block(0).stream_scale == 1 and planted(0).block(0).stream_scale == 1
