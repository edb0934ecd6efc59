"""Seeds: every draw follows the seed of its call, and prompts do not share their draws."""

import pytest
import torch

import tw_lens as tw
from tests.models import golden_bridge, shared_bridge
from tests.planted import planted
from tw_lens.studies import Estimate
from tw_lens.studies.prompts import seeded_generator

G = torch.Generator().manual_seed(2)
PROMPTS = [torch.randint(5, 40, (n,), generator=G).tolist() for n in (5, 4, 7, 4, 6, 5, 4)]
ONE = [5, 6, 7, 8, 9, 10, 11]
SEEDS = (4, 4, 5)


def differs(one: torch.Tensor, other: torch.Tensor) -> bool:
    return not torch.equal(one.nan_to_num(), other.nan_to_num())


def width(estimate: Estimate, *index: int) -> float:
    """Return the widest of some intervals."""
    return float((estimate.high[index] - estimate.low[index]).nan_to_num().max())


def test_a_generator_follows_its_name_its_seed_and_its_prompt():
    keys = [("model", 1, 2), ("random steps", 1, 2), ("model", 2, 2), ("model", 1, 3)]
    draws = {float(torch.rand((), generator=seeded_generator(*key)).double()) for key in keys * 2}
    assert len(draws) == len(keys)


def test_controls_and_intervals_of_trajectories_follow_the_seed():
    one, again, other = (tw.trajectory_statistics(golden_bridge(), PROMPTS, seed=s) for s in SEEDS)
    for i, source in enumerate(one.sources):
        assert not differs(one.mean.value[i], again.mean.value[i]), source
        assert not differs(one.mean.low[i], again.mean.low[i]), source
        assert differs(one.mean.value[i], other.mean.value[i]) == (source != "model"), source
    assert differs(one.mean.low[0], other.mean.low[0])
    assert differs(one.mean.high[0], other.mean.high[0])


def test_other_tokens_follow_the_seed():
    one, again, other = (
        tw.trajectory_alignment(golden_bridge(), PROMPTS, controls=[], seed=s) for s in SEEDS
    )
    assert not differs(one.angle.value, again.angle.value)
    changed = [differs(a, b) for a, b in zip(one.angle.value, other.angle.value, strict=True)]
    assert dict(zip(one.sources, changed, strict=True)) == {
        "model": False, "another word": True, "two words away": False,
    }  # fmt: skip


def test_equal_prompts_have_draws_of_their_own():
    """The interval over equal prompts is a point, except where each draws for itself."""
    statistics = tw.trajectory_statistics(golden_bridge(), [ONE] * 4)
    wide = [width(statistics.mean, i) > 1e-3 for i in range(len(statistics.sources))]
    assert dict(zip(statistics.sources, wide, strict=True)) == {
        "model": False, "shuffled layers": True, "random steps": True, "permuted weights": False,
    }  # fmt: skip
    alignment = tw.trajectory_alignment(golden_bridge(), [ONE] * 4, controls=[])
    wide = [width(alignment.angle, i) > 1e-3 for i in range(len(alignment.sources))]
    assert wide == [False, True, False]


def test_prompts_are_resampled_apart():
    """With one draw for all, every resampled mean would be the mean itself."""
    statistics = tw.trajectory_statistics(golden_bridge(), PROMPTS, controls=[])
    assert width(statistics.mean, 0) > 1e-3
    options = {"layer": 1, "head": 2, "circuit": "OV", "directions": [0]}
    ablation = tw.direction_ablation(shared_bridge("gpt2"), PROMPTS, **options)
    assert width(ablation.effect, 0) > 1e-6


def test_random_pieces_of_an_ablation_follow_the_seed_and_the_prompt():
    model, options = shared_bridge("gpt2"), {"layer": 1, "head": 2, "circuit": "OV"}
    one, again, other = (
        tw.direction_ablation(model, PROMPTS, directions=[0], seed=s, **options) for s in SEEDS
    )
    assert not differs(one.effect.low, again.effect.low)
    assert not differs(one.effect.value[0], other.effect.value[0])
    assert differs(one.effect.value[1], other.effect.value[1])
    assert differs(one.effect.low[0], other.effect.low[0])
    equal = tw.direction_ablation(model, [ONE] * 4, directions=[0], **options).effect
    size = float(equal.value.nan_to_num().abs().max())
    assert width(equal, 0) < 1e-9 * size and width(equal, 1) > 1e-4 * size


def test_the_floor_of_faithfulness_follows_the_seed():
    model = golden_bridge()
    vocabulary = tw.layer_vocabulary(model, source="embedding")
    one, again, other = (
        tw.faithfulness(model, PROMPTS, vocabulary=vocabulary, layers=[0], seed=s).of_heads
        for s in SEEDS
    )
    assert not differs(one.floor.value, again.floor.value)
    assert differs(one.floor.value, other.floor.value)
    assert not differs(one.correlation.value, other.correlation.value)
    assert differs(one.correlation.low, other.correlation.low)


def test_random_pairs_of_direction_examples_follow_the_seed():
    options = {"layer": 1, "head": 2, "direction": 0, "n_examples": 3}
    one, again, other = (
        tw.direction_examples(golden_bridge(), PROMPTS, seed=s, **options).random_ranks
        for s in SEEDS
    )
    for side in range(2):
        assert not differs(one[side], again[side])
        assert differs(one[side], other[side])


@pytest.mark.parametrize(
    ("call", "drawn", "fixed"),
    [
        (lambda w, s: tw.direction_association(w, n=6, n_permutations=199, seed=s),
         lambda r: r.p_head, lambda r: r.association),
        (lambda w, s: tw.direction_degeneracy(w, layer=0, n=3, seed=s),
         lambda r: r.perturbation_norm, lambda r: r.singular_value),
        *(
            (lambda w, s, null=null: tw.direction_coherence(
                w, n=3, n_null=99, n_null_within=99, nulls=[null], seed=s
             ), lambda r: r.p, lambda r: r.value)
            for null in ("isotropic", "vocabulary", "within head")
        ),
    ],
    ids=["re-pairings", "perturbations", "isotropic", "vocabulary", "within head"],
)  # fmt: skip
def test_nulls_of_directions_follow_the_seed(call, drawn, fixed):
    weights = planted(1)
    one, again, other = (call(weights, s) for s in SEEDS)
    assert not differs(drawn(one), drawn(again))
    assert differs(drawn(one), drawn(other))
    assert not differs(fixed(one), fixed(other))


def test_the_words_of_a_projection_follow_the_seed():
    model = golden_bridge()
    weights, states = tw.read_weights(model), tw.read_states(model, ONE)
    one, again, other = (
        tw.fit_projection(weights, states, n_words=20, n_components=2, seed=s).word_index
        for s in SEEDS
    )
    assert one == again != other
