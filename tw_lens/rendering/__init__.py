"""Rendering: results to figures, widgets, tables and the page."""

from tw_lens.rendering.export import (
    FigureExportError,
    cite,
    paper_tables,
    save_figure,
    save_table,
    table_format,
    terminal_tables,
)
from tw_lens.rendering.figures import plot_trajectories, plot_trajectory_measures
from tw_lens.rendering.page import report
from tw_lens.rendering.widgets import Widget, attention_widget, examples_widget, token_widget

__all__ = [
    "FigureExportError",
    "Widget",
    "attention_widget",
    "cite",
    "examples_widget",
    "paper_tables",
    "plot_trajectories",
    "plot_trajectory_measures",
    "report",
    "save_figure",
    "save_table",
    "table_format",
    "terminal_tables",
    "token_widget",
]
