"""Near-degenerate singular subspaces of a head, found by rounding its weights."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tw_lens.analyses.head_directions import head_svd
from tw_lens.canonical import Block
from tw_lens.geometry import FactoredSVD
from tw_lens.results.arguments import (
    Circuit,
)

BFLOAT16_STEPS = 7  # bits after the leading one


class DegenerateSubspaces(NamedTuple):
    """Heads' decompositions, and which of their directions rounding cannot part.

    `first[h][i]` is the first direction of the block that direction i of head h belongs to;
    `moved` are the decompositions after rounding, `perturbation_norm` how far it moves the matrix among the
    leading directions, `spectral_gap` the distance to the next singular value.
    """

    svd: FactoredSVD
    moved: list[FactoredSVD]
    perturbation_norm: Float[Tensor, " heads"]
    spectral_gap: Float[Tensor, "heads r"]
    first: list[list[int]]

    def named(self, h: int, direction: int) -> str:
        """A direction's block: "3", or "3-5" for three that are only known together."""
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
    """The part of `direction_degeneracy` that reads no words."""
    svd = head_svd(block, heads, circuit)
    n = min(n, svd.S.shape[-1])
    generator = torch.Generator().manual_seed(seed)
    moved = [
        head_svd(perturb_bfloat16(block, generator), heads, circuit) for _ in range(n_perturbations)
    ]
    noise = torch.stack([_moved_by(svd, other, n) for other in moved]).amax(0)
    eps = torch.finfo(svd.S.dtype).eps
    tolerance = noise.maximum(svd.S[:, 0] * eps * block.W_Q.shape[1] ** 0.5)
    gap = svd.S - torch.cat([svd.S[:, 1:], torch.zeros(len(heads), 1)], dim=-1)
    return DegenerateSubspaces(svd, moved, noise, gap, _first_of_block(gap > tolerance[:, None]))


def perturb_bfloat16(block: Block, generator: torch.Generator) -> Block:
    """The block with every weight moved within half a step of bfloat16."""

    def moved(W: Tensor) -> Tensor:
        step = torch.exp2(W.frexp().exponent - 1.0 - BFLOAT16_STEPS) * (W != 0)
        return W + step * (torch.rand(W.shape, generator=generator) - 0.5)

    names = ("W_Q", "W_K", "W_V", "W_O")
    return replace(block, **{name: moved(getattr(block, name)) for name in names})


def _moved_by(svd: FactoredSVD, other: FactoredSVD, n: int) -> Float[Tensor, " heads"]:
    """`|U^T W' V - diag(S)|_2` over the leading n directions."""
    U, V = svd.left[..., :n], svd.right[..., :n]
    seen = (U.mT @ other.left * other.S[:, None]) @ (other.right.mT @ V)
    return torch.linalg.matrix_norm(seen - torch.diag_embed(svd.S[:, :n]), ord=2)


def _first_of_block(parted: Bool[Tensor, "heads r"]) -> list[list[int]]:
    """For every direction the first one of its block; `parted[i]` parts i from i + 1."""
    found = []
    for row in parted.tolist():
        first = [0]
        for i in range(1, len(row)):
            first.append(i if row[i - 1] else first[-1])
        found.append(first)
    return found
