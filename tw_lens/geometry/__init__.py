"""Geometry: pure functions on tensors, batched, torch only (PCA and UMAP from their libraries)."""

from tw_lens.geometry.control_paths import random_steps, shuffled_steps
from tw_lens.geometry.controls import (
    Rows,
    as_strong,
    covariance_directions,
    directions_within,
    mean_pairwise_cosine,
    random_frames,
    signed_by_rule,
    upper_p_values,
)
from tw_lens.geometry.lowrank import FactoredSVD, factored_svd
from tw_lens.geometry.nearest import (
    BothSigns,
    Neighbours,
    chosen,
    joined,
    nearest,
    nearest_of_both_signs,
    rank_of,
    ranks_of,
)
from tw_lens.geometry.paths import (
    PathMeasures,
    measure_path,
    radial_and_tangential,
    radial_share,
    tangential_shares,
)
from tw_lens.geometry.projections import Projection, pca, reduced, steps_kept, umap
from tw_lens.geometry.sphere import angle, log_map, unit

__all__ = [
    "BothSigns",
    "FactoredSVD",
    "Neighbours",
    "PathMeasures",
    "Projection",
    "Rows",
    "angle",
    "as_strong",
    "chosen",
    "covariance_directions",
    "directions_within",
    "factored_svd",
    "joined",
    "log_map",
    "mean_pairwise_cosine",
    "measure_path",
    "nearest",
    "nearest_of_both_signs",
    "pca",
    "radial_and_tangential",
    "radial_share",
    "random_frames",
    "random_steps",
    "rank_of",
    "ranks_of",
    "reduced",
    "shuffled_steps",
    "signed_by_rule",
    "steps_kept",
    "tangential_shares",
    "umap",
    "unit",
    "upper_p_values",
]
