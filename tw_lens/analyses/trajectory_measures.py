"""What is measured of words travelling: every number of a path, in the original space.

1. `y_l = N(x_l)`: the states under the final norm.
2. Along the path: step angle, arc length, turning angle, chord, tortuosity.
3. In the stream: the norm, and how a step divides into a part along the state and one across.
4. Towards other things: the position's own embedding, the next token's readout direction, the
   last and the next position's state at the same layer.
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
"""The measures, in the order of the tables; `norm` in stream units, angles in radians."""


def trajectory_measures(
    weights: Weights,
    stream: Float[Tensor, "layers_and_end position d_model"],
    tokens: Int[Tensor, " position"],
) -> dict[str, Float[Tensor, "layers_and_end position"]]:
    """Every measure of every state of one prompt, by name; NaN where one has no meaning.

    `angle_to_last` and `angle_to_next` have none at the last position, nor has
    `angle_to_next_readout`; the steps and shares have none behind the last layer.
    """
    readout = weights.readout
    y = readout.norm.sphere(stream)
    own = readout.norm.sphere(weights.vocabulary.embed(tokens))
    towards_next = readout.direction(tokens[1:])
    radial = radial_share(stream)
    return {
        "norm": stream.norm(dim=-1),
        **measure_path(y)._asdict(),
        "radial_share": radial,
        "tangential_share": 1 - radial,
        "angle_to_embedding": angle(y, own.expand_as(y)),
        "angle_to_next_readout": _then_nan(
            angle(readout.sphere(stream[:, :-1]), towards_next.expand_as(y[:, :-1]))
        ),
        "angle_to_last": _then_nan(angle(y[:, :-1], y[:, -1:].expand_as(y[:, :-1]))),
        "angle_to_next": _then_nan(angle(y[:, :-1], y[:, 1:])),
    }


def _then_nan(values: Tensor) -> Tensor:
    """The values of all positions but the last, and NaN for that one."""
    return torch.cat([values, torch.full((len(values), 1), math.nan)], dim=1)
