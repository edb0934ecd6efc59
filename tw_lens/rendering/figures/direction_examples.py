"""The picture of where a direction is used: places of real text in their context, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tw_lens.analyses.null_directions import SIDES
from tw_lens.rendering.figures.style import apply_layout, escape_token, truncate
from tw_lens.results import figure
from tw_lens.studies import DirectionExamples, Example
from tw_lens.studies.direction_examples_result import text

if TYPE_CHECKING:
    import plotly.graph_objects as go

ROW, ABOVE, GAP = 32, 96, 84  # pixels: of a row, above the first table, between the tables
N_WORDS, LETTERS = 8, 44
COUNTERPARTS = {
    ("QK", "left"): ("query", "key it favours", "score"),
    ("QK", "right"): ("key", "query that favours it", "score"),
    ("OV", "left"): ("read", "read most by", "length"),
    ("OV", "right"): ("written to", "reads most from", "length"),
}


@figure.register(DirectionExamples)
def draw_direction_examples(result: DirectionExamples) -> go.Figure:
    """A table per side: each place between its neighbours, with its partner."""
    from plotly.subplots import make_subplots

    rows = [max(1, len(result.of_side(side))) + 1 for side in SIDES]
    height = ABOVE + sum(rows) * ROW + GAP + 24
    drawn = make_subplots(
        2, 1, specs=[[{"type": "table"}]] * 2, row_heights=rows, vertical_spacing=GAP / height
    )
    for at, side in enumerate(SIDES, start=1):
        drawn.add_trace(_table(result, side), row=at, col=1)
    title = (
        f"Where {result.component} {result.circuit} direction {result.direction} is used in "
        f"{result.n_prompts} prompts"
    )
    apply_layout(drawn, title, height=height)
    for side, table in zip(SIDES, drawn.data, strict=True):
        drawn.add_annotation(
            text=_said(result, side), xref="paper", yref="paper", x=0, y=table.domain.y[1],
            xanchor="left", yanchor="bottom", align="left", showarrow=False,
        )  # fmt: skip
    return drawn.update_layout(margin={"l": 0, "r": 0, "t": ABOVE, "b": 24})


def _said(result: DirectionExamples, side: str) -> str:
    """Two lines over a table: the side's words, and how the places compare with them."""
    words = result.words(side)
    listed = " ".join(escape_token(truncate(word)) for word in words.token_string[0][:N_WORDS])
    score = float(words.score[0, 0])
    name = COUNTERPARTS[result.circuit, side][0]
    return (
        f"<b>{side} ({name})</b>, highest words: {listed} (the first at {score:.2f})<br>"
        f"{result.description(side).removeprefix(f'{side}: ')}"
    )


def _table(result: DirectionExamples, side: str) -> go.Table:
    import plotly.graph_objects as go

    places = result.of_side(side)
    name, counterpart, gained = COUNTERPARTS[result.circuit, side]
    columns = {
        "before": [_tail(text(example.before)) for example in places],
        name: [f"<b>{escape_token(truncate(example.token_string))}</b>" for example in places],
        "after": [_head(text(example.after)) for example in places],
        "projection": [f"{example.projection:.2f}" for example in places],
        "token rank": ["" if example.token_rank != example.token_rank else f"{example.token_rank:,.0f}"
                      for example in places],
        counterpart: [_counterpart(example) for example in places],
        f"{gained} gained": [f"{example.contribution:.2f}" for example in places],
        "attention": [f"{example.attention:.2f}" for example in places],
    }  # fmt: skip
    sides = ["right", "center", "left", "right", "right", "left", "right", "right"]
    return go.Table(
        columnwidth=[30, 12, 30, 6, 9, 17, 10, 8],
        header={"values": list(columns), "align": sides, "fill_color": "#E8EDF3", "height": 28},
        cells={"values": list(columns.values()), "align": sides, "fill_color": "white",
               "height": 28},
    )  # fmt: skip


def _tail(words: str) -> str:
    cut = words if len(words) <= LETTERS else "\u2026" + words[1 - LETTERS :]
    return escape_token(cut.strip(" ")) if words else ""


def _head(words: str) -> str:
    return escape_token(truncate(words.strip(" "), LETTERS)) if words else ""


def _counterpart(example: Example) -> str:
    """The partner's token, and how far away it stands."""
    away = example.position - example.counterpart_position
    where = "itself" if not away else f"{away} back" if away > 0 else f"{-away} on"
    return f"{escape_token(truncate(example.counterpart_token))} <i>{where}</i>"
