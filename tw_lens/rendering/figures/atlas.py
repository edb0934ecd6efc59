"""Figure of a head atlas: the spectrum share of every head's leading direction."""

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
    """Draw layers by heads, colored by the leading direction's share; hover for its tokens."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    layers = sorted({layer for layer, *_ in result.entries})
    heads = range(1 + max(head for _, head, *_ in result.entries))
    fig = make_subplots(1, 2, subplot_titles=[f"W_{c}" for c in CIRCUITS], shared_yaxes=True)
    shares = result.share[result.share > 0]
    ends = shares.aminmax() if len(shares) else (1.0, 1.0)
    lowest, highest = (math.log10(100 * float(end)) for end in ends)
    ticks = _ticks(lowest, highest)
    entry_of = {(layer, head, circuit): i for i, (layer, head, circuit, d)
                in enumerate(result.entries) if d == 0}  # fmt: skip
    for column, circuit in enumerate(CIRCUITS, start=1):
        grid = [[entry_of.get((layer, head, circuit)) for head in heads] for layer in layers]
        fig.add_trace(
            go.Heatmap(
                z=[[_log_percent(result, i) for i in row] for row in grid],
                text=[[_percent(result, i) for i in row] for row in grid],
                x=[f"H{head}" for head in heads],
                y=[f"L{layer}" for layer in layers],
                customdata=[[_both_sides(result, i) for i in row] for row in grid],
                hovertemplate="%{y}%{x} " + circuit + ": %{text} %<br>%{customdata}<extra></extra>",
                colorscale="Viridis",
                zmin=lowest,
                zmax=highest,
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
    title = "Share of the spectrum in each head's leading direction"
    apply_layout(fig, title, height=190 + 18 * len(layers))
    fig.update_yaxes(autorange="reversed")
    return fig


def _ticks(lowest: float, highest: float) -> dict[float, str]:
    """Round numbers between two logarithms; the ends and the midpoint where fewer than two fit."""
    ticks = {math.log10(t): str(t) for t in TICKS if lowest <= math.log10(t) <= highest}
    ends = (lowest, (lowest + highest) / 2, highest)
    return ticks if len(ticks) > 1 else {end: f"{10**end:.3g}" for end in ends}


def _percent(result: HeadAtlas, entry: int | None) -> str:
    return "" if entry is None else f"{100 * float(result.share[entry]):.3g}"


def _log_percent(result: HeadAtlas, entry: int | None) -> float | None:
    if entry is None or not result.share[entry]:  # a head of zeros has no share
        return None
    return round(math.log10(100 * float(result.share[entry])), 3)


def _both_sides(result: HeadAtlas, entry: int | None) -> str:
    if entry is None:
        return ""
    return f"{hover_text(result.left, entry, ' ')}<br>\u2192 {hover_text(result.right, entry, ' ')}"
