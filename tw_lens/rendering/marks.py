"""A quiet mark and a number beside words: do they stand above random directions' words?"""

from __future__ import annotations

from tw_lens.analyses import WordLists
from tw_lens.analyses.result import LEVEL
from tw_lens.rendering.panels import Alike
from tw_lens.rendering.style import shown

MARKS = {"": "", "isotropic": "\u25cb", "vocabulary": "\u25cf"}  # a ring, a disc
LEGEND = (
    "Beside the words: how alike they are (mean cosine of their embeddings; 1: the same). "
    f"{MARKS['isotropic']} more than for 95 % of isotropic random directions, "
    f"{MARKS['vocabulary']} also than for 95 % of random directions with the vocabulary's own "
    "covariance: by chance 1 list in 20 has a mark. Words without a mark may mean nothing; where a "
    "norm weighs few coordinates (often in the first layer) random weights have marks too."
)


def mark(lists: WordLists, which: int) -> Alike:
    """The number and the mark beside one list; nothing where the list has no control."""
    if lists.beside is None:
        return Alike("", "")
    isotropic, vocabulary = lists.beside.p[which].tolist()
    number = f"{float(lists.beside.coherence[which]):.2f}"
    text = f"{number}\u202f{MARKS[lists.beside.above(which)]}".rstrip()
    said = (
        f"p = {isotropic:.2g} beside isotropic directions, {vocabulary:.2g} beside the vocabulary's"
    )
    return Alike(text, said)


def hovered(lists: WordLists, which: int, between: str = "<br>") -> str:
    """One list as plotly text, its mark last."""
    text = mark(lists, which).text
    words = between.join(map(shown, lists.token_string[which]))
    return f"{words}<br>alike {text}" if text else words


def said_above(where: str, *lists: WordLists) -> str:
    """One sentence: how many of some lists stand above each control."""
    held = [found.beside.p for found in lists if found.beside is not None]
    if not held:
        return ""
    n = sum(map(len, held))
    isotropic, vocabulary = (
        100 * sum(float((p[:, c] <= LEVEL).sum()) for p in held) / n for c in (0, 1)
    )
    return (
        f"Of the {n:,} word lists {where}, those more alike than 95 % of random directions' are "
        f"{isotropic:.0f} % beside isotropic directions and {vocabulary:.0f} % beside the "
        "vocabulary's (5 % by chance)."
    )
