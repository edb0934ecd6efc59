"""The words that score highest against a direction, over a whole vocabulary, in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

TokenVectorChunks = Callable[[], Iterator[Tensor]]
BLOCK_SIZE = 64


class TopTokens(NamedTuple):
    """The best-scoring tokens of each query, best first."""

    score: Float[Tensor, "queries k"]
    token_index: Int[Tensor, "queries k"]

    def of(self, which: slice | list[int]) -> TopTokens:
        """The lists of some of the queries."""
        return TopTokens(self.score[which], self.token_index[which])


def top_tokens(
    queries: Float[Tensor, "queries d"],
    rows: TokenVectorChunks,
    k: int,
    *,
    bias: Float[Tensor, " words"] | None = None,
    keep: Bool[Tensor, " words"] | None = None,
) -> TopTokens:
    """Top-k of `queries @ rows^T + bias`, never holding more than a chunk of scores.

    Args:
        queries: directions or points.
        rows: the words' vectors, in chunks, in the order of the token ids.
        k: how many; fewer when the vocabulary is smaller.
        distance: a number added to each word's score.
        keep: which words may be found; all of them by default.
    """
    k = k if keep is None else min(k, int(keep.sum()))
    best = _empty(queries.shape[0])
    start = 0
    for chunk in rows():
        scores = queries @ chunk.T
        if bias is not None:
            scores = scores + bias[start : start + chunk.shape[0]]
        best = _merged(best, _masked(scores, keep, start, -torch.inf), start, k)
        start += chunk.shape[0]
    return best


class TopTokensBothSigns(NamedTuple):
    """The best-scoring tokens along and against each direction, and which side scores higher.

    `positive` compares the best word of the whole vocabulary on either side, whatever was kept.
    """

    along: TopTokens
    against: TopTokens
    positive: Bool[Tensor, " queries"]


def top_tokens_both_signs(
    queries: Float[Tensor, "queries d"],
    rows: TokenVectorChunks,
    k: int,
    *,
    relative: bool = False,
    keep: Bool[Tensor, " words"] | None = None,
) -> TopTokensBothSigns:
    """Top-k along `v` and along `-v` for every direction `v`, with one product for both.

    Args:
        queries: directions.
        rows: the words' vectors, in chunks, in the order of the token ids.
        k: how many; fewer when the vocabulary is smaller.
        relative: scores relative to the mean word's (the order is the same, the signs compare
            differently), so that a vector added to all words changes nothing.
        keep: which words may be found; all of them by default. The mean is over all of them.
    """
    k = k if keep is None else min(k, int(keep.sum()))
    along, against = _empty(queries.shape[0]), _empty(queries.shape[0])
    total = torch.zeros(queries.shape[0], 1)
    highest, lowest = torch.full_like(total, -torch.inf), torch.full_like(total, torch.inf)
    start = 0
    for chunk in rows():
        scores = queries @ chunk.T
        if keep is not None:
            highest = highest.maximum(scores.amax(-1, keepdim=True))
            lowest = lowest.minimum(scores.amin(-1, keepdim=True))
        along = _merged(along, _masked(scores, keep, start, -torch.inf), start, k)
        may_be_found = _masked(scores, keep, start, torch.inf)
        against = _merged(against, may_be_found, start, k, largest=False)
        total += scores.sum(-1, keepdim=True) if relative else 0
        start += chunk.shape[0]
    mean = total / max(start, 1)
    if keep is None:  # the best word of either list is the best of all
        highest, lowest = along.score[:, :1], against.score[:, :1]
    return TopTokensBothSigns(
        along._replace(score=along.score - mean),
        against._replace(score=mean - against.score),
        (highest - mean >= mean - lowest).squeeze(-1),
    )


def rank_of(
    queries: Float[Tensor, "queries d"],
    rows: TokenVectorChunks,
    token_index: Int[Tensor, " queries"],
    *,
    bias: Float[Tensor, " words"] | None = None,
) -> Int[Tensor, " queries"]:
    """As `ranks_of`, of one word per query."""
    return ranks_of(queries, rows, token_index[:, None], bias=bias)[:, 0]


def ranks_of(
    queries: Float[Tensor, "queries d"],
    rows: TokenVectorChunks,
    token_index: Int[Tensor, "queries asked"],
    *,
    bias: Float[Tensor, " words"] | None = None,
) -> Int[Tensor, "queries asked"]:
    """How many words score higher than those asked about, for each query: 0 for the best.

    Args:
        queries: directions or points.
        rows: the words' vectors, in chunks, in the order of the token ids; they are read twice.
        token_index: words for each query.
        distance: a number added to each word's score.
    """
    asked = torch.empty(token_index.shape)
    rank = torch.zeros(token_index.shape, dtype=torch.long)
    if not token_index.numel():
        return rank
    for counting in (False, True):
        start = 0
        for chunk in rows():
            scores = queries @ chunk.T
            if bias is not None:
                scores = scores + bias[start : start + len(chunk)]
            if counting:
                rank += torch.stack([(scores > one[:, None]).sum(-1) for one in asked.unbind(1)], 1)
            else:
                here = (token_index >= start) & (token_index < start + len(chunk))
                there = (token_index - start).clamp(0, len(chunk) - 1)
                asked = torch.where(here, scores.gather(-1, there), asked)
            start += len(chunk)
    return rank


def select(keep: Bool[Tensor, " queries"], first: TopTokens, second: TopTokens) -> TopTokens:
    """For every query, the first list where `keep` holds and the second elsewhere."""
    return TopTokens(
        torch.where(keep[:, None], first.score, second.score),
        torch.where(keep[:, None], first.token_index, second.token_index),
    )


def concat(lists: Sequence[TopTokens]) -> TopTokens:
    """The lists of several searches, one after another."""
    return TopTokens(
        torch.cat([found.score for found in lists]),
        torch.cat([found.token_index for found in lists]),
    )


def _empty(queries: int) -> TopTokens:
    return TopTokens(torch.empty(queries, 0), torch.empty(queries, 0, dtype=torch.long))


def _masked(scores: Tensor, keep: Tensor | None, start: int, never: float) -> Tensor:
    """A chunk's scores, with `never` for the words that may not be found."""
    if keep is None:
        return scores
    return scores.masked_fill(~keep[start : start + scores.shape[-1]], never)


