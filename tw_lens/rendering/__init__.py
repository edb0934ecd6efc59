"""Rendering: results to figures, widgets, tables and the page."""

from tw_lens.rendering import (  # noqa: F401 - they register themselves
    figures_atlas,
    figures_controls,
    figures_distance,
    figures_heads,
    figures_movers,
    figures_paths,
    figures_studies,
    figures_uses,
    figures_words,
)
from tw_lens.rendering.export import FigureNotExported, save_figure
from tw_lens.rendering.figures_measures import draw_measures
from tw_lens.rendering.figures_paths import draw_walks
from tw_lens.rendering.report import report
from tw_lens.rendering.tables import cite, rich_table, save_table
from tw_lens.rendering.widget_uses import uses_widget
from tw_lens.rendering.widgets import Widget, attention_widget, coloured_tokens

__all__ = [
    "FigureNotExported",
    "Widget",
    "attention_widget",
    "cite",
    "coloured_tokens",
    "draw_measures",
    "draw_walks",
    "report",
    "rich_table",
    "save_figure",
    "save_table",
    "uses_widget",
]
