"""Geometry: pure, batched functions on tensors, in torch (PCA and UMAP from their libraries)."""

from tw_lens.geometry.affine_map import fit_affine_map
from tw_lens.geometry.angles import angle, log_map, unit
from tw_lens.geometry.dimension_reduction import (
    ReducedPoints,
    pca,
    reduce_with,
    step_rank_correlation,
    umap,
)
from tw_lens.geometry.lowrank import FactoredSVD, factored_svd, spectrum_shares
from tw_lens.geometry.moments import Moments
from tw_lens.geometry.null_distributions import (
    TokenVectorChunks,
    match_singular_values,
    mean_pairwise_cosine,
    random_directions_in_span,
    random_directions_like,
    random_orthonormal,
    top_tokens_signed,
    upper_p_values,
)
from tw_lens.geometry.null_paths import random_steps, shuffled_steps
from tw_lens.geometry.paths import (
    PathMeasures,
    measure_path,
    radial_and_tangential,
    radial_share,
    tangential_shares,
)
from tw_lens.geometry.principal_span import principal_span
from tw_lens.geometry.top_tokens import (
    NO_TOKEN,
    TopTokens,
    TopTokensBothSigns,
    concat,
    rank_of,
    ranks_of,
    select,
    top_tokens,
    top_tokens_both_signs,
)

__all__ = [
    "NO_TOKEN",
    "FactoredSVD",
    "Moments",
    "PathMeasures",
    "ReducedPoints",
    "TokenVectorChunks",
    "TopTokens",
    "TopTokensBothSigns",
    "angle",
    "concat",
    "factored_svd",
    "fit_affine_map",
    "log_map",
    "match_singular_values",
    "mean_pairwise_cosine",
    "measure_path",
    "pca",
    "principal_span",
    "radial_and_tangential",
    "radial_share",
    "random_directions_in_span",
    "random_directions_like",
    "random_orthonormal",
    "random_steps",
    "rank_of",
    "ranks_of",
    "reduce_with",
    "select",
    "shuffled_steps",
    "spectrum_shares",
    "step_rank_correlation",
    "tangential_shares",
    "top_tokens",
    "top_tokens_both_signs",
    "top_tokens_signed",
    "umap",
    "unit",
    "upper_p_values",
]
