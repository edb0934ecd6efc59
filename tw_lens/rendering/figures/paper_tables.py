"""Figure of the paper's tables: the files of the folder, each with its question."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tw_lens.rendering.figures.style import escape_token, token_table
from tw_lens.results import figure
from tw_lens.studies import PaperTables

if TYPE_CHECKING:
    import plotly.graph_objects as go


@figure.register(PaperTables)
def draw_paper_tables(result: PaperTables) -> go.Figure:
    """Draw a table of the files."""
    table = result.to_dataframe()
    columns = {
        name: [escape_token(str(value)) for value in table[name]]
        for name in ("section", "file", "question", "conventions")
    }
    return token_table(escape_token(result.headline()), columns)
