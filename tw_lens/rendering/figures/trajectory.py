"""Pictures of words travelling: paths among the words of a chart, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses import Projection, Trajectory, TrajectoryAttribution
from tw_lens.analyses.trajectory import SHOWN
from tw_lens.rendering.figures.layer_slider import add_layer_slider
from tw_lens.rendering.figures.style import (
    COLORS,
    EYE,
    MUTED,
    NAME_IN_SCENE,
    NAME_ON_PLANE,
    apply_layout,
    escape_token,
    non_overlapping,
    to_lists,
    to_screen,
    truncate,
)
from tw_lens.rendering.figures.trajectory_measures import plot_trajectory_measures
from tw_lens.results import figure

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from tw_lens.analyses.projection import Color

NAMED_LANDMARKS = 25
KINDS = ("a head", "attention", "bias", "MLP", "rest")
CENTRE = {"x": 0, "y": 0, "z": -0.14}  # what the camera looks at: the cube fills the picture


@figure.register(Trajectory)
def draw_trajectory(
    result: Trajectory,
    projection: Projection | None = None,
    color: Color | TrajectoryAttribution = "token",
    measures: tuple[str, ...] = SHOWN,
) -> go.Figure:
    """The paths among the words of a chart, or the measures over the layers without one."""
    return (
        plot_trajectory_measures(result, measures)
        if projection is None
        else plot_trajectories(result, projection, color)
    )


@figure.register(Projection)
def draw_projection(result: Projection, color: Literal["token", "layer"] = "token") -> go.Figure:
    """States and words of a chart, without what the states read as."""
    hover = [
        [f"{escape_token(token)} at {at}" for at in result.labels] for token in result.token_strings
    ]
    firsts = _firsts(result.prompt_lengths)
    return _drawn(result, result.state_points, result.token_strings, firsts, hover, color, None)


def plot_trajectories(
    paths: Trajectory | Sequence[Trajectory],
    projection: Projection,
    color: Color | TrajectoryAttribution = "token",
) -> go.Figure:
    """Walks of one or several prompts on one chart, with a slider over the layers and a player.

    Args:
        paths: from `trajectory`; the chart was fitted on the states of all of them.
        projection: from `fit_projection`.
        color: by "token", by "layer", or by the component that moved each state most (given what
            `trajectory_attribution` returns for a single path).

    Raises:
        ValueError: no path, or one that the chart does not hold; movers of other states.

    Example:
        >>> from tw_lens import fit_projection, trajectory
        >>> path = trajectory(weights, states)
        >>> len(plot_trajectories(path, fit_projection(weights, states)).frames)
        4
    """
    held = [paths] if isinstance(paths, Trajectory) else list(paths)
    if not held:
        raise ValueError("paths is empty: give what trajectory returns, once or several times.")
    kinds = None
    if isinstance(color, TrajectoryAttribution):
        if len(held) > 1 or held[0].token_strings != color.token_strings:
            raise ValueError("the movers are of other states than the path: ask for the same ones.")
        kinds = _moved_by(color)
    elif color not in ("token", "layer"):
        raise ValueError(f"color={color!r}: 'token', 'layer' or what movers returns fits.")
    points = torch.cat([projection.points_of(path) for path in held], dim=1)
    names = tuple(token for path in held for token in path.token_strings)
    firsts = _firsts([len(path.token_strings) for path in held])
    hover = [text for path in held for text in _hover(path, kinds)]
    return _drawn(projection, points, names, firsts, hover, "component" if kinds else color, kinds)


def _drawn(
    projection: Projection,
    points: Float[Tensor, "layers_and_end position axes"],
    names: Sequence[str],
    firsts: set[int],
    hover: list[list[str]],
    color: str,
    kinds: list[list[str]] | None,
) -> go.Figure:
    """The words, a path for every position, and the states of the layer the slider is at."""
    import plotly.graph_objects as go

    drawn = go.Figure()
    _add_words(drawn, projection)
    for position, name in enumerate(names):
        _add_path(drawn, points[:, position], f"{position} {escape_token(name)}", hover[position],
                  _markers(position, len(points), color, kinds),
                  "legendonly" if position in firsts else True)  # fmt: skip
    _add_key(drawn, points, color, kinds)
    moving = [p for p in range(len(names)) if p not in firsts]
    colors = [COLORS[p % len(COLORS)] for p in moving]
    drawn = add_layer_slider(
        drawn, points[:, moving], [escape_token(names[p]) for p in moving], colors
    )
    return _placed(drawn, projection, hidden=bool(firsts))


def _hover(path: Trajectory, kinds: list[list[str]] | None) -> list[list[str]]:
    """What every state says of itself, positions outermost."""
    texts = []
    for position, token in enumerate(path.token_strings):
        texts.append([])
        for layer, label in enumerate(path.labels):
            reads = "<br>".join(escape_token(word) for word in path.readout(layer, position))
            moved = f"<br>moved on by {kinds[position][layer]}" if kinds else ""
            texts[-1].append(f"<b>{escape_token(token)}</b> at {label}{moved}<br>reads<br>{reads}")
    return texts


def _moved_by(movers: TrajectoryAttribution) -> list[list[str]]:
    """The name of the component with the largest share of each step; positions outermost."""
    most = movers.share.nan_to_num(-torch.inf).argmax(1)
    return [
        [movers.named(layer, int(which)) for layer, which in enumerate(of_position)] + ["nothing"]
        for of_position in most.T
    ]


def _kind(name: str) -> str:
    """`L5H1` is a head; `L5 MLP` is named after its layer."""
    return name.split(" ")[-1] if " " in name else "a head" if "H" in name else name


def _markers(
    position: int, layers: int, color: str, kinds: list[list[str]] | None
) -> dict[str, Any]:
    """A path's colors: its own, its layers', or those of what moved it on."""
    own = COLORS[position % len(COLORS)]
    if kinds:
        table = dict(zip(KINDS, COLORS, strict=False))
        shades = [table.get(_kind(name), MUTED) for name in kinds[position]]
        return {"line": MUTED, "marker": {"size": 4, "color": shades}}
    if color == "layer":
        shades = list(range(layers))
        return {"line": MUTED, "marker": {"size": 4, "color": shades, **_scale(layers)}}
    return {"line": own, "marker": {"size": 3, "color": own}}


def _scale(layers: int) -> dict[str, Any]:
    return {"colorscale": "Viridis", "cmin": 0, "cmax": layers - 1}


def _add_key(drawn: go.Figure, points: Tensor, color: str, kinds: list[list[str]] | None) -> None:
    """What the colors mean, where it is not said by the paths' own names."""
    nothing = {axis: [None] for axis in "xyz"[: points.shape[-1]]} | {"mode": "markers"}
    add = drawn.add_scatter3d if points.shape[-1] == 3 else drawn.add_scatter
    found = {_kind(name) for of_position in kinds or () for name in of_position}
    for at, kind in enumerate(KINDS):
        if kind in found:
            add(**nothing, marker={"color": COLORS[at]}, name=f"moved by {kind}")
    if color == "layer":
        bar = {"title": "layer", "thickness": 12, "len": 0.6, "x": 0, "xanchor": "right"}
        marks = {"color": [0], "showscale": True, "colorbar": bar | {"xpad": 40}}
        add(**nothing, marker=marks | _scale(len(points)), name="layer", showlegend=False)


