r"""Tables for papers: LaTeX that compiles in any engine, whatever tokens it holds.

Characters that pdfLaTeX's own fonts lack are written `\tokenchar{character}{\u4f60}` and print as
their escape. Who has a font for them (XeLaTeX, LuaLaTeX) defines `\newcommand{\tokenchar}[2]{#1}`
before the table and sees the characters themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tw_lens.tokens import escaped_controls, outer_spaces

if TYPE_CHECKING:
    import pandas as pd

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "_": r"\_", "%": r"\%", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "[": "{[}", "*": "{*}",  # either would be read as an argument of the row's end before it
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    '"': r"\texttt{\char34}", "'": r"\textquotesingle{}", "`": r"\textasciigrave{}",
}  # fmt: skip
SPACE = r"\textvisiblespace{}"
ACCENTED = frozenset("ÀÁÂÃÄÅÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜÝàáâãäåçèéêëìíîïñòóôõöøùúûüýÿÆæŒœß")
"""What pdfLaTeX prints with its oldest fonts, too."""


def latex_table(table: pd.DataFrame, *, caption: str = "", comment: str = "") -> str:
    r"""A booktabs table in a float; it needs `\usepackage{booktabs}` and nothing else.

    Args:
        table: numbers are rounded to four digits, everything else is text and is escaped.
        caption: the caption, as plain text.
        comment: a line above the table that LaTeX does not print.
    """
    sides = "".join("r" if numeric(table[name]) else "l" for name in table.columns)
    lines = [
        *([f"% {escaped_controls(comment)}"] if comment else []),
        r"% Needs \usepackage{booktabs}.",
        r"\providecommand{\tokenchar}[2]{\texttt{#2}}",
        r"\begin{table}",
        r"\centering",
        *([rf"\caption{{{escaped(caption)}}}"] if caption else []),
        rf"\begin{{tabular}}{{{sides}}}",
        r"\toprule",
        " & ".join(escaped(str(name)) for name in table.columns) + r" \\",
        r"\midrule",
        *(" & ".join(map(_cell, row)) + r" \\" for row in rows(table)),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text for LaTeX: nothing in it is a command, a ligature, or a space that would be lost."""
    if not text:
        return r"$\emptyset$"
    left, inner, right = outer_spaces(escaped_controls(text))
    pieces = re.findall(r" {2,}|.", inner)
    written = "".join(map(_piece, pieces, [*pieces[1:], ""]))
    return SPACE * left + written + SPACE * right


def numeric(column: pd.Series) -> bool:
    """Whether a column holds numbers, which are set at the right."""
    return column.dtype.kind in "if"


def rows(table: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    """The rows with each value in its column's own type (`table.values` would make ids floats)."""
    return zip(*(table[name].tolist() for name in table.columns), strict=True)


def _piece(piece: str, following: str) -> str:
    """One character (or a run of spaces), knowing the next: `--` would become a dash."""
    if piece in SPECIAL:
        return SPECIAL[piece]
    if len(piece) > 1:
        return SPACE * len(piece)
    if piece in "-," and following == piece:
        return piece + "{}"
    if piece.isascii() or piece in ACCENTED:
        return piece
    code = ord(piece)
    number = f"{code:04x}" if code < 0x10000 else f"{code:08x}"
    return rf"\tokenchar{{{piece}}}{{\textbackslash{{}}{'u' if code < 0x10000 else 'U'}{number}}}"


def _cell(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return escaped(str(value))
    if value != value:
        return "--"
    number = f"{value:.4g}" if isinstance(value, float) else str(value)
    if "inf" in number:
        return f"${number.replace('inf', chr(92) + 'infty')}$"
    digits, _, power = number.partition("e")
    if power:
        return rf"${digits}\cdot 10^{{{int(power)}}}$"
    return f"${number}$" if value < 0 else number
