"""Geometry: pure functions on tensors, batched, torch only (PCA and UMAP from their libraries)."""

from tw_lens.geometry.lowrank import FactoredSVD, factored_svd
from tw_lens.geometry.nearest import Neighbours, chosen, nearest, nearest_of_both_signs
from tw_lens.geometry.paths import PathMeasures, measure_path, radial_share
from tw_lens.geometry.projections import Projection, pca, umap
from tw_lens.geometry.sphere import angle, log_map, unit

__all__ = [
    "FactoredSVD",
    "Neighbours",
    "PathMeasures",
    "Projection",
    "angle",
    "chosen",
    "factored_svd",
    "log_map",
    "measure_path",
    "nearest",
    "nearest_of_both_signs",
    "pca",
    "radial_share",
    "umap",
    "unit",
]
