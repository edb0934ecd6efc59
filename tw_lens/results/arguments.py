"""Choices that many calls share, and checks of arguments that depend on one another."""

from __future__ import annotations

from typing import Literal, get_args

Convention = Literal["exact", "published"]
Circuit = Literal["QK", "OV"]
Score = Literal["dot", "standardised"]
SCORES: tuple[Score, ...] = get_args(Score)
CONVENTIONS: tuple[Convention, ...] = get_args(Convention)
CIRCUITS: tuple[Circuit, ...] = get_args(Circuit)
SIDE_NAMES = {
    ("QK", "left"): "queries", ("QK", "right"): "keys",
    ("OV", "left"): "tokens read", ("OV", "right"): "tokens written",
}  # fmt: skip
"""What a circuit's left and right singular directions are read as, for readers."""


def require_score(score: Score, circuit: Circuit, convention: Convention) -> None:
    """Reject a score that the circuit or the convention does not have.

    Raises:
        ValueError: "standardised" for W_QK or the published convention.
    """
    if score == "standardised" and (circuit != "OV" or convention != "exact"):
        raise ValueError(
            'score="standardised" needs circuit="OV" and convention="exact", got '
            f"circuit={circuit!r}, convention={convention!r}."
        )


def require_distance(distance: int, circuit: str, convention: str) -> None:
    """Reject a distance other than 0 for W_OV and for the published convention.

    Raises:
        ValueError: the reading does not depend on a distance.
    """
    if distance != 0 and (circuit != "QK" or convention != "exact"):
        raise ValueError(
            f"distance={distance} needs circuit='QK' and convention='exact': W_OV and the "
            "published convention do not depend on a distance."
        )
