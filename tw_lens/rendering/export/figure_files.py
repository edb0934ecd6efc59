"""Figure files for papers: SVG, PNG and PDF, at column width with legible type."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tw_lens.files import require_writable, write_atomically
from tw_lens.reading import Certificate
from tw_lens.rendering.export.print_layout import INCHES, layout_of, print_layout
from tw_lens.results import Result
from tw_lens.results import figure as figure_of
from tw_lens.torch_settings import default_settings

if TYPE_CHECKING:
    import plotly.graph_objects as go

FORMATS = ("svg", "png", "pdf")
PNG_SCALE = 4  # 384 dots per inch
NO_MARGIN = "<style>@page { margin: 0 }</style>"  # else Chromium shifts and crops the PDF
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class FigureExportError(RuntimeError):
    """A program or package that figure export needs is missing."""


@default_settings()
def save_figure(
    figure: Result | Certificate | go.Figure,
    path: str | Path,
    *,
    n_columns: int = 1,
    height: float | None = None,
) -> Path:
    """Write a figure to a file for a paper: SVG, PNG (384 dots per inch) or PDF, by its suffix.

    Type is 8 and 7 points high at the printed size; the legend goes below the panels, sliders and
    buttons are removed. The figure itself is not changed, and no server is contacted.

    Args:
        figure: a plotly figure, or a result or certificate, whose figure is drawn.
        path: the file; its suffix is the format.
        n_columns: 1 (3.3 inches wide) or 2 (6.9 inches).
        height: in inches; by default what panels, titles and legend need.

    Returns:
        The path.

    Raises:
        ValueError: an unknown format, width or height.
        TypeError: the first argument has no figure (a `Widget` is HTML).
        FigureExportError: kaleido or a Chromium is not installed.
        FileNotFoundError, PermissionError: the file cannot be written there.

    Example:
        >>> from tw_lens import token_norms
        >>> save_figure(token_norms(weights), "norms.jpeg")
        Traceback (most recent call last):
        ValueError: unknown figure format 'norms.jpeg'; the suffix must be one of svg, png, pdf.
    """
    path = Path(path)
    kind = path.suffix.lstrip(".").lower()
    if kind not in FORMATS:
        expected = ", ".join(FORMATS)
        raise ValueError(
            f"unknown figure format {str(path)!r}; the suffix must be one of {expected}."
        )
    if n_columns not in INCHES:
        raise ValueError(f"n_columns must be 1 or 2, got {n_columns}.")
    if height is not None and not height > 0:
        raise ValueError(f"height must be a positive number of inches, got {height}.")
    require_writable(path)
    image = _render(print_layout(_plotly_figure(figure), n_columns, height), kind)
    return write_atomically(path, lambda file: file.write_bytes(image))


def _plotly_figure(figure: Any) -> go.Figure:
    """The plotly figure of a result or certificate; a plotly figure as it is."""
    from plotly.basedatatypes import BaseFigure

    if isinstance(figure, BaseFigure):
        return cast("go.Figure", figure)  # a FigureWidget has the same interface
    try:
        return figure.plot() if isinstance(figure, Result) else figure_of(figure)
    except NotImplementedError as missing:
        raise TypeError(
            "save_figure expects a plotly figure, a result or a certificate; got "
            f"{type(figure).__name__}."
        ) from missing


def _render(fig: go.Figure, kind: str) -> bytes:
    """Render the file's content with kaleido in the system's Chromium, offline."""
    try:
        import kaleido
    except ImportError as missing:
        raise FigureExportError(
            "kaleido is not installed; run pip install 'tw-lens[export]', or install kaleido "
            "itself."
        ) from missing
    browser = os.environ.get("BROWSER_PATH") or next(filter(None, map(shutil.which, BROWSERS)), "")
    if not browser:
        raise FigureExportError(
            "no Chromium was found; install it (Debian: apt-get install chromium), or set "
            "BROWSER_PATH to one."
        )
    layout = layout_of(fig)
    options: dict[str, Any] = {"format": kind, "scale": PNG_SCALE if kind == "png" else 1}
    options |= {"width": layout.width, "height": layout.height}
    page = kaleido.PageGenerator(mathjax=False)
    page.header += NO_MARGIN
    browser_options = {"path": browser, "page_generator": page}
    return kaleido.calc_fig_sync(fig, opts=options, kopts=browser_options)
