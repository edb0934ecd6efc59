"""Baseline positions: other tokens of a prompt to compare with a position's successor."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def random_position(
    tokens: Int[Tensor, " position"], first: int, generator: torch.Generator
) -> Int[Tensor, " position"]:
    """Return for every position a random allowed one (uniform); -1 if there is none."""
    allowed = allowed_positions(tokens, first)
    priority = torch.rand(allowed.shape, generator=generator).where(allowed, -1.0)
    return priority.argmax(-1).where(allowed.any(-1), -1)


def position_two_away(
    tokens: Int[Tensor, " position"], first: int, _generator: torch.Generator
) -> Int[Tensor, " position"]:
    """Return for every position the one two after it, else two before it; -1 if there is none."""
    allowed, positions = allowed_positions(tokens, first), torch.arange(len(tokens))
    chosen = torch.full_like(positions, -1)
    for others in (positions - 2, positions + 2):
        inside = (others >= 0) & (others < len(tokens))
        fits = inside & allowed[positions, others.clamp(0, len(tokens) - 1)]
        chosen = others.where(fits, chosen)
    return chosen


def allowed_positions(
    tokens: Int[Tensor, " position"], first: int
) -> Bool[Tensor, "position other"]:
    """Return which positions may replace the successor of which (see `trajectory_alignment`)."""
    n = len(tokens)
    position, other = torch.arange(n)[:, None], torch.arange(n)[None]
    successor = tokens.roll(-1)[:, None]
    allowed = (other >= first) & (other != position) & (other != position + 1) & (other != n - 1)
    return allowed & (tokens[None] != successor)
