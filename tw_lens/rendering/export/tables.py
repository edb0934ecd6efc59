"""Tables for the terminal and for files: never half-written, tokens never markup."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tw_lens.files import write_atomically
from tw_lens.rendering.export.latex import latex_table, numeric, rows
from tw_lens.tokens import escaped_controls, visible

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

FORMATS = {
    ".csv": "csv",
    ".json": "json",
    ".parquet": "parquet",
    ".tex": "latex",
    ".latex": "latex",
    ".md": "markdown",
    ".markdown": "markdown",
}
IDEA = "arXiv 2309.07315"
MARKDOWN = re.compile(r"([\\`*_\[\]<>|~#&$!])")
ROWS_ON_A_TERMINAL = 60


def cite(result: Any) -> str:
    """What a number should be cited with: this package's version, the model, the analysis.

    Args:
        result: any result.

    Raises:
        TypeError: it is not a result.

    Example:
        >>> from tw_lens import head_spectrum
        >>> cite(head_spectrum(weights, layer=0))
        'tw_lens ... on golden-gpt2: HeadSpectrum, exact convention; arXiv 2309.07315'

    Source: arXiv 2309.07315 for the idea.
    """
    from tw_lens._version import __version__

    if not (hasattr(result, "model_name") and hasattr(result, "to_dataframe")):
        raise TypeError(
            f"a result or a certificate can be cited and saved, not {type(result).__name__}."
        )
    convention = getattr(result, "convention", None)
    return (
        f"tw_lens {__version__} on {result.model_name}: {type(result).__name__}"
        f"{f', {convention} convention' if convention else ''}; {IDEA}"
    )


def save_table(
    result: Any,
    path: str | Path,
    *,
    table: pd.DataFrame | None = None,
    format: str | None = None,
    caption: str | None = None,
) -> Path:
    """Save a result's table for a paper, with the line to cite it by (`cite`).

    The line is the last column (`cite`) of a CSV or JSON file, the key `cite` in a Parquet file's
    metadata, a comment and the end of the caption in LaTeX, and the last line in Markdown. LaTeX is
    booktabs and compiles in any engine, Markdown is GitHub's; in both every character of a token is
    text, and spaces and control characters are visible.

    Args:
        result: any result or a certificate; or a table of your own, written without a line to cite.
        path: where to.
        table: some of the result's rows, such as `result.top(5)`; all of them by default.
        format: "csv", "json" (records), "parquet", "latex" or "markdown"; by the suffix when left
            out.
        caption: the caption in LaTeX and Markdown; by default the result in one line with the names
            of its caveats.

    Raises:
        ValueError: unknown format.
        OSError: the place cannot be written (nothing is left behind).

    Example:
        >>> from tw_lens import token_norms
        >>> norms = token_norms(weights)
        >>> save_table(norms, "loudest.tex", table=norms.top(5)).name
        'loudest.tex'

    Source: CommonMark's backslash escapes; LaTeX's booktabs.
    """
    import pandas as pd

    path = Path(path)
    format = format or FORMATS.get(path.suffix, path.suffix)
    if format not in FORMATS.values():
        fit = ", ".join(dict.fromkeys(FORMATS.values()))
        raise ValueError(f"the format {format!r} is unknown: {fit} fit.")
    line = ""
    if isinstance(result, pd.DataFrame):
        table = result
    else:
        line = cite(result)
        table = result.to_dataframe() if table is None else table
        caption = _caption(result) if caption is None else caption
    return write_atomically(path, lambda to: _write(table, to, format, caption or "", line))


def _caption(result: Any) -> str:
    names = ", ".join(caveat.name for caveat in result.caveats)
    return f"{result.headline()}{f'; caveats: {names}' if names else ''}."


def _write(table: pd.DataFrame, to: Path, format: str, caption: str, line: str) -> None:
    if format == "latex":
        ends = [caption, f"{line}." if line else ""]
        text = latex_table(table, caption=" ".join(filter(None, ends)), comment=line)
        to.write_text(text, encoding="utf-8")
    elif format == "markdown":
        to.write_text(_markdown(table, caption, line), encoding="utf-8")
    elif format == "parquet":
        _write_parquet(table, to, line)
    else:
        cited = table.assign(cite=line) if line else table
        if format == "csv":
            cited.to_csv(to, index=False)
        else:
            cited.to_json(to, orient="records", force_ascii=False, indent=1)


def _write_parquet(table: pd.DataFrame, to: Path, line: str) -> None:
    import pyarrow
    from pyarrow import parquet

    held = pyarrow.Table.from_pandas(table, preserve_index=False)
    if line:
        metadata = {**(held.schema.metadata or {}), b"cite": line.encode()}
        held = held.replace_schema_metadata(metadata)
    parquet.write_table(held, to)


def _markdown(table: pd.DataFrame, caption: str, line: str) -> str:
    names = [_markdown_text(str(name)) for name in table.columns]
    sides = ["--:" if numeric(table[name]) else ":--" for name in table.columns]
    cells = [[_markdown_cell(value) for value in row] for row in rows(table)]
    drawn = "\n".join(f"| {' | '.join(row)} |" for row in (names, sides, *cells))
    parts = [_markdown_text(caption), drawn, _markdown_text(line)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _markdown_cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else _markdown_text(visible(str(value)))


def _markdown_text(text: str) -> str:
    """Text with every character that Markdown would read as its own escaped."""
    return MARKDOWN.sub(r"\\\1", escaped_controls(text))


def rich_table(table: pd.DataFrame, title: str) -> Table:
    """A table for the terminal: numbers right-aligned and rounded, tokens with visible spaces."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=Text(title), header_style="bold", title_justify="left")
    for name in table.columns:
        drawn.add_column(str(name), justify="right" if numeric(table[name]) else "left")
    for row in rows(table.head(ROWS_ON_A_TERMINAL)):
        cells = (f"{v:.4g}" if isinstance(v, float) else visible(str(v)) for v in row)
        drawn.add_row(*(Text(cell) for cell in cells))
    if len(table) > ROWS_ON_A_TERMINAL:
        drawn.caption = f"the first {ROWS_ON_A_TERMINAL} of {len(table)} rows; --csv writes all"
    return drawn
