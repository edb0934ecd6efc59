"""Near-degenerate singular subspaces, and the robustness of their tokens and signs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tw_lens.analyses.conventions import EXACT
from tw_lens.analyses.degenerate_subspaces import find_degenerate_subspaces
from tw_lens.analyses.head_directions import tokens_of_direction_pair
from tw_lens.analyses.token_filter import (
    TokenFilter,
    allowed_mask,
    filter_caveat,
    filter_summary,
)
from tw_lens.argument_kinds import require_index
from tw_lens.arguments import checked
from tw_lens.canonical import LayerVocabulary, TokenPoints, Weights
from tw_lens.devices import drawn
from tw_lens.errors import Caveat
from tw_lens.geometry import FactoredSVD, top_tokens_both_signs
from tw_lens.results.arguments import Circuit
from tw_lens.results.base import Result, head_columns

TokenIndex = Int[Tensor, "heads n k"]


@dataclass(frozen=True, repr=False, eq=False)
class DirectionDegeneracy(Result):
    """The leading directions of each head, in subspaces that rounding of the weights cannot split.

    `block[h, i]` is the first direction of the subspace that direction i belongs to; `open_ended`
    tells whether a head's last subspace continues beyond the listed directions. `spectral_gap` is
    `S_i - S_(i+1)` (for the last direction of all, its singular value); `perturbation_norm` is the
    norm of the rounding perturbation among these directions; `overlap_rotated` and
    `overlap_rounded` are shares of a subspace's tokens (left, right) that remain under rotations
    within the subspace and under rounding; `sign_margin` is the margin of the choice of sign; all
    are NaN where the singular value is 0.
    """

    model_name: str
    layer: int
    circuit: Circuit
    heads: tuple[int, ...]
    singular_value: Float[Tensor, "heads n"]
    spectral_gap: Float[Tensor, "heads n"]
    perturbation_norm: Float[Tensor, " heads"]
    subspace: tuple[tuple[int, ...], ...]
    open_ended: tuple[bool, ...]
    overlap_rotated: Float[Tensor, "2 heads n"]
    overlap_rounded: Float[Tensor, "2 heads n"]
    sign_margin: Float[Tensor, "heads n"]
    token_filter: TokenFilter | None = None
    caveats: tuple[Caveat, ...] = ()

    @checked
    def subspaces(self, index: int) -> list[list[int]]:
        """Return the directions of the head `heads[index]`, grouped by subspace."""
        row = self.subspace[require_index("index", index, len(self.heads))]
        return [
            [i for i, first in enumerate(row) if first == start] for start in dict.fromkeys(row)
        ]

    def headline(self) -> str:
        """Return the number of separate directions, and the share of tokens that rounding keeps."""
        subspaces = [part for index in range(len(self.heads)) for part in self.subspaces(index)]
        single = sum(len(part) == 1 for part in subspaces)
        overlap = 100 * float(self.overlap_rounded.nanmean())
        remain = (
            ""
            if math.isnan(overlap)
            else (f"; {overlap:.0f} % of the tokens remain after rounding to bfloat16")
        )
        return (
            f"{self.model_name} layer {self.layer} {self.circuit}: {single} of "
            f"{self.singular_value.numel()} directions are separate, the others form "
            f"{len(subspaces) - single} subspaces{remain}{filter_summary(self.token_filter)}"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per direction.

        Columns: layer, head, component, direction, singular_value, spectral_gap,
        perturbation_norm, subspace (its first and last direction, "3-5", with a plus where it
        continues beyond the listed directions), overlap_rotated_left, overlap_rotated_right,
        overlap_rounded_left, overlap_rounded_right, sign_margin.
        """
        rows = []
        for h, head in enumerate(self.heads):
            for part in self.subspaces(h):
                more = "+" if self.open_ended[h] and part[-1] == len(self.subspace[h]) - 1 else ""
                name = f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0])
                rows.extend(
                    (
                        *head_columns(self.layer, head, self.model_name).values(),
                        i,
                        float(self.singular_value[h, i]),
                        float(self.spectral_gap[h, i]),
                        float(self.perturbation_norm[h]),
                        name + more,
                        *self.overlap_rotated[:, h, i].tolist(),
                        *self.overlap_rounded[:, h, i].tolist(),
                        float(self.sign_margin[h, i]),
                    )
                    for i in part
                )
        names = ["layer", "head", "component", "direction", "singular_value", "spectral_gap",
                 "perturbation_norm", "subspace", "overlap_rotated_left", "overlap_rotated_right",
                 "overlap_rounded_left", "overlap_rounded_right", "sign_margin"]  # fmt: skip
        return pd.DataFrame(rows, columns=names)


