"""From the sphere to a picture: linear (PCA) or neighbourhood-keeping (UMAP), with its faith."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Projection(NamedTuple):
    """Points of a picture and how far it can be believed.

    `trustworthiness` (0 to 1): share of neighbours in the picture that are neighbours in the
    original space too. `explained`: share of the variance each axis keeps (NaN for UMAP).
    """

    points: Float[Tensor, "points axes"]
    trustworthiness: float
    explained: tuple[float, ...]


def pca(points: Float[Tensor, "points d"], n_components: int) -> Projection:
    """Principal components (scikit-learn), signs fixed by it, reproducible."""
    from sklearn.decomposition import PCA

    model = PCA(n_components=n_components, svd_solver="full")
    flat = model.fit_transform(points.numpy())
    return Projection(
        torch.from_numpy(flat),
        _trustworthiness(points, flat),
        tuple(float(share) for share in model.explained_variance_ratio_),
    )


def umap(points: Float[Tensor, "points d"], n_components: int, *, seed: int) -> Projection:
    """UMAP of all points together: cosine metric, PCA start, seeded, kept on disk.

    A second call with the same points and parameters reads the first one's result.
    """
    flat = _cached_umap()(points.numpy(), n_components, seed)
    nan = (float("nan"),) * n_components
    return Projection(torch.from_numpy(flat), _trustworthiness(points, flat), nan)


def _cached_umap():
    import os
    from pathlib import Path

    from joblib import Memory

    default = Path.home() / ".cache" / "tw_lens"
    return Memory(os.environ.get("TW_LENS_CACHE", default), verbose=0).cache(_fit_umap)


def _fit_umap(points, n_components: int, seed: int):
    import warnings

    with warnings.catch_warnings():  # its import warns of an optional part that is not used here
        warnings.simplefilter("ignore")
        from umap import UMAP

    model = UMAP(
        n_components=n_components,
        metric="cosine",
        init="pca",
        random_state=seed,
        n_jobs=1,
        n_neighbors=min(15, len(points) - 1),
    )
    return model.fit_transform(points)


def _trustworthiness(points: Tensor, flat) -> float:
    from sklearn.manifold import trustworthiness

    neighbours = max(1, min(5, (len(points) - 1) // 2))
    return float(trustworthiness(points.numpy(), flat, n_neighbors=neighbours, metric="cosine"))
