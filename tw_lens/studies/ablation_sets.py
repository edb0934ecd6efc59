"""Sets of directions: validation and labels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, SupportsIndex

from tw_lens.argument_kinds import int_of, items_of, shown

LEADING = 20


Sets = tuple[tuple[int, ...], ...]


def ablation_sets(
    directions: Iterable[SupportsIndex | Iterable[SupportsIndex]] | None,
    rank: int,
    *,
    what: str = "direction",
    owner: str = "head",
) -> Sets:
    """Return the distinct sets of directions; by default the leading 20, one by one.

    `what` and `owner` name them in messages.

    Raises:
        IndexError: a direction does not exist.
        TypeError: a direction is not an int, or the sets are not a list.
        ValueError: there is no set.
    """
    if directions is None:
        return tuple((i,) for i in range(min(LEADING, rank)))
    items = items_of(directions)
    groups = [_members(item) for item in items or ()]
    if items is None or any(None in members for members in groups):
        raise TypeError(
            f"{what}s must be a list of ints or of sets of ints, e.g. [0, 1] or [(0, 1, 2)]; "
            f"got {shown(directions)}."
        )
    sets = tuple(dict.fromkeys(tuple(sorted(set(members))) for members in groups))
    if not sets:
        raise ValueError(f"{what}s must not be empty; pass e.g. [0] or [(0, 1, 2)].")
    for i in (i for members in sets for i in members):
        if not 0 <= i < rank:
            raise IndexError(f"{what} {shown(i)} does not exist: the {owner} has 0 to {rank - 1}.")
    return sets


def _members(item: SupportsIndex | Iterable[SupportsIndex]) -> list[Any]:
    """Return the directions of one set, or the one direction; None for what is no int."""
    items = items_of(item)
    return [int_of(member) for member in ((item,) if items is None else items)]


def set_label(members: tuple[int, ...]) -> str:
    """Return the label of a set of directions: "0", "0+1+2", "0 to 63", "none"."""
    if len(members) > 3 and members == tuple(range(members[0], members[-1] + 1)):
        return f"{members[0]} to {members[-1]}"
    return "+".join(map(str, members)) or "none"
