"""The principal span of many vectors: the leading directions of their covariance."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.geometry.null_distributions import TokenVectorChunks


def principal_span(rows: TokenVectorChunks, variance: float) -> Float[Tensor, "d rank"]:
    """Return an orthonormal basis of the fewest principal components that hold a share of variance.

    One pass over the rows, in float64. Rows that do not vary have a span of rank 0.
    """
    n, first, second = 0, torch.zeros(()), torch.zeros(())
    for chunk in rows():
        x = chunk.double()
        n, first, second = n + len(x), first + x.sum(0), second + x.T @ x
    mean = first / n
    values, vectors = torch.linalg.eigh(second / n - torch.outer(mean, mean))
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    noise = len(values) * torch.finfo(torch.float32).eps * float(values[0])
    held = values[values > noise].cumsum(0)
    if not len(held):
        return vectors[:, :0].float()
    rank = 1 + int((held < variance * held[-1] * (1 - 1e-12)).sum())
    return vectors[:, : min(rank, len(held))].float()
