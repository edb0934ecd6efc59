"""Singular vectors of a head's W_QK and W_OV, and their tokens on both sides."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tw_lens.analyses.convention_rules import ConventionRules
from tw_lens.analyses.conventions import EXACT
from tw_lens.analyses.null_directions import compare_with_null, readout_kind_of
from tw_lens.canonical import (
    Block,
    TokenPoints,
    Weights,
    combined_mask,
    standardise_readout,
)
from tw_lens.geometry import (
    FactoredSVD,
    TopTokens,
    factored_svd,
    select,
    top_tokens_both_signs,
)
from tw_lens.results.arguments import Circuit, Score
from tw_lens.results.token_lists import NullComparison


def head_svd(
    block: Block,
    heads: list[int],
    circuit: Circuit,
    rules: ConventionRules = EXACT,
    *,
    distance: int = 0,
) -> FactoredSVD:
    """Return the singular values and vectors of W_QK or W_OV of a list of heads."""
    kv = [block.kv_head[h] for h in heads]
    if circuit == "QK":
        L, R = rules.qk_factors(block, distance)
        return factored_svd(L[heads], R, group_of_head=kv)
    V, output = rules.ov_factors(block)
    return factored_svd(V[kv], output[heads])


def with_readout_of_score(
    weights: Weights, block: Block, points: TokenPoints, score: Score
) -> Weights:
    """Return weights that read written tokens by a score: their own for dot products."""
    return weights if score == "dot" else standardise_readout(weights, block, points.keys)


def compare_sides_with_null(
    weights: Weights,
    written: Weights,
    points: TokenPoints,
    circuit: Circuit,
    left: TopTokens,
    right: TopTokens,
    keep: Bool[Tensor, " d_vocab"] | None,
) -> tuple[NullComparison | None, NullComparison | None]:
    """Return the null comparison of the lists of both sides (see `tokens_of_direction_pair`).

    `written` reads the tokens of the right side of W_OV (see `with_readout_of_score`); nulls of
    points are those of `weights`, drawn once.
    """
    left_kind, right_kind = readout_kind_of((circuit, "left")), readout_kind_of((circuit, "right"))
    on_left = points if circuit == "QK" else points.keys
    of_right = written if circuit == "OV" else weights
    return (
        compare_with_null(weights, left, left_kind, on_left, keep),
        compare_with_null(of_right, right, right_kind, points.keys, keep),
    )


def tokens_of_direction_pair(
    weights: Weights,
    points: TokenPoints,
    circuit: Circuit,
    left: Float[Tensor, "directions d_model"],
    right: Float[Tensor, "directions d_model"],
    k: int,
    *,
    rules: ConventionRules = EXACT,
    keep: Bool[Tensor, " d_vocab"] | None = None,
    vanishing: Bool[Tensor, " directions"] | None = None,
) -> tuple[TopTokens, TopTokens]:
    """Return the top tokens of both sides, each pair's sign chosen over the whole vocabulary.

    Args:
        weights: from `read_weights`.
        points: of the layer that the directions belong to.
        circuit: "QK" or "OV".
        left: left singular vectors.
        right: right singular vectors.
        k: tokens per list.
        rules: of the convention.
        keep: mask of the tokens that may be listed; all of them by default.
        vanishing: directions of singular value 0, which list no tokens.
    """
    known = combined_mask(keep, points.keys)
    if circuit == "QK" and points.source is None:  # the same points for both sides: one pass
        n = len(left)
        both = top_tokens_both_signs(torch.cat([left, right]), points.rows, k, keep=known)
        tokens = select(both.positive[n:].repeat(2), both.along, both.against)
        sides = tokens.of(slice(n)), tokens.of(slice(n, None))
    else:
        met = points if circuit == "QK" else points.keys
        inputs = top_tokens_both_signs(left, met.rows, k, keep=combined_mask(keep, met))
        if circuit == "QK":
            outputs = top_tokens_both_signs(right, points.keys.rows, k, keep=known)
        else:
            table = rules.output_tokens(weights)
            outputs = top_tokens_both_signs(
                table.pull_back(right), table.rows, k, relative=table.relative, keep=keep
            )
        sides = (
            select(outputs.positive, inputs.along, inputs.against),
            select(outputs.positive, outputs.along, outputs.against),
        )
    if vanishing is None:
        return sides
    return sides[0].without(vanishing), sides[1].without(vanishing)
