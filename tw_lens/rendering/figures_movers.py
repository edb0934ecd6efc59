"""The picture of who moved a word."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tw_lens.analyses import Movers, figure
from tw_lens.rendering.style import laid_out, rounded, shown

if TYPE_CHECKING:
    import plotly.graph_objects as go


@figure.register(Movers)
def draw_movers(result: Movers, position: int | None = None) -> go.Figure:
    """Layer by component, the signed share of the step: of one position, or the mean over all."""
    import plotly.graph_objects as go

    share = result.mean_share() if position is None else result.share[..., position]
    layers = len(share)
    names = [
        [result.named(layer, which) for which in range(share.shape[1])] for layer in range(layers)
    ]
    most = min(1.0, float(share[~share.isnan()].abs().max()))
    heat = go.Heatmap(
        z=rounded(share),
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
    drawn = laid_out(go.Figure(heat), _title(result, position), height=190 + 18 * layers)
    drawn.update_xaxes(type="category")
    return drawn.update_yaxes(autorange="reversed")


def _title(result: Movers, position: int | None) -> str:
    if position is not None:
        return f"Who moved {shown(result.token_strings[position])} (position {position})"
    alone = len(result.token_strings) == 1
    mean = "its only position" if alone else "mean over positions, position 0 left out"
    return f"Who moved the words: {mean}"
