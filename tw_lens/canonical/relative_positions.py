"""Relative positions of T5: a learned bias of every head for every range of distances."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class RelativePositions:
    """The bias of a score as a function of the distance between key and query.

    Distances up to half of the buckets have a bucket each; larger ones share buckets whose widths
    grow as a logarithm, up to `max_distance`; all beyond share the last one. Looking `both_ways`,
    one half of the buckets is for keys before the query and one for keys after it; else keys after
    the query share the bucket of distance 0.

    Attributes:
        table: the bias of every bucket and head, added to the score.
        max_distance: where the last bucket begins.
        both_ways: whether keys after the query have buckets of their own.

    Source: Raffel et al., arXiv 1910.10683, section 2.1.
    """

    table: Float[Tensor, "n_buckets n_heads"]
    max_distance: int
    both_ways: bool

    def buckets(self, offset: Int[Tensor, ...]) -> Int[Tensor, ...]:
        """Return the bucket of each offset, key position minus query position."""
        n = len(self.table) // 2 if self.both_ways else len(self.table)
        first = n * (offset > 0) if self.both_ways else torch.zeros_like(offset)
        distance = offset.abs() if self.both_ways else (-offset).clamp_min(0)
        exact = n // 2
        ratio = (distance.float() / exact).clamp_min(1).log() / math.log(self.max_distance / exact)
        shared = (exact + (ratio * (n - exact)).long()).clamp_max(n - 1)
        return first + torch.where(distance < exact, distance, shared)

    def bias(self, offset: Int[Tensor, ...]) -> Float[Tensor, "n_heads ..."]:
        """Return every head's bias at some offsets, key position minus query position."""
        return self.table[self.buckets(offset)].movedim(-1, 0)
