"""Figures of the vocabulary on the sphere, and of the certificate."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tw_lens.analyses import CommonNouns, EmbeddingDistances, TokenFilter, TokenNorms
from tw_lens.reading import Certificate
from tw_lens.rendering.figures.style import (
    COLORS,
    apply_layout,
    escape_token,
    layer_ticks,
    token_table,
)
from tw_lens.results import figure

if TYPE_CHECKING:
    import plotly.graph_objects as go


@figure.register(EmbeddingDistances)
def draw_embedding_distances(result: EmbeddingDistances) -> go.Figure:
    """Draw the mean distance in each setting as bars, with the standard deviation."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    settings = [s.setting for s in result.settings]
    fig = make_subplots(1, 2, subplot_titles=("L2 distance", "cosine distance (1 - cos)"))
    for column, measure in enumerate(("l2", "cosine"), start=1):
        mean = [getattr(s, f"{measure}_mean") for s in result.settings]
        std = [getattr(s, f"{measure}_std") for s in result.settings]
        bars = go.Bar(
            x=settings,
            y=mean,
            error_y={"type": "data", "array": std},
            marker_color=COLORS[column - 1],
            showlegend=False,
        )
        fig.add_trace(bars, 1, column)
    title = "Distance between N(E) and the embeddings (mean ± sd over the vocabulary)"
    return apply_layout(fig, title)


@figure.register(TokenNorms)
def draw_token_norms(result: TokenNorms) -> go.Figure:
    """Draw the 20 highest and the 20 lowest tokens."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    fig = make_subplots(1, 2, subplot_titles=("highest", "lowest"), horizontal_spacing=0.18)
    for column, table in enumerate((result.top(20), result.bottom(20)), start=1):
        bars = go.Bar(
            x=table.score,
            y=[
                f"{escape_token(t)} ({i})"
                for t, i in zip(table.token_string, table.token_index, strict=True)
            ],
            orientation="h",
            marker_color=COLORS[column - 1],
            showlegend=False,
        )
        fig.add_trace(bars, 1, column)
    fig.update_yaxes(autorange="reversed", automargin=True)
    return apply_layout(fig, f"Token norms: {result.scheme}, {result.convention}", height=560)


@figure.register(CommonNouns)
def draw_common_nouns(result: CommonNouns) -> go.Figure:
    """Draw a table of the nouns with their token ids."""
    tokens = [escape_token(token) for token in result.token_strings]
    return token_table(result.headline(), {"token": tokens, "token id": result.token_index})


@figure.register(TokenFilter)
def draw_token_filter(result: TokenFilter) -> go.Figure:
    """Draw a table of how many tokens pass and how many fail each condition, with examples."""
    table = result.to_dataframe()
    columns = {
        "condition": [escape_token(condition) for condition in table.condition],
        "tokens": [f"{n:,}" for n in table.tokens],
        "examples": [escape_token(examples) for examples in table.examples],
    }
    return token_table(result.headline(), columns)


@figure.register(Certificate)
def draw_certificate(result: Certificate) -> go.Figure:
    """Draw the relative error of every quantity at every layer, with the tolerance."""
    import plotly.graph_objects as go

    fig = go.Figure()
    table = result.to_dataframe()
    for quantity, rows in table.groupby("quantity", sort=False):
        mode = "lines+markers" if len(rows) > 1 else "markers"
        errors = rows.rel_error.clip(lower=1e-12)
        fig.add_scatter(x=rows.layer, y=errors, mode=mode, name=str(quantity))
    if result.tolerance > 0:  # a logarithmic axis cannot show 0
        fig.add_hline(y=result.tolerance, line_dash="dash")
        fig.add_annotation(
            text="tolerance", x=1, xref="paper", xanchor="right", yanchor="bottom",
            y=math.log10(result.tolerance), showarrow=False,
        )  # fmt: skip
    last = max(c.layer for c in result.comparisons)
    fig.update_yaxes(type="log", title="relative error", exponentformat="power")
    fig.update_xaxes(title="layer (logits: after the last)", **layer_ticks(last))
    return apply_layout(fig, result.headline(), height=380)
