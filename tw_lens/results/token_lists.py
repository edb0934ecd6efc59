"""Ranked token lists, and the comparison of each list with its null distributions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tw_lens.geometry import NO_TOKEN, TopTokens
from tw_lens.tokens import TokenStrings

SIGNIFICANCE = 0.05
NOTHING = "nothing"


class NullComparison(NamedTuple):
    """Coherence of every list, and its p-values against two null distributions.

    `coherence`: the mean pairwise cosine of the tokens' embeddings, the vocabulary's mean
    subtracted (1: the same token k times). `p`: the share of random directions, isotropic and with
    the vocabulary's covariance, whose lists are at least as coherent (see `direction_coherence`).
    """

    coherence: Float[Tensor, " lists"]
    p: Float[Tensor, "lists 2"]

    def subset(self, indices: list[int]) -> NullComparison:
        """Return the values of a subset of the lists, in the order given."""
        return NullComparison(self.coherence[indices], self.p[indices])

    def above(self, null: Literal["isotropic", "vocabulary"]) -> Bool[Tensor, " lists"]:
        """Return which lists exceed a null at the 5 % level; for "vocabulary" they exceed both."""
        exceeded = self.p <= SIGNIFICANCE
        return exceeded[:, 0] if null == "isotropic" else exceeded.all(1)

    def exceeds_null(self, index: int) -> str:
        """Return the strictest null that a list exceeds at the 5 % level, or "".

        "isotropic", or "vocabulary" where it exceeds both.
        """
        one = self.subset([index])
        if bool(one.above("vocabulary")):
            return "vocabulary"
        return "isotropic" if bool(one.above("isotropic")) else ""


class CountAbove(NamedTuple):
    """How many of `n` token lists exceed both nulls, with a one-sided binomial p-value.

    The p-value is that of as many or more where every list exceeds them with a chance of 5 %.
    """

    found: int
    n: int
    p: float

    @property
    def above_chance(self) -> bool:
        """Whether the count is larger than chance explains, at the 5 % level."""
        return self.p <= SIGNIFICANCE

    def __str__(self) -> str:
        return f"{self.found} of {self.n}, p = {self.p:.2g}"


@dataclass(frozen=True, eq=False)
class TokenLists:
    """Ranked tokens for many queries: scores, ids, printable strings, and the null comparison.

    `null` is None where lists have no null: in the published convention, for lists of one token,
    for normalised keys, and for readouts of the residual state. `count`, with a text vocabulary, is
    the number of states that the point of each listed token is the mean of. What a head of zeros
    reads or writes has a list of one string, "nothing", with token -1 and score 0.
    """

    score: Float[Tensor, "lists k"]
    token_index: Int[Tensor, "lists k"]
    token_string: tuple[tuple[str, ...], ...]
    null: NullComparison | None = None
    count: Int[Tensor, "lists k"] | None = None

    def subset(self, indices: Sequence[int]) -> TokenLists:
        """Return a subset of the lists, in the order given."""
        chosen = list(indices)
        strings = tuple(self.token_string[i] for i in chosen)
        null = None if self.null is None else self.null.subset(chosen)
        count = None if self.count is None else self.count[chosen]
        return TokenLists(self.score[chosen], self.token_index[chosen], strings, null, count)

    def rows(self, index: int, **more: Any) -> Iterator[dict[str, Any]]:
        """Yield one list as table rows.

        Columns: rank (from 0), token_index, token_string, score, those of `more`, count (with a
        text vocabulary) and, where the list has a null, coherence and exceeds_null of the whole
        list (see `NullComparison`).
        """
        extra = {} if self.null is None else self.null_columns(index)
        for rank, string in enumerate(self.token_string[index]):
            count = {} if self.count is None else {"count": int(self.count[index, rank])}
            yield {
                "rank": rank,
                "token_index": int(self.token_index[index, rank]),
                "token_string": string,
                "score": float(self.score[index, rank]),
                **more,
                **count,
                **extra,
            }

    def count_above(self, indices: Sequence[int]) -> CountAbove | None:
        """Return how many of some lists exceed both nulls; None where no list has a null."""
        if self.null is None:
            return None
        chosen = self.null.subset(list(indices))
        n, found = int(chosen.p[:, 1].isfinite().sum()), int(chosen.above("vocabulary").sum())
        if not n:
            return None
        tail = sum(
            math.comb(n, i) * SIGNIFICANCE**i * (1 - SIGNIFICANCE) ** (n - i)
            for i in range(found, n + 1)
        )
        return CountAbove(found, n, tail)

    def null_columns(self, index: int) -> dict[str, Any]:
        """Return coherence and exceeds_null of one list; NaN and "" without a null."""
        if self.null is None:
            return {"coherence": math.nan, "exceeds_null": ""}
        coherence = float(self.null.coherence[index])
        return {"coherence": coherence, "exceeds_null": self.null.exceeds_null(index)}


def concat_nulls(parts: Sequence[NullComparison | None]) -> NullComparison | None:
    """Return the null comparisons of several groups of lists as one; None where one is missing."""
    nulls = [null for null in parts if null is not None]
    if len(nulls) < len(parts):
        return None
    return NullComparison(
        torch.cat([null.coherence for null in nulls]), torch.cat([null.p for null in nulls])
    )


def score_summary(score: str) -> str:
    """Return the kind of score as a clause for a headline; "" for dot products."""
    return "standardised scores, " if score == "standardised" else ""


def significance_summary(*lists: TokenLists) -> str:
    """Return how many lists exceed the isotropic null, as a clause; "" without a null."""
    p_values = [part.null.p[:, 0] for part in lists if part.null is not None]
    if not p_values:
        return ""
    p = torch.cat(p_values)
    p = p[p.isfinite()]
    if not len(p):
        return ""
    n = int((p <= SIGNIFICANCE).sum())
    return f"; {n} of {len(p)} token lists are more coherent than 95 % of random directions'"


def make_token_lists(
    result: TopTokens,
    tokens: TokenStrings,
    null: NullComparison | None = None,
    count: Int[Tensor, " d_vocab"] | None = None,
) -> TokenLists:
    """Return top tokens with their strings, null comparison, and counts of their points."""
    rows = tuple(
        (NOTHING,) if row and row[0] == NO_TOKEN else tuple(tokens.strings(row))
        for row in result.token_index.tolist()
    )
    of_lists = None
    if count is not None:
        index = result.token_index
        of_lists = count.to(index.device)[index.clamp_min(0)] * (index != NO_TOKEN)
    return TokenLists(result.score, result.token_index, rows, null, of_lists)
