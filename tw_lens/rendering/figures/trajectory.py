"""Figures of trajectories: projected residual states among token embeddings, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses import Projection, Trajectory, TrajectoryAttribution
from tw_lens.analyses.projection import Color
from tw_lens.analyses.trajectory import SHOWN
from tw_lens.arguments import checked
from tw_lens.rendering.figures.layer_slider import add_layer_slider
from tw_lens.rendering.figures.style import (
    COLORS,
    EYE,
    HIDDEN_LINE,
    MUTED,
    NAME_IN_SCENE,
    NAME_ON_PLANE,
    apply_layout,
    escape_token,
    line_of,
    non_overlapping,
    to_lists,
    to_screen,
    truncate,
)
from tw_lens.rendering.figures.trajectory_measures import plot_trajectory_measures
from tw_lens.results import figure

if TYPE_CHECKING:
    import plotly.graph_objects as go


NAMED_LANDMARKS = 25
KINDS = ("head", "attention", "bias", "MLP", "rest")
KIND_COLORS: dict[str, str] = dict(zip(KINDS, COLORS, strict=False))
CENTRE = {"x": 0, "y": 0, "z": -0.14}  # the camera's target, so that the cube fills the figure

Kinds = list[list[str]]
"""For each position and layer, the component with the largest share of the next step."""


@figure.register(Trajectory)
def draw_trajectory(
    result: Trajectory,
    projection: Projection | None = None,
    color: Color | TrajectoryAttribution = "token",
    measures: Sequence[str] = SHOWN,
) -> go.Figure:
    """Draw the projected trajectories, or without a projection the measures over the layers."""
    return (
        plot_trajectory_measures(result, measures)
        if projection is None
        else plot_trajectories(result, projection, color)
    )


@figure.register(Projection)
def draw_projection(result: Projection, color: Color = "token") -> go.Figure:
    """Draw the states and tokens of a projection, without the states' readouts."""
    hover = [
        [f"{escape_token(token)} at {label}" for label in result.labels]
        for token in result.token_strings
    ]
    hidden = _first_positions(result.prompt_lengths)
    return _draw_paths(
        result, result.state_points, result.token_strings, hidden, hover, color, None
    )


@checked
def plot_trajectories(
    paths: Trajectory | Sequence[Trajectory],
    projection: Projection,
    color: Color | TrajectoryAttribution = "token",
) -> go.Figure:
    """Plot trajectories of one or several prompts in one projection, with a layer slider.

    Args:
        paths: from `trajectory`; the projection was fitted on the states of all of them.
        projection: from `fit_projection`.
        color: by "token", by "layer", or by the component with the largest share of each step
            (given the `trajectory_attribution` of a single path).

    Raises:
        ValueError: no trajectory, an unknown color, a projection or an attribution of other states.

    Example:
        >>> from tw_lens import fit_projection, trajectory
        >>> path = trajectory(weights, states)
        >>> len(plot_trajectories(path, fit_projection(weights, states)).frames)
        4
    """
    trajectories = [paths] if isinstance(paths, Trajectory) else list(paths)
    if not trajectories:
        raise ValueError("paths must hold at least one result of trajectory, got none.")
    if isinstance(color, TrajectoryAttribution):
        if len(trajectories) > 1 or trajectories[0].token_strings != color.token_strings:
            raise ValueError(
                "color is an attribution of other states than the path; compute both from the "
                "same states, for a single path."
            )
        kinds, color_by = _largest_components(color), "component"
    else:
        kinds, color_by = None, color
    points = torch.cat([projection.points_of(path) for path in trajectories], dim=1)
    names = tuple(token for path in trajectories for token in path.token_strings)
    hidden = _first_positions([len(path.token_strings) for path in trajectories])
    hover = [texts for path in trajectories for texts in _hover(path, kinds)]
    return _draw_paths(projection, points, names, hidden, hover, color_by, kinds)


