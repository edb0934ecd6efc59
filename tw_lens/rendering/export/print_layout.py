"""Print layout: a figure at column width, with space for everything that has to be legible.

1. Remove what moves or is hidden: frames, sliders, buttons, traces that wait for a click.
2. From top to bottom: the title in lines, the panels' titles in lines, the panels in rows with
   space for their tick labels, the axis title, the legend in rows.
3. The height is the sum of these, unless one is given: then the panels share what is left.
"""

from __future__ import annotations

import textwrap
from itertools import chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import plotly.graph_objects as go

INCHES = {1: 3.3, 2: 6.9}  # one and two columns of a paper
PIXELS_PER_INCH = 96
POINT = PIXELS_PER_INCH / 72
BODY, SMALL = 8 * POINT, 7 * POINT
LINE, LETTER = 1.3, 0.52  # line height and letter width, in units of the font size
LEFT, RIGHT, TOP = 44, 10, 8
TICKS, AXIS, LEGEND_ROW, LEGEND_SYMBOL = 18, 38, 19, 46
CLICK = "is hidden: click it in the legend"
MIN_PANEL_HEIGHT, MAX_PANELS_HEIGHT = 64, 8.5 * PIXELS_PER_INCH  # of one panel, of all together

Domain = tuple[float, float]


def layout_of(fig: go.Figure) -> Any:
    """Return a figure's layout; its attributes are made at run time and have no static type."""
    return fig.layout


def print_layout(figure: go.Figure, columns: int, height: float | None) -> go.Figure:
    """Return a copy of a figure at print size: small type, no controls, the legend at the bottom.

    Args:
        figure: any figure of the package.
        columns: 1 or 2 columns wide.
        height: in inches; None for what its parts need.
    """
    fig = _static_copy(figure)
    width = INCHES[columns] * PIXELS_PER_INCH
    across, rows = len(_domains(fig, "x")), _domains(fig, "y")
    panel = (width - LEFT - RIGHT) / max(1, across)
    text = (layout_of(figure).title.text or "").replace(CLICK, "excluded")
    title = _wrap(text, width - 2 * TOP, BODY)
    title_lines = _wrap_panel_titles(fig, rows, panel - 10)
    panel_title = LINE * SMALL * max(title_lines.values(), default=0)
    top = TOP + LINE * BODY * len(title) + panel_title + 6
    bottom = (AXIS if rows else TOP) + _legend_height(fig, width)
    gap = TICKS + panel_title + 6
    down = max(1, len(rows))
    if height is None:
        tall = max(_panel_height(fig, panel, columns), MIN_PANEL_HEIGHT)
        tall = min(tall, MAX_PANELS_HEIGHT / down)
        total = top + bottom + down * tall + (down - 1) * gap
    else:
        total = height * PIXELS_PER_INCH
        tall = max(12.0, (total - top - bottom - (down - 1) * gap) / down)
    _stack(fig, rows, tall, gap)
    fig.update_layout(
        width=width,
        height=total,
        font={"size": BODY},
        title={"font": {"size": BODY}, "x": 0, "y": 1, "yref": "container", "yanchor": "top",
               "pad": {"t": TOP + LINE * BODY * (len(title) - 1) / 2, "l": TOP},
               "text": "<br>".join(title)},
        legend={"orientation": "h", "font": {"size": SMALL}, "tracegroupgap": 0,
                "xref": "container", "x": 0, "xanchor": "left",
                "yref": "container", "y": 0, "yanchor": "bottom"},
        margin={"l": LEFT, "r": RIGHT, "t": top, "b": bottom},
    )  # fmt: skip
    _shrink_type(fig, columns)
    return fig


def _static_copy(figure: go.Figure) -> go.Figure:
    """Copy the figure without animation, hidden traces and controls."""
    import plotly.graph_objects as go

    moving = {trace for frame in figure.frames for trace in frame.traces or ()}
    static = [
        trace
        for number, trace in enumerate(figure.data)
        if trace.visible != "legendonly" and number not in moving
    ]
    fig = go.Figure(data=static, layout=figure.layout)
    layout = layout_of(fig)
    layout.sliders, layout.updatemenus = None, None
    return fig


def _axes(fig: go.Figure, direction: str) -> list[Any]:
    return list(fig.select_xaxes() if direction == "x" else fig.select_yaxes())


def _panel_notes(fig: go.Figure) -> list[Any]:
    """The annotations that are titles of panels."""
    notes = layout_of(fig).annotations
    return [note for note in notes if note.yref == "paper" and note.yanchor == "bottom"]


