"""Pictures of many walks: curves with their intervals, the model beside its controls."""

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
    "attention_tv": "attention moved (total variation)",
    "output_change": "what the head writes (relative change)",
    "kl": "next token (KL, nats)",
}
NAMES = {"direction": "the direction", "random": "random pieces as strong"}
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

Curve = Callable[[Tensor, int], Float[Tensor, " layers_and_end"]]


@figure.register(TrajectoryStatistics)
def draw_trajectory_statistics(result: TrajectoryStatistics) -> go.Figure:
    """A panel for each measure, a line with its interval for each source."""
    from plotly.subplots import make_subplots

    down = -(-len(MEASURE_LABELS) // ACROSS)
    grid = make_subplots(
        down, ACROSS, subplot_titles=list(MEASURE_LABELS.values()), vertical_spacing=0.07
    )
    for panel, measure in enumerate(MEASURE_LABELS):
        place = (panel // ACROSS + 1, panel % ACROSS + 1)
        which = result.measures.index(measure)
        _curves(grid, result.sources, result.mean, lambda part, i, m=which: part[i, m], place)
        if measure in LOGARITHMIC:
            grid.update_yaxes(type="log", row=place[0], col=place[1])
    title = (
        f"{result.n_prompts} prompts, {result.n_states} positions; bands hold 95 % of 1000 "
        "resamples of the prompts"
    )
    return _with_layers(
        apply_layout(grid, title, height=230 * down + 160), len(MEASURE_LABELS), ACROSS
    )


@figure.register(TrajectoryAlignment)
def draw_trajectory_alignment(result: TrajectoryAlignment) -> go.Figure:
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
    return _with_layers(apply_layout(grid, title, height=690), len(titles), len(TARGETS))


@figure.register(DirectionAblation)
def draw_direction_ablation(result: DirectionAblation) -> go.Figure:
    """A panel for each measure: every set of directions beside random pieces, with intervals."""
    from plotly.subplots import make_subplots

    shown_measures = [m for m in EFFECTS if result.circuit == "QK" or m != "attention_tv"]
    grid = make_subplots(
        1, len(shown_measures), subplot_titles=[EFFECTS[m] for m in shown_measures],
        horizontal_spacing=0.1,
    )  # fmt: skip
    words = [
        f"{escape_token(left)}<br>{escape_token(right)}" if left else ""
        for left, right in zip(result.left_tokens, result.right_tokens, strict=True)
    ]
    for column, measure in enumerate(shown_measures, start=1):
        which = ABLATION_MEASURES.index(measure)
        for s, source in enumerate(SOURCES):
            value, low, high = (part[s, :, which] for part in result.effect)
            grid.add_scatter(
                x=list(result.names), y=to_lists(value), mode="markers", name=NAMES[source],
                legendgroup=source, showlegend=column == 1, row=1, col=column, text=words,
                marker={"color": COLORS[s], "symbol": ("circle", "diamond-open")[s], "size": 8},
                error_y={"array": to_lists(high - value), "arrayminus": to_lists(value - low),
                         "thickness": 1.2, "width": 3},
                hovertemplate=f"{NAMES[source]}, %{{x}}: %{{y}}<br>%{{text}}<extra></extra>",
            )  # fmt: skip
        grid.update_xaxes(title="direction", type="category", row=1, col=column)
        grid.update_yaxes(rangemode="tozero", row=1, col=column)
    done = "taken out" if result.action == "ablate" else "kept alone"
    title = (
        f"{result.component} {result.circuit}: directions {done}, {result.n_prompts} prompts, with "
        "95 % intervals"
    )
    legend = {"orientation": "h", "y": 1.12, "x": 1, "xanchor": "right", "yanchor": "bottom"}
    return apply_layout(grid, title, height=430).update_layout(legend=legend)


def _curves(
    grid: go.Figure, sources: Sequence[str], found: Estimate, curve: Curve, place: tuple[int, int]
) -> None:
    """One panel: a line for every source, and a band for its interval."""
    row, col = place
    for i, source in enumerate(sources):
        value, low, high = (curve(part, i) for part in found)
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
            showlegend=place == (1, 1), row=row, col=col,
            line={"color": color, "width": 3 if i == 0 else 1.6, "dash": DASHES[i % len(DASHES)]},
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
