"""Angles and tangents on the unit hypersphere; `Norm.sphere` projects states onto a sphere."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def unit(x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
    """Return `x / |x|` (zero stays zero)."""
    return x / x.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)


def angle(a: Float[Tensor, "*batch d"], b: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
    """Return the angle between `a` and `b` in radians, accurate for tiny angles too.

    `2 atan2(|u - v|, |u + v|)` for unit vectors u, v; an arccos cannot resolve angles below 3e-4.
    """
    u, v = unit(a), unit(b)
    return 2 * torch.atan2((u - v).norm(dim=-1), (u + v).norm(dim=-1))


def log_map(
    base: Float[Tensor, "*batch d"], to: Float[Tensor, "*batch d"]
) -> Float[Tensor, "*batch d"]:
    """Return the tangent at `base` of the great circle to `to`; its length is the angle."""
    u, v = unit(base), unit(to)
    tangent = v - (u * v).sum(-1, keepdim=True) * u
    return unit(tangent) * angle(base, to)[..., None]
