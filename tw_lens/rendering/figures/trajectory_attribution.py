"""The picture of who moved a word."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tw_lens.analyses import TrajectoryAttribution
from tw_lens.rendering.figures.style import apply_layout, escape_token, to_lists
from tw_lens.results import figure

if TYPE_CHECKING:
    import plotly.graph_objects as go


@figure.register(TrajectoryAttribution)
def draw_trajectory_attribution(
    result: TrajectoryAttribution, position: int | None = None
) -> go.Figure:
    """Layer by component, the signed share of the step: of one position, or the mean over all."""
    import plotly.graph_objects as go

    share = result.mean_share() if position is None else result.share[..., position]
    layers = len(share)
    names = [
        [result.named(layer, which) for which in range(share.shape[1])] for layer in range(layers)
    ]
    most = min(1.0, float(share[~share.isnan()].abs().max()))
    heat = go.Heatmap(
        z=to_lists(share),
        x=list(result.components),
        y=[f"L{layer}" for layer in range(layers)],
        customdata=names,
        hovertemplate="%{customdata}: %{z} of the step<extra></extra>",
        colorscale="RdBu",
        zmid=0,
        zmin=-most,
        zmax=most,
        colorbar={"title": "share of<br>the step"},
    )
    drawn = apply_layout(go.Figure(heat), _title(result, position), height=190 + 18 * layers)
    drawn.update_xaxes(type="category")
    return drawn.update_yaxes(autorange="reversed")


def _title(result: TrajectoryAttribution, position: int | None) -> str:
    if position is not None:
        return f"Who moved {escape_token(result.token_strings[position])} (position {position})"
    alone = len(result.token_strings) == 1
    mean = "its only position" if alone else "mean over positions, position 0 left out"
    return f"Who moved the words: {mean}"
