"""Pictures of words travelling: paths among the words of a chart, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses import Chart, Movers, Trajectory, figure
from tw_lens.analyses.trajectory import SHOWN
from tw_lens.rendering.figures_measures import draw_measures
from tw_lens.rendering.player import with_player
from tw_lens.rendering.style import (
    COLOURS,
    EYE,
    MUTED,
    NAME_IN_SCENE,
    NAME_ON_PLANE,
    apart,
    laid_out,
    rounded,
    seen_from,
    short,
    shown,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from tw_lens.analyses.chart import Colour

NAMED_LANDMARKS = 25
KINDS = ("a head", "attention", "bias", "MLP", "rest")
CENTRE = {"x": 0, "y": 0, "z": -0.14}  # what the camera looks at: the cube fills the picture


@figure.register(Trajectory)
def draw_trajectory(
    result: Trajectory,
    chart: Chart | None = None,
    colour: Colour | Movers = "token",
    measures: tuple[str, ...] = SHOWN,
) -> go.Figure:
    """The paths among the words of a chart, or the measures over the layers without one."""
    return draw_measures(result, measures) if chart is None else draw_walks(result, chart, colour)


@figure.register(Chart)
def draw_chart(result: Chart, colour: Literal["token", "layer"] = "token") -> go.Figure:
    """States and words of a chart, without what the states read as."""
    hover = [[f"{shown(token)} at {at}" for at in result.labels] for token in result.token_strings]
    firsts = _firsts(result.prompts)
    return _drawn(result, result.state_points, result.token_strings, firsts, hover, colour, None)


def draw_walks(
    paths: Trajectory | Sequence[Trajectory], chart: Chart, colour: Colour | Movers = "token"
) -> go.Figure:
    """Walks of one or several prompts on one chart, with a slider over the layers and a player.

    Args:
        paths: from `trajectory`; the chart was fitted on the states of all of them.
        chart: from `fit_map`.
        colour: by "token", by "layer", or by the component that moved each state most (given what
            `movers` returns for a single path).

    Raises:
        ValueError: no path, or one that the chart does not hold; movers of other states.

    Example:
        >>> from tw_lens import fit_map, trajectory
        >>> path = trajectory(weights, states)
        >>> len(draw_walks(path, fit_map(weights, states)).frames)
        4
    """
    held = [paths] if isinstance(paths, Trajectory) else list(paths)
    if not held:
        raise ValueError("paths is empty: give what trajectory returns, once or several times.")
    kinds = None
    if isinstance(colour, Movers):
        if len(held) > 1 or held[0].token_strings != colour.token_strings:
            raise ValueError("the movers are of other states than the path: ask for the same ones.")
        kinds = _moved_by(colour)
    elif colour not in ("token", "layer"):
        raise ValueError(f"colour={colour!r}: 'token', 'layer' or what movers returns fits.")
    points = torch.cat([chart.points_of(path) for path in held], dim=1)
    names = tuple(token for path in held for token in path.token_strings)
    firsts = _firsts([len(path.token_strings) for path in held])
    hover = [text for path in held for text in _hover(path, kinds)]
    return _drawn(chart, points, names, firsts, hover, "component" if kinds else colour, kinds)


def _drawn(
    chart: Chart,
    points: Float[Tensor, "layers_and_end position axes"],
    names: Sequence[str],
    firsts: set[int],
    hover: list[list[str]],
    colour: str,
    kinds: list[list[str]] | None,
) -> go.Figure:
    """The words, a path for every position, and the states of the layer the slider is at."""
    import plotly.graph_objects as go

    drawn = go.Figure()
    _add_words(drawn, chart)
    for position, name in enumerate(names):
        _add_path(drawn, points[:, position], f"{position} {shown(name)}", hover[position],
                  _markers(position, len(points), colour, kinds),
                  "legendonly" if position in firsts else True)  # fmt: skip
    _add_key(drawn, points, colour, kinds)
    moving = [p for p in range(len(names)) if p not in firsts]
    colours = [COLOURS[p % len(COLOURS)] for p in moving]
    drawn = with_player(drawn, points[:, moving], [shown(names[p]) for p in moving], colours)
    return _placed(drawn, chart, hidden=bool(firsts))


def _hover(path: Trajectory, kinds: list[list[str]] | None) -> list[list[str]]:
    """What every state says of itself, positions outermost."""
    texts = []
    for position, token in enumerate(path.token_strings):
        texts.append([])
        for layer, label in enumerate(path.labels):
            reads = "<br>".join(shown(word) for word in path.reading(layer, position))
            moved = f"<br>moved on by {kinds[position][layer]}" if kinds else ""
            texts[-1].append(f"<b>{shown(token)}</b> at {label}{moved}<br>reads<br>{reads}")
    return texts


def _moved_by(movers: Movers) -> list[list[str]]:
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
    position: int, layers: int, colour: str, kinds: list[list[str]] | None
) -> dict[str, Any]:
    """A path's colours: its own, its layers', or those of what moved it on."""
    own = COLOURS[position % len(COLOURS)]
    if kinds:
        table = dict(zip(KINDS, COLOURS, strict=False))
        shades = [table.get(_kind(name), MUTED) for name in kinds[position]]
        return {"line": MUTED, "marker": {"size": 4, "color": shades}}
    if colour == "layer":
        shades = list(range(layers))
        return {"line": MUTED, "marker": {"size": 4, "color": shades, **_scale(layers)}}
    return {"line": own, "marker": {"size": 3, "color": own}}


def _scale(layers: int) -> dict[str, Any]:
    return {"colorscale": "Viridis", "cmin": 0, "cmax": layers - 1}


def _add_key(drawn: go.Figure, points: Tensor, colour: str, kinds: list[list[str]] | None) -> None:
    """What the colours mean, where it is not said by the paths' own names."""
    nothing = {axis: [None] for axis in "xyz"[: points.shape[-1]]} | {"mode": "markers"}
    add = drawn.add_scatter3d if points.shape[-1] == 3 else drawn.add_scatter
    found = {_kind(name) for of_position in kinds or () for name in of_position}
    for at, kind in enumerate(KINDS):
        if kind in found:
            add(**nothing, marker={"color": COLOURS[at]}, name=f"moved by {kind}")
    if colour == "layer":
        bar = {"title": "layer", "thickness": 12, "len": 0.6, "x": 0, "xanchor": "right"}
        marks = {"color": [0], "showscale": True, "colorbar": bar | {"xpad": 40}}
        add(**nothing, marker=marks | _scale(len(points)), name="layer", showlegend=False)


