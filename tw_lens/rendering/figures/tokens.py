"""Pictures of the words on the sphere, and of the certificate."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tw_lens.analyses import CommonNouns, EmbeddingDistances, TokenFilter, TokenNorms
from tw_lens.reading import Certificate
from tw_lens.rendering.figures.style import COLORS, apply_layout, escape_token, word_table
from tw_lens.results import figure

if TYPE_CHECKING:
    import plotly.graph_objects as go


@figure.register(EmbeddingDistances)
def draw_embedding_distances(result: EmbeddingDistances) -> go.Figure:
    """Bars of the mean distance in each setting, with the standard deviation."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    settings = [s.setting for s in result.settings]
    drawn = make_subplots(1, 2, subplot_titles=("L2 distance", "cosine distance (1 - cos)"))
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
        drawn.add_trace(bars, 1, column)
    return apply_layout(
        drawn, "How far N(E) is from the embeddings (mean ± sd over the vocabulary)"
    )


@figure.register(TokenNorms)
def draw_token_norms(result: TokenNorms) -> go.Figure:
    """The 20 highest and the 20 lowest tokens."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    drawn = make_subplots(1, 2, subplot_titles=("highest", "lowest"), horizontal_spacing=0.18)
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
        drawn.add_trace(bars, 1, column)
    drawn.update_yaxes(autorange="reversed", automargin=True)
    return apply_layout(drawn, f"{result.scheme}, {result.convention}", height=560)


@figure.register(CommonNouns)
def draw_common_nouns(result: CommonNouns) -> go.Figure:
    """The nouns with their ids."""
    words = [escape_token(token) for token in result.token_strings]
    return word_table(result.headline(), {"token": words, "id": result.token_index})


@figure.register(TokenFilter)
def draw_token_filter(result: TokenFilter) -> go.Figure:
    """How many tokens are kept and how many fail each condition, with examples."""
    table = result.to_dataframe()
    columns = {
        "tokens": [escape_token(said) for said in table.condition],
        "how many": [f"{n:,}" for n in table.tokens],
        "such as": [escape_token(examples) for examples in table.examples],
    }
    return word_table(result.headline(), columns)


@figure.register(Certificate)
def draw_certificate(result: Certificate) -> go.Figure:
    """The relative error of every quantity at every layer, under the tolerance."""
    import plotly.graph_objects as go

    drawn = go.Figure()
    table = result.to_dataframe()
    for quantity, rows in table.groupby("quantity", sort=False):
        mode = "lines+markers" if len(rows) > 1 else "markers"
        errors = rows.rel_error.clip(lower=1e-12)
        drawn.add_scatter(x=rows.layer, y=errors, mode=mode, name=str(quantity))
    if result.tolerance > 0:  # a logarithmic axis has no place for 0
        drawn.add_hline(y=result.tolerance, line_dash="dash")
        drawn.add_annotation(
            text="tolerance", x=1, xref="paper", xanchor="right", yanchor="bottom",
            y=math.log10(result.tolerance), showarrow=False,
        )  # fmt: skip
    last = max(c.layer for c in result.comparisons)
    drawn.update_yaxes(type="log", title="relative error", exponentformat="power")
    drawn.update_xaxes(
        title="layer (logits after the last)", tickformat="d", dtick=max(1, last // 6)
    )
    return apply_layout(drawn, result.headline(), height=380)
