"""Dimension reduction by PCA, UMAP or any reducer, and the quality of the projection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.geometry.angles import unit

if TYPE_CHECKING:
    import numpy as np

MAX_JUDGED_POINTS = 2000
CHUNK_SIZE = 1024


class ReducedPoints(NamedTuple):
    """Points of a projection and measures of its quality.

    `trustworthiness` (0 to 1): share of neighbours in the projection that are neighbours in the
    original space too, measured on at most 2000 of the points. `explained`: share of the variance
    along each axis (NaN where a method has none).
    """

    points: Float[Tensor, "points axes"]
    trustworthiness: float
    explained: tuple[float, ...]


def pca(points: Float[Tensor, "points d"], n_components: int) -> ReducedPoints:
    """Project on principal components (scikit-learn, with its sign rule): reproducible.

    Points in fewer dimensions are 0 along the other axes, and points that are all one point along
    every axis.
    """
    import numpy as np
    from sklearn.decomposition import PCA

    model = PCA(n_components=min(n_components, *points.shape), svd_solver="full")
    with np.errstate(invalid="ignore"):  # shares of a variance of 0
        flat = model.fit_transform(points.numpy())
    missing = n_components - flat.shape[1]
    shares = (*np.nan_to_num(model.explained_variance_ratio_).tolist(), *[0.0] * missing)
    reduced = torch.nn.functional.pad(torch.from_numpy(flat), (0, missing))
    return ReducedPoints(reduced, _trustworthiness(points.numpy(), flat), shares)


def umap(points: Float[Tensor, "points d"], n_components: int, *, seed: int) -> ReducedPoints:
    """Project by UMAP: cosine metric, exact neighbours, PCA initialisation, seeded.

    Raises:
        ValueError: fewer dimensions, or points, than its initialisation needs.
    """
    import warnings

    needed = (max(n_components, 3), n_components)
    if any(size < least for size, least in zip(points.shape, needed, strict=True)):
        raise ValueError(
            f"method='umap' with n_components={n_components} needs at least {needed[0]} points of "
            f"{needed[1]} dimensions, got {points.shape[0]} of {points.shape[1]}; use method='pca'."
        )
    n_neighbors = min(15, len(points) - 1)
    with warnings.catch_warnings():  # an optional dependency and a search index, neither needed
        warnings.simplefilter("ignore")
        from umap import UMAP

        model = UMAP(
            n_components=n_components,
            metric="cosine",
            init="pca",
            random_state=seed,
            n_jobs=1,
            n_neighbors=n_neighbors,
            precomputed_knn=_neighbours(points, n_neighbors),
        )
        flat = model.fit_transform(points.numpy())
    nan = (float("nan"),) * n_components
    return ReducedPoints(torch.from_numpy(flat), _trustworthiness(points.numpy(), flat), nan)


def _neighbours(points: Float[Tensor, "points d"], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices and distances of every point's nearest by cosine, itself included.

    All products of 10,000 points take a second; UMAP's own search takes twenty and approximates.
    """
    u = unit(points)
    nearest = [(chunk @ u.T).topk(n) for chunk in u.split(CHUNK_SIZE)]
    distance = (1 - torch.cat([chunk.values for chunk in nearest])).clamp_min(0)
    return torch.cat([chunk.indices for chunk in nearest]).numpy(), distance.numpy()


def reduce_with(points: Float[Tensor, "points d"], reducer: Any) -> ReducedPoints:
    """Project by a reducer's own `fit_transform` (t-SNE, MDS, Isomap, ...).

    Raises:
        ValueError: the result is not 2 or 3 finite coordinates for every point.
    """
    flat = torch.as_tensor(reducer.fit_transform(points.numpy()), dtype=torch.float32, device="cpu")
    matching = flat.ndim == 2 and len(flat) == len(points) and flat.shape[1] in (2, 3)
    if not matching or not bool(flat.isfinite().all()):
        raise ValueError(
            f"{type(reducer).__name__} made an array of shape {tuple(flat.shape)}; it must be "
            f"({len(points)}, 2) or ({len(points)}, 3), of finite numbers."
        )
    nan = (float("nan"),) * flat.shape[1]
    return ReducedPoints(flat, _trustworthiness(points.numpy(), flat.numpy()), nan)


def step_rank_correlation(
    projected: Float[Tensor, "points position axes"], true: Float[Tensor, "points position"]
) -> float:
    """Return the rank correlation of step lengths in a projection with their true angles.

    Spearman's correlation over all steps of all paths: 1 where the longer of two steps is always
    longer in the projection, 0 where projected lengths are uninformative. It does not depend on
    the projection's scale. NaN with fewer than 3 steps.

    Args:
        projected: the paths' points in the projection.
        true: the angle from each point to the next; the last row is ignored.
    """
    lengths, angles = projected.diff(dim=0).norm(dim=-1).flatten(), true[:-1].flatten()
    if len(lengths) < 3 or len(lengths.unique()) < 2 or len(angles.unique()) < 2:
        return float("nan")
    return float(torch.corrcoef(torch.stack([_ranks(lengths), _ranks(angles)]))[0, 1])


def _ranks(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return ranks in ascending order; equal values get the mean of their ranks."""
    _, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2)[inverse].double()


def _trustworthiness(points: np.ndarray, flat: np.ndarray) -> float:
    """Return the trustworthiness on at most 2000 evenly spaced points; its cost is quadratic."""
    import numpy as np
    from sklearn.manifold import trustworthiness

    judged = np.unique(
        np.linspace(0, len(points) - 1, min(len(points), MAX_JUDGED_POINTS)).astype(int)
    )
    neighbours = max(1, min(5, (len(judged) - 1) // 2))
    return float(
        trustworthiness(points[judged], flat[judged], n_neighbors=neighbours, metric="cosine")
    )