def _add_words(drawn: go.Figure, projection: Projection) -> None:
    first = projection.landmarks
    named = min(first, NAMED_LANDMARKS)
    quiet = {"mode": "markers", "marker": {"size": 2, "color": MUTED, "opacity": 0.35}}
    _add_points(
        drawn, projection.word_points[named:], projection.words[named:], "other words", quiet
    )
    scene = projection.word_points.shape[1] == 3
    near = projection.word_points[:named]
    everything = torch.cat([projection.word_points, projection.state_points.flatten(0, 1)])
    low, high = everything.amin(0), everything.amax(0)
    seen = to_screen(near, low, high) if scene else (near - low) / (high - low).clamp_min(1e-12)
    free = non_overlapping(seen, **(NAME_IN_SCENE if scene else NAME_ON_PLANE))
    names = [
        escape_token(truncate(word)) if f else ""
        for word, f in zip(projection.words, free, strict=False)
    ]
    loud: dict[str, Any] = {"mode": "markers", "marker": {"size": 4, "color": "#333333"}}
    if scene:  # as notes: they lie over the paths, which cut pieces out of text in the scene
        drawn.update_layout(scene={"annotations": [
            dict(zip("xyz", point, strict=True), text=name, showarrow=False, yshift=10,
                 font={"size": 11})
            for name, point in zip(names, to_lists(near), strict=True) if name
        ]})  # fmt: skip
    else:
        loud |= {"mode": "markers+text", "text": names, "textfont": {"size": 11},
                 "textposition": "top center"}  # fmt: skip
    _add_points(drawn, near, projection.words[:named], "words on the way", loud)


def _add_points(
    drawn: go.Figure,
    points: Float[Tensor, "words axes"],
    words: tuple[str, ...],
    name: str,
    style: dict[str, Any],
) -> None:
    axes = {axis: to_lists(points[:, i]) for i, axis in enumerate("xyz"[: points.shape[1]])}
    hover = {
        "hovertext": [escape_token(w) for w in words],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }
    add = drawn.add_scatter3d if points.shape[1] == 3 else drawn.add_scatter
    add(**axes, **hover, name=name, **style)


def _add_path(
    drawn: go.Figure,
    points: Float[Tensor, "layers_and_end axes"],
    name: str,
    hover: list[str],
    look: dict[str, Any],
    visible: bool | str,
) -> None:
    axes = {axis: to_lists(points[:, i]) for i, axis in enumerate("xyz"[: points.shape[1]])}
    add = drawn.add_scatter3d if points.shape[1] == 3 else drawn.add_scatter
    add(
        **axes,
        mode="lines+markers",
        name=name,
        line={"color": look["line"], "width": 4 if points.shape[1] == 3 else 2},
        marker=look["marker"],
        text=hover,
        hovertemplate="%{text}<extra></extra>",
        visible=visible,
    )


def _firsts(lengths: Sequence[int]) -> set[int]:
    """The first position of every prompt that has others: hidden, for it would rule the picture."""
    starts = accumulate(lengths, initial=0)
    return {start for start, length in zip(starts, lengths, strict=False) if length > 1}


def _placed(drawn: go.Figure, projection: Projection, *, hidden: bool) -> go.Figure:
    note = " (position 0 is hidden: click it in the legend)" if hidden else ""
    drawn = apply_layout(drawn, f"{projection.quality}{note}", height=720)
    axes = {f"{axis}axis": {"title": f"{projection.method} {i}"} for i, axis in enumerate("xyz")}
    axes |= {"aspectmode": "cube", "camera": {"eye": EYE, "center": CENTRE}}
    return drawn.update_layout(scene=axes) if projection.state_points.shape[-1] == 3 else drawn
