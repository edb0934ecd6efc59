"""CircuitsVis widget of max-activating examples, with every token colored by its projection."""

from __future__ import annotations

from tw_lens.analyses.null_directions import SIDES
from tw_lens.rendering.widgets.circuitsvis import Widget, neutralise_html
from tw_lens.studies import DirectionExamples, Example
from tw_lens.torch_settings import default_settings

MARKER = "\u25b8"  # before the token of the example


@default_settings()
def examples_widget(result: DirectionExamples) -> Widget:
    """Return a widget of each side's examples in context, highest first; the reader picks the side.

    Tokens are colored by their projection on that side of the direction; a marker precedes the
    token of the example itself.

    Args:
        result: from `direction_examples`.

    Example:
        >>> from tw_lens import direction_examples
        >>> examples_widget(direction_examples(model, ["w5 w6 w7"], layer=1, head=0))
        Widget(TopkSamples, for notebooks and pages)
    """
    count = max((len(result.of_side(side)) for side in SIDES), default=0)
    samples = [_padded(result.of_side(side), count) for side in SIDES]
    return Widget(
        "TopkSamples",
        {
            "tokens": [[[tokens for tokens, _ in side]] for side in samples],
            "activations": [[[values for _, values in side]] for side in samples],
            "zerothDimensionName": "Side",
            "zerothDimensionLabels": list(SIDES),
            "firstDimensionName": "Direction",
            "firstDimensionLabels": [f"{result.component} {result.circuit} {result.direction}"],
        },
        height=430,
    )


def _padded(examples: tuple[Example, ...], count: int) -> list[tuple[list[str], list[float]]]:
    """The tokens and values of every example, padded with empty ones up to a count."""
    samples = [
        (
            [
                *map(neutralise_html, example.before),
                MARKER + neutralise_html(example.token_string),
                *map(neutralise_html, example.after),
            ],
            [float(f"{value:.4g}") for value in example.values],
        )
        for example in examples
    ]
    return samples + [([""], [0.0])] * (max(1, count) - len(samples))
