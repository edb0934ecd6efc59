"""Figure of trajectory measures over the layers, of one trajectory or of several together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from tw_lens.analyses import Trajectory
from tw_lens.analyses.trajectory import SHOWN
from tw_lens.analyses.trajectory_measures import TRAJECTORY_MEASURES
from tw_lens.argument_kinds import shown
from tw_lens.arguments import checked
from tw_lens.rendering.figures.style import (
    DASHES,
    HIDDEN_LINE,
    LOGARITHMIC,
    MEASURE_LABELS,
    apply_layout,
    escape_token,
    layer_ticks,
    line_of,
    to_lists,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go


@checked
def plot_trajectory_measures(
    paths: Trajectory | Sequence[Trajectory], measures: Sequence[str] = SHOWN
) -> go.Figure:
    """Plot measures of one or several trajectories over the layers.

    Each measure has a panel, each position a line. Trajectories of several prompts or models are
    overlaid, one line dash each; where models have different numbers of layers, the axis is the
    relative depth, from 0 to 1.

    Args:
        paths: from `trajectory`.
        measures: names of measures, as in the columns of `trajectory`.

    Raises:
        ValueError: no trajectory, no measure, or an unknown measure.

    Example:
        >>> from tw_lens import trajectory
        >>> path = trajectory(weights, states)
        >>> plot_trajectory_measures([path, path], ["step_angle"]).layout.title.text
        'Measures of 2 trajectories (position 0 is hidden: click it in the legend)'
    """
    from plotly.subplots import make_subplots

    trajectories = [paths] if isinstance(paths, Trajectory) else list(paths)
    _require_measures(trajectories, measures)
    across = 1 if len(measures) == 1 else 2
    down = -(-len(measures) // across)
    grid = make_subplots(down, across, subplot_titles=[MEASURE_LABELS[m] for m in measures])
    depths = {len(path.labels) for path in trajectories}
    for index in range(len(trajectories)):
        for panel, measure in enumerate(measures):
            _add_lines(grid, trajectories, index, measure, divmod(panel, across), len(depths) > 1)
    for panel, measure in enumerate(measures):
        row, col = panel // across + 1, panel % across + 1
        if measure in LOGARITHMIC:
            grid.update_yaxes(type="log", row=row, col=col)
        if panel >= len(measures) - across:
            title = "layer" if len(depths) == 1 else "relative depth"
            grid.update_xaxes(title=title, row=row, col=col)
    if len(depths) == 1:
        grid.update_xaxes(**layer_ticks(max(depths)))
    n = len(trajectories)
    title = "Trajectory measures" if n == 1 else f"Measures of {n} trajectories"
    hidden = any(len(path.token_strings) > 1 for path in trajectories)
    title += " (position 0 is hidden: click it in the legend)" if hidden else ""
    return apply_layout(grid, title, height=110 + 255 * down)


def _add_lines(
    grid: go.Figure,
    paths: Sequence[Trajectory],
    index: int,
    measure: str,
    cell: tuple[int, int],
    relative: bool,
) -> None:
    """Add to one panel a line for every position of one trajectory."""
    path = paths[index]
    last = len(path.labels) - 1
    layers = to_lists(torch.linspace(0, 1 if relative else last, last + 1))
    dash = {} if len(paths) == 1 else {"dash": DASHES[index % len(DASHES)]}
    for position, token in enumerate(path.token_strings):
        name = f"{position} {escape_token(token)}"
        grid.add_scatter(
            x=layers,
            y=to_lists(path.values[measure][:, position]),
            mode="lines",
            name=name if len(paths) == 1 else f"{_path_name(paths, index)}: {name}",
            legendgroup=f"{index} {position}",
            showlegend=cell == (0, 0),
            line=(HIDDEN_LINE if _hidden(path, position) else line_of(position)) | dash,
            visible="legendonly" if _hidden(path, position) else True,
            row=cell[0] + 1,
            col=cell[1] + 1,
        )


def _require_measures(paths: Sequence[Trajectory], measures: Sequence[str]) -> None:
    if not paths:
        raise ValueError("paths must hold at least one result of trajectory, got none.")
    expected = ", ".join(map(repr, TRAJECTORY_MEASURES))
    if not measures:
        raise ValueError(f"measures must hold at least one of {expected}; got none.")
    for name in measures:
        if name not in TRAJECTORY_MEASURES:
            raise ValueError(f"unknown measure {shown(name)}; expected one of {expected}.")


def _path_name(paths: Sequence[Trajectory], index: int) -> str:
    """A trajectory's name in the legend: its model where there are several, else its prompt."""
    several_models = len({path.model_name for path in paths}) > 1
    return escape_token(paths[index].model_name) if several_models else f"prompt {index}"


def _hidden(path: Trajectory, position: int) -> bool:
    return position == 0 and len(path.token_strings) > 1
