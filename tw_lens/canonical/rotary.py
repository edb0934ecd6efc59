"""Rotary positions: the rotation a model applies to queries and keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Rotary:
    """The rotation `R(p)` of a block, as the model's own tables of cosines and sines.

    `tables(n)` gives `cos, sin` of shape `[n, rotary_dim]` for positions 0 to n-1. Pairs are
    `(i, i + rotary_dim/2)` (half-split) or `(2i, 2i+1)` (`interleaved`); dimensions beyond
    `rotary_dim` are left as they are. `q_i R(i-j) k_j^T = (q_i R(i)) (k_j R(j))^T`.
    """

    tables: Callable[[int], tuple[Tensor, Tensor]]
    rotary_dim: int
    interleaved: bool

    def rotate(
        self, x: Float[Tensor, "position heads d_head"]
    ) -> Float[Tensor, "position heads d_head"]:
        """Rotate the row at position `p` by `R(p)`."""
        cos, sin = (t.to(x)[:, None, :] for t in self.tables(x.shape[0]))
        turned, still = x[..., : self.rotary_dim], x[..., self.rotary_dim :]
        return torch.cat([turned * cos + self._quarter_turn(turned) * sin, still], dim=-1)

    def _quarter_turn(self, x: Tensor) -> Tensor:
        if self.interleaved:
            return torch.stack((-x[..., 1::2], x[..., 0::2]), dim=-1).flatten(-2)
        first, second = x.chunk(2, dim=-1)
        return torch.cat((-second, first), dim=-1)
