"""Normalisations of the residual stream (the projection onto the sphere) and of heads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Norm:
    """One normalisation, `n(x) = gain * N(x) + bias`.

    `N(x) = sqrt(d) * Px / sqrt(|Px|^2 + d*eps)` with `P = I - 11^T/d` for LayerNorm (`centred`),
    `P = I` for RMSNorm. `gain` is the factor that is applied (offset gains `1 + w` are resolved).
    A block that reads the residual stream without a norm (OLMo 2, BERT) has `Norm.none(d)`:
    `N(x) = x`.

    Source: arXiv 2309.07315, section 3; `eps` is kept because scores are off by 1e-4 without it.
    """

    gain: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"]
    eps: float
    centred: bool
    normalises: bool = True

    @classmethod
    def none(cls, d_model: int) -> Norm:
        """Return the identity, `N(x) = x`."""
        blank = torch.zeros(d_model)
        return cls(gain=blank + 1, bias=blank, eps=0.0, centred=False, normalises=False)

    @property
    def kind(self) -> Literal["LayerNorm", "RMSNorm", "none"]:
        """The name of this kind of normalisation."""
        return "none" if not self.normalises else "LayerNorm" if self.centred else "RMSNorm"

    @property
    def key(self) -> tuple[str, float]:
        """Equal for norms with the same `N(x)`."""
        return self.kind, self.eps

    @property
    def folded(self) -> bool:
        """Return whether the gain is one and the bias zero, exactly (folded away, or untrained)."""
        return bool((self.gain == 1).all()) and bool((self.bias == 0).all())

    def project(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Return `Px`: `x` without its mean for LayerNorm, `x` for RMSNorm."""
        return x - x.mean(-1, keepdim=True) if self.centred else x

    def sphere(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Return `N(x)`: `x` on the sphere of radius sqrt(d), slightly inside because of `eps`."""
        if not self.normalises:
            return x
        if self.centred:
            return torch.nn.functional.layer_norm(x, x.shape[-1:], eps=self.eps)
        mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square() / x.shape[-1]
        return x * (mean_square + self.eps).rsqrt()

    def __call__(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Return `n(x) = gain * N(x) + bias`: `x` on the ellipsoid that weight matrices read."""
        return self.affine(self.sphere(x))

    def affine(self, y: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Return `gain * y + bias` for points of the sphere."""
        return y * self.gain + self.bias

    def linear_at(
        self, x: Float[Tensor, "*batch d_model"]
    ) -> Callable[[Float[Tensor, "*more d_model"]], Float[Tensor, "*more d_model"]]:
        """Return the norm without its bias as a linear map, with the divisor of `x`.

        `n(x) = linear_at(x)(x) + bias`, and the images of the parts of a sum add up.
        """
        if not self.normalises:
            return lambda part: part
        divisor = (self.project(x).square().mean(-1, keepdim=True) + self.eps).sqrt()
        return lambda part: self.project(part) / divisor * self.gain

    def adjoint_at(
        self, x: Float[Tensor, "*batch d_model"]
    ) -> Callable[[Float[Tensor, "*batch d_model"]], Float[Tensor, "*batch d_model"]]:
        """Return the transpose of `linear_at(x)`: `<linear(part), u> = <part, adjoint(u)>`."""
        if not self.normalises:
            return lambda direction: direction
        divisor = (self.project(x).square().mean(-1, keepdim=True) + self.eps).sqrt()
        return lambda direction: self.project(direction * self.gain / divisor)

    def fold(
        self, W: Float[Tensor, "heads d_model d_head"]
    ) -> Float[Tensor, "heads d_model d_head"]:
        """Return `P diag(gain) W`, the matrix that reads `N(x)` instead of `n(x)`."""
        scaled = self.gain[:, None] * W
        return scaled - scaled.mean(-2, keepdim=True) if self.centred else scaled


@dataclass(frozen=True, eq=False)
class HeadNorm:
    """A normalisation of queries, keys or values: head by head, or `across` all heads at once.

    `gain` and `bias` have the shape that the model stores: `[d_head]` (one for all heads),
    `[heads, d_head]`, or, `across`, `[heads * d_head]`.
    """

    gain: Float[Tensor, "*shape"]
    bias: Float[Tensor, "*shape"]
    eps: float
    centred: bool
    across: bool

    def __call__(self, x: Float[Tensor, "*batch heads d_head"]) -> Tensor:
        """Normalise `x`, head by head or all heads together."""
        y = x.flatten(-2) if self.across else x
        if self.centred:
            y = y - y.mean(-1, keepdim=True)
        y = y * (y.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        return (y * self.gain + self.bias).reshape(x.shape)

    def linear_at(
        self, x: Float[Tensor, "position heads d_head"], head: int
    ) -> Callable[[Float[Tensor, "position parts d_head"]], Tensor]:
        """Return one head's normalisation without its bias as a linear map, with `x`'s divisor.

        Raises:
            ValueError: all heads are centred at once, so that no head has a map of its own.
        """
        if self.across and self.centred:
            raise ValueError(
                "a norm that centres all heads together gives no head a map of its own; only the "
                "whole layer can be decomposed."
            )
        y = x.flatten(-2)[:, None] if self.across else x
        y = y - y.mean(-1, keepdim=True) if self.centred else y
        divisor = (y.square().mean(-1, keepdim=True) + self.eps).sqrt()
        divisor = divisor[:, 0 if self.across else head, None]
        gain = self.gains(*x.shape[-2:])[head]
        return lambda part: (
            (part - part.mean(-1, keepdim=True) if self.centred else part) / divisor * gain
        )

    def fold(self, W: Float[Tensor, "heads rows d_head"]) -> Float[Tensor, "heads rows d_head"]:
        """Return `W P diag(gain)`: the norm applied to a head's matrix, without its divisor.

        A norm that centres all heads at once has no `P` for one head; only its gain is applied.
        """
        if self.centred and not self.across:
            W = W - W.mean(-1, keepdim=True)
        return W * self.gains(len(W), W.shape[-1])[:, None]

    def gains(self, heads: int, d_head: int) -> Float[Tensor, "heads d_head"]:
        """Return the gain of every head and dimension."""
        gain = self.gain.reshape(heads, d_head) if self.across else self.gain
        return gain.expand(heads, d_head)
