"""The map: what it holds, how it judges itself, and that UMAP gives the same picture twice."""

import math
import os
import subprocess
import sys

import pytest
import torch

import tw_lens as tw
from tests.models import golden_bridge
from tw_lens.geometry import measure_path, steps_kept


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


def test_any_reducer_draws_a_map_and_others_are_refused():
    from sklearn.manifold import MDS

    weights, states = inputs()

    class Sliced:
        def __init__(self, axes):
            self.axes = axes

        def fit_transform(self, points):
            return points[:, : self.axes]

    chart = tw.fit_map(weights, states, method=Sliced(2), n_words=30)
    y = weights.readout.norm.sphere(states.stream)
    assert chart.method == "Sliced" and torch.allclose(chart.state_points, y[..., :2])
    assert "Sliced, trustworthiness" in repr(chart) and "steps" in repr(chart)
    mds = MDS(n_components=2, n_init=1, random_state=0, init="random")
    assert tw.fit_map(weights, states, method=mds, n_words=10).state_points.shape[-1] == 2
    with pytest.raises(ValueError, match=r"Sliced made an array of shape \(.*, 5\)"):
        tw.fit_map(weights, states, method=Sliced(5), n_words=10)
    with pytest.raises(ValueError, match="has no fit_transform"):
        tw.fit_map(weights, states, method=7)
    with pytest.raises(ValueError, match="states is empty"):
        tw.fit_map(weights, [])


def test_steps_kept_says_whether_longer_steps_are_drawn_longer():
    angles = torch.tensor([[0.1, 0.4], [0.3, 0.2], [0.5, 0.6], [math.nan, math.nan]])
    drawn = torch.zeros(4, 2, 2)
    drawn[1:, :, 0] = (7 * angles[:-1] ** 3).cumsum(0)  # any growing function keeps the order
    assert steps_kept(drawn, angles) == pytest.approx(1.0)
    drawn[1:, :, 0] = (1 / angles[:-1]).cumsum(0)
    assert steps_kept(drawn, angles) == pytest.approx(-1.0)
    assert math.isnan(steps_kept(drawn[:2, :1], angles[:2, :1]))
    assert math.isnan(steps_kept(torch.zeros(4, 2, 2), angles))


def test_a_picture_of_the_truth_keeps_the_true_steps():
    """On a circle of the sphere, drawn in its own plane, every step is as long as it is."""
    turns = torch.tensor([0.0, 0.3, 0.4, 1.0, 1.2, 2.1])
    y = torch.stack([turns.cos(), turns.sin(), torch.zeros(6)], dim=-1)[:, None]
    assert steps_kept(y[..., :2], measure_path(y).step_angle) == pytest.approx(1.0)


def test_a_cut_cache_is_fitted_again(tmp_path, monkeypatch):
    monkeypatch.setenv("TW_LENS_CACHE", str(tmp_path))
    weights, states = inputs()
    first = tw.fit_map(weights, states, method="umap", n_words=20)
    (kept,) = tmp_path.rglob("output.pkl")
    kept.write_bytes(kept.read_bytes()[:100])
    again = tw.fit_map(weights, states, method="umap", n_words=20)
    assert torch.equal(first.state_points, again.state_points)
    assert first.trustworthiness == again.trustworthiness


TOGETHER = """
import sys
import torch
from tw_lens.geometry import umap
points = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
print(umap(points, 2, seed=1).points.double().sum().item())
"""


def test_two_processes_at_once_give_one_chart(tmp_path):
    around = {**os.environ, "TW_LENS_CACHE": str(tmp_path)}
    run = [sys.executable, "-W", "ignore", "-c", TOGETHER]
    both = [subprocess.Popen(run, env=around, stdout=subprocess.PIPE) for _ in range(2)]
    sums = [process.communicate(timeout=240)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0] and sums[0] == sums[1] != b""
    assert len(list(tmp_path.rglob("output.pkl"))) == 1
    assert not [
        name for name in tmp_path.rglob("*") if "thread" in name.name
    ]  # nothing half-written
