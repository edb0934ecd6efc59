"""A layer's normalisation: the projection onto the sphere, then the gain and the bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Norm:
    """One normalisation, `n(x) = gain * N(x) + bias`.

    `N(x) = sqrt(d) * Px / sqrt(|Px|^2 + d*eps)` with `P = I - 11^T/d` for LayerNorm (`centred`),
    `P = I` for RMSNorm. `gain` is the factor really applied (offset gains `1 + w` are resolved).

    Source: arXiv 2309.07315, section 3; `eps` is kept because scores are off by 1e-4 without it.
    """

    gain: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"]
    eps: float
    centred: bool

    @property
    def kind(self) -> Literal["LayerNorm", "RMSNorm"]:
        """The name of this kind of normalisation."""
        return "LayerNorm" if self.centred else "RMSNorm"

    @property
    def folded(self) -> bool:
        """Whether the gain is exactly one and the bias exactly zero (folded away, or untrained)."""
        return bool((self.gain == 1).all()) and bool((self.bias == 0).all())

    def project(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """`Px`: the part of `x` the norm can see (the mean removed for LayerNorm)."""
        return x - x.mean(-1, keepdim=True) if self.centred else x

    def sphere(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """`N(x)`: `x` on the sphere of radius sqrt(d), slightly inside it because of `eps`."""
        seen = self.project(x)
        return seen * (seen.square().mean(-1, keepdim=True) + self.eps).rsqrt()

    def affine(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """`n(x) = gain * N(x) + bias`: `x` on the ellipsoid the weight matrices read."""
        return self.sphere(x) * self.gain + self.bias

    def fold(
        self, W: Float[Tensor, "heads d_model d_head"]
    ) -> Float[Tensor, "heads d_model d_head"]:
        """`P diag(gain) W`: the matrix that reads `N(x)` instead of `n(x)`."""
        scaled = self.gain[:, None] * W
        return scaled - scaled.mean(-2, keepdim=True) if self.centred else scaled
