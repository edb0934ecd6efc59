"""CircuitsVis: the places where a direction is used, every token colored by how high it lies."""

from __future__ import annotations

from tw_lens.analyses.null_directions import SIDES
from tw_lens.rendering.widgets.circuitsvis import Widget, neutralise_html
from tw_lens.studies import DirectionExamples, Example

HERE = "\u25b8"


def examples_widget(result: DirectionExamples) -> Widget:
    """The places of each side in their context, highest first; the reader chooses the side.

    Tokens are colored by how high they lie along that side of the direction; the place itself has
    a mark before it.

    Example:
        >>> from tw_lens import direction_examples
        >>> examples_widget(direction_examples(model, ["w5 w6 w7"], layer=1, head=0))
        Widget(TopkSamples, for notebooks and pages)
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


def _filled(places: tuple[Example, ...], most: int) -> list[tuple[list[str], list[float]]]:
    """Every place's tokens and values, and empty ones up to the number of the other side."""
    samples = [
        (
            [
                *map(neutralise_html, example.before),
                HERE + neutralise_html(example.token_string),
                *map(neutralise_html, example.after),
            ],
            [float(f"{value:.4g}") for value in example.values],
        )
        for example in places
    ]
    return samples + [([""], [0.0])] * (max(1, most) - len(samples))
