"""Figures of readings at named points: scores of positions, and shares in the span of points."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from tw_lens.analyses import HeadPositionScores, SpanShares
from tw_lens.rendering.figures.style import LIGHT_RED_TO_BLUE, apply_layout, line_of, to_lists
from tw_lens.results import figure
from tw_lens.results.arguments import SIDE_NAMES

if TYPE_CHECKING:
    import plotly.graph_objects as go

N_COLUMNS = 4
POWERS = (-6, -4, -2, -1, -0.5, 0, 0.5, 1, 2, 4, 6)  # of two: ticks of shares over chance


@figure.register(HeadPositionScores)
def draw_head_position_scores(result: HeadPositionScores) -> go.Figure:
    """Draw a map per head, queries downwards and keys to the right, and scores by distance."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    n = len(result.heads)
    columns, rows = min(N_COLUMNS, n), math.ceil(n / N_COLUMNS)
    share = result.share_at_distance(1)
    titles = [
        f"{name} ({100 * float(part):.0f} %)"
        for name, part in zip(result.components, share, strict=True)
    ]
    blank = [None] * (rows * columns - n)
    fig = make_subplots(
        rows=rows + 1, cols=columns, vertical_spacing=0.3 / (rows + 1),
        specs=[[{}] * columns] * rows + [[{"colspan": columns}] + [None] * (columns - 1)],
        subplot_titles=[*titles, *blank, "by distance, above the mean of each query's keys"],
    )  # fmt: skip
    scores = result.scores
    if result.causal:
        later = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, torch.nan)
    names = list(result.points.names)
    for h in range(n):
        heat = go.Heatmap(
            z=to_lists(scores[h]), customdata=[names] * len(names),
            text=[[name] * len(names) for name in names],
            hovertemplate="%{text} to %{customdata}: %{z}<extra></extra>", coloraxis="coloraxis",
        )  # fmt: skip
        fig.add_trace(heat, row=h // columns + 1, col=h % columns + 1)
    by_distance = result.by_distance()
    for h, component in enumerate(result.components):
        line = go.Scatter(
            y=to_lists(by_distance[h]), name=component, mode="lines",
            line=line_of(h),
            hovertemplate="distance %{x}: %{y}",
        )  # fmt: skip
        fig.add_trace(line, row=rows + 1, col=1)
    title = (
        f"Layer {result.layer}: scores of learned positions, query by key "
        "(share of queries with the previous key first)"
    )
    apply_layout(fig, title, height=420 + 200 * rows)
    fig.update_layout(
        coloraxis={
            "colorscale": LIGHT_RED_TO_BLUE,
            "cmid": 0,
            "colorbar": {"title": "score", "nticks": 5, "len": 0.5, "y": 0.75},
        },
        legend={"y": 0, "yanchor": "bottom"},
    )
    maps = {"constrain": "domain", "showgrid": False, "zeroline": False}
    for h in range(n):
        row, col = h // columns + 1, h % columns + 1
        fig.update_xaxes(maps, row=row, col=col)
        fig.update_yaxes(maps | {"autorange": "reversed"}, row=row, col=col)
    fig.update_xaxes(title="distance from query back to key", row=rows + 1, col=1)
    return fig.update_yaxes(title="score", row=rows + 1, col=1)


@figure.register(SpanShares)
def draw_span_shares(result: SpanShares) -> go.Figure:
    """Draw layer by head, a panel per circuit and side: the points' share over that by chance."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    titles = [f"{circuit}, {name}" for (circuit, _), name in SIDE_NAMES.items()]
    fig = make_subplots(rows=2, cols=2, subplot_titles=titles, vertical_spacing=0.16)
    width = 1 + max(head for _, head in result.heads)
    for c in range(2):
        for s in range(2):
            share = torch.full((len(result.layers), width), torch.nan)
            ratio = share.clone()
            for h, (layer, head) in enumerate(result.heads):
                row = result.layers.index(layer)
                share[row, head] = result.share[1, c, s, h]
                expected = result.rank[row][1] / result.d_model
                ratio[row, head] = share[row, head] / expected if expected else torch.nan
            heat = go.Heatmap(
                z=to_lists(ratio.log2()), customdata=to_lists(100 * share),
                x=[f"H{head}" for head in range(width)], y=[f"L{la}" for la in result.layers],
                hovertemplate="%{y}%{x}: %{customdata} % of the strength<extra></extra>",
                coloraxis="coloraxis",
            )  # fmt: skip
            fig.add_trace(heat, row=c + 1, col=s + 1)
    title = f"Share of each head's strength in the span of {result.names[1]}, against chance"
    apply_layout(fig, title, height=180 + 2 * max(120, 16 * len(result.layers)))
    bar = {"title": "times<br>chance", "tickvals": list(POWERS)}
    bar["ticktext"] = [f"{2.0**power:.2g}" for power in POWERS]
    fig.update_layout(coloraxis={"colorscale": LIGHT_RED_TO_BLUE, "cmid": 0, "colorbar": bar})
    return fig.update_yaxes(autorange="reversed")
