"""Rotary positions: the rotation that a model applies to queries and keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Tables = Callable[[int], tuple[Tensor, Tensor]]
"""`cos, sin` of shape `[n, pairs]` for positions 0 to n-1."""


@dataclass(frozen=True, eq=False)
class Rotary:
    """The rotation `R(p)` of a block, from the model's own tables of cosines and sines.

    Pair `i` is rotated by its own angle at each position. Pairs are `(i, i + pairs)` (half-split)
    or `(2i, 2i+1)` (`interleaved`), counted from dimension `start` of a head; the dimensions
    before and after do not rotate. `n_ctx` is the number of positions of the tables: the model's
    context. `q_i R(i-j) k_j^T = (q_i R(i)) (k_j R(j))^T`.
    """

    tables: Tables
    interleaved: bool
    start: int = 0
    n_ctx: int | None = None

    def rotate(
        self, x: Float[Tensor, "position heads d_head"]
    ) -> Float[Tensor, "position heads d_head"]:
        """Rotate the row at position `p` by `R(p)`."""
        cos, sin = (table.to(x)[:, None, :] for table in self.tables(x.shape[0]))
        return self._rotated(x, cos, sin)

    def turn(
        self, x: Float[Tensor, "*batch d_head"], distance: int
    ) -> Float[Tensor, "*batch d_head"]:
        """Return `x R(distance)`: every row rotated by one distance, with the tables' own factor.

        A query at distance `distance` after a key scores `(q R(distance)) k^T`. Tables scaled by a
        number `m` (YaRN) scale both queries and keys, so `R(0)` is `m^2` on the rotated pairs.
        """
        cos, sin = (table.to(x) for table in self.tables(abs(distance) + 1))
        size = cos[0]
        return self._rotated(x, cos[-1] * size, sin[-1] * size * (1 if distance >= 0 else -1))

    def _rotated(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        end = self.start + 2 * cos.shape[-1]
        before, pairs, after = x[..., : self.start], x[..., self.start : end], x[..., end:]
        if self.interleaved:
            first, second = pairs[..., 0::2], pairs[..., 1::2]
        else:
            first, second = pairs.chunk(2, dim=-1)
        pair = (first * cos - second * sin, second * cos + first * sin)
        rotated = torch.stack(pair, dim=-1).flatten(-2) if self.interleaved else torch.cat(pair, -1)
        return torch.cat([before, rotated, after], dim=-1)
