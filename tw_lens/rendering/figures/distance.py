"""Figures of attention scores as a function of the distance between query and key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tw_lens.analyses import HeadProbeByDistance, HeadScoreByDistance
from tw_lens.rendering.figures.null_markers import hover_text
from tw_lens.rendering.figures.style import (
    INK,
    LIGHT_RED_TO_BLUE,
    apply_layout,
    escape_token,
    line_of,
    to_lists,
    truncate,
)
from tw_lens.results import figure

if TYPE_CHECKING:
    import plotly.graph_objects as go

MAX_ROWS = 40


@figure.register(HeadProbeByDistance)
def draw_head_probe_by_distance(result: HeadProbeByDistance) -> go.Figure:
    """Draw tokens and heads as rows, distances as columns; each cell shows the top key."""
    import plotly.graph_objects as go

    n = len(result.components) * len(result.words)
    rows = [
        (f"{component} {escape_token(word)}", c * len(result.words) + w)
        for w, word in enumerate(result.words)
        for c, component in enumerate(result.components)
    ][:MAX_ROWS]
    lists = [[d * n + query for d in range(len(result.distances))] for _, query in rows]
    tokens = result.lists.token_string
    score = result.lists.score[:, 0].unflatten(0, (len(result.distances), n)).T
    heat = go.Heatmap(
        z=to_lists(score[[query for _, query in rows]]),
        x=[str(distance) for distance in result.distances],
        y=[name for name, _ in rows],
        text=[[escape_token(truncate(tokens[i][0])) for i in row] for row in lists],
        customdata=[[hover_text(result.lists, i) for i in row] for row in lists],
        texttemplate="%{text}",
        textfont={"size": 11, "color": INK},
        hovertemplate="%{y}, distance %{x}<br>%{customdata}<br>top score %{z}<extra></extra>",
        colorscale=LIGHT_RED_TO_BLUE,
        zmid=0,
        colorbar={"title": "score"},
    )
    title = f"Layer {result.layer} QK: highest-scoring key of each head, by distance"
    title += f" (first {len(rows)} of {n} rows)" if len(rows) < n else ""
    fig = apply_layout(go.Figure(heat), title, height=170 + 26 * len(rows))
    fig.update_xaxes(title="distance from query back to key", type="category")
    return fig.update_yaxes(autorange="reversed", automargin=True)


@figure.register(HeadScoreByDistance)
def draw_head_score_by_distance(result: HeadScoreByDistance) -> go.Figure:
    """Draw one line per head; hover for the standard deviation over token pairs."""
    import plotly.graph_objects as go

    fig = go.Figure()
    for c, component in enumerate(result.components):
        fig.add_scatter(
            x=list(result.distances),
            y=to_lists(result.mean[c]),
            customdata=to_lists(result.std[c]),
            name=component,
            mode="lines+markers",
            marker={"size": 4},
            line=line_of(c),
            hovertemplate="distance %{x}: %{y} (\u00b1 %{customdata} over pairs)",
        )
    n = len(result.words)
    title = f"Layer {result.layer}: mean score of {n} \u00d7 {n} token pairs, by distance"
    apply_layout(fig, title, height=420)
    fig.update_xaxes(title="distance from query back to key")
    return fig.update_yaxes(title="attention score")
