"""Singular vectors of a head's W_QK and W_OV, and their tokens on both sides."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tw_lens.analyses.conventions import EXACT, ConventionRules
from tw_lens.analyses.null_directions import SIDES, compare_with_null, readout_kind_of
from tw_lens.canonical import Block, Norm, Weights
from tw_lens.geometry import (
    FactoredSVD,
    TopTokens,
    factored_svd,
    select,
    top_tokens_both_signs,
)
from tw_lens.results.arguments import Circuit
from tw_lens.results.token_lists import NullComparison


def head_svd(
    block: Block,
    heads: list[int],
    circuit: Circuit,
    rules: ConventionRules = EXACT,
    *,
    distance: int = 0,
) -> FactoredSVD:
    """Singular values and vectors of some heads' W_QK or W_OV (see `head_spectrum`)."""
    kv = [block.kv_head[h] for h in heads]
    if circuit == "QK":
        L, R = rules.qk_factors(block, distance)
        return factored_svd(L[heads], R, group_of_head=kv)
    V, O = rules.ov_factors(block)
    return factored_svd(V[kv], O[heads])


def compare_sides_with_null(
    weights: Weights,
    norm: Norm,
    circuit: Circuit,
    left: TopTokens,
    right: TopTokens,
    keep: Bool[Tensor, " d_vocab"] | None,
) -> tuple[NullComparison | None, NullComparison | None]:
    """The control beside the words of both sides (see `tokens_of_direction_pair`)."""
    return tuple(
        compare_with_null(weights, found, readout_kind_of((circuit, side)), norm, keep)
        for side, found in zip(SIDES, (left, right), strict=True)
    )


def tokens_of_direction_pair(
    weights: Weights,
    norm: Norm,
    circuit: Circuit,
    left: Float[Tensor, "directions d_model"],
    right: Float[Tensor, "directions d_model"],
    k: int,
    *,
    rules: ConventionRules = EXACT,
    keep: Bool[Tensor, " d_vocab"] | None = None,
) -> tuple[TopTokens, TopTokens]:
    """The tokens of both sides, each pair's sign chosen by the whole right-hand vocabulary.

    `norm` is the norm that the heads of these directions read through.
    """
    points, n = rules.points(weights, norm), len(left)
    if circuit == "QK":  # one vocabulary for both sides: one pass over it
        both = top_tokens_both_signs(torch.cat([left, right]), points, k, keep=keep)
        tokens = select(both.positive[n:].repeat(2), both.along, both.against)
        return tokens.of(slice(n)), tokens.of(slice(n, None))
    table = rules.output_tokens(weights)
    read = top_tokens_both_signs(left, points, k, keep=keep)
    written = top_tokens_both_signs(
        table.pull_back(right), table.rows, k, relative=table.relative, keep=keep
    )
    return (
        select(written.positive, read.along, read.against),
        select(written.positive, written.along, written.against),
    )
