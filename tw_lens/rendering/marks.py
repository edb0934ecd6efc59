"""A quiet mark and a number beside words: do they stand above random directions' words?"""

from __future__ import annotations

from tw_lens.analyses import Coherence, coherence
from tw_lens.analyses.coherence import LEVEL
from tw_lens.analyses.controls import SIDES
from tw_lens.analyses.result import Circuit
from tw_lens.canonical import Weights
from tw_lens.rendering.panels import Alike

ABOVE_ISOTROPIC, ABOVE_VOCABULARY = "\u25cb", "\u25cf"  # a ring, a disc
LEGEND = (
    "Beside the words: how alike they are (mean cosine of their embeddings; 1: the same). "
    f"{ABOVE_ISOTROPIC} more than for 95 % of isotropic random directions, {ABOVE_VOCABULARY} also "
    "than for 95 % of random directions with the vocabulary's own covariance: by chance 1 list in "
    "20 has a mark. Words without a mark may mean nothing."
)
SHARED_CONTROLS = ("isotropic", "vocabulary")  # drawn once for all heads
DRAWN = 399  # of each: enough for a mark at 5 %
Marks = dict[tuple[int, int, Circuit, int, str], Alike]


def listed_words(weights: Weights, layers: tuple[int, ...] | None, n: int) -> Coherence:
    """How alike the words are that the page lists for the heads of some layers (all of them)."""
    return coherence(weights, layers=layers, n=n, controls=SHARED_CONTROLS, n_controls=DRAWN)


def marks(result: Coherence) -> Marks:
    """The mark of every direction's side, for results with the first two controls."""
    isotropic, vocabulary = (result.controls.index(name) for name in ("isotropic", "vocabulary"))
    found = {}
    for at, entry in enumerate(result.entries):
        for s, side in enumerate(SIDES):
            p = float(result.p[0, isotropic, s, at]), float(result.p[0, vocabulary, s, at])
            mark = ""
            if p[0] <= LEVEL:
                mark = ABOVE_VOCABULARY if p[1] <= LEVEL else ABOVE_ISOTROPIC
            text = f"{float(result.value[0, s, at]):.2f}\u202f{mark}".rstrip()
            said = f"p = {p[0]:.2g} beside isotropic directions, {p[1]:.2g} beside the vocabulary's"
            found[(*entry, side)] = Alike(text, said)
    return found


def said_above(result: Coherence, layer: int | None = None) -> str:
    """One sentence: how many of the lists (of a layer) stand above each control."""
    at = [i for i, entry in enumerate(result.entries) if layer in (None, entry[0])]
    shares = 100 * (result.p[0][:, :, at] <= LEVEL).float().mean((-1, -2))
    said = " and ".join(
        f"{float(share):.0f} % beside {name!r}"
        for share, name in zip(shares, result.controls, strict=True)
    )
    where = "here" if layer is None else f"of layer {layer}"
    return (
        f"Of the {2 * len(at):,} word lists {where}, those more alike than 95 % of random "
        f"directions' are {said} directions (5 % by chance)."
    )
