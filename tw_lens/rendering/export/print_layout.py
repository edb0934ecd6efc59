"""A figure laid out for print: a column's width, and room for everything that has to be read.

1. What moves or is hidden goes: frames, sliders, buttons, traces that wait for a click.
2. From the top: the title in lines, the panels' titles in lines, the panels one under another with
   room for their numbers, the axis title, the legend in rows.
3. The height is the sum of these, unless one is asked for: then the panels share what is left.
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
LINE, LETTER = 1.3, 0.52  # the height of a line and the width of a letter, in sizes of the type
LEFT, RIGHT, TOP = 44, 10, 8
TICKS, AXIS, LEGEND_ROW, LEGEND_MARK = 18, 38, 19, 46
CLICK = "is hidden: click it in the legend"
FLATTEST, WAY_UP = 64, 8.5 * PIXELS_PER_INCH  # of a panel, and of all of them


def print_layout(figure: go.Figure, columns: int, height: float | None) -> go.Figure:
    """A copy of a figure in a paper's size: small type, no controls, the legend underneath.

    Args:
        figure: any figure of the package.
        columns: 1 or 2 columns wide.
        height: in inches; None for what its parts need.
    """
    drawn = _static_copy(figure)
    width = INCHES[columns] * PIXELS_PER_INCH
    across, rows = len(_domains(drawn, "x")), _domains(drawn, "y")
    panel = (width - LEFT - RIGHT) / max(1, across)
    said = (figure.layout.title.text or "").replace(CLICK, "left out")
    title = _lines(said, width - 2 * TOP, BODY)
    heads = _panel_titles(drawn, rows, panel - 10)
    head = LINE * SMALL * max(heads.values(), default=0)
    top = TOP + LINE * BODY * len(title) + head + 6
    bottom = (AXIS if rows else TOP) + _legend_height(drawn, width)
    gap = TICKS + head + 6
    down = max(1, len(rows))
    if height is None:
        tall = min(max(_panel_height(drawn, panel, columns), FLATTEST), WAY_UP / down)
        whole = top + bottom + down * tall + (down - 1) * gap
    else:
        whole = height * PIXELS_PER_INCH
        tall = max(12.0, (whole - top - bottom - (down - 1) * gap) / down)
    _stack(drawn, rows, tall, gap)
    drawn.update_layout(
        width=width,
        height=whole,
        font={"size": BODY},
        title={"font": {"size": BODY}, "x": 0, "y": 1, "yref": "container", "yanchor": "top",
               "pad": {"t": TOP + LINE * BODY * (len(title) - 1) / 2, "l": TOP},
               "text": "<br>".join(title)},
        legend={"orientation": "h", "font": {"size": SMALL}, "tracegroupgap": 0,
                "xref": "container", "x": 0, "xanchor": "left",
                "yref": "container", "y": 0, "yanchor": "bottom"},
        margin={"l": LEFT, "r": RIGHT, "t": top, "b": bottom},
    )  # fmt: skip
    _small_type(drawn, columns)
    return drawn


def _static_copy(figure: go.Figure) -> go.Figure:
    """The figure without what moves, what is hidden and what is clicked."""
    import plotly.graph_objects as go

    moving = {trace for frame in figure.frames for trace in frame.traces or ()}
    kept = [
        trace
        for number, trace in enumerate(figure.data)
        if trace.visible != "legendonly" and number not in moving
    ]
    drawn = go.Figure(data=kept, layout=figure.layout)
    drawn.layout.sliders, drawn.layout.updatemenus = None, None
    return drawn


def _domains(drawn: go.Figure, which: str) -> list[tuple[float, float]]:
    """The places of the panels along one axis, from the top or the left."""
    if not any(trace.type not in ("scatter3d", "table") for trace in drawn.data):
        return []
    axes = drawn.select_xaxes() if which == "x" else drawn.select_yaxes()
    found = {tuple(axis.domain or (0.0, 1.0)) for axis in axes if not axis.overlaying}
    return sorted(found, reverse=which == "y")


def _lines(text: str, wide: float, size: float) -> list[str]:
    return textwrap.wrap(text.replace("<br>", " "), max(8, int(wide / (LETTER * size))))


def _panel_titles(drawn: go.Figure, rows: list[tuple[float, float]], wide: float) -> dict[str, int]:
    """Break the panels' titles into lines; how many each has."""
    tops, counted = {round(high, 6) for _, high in rows}, {}
    for note in drawn.layout.annotations:
        if note.yref == "paper" and note.yanchor == "bottom" and round(note.y, 6) in tops:
            lines = _lines(note.text or "", wide, SMALL)
            counted[note.text], note.text = len(lines), "<br>".join(lines)
    return counted