def _merged(
    best: TopTokens, scores: Tensor, start: int, k: int, *, largest: bool = True
) -> TopTokens:
    """The best of the lists so far and of a chunk that starts at token `start`."""
    values, indices = _top(scores, min(k, scores.shape[-1]), largest)
    score = torch.cat([best.score, values], dim=-1)
    index = torch.cat([best.token_index, indices + start], dim=-1)
    keep = score.topk(min(k, score.shape[-1]), dim=-1, largest=largest)
    return TopTokens(keep.values, index.gather(-1, keep.indices))


def _top(scores: Tensor, k: int, largest: bool) -> tuple[Tensor, Tensor]:
    """`scores.topk(k)`, several times faster on long rows.

    The k best of a row lie in the k of its pieces whose own best are highest.
    """
    n = scores.shape[-1] // BLOCK_SIZE
    if n <= 2 * k:
        return scores.topk(k, dim=-1, largest=largest)
    pieces = scores[:, : n * BLOCK_SIZE].unflatten(-1, (n, BLOCK_SIZE))
    best = (pieces.amax(-1) if largest else pieces.amin(-1)).topk(k, dim=-1, largest=largest)
    within = torch.arange(BLOCK_SIZE)
    at = (best.indices[..., None] * BLOCK_SIZE + within).flatten(1)
    rest = torch.arange(n * BLOCK_SIZE, scores.shape[-1]).expand(len(scores), -1)
    at = torch.cat([at, rest], dim=-1)
    top = scores.gather(-1, at).topk(k, dim=-1, largest=largest)
    return top.values, at.gather(-1, top.indices)
