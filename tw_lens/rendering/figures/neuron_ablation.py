"""Figure of a neuron ablation: the effect of every set of neurons beside its random control."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tw_lens.rendering.figures.style import COLORS, apply_layout, to_lists
from tw_lens.results import figure
from tw_lens.studies import NeuronAblation
from tw_lens.studies.neuron_ablation import MEASURES

if TYPE_CHECKING:
    import plotly.graph_objects as go

LABELS = {"output_change": "change of the MLP's output", "kl": "KL of the next token (nats)"}
SOURCES = ("neurons", "random neurons of the same write norm")


@figure.register(NeuronAblation)
def draw_neuron_ablation(result: NeuronAblation) -> go.Figure:
    """Draw a panel per measure: every set of neurons and its random control, with intervals."""
    from plotly.subplots import make_subplots

    grid = make_subplots(
        1, len(MEASURES), subplot_titles=[LABELS[m] for m in MEASURES], horizontal_spacing=0.1
    )
    for m in range(len(MEASURES)):
        for s, source in enumerate(SOURCES):
            value, low, high = (part[s, :, m] for part in result.effect)
            grid.add_scatter(
                x=list(result.names), y=to_lists(value), mode="markers", name=source,
                legendgroup=source, showlegend=m == 0, row=1, col=m + 1,
                marker={"color": COLORS[s], "symbol": ("circle", "diamond-open")[s], "size": 8},
                error_y={"array": to_lists(high - value), "arrayminus": to_lists(value - low),
                         "thickness": 1.2, "width": 3},
                hovertemplate=f"{source}, %{{x}}: %{{y}}<extra></extra>",
            )  # fmt: skip
        grid.update_xaxes(title="neurons", type="category", row=1, col=m + 1)
        grid.update_yaxes(rangemode="tozero", row=1, col=m + 1)
    title = f"Layer {result.layer}: neurons ablated, {result.n_prompts} prompts, 95 % intervals"
    legend = {"orientation": "h", "y": 1.12, "x": 1, "xanchor": "right", "yanchor": "bottom"}
    return apply_layout(grid, title, height=430).update_layout(legend=legend)
