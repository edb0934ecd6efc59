"""Figure of a source attribution: attention, and shares of the output and the step, by source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tw_lens.analyses import SourceAttribution
from tw_lens.rendering.figures.style import COLORS, apply_layout, escape_token, to_lists
from tw_lens.results import figure

if TYPE_CHECKING:
    import plotly.graph_objects as go


@figure.register(SourceAttribution)
def draw_source_attribution(result: SourceAttribution) -> go.Figure:
    """Draw three bars per source position."""
    import plotly.graph_objects as go

    names = [f"{escape_token(token)} ({j})" for j, token in enumerate(result.token_strings)]
    bars = [
        go.Bar(
            x=names, y=to_lists(values), name=name, marker_color=COLORS[i],
            hovertemplate="%{x}: %{y}<extra>" + name + "</extra>",
        )
        for i, (name, values) in enumerate(
            (("attention", result.attention), ("share of the output", result.share_of_output),
             ("share of the step", result.share_of_step))
        )
    ]  # fmt: skip
    token = escape_token(result.token_strings[result.query])
    title = f"{result.component} at {token} ({result.query}): what each source brings"
    fig = apply_layout(go.Figure(bars), title, height=400)
    fig.update_layout(barmode="group")
    fig.update_xaxes(type="category", tickangle=-45)
    return fig.update_yaxes(title="share")
