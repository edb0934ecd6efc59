"""The words that score highest against a direction, over a whole vocabulary, in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

Rows = Callable[[], Iterator[Tensor]]


class Neighbours(NamedTuple):
    """The best-scoring tokens of each query, best first."""

    score: Float[Tensor, "queries k"]
    token_index: Int[Tensor, "queries k"]


def nearest(
    queries: Float[Tensor, "queries d"],
    rows: Rows,
    k: int,
    *,
    offset: Float[Tensor, " words"] | None = None,
) -> Neighbours:
    """Top-k of `queries @ rows^T + offset`, never holding more than a chunk of scores.

    Args:
        queries: directions or points.
        rows: the words' vectors, in chunks, in the order of the token ids.
        k: how many; fewer when the vocabulary is smaller.
        offset: a number added to each word's score.
    """
    best = torch.empty(queries.shape[0], 0)
    index = torch.empty(queries.shape[0], 0, dtype=torch.long)
    start = 0
    for chunk in rows():
        scores = queries @ chunk.T
        if offset is not None:
            scores = scores + offset[start : start + chunk.shape[0]]
        top = scores.topk(min(k, chunk.shape[0]), dim=-1)
        best = torch.cat([best, top.values], dim=-1)
        index = torch.cat([index, top.indices + start], dim=-1)
        keep = best.topk(min(k, best.shape[-1]), dim=-1)
        best, index = keep.values, index.gather(-1, keep.indices)
        start += chunk.shape[0]
    return Neighbours(best, index)


def extreme_scores(
    directions: Float[Tensor, "queries d"], rows: Rows
) -> tuple[Float[Tensor, " queries"], Float[Tensor, " queries"]]:
    """The largest score of any word along `v` and along `-v`, for every direction `v`."""
    highest, lowest = [], []
    for chunk in rows():
        scores = directions @ chunk.T
        highest.append(scores.amax(-1))
        lowest.append(scores.amin(-1))
    return torch.stack(highest).amax(0), -torch.stack(lowest).amin(0)
