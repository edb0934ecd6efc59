"""Paths that something else than the model walked: what a measure of a path is compared with."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.geometry.sphere import unit


def shuffled_steps(
    x: Float[Tensor, "points position d"], generator: torch.Generator
) -> Float[Tensor, "points position d"]:
    """The same steps in another order, one order for all positions: both ends stay."""
    steps = x.diff(dim=0)
    order = torch.randperm(len(steps), generator=generator)
    return torch.cat([x[:1], x[:1] + steps[order].cumsum(0)])


def random_steps(
    x: Float[Tensor, "points position d"], generator: torch.Generator
) -> Float[Tensor, "points position d"]:
    """Steps of the same lengths in directions drawn evenly from the sphere: the start stays."""
    steps = x.diff(dim=0)
    drawn = unit(torch.randn(steps.shape, generator=generator, dtype=steps.dtype))
    return torch.cat([x[:1], x[:1] + (drawn * steps.norm(dim=-1, keepdim=True)).cumsum(0)])
