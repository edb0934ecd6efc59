"""The words that score highest against a direction, over a whole vocabulary, in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Rows = Callable[[], Iterator[Tensor]]
PIECE = 64


class Neighbours(NamedTuple):
    """The best-scoring tokens of each query, best first."""

    score: Float[Tensor, "queries k"]
    token_index: Int[Tensor, "queries k"]

    def of(self, which: slice | list[int]) -> Neighbours:
        """The lists of some of the queries."""
        return Neighbours(self.score[which], self.token_index[which])


def nearest(
    queries: Float[Tensor, "queries d"],
    rows: Rows,
    k: int,
    *,
    offset: Float[Tensor, " words"] | None = None,
    keep: Bool[Tensor, " words"] | None = None,
) -> Neighbours:
    """Top-k of `queries @ rows^T + offset`, never holding more than a chunk of scores.

    Args:
        queries: directions or points.
        rows: the words' vectors, in chunks, in the order of the token ids.
        k: how many; fewer when the vocabulary is smaller.
        offset: a number added to each word's score.
        keep: which words may be found; all of them by default.
    """
    k = k if keep is None else min(k, int(keep.sum()))
    best = _none_yet(queries.shape[0])
    start = 0
    for chunk in rows():
        scores = queries @ chunk.T
        if offset is not None:
            scores = scores + offset[start : start + chunk.shape[0]]
        best = _merged(best, _only(scores, keep, start, -torch.inf), start, k)
        start += chunk.shape[0]
    return best


class BothSigns(NamedTuple):
    """The best-scoring tokens along and against each direction, and which side scores higher.

    `upright` compares the best word of the whole vocabulary on either side, whatever was kept.
    """

    along: Neighbours
    against: Neighbours
    upright: Bool[Tensor, " queries"]


def nearest_of_both_signs(
    queries: Float[Tensor, "queries d"],
    rows: Rows,
    k: int,
    *,
    relative: bool = False,
    keep: Bool[Tensor, " words"] | None = None,
) -> BothSigns:
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
    along, against = _none_yet(queries.shape[0]), _none_yet(queries.shape[0])
    total = torch.zeros(queries.shape[0], 1)
    highest, lowest = torch.full_like(total, -torch.inf), torch.full_like(total, torch.inf)
    start = 0
    for chunk in rows():
        scores = queries @ chunk.T
        if keep is not None:
            highest = highest.maximum(scores.amax(-1, keepdim=True))
            lowest = lowest.minimum(scores.amin(-1, keepdim=True))
        along = _merged(along, _only(scores, keep, start, -torch.inf), start, k)
        may_be_found = _only(scores, keep, start, torch.inf)
        against = _merged(against, may_be_found, start, k, largest=False)
        total += scores.sum(-1, keepdim=True) if relative else 0
        start += chunk.shape[0]
    mean = total / max(start, 1)
    if keep is None:  # the best word of either list is the best of all
        highest, lowest = along.score[:, :1], against.score[:, :1]
    return BothSigns(
        along._replace(score=along.score - mean),
        against._replace(score=mean - against.score),
        (highest - mean >= mean - lowest).squeeze(-1),
    )


def rank_of(
    queries: Float[Tensor, "queries d"],
    rows: Rows,
    token_index: Int[Tensor, " queries"],
    *,
    offset: Float[Tensor, " words"] | None = None,
) -> Int[Tensor, " queries"]:
    """As `ranks_of`, of one word per query."""
    return ranks_of(queries, rows, token_index[:, None], offset=offset)[:, 0]


def ranks_of(
    queries: Float[Tensor, "queries d"],
    rows: Rows,
    token_index: Int[Tensor, "queries asked"],
    *,
    offset: Float[Tensor, " words"] | None = None,
) -> Int[Tensor, "queries asked"]:
    """How many words score higher than those asked about, for each query: 0 for the best.

    Args:
        queries: directions or points.
        rows: the words' vectors, in chunks, in the order of the token ids; they are read twice.
        token_index: words for each query.
        offset: a number added to each word's score.
    """
    asked = torch.empty(token_index.shape)
    rank = torch.zeros(token_index.shape, dtype=torch.long)
    if not token_index.numel():
        return rank
    for counting in (False, True):
        start = 0
        for chunk in rows():
            scores = queries @ chunk.T
            if offset is not None:
                scores = scores + offset[start : start + len(chunk)]
            if counting:
                rank += torch.stack([(scores > one[:, None]).sum(-1) for one in asked.unbind(1)], 1)
            else:
                here = (token_index >= start) & (token_index < start + len(chunk))
                there = (token_index - start).clamp(0, len(chunk) - 1)
                asked = torch.where(here, scores.gather(-1, there), asked)
            start += len(chunk)
    return rank


def chosen(keep: Bool[Tensor, " queries"], first: Neighbours, second: Neighbours) -> Neighbours:
    """For every query, the first list where `keep` holds and the second elsewhere."""
    return Neighbours(
        torch.where(keep[:, None], first.score, second.score),
        torch.where(keep[:, None], first.token_index, second.token_index),
    )


def joined(lists: Sequence[Neighbours]) -> Neighbours:
    """The lists of several searches, one after another."""
    return Neighbours(
        torch.cat([found.score for found in lists]),
        torch.cat([found.token_index for found in lists]),
    )


def _none_yet(queries: int) -> Neighbours:
    return Neighbours(torch.empty(queries, 0), torch.empty(queries, 0, dtype=torch.long))


def _only(scores: Tensor, keep: Tensor | None, start: int, never: float) -> Tensor:
    """A chunk's scores, with `never` for the words that may not be found."""
    if keep is None:
        return scores
    return scores.masked_fill(~keep[start : start + scores.shape[-1]], never)


def _merged(
    best: Neighbours, scores: Tensor, start: int, k: int, *, largest: bool = True
) -> Neighbours:
    """The best of the lists so far and of a chunk that starts at token `start`."""
    values, indices = _top(scores, min(k, scores.shape[-1]), largest)
    score = torch.cat([best.score, values], dim=-1)
    index = torch.cat([best.token_index, indices + start], dim=-1)
    keep = score.topk(min(k, score.shape[-1]), dim=-1, largest=largest)
    return Neighbours(keep.values, index.gather(-1, keep.indices))


def _top(scores: Tensor, k: int, largest: bool) -> tuple[Tensor, Tensor]:
    """`scores.topk(k)`, several times faster on long rows.

    The k best of a row lie in the k of its pieces whose own best are highest.
    """
    n = scores.shape[-1] // PIECE
    if n <= 2 * k:
        return scores.topk(k, dim=-1, largest=largest)
    pieces = scores[:, : n * PIECE].unflatten(-1, (n, PIECE))
    best = (pieces.amax(-1) if largest else pieces.amin(-1)).topk(k, dim=-1, largest=largest)
    within = torch.arange(PIECE)
    at = (best.indices[..., None] * PIECE + within).flatten(1)
    rest = torch.arange(n * PIECE, scores.shape[-1]).expand(len(scores), -1)
    at = torch.cat([at, rest], dim=-1)
    top = scores.gather(-1, at).topk(k, dim=-1, largest=largest)
    return top.values, at.gather(-1, top.indices)
