"""Singular value decomposition of products that are never multiplied out.

A matrix `L R^T` with `L [m, r]`, `R [n, r]` and r much smaller than m and n: two QR
decompositions leave an `r x r` core, whose SVD is rotated back.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class FactoredSVD(NamedTuple):
    """`left diag(S) right^T = L R^T`, batched over heads; columns are singular vectors."""

    left: Float[Tensor, "heads m r"]
    S: Float[Tensor, "heads r"]
    right: Float[Tensor, "heads n r"]

    @property
    def vanishing(self) -> Bool[Tensor, "heads r"]:
        """The directions of singular value 0 (up to rounding), whose vectors are arbitrary."""
        rounding = self.S.shape[-1] * torch.finfo(self.S.dtype).eps
        return (rounding * self.S[:, :1]).expand_as(self.S) >= self.S


def factored_svd(
    L: Float[Tensor, "heads m r"],
    R: Float[Tensor, "groups n r"],
    *,
    group_of_head: list[int] | None = None,
) -> FactoredSVD:
    """Decompose `L[h] R[g(h)]^T` for every head, in `O((m + n) r^2)`.

    Args:
        L: left factors, one per head.
        R: right factors, one per head or one per group of heads.
        group_of_head: the right factor of each head; head h uses h by default.
    """
    group = list(range(L.shape[0])) if group_of_head is None else group_of_head
    Q_L, R_L = torch.linalg.qr(L)
    Q_R, R_R = torch.linalg.qr(R)
    U, S, Vh = torch.linalg.svd(R_L @ R_R[group].mT)
    return FactoredSVD(left=Q_L @ U, S=S, right=Q_R[group] @ Vh.mT)


def spectrum_shares(S: Float[Tensor, "*heads n"]) -> Float[Tensor, "*heads n"]:
    """Return `S_i / sum(S)`; zeros for a spectrum of zeros."""
    return S / S.sum(-1, keepdim=True).clamp_min(torch.finfo(S.dtype).tiny)