def _draw_paths(
    projection: Projection,
    points: Float[Tensor, "layers_and_end position axes"],
    names: Sequence[str],
    hidden: set[int],
    hover: list[list[str]],
    color: str,
    kinds: Kinds | None,
) -> go.Figure:
    """Draw the tokens, a path for every position, and the states of the slider's layer."""
    import plotly.graph_objects as go

    fig = go.Figure()
    _add_tokens(fig, projection)
    for position, name in enumerate(names):
        visible = "legendonly" if position in hidden else True
        _add_path(fig, points[:, position], f"{position} {escape_token(name)}", hover[position],
                  _path_style(position, len(points), color, kinds, visible), visible)  # fmt: skip
    _add_color_legend(fig, points, color, kinds)
    moving = [p for p in range(len(names)) if p not in hidden]
    colors = [COLORS[p % len(COLORS)] for p in moving]
    fig = add_layer_slider(fig, points[:, moving], [escape_token(names[p]) for p in moving], colors)
    return _lay_out(fig, projection, hidden=bool(hidden))


def _hover(path: Trajectory, kinds: Kinds | None) -> list[list[str]]:
    """Hover text of every state, positions outermost: its readout and its next step's component."""
    texts = []
    for position, token in enumerate(path.token_strings):
        texts.append([])
        for layer, label in enumerate(path.labels):
            reads = "<br>".join(escape_token(top) for top in path.readout(layer, position))
            part = f"<br>largest share of the next step: {kinds[position][layer]}" if kinds else ""
            texts[-1].append(
                f"<b>{escape_token(token)}</b> at {label}{part}<br>readout:<br>{reads}"
            )
    return texts


def _largest_components(attribution: TrajectoryAttribution) -> Kinds:
    """The component with the largest share of each step; positions outermost."""
    largest = attribution.share.nan_to_num(-torch.inf).argmax(1)
    return [
        [attribution.label(layer, int(index)) for layer, index in enumerate(of_position)]
        + ["none (last layer)"]
        for of_position in largest.T
    ]


def _kind(name: str) -> str:
    """The kind of a component: "L5H1" is a head, "L5 MLP" an MLP."""
    return name.partition(" ")[2] or ("head" if name[-1:].isdigit() else name)


def _path_style(
    position: int, layers: int, color: str, kinds: Kinds | None, visible: bool | str
) -> dict[str, Any]:
    """A path's colors: one of its own, or per layer, or per component."""
    own = line_of(position) if visible is True else HIDDEN_LINE
    if kinds:
        shades = [KIND_COLORS.get(_kind(name), MUTED) for name in kinds[position]]
        return {"line": {"color": MUTED}, "marker": {"size": 4, "color": shades}}
    if color == "layer":
        shades = list(range(layers))
        marker = {"size": 4, "color": shades, **_layer_scale(layers)}
        return {"line": {"color": MUTED}, "marker": marker}
    return {"line": own, "marker": {"size": 3, "color": own["color"]}}


def _layer_scale(layers: int) -> dict[str, Any]:
    return {"colorscale": "Viridis", "cmin": 0, "cmax": layers - 1}


def _add_color_legend(fig: go.Figure, points: Tensor, color: str, kinds: Kinds | None) -> None:
    """Add legend entries for components, or a color bar for layers."""
    empty = {axis: [None] for axis in "xyz"[: points.shape[-1]]} | {"mode": "markers"}
    add = fig.add_scatter3d if points.shape[-1] == 3 else fig.add_scatter
    present = {_kind(name) for of_position in kinds or () for name in of_position}
    for kind, shade in KIND_COLORS.items():
        if kind in present:
            add(**empty, marker={"color": shade}, name=f"largest share: {kind}")
    if color == "layer":
        bar = {"title": "layer", "thickness": 12, "len": 0.6, "x": 0, "xanchor": "right"}
        marker = {"color": [0], "showscale": True, "colorbar": bar | {"xpad": 40}}
        add(**empty, marker=marker | _layer_scale(len(points)), name="layer", showlegend=False)


