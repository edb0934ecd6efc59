"""Null comparison of every list: that of `direction_coherence`, independent of earlier calls."""

import gc

import pytest
import torch

import tw_lens as tw
from tests.models import golden_bridge, shared_bridge, tiny_bridge
from tests.planted import planted
from tw_lens.analyses.null_directions import _NULL_CACHE, N_NULL
from tw_lens.results import TokenLists
from tw_lens.results.token_lists import NullComparison


def null_of(made: tw.analyses.DirectionCoherence, entry: tuple, side: str) -> tuple[float, str]:
    at, s = made.entries.index(entry), ("left", "right").index(side)
    isotropic, vocabulary = (made.p[0, c, s, at] <= 0.05 for c in (0, 1))
    return float(made.value[0, s, at]), ("vocabulary" if vocabulary else "isotropic") * isotropic


@pytest.mark.parametrize("circuit", ["QK", "OV"])
def test_spectra_and_the_atlas_agree_with_direction_coherence(circuit: str):
    weights = planted(2)
    made = tw.direction_coherence(
        weights, n=4, n_null=N_NULL, nulls=["isotropic", "vocabulary"], seed=0
    )
    spectrum = tw.head_spectrum(weights, layer=0, circuit=circuit, n=4).to_dataframe()
    atlas = tw.head_atlas(weights, n=4).to_dataframe()
    marks = set()
    for row in spectrum.itertuples():
        entry = (0, int(row.component[-1]), circuit, row.direction)
        coherence, above = null_of(made, entry, row.side)
        assert row.coherence == pytest.approx(coherence, abs=1e-6) and row.exceeds_null == above
        line = atlas[(atlas.component == row.component) & (atlas.circuit == circuit)]
        line = line[line.direction == row.direction].iloc[0]
        assert line[f"{row.side}_exceeds_null"] == above
        assert line[f"{row.side}_coherence"] == pytest.approx(coherence, abs=1e-6)
        marks.add(above)
    assert "" in marks and (circuit == "OV" or "vocabulary" in marks)


def test_residual_readouts_have_no_null():
    """The word itself reads out similar tokens, in an untrained model too."""
    weights = tw.read_weights(shared_bridge("gpt2"))
    options = {"layer": 1, "words": [5, 6], "circuit": "OV"}
    update = tw.head_probe(weights, readout="update", **options)
    residual = tw.head_probe(weights, readout="residual", **options)
    assert update.lists.null is not None and residual.lists.null is None
    assert "exceeds_null" in update.to_dataframe() and "exceeds_null" not in residual.to_dataframe()


def test_null_lists_are_read_out_in_the_same_way():
    """By hand: logits of random states, the mean cosine of their tokens, the share as coherent."""
    weights = tw.read_weights(shared_bridge("gpt2"))
    probe = tw.head_probe(weights, layer=1, words=[5, 6, 7], circuit="OV", k=4)
    words, A_U = weights.vocabulary.W_E.detach().double(), weights.readout
    seen = words - words.mean(-1, keepdim=True)
    seen = seen - seen.mean(0)

    def coherence_of(ids: torch.Tensor) -> float:
        u = torch.nn.functional.normalize(seen[ids], dim=-1)
        return float(((u @ u.T).sum() - len(ids)) / (len(ids) * (len(ids) - 1)))

    g = torch.Generator().manual_seed(9)
    random = []
    for _ in range(600):
        y = torch.randn(weights.d_model, generator=g)
        y = (y / y.norm() * weights.d_model**0.5).double()
        logits = torch.cat([chunk.double() @ y for chunk in A_U.directions()()]) + A_U.bias()
        random.append(coherence_of(logits.argsort(descending=True)[:4]))
    random = torch.tensor(random)
    for i in range(len(probe.lists.token_index)):
        value = coherence_of(probe.lists.token_index[i])
        assert float(probe.lists.null.coherence[i]) == pytest.approx(value, abs=1e-4)
        share = float((random >= value - 1e-5).double().mean())
        assert abs(float(probe.lists.null.p[i, 0]) - share) < 0.12  # two samples of hundreds


def test_earlier_calls_do_not_change_the_null():
    first, second = (tw.read_weights(tiny_bridge("llama")) for _ in range(2))
    tw.head_atlas(second, n=2)
    tw.head_probe(second, layer=0, words=[3, 4], circuit="OV")
    for circuit in ("OV", "QK"):
        a, b = (tw.head_spectrum(w, layer=1, circuit=circuit, n=3) for w in (first, second))
        assert torch.equal(a.left.null.p, b.left.null.p)
        assert torch.equal(a.right.null.p, b.right.null.p)


def test_lists_without_a_null_have_no_null_columns():
    weights = tw.read_weights(golden_bridge())
    bare = [
        tw.head_spectrum(weights, layer=1, convention="published"),
        tw.head_probe(weights, layer=1, words=[5], convention="published"),
        tw.bias_directions(weights, layer=1, convention="published"),
        tw.head_spectrum(weights, layer=1, k=1),
        tw.head_probe(tw.read_weights(shared_bridge("qwen3")), layer=1, words=[5]),
    ]
    for result in bare:
        assert "exceeds_null" not in result.to_dataframe().columns
        assert "more coherent" not in result.headline()
    assert "more coherent than 95 %" in tw.head_spectrum(weights, layer=1).headline()


def test_null_directions_are_freed_with_their_model():
    weights = tw.read_weights(golden_bridge())
    tw.head_spectrum(weights, layer=0, n=1)
    assert weights in _NULL_CACHE
    size = len(_NULL_CACHE)
    del weights
    gc.collect()
    assert len(_NULL_CACHE) < size


def test_filtered_lists_are_compared_with_filtered_lists():
    weights = tw.read_weights(shared_bridge("llama"))
    token_filter = tw.token_filter(weights, whole_words=False, id_band=(0, 100))
    whole = tw.head_spectrum(weights, layer=1, n=2)
    filtered = tw.head_spectrum(weights, layer=1, n=2, token_filter=token_filter)
    assert not torch.equal(filtered.left.null.p, whole.left.null.p)
    assert len(_NULL_CACHE[weights]) == 2


@pytest.mark.parametrize(
    ("found", "n", "above"), [(0, 20, False), (2, 20, False), (3, 20, False), (4, 20, True)]
)
def test_lists_above_chance_by_a_binomial_test(found: int, n: int, above: bool):
    """P(at least 3 of 20 at 5 %) = 0.075, of 4: 0.016."""
    p = torch.full((n + 3, 2), 0.5)
    p[1 : found + 1] = 0.01
    p[n + 1 :] = 0.001  # lists of another head
    blank = torch.zeros(n + 3, 1)
    lists = TokenLists(blank, blank.long(), ((),) * (n + 3), NullComparison(blank[:, 0], p))
    count = lists.count_above(range(n))
    assert (count.found, count.n, count.above_chance) == (found, n, above)
    assert TokenLists(blank, blank.long(), ((),)).count_above([0]) is None
