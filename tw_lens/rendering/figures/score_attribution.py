"""Figure of a score attribution: pairs of parts as a map, and the waterfall to the score."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses import ScoreAttribution
from tw_lens.rendering.figures.style import LIGHT_RED_TO_BLUE, MUTED, apply_layout, to_lists
from tw_lens.results import figure

if TYPE_CHECKING:
    import plotly.graph_objects as go

N_PARTS = 12


@figure.register(ScoreAttribution)
def draw_score_attribution(result: ScoreAttribution, n: int = N_PARTS) -> go.Figure:
    """Draw query parts by key parts, and the key parts' sums from 0 to the score."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    rows, row_names = _largest(result.matrix, result.parts, n)
    table, column_names = _largest(rows.T.contiguous(), result.parts, n)
    fig = make_subplots(
        rows=2, cols=1, row_heights=[0.6, 0.4], vertical_spacing=0.2,
        subplot_titles=["query part by key part", "key parts, summed over query parts"],
    )  # fmt: skip
    heat = go.Heatmap(
        z=to_lists(table.T), x=column_names, y=row_names,
        hovertemplate="query %{y}, key %{x}: %{z}<extra></extra>",
        colorscale=LIGHT_RED_TO_BLUE, zmid=0,
        colorbar={"title": "score", "len": 0.5, "y": 0.8},
    )  # fmt: skip
    fig.add_trace(heat, row=1, col=1)
    values, names = to_lists(table.sum(1)), list(column_names)
    if result.position_bias:
        values, names = [*values, result.position_bias], [*names, "position bias"]
    waterfall = go.Waterfall(
        x=[*names, "score"], y=[*values, 0], measure=["relative"] * len(names) + ["total"],
        showlegend=False, hovertemplate="%{x}: %{delta}<extra></extra>",
        increasing_marker_color=LIGHT_RED_TO_BLUE[-1], decreasing_marker_color=LIGHT_RED_TO_BLUE[0],
        totals_marker_color=MUTED,
    )  # fmt: skip
    fig.add_trace(waterfall, row=2, col=1)
    apply_layout(fig, f"{result.component}: parts of a score", height=420 + 22 * len(row_names))
    fig.update_yaxes(autorange="reversed", automargin=True, row=1, col=1)
    fig.update_yaxes(title="score", row=2, col=1)
    return fig.update_xaxes(type="category", tickangle=-45)


def _largest(
    matrix: Float[Tensor, "parts others"], names: tuple[str, ...], n: int
) -> tuple[Float[Tensor, "kept others"], list[str]]:
    """Return the rows with the largest entries, in their order, and the sum of the others."""
    if len(names) <= n:
        return matrix, list(names)
    kept = sorted(matrix.abs().sum(1).topk(n).indices.tolist())
    others = [i for i in range(len(names)) if i not in kept]
    rows = torch.cat([matrix[kept], matrix[others].sum(0, keepdim=True)])
    return rows, [*(names[i] for i in kept), f"{len(others)} others"]
