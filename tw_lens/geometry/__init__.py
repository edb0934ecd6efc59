"""Geometry: pure functions on tensors, batched, torch only (PCA and UMAP from their libraries)."""

from tw_lens.geometry.lowrank import FactoredSVD, factored_svd
from tw_lens.geometry.nearest import Neighbours, extreme_scores, nearest
from tw_lens.geometry.paths import PathMeasures, measure_path, radial_share
from tw_lens.geometry.projections import Projection, pca, umap
from tw_lens.geometry.sphere import angle, log_map, unit

__all__ = [
    "FactoredSVD",
    "Neighbours",
    "PathMeasures",
    "Projection",
    "angle",
    "extreme_scores",
    "factored_svd",
    "log_map",
    "measure_path",
    "nearest",
    "pca",
    "radial_share",
    "umap",
    "unit",
]