def _add_words(drawn: go.Figure, chart: Chart) -> None:
    first = chart.landmarks
    named = min(first, NAMED_LANDMARKS)
    quiet = {"mode": "markers", "marker": {"size": 2, "color": MUTED, "opacity": 0.35}}
    _add_points(drawn, chart.word_points[named:], chart.words[named:], "other words", quiet)
    scene = chart.word_points.shape[1] == 3
    near = chart.word_points[:named]
    everything = torch.cat([chart.word_points, chart.state_points.flatten(0, 1)])
    low, high = everything.amin(0), everything.amax(0)
    seen = seen_from(near, low, high) if scene else (near - low) / (high - low).clamp_min(1e-12)
    free = apart(seen, **(NAME_IN_SCENE if scene else NAME_ON_PLANE))
    names = [shown(short(word)) if f else "" for word, f in zip(chart.words, free, strict=False)]
    loud: dict[str, Any] = {"mode": "markers", "marker": {"size": 4, "color": "#333333"}}
    if scene:  # as notes: they lie over the paths, which cut pieces out of text in the scene
        drawn.update_layout(scene={"annotations": [
            dict(zip("xyz", point, strict=True), text=name, showarrow=False, yshift=10,
                 font={"size": 11})
            for name, point in zip(names, rounded(near), strict=True) if name
        ]})  # fmt: skip
    else:
        loud |= {"mode": "markers+text", "text": names, "textfont": {"size": 11},
                 "textposition": "top center"}  # fmt: skip
    _add_points(drawn, near, chart.words[:named], "words on the way", loud)


def _add_points(
    drawn: go.Figure,
    points: Float[Tensor, "words axes"],
    words: tuple[str, ...],
    name: str,
    style: dict[str, Any],
) -> None:
    axes = {axis: rounded(points[:, i]) for i, axis in enumerate("xyz"[: points.shape[1]])}
    hover = {"hovertext": [shown(w) for w in words], "hovertemplate": "%{hovertext}<extra></extra>"}
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
    axes = {axis: rounded(points[:, i]) for i, axis in enumerate("xyz"[: points.shape[1]])}
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


def _placed(drawn: go.Figure, chart: Chart, *, hidden: bool) -> go.Figure:
    note = " (position 0 is hidden: click it in the legend)" if hidden else ""
    drawn = laid_out(drawn, f"{chart.faithfulness}{note}", height=720)
    axes = {f"{axis}axis": {"title": f"{chart.method} {i}"} for i, axis in enumerate("xyz")}
    axes |= {"aspectmode": "cube", "camera": {"eye": EYE, "center": CENTRE}}
    return drawn.update_layout(scene=axes) if chart.state_points.shape[-1] == 3 else drawn
