"""Export: figures and tables as files for papers, and tables for the terminal."""

from tw_lens.rendering.export.figure_files import FigureExportError, save_figure
from tw_lens.rendering.export.paper_tables import paper_tables
from tw_lens.rendering.export.tables import cite, save_table, table_format
from tw_lens.rendering.export.terminal_tables import terminal_tables

__all__ = [
    "FigureExportError",
    "cite",
    "paper_tables",
    "save_figure",
    "save_table",
    "table_format",
    "terminal_tables",
]
