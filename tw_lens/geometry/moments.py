"""Moments of scores that are seen chunk by chunk."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


class Moments:
    """Power sums of every query's scores; `observe` takes the scores of one chunk of tokens."""

    def __init__(self, queries: int) -> None:
        self.n = 0
        self.sums = torch.zeros(4, queries, dtype=torch.float64)

    def observe(self, scores: Float[Tensor, "queries tokens"]) -> None:
        """Add the scores of a chunk."""
        self.n += scores.shape[1]
        power = scores
        for order in range(4):
            self.sums[order] += power.sum(-1, dtype=torch.float64)
            power = power * scores if order < 3 else power

    def mean(self) -> Float[Tensor, " queries"]:
        """Return the mean score of every query."""
        return (self.sums[0] / max(self.n, 1)).float()

    def shape(self) -> Float[Tensor, "3 queries"]:
        """Return the standard deviation, the skewness and the excess kurtosis of every query.

        NaN for the last two where all scores are equal.
        """
        m1, m2, m3, m4 = self.sums / max(self.n, 1)
        variance = (m2 - m1**2).clamp_min(0)
        variance = variance * (variance > 1e-12 * m2)
        third = m3 - 3 * m1 * m2 + 2 * m1**3
        fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
        return torch.stack(
            [variance.sqrt(), third / variance**1.5, fourth / variance**2 - 3]
        ).float()
