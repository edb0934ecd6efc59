"""The picture of where a direction is used: places of real text in their context, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tw_lens.analyses import figure
from tw_lens.analyses.controls import SIDES
from tw_lens.rendering.style import laid_out, short, shown
from tw_lens.studies import DirectionUses, Use
from tw_lens.studies.uses import text

if TYPE_CHECKING:
    import plotly.graph_objects as go

ROW, ABOVE, GAP = 32, 96, 84  # pixels: of a row, above the first table, between the tables
N_WORDS, LETTERS = 8, 44
PARTNERS = {
    ("QK", "left"): ("query", "key it favours", "score"),
    ("QK", "right"): ("key", "query that favours it", "score"),
    ("OV", "left"): ("read", "read most by", "length"),
    ("OV", "right"): ("written to", "reads most from", "length"),
}


@figure.register(DirectionUses)
def draw_uses(result: DirectionUses) -> go.Figure:
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
    laid_out(drawn, title, height=height)
    for side, table in zip(SIDES, drawn.data, strict=True):
        drawn.add_annotation(
            text=_said(result, side), xref="paper", yref="paper", x=0, y=table.domain.y[1],
            xanchor="left", yanchor="bottom", align="left", showarrow=False,
        )  # fmt: skip
    return drawn.update_layout(margin={"l": 0, "r": 0, "t": ABOVE, "b": 24})


def _said(result: DirectionUses, side: str) -> str:
    """Two lines over a table: the side's words, and how the places compare with them."""
    words = result.words(side)
    listed = " ".join(shown(short(word)) for word in words.token_string[0][:N_WORDS])
    score = float(words.score[0, 0])
    name = PARTNERS[result.circuit, side][0]
    return (
        f"<b>{side} ({name})</b>, highest words: {listed} (the first at {score:.2f})<br>"
        f"{result.said(side).removeprefix(f'{side}: ')}"
    )


def _table(result: DirectionUses, side: str) -> go.Table:
    import plotly.graph_objects as go

    places = result.of_side(side)
    name, partner, gained = PARTNERS[result.circuit, side]
    columns = {
        "before": [_tail(text(use.before)) for use in places],
        name: [f"<b>{shown(short(use.token_string))}</b>" for use in places],
        "after": [_head(text(use.after)) for use in places],
        "along": [f"{use.along:.2f}" for use in places],
        "word rank": ["" if use.word_rank != use.word_rank else f"{use.word_rank:,.0f}"
                      for use in places],
        partner: [_partner(use) for use in places],
        f"{gained} gained": [f"{use.contribution:.2f}" for use in places],
        "attention": [f"{use.attention:.2f}" for use in places],
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
    return shown(cut.strip(" ")) if words else ""


def _head(words: str) -> str:
    return shown(short(words.strip(" "), LETTERS)) if words else ""


def _partner(use: Use) -> str:
    """The partner's token, and how far away it stands."""
    away = use.position - use.partner_position
    where = "itself" if not away else f"{away} back" if away > 0 else f"{-away} on"
    return f"{shown(short(use.partner_token))} <i>{where}</i>"