@checked
def direction_degeneracy(
    weights: Weights,
    *,
    layer: int,
    circuit: Circuit = "QK",
    n: int = 20,
    k: int = 5,
    head: int | None = None,
    n_perturbations: int = 4,
    token_filter: TokenFilter | None = None,
    vocabulary: LayerVocabulary | None = None,
    seed: int = 0,
) -> DirectionDegeneracy:
    """Find the directions that rounding of the weights cannot separate, and test their tokens.

    Every weight is moved within half a step of bfloat16 (uniformly, so that weights that were
    stored in bfloat16 move too), and the perturbed matrix is projected on the leading directions:
    `E = U^T W' V - diag(S)`. Neighbouring directions whose gap `S_i - S_(i+1)` is at most the
    largest `|E|_2` of the perturbations (or the rounding of float32) form a near-degenerate
    subspace: within it the SVD may return any rotation. The tokens of a subspace are the union of
    its directions' lists; the shares of them that remain are measured under random rotations of
    the subspace and under the perturbed weights. The sign's margin is `|a - b| / max(a, b)`, with
    `a` and `b` the highest scores of any token along and against the right side: near 0 the
    opposite sign (and with it all tokens of the direction) is as plausible.

    Args:
        weights: from `read_weights`.
        layer: index of the block.
        circuit: "QK" or "OV".
        n: number of leading directions, at most d_head.
        k: tokens per direction and side.
        head: one head, or None for all.
        n_perturbations: number of random rotations, and of perturbations of the weights.
        token_filter: the tokens that may be listed, from `token_filter`; all by default. Signs and
            their margins are those of the whole vocabulary.
        vocabulary: points of the tokens at this layer, from `layer_vocabulary`; their embeddings
            by default.
        seed: of the rotations and perturbations.

    Raises:
        IndexError: the layer or the head does not exist.
        TypeError: an argument of another type.
        ValueError: unknown circuit, a count below one, or a filter that does not fit.

    Example:
        >>> direction_degeneracy(weights, layer=1, head=0, n=4).sign_margin.shape
        torch.Size([1, 4])

    Source: singular subspaces under perturbation, Wedin 1972.
    """
    keep = allowed_mask(weights, token_filter)
    block = weights.block(layer)
    points = EXACT.points(weights, block, vocabulary)
    heads = block.heads(head)
    result = find_degenerate_subspaces(
        block, heads, circuit, n=n, n_perturbations=n_perturbations, seed=seed
    )
    svd, first, n = result.svd, result.first, min(n, result.svd.S.shape[-1])
    tokens = _top_tokens(weights, points, circuit, svd, n, k, keep)
    generator = torch.Generator().manual_seed(seed)
    rotated = (_rotate(svd, first, n, generator) for _ in range(n_perturbations))
    listed, vanishing = [row[:n] for row in first], svd.vanishing[:, :n]

    def overlap(others: Iterable[FactoredSVD]) -> Float[Tensor, "2 heads n"]:
        lists = (_top_tokens(weights, points, circuit, other, n, k, keep) for other in others)
        return _mean_overlap(tokens, lists, listed).masked_fill(vanishing, torch.nan)

    return DirectionDegeneracy(
        model_name=weights.model_name,
        layer=layer,
        circuit=circuit,
        heads=tuple(heads),
        singular_value=svd.S[:, :n],
        spectral_gap=result.spectral_gap[:, :n],
        perturbation_norm=result.perturbation_norm,
        subspace=tuple(map(tuple, listed)),
        open_ended=tuple(n < len(row) and row[n] < n for row in first),
        overlap_rotated=overlap(rotated),
        overlap_rounded=overlap(result.moved),
        sign_margin=_sign_margin(weights, points, circuit, svd, n).masked_fill(
            vanishing, torch.nan
        ),
        token_filter=token_filter,
        caveats=weights.caveats + filter_caveat(token_filter),
    )


def _rotate(
    svd: FactoredSVD, first: list[list[int]], n: int, generator: torch.Generator
) -> FactoredSVD:
    """Return the SVD with each subspace turned by a random rotation on both sides."""
    left, right = svd.left.clone(), svd.right.clone()
    for h, row in enumerate(first):
        for start in set(row[:n]):
            index = [i for i, of in enumerate(row) if of == start]
            m = len(index)
            if m > 1:
                rotation = torch.linalg.qr(drawn(torch.randn, m, m, generator=generator))[0]
                left[h][:, index] = left[h][:, index] @ rotation
                right[h][:, index] = right[h][:, index] @ rotation
    return svd._replace(left=left, right=right)


def _top_tokens(
    weights: Weights,
    points: TokenPoints,
    circuit: Circuit,
    svd: FactoredSVD,
    n: int,
    k: int,
    keep: Bool[Tensor, " d_vocab"] | None,
) -> tuple[TokenIndex, TokenIndex]:
    """Return the top tokens of the left and the right sides of the leading n directions."""
    left, right = (side[..., :n].mT.flatten(0, 1) for side in (svd.left, svd.right))
    sides = tokens_of_direction_pair(weights, points, circuit, left, right, k, keep=keep)
    left_tokens, right_tokens = (side.token_index.unflatten(0, (-1, n)) for side in sides)
    return left_tokens, right_tokens


def _sign_margin(
    weights: Weights, points: TokenPoints, circuit: Circuit, svd: FactoredSVD, n: int
) -> Float[Tensor, "heads n"]:
    """Return `|a - b| / max(a, b)`: a, b the best scores along and against the right sides."""
    best = top_tokens_both_signs(
        svd.right[..., :n].mT.flatten(0, 1),
        points.rows if circuit == "QK" else weights.readout.directions(),
        1,
        relative=circuit == "OV",
    )
    a, b = best.along.score, best.against.score
    return ((a - b).abs() / a.maximum(b)).view(-1, n)


def _mean_overlap(
    tokens: tuple[TokenIndex, TokenIndex],
    others: Iterable[tuple[TokenIndex, TokenIndex]],
    first: list[list[int]],
) -> Float[Tensor, "2 heads n"]:
    """Return the share of each subspace's tokens that the others list too, their mean."""
    shares = [
        torch.stack([_overlap(*pair, first) for pair in zip(tokens, other, strict=True)])
        for other in others
    ]
    return torch.stack(shares).mean(0)


def _overlap(before: TokenIndex, after: TokenIndex, first: list[list[int]]) -> Tensor:
    """Return the share of each subspace's tokens before that are listed after."""
    shares = torch.empty(before.shape[:2])
    for h, row in enumerate(first):
        for start in set(row):
            index = [i for i, of in enumerate(row) if of == start]
            old = set(before[h, index].flatten().tolist())
            new = set(after[h, index].flatten().tolist())
            shares[h, index] = len(old & new) / len(old)
    return shares