def _domains(fig: go.Figure, direction: str) -> list[Domain]:
    """The domains of the panels along one direction, from the top or the left."""
    if not any(trace.type not in ("scatter3d", "table") for trace in fig.data):
        return []
    domains: set[Domain] = set()
    for axis in _axes(fig, direction):
        if not axis.overlaying:
            low, high = axis.domain or (0.0, 1.0)
            domains.add((low, high))
    return sorted(domains, reverse=direction == "y")


def _wrap(text: str, width: float, size: float) -> list[str]:
    return textwrap.wrap(text.replace("<br>", " "), max(8, int(width / (LETTER * size))))


def _wrap_panel_titles(fig: go.Figure, rows: list[Domain], width: float) -> dict[str, int]:
    """Break the panels' titles into lines; return how many each has."""
    tops, counts = {round(high, 6) for _, high in rows}, {}
    for note in _panel_notes(fig):
        if round(note.y, 6) in tops:
            lines = _wrap(note.text or "", width, SMALL)
            counts[note.text], note.text = len(lines), "<br>".join(lines)
    return counts


def _legend_height(fig: go.Figure, width: float) -> float:
    names = [
        trace.name or "" for trace in fig.data if getattr(trace, "showlegend", None) is not False
    ]
    if layout_of(fig).showlegend is False or len(names) < 2:
        return 0.0
    entry = LEGEND_SYMBOL + LETTER * SMALL * max(map(len, names))
    return float(LEGEND_ROW * -(-len(names) // max(1, int(width // entry))) + TOP)


def _panel_height(fig: go.Figure, width: float, columns: int) -> float:
    """Height of a panel: scenes are nearly square; labels down an axis need a line each."""
    if any(trace.type == "scatter3d" for trace in fig.data):
        return width * (0.9 if columns == 1 else 0.62)
    labels = [
        len(set(trace.y))
        for trace in fig.data
        if trace.type in ("heatmap", "bar") and trace.y is not None and _are_labels(trace.y)
    ]
    return max(0.62 * width, LINE * SMALL * max(labels, default=0))


def _are_labels(values: Any) -> bool:
    return any(isinstance(value, str) for value in values)


def _stack(fig: go.Figure, rows: list[Domain], tall: float, gap: float) -> None:
    """Place rows of equal height below each other, with their titles."""
    heights = [high - low for low, high in rows]
    if len(rows) < 2 or max(heights) - min(heights) > 0.01:
        return
    total = len(rows) * tall + (len(rows) - 1) * gap
    tops = [1 - row * (tall + gap) / total for row in range(len(rows))]
    top_of = {round(high, 6): top for (_, high), top in zip(rows, tops, strict=True)}
    for axis in _axes(fig, "y"):
        if axis.domain:
            top = top_of[round(axis.domain[1], 6)]
            axis.domain = (max(0.0, top - tall / total), top)
    for note in _panel_notes(fig):
        if round(note.y, 6) in top_of:
            note.y = top_of[round(note.y, 6)]


def _shrink_type(fig: go.Figure, columns: int) -> None:
    small = {"tickfont": {"size": SMALL}, "title": {"font": {"size": SMALL}}}
    fig.update_annotations(font={"size": SMALL})
    for axis in chain(_axes(fig, "x"), _axes(fig, "y")):
        axis.update(small, title={"standoff": 4})
        if axis.type != "category" and axis.tickvals is None and not _has_labels(fig):
            axis.nticks = 5
    fig.update_scenes(xaxis=small, yaxis=small, zaxis=small)
    fig.update_scenes(xaxis={"nticks": 4}, yaxis={"nticks": 4}, zaxis={"nticks": 4})
    scenes: list[Any] = list(fig.select_scenes())
    for note in chain.from_iterable(scene.annotations for scene in scenes):
        note.font.size = SMALL
    fig.update_coloraxes(colorbar=small | {"thickness": 10})
    for trace in fig.data:
        if trace.type == "heatmap":
            trace.update(colorbar=small | {"thickness": 10})
        elif "marker" in trace and trace.marker.showscale:
            trace.marker.update(colorbar=small | {"thickness": 8})
        if "text" in (trace.mode or "" if hasattr(trace, "mode") else ""):
            trace.textfont.size = SMALL
        if trace.type == "scatter3d" and columns == 1:
            _thin_lines(trace)


def _has_labels(fig: go.Figure) -> bool:
    """Return whether an axis holds labels, all of which must be legible."""
    return any(
        trace.type in ("heatmap", "bar")
        and any(_are_labels(values) for values in (trace.x, trace.y) if values is not None)
        for trace in fig.data
    )


def _thin_lines(trace: Any) -> None:
    """Reduce lines and markers for a figure half as wide."""
    if trace.line.width:
        trace.line.width = trace.line.width / 2
    if isinstance(trace.marker.size, int | float):
        trace.marker.size = trace.marker.size / 1.6
