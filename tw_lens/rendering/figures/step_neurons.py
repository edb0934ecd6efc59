"""Figure of step neurons: the leading neurons of one position, layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tw_lens.analyses import StepNeurons
from tw_lens.rendering.figures.style import LIGHT_RED_TO_BLUE, apply_layout, escape_token, to_lists
from tw_lens.results import figure

if TYPE_CHECKING:
    import plotly.graph_objects as go


@figure.register(StepNeurons)
def draw_step_neurons(result: StepNeurons, position: int) -> go.Figure:
    """Draw a row per layer: the shares of its leading neurons, of the others and of the biases."""
    import plotly.graph_objects as go

    layers, k, _ = result.share.shape
    shares = result.share[..., position]
    z = [
        [*to_lists(shares[la]), *to_lists(result.rest[la, position, None]),
         *to_lists(result.bias[la, position, None])]
        for la in range(layers)
    ]  # fmt: skip
    names = []
    for la, row in enumerate(z):
        neurons = result.neuron[la, :, position].tolist()
        others = ["" if share is None else f"{100 * share:.0f} %" for share in row[k:]]
        names.append([f"N{n}" if n >= 0 else "" for n in neurons] + others)
    known = shares[~shares.isnan()].abs()
    limit = float(known.max()) if len(known) else 1.0
    heat = go.Heatmap(
        z=z, x=[f"{i + 1}." for i in range(k)] + ["others", "bias"],
        y=[f"L{la}" for la in range(layers)], text=names, texttemplate="%{text}",
        hovertemplate="%{y} %{text}: %{z} of the step<extra></extra>",
        colorscale=LIGHT_RED_TO_BLUE, zmid=0, zmin=-limit, zmax=limit,
        colorbar={"title": "share of<br>the step"},
    )  # fmt: skip
    token = escape_token(result.token_strings[position])
    title = f"Neurons that move {token} (position {position}), by share of each step"
    fig = apply_layout(go.Figure(heat), title, height=190 + 20 * layers)
    fig.update_xaxes(type="category", title="leading neurons of the layer")
    return fig.update_yaxes(autorange="reversed")
