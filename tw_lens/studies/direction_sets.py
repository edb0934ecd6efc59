"""Sets of directions, as they are asked for and named."""

from __future__ import annotations

from collections.abc import Iterable
from operator import index
from typing import SupportsIndex

LEADING = 20


Sets = tuple[tuple[int, ...], ...]


def direction_sets(
    directions: Iterable[SupportsIndex | Iterable[SupportsIndex]] | None, rank: int
) -> Sets:
    """The sets of directions asked for, each once; the leading ones, one by one, by default.

    Raises:
        IndexError: a direction does not exist.
        TypeError: a direction is no number, or the sets are no list.
        ValueError: there is no set.
    """
    if directions is None:
        return tuple((i,) for i in range(min(LEADING, rank)))
    try:
        held = (tuple(sorted({index(i) for i in _members(one)})) for one in directions)
        sets = tuple(dict.fromkeys(held))
    except TypeError:
        raise TypeError(
            f"directions={directions!r} is no list of numbers or of sets of numbers: [0, 1] or "
            "[(0, 1, 2)] fit."
        ) from None
    if not sets:
        raise ValueError("directions is empty: give at least one, such as [0] or [(0, 1, 2)].")
    for i in (i for held in sets for i in held):
        if not 0 <= i < rank:
            raise IndexError(f"direction {i} does not exist: the head has 0 to {rank - 1}.")
    return sets


def _members(one: SupportsIndex | Iterable[SupportsIndex]) -> Iterable[SupportsIndex]:
    """The directions of one set; a number is a set of its own, in an array or a tensor too."""
    alone = getattr(one, "ndim", None) == 0 or not isinstance(one, Iterable)
    return (one,) if alone else one


def set_label(held: tuple[int, ...]) -> str:
    """A set of directions in words: "0", "0+1+2", "0 to 63", "none"."""
    if len(held) > 3 and held == tuple(range(held[0], held[-1] + 1)):
        return f"{held[0]} to {held[-1]}"
    return "+".join(map(str, held)) or "none"
