"""From a sphere to a picture: linear (PCA), by neighbours (UMAP), or any reducer; and its faith."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.geometry.sphere import unit

if TYPE_CHECKING:
    import numpy as np

MAX_JUDGED_POINTS = 2000
AT_ONCE = 1024


class ReducedPoints(NamedTuple):
    """Points of a picture and how far it can be believed.

    `trustworthiness` (0 to 1): share of neighbours in the picture that are neighbours in the
    original space too, measured on at most 2000 of the points. `explained`: share of the variance
    each axis keeps (NaN where a method has none).
    """

    points: Float[Tensor, "points axes"]
    trustworthiness: float
    explained: tuple[float, ...]


def pca(points: Float[Tensor, "points d"], n_components: int) -> ReducedPoints:
    """Principal components (scikit-learn), signs fixed by it, reproducible."""
    from sklearn.decomposition import PCA

    model = PCA(n_components=n_components, svd_solver="full")
    flat = model.fit_transform(points.numpy())
    shares = tuple(float(share) for share in model.explained_variance_ratio_)
    return ReducedPoints(torch.from_numpy(flat), _trustworthiness(points.numpy(), flat), shares)


def umap(points: Float[Tensor, "points d"], n_components: int, *, seed: int) -> ReducedPoints:
    """UMAP of all points together: cosine metric, exact neighbours, PCA start, seeded."""
    import warnings

    n_neighbors = min(15, len(points) - 1)
    with warnings.catch_warnings():  # of an optional part, and of a search index, neither needed
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
    """Every point's nearest ones by cosine, itself among them: their places and distances.

    All products of 10,000 points take a second; UMAP's own search takes twenty and guesses.
    """
    u = unit(points)
    near = [(chunk @ u.T).topk(n) for chunk in u.split(AT_ONCE)]
    distance = (1 - torch.cat([found.values for found in near])).clamp_min(0)
    return torch.cat([found.indices for found in near]).numpy(), distance.numpy()


def reduce_with(points: Float[Tensor, "points d"], reducer: Any) -> ReducedPoints:
    """What a reducer's own `fit_transform` makes of the points (t-SNE, MDS, Isomap, ...).

    Raises:
        ValueError: it gives something else than 2 or 3 finite axes for every point.
    """
    given = reducer.fit_transform(points.numpy())
    flat = torch.as_tensor(given, dtype=torch.float32)
    fits = flat.ndim == 2 and len(flat) == len(points) and flat.shape[1] in (2, 3)
    if not fits or not bool(flat.isfinite().all()):
        raise ValueError(
            f"{type(reducer).__name__} made an array of shape {tuple(flat.shape)}: "
            f"({len(points)}, 2) or ({len(points)}, 3) of finite numbers fits."
        )
    nan = (float("nan"),) * flat.shape[1]
    return ReducedPoints(flat, _trustworthiness(points.numpy(), flat.numpy()), nan)


def step_rank_correlation(
    drawn: Float[Tensor, "points position axes"], true: Float[Tensor, "points position"]
) -> float:
    """How much of the true step lengths survives in a drawing: their rank correlation.

    Spearman's correlation, over all steps of all paths, between the length of a step as drawn and
    its true angle: 1 where the longer of two steps is always drawn longer, 0 where drawn lengths
    say nothing. It does not depend on the drawing's scale. NaN with fewer than 3 steps.

    Args:
        drawn: the paths' points in the picture.
        true: the angle from each point to the next; the last row is ignored.
    """
    lengths, angles = drawn.diff(dim=0).norm(dim=-1).flatten(), true[:-1].flatten()
    if len(lengths) < 3 or len(lengths.unique()) < 2 or len(angles.unique()) < 2:
        return float("nan")
    return float(torch.corrcoef(torch.stack([_ranks(lengths), _ranks(angles)]))[0, 1])


def _ranks(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Places in ascending order; equal values share the mean of theirs."""
    _, which, counts = values.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2)[which].double()


def _trustworthiness(points, flat) -> float:
    """On at most 2000 points, evenly spread over their order: it takes their number squared."""
    import numpy as np
    from sklearn.manifold import trustworthiness

    judged = np.unique(
        np.linspace(0, len(points) - 1, min(len(points), MAX_JUDGED_POINTS)).astype(int)
    )
    neighbours = max(1, min(5, (len(judged) - 1) // 2))
    return float(
        trustworthiness(points[judged], flat[judged], n_neighbors=neighbours, metric="cosine")
    )
