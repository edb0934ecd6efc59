"""Means over many prompts with bootstrap intervals, in memory independent of their number.

1. A prompt contributes, for every cell (source, column, layer), the sum of its states' values, the
   sum of their squares, and the number of states.
2. Next to the plain sums there are `n_resamples` resampled ones: in each, a prompt is counted as
   often as a Poisson(1) draw says (the bootstrap over prompts for a single pass over the data). The
   draws of a prompt depend only on the seed and on the prompt's number.
3. A mean is the sum over the number of states; its interval spans the middle 95 % of the resampled
   means.

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
    """Running sums: row 0 over all prompts, then one row per resample."""

    totals: Float[Tensor, "resamples_and_plain cells"]
    counts: Float[Tensor, "resamples_and_plain cells"]
    squares: Float[Tensor, " cells"]

    @classmethod
    def empty(cls, n_cells: int, n_resamples: int = N_RESAMPLES) -> BootstrapSums:
        """Return sums over no prompts."""
        shape = (1 + n_resamples, n_cells)
        float64 = torch.float64
        return cls(
            torch.zeros(shape, dtype=float64),
            torch.zeros(shape, dtype=float64),
            torch.zeros(n_cells, dtype=float64),
        )

    def add(self, values: Float[Tensor, "cells position"], *, seed: int, number: int) -> None:
        """Add one prompt's values in place (NaN: not measured).

        Args:
            values: the measured states of one prompt.
            seed: seed of the bootstrap.
            number: the prompt's number among all prompts.
        """
        measured = ~values.isnan()
        known = values.double().where(measured, torch.zeros((), dtype=torch.float64))
        draws = np.random.default_rng([seed, number]).poisson(1.0, len(self.totals) - 1)
        multiplicities = torch.cat([torch.ones(1), torch.from_numpy(draws)]).double()
        self.totals.addr_(multiplicities, known.sum(-1))
        self.counts.addr_(multiplicities, measured.sum(-1).double())
        self.squares.add_(known.square().sum(-1))

    def means(self) -> Float[Tensor, "resamples_and_plain cells"]:
        """Return the mean of every cell, over all prompts and in each resample (NaN: no state)."""
        return self.totals / self.counts

    def std(self) -> Float[Tensor, " cells"]:
        """Return the standard deviation over states."""
        mean = self.totals[0] / self.counts[0]
        return (self.squares / self.counts[0] - mean.square()).clamp_min(0).sqrt()


class Estimate(NamedTuple):
    """A value and the ends of its 95 % interval."""

    value: Float[Tensor, "*cells"]
    low: Float[Tensor, "*cells"]
    high: Float[Tensor, "*cells"]

    def sign(self) -> list[str]:
        """Return the sign of every interval: "above" or "below" 0, "level" if it contains 0."""
        ends = zip(self.low.flatten().tolist(), self.high.flatten().tolist(), strict=True)
        return [
            "above" if low > 0 else "below" if high < 0 else "level" if low <= high else ""
            for low, high in ends
        ]


def estimate(resampled: Float[Tensor, "resamples_and_plain ..."]) -> Estimate:
    """Return the value over all prompts with the interval of the resampled values."""
    if not resampled[0].numel():
        return Estimate(resampled[0], resampled[0], resampled[0])
    tail = (1 - CONFIDENCE) / 2
    ends = torch.tensor([tail, 1 - tail], dtype=resampled.dtype)
    low, high = torch.nanquantile(resampled[1:], ends, dim=0)
    return Estimate(resampled[0], low, high)


def difference(
    values: Float[Tensor, "resamples_and_plain 1 ..."],
    controls: Float[Tensor, "resamples_and_plain controls ..."],
) -> Estimate:
    """Return a value minus that of each control, resample by resample (paired by prompts).

    A difference below a millionth of the value is rounding and set to 0.
    """
    difference = values - controls
    rounding = difference.abs() <= ROUNDING * values.abs()
    return estimate(difference.masked_fill(rounding, 0.0))
