"""A quiet mark and a number beside words: do they stand above random directions' words?"""

from __future__ import annotations

from typing import NamedTuple

from tw_lens.rendering.figures.style import escape_token
from tw_lens.results import TokenLists
from tw_lens.results.token_lists import SIGNIFICANCE

MARKS = {"": "", "isotropic": "\u25cb", "vocabulary": "\u25cf"}  # a ring, a disc
LEGEND = (
    "Beside the words: how alike they are (mean cosine of their embeddings; 1: the same). "
    f"{MARKS['isotropic']} more than for 95 % of isotropic random directions, "
    f"{MARKS['vocabulary']} also than for 95 % of random directions with the vocabulary's own "
    "covariance: by chance 1 list in 20 has a mark. Words without a mark may mean nothing; where a "
    "norm weighs few coordinates (often in the first layer) random weights have marks too."
)


class NullMarker(NamedTuple):
    """How alike the words of a list are: the number, a quiet mark, and what the mark says."""

    text: str
    description: str


def mark(lists: TokenLists, which: int) -> NullMarker:
    """The number and the mark beside one list; nothing where the list has no control."""
    if lists.null is None:
        return NullMarker("", "")
    isotropic, vocabulary = lists.null.p[which].tolist()
    number = f"{float(lists.null.coherence[which]):.2f}"
    text = f"{number}\u202f{MARKS[lists.null.exceeds_null(which)]}".rstrip()
    said = (
        f"p = {isotropic:.2g} beside isotropic directions, {vocabulary:.2g} beside the vocabulary's"
    )
    return NullMarker(text, said)


def hover_text(lists: TokenLists, which: int, between: str = "<br>") -> str:
    """One list as plotly text, its mark last."""
    text = mark(lists, which).text
    words = between.join(map(escape_token, lists.token_string[which]))
    return f"{words}<br>coherence {text}" if text else words


def significance_sentence(where: str, *lists: TokenLists) -> str:
    """One sentence: how many of some lists stand above each control."""
    held = [found.null.p for found in lists if found.null is not None]
    if not held:
        return ""
    n = sum(map(len, held))
    isotropic, vocabulary = (
        100 * sum(float((p[:, c] <= SIGNIFICANCE).sum()) for p in held) / n for c in (0, 1)
    )
    return (
        f"Of the {n:,} word lists {where}, those more alike than 95 % of random directions' are "
        f"{isotropic:.0f} % beside isotropic directions and {vocabulary:.0f} % beside the "
        "vocabulary's (5 % by chance)."
    )
