r"""Tables for papers: LaTeX that compiles in any engine, whatever tokens it holds.

Characters that pdfLaTeX's own fonts lack are written `\tokenchar{character}{\u4f60}` and print as
their escape. Who has a font for them (XeLaTeX, LuaLaTeX) defines `\newcommand{\tokenchar}[2]{#1}`
before the table and sees the characters themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from tw_lens.tokens import escaped_controls, outer_spaces

if TYPE_CHECKING:
    import pandas as pd

ROWS_ON_A_PAGE = 40
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
    r"""A booktabs table: a float, or a `longtable` where it is longer than a page.

    A float needs `\usepackage{booktabs}` and nothing else; a longtable needs `longtable`, and one
    column of text.

    Args:
        table: numbers are rounded to four digits, everything else is text and is escaped.
        caption: the caption, as plain text.
        comment: a line above the table that LaTeX does not print.
    """
    sides = "".join("r" if numeric(table[name]) else "l" for name in table.columns)
    head = [r"\toprule", _row(escaped(str(name)) for name in table.columns), r"\midrule"]
    body = [_row(map(_cell, row)) for row in rows(table)]
    captioned = [rf"\caption{{{escaped(caption)}}}"] if caption else []
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
