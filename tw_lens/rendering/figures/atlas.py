"""The picture of all heads of a model at once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tw_lens.analyses import HeadAtlas
from tw_lens.rendering.figures.null_markers import hover_text
from tw_lens.rendering.figures.style import apply_layout
from tw_lens.results import figure
from tw_lens.results.arguments import CIRCUITS

if TYPE_CHECKING:
    import plotly.graph_objects as go

TICKS = (1, 2, 5, 10, 20, 50, 100)


@figure.register(HeadAtlas)
def draw_head_atlas(result: HeadAtlas) -> go.Figure:
    """Layer by head, the share of the leading direction; hover for its words on both sides."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    layers = sorted({layer for layer, *_ in result.entries})
    heads = range(1 + max(head for _, head, *_ in result.entries))
    drawn = make_subplots(1, 2, subplot_titles=[f"W_{c}" for c in CIRCUITS], shared_yaxes=True)
    least, most = (math.log10(100 * float(end)) for end in result.share.aminmax())
    ticks = _ticks(least, most)
    at = {(layer, head, circuit): i for i, (layer, head, circuit, d) in enumerate(result.entries)
          if d == 0}  # fmt: skip
    for column, circuit in enumerate(CIRCUITS, start=1):
        places = [[at.get((layer, head, circuit)) for head in heads] for layer in layers]
        drawn.add_trace(
            go.Heatmap(
                z=[[_log_percent(result, i) for i in row] for row in places],
                text=[[_percent(result, i) for i in row] for row in places],
                x=[f"H{head}" for head in heads],
                y=[f"L{layer}" for layer in layers],
                customdata=[[_sides(result, i) for i in row] for row in places],
                hovertemplate="%{y}%{x} " + circuit + ": %{text} %<br>%{customdata}<extra></extra>",
                colorscale="Viridis",
                zmin=least,
                zmax=most,
                colorbar={
                    "title": "% of the<br>spectrum",
                    "tickvals": list(ticks),
                    "ticktext": list(ticks.values()),
                },
                showscale=column == 2,
            ),
            row=1,
            col=column,
        )
    apply_layout(drawn, "Share of each head's leading direction", height=190 + 18 * len(layers))
    drawn.update_yaxes(autorange="reversed")
    return drawn


def _ticks(least: float, most: float) -> dict[float, str]:
    """Round numbers between two logarithms; the ends and their middle where these are too few."""
    ticks = {math.log10(tick): str(tick) for tick in TICKS if least <= math.log10(tick) <= most}
    ends = (least, (least + most) / 2, most)
    return ticks if len(ticks) > 1 else {end: f"{10**end:.3g}" for end in ends}


def _percent(result: HeadAtlas, at: int | None) -> str:
    return "" if at is None else f"{100 * float(result.share[at]):.3g}"


def _log_percent(result: HeadAtlas, at: int | None) -> float | None:
    return None if at is None else round(math.log10(100 * float(result.share[at])), 3)


def _sides(result: HeadAtlas, at: int | None) -> str:
    if at is None:
        return ""
    return f"{hover_text(result.left, at, ' ')}<br>\u2192 {hover_text(result.right, at, ' ')}"
