"""Scores of head kinds: attention on random tokens, and how well tokens match themselves.

1. `attention_to_places`: what a pattern gives the previous position, the first one, the same token.
2. `Matching`: whether token w, mapped by a head, scores higher for itself than for other tokens.
3. `written_scores`, `composed_scores`: the matrices of a head for pairs of tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tw_lens.canonical import Block, Readout
from tw_lens.devices import drawn

N_PERMUTATIONS = 199
DISTANCE = 8
FIRST_QUERY = 2


class Matching(NamedTuple):
    """How often the matching token scores above the others, and its p-values by permutation.

    `auc` is the mean over tokens w of the share of other tokens with a lower score: 0.5 by chance.
    """

    auc: Float[Tensor, " heads"]
    p_above: Float[Tensor, " heads"]
    p_below: Float[Tensor, " heads"]


def match_tokens(
    scores: Float[Tensor, "*ways heads tokens tokens"], generator: torch.Generator
) -> Matching:
    """Return the matching of square score matrices: rows map token w, columns score token w'.

    What a column scores for all rows is taken out, so that tokens with high scores for everything
    match nothing. The p-values compare with random pairings of rows and columns. Where a head has
    matrices in several ways, the largest value counts, under the null too.
    """
    n = scores.shape[-1]
    scores = scores.reshape(-1, *scores.shape[-3:])
    centred = scores - scores.mean(-2, keepdim=True)
    order = centred.argsort(-1).argsort(-1).float() / (n - 1)  # every rank is needed
    observed = order.diagonal(0, -2, -1).mean(-1).amax(0)
    rows = torch.arange(n)
    null = torch.stack(
        [
            order[..., rows, drawn(torch.randperm, n, generator=generator)].mean(-1).amax(0)
            for _ in range(N_PERMUTATIONS)
        ]
    )
    above = (1 + (null >= observed).sum(0)) / (1 + N_PERMUTATIONS)
    below = (1 + (null <= observed).sum(0)) / (1 + N_PERMUTATIONS)
    return Matching(observed, above.float(), below.float())


def attention_to_places(
    pattern: Float[Tensor, "heads position position"], start: int, n: int
) -> Float[Tensor, "4 heads"]:
    """Return the mean attention to four places, in a sequence that holds n tokens twice.

    The previous position and the first position of the sequence, over all queries behind the third;
    and, over the queries of the second half, the same token's first place and the one behind it.

    Args:
        pattern: of the sequence.
        start: position of the first of the n tokens, behind a prefix.
        n: number of tokens.
    """
    after = pattern[:, FIRST_QUERY:]
    second = torch.arange(start + n, start + 2 * n)
    return torch.stack(
        [
            after.diagonal(FIRST_QUERY - 1, 1, 2)[:, : after.shape[1]].mean(-1),
            after[:, :, 0].mean(-1),
            pattern[:, second, second - n].mean(-1),
            pattern[:, second, second - n + 1].mean(-1),
        ]
    )


def values_written(
    block: Block, values: Float[Tensor, "tokens n_kv_heads d_value"]
) -> Float[Tensor, "heads tokens d_model"]:
    """Return what every head writes for values: `n_v(v) W_O`."""
    values = values if block.v_norm is None else block.v_norm(values)
    return torch.einsum("phe,hed->hpd", values[:, block.kv_head], block.A_O)


def written_scores(
    readout: Readout,
    written: Float[Tensor, "heads rows d_model"],
    tokens: Int[Tensor, " tokens"],
) -> Float[Tensor, "heads rows tokens"]:
    """Return the logits of some tokens for what heads write."""
    return written @ readout.direction(tokens).T


def composed_scores(
    block: Block,
    head: int,
    y: Float[Tensor, "tokens d_model"],
    written: Float[Tensor, "tokens d_model"],
) -> Float[Tensor, "tokens tokens"]:
    """Return the score of every token as a query for what an earlier head writes for a token.

    Linear in the key, without the divisors of norms: the order within a row is that of the scores.
    """
    L, R = block.qk_factors(distance_within(block, DISTANCE))
    return (y @ L[head]) @ (written @ R[block.kv_head[head]]).T


def distance_within(block: Block, distance: int) -> int:
    """Return a distance that a layer can be read at: 0 without rotary positions."""
    rotary = block.attention_scores.rotary
    if rotary is None:
        return 0
    return distance if rotary.n_ctx is None else min(distance, rotary.n_ctx - 1)
