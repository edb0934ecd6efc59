"""Layer slider: an animation of the residual states through the layers of a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from tw_lens.rendering.figures.style import to_lists, traces_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

MILLISECONDS_PER_LAYER = 350
STATES_AT_LAYER = "states at this layer"
PLAY = {
    "mode": "immediate", "fromcurrent": True, "transition": {"duration": 0},
    "frame": {"duration": MILLISECONDS_PER_LAYER, "redraw": True},
}  # fmt: skip
JUMP = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}}


def add_layer_slider(
    fig: go.Figure,
    points: Float[Tensor, "layers_and_end position axes"],
    names: Sequence[str],
    colors: Sequence[str],
) -> go.Figure:
    """Add one trace with the states of a single layer, and a slider and buttons that move it.

    Args:
        fig: the figure with everything that does not move.
        points: the projected states.
        names: hover text per position.
        colors: color per position.
    """
    import plotly.graph_objects as go

    flat = points.shape[-1] == 2
    style: dict[str, Any] = {
        "mode": "markers", "hovertext": list(names), "name": STATES_AT_LAYER,
        "hovertemplate": "%{hovertext}<extra></extra>",
        "marker": {"size": 12 if flat else 7, "symbol": "diamond", "color": list(colors),
                   "line": {"width": 2, "color": "#111111"}},
    }  # fmt: skip
    labels = [str(layer) for layer in range(len(points))]
    (fig.add_scatter if flat else fig.add_scatter3d)(**_axes(points[0]), **style)
    moving = len(traces_of(fig)) - 1
    trace = go.Scatter if flat else go.Scatter3d
    fig.frames = [
        go.Frame(data=[trace(**_axes(points[layer]))], traces=[moving], name=label)
        for layer, label in enumerate(labels)
    ]
    return fig.update_layout(sliders=[_slider(labels)], updatemenus=[_play_buttons()])


def _slider(labels: list[str]) -> dict[str, Any]:
    steps = [{"label": label, "method": "animate", "args": [[label], JUMP]} for label in labels]
    return {
        "steps": steps, "currentvalue": {"prefix": "layer "}, "x": 0.18, "len": 0.8, "y": 0,
        "pad": {"t": 24},
    }  # fmt: skip


def _play_buttons() -> dict[str, Any]:
    buttons = [
        {"label": "Play", "method": "animate", "args": [None, PLAY]},
        {"label": "Stop", "method": "animate", "args": [[None], JUMP]},
    ]
    return {
        "type": "buttons", "buttons": buttons, "direction": "right", "showactive": False, "x": 0,
        "y": 0, "xanchor": "left", "yanchor": "top", "pad": {"t": 40},
    }  # fmt: skip


def _axes(points: Float[Tensor, "position axes"]) -> dict[str, list[float]]:
    return {axis: to_lists(points[:, i]) for i, axis in enumerate("xyz"[: points.shape[1]])}
