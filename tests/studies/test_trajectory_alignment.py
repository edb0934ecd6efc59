"""Trajectory alignment, against float64 loops from transformers' own hidden states."""

import math

import numpy as np
import pytest
import torch

import tw_lens as tw
from tests.models import golden_bridge, shared_bridge
from tw_lens.studies.baseline_positions import allowed_positions, position_two_away, random_position
from tw_lens.studies.prompts import seeded_generator

PROMPTS = [[5, 6, 7, 8, 9], [8, 9, 10], [10, 11, 12, 13, 14, 15, 16], [3, 2, 1, 0]]


def angle(a, b) -> float:
    return math.acos(max(-1.0, min(1.0, float(a @ b / a.norm() / b.norm()))))


def angles_by_hand(model, prompt, others=None) -> torch.Tensor:
    """Return the angles `[targets, places, layers, position]`, NaN where there is none.

    `others[t]` is the position that replaces the successor of t and the last one; -1 for none.
    """
    hf, entered = model.original_model, []
    norm, U = hf.transformer.ln_f, hf.lm_head.weight.detach().double()
    hook = norm.register_forward_pre_hook(lambda _, given: entered.append(given[0]))
    with torch.no_grad():
        hidden = hf(torch.tensor([prompt]), output_hidden_states=True).hidden_states
    hook.remove()
    x = torch.stack([*hidden[:-1], entered[0]])[:, 0].detach().double()
    y = x - x.mean(-1, keepdim=True)
    made = torch.full((3, 2, len(y), len(prompt)), math.nan, dtype=torch.float64)
    for t in range(1, len(prompt) - 1):
        last, successor = (len(prompt) - 1, t + 1) if others is None else (others[t],) * 2
        if successor < 0:
            continue
        direction = U[prompt[successor]] * norm.weight.detach().double()
        direction = direction - direction.mean()
        for layer, states in enumerate(y):
            targets = (states[last], states[successor], direction)
            for i, target in enumerate(targets):
                made[i, int(t == len(prompt) - 2), layer, t] = angle(states[t], target)
    return made


def two_away_by_hand(prompt) -> list[int]:
    def fits(here, there):
        inside = 1 <= there < len(prompt) - 1 and there != here + 1
        return inside and prompt[there] != prompt[min(here + 1, len(prompt) - 1)]

    return [
        next((there for there in (t + 2, t - 2) if fits(t, there)), -1) for t in range(len(prompt))
    ]


@pytest.fixture(scope="module")
def result_and_angles_by_hand():
    """A study, and for each source the angles of every prompt by hand."""
    model, seed = golden_bridge(), 3
    prompts = [*PROMPTS, [4, 6, 5, 8, 5, 9, 4], [7, 11, 11, 12, 30], [2, 40, 41, 42, 43, 44]]
    permuted = tw.permute_weights(model, seed=seed)
    drawn = [
        random_position(torch.tensor(p), 1, seeded_generator("model", seed, number)).tolist()
        for number, p in enumerate(prompts)
    ]
    by_hand = {
        "model": [angles_by_hand(model, p) for p in prompts],
        "another word": [angles_by_hand(model, p, o) for p, o in zip(prompts, drawn, strict=True)],
        "two words away": [angles_by_hand(model, p, two_away_by_hand(p)) for p in prompts],
        "permuted weights": [angles_by_hand(permuted, p) for p in prompts],
    }
    result = tw.trajectory_alignment(model, prompts, controls=["permuted weights"], seed=seed)
    assert result.sources == tuple(by_hand)
    return result, list(by_hand.values()), seed


def test_angles_by_hand_from_transformers_hidden_states(result_and_angles_by_hand):
    result, by_hand, _ = result_and_angles_by_hand
    expected = torch.stack([torch.cat(angles, -1).nanmean(-1) for angles in by_hand])
    assert torch.allclose(result.angle.value, expected, atol=1e-4)


def test_every_interval_is_that_of_its_own_summary(result_and_angles_by_hand):
    """Fall, trend and their differences, resampled by hand with the prompts' Poisson draws."""
    result, by_hand, seed = result_and_angles_by_hand
    draws = [np.random.default_rng([seed, n]).poisson(1.0, 1000) for n in range(len(by_hand[0]))]
    times = torch.from_numpy(np.stack(draws)).double()
    totals = torch.stack([torch.stack([a.nansum(-1) for a in angles]) for angles in by_hand])
    counts = torch.stack(
        [torch.stack([(~a.isnan()).sum(-1) for a in angles]) for angles in by_hand]
    )
    means = torch.einsum("nr,snabl->rsabl", times, totals)
    means = means / torch.einsum("nr,snabl->rsabl", times, counts.double())
    layers = np.arange(means.shape[-1])
    slopes = np.polyfit(layers, means.flatten(0, -2).nan_to_num().T.numpy(), 1)[0]
    trend = torch.from_numpy(-layers[-1] * slopes).view(means.shape[:-1])
    known = ~means.isnan().any(-1)
    fall, trend = means[..., 0] - means[..., -1], trend.where(known, math.nan)
    for estimate, resampled in (
        (result.angle, means),
        (result.fall, fall),
        (result.trend, trend),
        (result.fall_difference, fall[:, :1] - fall[:, 1:]),
        (result.trend_difference, trend[:, :1] - trend[:, 1:]),
    ):
        low, high = resampled.nanquantile(torch.tensor([0.025, 0.975]).double(), dim=0)
        assert torch.allclose(estimate.low, low, atol=2e-4)
        assert torch.allclose(estimate.high, high, atol=2e-4)


