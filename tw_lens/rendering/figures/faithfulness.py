"""Figure of faithfulness: every head's agreement, and the layer means with floor and ceiling."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tw_lens.rendering.figures.style import COLORS, MUTED, apply_layout
from tw_lens.results import figure
from tw_lens.results.arguments import CIRCUITS
from tw_lens.studies import Faithfulness

if TYPE_CHECKING:
    import plotly.graph_objects as go

AGREEMENT = {"QK": "QK: correlation of scores", "OV": "OV: cosine of writes"}


@figure.register(Faithfulness)
def draw_faithfulness(result: Faithfulness) -> go.Figure:
    """Draw layers by heads for every source, and the means by layer beside them."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    table, by_layer = result.to_dataframe(), result.by_layer()
    labels = labels_of(result)
    n = len(labels)
    fig = make_subplots(
        2,
        n + 1,
        subplot_titles=[f"{c}, {label}" for c in CIRCUITS for label in (*labels, "mean by layer")],
        column_widths=[1] * n + [1.3],
        horizontal_spacing=0.3 / (n + 2),
        vertical_spacing=0.16,
    )
    rows_of = [f"L{layer}" for layer in result.layers]
    for r, circuit in enumerate(CIRCUITS, start=1):
        for s, label in enumerate(labels):
            cells = table[table.circuit == circuit].iloc[s::n]
            grid = cells.pivot(index="layer", columns="head", values="correlation")
            floor = cells.pivot(index="layer", columns="head", values="floor")
            fig.add_trace(
                go.Heatmap(
                    z=grid.to_numpy().round(3),
                    customdata=floor.to_numpy().round(3),
                    x=[f"H{head}" for head in grid.columns],
                    y=[f"L{layer}" for layer in grid.index],
                    hovertemplate=f"%{{y}}%{{x}} {circuit}, {label}: %{{z:.2f}}, floor "
                    "%{customdata:.2f}<extra></extra>",
                    colorscale="Viridis",
                    zmin=0,
                    zmax=1,
                    colorbar={"title": "r", "tickvals": [0, 0.25, 0.5, 0.75, 1], "thickness": 12},
                    showscale=s == 0 and r == 1,
                ),
                row=r,
                col=s + 1,
            )
            fig.update_yaxes(autorange="reversed", row=r, col=s + 1)
            mean = by_layer[by_layer.circuit == circuit].iloc[s::n]
            color = COLORS[s % len(COLORS)]
            lines = {label: ("correlation", "solid"), f"floor of {label}": ("floor", "dot")}
            for name, (column, dash) in lines.items():
                fig.add_scatter(
                    x=rows_of,
                    y=mean[column].round(3),
                    mode="lines+markers" if dash == "solid" else "lines",
                    line={"color": color, "dash": dash},
                    name=name,
                    legendgroup=name,
                    showlegend=r == 1,
                    row=r,
                    col=n + 1,
                )
        ceiling = by_layer[by_layer.circuit == circuit].iloc[::n]["ceiling"]
        fig.add_scatter(
            x=rows_of,
            y=ceiling.round(3),
            mode="lines",
            line={"color": MUTED, "dash": "dash"},
            name="ceiling",
            legendgroup="ceiling",
            showlegend=r == 1,
            row=r,
            col=n + 1,
        )
        fig.update_yaxes(title=AGREEMENT[circuit], range=[-0.2, 1.05], row=r, col=n + 1)
    title = f"Faithfulness of token points, {result.n_prompts} held-out prompts"
    apply_layout(fig, title, height=260 + 2 * max(120, 14 * len(result.layers)))
    fig.update_layout(legend={"orientation": "h", "y": -0.12, "x": 0})
    return fig


def labels_of(result: Faithfulness) -> list[str]:
    """Return a name for every source, with its number where a name stands twice."""
    several = [result.sources.count(name) > 1 for name in result.sources]
    return [
        f"{name} {i + 1}" if repeated else name
        for i, (name, repeated) in enumerate(zip(result.sources, several, strict=True))
    ]
