"""Ranked token lists, and the null that each list is compared with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tw_lens.geometry import TopTokens
from tw_lens.tokens import TokenStrings

if TYPE_CHECKING:
    pass


SIGNIFICANCE = 0.05


class NullComparison(NamedTuple):
    """How alike the words of every list are, and how rare that is among random directions' lists.

    `direction_coherence`: the mean pairwise cosine of the words' embeddings, the vocabulary's mean taken off
    (1: the same word again). `p`: the share of random directions, isotropic and with the
    vocabulary's own covariance, whose words are as much alike (see `direction_coherence`).
    """

    coherence: Float[Tensor, " lists"]
    p: Float[Tensor, "lists 2"]

    def subset(self, which: list[int]) -> NullComparison:
        """Those of some lists, in this order."""
        return NullComparison(self.coherence[which], self.p[which])

    def exceeds_null(self, which: int) -> str:
        """The strictest control whose lists are less alike in 95 % of cases, or nothing.

        "isotropic", or "vocabulary", which is then above both.
        """
        isotropic, vocabulary = (self.p[which] <= SIGNIFICANCE).tolist()
        return ("vocabulary" if vocabulary else "isotropic") if isotropic else ""


@dataclass(frozen=True, eq=False)
class TokenLists:
    """Ranked words for many queries: ids, printable strings, scores, and the control beside them.

    `compare_with_null` is None where lists have no control: of the published convention, of single words, of
    normalised keys, of a probed word and what is added to it.
    """

    score: Float[Tensor, "lists k"]
    token_index: Int[Tensor, "lists k"]
    token_string: tuple[tuple[str, ...], ...]
    null: NullComparison | None = None

    def subset(self, which: Sequence[int]) -> TokenLists:
        """Some of the lists, in this order."""
        at = list(which)
        strings = tuple(self.token_string[i] for i in at)
        null = None if self.null is None else self.null.subset(at)
        return TokenLists(self.score[at], self.token_index[at], strings, null)

    def rows(self, which: int, **then: Any) -> Iterator[dict[str, Any]]:
        """One list as table rows: rank (from 0), token_index, token_string, score, what follows.

        Last, where there is a control: coherence, above (see `NullComparison`), of the list as a whole.
        """
        more = then if self.null is None else then | self.control(which)
        for rank, string in enumerate(self.token_string[which]):
            yield {
                "rank": rank,
                "token_index": int(self.token_index[which, rank]),
                "token_string": string,
                "score": float(self.score[which, rank]),
            } | more

    def control(self, which: int) -> dict[str, Any]:
        """What stands beside one list: coherence and above."""
        if self.null is None:
            return {"coherence": math.nan, "exceeds_null": ""}
        coherence = float(self.null.coherence[which])
        return {"coherence": coherence, "exceeds_null": self.null.exceeds_null(which)}


def significance_summary(*lists: TokenLists) -> str:
    """How many lists stand above isotropic random directions', in words; nothing without any."""
    held = [found.null.p[:, 0] for found in lists if found.null is not None]
    if not held:
        return ""
    p = torch.cat(held)
    return (
        f"; words of {int((p <= SIGNIFICANCE).sum())} of {len(p)} lists more alike than 95 % of random "
        "directions'"
    )


def make_token_lists(
    found: TopTokens, tokens: TokenStrings, null: NullComparison | None = None
) -> TokenLists:
    """TopTokens with their strings, and the control beside them."""
    strings = {int(i): tokens.string(int(i)) for i in found.token_index.unique()}
    named = tuple(tuple(strings[i] for i in row) for row in found.token_index.tolist())
    return TokenLists(found.score, found.token_index, named, null)
