"""The caveats of a model that hold for one reading."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tw_lens.errors import Caveat
from tw_lens.results.arguments import Circuit

if TYPE_CHECKING:
    pass


def caveats_at_distance(
    caveats: tuple[Caveat, ...], distance: int, circuit: Circuit
) -> tuple[Caveat, ...]:
    """A model's caveats for one reading: the distance is no caveat where it is given or unused."""
    return caveats if distance == 0 and circuit == "QK" else without_distance(caveats)


def without_distance(caveats: tuple[Caveat, ...]) -> tuple[Caveat, ...]:
    """A model's caveats for a reading in which queries and keys do not meet at distance 0."""
    return tuple(caveat for caveat in caveats if caveat.name != "rotary distance 0")
