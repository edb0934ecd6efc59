"""Figures of null comparisons: coherence, association and near-degenerate directions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tw_lens.analyses import DirectionAssociation, DirectionCoherence, DirectionDegeneracy
from tw_lens.rendering.figures.style import COLORS, apply_layout, layer_ticks
from tw_lens.results import figure
from tw_lens.results.arguments import CIRCUITS

if TYPE_CHECKING:
    import plotly.graph_objects as go

SYMBOLS = ("circle", "diamond", "square")


@figure.register(DirectionCoherence)
def draw_direction_coherence(result: DirectionCoherence) -> go.Figure:
    """Draw, per layer and circuit, the share of token lists that exceed each null at 5 %."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    fig = make_subplots(1, 2, subplot_titles=[f"W_{c}" for c in CIRCUITS], shared_yaxes=True)
    layers = sorted({layer for layer, *_ in result.entries})
    exceeding = 100 * (result.p[0] <= 0.05).float().mean(1)
    for column, circuit in enumerate(CIRCUITS, start=1):
        for n, null in enumerate(result.nulls):
            shares = [
                float(exceeding[n, [i for i, (at_layer, _, at_circuit, _)
                                    in enumerate(result.entries)
                                    if (at_layer, at_circuit) == (layer, circuit)]].mean())
                for layer in layers
            ]  # fmt: skip
            fig.add_trace(
                go.Scatter(
                    x=layers,
                    y=shares,
                    mode="lines+markers",
                    name=null,
                    marker={"symbol": SYMBOLS[n], "size": 7},
                    line={"color": COLORS[n]},
                    legendgroup=null,
                    showlegend=column == 1,
                    hovertemplate=f"{null}, layer %{{x}}: %{{y:.1f}} %<extra></extra>",
                ),
                row=1,
                col=column,
            )
    fig.add_hline(y=5, line={"dash": "dot", "width": 1}, annotation_text="5 % by chance")
    fig.update_xaxes(title="layer", **layer_ticks(layers[-1]))
    fig.update_yaxes(title="% of token lists", col=1)
    fig.update_yaxes(rangemode="tozero")
    title = f"Token lists that exceed each null at the 5 % level ({result.measures[0]})"
    return apply_layout(fig, title, height=360)


@figure.register(DirectionAssociation)
def draw_direction_association(result: DirectionAssociation) -> go.Figure:
    """Draw each direction's association against the mean after re-pairing its sides."""
    import plotly.graph_objects as go

    table = result.to_dataframe()
    fig = go.Figure()
    diagonal = [float(result.association.min()), float(result.association.max())]
    for c, circuit in enumerate(CIRCUITS):
        rows = table[table.circuit == circuit]
        fig.add_trace(
            go.Scatter(
                x=rows.null_association,
                y=rows.association,
                mode="markers",
                name=f"W_{circuit}",
                marker={"symbol": SYMBOLS[c], "size": 6, "opacity": 0.7},
                text=[
                    f"{component} {direction}: p = {p:.2g}"
                    for component, direction, p in zip(
                        rows.component, rows.direction, rows.p_other_heads, strict=True
                    )
                ],
                hovertemplate="%{text}<extra></extra>",
            )
        )
    fig.add_trace(
        go.Scatter(
            x=diagonal, y=diagonal, mode="lines", name="equal to the null", line={"dash": "dot"}
        )
    )
    fig.update_xaxes(title="null association: mean over re-paired sides of the head")
    fig.update_yaxes(title="association of the two sides")
    return apply_layout(fig, "Association of left and right side, against re-paired sides")


@figure.register(DirectionDegeneracy)
def draw_direction_degeneracy(result: DirectionDegeneracy) -> go.Figure:
    """Draw each head's directions; those of one near-degenerate subspace share a box."""
    import plotly.graph_objects as go

    n = result.singular_value.shape[1]
    unchanged = 100 * result.overlap_rounded.mean(0)
    fig = go.Figure(
        go.Heatmap(
            z=unchanged.round().tolist(),
            x=list(range(n)),
            y=[f"H{head}" for head in result.heads],
            text=[
                [
                    f"subspace from direction {first}" if row.count(first) > 1 else ""
                    for first in row
                ]
                for row in result.subspace
            ],
            hovertemplate="%{y} direction %{x}: %{z} % of the tokens unchanged by rounding<br>"
            "%{text}<extra></extra>",
            colorscale="Viridis",
            zmin=0,
            zmax=100,
            colorbar={"title": {"text": "% of tokens unchanged", "side": "right"}},
        )
    )
    for h in range(len(result.heads)):
        for subspace in result.subspaces(h):
            if len(subspace) > 1:
                fig.add_shape(
                    type="rect", x0=subspace[0] - 0.5, x1=subspace[-1] + 0.5, y0=h - 0.42,
                    y1=h + 0.42, line={"width": 3, "color": "#d62728"},
                )  # fmt: skip
    fig.update_xaxes(title="direction (boxed: near-degenerate subspace)", tickformat="d")
    fig.update_yaxes(autorange="reversed")
    title = f"Layer {result.layer} {result.circuit}: tokens unchanged by rounding to bfloat16"
    return apply_layout(fig, title, height=190 + 26 * len(result.heads))
