"""Embedding distances: from token embeddings to their points on the sphere of the norm."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd
import torch

from tw_lens.arguments import checked
from tw_lens.canonical import Weights
from tw_lens.errors import Caveat
from tw_lens.results.base import Result

RELEVANT_CAVEATS = ("centred", "normalised stream", "stream read as it is")
SETTINGS = ("original", "centered", "scaled", "centered_scaled")


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
    E = torch.cat(list(weights.vocabulary.rows()))
    points = norm.sphere(E)
    centred = E - E.mean(0)
    scale = weights.d_model**0.5 / E.norm(dim=-1).mean()
    settings = []
    for name, vectors in zip(SETTINGS, (E, centred, E * scale, centred * scale), strict=True):
        l2 = (points - vectors).norm(dim=-1).double()
        cosine = 1 - torch.cosine_similarity(points, vectors, dim=-1).double()
        l2_std, cosine_std = (
            float(part.std()) if len(E) > 1 else math.nan for part in (l2, cosine)
        )
        settings.append(
            DistanceSetting(name, float(l2.mean()), l2_std, float(cosine.mean()), cosine_std)
        )
    caveats = tuple(c for c in weights.caveats if c.name in RELEVANT_CAVEATS)
    return EmbeddingDistances(weights.model_name, tuple(settings), caveats)
