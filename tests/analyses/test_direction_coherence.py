"""Direction coherence against loops, random weights (calibration) and planted heads (power)."""

import sys
from dataclasses import replace
from functools import lru_cache
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import kstest

import tw_lens as tw
from tests.models import shared_bridge, tiny_bridge
from tests.planted import planted
from tw_lens.analyses.conventions import EXACT
from tw_lens.analyses.direction_coherence import NULLS, benjamini_hochberg
from tw_lens.analyses.null_directions import (
    CIRCUIT_SIDES,
    READOUT_KINDS,
    NullDirections,
    readout_kind_of,
)
from tw_lens.analyses.similarity import token_similarity, word_classes
from tw_lens.geometry import (
    mean_pairwise_cosine,
    random_directions_in_span,
    random_directions_like,
    upper_p_values,
)
from tw_lens.tokens import TokenStrings

ARCHITECTURES, SEEDS = ("gpt2", "llama", "gemma"), range(6)


@lru_cache(maxsize=3)
def on_random_weights(architecture: str) -> list[tw.analyses.DirectionCoherence]:
    made = []
    for seed in SEEDS:
        weights = tw.read_weights(tiny_bridge(architecture, seed))
        made.append(tw.direction_coherence(weights, n=4, n_null_within=199, seed=seed))
    return made


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("null", ["isotropic", "within head"])
def test_p_values_are_uniform_on_random_weights(architecture: str, null: str):
    for side in (0, 1):
        p = torch.cat([c.p[0, NULLS.index(null), side] for c in on_random_weights(architecture)])
        assert kstest(p.numpy(), "uniform").pvalue > 0.01


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_random_weights_do_not_exceed_the_vocabulary_null_too_often(architecture: str):
    """Its directions lean towards the main axes of the token vectors, random weights do not.

    Their p-values are too large; those of directions with this covariance are uniform, see below.
    """
    p = torch.cat([c.p[0, 1].flatten() for c in on_random_weights(architecture)])
    assert kstest(p.numpy(), "uniform", alternative="greater").pvalue > 0.01
    assert p.mean() > 0.5


def test_p_values_are_uniform_for_directions_with_the_vocabularys_covariance():
    for circuit_side in (CIRCUIT_SIDES[0], CIRCUIT_SIDES[1], CIRCUIT_SIDES[3]):
        p_values = []
        for seed in range(4):
            weights = tw.read_weights(tiny_bridge("gpt2", seed))
            points = EXACT.points(weights, weights.block(0))
            nulls = NullDirections(weights, 5, None, [token_similarity(weights, "embedding")], seed)
            kind = readout_kind_of(circuit_side)
            rows = nulls.rows(kind, points)
            fresh = torch.Generator().manual_seed(100 + seed)
            own = nulls.similarity(random_directions_like(rows, 100, fresh), kind, points)[0]
            p_values.append(upper_p_values(own, nulls.shared(kind, points, 999)[1][0]))
        assert kstest(torch.cat(p_values).numpy(), "uniform").pvalue > 0.01


@pytest.mark.parametrize("family", ["head", "layer", "model"])
def test_corrected_false_positives_are_at_most_5_percent(family):
    for c in range(len(NULLS)):
        q = torch.cat(
            [made.q(family)[0, c].flatten() for a in ARCHITECTURES for made in on_random_weights(a)]
        )
        assert (q <= 0.05).float().mean() <= 0.05


@lru_cache(maxsize=2)
def planted_heads(repaired: bool) -> list[tuple]:
    made = []
    for seed in range(20):
        weights = planted(seed, repaired=repaired)
        made.append((tw.direction_coherence(weights, n=6), tw.direction_association(weights, n=6)))
    return made


def is_planted(entry: tuple) -> bool:
    _, head, circuit, direction = entry
    return head == 0 and circuit == "QK" and direction < 3