def _add_tokens(fig: go.Figure, projection: Projection) -> None:
    named = min(projection.landmarks, NAMED_LANDMARKS)
    muted = {"mode": "markers", "marker": {"size": 2, "color": MUTED, "opacity": 0.35}}
    _add_points(
        fig, projection.word_points[named:], projection.words[named:], "other tokens", muted
    )
    scene = projection.word_points.shape[1] == 3
    landmarks = projection.word_points[:named]
    everything = torch.cat([projection.word_points, projection.state_points.flatten(0, 1)])
    low, high = everything.amin(0), everything.amax(0)
    on_screen = (
        to_screen(landmarks, low, high)
        if scene
        else (landmarks - low) / (high - low).clamp_min(1e-12)
    )
    fits = non_overlapping(on_screen, **(NAME_IN_SCENE if scene else NAME_ON_PLANE))
    labels = [
        escape_token(truncate(word)) if fit else ""
        for word, fit in zip(projection.words, fits, strict=False)
    ]
    strong: dict[str, Any] = {"mode": "markers", "marker": {"size": 4, "color": "#333333"}}
    if scene:  # annotations lie over the paths, which would cut through text inside the scene
        fig.update_layout(scene={"annotations": [
            dict(zip("xyz", point, strict=True), text=label, showarrow=False, yshift=10,
                 font={"size": 11})
            for label, point in zip(labels, to_lists(landmarks), strict=True) if label
        ]})  # fmt: skip
    else:
        strong |= {"mode": "markers+text", "text": labels, "textfont": {"size": 11},
                   "textposition": "top center"}  # fmt: skip
    _add_points(fig, landmarks, projection.words[:named], "landmark tokens", strong)


def _add_points(
    fig: go.Figure,
    points: Float[Tensor, "words axes"],
    words: tuple[str, ...],
    name: str,
    style: dict[str, Any],
) -> None:
    axes = {axis: to_lists(points[:, i]) for i, axis in enumerate("xyz"[: points.shape[1]])}
    hover = {
        "hovertext": [escape_token(word) for word in words],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }
    add = fig.add_scatter3d if points.shape[1] == 3 else fig.add_scatter
    add(**axes, **hover, name=name, **style)


def _add_path(
    fig: go.Figure,
    points: Float[Tensor, "layers_and_end axes"],
    name: str,
    hover: list[str],
    style: dict[str, Any],
    visible: bool | str,
) -> None:
    axes = {axis: to_lists(points[:, i]) for i, axis in enumerate("xyz"[: points.shape[1]])}
    add = fig.add_scatter3d if points.shape[1] == 3 else fig.add_scatter
    add(
        **axes,
        mode="lines+markers",
        name=name,
        line=style["line"] | {"width": 4 if points.shape[1] == 3 else 2},
        marker=style["marker"],
        text=hover,
        hovertemplate="%{text}<extra></extra>",
        visible=visible,
    )


def _first_positions(lengths: Sequence[int]) -> set[int]:
    """The first position of every prompt with others; hidden, for it would set the axes' range."""
    starts = accumulate(lengths, initial=0)
    return {start for start, length in zip(starts, lengths, strict=False) if length > 1}


def _lay_out(fig: go.Figure, projection: Projection, *, hidden: bool) -> go.Figure:
    note = " (position 0 is hidden: click it in the legend)" if hidden else ""
    fig = apply_layout(fig, f"{projection.quality}{note}", height=720)
    axes = {f"{axis}axis": {"title": f"{projection.method} {i}"} for i, axis in enumerate("xyz")}
    axes |= {"aspectmode": "cube", "camera": {"eye": EYE, "center": CENTRE}}
    return fig.update_layout(scene=axes) if projection.state_points.shape[-1] == 3 else fig
