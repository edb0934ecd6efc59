"""Figures of neurons: a layer's neurons, the neurons that words drive, experts' tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tw_lens.analyses import NeuronProbe, NeuronTable, RouterTable
from tw_lens.rendering.figures.null_markers import hover_text
from tw_lens.rendering.figures.style import (
    LIGHT_RED_TO_BLUE,
    apply_layout,
    escape_token,
    to_lists,
    truncate,
)
from tw_lens.results import figure

if TYPE_CHECKING:
    import plotly.graph_objects as go

LABELLED = 12
WHITE_TO_BLUE = [[0, LIGHT_RED_TO_BLUE[len(LIGHT_RED_TO_BLUE) // 2]], [1, LIGHT_RED_TO_BLUE[-1]]]
SIDE_NAMES = {"gate": "gate", "in": "reads", "out": "writes"}


@figure.register(NeuronTable)
def draw_neuron_table(result: NeuronTable) -> go.Figure:
    """Draw a point per neuron: cosine of reading and writing, excess kurtosis of its logits."""
    import plotly.graph_objects as go

    read = result.cosine_in_out if result.cosine_gate_out is None else result.cosine_gate_out
    kurtosis = result.moments[2].nan_to_num(0.0)
    labelled = set(kurtosis.topk(min(LABELLED, len(kurtosis))).indices.tolist())
    hover = [
        f"{component}<br>"
        + "<br>".join(
            f"{SIDE_NAMES[side]}: {hover_text(lists, i, ' ')}"
            for side, lists in result.sides.items()
        )
        for i, component in enumerate(result.components)
    ]
    text = [
        escape_token(truncate(result.writes.token_string[i][0])) if i in labelled else ""
        for i in range(len(kurtosis))
    ]
    points = go.Scatter(
        x=to_lists(read), y=to_lists(kurtosis + 3), mode="markers+text", text=text,
        textposition="top center", customdata=hover,
        hovertemplate="%{customdata}<extra></extra>",
        marker={
            "size": 5, "opacity": 0.6, "color": to_lists(result.norm_out),
            "colorscale": "Viridis", "colorbar": {"title": "norm of<br>what it<br>writes"},
        },
    )  # fmt: skip
    side = "reading" if result.cosine_gate_out is None else "gate"
    title = f"Layer {result.layer}: {len(result.neurons)} neurons (labels: top written token)"
    fig = apply_layout(go.Figure(points), title, height=520)
    fig.update_xaxes(title=f"cosine of {side} and writing")
    return fig.update_yaxes(title="kurtosis of written logits (3: normal)", type="log")


@figure.register(NeuronProbe)
def draw_neuron_probe(result: NeuronProbe) -> go.Figure:
    """Draw words by rank: each neuron with the first token that it promotes for the word."""
    import plotly.graph_objects as go

    n = result.neuron.shape[1]
    names, hover = [], []
    for w in range(len(result.words)):
        rows = range(w * n, (w + 1) * n)
        neurons = result.neuron[w].tolist()
        first = [escape_token(truncate(result.lists.token_string[i][0], 9)) for i in rows]
        names.append(
            [f"N{neuron}<br>{token}" for neuron, token in zip(neurons, first, strict=True)]
        )
        hover.append([hover_text(result.lists, i) for i in rows])
    heat = go.Heatmap(
        z=to_lists(100 * result.share), x=[f"{i + 1}." for i in range(n)],
        y=[f"{escape_token(word)} ({i})" for word, i in zip(
            result.words, result.word_index, strict=True)],
        text=names, texttemplate="%{text}", textfont={"size": 10}, customdata=hover,
        hovertemplate="%{y}, %{text}: %{z} %<br>%{customdata}<extra></extra>",
        colorscale=WHITE_TO_BLUE,
        colorbar={"title": "share of<br>squared<br>norms (%)"},
    )  # fmt: skip
    title = f"Layer {result.layer}: neurons that each token drives, and what they write"
    fig = apply_layout(go.Figure(heat), title, height=190 + 40 * len(result.words))
    fig.update_xaxes(type="category", title="leading neurons", side="bottom")
    return fig.update_yaxes(autorange="reversed", automargin=True)


@figure.register(RouterTable)
def draw_router_table(result: RouterTable) -> go.Figure:
    """Draw experts by rank: the tokens that each is chosen for, colored by their logit."""
    import plotly.graph_objects as go

    strings = result.lists.token_string
    rows = range(len(strings))
    heat = go.Heatmap(
        z=to_lists(result.lists.score), x=[f"{i + 1}." for i in range(len(strings[0]))],
        y=list(result.components),
        text=[[escape_token(truncate(token, 12)) for token in row] for row in strings],
        texttemplate="%{text}", textfont={"size": 10},
        customdata=[[hover_text(result.lists, i)] * len(strings[i]) for i in rows],
        hovertemplate="%{y}, %{text}: %{z}<br>%{customdata}<extra></extra>",
        colorscale=WHITE_TO_BLUE,
        colorbar={"title": "logit above<br>the mean<br>expert's"},
    )  # fmt: skip
    title = f"Layer {result.layer}: tokens that each expert is chosen for"
    fig = apply_layout(go.Figure(heat), title, height=190 + 26 * len(strings))
    fig.update_xaxes(type="category", title="leading tokens", side="bottom")
    return fig.update_yaxes(autorange="reversed", automargin=True)