def test_the_trend_of_a_straight_fall_is_the_fall():
    from tw_lens.studies.trajectory_alignment import _trend

    angles = torch.linspace(1.5, 0.5, 11, dtype=torch.float64)
    assert float(_trend(angles)) == pytest.approx(1.0)
    assert float(_trend(angles.flip(0))) == pytest.approx(-1.0)
    assert float(_trend(torch.ones(11, dtype=torch.float64))) == pytest.approx(0.0, abs=1e-12)


def test_shuffled_layers_are_a_control_of_the_trend_only():
    result = tw.trajectory_alignment(shared_bridge("gpt2"), PROMPTS)
    summary = result.summary()
    fall = summary[summary.quantity == "fall"]
    assert set(fall.source) == {
        "model", "another word", "two words away", "random steps", "permuted weights",
    }  # fmt: skip
    assert "shuffled layers" in set(summary[summary.quantity == "trend"].source)
    index = result.sources.index("shuffled layers")
    assert torch.allclose(result.fall.value[index], result.fall.value[0], atol=1e-5)


def test_another_word_is_never_the_successor_nor_its_token():
    tokens = torch.tensor([0, 5, 6, 5, 7, 8, 9])
    fits = allowed_positions(tokens, 1)
    for here in range(len(tokens)):
        for there in range(len(tokens)):
            same = here + 1 < len(tokens) and tokens[there] == tokens[here + 1]
            expected = there >= 1 and there not in (here, here + 1, 6) and not same
            if here + 1 < len(tokens):
                assert bool(fits[here, there]) == bool(expected), (here, there)
    samples = torch.stack(
        [random_position(tokens, 1, torch.Generator().manual_seed(seed)) for seed in range(200)]
    )
    for here in range(1, 6):
        possible = set(fits[here].nonzero()[:, 0].tolist())
        assert set(samples[:, here].tolist()) == possible  # every one that fits, and none else
    assert random_position(torch.tensor([0, 5]), 1, torch.Generator()).tolist() == [-1, -1]


def test_the_word_two_away_is_the_one_after_next_where_it_is_allowed():
    generator = torch.Generator()
    # the last is nobody's other; position 0 is left out; 5 stands where 5 follows
    assert position_two_away(torch.tensor([0, 5, 6, 7, 8, 9, 4]), 1, generator).tolist()[1:6] == [
        3,
        4,
        5,
        2,
        3,
    ]
    assert position_two_away(torch.tensor([0, 5, 6, 5, 7, 8, 9]), 1, generator).tolist()[2:5] == [
        4,
        5,
        2,
    ]
    assert position_two_away(torch.tensor([0, 6, 5, 8, 5, 9, 4]), 1, generator)[1] == 3
    assert position_two_away(torch.tensor([0, 6, 5, 5, 7, 9, 4]), 1, generator)[1] == -1
    assert position_two_away(torch.tensor([0, 5, 6]), 1, generator).tolist() == [-1, -1, -1]


def sentence_for(result, low: float, high: float, difference: float) -> str:
    """Return the sentence for a given fall of the model and given differences from controls."""
    from dataclasses import replace

    def filled(estimate, value, low, high):
        return type(estimate)(*(torch.full_like(estimate.value, v) for v in (value, low, high)))

    return replace(
        result,
        fall=filled(result.fall, (low + high) / 2, low, high),
        fall_difference=filled(
            result.fall_difference, difference, difference - 0.1, difference + 0.1
        ),
        trend_difference=filled(
            result.trend_difference, difference, difference - 0.1, difference + 0.1
        ),
    ).claim("next state", "middle")


def test_a_claim_is_no_stronger_than_its_intervals():
    result = tw.trajectory_alignment(golden_bridge(), PROMPTS, controls=["random steps"])
    assert sentence_for(result, 0.2, 0.4, 0.5).endswith(
        "falls by 0.30 [0.20, 0.40] rad, above control"
    )
    for low, high, text in (
        (-0.4, -0.2, "rises by 0.30 [0.20, 0.40] rad"),
        (-0.1, 0.2, "does not change for certain"),
    ):  # a difference from controls that rise is not an alignment
        sentence = sentence_for(result, low, high, 0.5)
        assert text in sentence and sentence.endswith(
            ", no certain fall to compare with the controls"
        )
    unmeasured = sentence_for(result, math.nan, math.nan, 0.5)
    assert unmeasured.endswith("next state is not measured (no prompt is long enough)")
    for difference in (0.05, -0.5):
        text = sentence_for(result, 0.2, 0.4, difference)
        assert "not above control: another word (fall), two words away (fall), random" in text


def test_caveats_name_what_the_intervals_leave_out():
    names = {caveat.name for caveat in tw.trajectory_alignment(golden_bridge(), PROMPTS).caveats}
    assert names >= {"positions", "intervals", "one permutation", "both move"}
    statistics = tw.trajectory_statistics(
        golden_bridge(), PROMPTS, controls=["random steps"]
    ).caveats
    assert not {"one permutation", "both move"} & {caveat.name for caveat in statistics}
