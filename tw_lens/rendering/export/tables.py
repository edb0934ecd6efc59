"""Tables for files: written atomically, with tokens never read as markup."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tw_lens.arguments import checked
from tw_lens.files import write_atomically
from tw_lens.rendering.export.latex import latex_table, missing, numeric, rows
from tw_lens.tokens import escaped_controls, visible

if TYPE_CHECKING:
    import pandas as pd

FORMATS = {
    ".csv": "csv",
    ".json": "json",
    ".parquet": "parquet",
    ".tex": "latex",
    ".latex": "latex",
    ".md": "markdown",
    ".markdown": "markdown",
}
SOURCE = "arXiv 2309.07315"
MARKDOWN = re.compile(r"([\\`*_\[\]<>|~#&$!])")


@checked
def cite(result: Any) -> str:
    """Return the line to cite a result by: this package's version, the model, the analysis.

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
            f"only a result or a certificate can be cited or saved; got {type(result).__name__}."
        )
    convention = getattr(result, "convention", None)
    return (
        f"tw_lens {__version__} on {result.model_name}: {type(result).__name__}"
        f"{f', {convention} convention' if convention else ''}; {SOURCE}"
    )


@checked
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
    text, and outer spaces and control characters are visible. A missing value is empty in CSV and
    Markdown, null in JSON and Parquet, and "--" in LaTeX.

    Args:
        result: any result or a certificate; or a DataFrame, which is written without a citation.
        path: the file.
        table: some of the result's rows, such as `result.top(5)`; all of them by default.
        format: "csv", "json" (records), "parquet", "latex" or "markdown"; by default from the
            suffix (.csv, .json, .parquet, .tex, .latex, .md, .markdown). Case does not matter.
        caption: the caption in LaTeX and Markdown; by default the result in one line with the names
            of its caveats.

    Returns:
        The path.

    Raises:
        ValueError: unknown format.
        TypeError: the first argument is no result, certificate or DataFrame.
        OSError: the file cannot be written (nothing is left behind).

    Example:
        >>> from tw_lens import token_norms
        >>> norms = token_norms(weights)
        >>> save_table(norms, "norms.tex", table=norms.top(5)).name
        'norms.tex'

    Source: CommonMark's backslash escapes; LaTeX's booktabs.
    """
    import pandas as pd

    path = Path(path)
    kind = table_format(path, format)
    line = "" if isinstance(result, pd.DataFrame) else cite(result)
    if line and caption is None:
        caption = _caption(result)
    content: pd.DataFrame = _default_table(result) if table is None else table
    return write_atomically(path, lambda file: _write(content, file, kind, caption or "", line))


def table_format(path: Path, format: str | None = None) -> str:
    """Return the format of a table's file, by its suffix where none is named.

    Raises:
        ValueError: unknown format.
    """
    suffix = path.suffix.lower()
    kind = FORMATS.get(suffix, suffix) if format is None else format.lower()
    if kind not in FORMATS.values():
        expected = ", ".join(map(repr, dict.fromkeys(FORMATS.values())))
        raise ValueError(f"unknown format {kind!r}; expected one of {expected}.")
    return kind


def _default_table(result: Any) -> pd.DataFrame:
    """The whole table of a result; a DataFrame as it is."""
    return result.to_dataframe() if hasattr(result, "to_dataframe") else result


def _caption(result: Any) -> str:
    names = ", ".join(caveat.name for caveat in result.caveats)
    return f"{result.headline()}{f'; caveats: {names}' if names else ''}."


def _write(table: pd.DataFrame, file: Path, format: str, caption: str, line: str) -> None:
    if format == "latex":
        parts = [caption, f"{line}." if line else ""]
        text = latex_table(table, caption=" ".join(filter(None, parts)), comment=line)
        file.write_text(text, encoding="utf-8")
    elif format == "markdown":
        file.write_text(_markdown(table, caption, line), encoding="utf-8")
    elif format == "parquet":
        _write_parquet(table, file, line)
    else:
        cited = table.assign(cite=line) if line else table
        if format == "csv":
            cited.to_csv(file, index=False)
        else:
            cited.to_json(file, orient="records", force_ascii=False, indent=1)


def _write_parquet(table: pd.DataFrame, file: Path, line: str) -> None:
    import pyarrow
    from pyarrow import parquet

    content = pyarrow.Table.from_pandas(table, preserve_index=False)
    if line:
        metadata = {**(content.schema.metadata or {}), b"cite": line.encode()}
        content = content.replace_schema_metadata(metadata)
    parquet.write_table(content, file)


def _markdown(table: pd.DataFrame, caption: str, line: str) -> str:
    names = [markdown_text(str(name)) for name in table.columns]
    sides = ["--:" if numeric(table[name]) else ":--" for name in table.columns]
    cells = [[_markdown_cell(value) for value in row] for row in rows(table)]
    lines = "\n".join(f"| {' | '.join(row)} |" for row in (names, sides, *cells))
    parts = [markdown_text(caption), lines, markdown_text(line)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _markdown_cell(value: Any) -> str:
    return markdown_text(_cell(value))


def markdown_text(text: str) -> str:
    """Escape every character that Markdown would read as markup."""
    return MARKDOWN.sub(r"\\\1", escaped_controls(text))


def _cell(value: Any) -> str:
    """A value as text: rounded, with visible outer spaces; empty where it is missing."""
    if missing(value):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else visible(str(value))
