"""Figure of score directions: what the leading directions explain, beside rotated bases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tw_lens.analyses import ScoreDirections
from tw_lens.rendering.figures.style import MUTED, apply_layout, to_lists
from tw_lens.results import figure

if TYPE_CHECKING:
    import plotly.graph_objects as go

BAND = "rgba(107, 114, 128, 0.25)"


@figure.register(ScoreDirections)
def draw_score_directions(result: ScoreDirections) -> go.Figure:
    """Draw the explained variance over the number of directions, and that of rotated bases."""
    import plotly.graph_objects as go

    x = list(range(1, len(result.singular_values) + 1))
    low, high = (to_lists(result.rotated_explained.quantile(q, dim=0)) for q in (0.05, 0.95))
    fig = go.Figure()
    fig.add_scatter(
        x=x + x[::-1], y=high + low[::-1], fill="toself", fillcolor=BAND, line={"width": 0},
        hoverinfo="skip", name="rotated bases, 5 to 95 %",
    )  # fmt: skip
    fig.add_scatter(
        x=x, y=to_lists(result.rotated_explained.mean(0)), name="rotated bases, mean",
        line={"color": MUTED, "dash": "dash"},
    )  # fmt: skip
    fig.add_scatter(
        x=x, y=to_lists(result.explained), name="singular directions", mode="lines+markers"
    )
    apply_layout(fig, f"{result.component}: scores explained by leading directions", height=420)
    least = min(0.0, float(result.explained.min()), min(low))
    fig.update_yaxes(title="explained share of variance", range=[max(least, -1.0) - 0.05, 1.05])
    return fig.update_xaxes(title="leading directions of both sides")
