"""Figures of studies over many prompts: means with intervals, the model and its controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from tw_lens.rendering.figures.style import (
    COLORS,
    LOGARITHMIC,
    MEASURE_LABELS,
    apply_layout,
    escape_token,
    layer_ticks,
    to_lists,
)
from tw_lens.results import figure
from tw_lens.studies import (
    ABLATION_MEASURES,
    PLACES,
    SOURCES,
    TARGETS,
    DirectionAblation,
    Estimate,
    TrajectoryAlignment,
    TrajectoryStatistics,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go

ACROSS = 3
EFFECTS = {
    "attention_tv": "attention (total variation)",
    "output_change": "head output (relative change)",
    "kl": "next token (KL, nats)",
}
NAMES = {"direction": "direction", "random": "matched random pieces"}
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

Curve = Callable[[Tensor, int], Float[Tensor, " layers_and_end"]]


@figure.register(TrajectoryStatistics)
def draw_trajectory_statistics(result: TrajectoryStatistics) -> go.Figure:
    """Draw a panel per measure, with a line and its interval for each source."""
    from plotly.subplots import make_subplots

    down = -(-len(MEASURE_LABELS) // ACROSS)
    grid = make_subplots(
        down, ACROSS, subplot_titles=list(MEASURE_LABELS.values()), vertical_spacing=0.07
    )
    for panel, measure in enumerate(MEASURE_LABELS):
        cell = (panel // ACROSS + 1, panel % ACROSS + 1)
        index = result.measures.index(measure)
        _add_curves(grid, result.sources, result.mean, lambda part, i, m=index: part[i, m], cell)
        if measure in LOGARITHMIC:
            grid.update_yaxes(type="log", row=cell[0], col=cell[1])
    title = (
        f"{result.n_prompts} prompts, {result.n_states} positions; bands: 95 % of 1000 bootstrap "
        "resamples of the prompts"
    )
    height = 230 * down + 160
    apply_layout(grid, title, height=height)
    last = result.mean.value.shape[-1] - 1
    return _label_layers(grid, last, len(MEASURE_LABELS), ACROSS, height)


@figure.register(TrajectoryAlignment)
def draw_trajectory_alignment(result: TrajectoryAlignment) -> go.Figure:
    """Draw angles over the layers: a column per target, a row per place in the prompt."""
    from plotly.subplots import make_subplots

    titles = [f"{target}, {place}" for place in PLACES for target in TARGETS]
    grid = make_subplots(
        len(PLACES), len(TARGETS), subplot_titles=titles, shared_yaxes=True, vertical_spacing=0.12
    )
    for p, _ in enumerate(PLACES):
        for t, _ in enumerate(TARGETS):

            def curve(part: Tensor, i: int, target: int = t, place: int = p) -> Tensor:
                return part[i, target, place]

            _add_curves(grid, result.sources, result.angle, curve, (p + 1, t + 1))
    grid.update_yaxes(title="angle (rad)", col=1)
    title = f"Angle to each target, {result.n_prompts} prompts, with 95 % intervals"
    apply_layout(grid, title, height=690)
    last = result.angle.value.shape[-1] - 1
    return _label_layers(grid, last, len(titles), len(TARGETS), 690)


@figure.register(DirectionAblation)
def draw_direction_ablation(result: DirectionAblation) -> go.Figure:
    """Draw a panel per measure: every set of directions and its random control, with intervals."""
    from plotly.subplots import make_subplots

    measures = [m for m in EFFECTS if result.circuit == "QK" or m != "attention_tv"]
    grid = make_subplots(
        1, len(measures), subplot_titles=[EFFECTS[m] for m in measures],
        horizontal_spacing=0.1,
    )  # fmt: skip
    tokens = [
        f"{escape_token(left)}<br>{escape_token(right)}" if left else ""
        for left, right in zip(result.left_tokens, result.right_tokens, strict=True)
    ]
    for column, measure in enumerate(measures, start=1):
        index = ABLATION_MEASURES.index(measure)
        for s, source in enumerate(SOURCES):
            value, low, high = (part[s, :, index] for part in result.effect)
            grid.add_scatter(
                x=list(result.names), y=to_lists(value), mode="markers", name=NAMES[source],
                legendgroup=source, showlegend=column == 1, row=1, col=column, text=tokens,
                marker={"color": COLORS[s], "symbol": ("circle", "diamond-open")[s], "size": 8},
                error_y={"array": to_lists(high - value), "arrayminus": to_lists(value - low),
                         "thickness": 1.2, "width": 3},
                hovertemplate=f"{NAMES[source]}, %{{x}}: %{{y}}<br>%{{text}}<extra></extra>",
            )  # fmt: skip
        grid.update_xaxes(title="direction", type="category", row=1, col=column)
        grid.update_yaxes(rangemode="tozero", row=1, col=column)
    action = "ablated" if result.action == "ablate" else "isolated"
    title = (
        f"{result.component} {result.circuit}: directions {action}, {result.n_prompts} prompts, "
        "with 95 % intervals"
    )
    legend = {"orientation": "h", "y": 1.12, "x": 1, "xanchor": "right", "yanchor": "bottom"}
    return apply_layout(grid, title, height=430).update_layout(legend=legend)


def _add_curves(
    grid: go.Figure, sources: Sequence[str], estimate: Estimate, curve: Curve, cell: tuple[int, int]
) -> None:
    """Add to one panel a line for every source, and a band for its interval."""
    row, col = cell
    for i, source in enumerate(sources):
        value, low, high = (curve(part, i) for part in estimate)
        known = (~value.isnan()).nonzero()[:, 0]
        value, low, high, layers = value[known], low[known], high[known], known.tolist()
        color = COLORS[i % len(COLORS)]
        band = {"legendgroup": source, "hoverinfo": "skip", "showlegend": False, "row": row}
        grid.add_scatter(
            x=layers + layers[::-1], y=to_lists(high) + to_lists(low.flip(0)), fill="toself",
            fillcolor=color, opacity=0.18, line={"width": 0}, mode="lines", col=col, **band,
        )  # fmt: skip
        grid.add_scatter(
            x=layers, y=to_lists(value), mode="lines", name=source, legendgroup=source,
            showlegend=cell == (1, 1), row=row, col=col,
            line={"color": color, "width": 3 if i == 0 else 1.6, "dash": DASHES[i % len(DASHES)]},
        )  # fmt: skip


def _label_layers(grid: go.Figure, last: int, panels: int, across: int, height: int) -> go.Figure:
    """Label the layer axis of the lowest panel of each column; put the legend under the title."""
    grid.update_xaxes(**layer_ticks(last))
    for panel in range(max(0, panels - across), panels):
        grid.update_xaxes(title="layer", row=panel // across + 1, col=panel % across + 1)
    top = {"yref": "container", "yanchor": "top"}
    legend = {"orientation": "h", "x": 0, "y": 1 - 44 / height, **top}
    grid.update_layout(legend=legend, margin={"t": 112})
    return grid.update_layout(title={"y": 1, "pad": {"t": 16}, **top})
