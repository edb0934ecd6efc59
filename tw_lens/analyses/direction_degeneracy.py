"""Which directions are only known together? Blocks, and how firm their words and signs are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses.conventions import EXACT
from tw_lens.analyses.degenerate_subspaces import find_degenerate_subspaces
from tw_lens.analyses.head_directions import tokens_of_direction_pair
from tw_lens.canonical import Block, Weights
from tw_lens.errors import Caveat
from tw_lens.geometry import FactoredSVD, top_tokens_both_signs
from tw_lens.results.arguments import (
    CIRCUITS,
    Circuit,
    require_choice,
    require_positive,
    require_weights,
)
from tw_lens.results.base import Result, head_columns


@dataclass(frozen=True, repr=False, eq=False)
class DirectionDegeneracy(Result):
    """The leading directions of each head in blocks that the weights' precision cannot part.

    `block[h, i]` is the first direction of the block that direction i belongs to; `spectral_gap` is
    `S_i - S_(i+1)` (the last of all has its own value); `perturbation_norm` is how far rounding moves the
    matrix among these directions; `overlap_rotated` and `overlap_rounded` are shares of a block's words
    (left, right); `sign_margin` says how clear the choice of the sign was.
    """

    model_name: str
    layer: int
    circuit: Circuit
    heads: tuple[int, ...]
    singular_value: Float[Tensor, "heads n"]
    spectral_gap: Float[Tensor, "heads n"]
    perturbation_norm: Float[Tensor, " heads"]
    block: tuple[tuple[int, ...], ...]
    open_ended: tuple[bool, ...]
    overlap_rotated: Float[Tensor, "2 heads n"]
    overlap_rounded: Float[Tensor, "2 heads n"]
    sign_margin: Float[Tensor, "heads n"]
    caveats: tuple[Caveat, ...] = ()

    def blocks(self, at: int) -> list[list[int]]:
        """The directions of one of the `heads`, block by block."""
        return [
            [i for i, of in enumerate(self.block[at]) if of == first]
            for first in dict.fromkeys(self.block[at])
        ]

    def headline(self) -> str:
        """How many directions stand alone, and how many words survive rounding."""
        every = [block for at in range(len(self.heads)) for block in self.blocks(at)]
        alone = sum(len(block) == 1 for block in every)
        return (
            f"{self.model_name} layer {self.layer} {self.circuit}: {alone} of "
            f"{self.singular_value.numel()} directions stand alone, the others in "
            f"{len(every) - alone} blocks; {100 * float(self.overlap_rounded.mean()):.0f} % of the "
            "words survive rounding to bfloat16"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """One row per direction.

        Columns: layer, head, component, direction, singular_value, gap, noise, block (its first and last
        direction, "3-5"; a plus where it goes on behind the last one listed), overlap_rotated_left,
        overlap_rotated_right, overlap_rounded_left, overlap_rounded_right, sign_margin.
        """
        rows = []
        for h, head in enumerate(self.heads):
            for block in self.blocks(h):
                more = "+" if self.open_ended[h] and block[-1] == len(self.block[h]) - 1 else ""
                name = f"{block[0]}-{block[-1]}" if len(block) > 1 else str(block[0])
                for i in block:
                    numbers = (
                        self.singular_value[h, i],
                        self.spectral_gap[h, i],
                        self.perturbation_norm[h],
                        *self.overlap_rotated[:, h, i],
                        *self.overlap_rounded[:, h, i],
                        self.sign_margin[h, i],
                    )
                    S, gap, noise, *shares = map(float, numbers)
                    rows.append(
                        (
                            *head_columns(self.layer, head).values(),
                            i,
                            S,
                            gap,
                            noise,
                            name + more,
                            *shares,
                        )
                    )
        names = ["layer", "head", "component", "direction", "singular_value", "spectral_gap", "perturbation_norm", "subspace",
                 "overlap_rotated_left", "overlap_rotated_right", "overlap_rounded_left",
                 "overlap_rounded_right", "sign_margin"]  # fmt: skip
        return pd.DataFrame(rows, columns=names)


@require_weights
def direction_degeneracy(
    weights: Weights,
    *,
    layer: int,
    circuit: Circuit = "QK",
    n: int = 20,
    k: int = 5,
    head: int | None = None,
    n_perturbations: int = 4,
    seed: int = 0,
) -> DirectionDegeneracy:
    """Which leading directions does the precision of the weights really tell apart?

    Every weight is moved within half a step of bfloat16 (uniformly, so that weights that were
    stored in bfloat16 move too), and the matrix is seen from the leading directions:
    `E = U^T W' V - diag(S)`. TopTokens whose gap `S_i - S_(i+1)` is at most the largest `|E|_2` of
    the draws (or the rounding of float32) form a block: within it the decomposition may return any
    rotation. The words of a block are the union of its directions' lists; shares of them that stay
    are measured under random rotations of the block and under the moved weights. The sign's margin
    is `|a - b| / max(a, b)`, with `a` and `b` the highest scores of any word along and against the
    right side: near 0 the sign (and with it all words) might as well be the other.

    Args:
        weights: from `read_weights`.
        layer: which block of the model.
        circuit: "QK" or "OV".
        n: leading directions.
        k: words per direction and side.
        head: one head, or None for all.
        n_perturbations: how many rotations, and how many sets of moved weights.
        seed: of the draws.

    Raises:
        IndexError: the layer or the head does not exist.
        ValueError: unknown circuit, counts below one.

    Example:
        >>> direction_degeneracy(weights, layer=1, head=0, n=4).sign_margin.shape
        torch.Size([1, 4])

    Source: singular subspaces under perturbation, Wedin 1972.
    """
    require_choice("circuit", circuit, CIRCUITS)
    for name, given in (("n", n), ("k", k), ("n_perturbations", n_perturbations)):
        require_positive(name, given)
    block = weights.block(layer)
    heads = block.heads(head)
    found = find_degenerate_subspaces(
        block, heads, circuit, n=n, n_perturbations=n_perturbations, seed=seed
    )
    svd, first, n = found.svd, found.first, min(n, found.svd.S.shape[-1])
    words = _words(weights, block, circuit, svd, n, k)
    generator = torch.Generator().manual_seed(seed)
    rotated = (_rotated(svd, first, n, generator) for _ in range(n_perturbations))
    margins = top_tokens_both_signs(
        svd.right[..., :n].mT.flatten(0, 1),
        weights.vocabulary.on_sphere(block.norm)
        if circuit == "QK"
        else weights.readout.directions(),
        1,
        relative=circuit == "OV",
    )
    a, b = margins.along.score, margins.against.score
    inside = [row[:n] for row in first]
    return DirectionDegeneracy(
        model_name=weights.model_name,
        layer=layer,
        circuit=circuit,
        heads=tuple(heads),
        singular_value=svd.S[:, :n],
        spectral_gap=found.spectral_gap[:, :n],
        perturbation_norm=found.perturbation_norm,
        block=tuple(map(tuple, inside)),
        open_ended=tuple(n < len(row) and row[n] < n for row in first),
        overlap_rotated=_token_overlap(weights, block, circuit, rotated, words, inside),
        overlap_rounded=_token_overlap(weights, block, circuit, found.moved, words, inside),
        sign_margin=((a - b).abs() / a.maximum(b)).view(len(heads), n),
        caveats=weights.caveats,
    )


def _rotated(
    svd: FactoredSVD, first: list[list[int]], n: int, generator: torch.Generator
) -> FactoredSVD:
    """The same matrix up to the noise: each block turned by a random rotation on both sides."""
    left, right = svd.left.clone(), svd.right.clone()
    for h, row in enumerate(first):
        for start in set(row[:n]):
            at = [i for i, of in enumerate(row) if of == start]
            if len(at) > 1:
                turn = torch.linalg.qr(torch.randn(len(at), len(at), generator=generator))[0]
                left[h][:, at], right[h][:, at] = left[h][:, at] @ turn, right[h][:, at] @ turn
    return svd._replace(left=left, right=right)


def _words(
    weights: Weights, block: Block, circuit: Circuit, svd: FactoredSVD, n: int, k: int
) -> tuple[Tensor, Tensor]:
    sides = (side[..., :n].mT.flatten(0, 1) for side in (svd.left, svd.right))
    found = tokens_of_direction_pair(weights, EXACT.points(weights, block), circuit, *sides, k)
    return tuple(words.token_index.unflatten(0, (-1, n)) for words in found)


def _token_overlap(
    weights: Weights,
    block: Block,
    circuit: Circuit,
    others: list[FactoredSVD] | Iterator[FactoredSVD],
    words: tuple[Tensor, Tensor],
    first: list[list[int]],
) -> Float[Tensor, "2 heads n"]:
    """The share of each block's words that are still there, a mean over the draws."""
    _, n, k = words[0].shape
    shares = []
    for other in others:
        now = _words(weights, block, circuit, other, n, k)
        shares.append(
            torch.stack([_still_there(*pair, first) for pair in zip(words, now, strict=True)])
        )
    return torch.stack(shares).mean(0)


def _still_there(before: Tensor, after: Tensor, first: list[list[int]]) -> Tensor:
    shares = torch.empty(before.shape[:2])
    for h, row in enumerate(first):
        for start in set(row):
            at = [i for i, of in enumerate(row) if of == start]
            old, new = set(before[h, at].flatten().tolist()), set(after[h, at].flatten().tolist())
            shares[h, at] = len(old & new) / len(old)
    return shares
