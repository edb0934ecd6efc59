"""Other words of a sentence, which may stand in the successor's place when it is compared."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def random_position(
    tokens: Int[Tensor, " position"], first: int, generator: torch.Generator
) -> Int[Tensor, " position"]:
    """For every position another one, drawn evenly from those that fit; -1 where none does."""
    fits = _fits(tokens, first)
    drawn = torch.rand(fits.shape, generator=generator).where(fits, -1.0)
    return drawn.argmax(-1).where(fits.any(-1), -1)


def position_two_away(
    tokens: Int[Tensor, " position"], first: int, _generator: torch.Generator
) -> Int[Tensor, " position"]:
    """For every position the one after next, else the one before the last; -1 where none fits."""
    fits, here = _fits(tokens, first), torch.arange(len(tokens))
    chosen = torch.full_like(here, -1)
    for there in (here - 2, here + 2):
        inside = (there >= 0) & (there < len(tokens))
        fit = inside & fits[here, there.clamp(0, len(tokens) - 1)]
        chosen = there.where(fit, chosen)
    return chosen


def _fits(tokens: Int[Tensor, " position"], first: int) -> Bool[Tensor, "position other"]:
    """Which positions may stand for the successor of which (see `trajectory_alignment`)."""
    n = len(tokens)
    here, there = torch.arange(n)[:, None], torch.arange(n)[None]
    after = tokens.roll(-1)[:, None]
    kept = (there >= first) & (there != here) & (there != here + 1) & (there != n - 1)
    return kept & (tokens[None] != after)
