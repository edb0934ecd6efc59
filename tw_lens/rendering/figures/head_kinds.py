"""Figure of head kinds: layer by head, a row of panels per kind, from weights and from use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tw_lens.rendering.figures.style import INK, LIGHT_RED_TO_BLUE, apply_layout, to_lists
from tw_lens.results import figure
from tw_lens.studies import HEAD_KINDS, HeadKinds

if TYPE_CHECKING:
    import plotly.graph_objects as go

MARK = "\u25cf"


@figure.register(HeadKinds)
def draw_head_kinds(result: HeadKinds) -> go.Figure:
    """Draw each kind's score by layer and head; a dot marks the heads of this kind."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    layers = sorted({layer for layer, _ in result.heads})
    width = 1 + max(head for _, head in result.heads)
    sources = [("from weights", result.from_weights, result.claimed())]
    if result.from_use is not None:
        sources.append(("in use", result.from_use, result.shown_in_use()))
    titles = [f"{kind}, {name}" for name, *_ in sources for kind in HEAD_KINDS]
    n = len(HEAD_KINDS)
    fig = make_subplots(
        rows=len(sources), cols=n, subplot_titles=[title.replace(", ", "<br>") for title in titles],
        shared_yaxes=True, horizontal_spacing=0.015, vertical_spacing=0.3 / (2 * len(sources)),
    )  # fmt: skip
    for row, (_, scores, marked) in enumerate(sources, start=1):
        for i in range(n):
            table = torch.full((len(layers), width), torch.nan)
            marks = [[""] * width for _ in layers]
            for h, (layer, head) in enumerate(result.heads):
                table[layers.index(layer), head] = scores[i, h]
                marks[layers.index(layer)][head] = MARK if marked[i, h] else ""
            heat = go.Heatmap(
                z=to_lists(table), text=marks, texttemplate="%{text}",
                textfont={"size": 9, "color": INK},
                x=[f"H{head}" for head in range(width)], y=[f"L{layer}" for layer in layers],
                hovertemplate="%{y}%{x}: %{z}<extra></extra>", coloraxis="coloraxis",
            )  # fmt: skip
            fig.add_trace(heat, row=row, col=i + 1)
    title = f"Kinds of heads, from weights and in use ({MARK}: of this kind)"
    apply_layout(fig, title, height=160 + len(sources) * max(140, 14 * len(layers)))
    fig.update_layout(
        coloraxis={"colorscale": LIGHT_RED_TO_BLUE, "cmin": 0, "cmid": 0.5, "cmax": 1}
    )
    fig.update_layout(coloraxis_colorbar={"title": "score"})
    fig.update_xaxes(tickfont={"size": 9})
    return fig.update_yaxes(autorange="reversed", tickfont={"size": 9})
