"""Selection of a model's caveats for one analysis."""

from __future__ import annotations

from tw_lens.errors import Caveat
from tw_lens.results.arguments import Circuit


def caveats_at_distance(
    caveats: tuple[Caveat, ...], distance: int, circuit: Circuit
) -> tuple[Caveat, ...]:
    """Return the caveats of an analysis at a distance.

    The caveat "rotary distance 0" holds for W_QK at distance 0 only.
    """
    return caveats if distance == 0 and circuit == "QK" else without_distance(caveats)


def without_distance(caveats: tuple[Caveat, ...]) -> tuple[Caveat, ...]:
    """Return the caveats without "rotary distance 0"."""
    return tuple(caveat for caveat in caveats if caveat.name != "rotary distance 0")
