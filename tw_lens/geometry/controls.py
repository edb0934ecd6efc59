"""Random directions to compare with, how alike the vectors of a list are, and p-values by rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tw_lens.geometry.nearest import (
    Neighbours,
    chosen,
    nearest,
    nearest_of_both_signs,
)
from tw_lens.geometry.sphere import unit

Rows = Callable[[], Iterator[Tensor]]
AT_ONCE = 2**26
DECIMALS = 5  # the same words in another order must tie


def mean_pairwise_cosine(vectors: Float[Tensor, "lists k d"]) -> Float[Tensor, " lists"]:
    """The mean cosine over the k(k-1)/2 pairs of each list: `(|sum u|^2 - k) / (k (k - 1))`."""
    k = vectors.shape[1]
    total = unit(vectors).sum(1).square().sum(-1)
    return ((total - k) / (k * (k - 1))).round(decimals=DECIMALS)


def mean_cosine_between(
    left: Float[Tensor, "*lists k d"], right: Float[Tensor, "*lists k d"]
) -> Float[Tensor, "*lists"]:
    """The mean cosine over the k^2 pairs of a vector of one list and one of the other."""
    return (unit(left).mean(-2) * unit(right).mean(-2)).sum(-1)


def upper_p_values(
    observed: Float[Tensor, " observed"], controls: Float[Tensor, " controls"]
) -> Float[Tensor, " observed"]:
    """`(1 + #{controls >= observed}) / (1 + n)`: valid where all are exchangeable, ties included.

    NaN where the observed number is; controls that are NaN count as ties. P-values that share
    their controls are positively dependent, under which Benjamini-Hochberg stays valid.

    Source: Phipson and Smyth 2010; Bates et al. 2023 (arXiv 2104.08279) for shared controls.
    """
    ordered = controls.nan_to_num(nan=torch.inf).sort().values
    at_least = len(ordered) - torch.searchsorted(ordered, observed.contiguous(), right=False)
    p = (1 + at_least).to(torch.float32) / (1 + len(ordered))
    return p.masked_fill(observed.isnan(), torch.nan)


def covariance_directions(rows: Rows, n: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
    """Unit directions drawn from a normal distribution with the covariance of the rows.

    `sum_w z_w (p_w - mean)` with standard normal `z`: exact, without a d x d matrix.
    """
    made = weight = mean = torch.zeros(())
    count = 0
    for chunk in rows():
        z = torch.randn(n, len(chunk), generator=generator)
        made = made + z @ chunk
        weight = weight + z.sum(-1, keepdim=True)
        mean = mean + chunk.sum(0)
        count += len(chunk)
    return unit(made - weight * (mean / count))


def signed_by_rule(
    directions: Float[Tensor, "n d"],
    rows: Rows,
    k: int,
    *,
    relative: bool,
    keep: Tensor | None = None,
) -> Neighbours:
    """The words of the side of each direction that the sign rule keeps (as on right-hand sides)."""
    both = nearest_of_both_signs(directions, rows, k, relative=relative, keep=keep)
    return chosen(both.upright, both.along, both.against)


def nearest_within(
    bases: list[Float[Tensor, "d r"]],
    coefficients: Float[Tensor, "m r"],
    rows: Rows,
    k: int,
    *,
    by_rule: list[bool],
    relative: bool = False,
    keep: Tensor | None = None,
) -> Int[Tensor, "bases m k"]:
    """Top words of the directions `basis @ coefficients` of many subspaces of one rank.

    The words are projected on each subspace once, so a direction costs r and not d products per
    word. As many subspaces as fit into `AT_ONCE` numbers share a pass over the words.

    Args:
        bases: orthonormal bases, as columns.
        coefficients: the same random coefficients for every basis.
        rows: the words' vectors, in chunks.
        k: how many.
        by_rule: for every basis, whether the sign rule chooses each direction's sign
            (right-hand sides).
        relative: as in `nearest_of_both_signs`.
        keep: which words may be found.
    """
    found, todo, together = [], list(zip(bases, by_rule, strict=True)), 1
    while todo:
        batch, todo = todo[:together], todo[together:]
        inside: list[list[Tensor]] = [[] for _ in batch]
        for chunk in rows():
            for held, (basis, _) in zip(inside, batch, strict=True):
                held.append(chunk @ basis)
        for held, (_, signed) in zip(inside, batch, strict=True):
            if signed:
                words = signed_by_rule(coefficients, held.__iter__, k, relative=relative, keep=keep)
            else:
                words = nearest(coefficients, held.__iter__, k, keep=keep)
            found.append(words.token_index)
        together = max(1, AT_ONCE // sum(part.numel() for part in inside[0]))
    return torch.stack(found)