def test_a_planted_head_is_found():
    coherent = associated = 0
    for coherence, association in planted_heads(False):
        index = [i for i, entry in enumerate(coherence.entries) if is_planted(entry)]
        for i in index:
            assert (
                sorted(coherence.atlas.left.token_index[i] // 5 % 2) == [0] * 5
            )  # the planted tokens
        coherent += bool((coherence.q("head")[0, :2][:, :, index] <= 0.05).all())
        associated += float(association.p_head[association.heads.index((0, 0, "QK"))]) <= 0.05
    assert coherent >= 19 and associated >= 19


def test_its_sides_re_paired_are_not():
    coherent = associated = 0
    for coherence, association in planted_heads(True):
        index = [i for i, entry in enumerate(coherence.entries) if is_planted(entry)]
        coherent += bool((coherence.q("head")[0, :2][:, :, index] <= 0.05).all())
        associated += float(association.p_head[association.heads.index((0, 0, "QK"))]) <= 0.05
    assert coherent >= 19 and associated <= 1


def test_pairings_of_random_weights_are_uniform():
    p, p_other, p_same = [], [], []
    for architecture in ARCHITECTURES:
        for seed in range(3):
            sides = tw.direction_association(tw.read_weights(tiny_bridge(architecture, seed)), n=8)
            p.append(sides.p_head)
            p_other.append(sides.p_other_heads[::8])  # one direction of each head
            p_same.append(sides.p_same_head)
    assert kstest(torch.cat(p).numpy(), "uniform").pvalue > 0.01
    assert kstest(torch.cat(p_other).numpy(), "uniform").pvalue > 0.01
    counts = np.bincount((torch.cat(p_same) * 8).round().int().numpy(), minlength=9)[1:]
    assert abs(counts / counts.sum() - 1 / 8).max() < 4 * (7 / 64 / counts.sum()) ** 0.5


def test_association_is_the_mean_cosine_over_all_pairs():
    weights = planted(3)
    sides = tw.direction_association(weights, n=3)
    E = weights.vocabulary.W_E.double()
    E = torch.nn.functional.normalize(E - E.mean(0), dim=-1)
    at = sides.atlas.entries.index((0, 0, "QK", 1))
    left, right = sides.atlas.left.token_index, sides.atlas.right.token_index

    def mean(i: int, j: int) -> float:
        return float(np.mean([E[a] @ E[b] for a in left[i].tolist() for b in right[j].tolist()]))

    assert float(sides.association[at]) == pytest.approx(mean(at, at), abs=1e-5)
    others = [sides.atlas.entries.index((0, 0, "QK", j)) for j in (0, 2)]
    re = [mean(at, j) for j in others]
    assert float(sides.null_association[at]) == pytest.approx(np.mean(re), abs=1e-5)
    at_least = sum(r >= mean(at, at) for r in re)
    assert float(sides.p_same_head[at]) == pytest.approx((1 + at_least) / 3)


def test_similarity_is_the_mean_over_pairs():
    vectors = torch.randn(7, 4, 10, generator=torch.Generator().manual_seed(1))
    for row, value in zip(vectors.double(), mean_pairwise_cosine(vectors), strict=True):
        pairs = [torch.cosine_similarity(a, b, dim=0) for a, b in combinations(row, 2)]
        assert float(value) == pytest.approx(float(sum(pairs)) / 6, abs=1e-5)
    weights = tw.read_weights(shared_bridge("llama"))
    A_U = weights.readout.W_U.T.detach().double() * weights.readout.norm.gain
    words = A_U[[3, 5, 8]] - A_U.mean(0)
    expected = np.mean([float(torch.cosine_similarity(a, b, 0)) for a, b in combinations(words, 2)])
    for order in ([3, 5, 8], [8, 3, 5]):  # the same words tie whatever their order
        value = token_similarity(weights, "unembedding")(torch.tensor([order]))
        assert float(value) == pytest.approx(expected, abs=1e-5)


def test_p_values_count_ties_and_never_reach_zero():
    controls = torch.tensor([0.0, 1.0, 1.0, 2.0])
    observed = torch.tensor([3.0, 2.0, 1.0, 0.5, -1.0, torch.nan])
    p = upper_p_values(observed, controls).tolist()
    assert p[:5] == pytest.approx([1 / 5, 2 / 5, 4 / 5, 4 / 5, 1]) and np.isnan(p[5])


def test_a_list_without_a_value_is_no_test_of_its_family():
    p = torch.tensor([[0.01, torch.nan, 0.04], [0.5, 0.02, torch.nan]])
    q = benjamini_hochberg(p)
    assert torch.equal(q.isnan(), p.isnan())
    assert torch.equal(q[~p.isnan()], benjamini_hochberg(p[~p.isnan()]))
    assert benjamini_hochberg(torch.full((2,), torch.nan)).isnan().all()


def test_corrected_over_a_head_is_benjamini_and_hochbergs_step_up():
    made = tw.direction_coherence(planted(0), n=2, n_null=99)
    at = [i for i, entry in enumerate(made.entries) if entry[1] == 1]
    p = made.p[0, 0][:, at].flatten().double()
    order = p.argsort()
    steps = p[order] * len(p) / torch.arange(1, len(p) + 1)
    expected = torch.empty_like(p)
    expected[order] = steps.flip(0).cummin(0).values.flip(0).clamp(max=1)
    assert torch.allclose(made.q("head")[0, 0][:, at].flatten().double(), expected, atol=1e-6)


def test_null_directions_have_their_distributions():
    g = torch.Generator().manual_seed(0)
    scales = torch.tensor([4.0, 2.0, 1.0, 0.5])
    words = torch.randn(5000, 4, generator=g) * scales + 7
    drawn = random_directions_like(lambda: iter(words.split(1000)), 4000, g)
    like_normal = torch.nn.functional.normalize(torch.randn(4000, 4, generator=g) * scales, dim=-1)
    assert torch.allclose(drawn.T.cov(), like_normal.T.cov(), atol=0.03)
    factors = torch.randn(2, 9, 3, generator=g)
    inside = random_directions_in_span(factors, 2000, g)
    basis = torch.linalg.qr(factors.double())[0]
    projected = inside.double() @ basis
    assert torch.allclose(projected.norm(dim=-1), torch.ones(2, 2000).double(), atol=1e-5)
    assert torch.allclose(projected[1].T.cov(), torch.eye(3).double() / 3, atol=0.04)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_folding_changes_nothing(architecture: str):
    raw, processed = (
        tw.direction_coherence(
            tw.read_weights(shared_bridge(architecture, done)), n=2, measures=["embedding"]
        )
        for done in (False, True)
    )
    assert torch.allclose(raw.value, processed.value, atol=1e-4)
    assert torch.allclose(raw.null_mean[:, :2], processed.null_mean[:, :2], atol=1e-4)
    # Inside a head the basis may turn, and with it what is drawn.
    assert ((raw.p - processed.p)[:, :2].abs() < 2e-3).float().mean() > 0.99


def test_heads_that_share_a_subspace_and_filtered_tokens():
    weights = tw.read_weights(shared_bridge("gemma"))
    token_filter = tw.token_filter(weights, whole_words=False, id_band=(0, 100))
    made = tw.direction_coherence(
        weights, layers=[2, 0], n=2, k=3, token_filter=token_filter, n_null=50, n_null_within=20
    )
    assert [entry[0] for entry in made.entries[:: 4 * weights.n_heads]] == [2, 0]
    assert made.atlas.left.token_index.max() < 100
    assert len(made.to_dataframe()) == 2 * weights.n_heads * 2 * 2 * 2 * 3


def test_word_classes_are_the_dictionarys():
    pytest.importorskip("lemminflect")
    words = ["run", " dog", "slowly", "xqz", "bird", "##"]

    def spelled(ids: list[int], **_: object) -> str:
        return words[ids[0]] if ids[0] < len(words) else "!"

    weights = tw.read_weights(shared_bridge("gpt2"))
    tokens = TokenStrings(SimpleNamespace(convert_ids_to_tokens=str, decode=spelled), 997)
    weights = replace(weights, tokens=tokens)
    classes = word_classes(weights)
    assert (classes[0] & classes[1]).any() and not (classes[1] & classes[2]).any()
    assert not classes[3:6:2].any()
    known = classes.any(-1).sum()
    bits = [-(classes[:, c].sum() / known).log2() for c in range(classes.shape[1])]

    def pair(a: int, b: int) -> float:
        return max(
            [float(bit) for c, bit in enumerate(bits) if classes[a, c] and classes[b, c]] or [0]
        )

    values = token_similarity(weights, "word class")(
        torch.tensor([[0, 1, 4], [1, 2, 3], [3, 5, 3]])
    )
    expected = [np.mean([pair(0, 1), pair(0, 4), pair(1, 4)]), 0, 0]
    assert values.tolist() == pytest.approx(expected, abs=1e-6) and expected[0] > 0


def test_measures_that_cannot_be_computed_are_rejected(monkeypatch):
    tied, untied = tw.read_weights(shared_bridge("gpt2")), tw.read_weights(shared_bridge("llama"))
    with pytest.raises(ValueError, match="unembedding of tiny-gpt2 is its embedding"):
        tw.direction_coherence(tied, measures=["unembedding"])
    assert tw.direction_coherence(untied, layers=[0], n=1, measures=["unembedding"]).measures
    for options, sentence in (
        ({"k": 1}, "k must be at least 2, got 1"), ({"n_null": 0}, "n_null must be at least 1"),
        ({"n_null_within": 0}, "n_null_within must be at least 1, got 0"),
        ({"measures": []}, "measures is empty"), ({"nulls": []}, "nulls is empty"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=sentence):
            tw.direction_coherence(tied, **options)
    monkeypatch.setitem(__import__("sys").modules, "lemminflect", None)
    with pytest.raises(ImportError, match="tw-lens\\[words\\]"):
        tw.direction_coherence(tied, measures=["word class"])


def test_leaving_out_a_null_does_not_change_the_others():
    weights = planted(1)
    every, two = (
        tw.direction_coherence(weights, n=2, n_null=99, nulls=controls)
        for controls in (NULLS, ("vocabulary", "isotropic"))
    )
    assert two.nulls == NULLS[:2] and torch.equal(every.p[:, :2], two.p)
    assert set(two.to_dataframe().null) == set(two.nulls)


def test_the_same_seed_gives_the_same_numbers():
    weights = planted(1)
    a, b, c = (tw.direction_coherence(weights, n=2, n_null=99, seed=s) for s in (5, 5, 6))
    assert torch.equal(a.p, b.p) and not torch.equal(a.p, c.p)
    assert replace(a, p=b.p).headline() == b.headline()


def test_many_directions_are_read_in_chunks(monkeypatch):
    weights, module = planted(1), sys.modules["tw_lens.analyses.null_directions"]
    points, g = EXACT.points(weights, weights.block(0)), torch.Generator().manual_seed(0)
    null = NullDirections(weights, 5, None, [token_similarity(weights, "embedding")], 0)
    directions = torch.randn(25, weights.d_model, generator=g)
    expected = [null.similarity(directions, kind, points) for kind in READOUT_KINDS]
    monkeypatch.setattr(module, "AT_ONCE", 10)
    sizes, original = [], null._similarity
    monkeypatch.setattr(
        null, "_similarity", lambda chunk, *rest: sizes.append(len(chunk)) or original(chunk, *rest)
    )
    for kind, similarity in zip(READOUT_KINDS, expected, strict=True):
        assert torch.allclose(null.similarity(directions, kind, points), similarity, atol=2e-5)
    assert sizes == [10, 10, 5] * len(READOUT_KINDS)
    assert [len(values[0]) for values in null.shared("points", points, 25)] == [25, 25]
