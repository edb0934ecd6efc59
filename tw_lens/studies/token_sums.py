"""Sums of states by token and layer, and the points that they give."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tw_lens.canonical import apply_affine_map
from tw_lens.geometry import fit_affine_map
from tw_lens.studies.token_rows import TokenRows

RELIABLE_COUNT = 10  # a token weighs n / (n + this) in the fit of the map


class SeenPoints(NamedTuple):
    """Points of the tokens that occur: ids, counts, and one tensor per layer."""

    token_index: Int[Tensor, " tokens"]
    counts: Int[Tensor, " tokens"]
    points: list[Float[Tensor, "tokens d_model"]]


class TokenSums:
    """Sums of states by token and layer; memory grows with the tokens that occur."""

    def __init__(self, d_vocab: int, d_model: int, n_layers: int) -> None:
        self.count = torch.zeros(d_vocab, dtype=torch.long)
        self.rows = TokenRows(d_vocab, d_model, n_layers)

    def add(
        self, tokens: Int[Tensor, " states"], y: Float[Tensor, "layers states d_model"]
    ) -> None:
        """Add the states of some positions, one row of `y` per position."""
        self.rows.add_tokens(tokens)
        self.rows.values.index_add_(1, self.rows.row[tokens], y)
        self.count.index_add_(0, tokens, torch.ones_like(tokens))

    def tensors(self) -> dict[str, Tensor]:
        """Return the sums as tensors, to save them."""
        return {
            "row": self.rows.row,
            "count": self.count,
            "total": self.rows.values.contiguous(),
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Continue from saved sums."""
        self.count = tensors["count"].clone()
        self.rows.restore(tensors["row"], tensors["total"])

    def points(self, min_count: int, prior_count: float | int) -> SeenPoints:
        """Return means shrunk towards the layer's mean state by `prior_count` pseudo-counts."""
        seen, totals = self._seen(min_count)
        n_states = max(1, int(self.count.sum()))
        priors = (total.sum(0) / n_states for total in self.rows.values)
        points = [
            (total + prior_count * prior) / (seen.counts + prior_count)[:, None]
            for total, prior in zip(totals, priors, strict=True)
        ]
        return seen._replace(points=points)

    def predicted_points(
        self,
        min_count: int,
        prior_count: float | int,
        embedded: list[Float[Tensor, "tokens d_model"]],
    ) -> tuple[SeenPoints, list[Float[Tensor, "d_and_1 d_model"]]]:
        """Return means shrunk towards a map of the embeddings, and the map of every layer.

        Args:
            min_count: tokens below it have no point of their own.
            prior_count: pseudo-counts of the prediction in every point.
            embedded: `N(W_E)` of the tokens that reach `min_count`, per layer.
        """
        seen, totals = self._seen(min_count)
        weight = seen.counts / (seen.counts + RELIABLE_COUNT)
        points, maps = [], []
        for total, x in zip(totals, embedded, strict=True):
            matrix = fit_affine_map(x, total / seen.counts[:, None], weight)
            prior = apply_affine_map(x, matrix)
            points.append((total + prior_count * prior) / (seen.counts + prior_count)[:, None])
            maps.append(matrix)
        return seen._replace(points=points), maps

    def seen(self, min_count: int) -> Int[Tensor, " tokens"]:
        """Return the ids of the tokens that reach the minimum count, ascending."""
        return (self.count >= min_count).nonzero().flatten()

    def _seen(self, min_count: int) -> tuple[SeenPoints, list[Tensor]]:
        token_index = self.seen(min_count)
        rows = self.rows.row[token_index]
        totals = [total[rows] for total in self.rows.values]
        return SeenPoints(token_index, self.count[token_index], []), totals
