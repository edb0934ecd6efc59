"""Figure of head kinds: layer by head, a row of panels per kind, from weights and from use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tw_lens.rendering.figures.style import INK, LIGHT_RED_TO_BLUE, apply_layout, to_lists
from tw_lens.results import figure
from tw_lens.studies import HEAD_KINDS, HeadKinds
from tw_lens.studies.head_kinds_result import WRITTEN

if TYPE_CHECKING:
    import plotly.graph_objects as go

MARK = "\u25cf"
WEIGHTS = "from weights"


@figure.register(HeadKinds)
def draw_head_kinds(result: HeadKinds) -> go.Figure:
    """Draw each kind's score above chance, from 0 to 1; a dot marks the heads of this kind."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    layers = sorted({layer for layer, _ in result.heads})
    width = 1 + max(head for _, head in result.heads)
    sources = [(WEIGHTS, result.from_weights, result.claimed())]
    if result.from_use is not None:
        sources.append(("in use", result.from_use, result.shown_in_use()))
    n = len(HEAD_KINDS)
    titles = [kind.replace(" ", "<br>") for kind in HEAD_KINDS] + [""] * n * (len(sources) - 1)
    fig = make_subplots(
        rows=len(sources), cols=n, subplot_titles=titles, shared_yaxes=True,
        row_titles=[name for name, *_ in sources],
        horizontal_spacing=0.015, vertical_spacing=0.05,
    )  # fmt: skip
    fig.update_annotations(font_size=10)
    for row, (name, scores, marked) in enumerate(sources, start=1):
        for i, kind in enumerate(HEAD_KINDS):
            by_chance = 0.5 if kind in WRITTEN or (kind, name) == ("induction", WEIGHTS) else 0.0
            table = torch.full((len(layers), width), torch.nan)
            marks = [[""] * width for _ in layers]
            for h, (layer, head) in enumerate(result.heads):
                table[layers.index(layer), head] = scores[i, h]
                marks[layers.index(layer)][head] = MARK if marked[i, h] else ""
            above = ((table - by_chance) / (1 - by_chance)).clamp_min(0)
            heat = go.Heatmap(
                z=to_lists(above), customdata=to_lists(table), text=marks, texttemplate="%{text}",
                textfont={"size": 9, "color": INK},
                x=[f"H{head}" for head in range(width)], y=[f"L{layer}" for layer in layers],
                hovertemplate="%{y}%{x}: %{customdata}<extra></extra>", coloraxis="coloraxis",
            )  # fmt: skip
            fig.add_trace(heat, row=row, col=i + 1)
    title = f"Kinds of heads: score above chance ({MARK}: of this kind)"
    apply_layout(fig, title, height=160 + len(sources) * max(140, 14 * len(layers)))
    fig.update_layout(
        coloraxis={"colorscale": LIGHT_RED_TO_BLUE, "cmin": -1, "cmid": 0, "cmax": 1},
        coloraxis_showscale=False,
    )
    fig.update_xaxes(tickfont={"size": 9})
    return fig.update_yaxes(autorange="reversed", tickfont={"size": 9})
