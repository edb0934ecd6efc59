"""Figure of a sweep: a panel per measure, over training steps or over models."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from tw_lens.rendering.figures.style import COLORS, MUTED, apply_layout, truncate
from tw_lens.results import figure
from tw_lens.studies import Sweep
from tw_lens.studies.sweep_measures import Column
from tw_lens.studies.sweep_result import OVER_LAYERS

if TYPE_CHECKING:
    import plotly.graph_objects as go

ACROSS = 4
FLOOR, CORRELATION = "floor", "correlation"
OF_LAYERS = {"mean": "mean and range of layers", "max": "best of all layers"}


@figure.register(Sweep)
def draw_sweep(result: Sweep) -> go.Figure:
    """Draw the mean over layers (kinds: the best score) of every measure, with its range.

    The axis is the training step where all names say one, with a line per training run; else the
    models. A dotted line is the floor of a correlation.
    """
    from plotly.subplots import make_subplots

    drawn = [c for c in result.columns if c.over_layers in OF_LAYERS and FLOOR not in c.name]
    across = min(ACROSS, len(drawn))
    down = -(-len(drawn) // across)
    titles = [f"{c.label}<br><sub>{OF_LAYERS[c.over_layers]}</sub>" for c in drawn]
    grid = make_subplots(
        down, across, subplot_titles=titles, horizontal_spacing=0.2 / across,
        vertical_spacing=0.45 / max(2, down),
    )  # fmt: skip
    grid.update_annotations(font_size=12)
    for panel, column in enumerate(drawn):
        cell = {"row": panel // across + 1, "col": panel % across + 1}
        for r, (run, models) in enumerate(_runs(result)):
            color, first = COLORS[r % len(COLORS)], panel == 0
            style = {"legendgroup": run, "showlegend": first and len(_runs(result)) > 1}
            _add(grid, result, models, column, run, color, cell, style)
            floor = column.name.replace(CORRELATION, FLOOR)
            if floor != column.name:
                other = next(c for c in result.columns if c.name == floor)
                _add(grid, result, models, other, run, MUTED, cell, {"showlegend": False})
        if result.has_steps:
            grid.update_xaxes(title="step", row=cell["row"], col=cell["col"])
    if not result.has_steps:
        names = [html.escape(model.name) for model in result.models]
        short = [truncate(html.escape(Path(model.name).name), 24) for model in result.models]
        grid.update_xaxes(type="category", tickvals=names, ticktext=short)
    n, floor = len(result.models), "; dotted: floor" * ("faithfulness" in result.measures)
    title = f"Sweep of {n} model{'s' if n > 1 else ''}{floor}"
    apply_layout(grid, title, height=130 + 250 * down)
    return grid.update_layout(margin={"t": 96})


def _runs(result: Sweep) -> list[tuple[str, list[int]]]:
    """Return the models of each training run, by step; all models as one without steps."""
    if not result.has_steps:
        return [("", list(range(len(result.models))))]
    runs: dict[str, list[int]] = {}
    for i in sorted(range(len(result.models)), key=lambda i: result.models[i].step or 0):
        runs.setdefault(result.models[i].run, []).append(i)
    return list(runs.items())


def _add(
    grid: go.Figure,
    result: Sweep,
    models: Sequence[int],
    column: Column,
    run: str,
    color: str,
    cell: dict[str, int],
    style: dict[str, object],
) -> None:
    """Add one column of one run to a panel: a line over steps, or points over models."""
    at = result.columns.index(column)
    parts = [result.of_models()[i][:, at] for i in models]
    value = [float(OVER_LAYERS[column.over_layers](part)) for part in parts]
    names = [html.escape(result.models[i].name) for i in models]
    is_floor = FLOOR in column.name
    spread = {}
    if column.over_layers == "mean" and not is_floor:
        spread = {"error_y": _spread(parts, value)}
    grid.add_scatter(
        x=[result.models[i].step for i in models] if result.has_steps else names,
        y=_rounded(value), name=column.name if len(_runs(result)) == 1 else html.escape(run),
        meta=column.name, text=names, mode=_mode(result, is_floor),
        line={"color": color, "dash": "dot" if is_floor else "solid"}, marker={"color": color},
        hovertemplate=f"%{{text}}, {column.label}: %{{y}}<extra></extra>",
        **spread, **style, **cell,
    )  # fmt: skip


def _mode(result: Sweep, is_floor: bool) -> str:
    if not result.has_steps:
        return "markers"
    return "lines" if is_floor else "lines+markers"


def _spread(parts: Sequence[Float[Tensor, " layers"]], mean: Sequence[float]) -> dict[str, object]:
    """Return error bars from the lowest to the highest layer."""
    above = [float(OVER_LAYERS["max"](part)) - m for part, m in zip(parts, mean, strict=True)]
    below = [m + float(OVER_LAYERS["max"](-part)) for part, m in zip(parts, mean, strict=True)]
    return {"array": _rounded(above), "arrayminus": _rounded(below), "thickness": 1, "width": 2}


def _rounded(values: Sequence[float]) -> list[float | None]:
    return [None if value != value else float(f"{value:.4g}") for value in values]
