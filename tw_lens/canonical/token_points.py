"""Token points: where one layer's attention meets every token, from one source or another."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tw_lens.canonical.embedding import TokenVectorChunks
from tw_lens.canonical.layer_vocabulary import LayerVocabulary
from tw_lens.canonical.norm import Norm
from tw_lens.canonical.weights import Weights


@dataclass(frozen=True, eq=False)
class TokenPoints:
    """The points of all tokens, on the sphere of one layer's norm.

    Attributes:
        rows: the points in chunks, in the order of the token ids; zeros for tokens without one.
        at: the points of some tokens.
        mask: whether each token has a point; None where all have.
        key: equal for points that are the same.
    """

    rows: TokenVectorChunks
    at: Callable[[Int[Tensor, " words"]], Float[Tensor, "words d_model"]]
    mask: Bool[Tensor, " d_vocab"] | None
    key: tuple[Hashable, ...]


def token_points(
    weights: Weights, layer: int, norm: Norm, vocabulary: LayerVocabulary | None = None
) -> TokenPoints:
    """Return the points `N(W_E)` of a layer, or those of a layer vocabulary.

    Raises:
        ValueError: the vocabulary is of another model, or has no points for the layer.
    """
    if vocabulary is None:
        embedding = weights.vocabulary
        return TokenPoints(
            rows=embedding.on_sphere(norm),
            at=lambda ids: norm.sphere(embedding.embed(ids)),
            mask=None,
            key=(norm.kind, norm.eps),
        )
    vocabulary.require_model(weights)
    return TokenPoints(
        rows=vocabulary.rows(layer),
        at=lambda ids: vocabulary.at(layer, ids),
        mask=None if len(vocabulary) == weights.d_vocab else vocabulary.mask,
        key=(vocabulary, layer),
    )


def combined_mask(
    keep: Bool[Tensor, " d_vocab"] | None, points: TokenPoints
) -> Bool[Tensor, " d_vocab"] | None:
    """Return the tokens that a filter allows and that have a point; None for all."""
    masks = [mask for mask in (keep, points.mask) if mask is not None]
    return torch.stack(masks).all(0) if masks else None
