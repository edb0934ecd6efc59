"""Pictures of words travelling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses import Chart, Trajectory, figure
from tw_lens.rendering.style import COLOURS, MUTED, apart, laid_out, rounded, shown, shown_in_3d

if TYPE_CHECKING:
    import plotly.graph_objects as go

NAMED_LANDMARKS = 25
NAMES_APART = 0.05  # of the picture's width
MEASURES = (
    ("norm", "norm |x| (log)"),
    ("step_angle", "step angle (rad)"),
    ("arc_length", "arc length (rad)"),
    ("turning_angle", "turning angle (rad)"),
)


@figure.register(Trajectory)
def draw_trajectory(result: Trajectory, chart: Chart | None = None) -> go.Figure:
    """The paths among the words of a chart, or the measures over the layers without one."""
    return _measures(result) if chart is None else _paths(result, chart)


@figure.register(Chart)
def draw_chart(result: Chart) -> go.Figure:
    """States and words of a chart, without what the states read as."""
    import plotly.graph_objects as go

    drawn = go.Figure()
    _add_words(drawn, result)
    for position, token in enumerate(result.token_strings):
        hover = [f"{shown(token)} at {label}" for label in result.labels]
        _add_path(drawn, result, position, hover)
    return _placed(drawn, result)


def _measures(result: Trajectory) -> go.Figure:
    from plotly.subplots import make_subplots

    grid = make_subplots(2, 2, subplot_titles=[title for _, title in MEASURES])
    values = {"norm": result.norm, **result.measures._asdict()}
    layers = list(range(len(result.labels)))
    for panel, (measure, _) in enumerate(MEASURES):
        for position, token in enumerate(result.token_strings):
            grid.add_scatter(
                x=layers, y=rounded(values[measure][:, position]), mode="lines",
                name=f"{position} {shown(token)}", legendgroup=str(position),
                showlegend=panel == 0, line={"color": _colour(position)},
                visible="legendonly" if position == 0 and len(result.token_strings) > 1 else True,
                row=panel // 2 + 1, col=panel % 2 + 1,
            )  # fmt: skip
    grid.update_yaxes(type="log", row=1, col=1)
    grid.update_xaxes(title="layer", row=2)
    grid.update_xaxes(tickformat="d", dtick=max(1, len(layers) // 6))
    title = f"The walk in numbers{_hidden(len(result.token_strings))}"
    return laid_out(grid, title, height=620)


def _paths(result: Trajectory, chart: Chart) -> go.Figure:
    import plotly.graph_objects as go

    if (result.labels, result.token_strings) != (chart.labels, chart.token_strings):
        raise ValueError("the chart is of other states than the path: fit it on the same states.")
    drawn = go.Figure()
    _add_words(drawn, chart)
    for position, token in enumerate(result.token_strings):
        hover = []
        for layer, label in enumerate(result.labels):
            reads = "<br>".join(shown(word) for word in result.reading(layer, position))
            hover.append(f"<b>{shown(token)}</b> at {label}<br>reads<br>{reads}")
        _add_path(drawn, chart, position, hover)
    return _placed(drawn, chart)


def _add_words(drawn: go.Figure, chart: Chart) -> None:
    first = chart.landmarks
    named = min(first, NAMED_LANDMARKS)
    quiet = {"mode": "markers", "marker": {"size": 2, "color": MUTED, "opacity": 0.35}}
    _add_points(drawn, chart.word_points[named:], chart.words[named:], "other words", quiet)
    write = shown_in_3d if chart.word_points.shape[1] == 3 else shown
    near = chart.word_points[:named]
    width = float((chart.word_points.amax(0) - chart.word_points.amin(0)).max())
    free = apart(near, NAMES_APART * width)
    names = [write(word) if f else "" for word, f in zip(chart.words, free, strict=False)]
    loud = {
        "mode": "markers+text", "marker": {"size": 4, "color": "#333333"}, "text": names,
        "textfont": {"size": 11}, "textposition": "top center",
    }  # fmt: skip
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


def _add_path(drawn: go.Figure, chart: Chart, position: int, hover: list[str]) -> None:
    points = chart.state_points[:, position]
    axes = {axis: rounded(points[:, i]) for i, axis in enumerate("xyz"[: points.shape[1]])}
    add = drawn.add_scatter3d if points.shape[1] == 3 else drawn.add_scatter
    add(
        **axes,
        mode="lines+markers",
        name=f"{position} {shown(chart.token_strings[position])}",
        line={"color": _colour(position), "width": 4},
        marker={"size": 3, "color": _colour(position)},
        text=hover,
        hovertemplate="%{text}<extra></extra>",
        visible="legendonly" if position == 0 and len(chart.token_strings) > 1 else True,
    )


def _colour(position: int) -> str:
    return COLOURS[position % len(COLOURS)]


def _hidden(n_positions: int) -> str:
    return " (position 0 is hidden: click it in the legend)" if n_positions > 1 else ""


def _placed(drawn: go.Figure, chart: Chart) -> go.Figure:
    title = f"{chart.faithfulness}{_hidden(len(chart.token_strings))}"
    drawn = laid_out(drawn, title, height=680)
    axes = {f"{axis}axis": {"title": f"{chart.method} {i}"} for i, axis in enumerate("xyz")}
    axes |= {"aspectmode": "cube", "camera": {"eye": {"x": 1.35, "y": 1.35, "z": 0.8}}}
    return drawn.update_layout(scene=axes) if chart.state_points.shape[-1] == 3 else drawn
