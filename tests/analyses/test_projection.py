"""Projection: its contents, its measures of quality, and the reproducibility of UMAP."""

import math
import os
import subprocess
import sys

import pytest
import torch

import tw_lens as tw
from tests.models import golden_bridge
from tw_lens.analyses.umap_cache import cached_umap
from tw_lens.geometry import ReducedPoints, measure_path, step_rank_correlation


def inputs():
    model = golden_bridge()
    return tw.read_weights(model), tw.read_states(model, "w5 w6 w7 w8")


def test_pca_keeps_the_largest_variances():
    weights, states = inputs()
    projection = tw.fit_projection(weights, states, n_words=40)
    norm = weights.readout.norm
    words = norm.sphere(weights.vocabulary.embeddings(torch.tensor(projection.word_index)))
    points = torch.cat([norm.sphere(states.stream).flatten(0, 1), words]).double()
    S = torch.linalg.svdvals(points - points.mean(0))
    expected = (S.square() / S.square().sum())[:3]
    assert torch.allclose(torch.tensor(projection.explained).double(), expected, atol=1e-5)
    assert len(set(projection.word_index)) == len(projection.words) >= 40
    assert set(states.tokens.tolist()) <= set(projection.word_index[: projection.landmarks])


def test_umap_is_seeded_and_cached_on_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("TW_LENS_CACHE", str(tmp_path))
    weights, states = inputs()
    first = tw.fit_projection(weights, states, method="umap", n_words=40, seed=3)
    assert len(list(tmp_path.glob("umap-*.safetensors"))) == 1
    again = tw.fit_projection(weights, states, method="umap", n_words=40, seed=3)
    monkeypatch.setenv("TW_LENS_CACHE", str(tmp_path / "other"))
    fresh = tw.fit_projection(weights, states, method="umap", n_words=40, seed=3)
    assert torch.equal(first.state_points, again.state_points)
    assert torch.equal(first.state_points, fresh.state_points)
    assert 0 < first.trustworthiness <= 1 and all(math.isnan(x) for x in first.explained)


def test_umaps_neighbours_are_the_nearest_by_cosine():
    from sklearn.neighbors import NearestNeighbors

    from tw_lens.geometry.dimension_reduction import _neighbours

    points = torch.randn(1500, 12, generator=torch.Generator().manual_seed(0))
    points[7] = 3 * points[900]  # the same word twice
    index, distance = _neighbours(points, 9)
    exact = NearestNeighbors(n_neighbors=9, metric="cosine", algorithm="brute")
    theirs, places = exact.fit(points.double().numpy()).kneighbors()
    assert index.shape == distance.shape == (1500, 9)
    assert all(i in row for i, row in enumerate(index.tolist()))
    assert abs(distance[:, 1:] - theirs[:, :8]).max() < 1e-6
    assert {7, 900} <= set(index[7]) and {7, 900} <= set(index[900])
    assert (index[:, 1:] == places[:, :8]).mean() > 0.99


def test_any_reducer_is_accepted_and_other_objects_are_rejected():
    from sklearn.decomposition import KernelPCA

    weights, states = inputs()

    class Sliced:
        def __init__(self, axes):
            self.axes = axes

        def fit_transform(self, points):
            return points[:, : self.axes]

    projection = tw.fit_projection(weights, states, method=Sliced(2), n_words=30)
    y = weights.readout.norm.sphere(states.stream)
    assert projection.method == "Sliced" and torch.allclose(projection.state_points, y[..., :2])
    assert "Sliced, trustworthiness" in repr(projection) and "steps" in repr(projection)
    pca = KernelPCA(n_components=2)
    assert tw.fit_projection(weights, states, method=pca, n_words=10).state_points.shape[-1] == 2
    with pytest.raises(ValueError, match=r"Sliced made an array of shape \(.*, 5\)"):
        tw.fit_projection(weights, states, method=Sliced(5), n_words=10)
    with pytest.raises(ValueError, match="has no fit_transform"):
        tw.fit_projection(weights, states, method=7)
    with pytest.raises(ValueError, match="states is empty"):
        tw.fit_projection(weights, [])


def test_step_rank_correlation_of_monotone_lengths():
    angles = torch.tensor([[0.1, 0.4], [0.3, 0.2], [0.5, 0.6], [math.nan, math.nan]])
    points = torch.zeros(4, 2, 2)
    points[1:, :, 0] = (7 * angles[:-1] ** 3).cumsum(0)  # any growing function keeps the order
    assert step_rank_correlation(points, angles) == pytest.approx(1.0)
    points[1:, :, 0] = (1 / angles[:-1]).cumsum(0)
    assert step_rank_correlation(points, angles) == pytest.approx(-1.0)
    assert math.isnan(step_rank_correlation(points[:2, :1], angles[:2, :1]))
    assert math.isnan(step_rank_correlation(torch.zeros(4, 2, 2), angles))


