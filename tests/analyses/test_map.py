"""The map: what it holds, how it judges itself, and that UMAP gives the same picture twice."""

import math

import torch

import tw_lens as tw
from tests.models import golden_bridge


def inputs():
    model = golden_bridge()
    return tw.read_weights(model), tw.read_states(model, "w5 w6 w7 w8")


def test_pca_keeps_the_largest_variances_of_the_points_it_shows():
    weights, states = inputs()
    chart = tw.fit_map(weights, states, n_words=40)
    norm = weights.readout.norm
    words = norm.sphere(weights.vocabulary.embeddings(torch.tensor(chart.word_index)))
    points = torch.cat([norm.sphere(states.stream).flatten(0, 1), words]).double()
    S = torch.linalg.svdvals(points - points.mean(0))
    expected = (S.square() / S.square().sum())[:3]
    assert torch.allclose(torch.tensor(chart.explained).double(), expected, atol=1e-5)
    assert len(set(chart.word_index)) == len(chart.words) >= 40
    assert set(states.tokens.tolist()) <= set(chart.word_index[: chart.landmarks])


def test_umap_is_seeded_and_kept_on_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("TW_LENS_CACHE", str(tmp_path))
    weights, states = inputs()
    first = tw.fit_map(weights, states, method="umap", n_words=40, seed=3)
    assert any(tmp_path.rglob("output.pkl"))
    again = tw.fit_map(weights, states, method="umap", n_words=40, seed=3)
    monkeypatch.setenv("TW_LENS_CACHE", str(tmp_path / "other"))
    fresh = tw.fit_map(weights, states, method="umap", n_words=40, seed=3)
    assert torch.equal(first.state_points, again.state_points)
    assert torch.equal(first.state_points, fresh.state_points)
    assert 0 < first.trustworthiness <= 1 and all(math.isnan(x) for x in first.explained)
