"""The highest-scoring tokens of a query over a whole vocabulary, in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

TokenVectorChunks = Callable[[], Iterator[Tensor]]
BLOCK_SIZE = 64
QUERIES_AT_ONCE = 1024  # to bound the memory of their scores, 32 MB for a chunk of 8,192 tokens
NO_TOKEN = -1


class TopTokens(NamedTuple):
    """The highest-scoring tokens of each query, best first.

    A list without tokens has score 0 and `NO_TOKEN` throughout.
    """

    score: Float[Tensor, "queries k"]
    token_index: Int[Tensor, "queries k"]

    def without(self, queries: Bool[Tensor, " queries"]) -> TopTokens:
        """Return the lists, those of some queries (directions of length 0) without tokens."""
        none = queries[:, None]
        return TopTokens(
            self.score.masked_fill(none, 0.0), self.token_index.masked_fill(none, NO_TOKEN)
        )

    def of(self, queries: slice | list[int]) -> TopTokens:
        """Return the lists of some of the queries."""
        return TopTokens(self.score[queries], self.token_index[queries])


def top_tokens(
    queries: Float[Tensor, "queries d"],
    rows: TokenVectorChunks,
    k: int,
    *,
    bias: Float[Tensor, " words"] | None = None,
    keep: Bool[Tensor, " words"] | None = None,
    observe: Callable[[Tensor], None] | None = None,
) -> TopTokens:
    """Return the top k of `queries @ rows^T + bias`, with one chunk of scores in memory.

    Args:
        queries: directions or points.
        rows: the tokens' vectors, in chunks, in the order of the token ids.
        k: the number of tokens per query; fewer if the vocabulary is smaller.
        bias: a number added to each token's score.
        keep: mask of the tokens that may be returned; all of them by default.
        observe: called with the scores of every chunk, all tokens included.
    """
    if len(queries) > QUERIES_AT_ONCE and observe is None:
        parts = queries.split(QUERIES_AT_ONCE)
        return concat([top_tokens(part, rows, k, bias=bias, keep=keep) for part in parts])
    k = k if keep is None else min(k, int(keep.sum()))
    best = _empty(queries.shape[0])
    start = 0
    for chunk in rows():
        scores = queries @ chunk.T
        if bias is not None:
            scores = scores + bias[start : start + chunk.shape[0]]
        if observe is not None:
            observe(scores)
        best = _merged(best, _masked(scores, keep, start, -torch.inf), start, k)
        start += chunk.shape[0]
    return best


class TopTokensBothSigns(NamedTuple):
    """The highest-scoring tokens along and against each direction, and the side that is higher.

    `positive` compares the best tokens of the whole vocabulary on either side, also outside `keep`.
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
    observe: Callable[[Tensor], None] | None = None,
) -> TopTokensBothSigns:
    """Return the top k along `v` and along `-v` for every direction `v`, with one product.

    Args:
        queries: directions.
        rows: the tokens' vectors, in chunks, in the order of the token ids.
        k: the number of tokens per direction; fewer if the vocabulary is smaller.
        relative: scores relative to the mean token's (the order is the same, the signs compare
            differently), so that a vector added to all tokens changes nothing.
        keep: mask of the tokens that may be returned; all by default. The mean is over all tokens.
        observe: called with the scores of every chunk, all tokens included.
    """
    if len(queries) > QUERIES_AT_ONCE and observe is None:
        parts = [
            top_tokens_both_signs(part, rows, k, relative=relative, keep=keep)
            for part in queries.split(QUERIES_AT_ONCE)
        ]
        return TopTokensBothSigns(
            concat([part.along for part in parts]),
            concat([part.against for part in parts]),
            torch.cat([part.positive for part in parts]),
        )
    k = k if keep is None else min(k, int(keep.sum()))
    along, against = _empty(queries.shape[0]), _empty(queries.shape[0])
    total = torch.zeros(queries.shape[0], 1)
    highest, lowest = torch.full_like(total, -torch.inf), torch.full_like(total, torch.inf)
    start = 0
    for chunk in rows():
        scores = queries @ chunk.T
        if observe is not None:
            observe(scores)
        if keep is not None:
            highest = highest.maximum(scores.amax(-1, keepdim=True))
            lowest = lowest.minimum(scores.amin(-1, keepdim=True))
        along = _merged(along, _masked(scores, keep, start, -torch.inf), start, k)
        masked = _masked(scores, keep, start, torch.inf)
        against = _merged(against, masked, start, k, largest=False)
        total += scores.sum(-1, keepdim=True) if relative else 0
        start += chunk.shape[0]
    mean = total / max(start, 1)
    if keep is None:  # the best token of either list is the best of all
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
    """Return the rank of one token per query (see `ranks_of`)."""
    return ranks_of(queries, rows, token_index[:, None], bias=bias)[:, 0]


