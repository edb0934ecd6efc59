"""Sums of states by token and layer, and the points that they give."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tw_lens.geometry import apply_affine_map, fit_affine_map

RELIABLE_COUNT = 10  # a token weighs n / (n + this) in the fit of the map


class SeenPoints(NamedTuple):
    """Points of the tokens that occur: ids, counts, and one tensor per layer."""

    token_index: Int[Tensor, " tokens"]
    counts: Int[Tensor, " tokens"]
    points: list[Float[Tensor, "tokens d_model"]]


class TokenSums:
    """Sums of states by token and layer; memory grows with the tokens that occur."""

    def __init__(self, d_vocab: int, d_model: int, n_layers: int) -> None:
        self.row = torch.full((d_vocab,), -1)
        self.count = torch.zeros(d_vocab, dtype=torch.long)
        self.total = torch.zeros(n_layers, 0, d_model)
        self.n_rows = 0

    def add(
        self, tokens: Int[Tensor, " states"], y: Float[Tensor, "layers states d_model"]
    ) -> None:
        """Add the states of some positions, one row of `y` per position."""
        new = tokens.unique()
        new = new[self.row[new] < 0]
        self.row[new] = torch.arange(self.n_rows, self.n_rows + len(new))
        self.n_rows += len(new)
        if self.n_rows > self.total.shape[1]:
            more = max(self.n_rows, 2 * self.total.shape[1]) - self.total.shape[1]
            blank = self.total.new_zeros(len(self.total), more, self.total.shape[2])
            self.total = torch.cat([self.total, blank], dim=1)
        self.total.index_add_(1, self.row[tokens], y)
        self.count.index_add_(0, tokens, torch.ones_like(tokens))

    def tensors(self) -> dict[str, Tensor]:
        """Return the sums as tensors, to save them."""
        return {
            "row": self.row,
            "count": self.count,
            "total": self.total[:, : self.n_rows].contiguous(),
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Continue from saved sums."""
        self.row, self.count = tensors["row"].clone(), tensors["count"].clone()
        self.total = tensors["total"].clone()
        self.n_rows = self.total.shape[1]

    def points(self, min_count: int, prior_count: float | int) -> SeenPoints:
        """Return means shrunk towards the layer's mean state by `prior_count` pseudo-counts."""
        seen, totals = self._seen(min_count)
        n_states = max(1, int(self.count.sum()))
        priors = (self.total[i].sum(0) / n_states for i in range(len(self.total)))
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
        rows = self.row[token_index]
        totals = [total[rows] for total in self.total]
        return SeenPoints(token_index, self.count[token_index], []), totals
