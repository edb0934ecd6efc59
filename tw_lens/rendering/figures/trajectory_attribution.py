"""Figure of a trajectory attribution: the signed share of each step by layer and component."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tw_lens.analyses import TrajectoryAttribution
from tw_lens.rendering.figures.style import LIGHT_RED_TO_BLUE, apply_layout, escape_token, to_lists
from tw_lens.results import figure

if TYPE_CHECKING:
    import plotly.graph_objects as go


@figure.register(TrajectoryAttribution)
def draw_trajectory_attribution(
    result: TrajectoryAttribution, position: int | None = None
) -> go.Figure:
    """Draw the signed share of the step by layer and component: of one position, or the mean."""
    import plotly.graph_objects as go

    share = result.mean_share() if position is None else result.share[..., position]
    layers, components = share.shape
    names = [[result.label(layer, c) for c in range(components)] for layer in range(layers)]
    known = share[~share.isnan()].abs()
    limit = min(1.0, float(known.max())) if len(known) else 1.0
    heat = go.Heatmap(
        z=to_lists(share),
        x=list(result.components),
        y=[f"L{layer}" for layer in range(layers)],
        customdata=names,
        hovertemplate="%{customdata}: %{z} of the step<extra></extra>",
        colorscale=LIGHT_RED_TO_BLUE,
        zmid=0,
        zmin=-limit,
        zmax=limit,
        colorbar={"title": "share of<br>the step"},
    )
    fig = apply_layout(go.Figure(heat), _title(result, position), height=190 + 18 * layers)
    fig.update_xaxes(type="category")
    return fig.update_yaxes(autorange="reversed")


def _title(result: TrajectoryAttribution, position: int | None) -> str:
    if position is not None:
        token = escape_token(result.token_strings[position])
        return f"Attribution of each step of {token} (position {position})"
    single = len(result.token_strings) == 1
    mean = "its only position" if single else "mean over positions, position 0 excluded"
    return f"Attribution of each step: {mean}"
