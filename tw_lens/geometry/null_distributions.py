"""Null distributions: random directions, mean pairwise cosine, and p-values by rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tw_lens.devices import drawn
from tw_lens.geometry.angles import unit
from tw_lens.geometry.top_tokens import TopTokens, select, top_tokens_both_signs

TokenVectorChunks = Callable[[], Iterator[Tensor]]
DECIMALS = 5  # the same tokens in another order must tie


def mean_pairwise_cosine(vectors: Float[Tensor, "lists k d"]) -> Float[Tensor, " lists"]:
    """Return each list's mean cosine over its pairs, `(|sum u|^2 - k) / (k (k - 1))`."""
    k = vectors.shape[1]
    total = unit(vectors).sum(1).square().sum(-1)
    return ((total - k) / (k * (k - 1))).round(decimals=DECIMALS)


def upper_p_values(
    observed: Float[Tensor, " observed"], controls: Float[Tensor, " controls"]
) -> Float[Tensor, " observed"]:
    """Return `(1 + #{controls >= observed}) / (1 + n)`, valid under exchangeability, ties too.

    NaN where the observed value is NaN; controls that are NaN count as ties. P-values that share
    their controls are positively dependent, under which Benjamini-Hochberg stays valid.

    Source: Phipson and Smyth 2010; Bates et al. 2023 (arXiv 2104.08279) for shared controls.
    """
    ordered = controls.nan_to_num(nan=torch.inf).sort().values
    at_least = len(ordered) - torch.searchsorted(ordered, observed.contiguous(), right=False)
    p = (1 + at_least).to(torch.float32) / (1 + len(ordered))
    return p.masked_fill(observed.isnan(), torch.nan)


def random_directions_like(
    rows: TokenVectorChunks, n: int, generator: torch.Generator
) -> Float[Tensor, "n d"]:
    """Sample unit directions from a normal distribution with the covariance of the rows.

    `sum_w z_w (p_w - mean)` with standard normal `z`: exact, without a d x d matrix.
    """
    total = weight = mean = torch.zeros(())
    count = 0
    for chunk in rows():
        z = drawn(torch.randn, n, len(chunk), generator=generator)
        total = total + z @ chunk
        weight = weight + z.sum(-1, keepdim=True)
        mean = mean + chunk.sum(0)
        count += len(chunk)
    return unit(total - weight * (mean / count))


def top_tokens_signed(
    directions: Float[Tensor, "n d"],
    rows: TokenVectorChunks,
    k: int,
    *,
    relative: bool,
    keep: Bool[Tensor, " words"] | None = None,
) -> TopTokens:
    """Return the top tokens along each direction, signed by the rule for right-hand sides."""
    both = top_tokens_both_signs(directions, rows, k, relative=relative, keep=keep)
    return select(both.positive, both.along, both.against)


def random_directions_in_span(
    factors: Float[Tensor, "heads d r"], n: int, generator: torch.Generator
) -> Float[Tensor, "heads n d"]:
    """Sample unit directions, uniform in the span of each factor's columns."""
    bases = torch.linalg.qr(factors)[0]
    inside = drawn(torch.randn, len(bases), n, bases.shape[-1], generator=generator)
    return unit(inside @ bases.mT)


def random_orthonormal(
    n: int, width: int, directions: int, generator: torch.Generator
) -> Float[Tensor, "n width directions"]:
    """Sample orthonormal frames, uniform among all (Haar measure)."""
    sample = drawn(torch.randn, n, width, directions, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(sample)[0]


def match_singular_values(
    frame: Float[Tensor, "r k"], S: Float[Tensor, " r"], strengths: Float[Tensor, " k"]
) -> tuple[Float[Tensor, "r k"], Float[Tensor, " k"]]:
    """Return directions in a frame's span, and factors that give them chosen singular values.

    `frame frame^T diag(S) = U diag(t) V^T`: returned are `U` and `strengths / t`. Multiplied by
    these factors, the part of the matrix that the frame reads has `strengths` as singular values,
    and so their rank and their energy (Frobenius norm).
    """
    left, t, _ = torch.linalg.svd(frame.mT * S, full_matrices=False)
    least = torch.finfo(t.dtype).eps * S.max()
    return frame @ left, torch.where(t > least, strengths / t, 0.0)
