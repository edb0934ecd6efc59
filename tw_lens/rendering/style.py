"""How pictures look: colours for colour-blind readers, one layout, tokens that cannot be markup."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tw_lens.tokens import visible

if TYPE_CHECKING:
    import plotly.graph_objects as go

# Okabe and Ito's palette: told apart by readers with any common colour blindness.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8A7D00")
MUTED = "#8A8F98"


def shown(token: str) -> str:
    """A token as plotly text: spaces visible, HTML escaped."""
    return html.escape(visible(token), quote=False)


def rounded(values: Tensor, digits: int = 4) -> Any:
    """Nested lists with few digits: pages stay small."""
    return [_short(value, digits) for value in values.tolist()]


def _short(value: Any, digits: int) -> Any:
    if isinstance(value, list):
        return [_short(inner, digits) for inner in value]
    return None if value != value else float(f"{value:.{digits}g}")


def laid_out(figure: go.Figure, title: str, *, height: int = 420) -> go.Figure:
    """The house layout: white, quiet grid, a title that wraps at the left."""
    figure.update_layout(
        template="plotly_white",
        title={"text": title, "x": 0, "xanchor": "left", "font": {"size": 15}},
        font={"family": "Inter, Helvetica, Arial, sans-serif", "size": 12},
        colorway=list(COLOURS),
        height=height,
        margin={"l": 60, "r": 24, "t": 64, "b": 52},
    )
    return figure


def word_table(title: str, columns: dict[str, Iterable[Any]]) -> go.Figure:
    """A table drawn as a figure."""
    import plotly.graph_objects as go

    cells = [list(column) for column in columns.values()]
    table = go.Table(
        header={"values": list(columns), "align": "left", "fill_color": "#E8EDF3"},
        cells={"values": cells, "align": "left", "fill_color": "white", "height": 24},
    )
    rows = len(cells[0]) if cells else 0
    return laid_out(go.Figure(table), title, height=min(1200, 130 + 26 * rows))
