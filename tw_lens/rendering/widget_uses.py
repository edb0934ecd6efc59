"""CircuitsVis: the places where a direction is used, every token coloured by how high it lies."""

from __future__ import annotations

from tw_lens.analyses.controls import SIDES
from tw_lens.rendering.widgets import Widget, as_text
from tw_lens.studies import DirectionUses, Use

HERE = "\u25b8"


def uses_widget(result: DirectionUses) -> Widget:
    """The places of each side in their context, highest first; the reader chooses the side.

    Tokens are coloured by how high they lie along that side of the direction; the place itself has
    a mark before it.
    """
    most = max((len(result.of_side(side)) for side in SIDES), default=0)
    places = [_filled(result.of_side(side), most) for side in SIDES]
    return Widget(
        "TopkSamples",
        {
            "tokens": [[[tokens for tokens, _ in side]] for side in places],
            "activations": [[[values for _, values in side]] for side in places],
            "zerothDimensionName": "Side",
            "zerothDimensionLabels": list(SIDES),
            "firstDimensionName": "Direction",
            "firstDimensionLabels": [f"{result.component} {result.circuit} {result.direction}"],
        },
        height=430,
    )


def _filled(places: tuple[Use, ...], most: int) -> list[tuple[list[str], list[float]]]:
    """Every place's tokens and values, and empty ones up to the number of the other side."""
    samples = [
        (
            [*map(as_text, use.before), HERE + as_text(use.token_string), *map(as_text, use.after)],
            [float(f"{value:.4g}") for value in use.values],
        )
        for use in places
    ]
    return samples + [([""], [0.0])] * (max(1, most) - len(samples))