def _legend_height(drawn: go.Figure, width: float) -> float:
    names = [trace.name or "" for trace in drawn.data if trace.showlegend is not False]
    if drawn.layout.showlegend is False or len(names) < 2:
        return 0.0
    entry = LEGEND_MARK + LETTER * SMALL * max(map(len, names))
    return float(LEGEND_ROW * -(-len(names) // max(1, int(width // entry))) + TOP)


def _panel_height(drawn: go.Figure, wide: float, columns: int) -> float:
    """Scenes are nearly square; names down an axis need a line each."""
    if any(trace.type == "scatter3d" for trace in drawn.data):
        return wide * (0.9 if columns == 1 else 0.62)
    names = [
        len(set(trace.y))
        for trace in drawn.data
        if trace.type in ("heatmap", "bar") and trace.y is not None and _are_names(trace.y)
    ]
    return max(0.62 * wide, LINE * SMALL * max(names, default=0))


def _are_names(values: Any) -> bool:
    return any(isinstance(value, str) for value in values)


def _stack(drawn: go.Figure, rows: list[tuple[float, float]], tall: float, gap: float) -> None:
    """Put rows of equal height one under another, with their titles."""
    heights = [high - low for low, high in rows]
    if len(rows) < 2 or max(heights) - min(heights) > 0.01:
        return
    whole = len(rows) * tall + (len(rows) - 1) * gap
    tops = [1 - row * (tall + gap) / whole for row in range(len(rows))]
    at = {round(high, 6): top for (_, high), top in zip(rows, tops, strict=True)}
    for axis in drawn.select_yaxes():
        if axis.domain:
            top = at[round(axis.domain[1], 6)]
            axis.domain = (max(0.0, top - tall / whole), top)
    for note in drawn.layout.annotations:
        if note.yref == "paper" and note.yanchor == "bottom" and round(note.y, 6) in at:
            note.y = at[round(note.y, 6)]


def _small_type(drawn: go.Figure, columns: int) -> None:
    small = {"tickfont": {"size": SMALL}, "title": {"font": {"size": SMALL}}}
    drawn.update_annotations(font={"size": SMALL})
    for axis in chain(drawn.select_xaxes(), drawn.select_yaxes()):
        axis.update(small, title={"standoff": 4})
        if axis.type != "category" and axis.tickvals is None and not _named(drawn):
            axis.nticks = 5
    drawn.update_scenes(xaxis=small, yaxis=small, zaxis=small)
    drawn.update_scenes(xaxis={"nticks": 4}, yaxis={"nticks": 4}, zaxis={"nticks": 4})
    for scene in drawn.select_scenes():
        for note in scene.annotations:
            note.font.size = SMALL
    drawn.update_coloraxes(colorbar=small | {"thickness": 10})
    for trace in drawn.data:
        if trace.type == "heatmap":
            trace.update(colorbar=small | {"thickness": 10})
        elif "marker" in trace and trace.marker.showscale:
            trace.marker.update(colorbar=small | {"thickness": 8})
        if "text" in (trace.mode or "" if hasattr(trace, "mode") else ""):
            trace.textfont.size = SMALL
        if trace.type == "scatter3d" and columns == 1:
            _thinner(trace)


def _named(drawn: go.Figure) -> bool:
    """Whether an axis holds names, all of which are to be read."""
    return any(
        trace.type in ("heatmap", "bar")
        and any(_are_names(values) for values in (trace.x, trace.y) if values is not None)
        for trace in drawn.data
    )


def _thinner(trace: Any) -> None:
    """Lines and marks for a picture half as wide."""
    if trace.line.width:
        trace.line.width = trace.line.width / 2
    if isinstance(trace.marker.size, int | float):
        trace.marker.size = trace.marker.size / 1.6
