"""Measures of a path of states on the sphere."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.geometry.angles import angle, log_map, unit


class PathMeasures(NamedTuple):
    """Measures in radians, one row per point of the path; NaN where a measure is undefined."""

    step_angle: Float[Tensor, "points ..."]
    arc_length: Float[Tensor, "points ..."]
    turning_angle: Float[Tensor, "points ..."]
    chord: Float[Tensor, "points ..."]
    tortuosity: Float[Tensor, "points ..."]


def measure_path(y: Float[Tensor, "points *batch d"]) -> PathMeasures:
    """Measure step angles, arc length, turning angles and chords of a path.

    `step_angle[l]` is the angle from point l to l+1 (NaN at the end), `arc_length[l]` the sum of
    the steps before l, `turning_angle[l]` the angle between the arriving and the leaving tangent
    (NaN at both ends), `chord[l]` the angle from the first point to point l, `tortuosity[l]` is
    `arc_length[l] / chord[l]`: 1 along a great circle, NaN where the path is at its start.
    """
    steps = angle(y[:-1], y[1:])
    blank = torch.full_like(steps[:1], math.nan)
    arriving, leaving = -log_map(y[1:-1], y[:-2]), log_map(y[1:-1], y[2:])
    arc = torch.cat([torch.zeros_like(steps[:1]), steps.cumsum(0)])
    chord = angle(y[:1].expand_as(y), y)
    return PathMeasures(
        step_angle=torch.cat([steps, blank]),
        arc_length=arc,
        turning_angle=torch.cat([blank, angle(arriving, leaving), blank]),
        chord=chord,
        tortuosity=torch.where(chord > 0, arc / chord, math.nan),
    )


def radial_share(
    x: Float[Tensor, "points *batch d"],
) -> Float[Tensor, "points ..."]:
    """Return the share of each step's squared length along the state (NaN at the end)."""
    step = x[1:] - x[:-1]
    along = (step * x[:-1]).sum(-1).square() / x[:-1].square().sum(-1)
    share = along / step.square().sum(-1)
    return torch.cat([share, torch.full_like(share[:1], math.nan)])


def radial_and_tangential(
    x: Float[Tensor, "points *batch d"], step: Float[Tensor, "points *batch d"]
) -> tuple[Float[Tensor, "points *batch d"], Float[Tensor, "points *batch d"]]:
    """Split a step at `x` into its parts along `x` and tangential to the sphere."""
    u = unit(x)
    radial = (step * u).sum(-1, keepdim=True) * u
    return radial, step - radial


def tangential_shares(
    x: Float[Tensor, "points *batch d"], parts: Float[Tensor, "parts points *batch d"]
) -> Float[Tensor, "parts points *batch"]:
    """Return each part's signed share of the tangential step of their sum, `<p, t> / <t, t>`.

    `t` is the tangential part of `sum(parts)` at `x`. The shares of all parts add up to 1; a
    negative one points against the step. NaN where the tangential step is zero.
    """
    _, tangential = radial_and_tangential(x, parts.sum(0))
    size = tangential.square().sum(-1)
    projection = (parts * tangential).sum(-1)
    return torch.where(size > 0, projection / size, math.nan)
