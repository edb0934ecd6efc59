"""Embedding distances: from token embeddings to their points on the sphere of the norm."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.arguments import checked
from tw_lens.canonical import Weights
from tw_lens.errors import Caveat
from tw_lens.results.base import Result

RELEVANT_CAVEATS = ("centred", "normalised stream", "stream read as it is")
SETTINGS = ("original", "centered", "scaled", "centered_scaled")
ROWS_IN_CACHE = 256  # their points and gaps stay in the processor's cache
TINY = 1e-38  # a vector of zeros has no direction


@dataclass(frozen=True)
class DistanceSetting:
    """Mean and standard deviation (n-1) over the vocabulary of two distances, in one setting."""

    setting: str
    l2_mean: float
    l2_std: float
    cosine_mean: float
    cosine_std: float


@dataclass(frozen=True, repr=False)
class EmbeddingDistances(Result):
    """Distances between `N(E)` and E in four settings: original, centred, scaled, and both."""

    model_name: str
    settings: tuple[DistanceSetting, ...]
    caveats: tuple[Caveat, ...] = ()

    def headline(self) -> str:
        """Return the distance in the original setting and in the closest one."""
        first, best = self.settings[0], min(self.settings, key=lambda s: s.l2_mean)
        return (
            f"{self.model_name}: the mean distance from E to N(E) is {first.l2_mean:.3g}, and "
            f"{best.l2_mean:.3g} in the setting {best.setting}"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per setting: setting, l2_mean, l2_std, cosine_mean, cosine_std."""
        return pd.DataFrame([vars(setting) for setting in self.settings])


@checked
def embedding_distances(weights: Weights) -> EmbeddingDistances:
    """Measure the distance between every token embedding and its normalised point.

    Row-wise L2 distance and `1 - cos` between `N(E)` (the first attention's norm, no gain or bias)
    and `E` ("original"), `E - mean over the vocabulary` ("centered"), `E sqrt(d) / mean |e|`
    ("scaled"), and both ("centered_scaled").

    Args:
        weights: from `read_weights`; `E` is `W_E [d_vocab, d_model]` as the model holds it.

    Returns:
        Mean and standard deviation (n-1; NaN for one token) over the vocabulary, in the units of
        the embedding.

    Example:
        >>> embedding_distances(weights).to_dataframe().setting.tolist()
        ['original', 'centered', 'scaled', 'centered_scaled']

    Source: arXiv 2309.07315, section 4.1.
    """
    norm = weights.block(weights.attention_layers[0]).norm
    rows = weights.vocabulary.rows
    mean = torch.stack([E.sum(0) for E in rows()]).sum(0) / len(weights.vocabulary)
    pieces = (piece for chunk in rows() for piece in chunk.split(ROWS_IN_CACHE))
    gaps = torch.cat([_gaps(norm.sphere(E), E, mean) for E in pieces], dim=-1).double()
    scale = weights.d_model**0.5 / float(gaps[0, 1].mean())
    distances = torch.stack([_distances(gap, s) for s in (1.0, scale) for gap in gaps])
    means, stds = (part.tolist() for part in _moments(distances))
    settings = [
        DistanceSetting(name, l2, l2_std, cosine, cosine_std)
        for name, (l2, cosine), (l2_std, cosine_std) in zip(SETTINGS, means, stds, strict=True)
    ]
    caveats = tuple(c for c in weights.caveats if c.name in RELEVANT_CAVEATS)
    return EmbeddingDistances(weights.model_name, tuple(settings), caveats)


def _gaps(
    points: Float[Tensor, "rows d_model"],
    E: Float[Tensor, "rows d_model"],
    mean: Float[Tensor, " d_model"],
) -> Float[Tensor, "2 3 rows"]:
    """Return, for `E` and for `E - mean`: the points along the vectors, lengths, and the rest.

    A point is `along * vector + rest`, at right angles: its distance from any multiple of the
    vector is a sum of squares, without a small difference of large numbers.
    """
    parts = []
    for vectors in (E, E - mean):
        length = torch.linalg.vector_norm(vectors, dim=-1)
        along = torch.linalg.vecdot(points, vectors) / length.square().clamp_min(TINY)
        rest = torch.addcmul(points, vectors, along[:, None], value=-1)
        parts.append(torch.stack([along, length, torch.linalg.vector_norm(rest, dim=-1)]))
    return torch.stack(parts)


def _distances(gap: Float[Tensor, "3 rows"], scale: float) -> Float[Tensor, "2 rows"]:
    """Return the L2 and cosine distances of the points from the vectors times a scale."""
    along, length, rest = gap
    point = torch.hypot(along * length, rest)
    cosine = along * length / point.clamp_min(TINY)
    return torch.stack([torch.hypot((along - scale) * length, rest), 1 - cosine])


def _moments(values: Float[Tensor, "*batch rows"]) -> tuple[Tensor, Tensor]:
    """Return means and standard deviations (n-1; NaN for one row)."""
    mean = values.mean(-1)
    return mean, values.std(-1) if values.shape[-1] > 1 else torch.full_like(mean, math.nan)
