"""The result of `direction_uses`: places of real text in context, beside a direction's words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses.controls import SIDES, WRITTEN
from tw_lens.analyses.result import Circuit, Result, WordLists
from tw_lens.errors import Caveat
from tw_lens.geometry import upper_p_values


class Use(NamedTuple):
    """A place of real text that lies high along one side of a direction.

    Attributes:
        side: "left" or "right".
        prompt, position: where; prompts are counted as they were given, from 0.
        token_index, token_string: what stands there.
        along: how high it lies (see `direction_uses`); `cosine`: the same over the length of the
            place's own vector (NaN where something is written).
        word_rank: how many words of the vocabulary score higher on this side than the token that
            stands there (follows, where words are written; NaN: nothing does).
        before, after: the tokens around it; `values`: of these tokens and, between them, its own.
        partner_position, partner_token, partner_along: the other end of the attention, and how
            high it lies on the other side.
        contribution: what the partner gains: a part of a score (QK), a length written (OV).
        attention: what the head really pays, 0 to 1.
    """

    side: str
    prompt: int
    position: int
    token_index: int
    token_string: str
    along: float
    cosine: float
    word_rank: float
    before: tuple[str, ...]
    after: tuple[str, ...]
    values: tuple[float, ...]
    partner_position: int
    partner_token: str
    partner_along: float
    contribution: float
    attention: float


@dataclass(frozen=True, repr=False, eq=False)
class DirectionUses(Result):
    """Where a direction is used in real text, and how its places' tokens rank among its words.

    `words_left` and `words_right` hold one list each, the words that the uses are compared with.
    `random_ranks` are the word ranks of the places of random pairs of directions.
    """

    model_name: str
    layer: int
    head: int
    circuit: Circuit
    direction: int
    singular_value: float
    first_position: int
    words_left: WordLists
    words_right: WordLists
    uses: tuple[Use, ...]
    random_ranks: tuple[Float[Tensor, "pairs left"], Float[Tensor, "pairs right"]]
    d_vocab: int
    n_prompts: int
    n_positions: int
    n_cut: int
    n_skipped: int
    caveats: tuple[Caveat, ...] = ()

    @property
    def component(self) -> str:
        """The head: "L5H1"."""
        return f"L{self.layer}H{self.head}"

    def words(self, side: str) -> WordLists:
        """The words of a side, one list."""
        return self.words_left if side == "left" else self.words_right

    def of_side(self, side: str) -> tuple[Use, ...]:
        """The uses on a side, highest first."""
        return tuple(use for use in self.uses if use.side == side)

    def word_ranks(self, side: str) -> Float[Tensor, "own_and_pairs places"]:
        """The word ranks on a side: of the direction first, then of the random pairs."""
        random = self.random_ranks[SIDES.index(side)]
        own = random.new_full((1, random.shape[1]), torch.nan)
        for i, use in enumerate(self.of_side(side)):
            own[0, i] = use.word_rank
        return torch.cat([own, random])

    def listed(self, side: str) -> tuple[float, float]:
        """The share of places whose token is among the side's words, and the random pairs' mean."""
        ranks = self.word_ranks(side)
        known = (~ranks.isnan()).sum(1)
        shares = (ranks < len(self.words(side).token_string[0])).sum(1) / known
        return float(shares[0]), float(shares[1:].nanmean())

    def median_rank(self, side: str) -> tuple[float, float]:
        """The median word rank in percent of the vocabulary, and the random pairs' mean.

        50 is what tokens get that have nothing to do with the direction's words.
        """
        medians = 100 * self.word_ranks(side).nanmedian(1).values / self.d_vocab
        return float(medians[0]), float(medians[1:].nanmean())

    def p(self, side: str) -> float:
        """How rare so low a median rank is among the random pairs (1 / 50 at least)."""
        medians = -self.word_ranks(side).nanmedian(1).values
        return float(upper_p_values(medians[:1], medians[1:])[0])

    def said(self, side: str) -> str:
        """How a side's places compare with its words, in half a sentence."""
        if not self.of_side(side):
            return f"{side}: no place"
        n = int((~self.word_ranks(side)[0].isnan()).sum())
        if not n:
            return f"{side}: no place that a word follows"
        (share, random), (median, usual) = self.listed(side), self.median_rank(side)
        hold = "hold" if (self.circuit, side) != WRITTEN else "stand before"
        return (
            f"{side}: {100 * share:.0f} % of {n} places {hold} one of its first "
            f"{len(self.words(side).token_string[0])} words (random {100 * random:.0f} %), the "
            f"median word rank is {percent(median)} of the vocabulary (random {percent(usual)}, "
            f"p {self.p(side):.2g})"
        )

    def headline(self) -> str:
        """How the tokens of the places compare with the direction's words."""
        return (
            f"{self.model_name} {self.component} {self.circuit} direction {self.direction} over "
            f"{self.n_prompts} prompts, {self.n_positions} positions; "
            f"{'; '.join(self.said(side) for side in SIDES)}"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """One row per place.

        Columns: component, circuit, direction, side, rank, prompt, position, token_index,
        token_string, along, cosine, word_rank, context_before, context_after, partner_position,
        partner_token, partner_along, contribution, attention.
        """
        rows = [
            (
                self.component,
                self.circuit,
                self.direction,
                side,
                rank,
                *use[1:8],
                text(use.before),
                text(use.after),
                *use[11:],
            )
            for side in SIDES
            for rank, use in enumerate(self.of_side(side))
        ]
        names = ["component", "circuit", "direction", "side", "rank", "prompt", "position",
                 "token_index", "token_string", "along", "cosine", "word_rank", "context_before",
                 "context_after", "partner_position", "partner_token", "partner_along",
                 "contribution", "attention"]  # fmt: skip
        return pd.DataFrame(rows, columns=names)


def percent(number: float) -> str:
    """A percentage with as many digits as a reader needs."""
    return f"{number:.0f} %" if number >= 10 else f"{number:.2g} %"


def text(tokens: tuple[str, ...]) -> str:
    """Tokens as running text; with spaces between them where they have none of their own."""
    return ("" if any(token.startswith(" ") for token in tokens) else " ").join(tokens)
