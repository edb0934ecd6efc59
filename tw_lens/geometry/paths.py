"""Measures of a path of states on the sphere."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.geometry.sphere import angle, log_map


class PathMeasures(NamedTuple):
    """Angles in radians, one row per point of the path; NaN where a measure has no meaning."""

    step_angle: Float[Tensor, points * batch]
    arc_length: Float[Tensor, points * batch]
    turning_angle: Float[Tensor, points * batch]
    chord: Float[Tensor, points * batch]


def measure_path(y: Float[Tensor, "points *batch d"]) -> PathMeasures:
    """Step angles, arc length, turning angles and chords of a path.

    `step_angle[l]` is the angle from point l to l+1 (NaN at the end), `arc_length[l]` the sum of
    the steps before l, `turning_angle[l]` the angle between the arriving and the leaving tangent
    (NaN at both ends), `chord[l]` the angle from the first point to point l.
    """
    steps = angle(y[:-1], y[1:])
    blank = torch.full_like(steps[:1], math.nan)
    arriving, leaving = -log_map(y[1:-1], y[:-2]), log_map(y[1:-1], y[2:])
    return PathMeasures(
        step_angle=torch.cat([steps, blank]),
        arc_length=torch.cat([torch.zeros_like(steps[:1]), steps.cumsum(0)]),
        turning_angle=torch.cat([blank, angle(arriving, leaving), blank]),
        chord=angle(y[:1].expand_as(y), y),
    )


def radial_share(
    x: Float[Tensor, "points *batch d"],
) -> Float[Tensor, points * batch]:
    """The share of each step's squared length that points along the state (NaN at the end)."""
    step = x[1:] - x[:-1]
    along = (step * x[:-1]).sum(-1).square() / x[:-1].square().sum(-1)
    share = along / step.square().sum(-1)
    return torch.cat([share, torch.full_like(share[:1], math.nan)])
