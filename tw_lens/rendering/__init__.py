"""Rendering: results to figures, widgets, tables and the page."""

from tw_lens.rendering import (  # noqa: F401 - they register themselves
    figures_atlas,
    figures_controls,
    figures_distance,
    figures_heads,
    figures_movers,
    figures_paths,
    figures_words,
)
from tw_lens.rendering.report import report
from tw_lens.rendering.tables import cite, rich_table, save_table
from tw_lens.rendering.widgets import Widget, attention_widget, coloured_tokens

__all__ = [
    "Widget",
    "attention_widget",
    "cite",
    "coloured_tokens",
    "report",
    "rich_table",
    "save_table",
]
