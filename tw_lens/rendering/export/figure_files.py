"""Figures for papers: SVG, PNG, PDF, in a column's width, with type that can be read there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tw_lens.files import require_writable, write_atomically
from tw_lens.rendering.export.print_layout import INCHES, print_layout
from tw_lens.results import Result

if TYPE_CHECKING:
    import plotly.graph_objects as go

FORMATS = ("svg", "png", "pdf")
SHARPNESS = 4  # 384 dots per inch in a PNG
UNCUT = "<style>@page { margin: 0 }</style>"  # else a PDF is moved by a tenth of an inch, and cut
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class FigureExportError(RuntimeError):
    """What draws figures into files is missing."""


def save_figure(
    figure: Result | go.Figure, path: str | Path, *, n_columns: int = 1, height: float | None = None
) -> Path:
    """Write a figure to a file for a paper: SVG, PNG (384 dots per inch) or PDF, by its suffix.

    Type is 8 and 7 points high at the printed size; the legend goes under the picture, sliders and
    buttons are left out. The figure itself is not changed, and nothing is asked of any server.

    Args:
        figure: a plotly figure, or a result, whose `plot()` is taken.
        path: where to; its suffix is the format.
        n_columns: 1 (3.3 inches wide) or 2 (6.9 inches).
        height: in inches; by default what panels, titles and legend need.

    Returns:
        The path.

    Raises:
        ValueError: another format or width.
        FigureExportError: kaleido or a Chromium is not installed.
        FileNotFoundError, PermissionError: the file cannot be written there.

    Example:
        >>> from tw_lens import token_norms
        >>> save_figure(token_norms(weights), "norms.jpeg")
        Traceback (most recent call last):
        ValueError: 'norms.jpeg' is none of svg, png, pdf: change its suffix.
    """
    path = Path(path)
    kind = path.suffix.lstrip(".").lower()
    if kind not in FORMATS:
        raise ValueError(f"{str(path)!r} is none of {', '.join(FORMATS)}: change its suffix.")
    if n_columns not in INCHES:
        raise ValueError(f"n_columns={n_columns}: 1 or 2 columns of a paper fit.")
    if height is not None and height <= 0:
        raise ValueError(f"height={height}: give the inches of the picture.")
    require_writable(path)
    drawn = print_layout(figure.plot() if isinstance(figure, Result) else figure, n_columns, height)
    image = _drawn(drawn, kind)
    return write_atomically(path, lambda to: to.write_bytes(image))


def _drawn(figure: go.Figure, kind: str) -> bytes:
    """The file's content, drawn by kaleido in the system's Chromium, offline."""
    try:
        import kaleido
    except ImportError as missing:
        raise FigureExportError(
            "kaleido is not installed: pip install 'tw-lens[export]', or kaleido itself."
        ) from missing
    browser = os.environ.get("BROWSER_PATH") or next(filter(None, map(shutil.which, BROWSERS)), "")
    if not browser:
        raise FigureExportError(
            "no Chromium was found: install it (Debian: apt-get install chromium), or name one in "
            "BROWSER_PATH."
        )
    options: dict[str, Any] = {"format": kind, "scale": SHARPNESS if kind == "png" else 1}
    size = {"width": figure.layout.width, "height": figure.layout.height}
    page = kaleido.PageGenerator(mathjax=False)
    page.header += UNCUT
    where = {"path": browser, "page_generator": page}
    return kaleido.calc_fig_sync(figure, opts=options | size, kopts=where)
