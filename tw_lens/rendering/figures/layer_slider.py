"""A slider over the layers and a player: where every word is, one layer after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from tw_lens.rendering.figures.style import to_lists

if TYPE_CHECKING:
    import plotly.graph_objects as go

MILLISECONDS = 350


def add_layer_slider(
    drawn: go.Figure,
    points: Float[Tensor, "layers_and_end position axes"],
    names: Sequence[str],
    colors: Sequence[str],
) -> go.Figure:
    """A figure with one more trace, the states of one layer, and what moves it through the layers.

    Args:
        drawn: the figure with everything that stays.
        points: where the states are.
        names: what every position says when it is pointed at.
        colors: a color for every position.
    """
    import plotly.graph_objects as go

    flat = points.shape[-1] == 2
    look: dict[str, Any] = {
        "mode": "markers", "hovertext": list(names), "name": "the words at this layer",
        "hovertemplate": "%{hovertext}<extra></extra>",
        "marker": {"size": 12 if flat else 7, "symbol": "diamond", "color": list(colors),
                   "line": {"width": 2, "color": "#111111"}},
    }  # fmt: skip
    labels = [str(layer) for layer in range(len(points))]
    (drawn.add_scatter if flat else drawn.add_scatter3d)(**_axes(points[0]), **look)
    place = len(drawn.data) - 1
    trace = go.Scatter if flat else go.Scatter3d
    drawn.frames = [
        go.Frame(data=[trace(**_axes(points[i]))], traces=[place], name=label)
        for i, label in enumerate(labels)
    ]
    at_once = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}}
    playing = {
        "mode": "immediate", "fromcurrent": True, "transition": {"duration": 0},
        "frame": {"duration": MILLISECONDS, "redraw": True},
    }  # fmt: skip
    steps = [{"label": label, "method": "animate", "args": [[label], at_once]} for label in labels]
    slider = {
        "steps": steps, "currentvalue": {"prefix": "layer "}, "x": 0.18, "len": 0.8, "y": 0,
        "pad": {"t": 24},
    }  # fmt: skip
    buttons = [
        {"label": "Play", "method": "animate", "args": [None, playing]},
        {"label": "Stop", "method": "animate", "args": [[None], at_once]},
    ]
    menu = {
        "type": "buttons", "buttons": buttons, "direction": "right", "showactive": False, "x": 0,
        "y": 0, "xanchor": "left", "yanchor": "top", "pad": {"t": 40},
    }  # fmt: skip
    return drawn.update_layout(sliders=[slider], updatemenus=[menu])


def _axes(points: Float[Tensor, "position axes"]) -> dict[str, list[float]]:
    return {axis: to_lists(points[:, i]) for i, axis in enumerate("xyz"[: points.shape[1]])}
