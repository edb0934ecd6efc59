"""Null markers: a list's coherence, and a symbol for the strictest null that it exceeds."""

from __future__ import annotations

from typing import NamedTuple

from tw_lens.rendering.figures.style import escape_token
from tw_lens.results import TokenLists

SYMBOLS = {"": "", "isotropic": "\u25cb", "vocabulary": "\u25cf"}  # an open circle, a disc
KEY = (
    "Coherence: mean pairwise cosine of a list's token embeddings (1: identical tokens). "
    f"{SYMBOLS['isotropic']}: above 95 % of isotropic random directions; "
    f"{SYMBOLS['vocabulary']}: also above 95 % of random directions with the vocabulary's "
    "covariance; no symbol: neither. By chance 1 list in 20 gets a symbol."
)
LEGEND = (
    "Lists without a symbol may carry no meaning; where a norm weights few coordinates (often in "
    "the first layer), lists of random weights get symbols too."
)


class NullMarker(NamedTuple):
    """The coherence of one token list with its symbol, and its p-values, "0.2 0.5".

    The first is that against isotropic random directions, the second against covariance-matched
    ones.
    """

    text: str
    p_values: str


def null_marker(lists: TokenLists, index: int) -> NullMarker:
    """Return the marker of one list; empty where the list has no null comparison."""
    if lists.null is None or lists.null.coherence[index].isnan():
        return NullMarker("", "")
    isotropic, vocabulary = lists.null.p[index].tolist()
    number = f"{float(lists.null.coherence[index]):.2f}"
    text = f"{number}\u202f{SYMBOLS[lists.null.exceeds_null(index)]}".rstrip()
    return NullMarker(text, f"{isotropic:.2g} {vocabulary:.2g}")


def hover_text(lists: TokenLists, index: int, separator: str = "<br>") -> str:
    """Return one list as plotly text, followed by its coherence where it has one."""
    marker = null_marker(lists, index).text
    tokens = separator.join(map(escape_token, lists.token_string[index]))
    return f"{tokens}<br>coherence {marker}" if marker else tokens


def significance_sentence(where: str, *lists: TokenLists) -> str:
    """Return one sentence: the share of token lists that exceed each null."""
    compared = [group.null for group in lists if group.null is not None]
    n = sum(int(null.p[:, 0].isfinite().sum()) for null in compared)
    if not n:
        return ""
    isotropic, vocabulary = (
        100 * sum(int(null.above(name).sum()) for null in compared) / n
        for name in ("isotropic", "vocabulary")
    )
    return (
        f"Of the {n:,} token lists {where}, {isotropic:.0f} % exceed the isotropic null, and "
        f"{vocabulary:.0f} % the covariance-matched null too, at the 5 % level (5 % by chance)."
    )
