r"""LaTeX tables that compile in any engine, for any tokens.

Characters that pdfLaTeX's own fonts lack are written `\tokenchar{character}{\u4f60}` and print as
their escape. With a font for them (XeLaTeX, LuaLaTeX), define `\newcommand{\tokenchar}[2]{#1}`
before the table to print the characters themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from tw_lens.tokens import escaped_controls, outer_spaces

if TYPE_CHECKING:
    import pandas as pd

ROWS_ON_A_PAGE = 40
MISSING = "--"
SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "_": r"\_", "%": r"\%", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "[": "{[}", "*": "{*}",  # LaTeX would read either as an argument of the preceding row end
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    '"': r"\texttt{\char34}", "'": r"\textquotesingle{}", "`": r"\textasciigrave{}",
}  # fmt: skip
SPACE = r"\textvisiblespace{}"
ACCENTED = frozenset("ÀÁÂÃÄÅÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜÝàáâãäåçèéêëìíîïñòóôõöøùúûüýÿÆæŒœß")
"""Characters that pdfLaTeX prints with its default fonts."""


def latex_table(table: pd.DataFrame, *, caption: str = "", comment: str = "") -> str:
    r"""Return a booktabs table: a float, or a `longtable` where it is longer than a page.

    A float needs `\usepackage{booktabs}` and nothing else; a longtable also needs `longtable`, and
    one-column text.

    Args:
        table: numbers are rounded to four digits, missing values are "--", everything else is text
            and is escaped.
        caption: the caption, as plain text.
        comment: a line above the table that LaTeX does not print.
    """
    sides = "".join("r" if numeric(table[name]) else "l" for name in table.columns)
    head = [r"\toprule", _row(escape_latex(str(name)) for name in table.columns), r"\midrule"]
    body = [_row(map(_cell, row)) for row in rows(table)]
    captioned = [rf"\caption{{{escape_latex(caption)}}}"] if caption else []
    if len(body) > ROWS_ON_A_PAGE:
        packages = "booktabs,longtable"
        lines = [
            rf"\begin{{longtable}}{{{sides}}}",
            *(line + r" \\" for line in captioned),
            *head, r"\endfirsthead", *head, r"\endhead", r"\bottomrule", r"\endfoot",
            *body,
            r"\end{longtable}",
        ]  # fmt: skip
    else:
        packages = "booktabs"
        lines = [
            r"\begin{table}", r"\centering", *captioned, rf"\begin{{tabular}}{{{sides}}}",
            *head, *body,
            r"\bottomrule", r"\end{tabular}", r"\end{table}",
        ]  # fmt: skip
    above = [
        *([f"% {escaped_controls(comment)}"] if comment else []),
        rf"% Needs \usepackage{{{packages}}}.",
        r"\providecommand{\tokenchar}[2]{\texttt{#2}}",
    ]
    return "\n".join([*above, *lines]) + "\n"


def _row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def escape_latex(text: str) -> str:
    """Escape text for LaTeX: no commands, no ligatures, and every space printed."""
    if not text:
        return r"$\emptyset$"
    left, inner, right = outer_spaces(escaped_controls(text))
    characters = re.findall(r" {2,}|.", inner)
    body = "".join(map(_escape_character, characters, [*characters[1:], ""]))
    return SPACE * left + body + SPACE * right


def numeric(column: pd.Series) -> bool:
    """Return whether a column holds numbers, which are right-aligned."""
    return column.dtype.kind in "if"


def rows(table: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    """Yield the rows, each value in its column's type (`table.values` would make ids floats)."""
    return zip(*(table[name].tolist() for name in table.columns), strict=True)


def missing(value: Any) -> bool:
    """Return whether a table's value is missing: None, NaN or pandas' NA."""
    import pandas as pd

    if isinstance(value, float):
        return value != value
    return value is None or value is pd.NA or value is pd.NaT


def _escape_character(character: str, following: str) -> str:
    """Escape one character (or a run of spaces) before the next one: `--` would become a dash."""
    if character in SPECIAL:
        return SPECIAL[character]
    if len(character) > 1:
        return SPACE * len(character)
    if character in "-," and following == character:
        return character + "{}"
    if character.isascii() or character in ACCENTED:
        return character
    code = ord(character)
    escape = f"u{code:04x}" if code < 0x10000 else f"U{code:08x}"
    return rf"\tokenchar{{{character}}}{{\textbackslash{{}}{escape}}}"


def _cell(value: Any) -> str:
    if missing(value):
        return MISSING
    if isinstance(value, bool) or not isinstance(value, int | float):
        return escape_latex(str(value))
    number = f"{value:.4g}" if isinstance(value, float) else str(value)
    if "inf" in number:
        return f"${number.replace('inf', chr(92) + 'infty')}$"
    digits, _, power = number.partition("e")
    if power:
        return rf"${digits}\cdot 10^{{{int(power)}}}$"
    return f"${number}$" if value < 0 else number
