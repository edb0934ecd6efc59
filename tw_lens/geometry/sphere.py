"""Angles and tangents on the hypersphere."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def unit(x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
    """`x / |x|` (zero stays zero)."""
    return x / x.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)


def angle(a: Float[Tensor, "*batch d"], b: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
    """The angle between `a` and `b` in radians, exact for tiny angles too.

    `2 atan2(|u - v|, |u + v|)` for unit vectors u, v: an arccos would lose everything under 3e-4.
    """
    u, v = unit(a), unit(b)
    return 2 * torch.atan2((u - v).norm(dim=-1), (u + v).norm(dim=-1))


def log_map(
    at: Float[Tensor, "*batch d"], to: Float[Tensor, "*batch d"]
) -> Float[Tensor, "*batch d"]:
    """The tangent at `at` that leads to `to` along the great circle; its length is the angle."""
    u, v = unit(at), unit(to)
    tangent = v - (u * v).sum(-1, keepdim=True) * u
    return unit(tangent) * angle(at, to)[..., None]