def test_step_rank_correlation_is_spearmans_with_ties():
    from scipy.stats import spearmanr

    generator = torch.Generator().manual_seed(0)
    points = torch.randn(9, 4, 2, generator=generator)
    true = (3 * torch.rand(9, 4, generator=generator)).round()
    lengths = points.diff(dim=0).norm(dim=-1).flatten()
    expected = spearmanr(lengths.numpy(), true[:-1].flatten().numpy()).statistic
    assert step_rank_correlation(points, true) == pytest.approx(float(expected), abs=1e-12)


def test_step_rank_correlation_of_an_exact_projection():
    """A circle of the sphere, projected on its own plane, keeps all step lengths."""
    turns = torch.tensor([0.0, 0.3, 0.4, 1.0, 1.2, 2.1])
    y = torch.stack([turns.cos(), turns.sin(), torch.zeros(6)], dim=-1)[:, None]
    assert step_rank_correlation(y[..., :2], measure_path(y).step_angle) == pytest.approx(1.0)


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def changed(content: bytes) -> bytes:
    """One bit of one coordinate."""
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


@pytest.mark.parametrize(
    "spoil", [truncated, changed, lambda content: b"", lambda content: b"nonsense"]
)
def test_a_cut_or_changed_file_is_fitted_again(tmp_path, monkeypatch, capfd, spoil):
    monkeypatch.setenv("TW_LENS_CACHE", str(tmp_path / "made" / "here"))
    weights, states = inputs()
    first = tw.fit_projection(weights, states, method="umap", n_words=20)
    (file,) = tmp_path.rglob("umap-*")
    whole = file.read_bytes()
    file.write_bytes(spoil(whole))
    capfd.readouterr()
    again = tw.fit_projection(weights, states, method="umap", n_words=20)
    assert torch.equal(first.state_points, again.state_points)
    assert first.trustworthiness == again.trustworthiness
    assert len(file.read_bytes()) == len(whole) and capfd.readouterr() == ("", "")


def test_the_cache_key_holds_points_and_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("TW_LENS_CACHE", str(tmp_path))
    made = []

    def fitted(points, n_components, *, seed):
        made.append(seed)
        return ReducedPoints(torch.full((len(points), n_components), len(made)), 0.5, (0.0,) * 2)

    monkeypatch.setattr(sys.modules["tw_lens.analyses.umap_cache"], "umap", fitted)
    points = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    near = points.clone()
    near[7, 2] += 1e-6
    calls = [(points, 2, 1), (near, 2, 1), (points, 3, 1), (points, 2, 2), (points[:29], 2, 1),
             (points.reshape(60, 2), 2, 1)]  # fmt: skip
    for n, (values, axes, seed) in enumerate(calls, start=1):
        for _ in range(2):
            result = cached_umap(values, axes, seed=seed)
            assert result.points.unique().tolist() == [n] and len(made) == n
            assert result.trustworthiness == 0.5


@pytest.mark.parametrize("folder", ["", "within"])
def test_an_unwritable_cache_gives_a_warning(tmp_path, monkeypatch, folder):
    taken = tmp_path / "file"
    taken.write_text("no folder")
    monkeypatch.setenv("TW_LENS_CACHE", str(taken / folder))
    weights, states = inputs()
    with pytest.warns(UserWarning, match="could not be cached in .* TW_LENS_CACHE"):
        projection = tw.fit_projection(weights, states, method="umap", n_words=20)
    assert projection.state_points.isfinite().all() and taken.read_text() == "no folder"


TOGETHER = """
import sys
import torch
from tw_lens.analyses.umap_cache import cached_umap
points = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
print("ready", flush=True)
sys.stdin.readline()
for _ in range(3):
    print(cached_umap(points, 2, seed=1).points.double().sum().item())
"""


def test_two_processes_at_once_give_one_projection(tmp_path):
    around = {**os.environ, "TW_LENS_CACHE": str(tmp_path)}
    run = [sys.executable, "-W", "error::UserWarning", "-c", TOGETHER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(run, env=around, **pipes) for _ in range(2)]
    assert [process.stdout.readline() for process in both] == ["ready\n"] * 2
    for process in both:  # both look, find nothing, and fit
        process.stdin.write("go\n")
        process.stdin.flush()
    sums = [process.communicate(timeout=240)[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert len(set(sums[0] + sums[1])) == 1 and len(sums[0]) == len(sums[1]) == 3
    assert [name.suffix for name in tmp_path.iterdir()] == [".safetensors"]  # nothing half-written
