"""The result of `direction_examples`: places of real text in context, beside a direction's words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses.null_directions import OV_OUTPUT, SIDES
from tw_lens.errors import Caveat
from tw_lens.geometry import upper_p_values
from tw_lens.results.arguments import Circuit
from tw_lens.results.base import Result, component_label, head_columns
from tw_lens.results.token_lists import TokenLists


class Example(NamedTuple):
    """A place of real text that lies high along one side of a direction.

    Attributes:
        side: "left" or "right".
        prompt, position: where; prompts are counted as they were given, from 0.
        token_index, token_string: what stands there.
        along: how high it lies (see `direction_examples`); `cosine`: the same over the length of the
            place's own vector (NaN where something is written).
        token_rank: how many words of the vocabulary score higher on this side than the token that
            stands there (follows, where words are written; NaN: nothing does).
        before, after: the tokens around it; `values`: of these tokens and, between them, its own.
        counterpart_position, counterpart_token, counterpart_projection: the other end of the attention, and how
            high it lies on the other side.
        contribution: what the partner gains: a part of a score (QK), a length written (OV).
        attention: what the head really pays, 0 to 1.
    """

    side: str
    prompt: int
    position: int
    token_index: int
    token_string: str
    projection: float
    cosine: float
    token_rank: float
    before: tuple[str, ...]
    after: tuple[str, ...]
    values: tuple[float, ...]
    counterpart_position: int
    counterpart_token: str
    counterpart_projection: float
    contribution: float
    attention: float


@dataclass(frozen=True, repr=False, eq=False)
class DirectionExamples(Result):
    """Where a direction is used in real text, and how its places' tokens rank among its words.

    `tokens_left` and `tokens_right` hold one list each, the words that the uses are compared with.
    `random_ranks` are the word ranks of the places of random pairs of directions.
    """

    model_name: str
    layer: int
    head: int
    circuit: Circuit
    direction: int
    singular_value: float
    first_position: int
    tokens_left: TokenLists
    tokens_right: TokenLists
    examples: tuple[Example, ...]
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
        return component_label(self.layer, self.head)

    def words(self, side: str) -> TokenLists:
        """The words of a side, one list."""
        return self.tokens_left if side == "left" else self.tokens_right

    def of_side(self, side: str) -> tuple[Example, ...]:
        """The uses on a side, highest first."""
        return tuple(example for example in self.examples if example.side == side)

    def token_ranks(self, side: str) -> Float[Tensor, "own_and_pairs places"]:
        """The word ranks on a side: of the direction first, then of the random pairs."""
        random = self.random_ranks[SIDES.index(side)]
        own = random.new_full((1, random.shape[1]), torch.nan)
        for i, example in enumerate(self.of_side(side)):
            own[0, i] = example.token_rank
        return torch.cat([own, random])

    def listed(self, side: str) -> tuple[float, float]:
        """The share of places whose token is among the side's words, and the random pairs' mean."""
        ranks = self.token_ranks(side)
        known = (~ranks.isnan()).sum(1)
        shares = (ranks < len(self.words(side).token_string[0])).sum(1) / known
        return float(shares[0]), float(shares[1:].nanmean())

    def median_rank(self, side: str) -> tuple[float, float]:
        """The median word rank in percent of the vocabulary, and the random pairs' mean.

        50 is what tokens get that have nothing to do with the direction's words.
        """
        medians = 100 * self.token_ranks(side).nanmedian(1).values / self.d_vocab
        return float(medians[0]), float(medians[1:].nanmean())

    def p(self, side: str) -> float:
        """How rare so low a median rank is among the random pairs (1 / 50 at least)."""
        medians = -self.token_ranks(side).nanmedian(1).values
        return float(upper_p_values(medians[:1], medians[1:])[0])

    def description(self, side: str) -> str:
        """How a side's places compare with its words, in half a sentence."""
        if not self.of_side(side):
            return f"{side}: no place"
        n = int((~self.token_ranks(side)[0].isnan()).sum())
        if not n:
            return f"{side}: no place that a word follows"
        (share, random), (median, usual) = self.listed(side), self.median_rank(side)
        hold = "hold" if (self.circuit, side) != OV_OUTPUT else "stand before"
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
            f"{'; '.join(self.description(side) for side in SIDES)}"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """One row per place.

        Columns: layer, head, component, circuit, direction, side, rank, prompt, position, token_index,
        token_string, along, cosine, token_rank, context_before, context_after, counterpart_position,
        counterpart_token, counterpart_projection, contribution, attention.
        """
        rows = [
            (
                *head_columns(self.layer, self.head).values(),
                self.circuit,
                self.direction,
                side,
                rank,
                *example[1:8],
                text(example.before),
                text(example.after),
                *example[11:],
            )
            for side in SIDES
            for rank, example in enumerate(self.of_side(side))
        ]
        names = ["layer", "head", "component", "circuit", "direction", "side", "rank", "prompt", "position",
                 "token_index", "token_string", "projection", "cosine", "token_rank", "context_before",
                 "context_after", "counterpart_position", "counterpart_token", "counterpart_projection",
                 "contribution", "attention"]  # fmt: skip
        return pd.DataFrame(rows, columns=names)


def percent(number: float) -> str:
    """A percentage with as many digits as a reader needs."""
    return f"{number:.0f} %" if number >= 10 else f"{number:.2g} %"


def text(tokens: tuple[str, ...]) -> str:
    """Tokens as running text; with spaces between them where they have none of their own."""
    return ("" if any(token.startswith(" ") for token in tokens) else " ").join(tokens)
