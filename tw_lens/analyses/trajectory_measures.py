"""Trajectory measures: every measure of a position's path, in the original space.

1. `y_l = N(x_l)`: the states under the final norm.
2. Along the path: step angle, arc length, turning angle, chord, tortuosity.
3. In the residual stream: the norm, and the radial and tangential shares of a step.
4. Angles to: the position's own embedding, the next token's readout direction, the last and the
   next position's state at the same layer.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tw_lens.canonical import Weights
from tw_lens.geometry import angle, measure_path, radial_share

TRAJECTORY_MEASURES = (
    "norm",
    "step_angle",
    "arc_length",
    "turning_angle",
    "chord",
    "tortuosity",
    "radial_share",
    "tangential_share",
    "angle_to_embedding",
    "angle_to_next_readout",
    "angle_to_last",
    "angle_to_next",
)
"""Names of the measures, in the order of the tables; `norm` in units of the residual stream, angles
in radians."""


def trajectory_measures(
    weights: Weights,
    stream: Float[Tensor, "layers_and_end position d_model"],
    tokens: Int[Tensor, " position"],
) -> dict[str, Float[Tensor, "layers_and_end position"]]:
    """Return every measure of every state of one prompt, by name; NaN where it is not defined.

    `angle_to_last`, `angle_to_next` and `angle_to_next_readout` are not defined at the last
    position; step angles and shares are not defined after the last layer.
    """
    readout = weights.token_readout
    y = readout.norm.sphere(stream)
    own = readout.norm.sphere(weights.vocabulary.embed(tokens))
    next_readout = readout.direction(tokens[1:])
    radial = radial_share(stream)
    return {
        "norm": stream.norm(dim=-1),
        **measure_path(y)._asdict(),
        "radial_share": radial,
        "tangential_share": 1 - radial,
        "angle_to_embedding": angle(y, own.expand_as(y)),
        "angle_to_next_readout": _pad_last_position(
            angle(readout.sphere(stream[:, :-1]), next_readout.expand_as(y[:, :-1]))
        ),
        "angle_to_last": _pad_last_position(angle(y[:, :-1], y[:, -1:].expand_as(y[:, :-1]))),
        "angle_to_next": _pad_last_position(angle(y[:, :-1], y[:, 1:])),
    }


def _pad_last_position(values: Tensor) -> Tensor:
    """Return the values of all positions but the last, with NaN appended for the last."""
    return torch.cat([values, torch.full((len(values), 1), math.nan)], dim=1)
