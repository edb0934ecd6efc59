"""Token points: where one layer's attention meets every token, from one source or another."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tw_lens.canonical.embedding import ROWS_AT_ONCE, TokenVectorChunks
from tw_lens.canonical.layer_vocabulary import LayerVocabulary, apply_affine_map
from tw_lens.canonical.sphere_projection import Norm
from tw_lens.canonical.weights import Weights
from tw_lens.devices import moved

TABLE_ENTRIES = 2**26  # the points of a layer are kept up to this size (256 MB)


@dataclass(frozen=True, eq=False)
class TokenPoints:
    """The points of all tokens, on the sphere of one layer's norm.

    Attributes:
        gather: the points of some tokens; zeros for tokens without one.
        rows: the points in chunks, in the order of the token ids; zeros for tokens without one.
        mask: whether each token has a point; None where all have.
        key: equal for points that are the same.
        source: the points of the tokens of the source, which keys and values of cross-attention
            read; None where they read the same points as queries.
    """

    gather: Callable[[Int[Tensor, " words"]], Float[Tensor, "words d_model"]]
    rows: TokenVectorChunks
    mask: Bool[Tensor, " d_vocab"] | None
    key: tuple[Hashable, ...]
    source: TokenPoints | None = None

    @property
    def keys(self) -> TokenPoints:
        """The points that keys and values read."""
        return self if self.source is None else self.source

    def at(self, token_index: Int[Tensor, " words"]) -> Float[Tensor, "words d_model"]:
        """Return the points of some tokens.

        Raises:
            ValueError: a token has no point.
        """
        if self.mask is not None and len(without := token_index[~self.mask[token_index]]):
            raise ValueError(
                f"token id {int(without[0])} has no point in the vocabulary ({len(without)} of "
                f"{len(token_index)} tokens): it stands too seldom in the corpus. Give more "
                'prompts, unseen="predicted", or other words.'
            )
        return self.gather(token_index)


def token_points(
    weights: Weights,
    layer: int,
    norm: Norm,
    vocabulary: LayerVocabulary | None = None,
    source_norm: Norm | None = None,
) -> TokenPoints:
    """Return the points `N(W_E)` of a layer, or those of a layer vocabulary.

    Args:
        weights: from `read_weights`.
        layer: index of the block.
        norm: through which the layer's queries read the stream.
        vocabulary: points of the tokens at this layer; their embeddings by default.
        source_norm: through which keys and values of cross-attention read the source.

    Raises:
        ValueError: the vocabulary is of another model, or has no points for the layer.
    """
    embedding = weights.vocabulary
    source = None if source_norm is None else _source_points(weights, source_norm, vocabulary)

    def embedded(ids: Tensor) -> Tensor:
        return embedding.met(ids, norm)

    if vocabulary is None:
        rows = embedding.on_sphere(norm)
        return TokenPoints(gather=embedded, rows=rows, mask=None, key=norm.key, source=source)
    vocabulary.require_model(weights)
    points, matrix, token_index, mask = moved(
        (
            vocabulary.of_layer(layer),
            vocabulary.map_of_layer(layer),
            vocabulary.token_index,
            vocabulary.mask,
        ),
        weights.device,
    )
    row = torch.full((weights.d_vocab,), -1, device=weights.device)
    row[token_index] = torch.arange(len(vocabulary), device=weights.device)

    def gather(ids: Tensor) -> Tensor:
        found, seen = points[row[ids].clamp_min(0)], row[ids] >= 0
        if matrix is None:
            return found * seen[:, None]
        if not seen.all():
            found[~seen] = apply_affine_map(embedded(ids[~seen]), matrix)
        return found

    everyone, kept = torch.arange(weights.d_vocab, device=weights.device), []
    keeps = len(everyone) * points.shape[1] <= TABLE_ENTRIES

    def rows() -> Iterator[Tensor]:
        if kept:
            yield from kept
            return
        chunks = []
        for ids in everyone.split(ROWS_AT_ONCE):
            chunk = gather(ids)
            chunks += [chunk] if keeps else []
            yield chunk
        kept[:] = chunks

    return TokenPoints(
        gather=gather,
        rows=rows,
        mask=None if bool(mask.all()) else mask,
        key=(vocabulary, layer),
    )


def _source_points(weights: Weights, norm: Norm, vocabulary: LayerVocabulary | None) -> TokenPoints:
    """Return the points `N(W_E)` of the encoder's tokens on the sphere of its final norm."""
    embedding = weights.source_vocabulary
    if vocabulary is not None or embedding is None:
        raise ValueError(
            "cross-attention reads tokens at their embeddings only, on both sides; leave "
            "vocabulary= out, or read the decoder's or the encoder's self-attention."
        )
    return TokenPoints(
        gather=lambda ids: embedding.met(ids, norm),
        rows=embedding.on_sphere(norm),
        mask=None,
        key=("source", *norm.key),
    )


def whole_vocabulary_points(
    weights: Weights, layer: int, vocabulary: LayerVocabulary | None
) -> TokenPoints:
    """Return the points of a layer, every token with one.

    Raises:
        ValueError: the vocabulary omits tokens, is of another model or has no such layer.
    """
    points = token_points(weights, layer, weights.block(layer).norm, vocabulary)
    if points.mask is not None:
        raise ValueError(
            f"the vocabulary has points for {int(points.mask.sum()):,} of {weights.d_vocab:,} "
            'tokens, and ranks need all of them: make it with unseen="predicted".'
        )
    return points


def combined_mask(
    keep: Bool[Tensor, " d_vocab"] | None, points: TokenPoints
) -> Bool[Tensor, " d_vocab"] | None:
    """Return the tokens that a filter allows and that have a point; None for all."""
    masks = [mask for mask in (keep, points.mask) if mask is not None]
    return torch.stack(masks).all(0) if masks else None