def ranks_of(
    queries: Float[Tensor, "queries d"],
    rows: TokenVectorChunks,
    token_index: Int[Tensor, "queries tokens"],
    *,
    bias: Float[Tensor, " words"] | None = None,
) -> Int[Tensor, "queries tokens"]:
    """Return for each query and token how many tokens score higher: 0 for the best.

    Args:
        queries: directions or points.
        rows: the tokens' vectors, in chunks, in the order of the token ids; they are read twice
            for every 1024 queries.
        token_index: tokens for each query.
        bias: a number added to each token's score.
    """
    if len(queries) > QUERIES_AT_ONCE:
        parts = zip(queries.split(QUERIES_AT_ONCE), token_index.split(QUERIES_AT_ONCE), strict=True)
        return torch.cat([ranks_of(part, rows, index, bias=bias) for part, index in parts])
    score = torch.empty(token_index.shape)
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
                rank += torch.stack([(scores > s[:, None]).sum(-1) for s in score.unbind(1)], 1)
            else:
                in_chunk = (token_index >= start) & (token_index < start + len(chunk))
                row = (token_index - start).clamp(0, len(chunk) - 1)
                score = torch.where(in_chunk, scores.gather(-1, row), score)
            start += len(chunk)
    return rank


def select(keep: Bool[Tensor, " queries"], first: TopTokens, second: TopTokens) -> TopTokens:
    """Return for every query the first list where `keep` is True and the second elsewhere."""
    return TopTokens(
        torch.where(keep[:, None], first.score, second.score),
        torch.where(keep[:, None], first.token_index, second.token_index),
    )


def concat(lists: Sequence[TopTokens]) -> TopTokens:
    """Concatenate the lists of several searches."""
    return TopTokens(
        torch.cat([top.score for top in lists]),
        torch.cat([top.token_index for top in lists]),
    )


def _empty(queries: int) -> TopTokens:
    return TopTokens(torch.empty(queries, 0), torch.empty(queries, 0, dtype=torch.long))


def _masked(scores: Tensor, keep: Tensor | None, start: int, fill: float) -> Tensor:
    """Return a chunk's scores with `fill` for the tokens outside `keep`."""
    if keep is None:
        return scores
    return scores.masked_fill(~keep[start : start + scores.shape[-1]], fill)


def _merged(
    best: TopTokens, scores: Tensor, start: int, k: int, *, largest: bool = True
) -> TopTokens:
    """Return the best of the lists so far and of a chunk that starts at token `start`."""
    values, indices = _top(scores, min(k, scores.shape[-1]), largest)
    score = torch.cat([best.score, values], dim=-1)
    index = torch.cat([best.token_index, indices + start], dim=-1)
    top = score.topk(min(k, score.shape[-1]), dim=-1, largest=largest)
    return TopTokens(top.values, index.gather(-1, top.indices))


def _top(scores: Tensor, k: int, largest: bool) -> tuple[Tensor, Tensor]:
    """Return `scores.topk(k)`, several times faster on long rows.

    The k best of a row lie in the k blocks of the row whose own best are highest.
    """
    n = scores.shape[-1] // BLOCK_SIZE
    if n <= 2 * k:
        return scores.topk(k, dim=-1, largest=largest)
    blocks = scores[:, : n * BLOCK_SIZE].unflatten(-1, (n, BLOCK_SIZE))
    best = (blocks.amax(-1) if largest else blocks.amin(-1)).topk(k, dim=-1, largest=largest)
    within = torch.arange(BLOCK_SIZE)
    candidates = (best.indices[..., None] * BLOCK_SIZE + within).flatten(1)
    rest = torch.arange(n * BLOCK_SIZE, scores.shape[-1]).expand(len(scores), -1)
    candidates = torch.cat([candidates, rest], dim=-1)
    top = scores.gather(-1, candidates).topk(k, dim=-1, largest=largest)
    return top.values, candidates.gather(-1, top.indices)
