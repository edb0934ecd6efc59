"""Leading singular directions of all heads of a layer, and their tokens for many layers at once."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tw_lens.analyses.head_directions import (
    compare_sides_with_null,
    head_svd,
    tokens_of_direction_pair,
    with_readout_of_score,
)
from tw_lens.canonical import LayerVocabulary, TokenPoints, Weights, token_points
from tw_lens.geometry import TopTokens, spectrum_shares
from tw_lens.results.arguments import CIRCUITS, Circuit, Score
from tw_lens.results.token_lists import NullComparison

Entry = tuple[int, int, Circuit, int]


class LayerDirections(NamedTuple):
    """A circuit's leading directions of one layer.

    `sphere` is the circuit and the key of the points. Layers with the same `sphere` have the same
    points (`N(W_E)` does not depend on the gain), and share one pass over the vocabulary. The
    points of one layer at a time are made, by `points_of`, because their table is large.
    """

    sphere: tuple[Circuit, tuple[Hashable, ...]]
    points_of: Callable[[], TokenPoints]
    score: Score
    entries: list[Entry]
    S: Float[Tensor, " directions"]
    share: Float[Tensor, " directions"]
    vanishing: Bool[Tensor, " directions"]
    left: Float[Tensor, "directions d_model"]
    right: Float[Tensor, "directions d_model"]


def leading_directions(
    weights: Weights, layer: int, n: int, vocabulary: LayerVocabulary | None, score: Score
) -> list[LayerDirections]:
    """Return the n leading directions of both circuits of every head of a layer."""
    block, parts = weights.attention_block(layer), []
    points_of = partial(token_points, weights, layer, block.norm, vocabulary, block.source_norm)
    key = points_of().key
    for circuit in CIRCUITS:
        own = score if circuit == "OV" else "dot"
        svd = head_svd(block, list(range(block.n_heads)), circuit)
        m = min(n, svd.S.shape[-1])
        parts.append(
            LayerDirections(
                sphere=(circuit, key if own == "dot" else (*key, layer)),
                points_of=points_of,
                score=own,
                entries=[(layer, h, circuit, i) for h in range(block.n_heads) for i in range(m)],
                S=svd.S[:, :m].flatten(),
                share=spectrum_shares(svd.S)[:, :m].flatten(),
                vanishing=svd.vanishing[:, :m].flatten(),
                left=svd.left[..., :m].mT.flatten(0, 1),
                right=svd.right[..., :m].mT.flatten(0, 1),
            )
        )
    return parts


def tokens_of_directions(
    weights: Weights, group: list[LayerDirections], k: int, keep: Bool[Tensor, " d_vocab"] | None
) -> tuple[tuple[TopTokens, TopTokens], tuple[NullComparison | None, NullComparison | None]]:
    """Return the tokens and the null comparisons of both sides of directions on one sphere."""
    left = torch.cat([part.left for part in group])
    right = torch.cat([part.right for part in group])
    vanishing = torch.cat([part.vanishing for part in group])
    circuit, points = group[0].sphere[0], group[0].points_of()
    block = weights.attention_block(group[0].entries[0][0])
    written = with_readout_of_score(weights, block, points, group[0].score)
    lists = tokens_of_direction_pair(
        written, points, circuit, left, right, k, keep=keep, vanishing=vanishing
    )
    return lists, compare_sides_with_null(weights, written, points, circuit, *lists, keep)
