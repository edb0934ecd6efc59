"""The bottleneck of latent attention, the nonlinear part of its projections."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Bottleneck:
    """A normalised bottleneck inside a projection (DeepSeek's latent attention).

    With `W = W_down diag(gain) W_up` composed into one matrix, the projection is
    `n(x) W / r(x)`, `r(x) = sqrt(mean((n(x) W_down)^2) + eps)`: linear up to one number per
    position. `width` is the number of leading dimensions of a head that are divided (all for
    None).
    """

    W_down: Float[Tensor, "d_model rank"]
    eps: float
    width: int | None = None

    def normalise(
        self,
        projected: Float[Tensor, "position heads d_head"],
        n_x: Float[Tensor, "position d_model"],
    ) -> Float[Tensor, "position heads d_head"]:
        """Divide the projection of every position by its own `r(x)`."""
        r = ((n_x @ self.W_down).square().mean(-1) + self.eps).sqrt()[:, None, None]
        width = projected.shape[-1] if self.width is None else self.width
        return torch.cat([projected[..., :width] / r, projected[..., width:]], dim=-1)
