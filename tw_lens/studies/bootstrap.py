"""Means over many prompts with bootstrap intervals, in memory that does not grow with them.

1. A prompt contributes, for every cell (source, column, layer), the sum of its states' values, the
   sum of their squares and how many there are.
2. `n_resamples` resamples are kept beside the plain sums: in each, a prompt counts as often as a
   Poisson(1) draw says (the bootstrap over prompts for data that pass by once). The draws of a
   prompt depend on the seed and its number only.
3. A mean is the sum over the count; its interval holds the middle 95 % of the resampled means.

Source: Hanley and MacGibbon, "Creating non-parametric bootstrap samples using Poisson
frequencies", 2006.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

N_RESAMPLES = 1000
CONFIDENCE = 0.95
ROUNDING = 1e-6


class BootstrapSums(NamedTuple):
    """Running sums: the plain ones first, then one row for each resample."""

    total: Float[Tensor, "resamples_and_plain cells"]
    count: Float[Tensor, "resamples_and_plain cells"]
    square: Float[Tensor, " cells"]

    @classmethod
    def empty(cls, n_cells: int, n_resamples: int = N_RESAMPLES) -> BootstrapSums:
        """Nothing counted yet."""
        shape = (1 + n_resamples, n_cells)
        float64 = torch.float64
        return cls(
            torch.zeros(shape, dtype=float64),
            torch.zeros(shape, dtype=float64),
            torch.zeros(n_cells, dtype=float64),
        )

    def add(self, values: Float[Tensor, "cells position"], *, seed: int, number: int) -> None:
        """Count one prompt's values in (NaN: not measured).

        Args:
            values: the measured states of one prompt.
            seed: of the bootstrap.
            number: the prompt's place among all.
        """
        there = ~values.isnan()
        known = values.double().where(there, torch.zeros((), dtype=torch.float64))
        drawn = np.random.default_rng([seed, number]).poisson(1.0, len(self.total) - 1)
        times = torch.cat([torch.ones(1), torch.from_numpy(drawn)]).double()
        self.total.addr_(times, known.sum(-1))
        self.count.addr_(times, there.sum(-1).double())
        self.square.add_(known.square().sum(-1))

    def means(self) -> Float[Tensor, "resamples_and_plain cells"]:
        """The mean of every cell: over all prompts, then in each resample (NaN: no state)."""
        return self.total / self.count

    def std(self) -> Float[Tensor, " cells"]:
        """The standard deviation over states."""
        mean = self.total[0] / self.count[0]
        return (self.square / self.count[0] - mean.square()).clamp_min(0).sqrt()


class Estimate(NamedTuple):
    """A figure and the ends of its 95 % interval."""

    value: Float[Tensor, "*cells"]
    low: Float[Tensor, "*cells"]
    high: Float[Tensor, "*cells"]

    def sign(self) -> list[str]:
        """Where every figure stands towards 0: "above", "below", or "level" within its interval."""
        ends = zip(self.low.flatten().tolist(), self.high.flatten().tolist(), strict=True)
        return [
            "above" if low > 0 else "below" if high < 0 else "level" if low <= high else ""
            for low, high in ends
        ]


def estimate(resampled: Float[Tensor, "resamples_and_plain ..."]) -> Estimate:
    """The plain figure, and the interval of its resampled values."""
    if not resampled[0].numel():
        return Estimate(resampled[0], resampled[0], resampled[0])
    tail = (1 - CONFIDENCE) / 2
    ends = torch.tensor([tail, 1 - tail], dtype=resampled.dtype)
    low, high = torch.nanquantile(resampled[1:], ends, dim=0)
    return Estimate(resampled[0], low, high)


def difference(
    figure: Float[Tensor, "resamples_and_plain 1 ..."],
    controls: Float[Tensor, "resamples_and_plain controls ..."],
) -> Estimate:
    """A figure less that of each control, resample by resample: both saw the same prompts.

    What is below a millionth of the figure is rounding, and 0.
    """
    difference = figure - controls
    rounding = difference.abs() <= ROUNDING * figure.abs()
    return estimate(difference.masked_fill(rounding, 0.0))
