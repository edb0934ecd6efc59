"""Tables for the terminal and for files: never half-written, tokens never markup."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

FORMATS = {
    ".csv": "csv",
    ".json": "json",
    ".parquet": "parquet",
    ".tex": "latex",
    ".latex": "latex",
}
LATEX_ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "_": r"\_", "%": r"\%", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "[": "{[}", "*": "{*}",  # either would be read as an argument of the row's end before it
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
}  # fmt: skip
ROWS_ON_A_TERMINAL = 60


def require_writable(path: Path) -> None:
    """Refuse a file that cannot be written, before any work is done.

    Raises:
        FileNotFoundError: its folder does not exist.
        PermissionError: its folder cannot be written to.
        IsADirectoryError: it is a folder.
    """
    folder = path.resolve().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder {folder} does not exist: make it first.")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give the name of a file.")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as refused:
        raise PermissionError(f"the folder {folder} cannot be written to.") from refused


def written_whole(path: Path, write: Callable[[Path], Any]) -> Path:
    """Write a file beside its place and move it there when it is complete."""
    require_writable(path)
    handle, name = tempfile.mkstemp(dir=path.resolve().parent, prefix=".tw_lens-")
    os.close(handle)
    try:
        write(Path(name))
        os.chmod(name, 0o644)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
    return path


def save_table(
    table: pd.DataFrame, path: str | Path, *, format: str | None = None, caption: str = ""
) -> Path:
    """Save a result's table.

    Args:
        table: from a result's `to_dataframe()`.
        path: where to.
        format: "csv", "json" (records), "parquet" or "latex" (booktabs, every special character
            escaped); by the suffix when left out.
        caption: the caption of a LaTeX table.

    Raises:
        ValueError: unknown format.
        OSError: the place cannot be written (nothing is left behind).
    """
    path = Path(path)
    format = format or FORMATS.get(path.suffix, path.suffix)
    writers: dict[str, Callable[[Path], Any]] = {
        "csv": lambda to: table.to_csv(to, index=False),
        "json": lambda to: table.to_json(to, orient="records", force_ascii=False, indent=1),
        "parquet": lambda to: table.to_parquet(to, index=False),
        "latex": lambda to: to.write_text(_latex(table, caption), encoding="utf-8"),
    }
    if format not in writers:
        raise ValueError(f"the format {format!r} is unknown: {', '.join(writers)} fit.")
    return written_whole(path, writers[format])


def _latex(table: pd.DataFrame, caption: str) -> str:
    columns = [_escaped(str(name)) for name in table.columns]
    body = [" & ".join(map(_cell, row)) + r" \\" for row in _rows(table)]
    alignment = "".join("r" if _numeric(table[name]) else "l" for name in table.columns)
    lines = [
        r"\begin{table}",
        *([rf"\caption{{{_escaped(caption)}}}"] if caption else []),
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        " & ".join(columns) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else _escaped(str(value))


def _escaped(text: str) -> str:
    """Text for LaTeX; spaces at its ends, which LaTeX would drop, become visible ones."""
    inner = text.strip(" ")
    left = len(text) - len(text.lstrip(" "))
    space = r"\textvisiblespace{}"
    lines = "".join(LATEX_ESCAPES.get(character, character) for character in inner).split("\n")
    return space * left + r"\textbackslash{}n".join(lines) + space * (len(text) - left - len(inner))


def _rows(table: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    """The rows with each value in its column's own type (`table.values` would make ids floats)."""
    return zip(*(table[name].tolist() for name in table.columns), strict=True)


def _numeric(column: pd.Series) -> bool:
    return column.dtype.kind in "if"


def rich_table(table: pd.DataFrame, title: str) -> Table:
    """A table for the terminal: numbers right-aligned and rounded, tokens with visible spaces."""
    from rich.table import Table
    from rich.text import Text

    from tw_lens.tokens import visible

    drawn = Table(title=Text(title), header_style="bold", title_justify="left")
    for name in table.columns:
        drawn.add_column(str(name), justify="right" if _numeric(table[name]) else "left")
    for row in _rows(table.head(ROWS_ON_A_TERMINAL)):
        cells = (f"{v:.4g}" if isinstance(v, float) else visible(str(v)) for v in row)
        drawn.add_row(*(Text(cell) for cell in cells))
    if len(table) > ROWS_ON_A_TERMINAL:
        drawn.caption = f"the first {ROWS_ON_A_TERMINAL} of {len(table)} rows; --csv writes all"
    return drawn
