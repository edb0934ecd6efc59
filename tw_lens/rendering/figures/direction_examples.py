"""Figure of max-activating examples: positions of text in context, one table per side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tw_lens.analyses.null_directions import SIDES, Side
from tw_lens.rendering.figures.style import apply_layout, escape_token, traces_of, truncate
from tw_lens.results import figure
from tw_lens.studies import DirectionExamples, Example
from tw_lens.studies.direction_examples_result import join_tokens

if TYPE_CHECKING:
    import plotly.graph_objects as go

ROW, TOP, GAP = 32, 96, 84  # pixels: a row, above the first table, between the tables
N_TOKENS, CONTEXT_LETTERS = 8, 44
COUNTERPARTS = {  # (circuit, side): the position itself, its counterpart, the contribution's unit
    ("QK", "left"): ("query", "counterpart key", "score"),
    ("QK", "right"): ("key", "counterpart query", "score"),
    ("OV", "left"): ("read", "counterpart reader", "length"),
    ("OV", "right"): ("written to", "counterpart source", "length"),
}


@figure.register(DirectionExamples)
def draw_direction_examples(result: DirectionExamples) -> go.Figure:
    """Draw a table per side: each position in context, with its counterpart."""
    from plotly.subplots import make_subplots

    rows = [max(1, len(result.of_side(side))) + 1 for side in SIDES]
    height = TOP + sum(rows) * ROW + GAP + 24
    fig = make_subplots(
        2, 1, specs=[[{"type": "table"}]] * 2, row_heights=rows, vertical_spacing=GAP / height
    )
    for row, side in enumerate(SIDES, start=1):
        fig.add_trace(_example_table(result, side), row=row, col=1)
    title = (
        f"Max-activating examples of {result.component} {result.circuit} direction "
        f"{result.direction} in {result.n_prompts} prompts"
    )
    apply_layout(fig, title, height=height)
    for side, table in zip(SIDES, traces_of(fig), strict=True):
        fig.add_annotation(
            text=_side_summary(result, side), xref="paper", yref="paper", x=0,
            y=table.domain.y[1], xanchor="left", yanchor="bottom", align="left", showarrow=False,
        )  # fmt: skip
    return fig.update_layout(margin={"l": 0, "r": 0, "t": TOP, "b": 24})


def _side_summary(result: DirectionExamples, side: Side) -> str:
    """Two lines above a table: the side's top tokens, and how the examples compare with them."""
    lists = result.words(side)
    tokens = " ".join(escape_token(truncate(token)) for token in lists.token_string[0][:N_TOKENS])
    score = float(lists.score[0, 0])
    name = COUNTERPARTS[result.circuit, side][0]
    return (
        f"<b>{side} ({name})</b>, top tokens: {tokens} (highest score {score:.2f})<br>"
        f"{result.description(side).removeprefix(f'{side}: ')}"
    )


def _example_table(result: DirectionExamples, side: Side) -> go.Table:
    import plotly.graph_objects as go

    examples = result.of_side(side)
    name, counterpart, unit = COUNTERPARTS[result.circuit, side]
    columns = {
        "before": [_end_of(join_tokens(example.before)) for example in examples],
        name: [f"<b>{escape_token(truncate(example.token_string))}</b>" for example in examples],
        "after": [_start_of(join_tokens(example.after)) for example in examples],
        "projection": [f"{example.projection:.2f}" for example in examples],
        "token rank": [_token_rank(example.token_rank) for example in examples],
        counterpart: [_counterpart(example) for example in examples],
        f"{unit} added": [f"{example.contribution:.2f}" for example in examples],
        "attention": [f"{example.attention:.2f}" for example in examples],
    }
    sides = ["right", "center", "left", "right", "right", "left", "right", "right"]
    return go.Table(
        columnwidth=[30, 12, 30, 8, 8, 17, 10, 8],
        header={"values": list(columns), "align": sides, "fill_color": "#E8EDF3", "height": 28},
        cells={"values": list(columns.values()), "align": sides, "fill_color": "white",
               "height": 28},
    )  # fmt: skip


def _token_rank(rank: float) -> str:
    """A rank with thousands separators; empty where no token follows."""
    return "" if rank != rank else f"{rank:,.0f}"


def _end_of(context: str) -> str:
    """The last letters of the context before a token."""
    fits = len(context) <= CONTEXT_LETTERS
    shown = context if fits else "\u2026" + context[1 - CONTEXT_LETTERS :]
    return escape_token(shown.strip(" ")) if context else ""


def _start_of(context: str) -> str:
    """The first letters of the context after a token."""
    return escape_token(truncate(context.strip(" "), CONTEXT_LETTERS)) if context else ""


def _counterpart(example: Example) -> str:
    """The counterpart's token and its distance, in positions before or after the example."""
    distance = example.position - example.counterpart_position
    relation = f"{distance} before" if distance > 0 else f"{-distance} after"
    shown = relation if distance else "same position"
    return f"{escape_token(truncate(example.counterpart_token))} <i>{shown}</i>"
