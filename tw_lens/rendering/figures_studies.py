"""Pictures of many walks: curves with their intervals, the model beside its controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses import figure
from tw_lens.rendering.style import COLOURS, LOGARITHMIC, MEASURES, laid_out, rounded
from tw_lens.studies import PLACES, TARGETS, Approach, Estimate, TrajectoryStatistics

if TYPE_CHECKING:
    import plotly.graph_objects as go

ACROSS = 3
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

Curve = Callable[[Tensor, int], Float[Tensor, " layers_and_end"]]


@figure.register(TrajectoryStatistics)
def draw_statistics(result: TrajectoryStatistics) -> go.Figure:
    """A panel for each measure, a line with its interval for each source."""
    from plotly.subplots import make_subplots

    down = -(-len(MEASURES) // ACROSS)
    grid = make_subplots(
        down, ACROSS, subplot_titles=list(MEASURES.values()), vertical_spacing=0.07
    )
    for panel, measure in enumerate(MEASURES):
        place = (panel // ACROSS + 1, panel % ACROSS + 1)
        which = result.measures.index(measure)
        _curves(grid, result.sources, result.mean, lambda part, i, m=which: part[i, m], place)
        if measure in LOGARITHMIC:
            grid.update_yaxes(type="log", row=place[0], col=place[1])
    title = (
        f"{result.n_prompts} prompts, {result.n_states} positions; bands hold 95 % of 1000 "
        "resamples of the prompts"
    )
    return _with_layers(laid_out(grid, title, height=230 * down + 160), len(MEASURES), ACROSS)


@figure.register(Approach)
def draw_approach(result: Approach) -> go.Figure:
    """Angles over the layers: a column for each target, a row for each place."""
    from plotly.subplots import make_subplots

    titles = [f"{target}, {place}" for place in PLACES for target in TARGETS]
    grid = make_subplots(
        len(PLACES), len(TARGETS), subplot_titles=titles, shared_yaxes=True, vertical_spacing=0.12
    )
    for p, _ in enumerate(PLACES):
        for t, _ in enumerate(TARGETS):

            def curve(part: Tensor, i: int, at: tuple[int, int] = (t, p)) -> Tensor:
                return part[i, at[0], at[1]]

            _curves(grid, result.sources, result.angle, curve, (p + 1, t + 1))
    grid.update_yaxes(title="angle (rad)", col=1)
    title = f"Angle to what follows, {result.n_prompts} prompts, with 95 % intervals"
    return _with_layers(laid_out(grid, title, height=690), len(titles), len(TARGETS))


def _curves(
    grid: go.Figure, sources: Sequence[str], found: Estimate, curve: Curve, place: tuple[int, int]
) -> None:
    """One panel: a line for every source, and a band for its interval."""
    row, col = place
    for i, source in enumerate(sources):
        value, low, high = (curve(part, i) for part in found)
        known = (~value.isnan()).nonzero()[:, 0]
        value, low, high, layers = value[known], low[known], high[known], known.tolist()
        colour = COLOURS[i % len(COLOURS)]
        band = {"legendgroup": source, "hoverinfo": "skip", "showlegend": False, "row": row}
        grid.add_scatter(
            x=layers + layers[::-1], y=rounded(high) + rounded(low.flip(0)), fill="toself",
            fillcolor=colour, opacity=0.18, line={"width": 0}, mode="lines", col=col, **band,
        )  # fmt: skip
        grid.add_scatter(
            x=layers, y=rounded(value), mode="lines", name=source, legendgroup=source,
            showlegend=place == (1, 1), row=row, col=col,
            line={"color": colour, "width": 3 if i == 0 else 1.6, "dash": DASHES[i % len(DASHES)]},
        )  # fmt: skip


def _with_layers(grid: go.Figure, panels: int, across: int) -> go.Figure:
    """Layers under the lowest panel of every column, and the legend under the title."""
    grid.update_xaxes(tickformat="d")
    for panel in range(max(0, panels - across), panels):
        grid.update_xaxes(title="layer", row=panel // across + 1, col=panel % across + 1)
    top = {"yref": "container", "yanchor": "top"}
    legend = {"orientation": "h", "x": 0, "y": 1 - 44 / grid.layout.height, **top}
    grid.update_layout(legend=legend, margin={"t": 112})
    return grid.update_layout(title={"y": 1, "pad": {"t": 16}, **top})
