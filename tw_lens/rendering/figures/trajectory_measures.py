"""Pictures of walks in numbers: measures over the layers, of one prompt or of several together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from tw_lens.analyses import Trajectory
from tw_lens.analyses.trajectory import SHOWN
from tw_lens.rendering.figures.style import (
    COLORS,
    LOGARITHMIC,
    MEASURE_LABELS,
    apply_layout,
    escape_token,
    to_lists,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go

DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


def plot_trajectory_measures(
    paths: Trajectory | Sequence[Trajectory], measures: Sequence[str] = SHOWN
) -> go.Figure:
    """Measures of one or several walks over the layers: a panel each, a line for every position.

    Walks of several prompts or models lie over each other, one kind of line each; where models
    have different numbers of layers, the axis is the share of the layers passed.

    Args:
        paths: from `trajectory`.
        measures: names of measures, as in the columns of `trajectory`.

    Raises:
        ValueError: no path, or a measure that is unknown.

    Example:
        >>> from tw_lens import trajectory
        >>> path = trajectory(weights, states)
        >>> plot_trajectory_measures([path, path], ["step_angle"]).layout.title.text
        'The walks in numbers (position 0 is hidden: click it in the legend)'
    """
    from plotly.subplots import make_subplots

    held = [paths] if isinstance(paths, Trajectory) else list(paths)
    _require(held, measures)
    across = 1 if len(measures) == 1 else 2
    titles = [MEASURE_LABELS[measure] for measure in measures]
    grid = make_subplots(-(-len(measures) // across), across, subplot_titles=titles)
    depths = {len(path.labels) for path in held}
    for which, path in enumerate(held):
        last = len(path.labels) - 1
        layers = to_lists(torch.linspace(0, 1 if len(depths) > 1 else last, last + 1))
        for panel, measure in enumerate(measures):
            for position, token in enumerate(path.token_strings):
                named = f"{position} {escape_token(token)}"
                grid.add_scatter(
                    x=layers,
                    y=to_lists(path.values[measure][:, position]),
                    mode="lines",
                    name=named if len(held) == 1 else f"{_named(held, which)}: {named}",
                    legendgroup=f"{which} {position}",
                    showlegend=panel == 0,
                    line={"color": COLORS[position % len(COLORS)], "dash": _dash(which)},
                    visible=_visible(path, position),
                    row=panel // across + 1,
                    col=panel % across + 1,
                )
    for panel, measure in enumerate(measures):
        row, col = panel // across + 1, panel % across + 1
        if measure in LOGARITHMIC:
            grid.update_yaxes(type="log", row=row, col=col)
        if panel >= len(measures) - across:
            title = "layer" if len(depths) == 1 else "share of the layers passed"
            grid.update_xaxes(title=title, row=row, col=col)
    if len(depths) == 1:
        grid.update_xaxes(tickformat="d", dtick=max(1, max(depths) // 6))
    what = "The walk in numbers" if len(held) == 1 else "The walks in numbers"
    hidden = any(len(path.token_strings) > 1 for path in held)
    title = what + (" (position 0 is hidden: click it in the legend)" if hidden else "")
    return apply_layout(grid, title, height=110 + 255 * -(-len(measures) // across))


def _require(paths: Sequence[Trajectory], measures: Sequence[str]) -> None:
    if not paths:
        raise ValueError("paths is empty: give what trajectory returns, once or several times.")
    unknown = [name for name in measures if name not in MEASURE_LABELS]
    if unknown or not measures:
        raise ValueError(
            f"measures={tuple(measures)!r}: one or more of {', '.join(MEASURE_LABELS)} fit."
        )


def _dash(which: int) -> str:
    return DASHES[which % len(DASHES)]


def _named(paths: Sequence[Trajectory], which: int) -> str:
    """What tells a walk from the others: its model, or else its prompt's number."""
    several = len({path.model_name for path in paths}) > 1
    return escape_token(paths[which].model_name) if several else f"prompt {which}"


def _visible(path: Trajectory, position: int) -> bool | str:
    return "legendonly" if position == 0 and len(path.token_strings) > 1 else True
