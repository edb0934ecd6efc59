"""Near-degenerate singular subspaces of a head, found by perturbing its weights."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tw_lens.analyses.head_directions import head_svd
from tw_lens.canonical import Block
from tw_lens.devices import drawn
from tw_lens.geometry import FactoredSVD
from tw_lens.results.arguments import Circuit

BFLOAT16_STEPS = 7  # bits after the leading one


class DegenerateSubspaces(NamedTuple):
    """Heads' decompositions, and the subspaces whose directions rounding cannot separate.

    `first[h][i]` is the first direction of the subspace that direction i of head h belongs to;
    `moved` are the decompositions of the perturbed weights; `perturbation_norm` is the norm of the
    perturbation among the leading directions; `spectral_gap` is the distance to the next singular
    value.
    """

    svd: FactoredSVD
    moved: list[FactoredSVD]
    perturbation_norm: Float[Tensor, " heads"]
    spectral_gap: Float[Tensor, "heads r"]
    first: list[list[int]]

    def label(self, h: int, direction: int) -> str:
        """Return the label of a direction's subspace: "3", or "3-5" for three directions."""
        row = self.first[h]
        last = len(row) - 1 - row[::-1].index(row[direction])
        return f"{row[direction]}-{last}" if last > row[direction] else str(direction)


def find_degenerate_subspaces(
    block: Block,
    heads: list[int],
    circuit: Circuit,
    *,
    n: int,
    n_perturbations: int = 4,
    seed: int = 0,
) -> DegenerateSubspaces:
    """Find near-degenerate subspaces without decoding tokens (see `direction_degeneracy`)."""
    svd = head_svd(block, heads, circuit)
    n = min(n, svd.S.shape[-1])
    generator = torch.Generator().manual_seed(seed)
    moved = [
        head_svd(perturb_bfloat16(block, generator), heads, circuit) for _ in range(n_perturbations)
    ]
    norm = torch.stack([_perturbation_norm(svd, other, n) for other in moved]).amax(0)
    eps = torch.finfo(svd.S.dtype).eps
    tolerance = norm.maximum(svd.S[:, 0] * eps * block.W_Q.shape[1] ** 0.5)
    gap = svd.S - torch.cat([svd.S[:, 1:], torch.zeros(len(heads), 1)], dim=-1)
    return DegenerateSubspaces(svd, moved, norm, gap, _first_direction(gap > tolerance[:, None]))


def perturb_bfloat16(block: Block, generator: torch.Generator) -> Block:
    """Return the block with every weight moved uniformly within half a step of bfloat16."""

    def moved(W: Tensor) -> Tensor:
        step = torch.exp2(W.frexp().exponent - 1.0 - BFLOAT16_STEPS) * (W != 0)
        return W + step * (drawn(torch.rand, W.shape, generator=generator) - 0.5)

    names = ("W_Q", "W_K", "W_V", "W_O")
    return replace(block, **{name: moved(getattr(block, name)) for name in names})


def _perturbation_norm(svd: FactoredSVD, other: FactoredSVD, n: int) -> Float[Tensor, " heads"]:
    """Return `|U^T W' V - diag(S)|_2` over the leading n directions."""
    U, V = svd.left[..., :n], svd.right[..., :n]
    projected = (U.mT @ other.left * other.S[:, None]) @ (other.right.mT @ V)
    return torch.linalg.matrix_norm(projected - torch.diag_embed(svd.S[:, :n]), ord=2)


def _first_direction(separated: Bool[Tensor, "heads r"]) -> list[list[int]]:
    """Return the first direction of each direction's subspace.

    `separated[i]`: direction i is separated from i + 1.
    """
    result = []
    for row in separated.tolist():
        first = [0]
        for i in range(1, len(row)):
            first.append(i if row[i - 1] else first[-1])
        result.append(first)
    return result
