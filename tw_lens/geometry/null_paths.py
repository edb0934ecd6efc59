"""Null paths for trajectory measures: shuffled steps and random steps."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.devices import drawn
from tw_lens.geometry.angles import unit


def shuffled_steps(
    x: Float[Tensor, "points position d"], generator: torch.Generator
) -> Float[Tensor, "points position d"]:
    """Return the paths with their steps in one random order for all positions, ends fixed."""
    steps = x.diff(dim=0)
    order = drawn(torch.randperm, len(steps), generator=generator)
    return torch.cat([x[:1], x[:1] + steps[order].cumsum(0)])


def random_steps(
    x: Float[Tensor, "points position d"], generator: torch.Generator
) -> Float[Tensor, "points position d"]:
    """Return paths with steps of the same lengths in uniformly random directions, start fixed."""
    steps = x.diff(dim=0)
    directions = unit(drawn(torch.randn, steps.shape, generator=generator, dtype=steps.dtype))
    return torch.cat([x[:1], x[:1] + (directions * steps.norm(dim=-1, keepdim=True)).cumsum(0)])
