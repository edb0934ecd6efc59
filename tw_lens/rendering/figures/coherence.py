"""Pictures of what stands above its controls: coherence, pairing, blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tw_lens.analyses import DirectionAssociation, DirectionCoherence, DirectionDegeneracy
from tw_lens.rendering.figures.style import COLORS, apply_layout
from tw_lens.results import figure
from tw_lens.results.arguments import CIRCUITS

if TYPE_CHECKING:
    import plotly.graph_objects as go

SYMBOLS = ("circle", "diamond", "square")


@figure.register(DirectionCoherence)
def draw_direction_coherence(result: DirectionCoherence) -> go.Figure:
    """Per layer and circuit, the share of word lists above 95 % of each control's."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    drawn = make_subplots(1, 2, subplot_titles=[f"W_{c}" for c in CIRCUITS], shared_yaxes=True)
    layers = sorted({layer for layer, *_ in result.entries})
    above = 100 * (result.p[0] <= 0.05).float().mean(1)
    for column, circuit in enumerate(CIRCUITS, start=1):
        for c, control in enumerate(result.nulls):
            shares = [
                float(above[c, [i for i, (of, _, named, _) in enumerate(result.entries)
                                if (of, named) == (layer, circuit)]].mean())
                for layer in layers
            ]  # fmt: skip
            drawn.add_trace(
                go.Scatter(
                    x=layers,
                    y=shares,
                    mode="lines+markers",
                    name=control,
                    marker={"symbol": SYMBOLS[c], "size": 7},
                    line={"color": COLORS[c]},
                    legendgroup=control,
                    showlegend=column == 1,
                    hovertemplate=f"{control}, layer %{{x}}: %{{y:.1f}} %<extra></extra>",
                ),
                row=1,
                col=column,
            )
    drawn.add_hline(y=5, line={"dash": "dot", "width": 1}, annotation_text="5 % by chance")
    drawn.update_xaxes(title="layer", tickformat="d")
    drawn.update_yaxes(title="% of word lists", col=1)
    drawn.update_yaxes(rangemode="tozero")
    return apply_layout(
        drawn, f"Word lists more alike ({result.measures[0]}) than 95 % of random directions'",
        height=360,
    )  # fmt: skip


@figure.register(DirectionAssociation)
def draw_direction_association(result: DirectionAssociation) -> go.Figure:
    """Each direction's association beside the mean of its re-paired sides."""
    import plotly.graph_objects as go

    table = result.to_dataframe()
    drawn = go.Figure()
    reach = [float(result.association.min()), float(result.association.max())]
    for c, circuit in enumerate(CIRCUITS):
        rows = table[table.circuit == circuit]
        drawn.add_trace(
            go.Scatter(
                x=rows.null_association,
                y=rows.association,
                mode="markers",
                name=f"W_{circuit}",
                marker={"symbol": SYMBOLS[c], "size": 6, "opacity": 0.7},
                text=[
                    f"{component} {direction}: p {p:.2g}"
                    for component, direction, p in zip(
                        rows.component, rows.direction, rows.p_other_heads, strict=True
                    )
                ],
                hovertemplate="%{text}<extra></extra>",
            )
        )
    drawn.add_trace(
        go.Scatter(x=reach, y=reach, mode="lines", name="no difference", line={"dash": "dot"})
    )
    drawn.update_xaxes(title="mean association with other sides of the head")
    drawn.update_yaxes(title="association of the two sides")
    return apply_layout(drawn, "Do the two sides of a direction belong together?", height=420)


@figure.register(DirectionDegeneracy)
def draw_direction_degeneracy(result: DirectionDegeneracy) -> go.Figure:
    """Each head's directions; those of one block share a box and a number."""
    import plotly.graph_objects as go

    n = result.singular_value.shape[1]
    words = 100 * result.overlap_rounded.mean(0)
    drawn = go.Figure(
        go.Heatmap(
            z=words.round().tolist(),
            x=list(range(n)),
            y=[f"H{head}" for head in result.heads],
            text=[
                [f"block {of}" if row.count(of) > 1 else "" for of in row] for row in result.block
            ],
            hovertemplate="%{y} direction %{x}: %{z} % of the words survive rounding<br>%{text}"
            "<extra></extra>",
            colorscale="Viridis",
            zmin=0,
            zmax=100,
            colorbar={"title": "% of words<br>that stay"},
        )
    )
    for h in range(len(result.heads)):
        for block in result.blocks(h):
            if len(block) > 1:
                drawn.add_shape(
                    type="rect", x0=block[0] - 0.5, x1=block[-1] + 0.5, y0=h - 0.42, y1=h + 0.42,
                    line={"width": 3, "color": "#d62728"},
                )  # fmt: skip
    drawn.update_xaxes(title="direction (boxed: only known together)", tickformat="d")
    drawn.update_yaxes(autorange="reversed")
    return apply_layout(
        drawn, f"Layer {result.layer} {result.circuit}: words that survive rounding to bfloat16",
        height=190 + 26 * len(result.heads),
    )  # fmt: skip
