"""Result of `direction_examples`: positions of real text in context, and their token ranks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses.null_directions import OV_OUTPUT, SIDES, Side
from tw_lens.analyses.token_filter import TokenFilter
from tw_lens.arguments import checked
from tw_lens.errors import Caveat
from tw_lens.geometry import upper_p_values
from tw_lens.results.arguments import Circuit
from tw_lens.results.base import Result, component_label, head_columns
from tw_lens.results.token_lists import TokenLists
from tw_lens.results.token_source import TokenSource

N_TOKENS = 50
"""Length of the token lists, and the rank below which a token counts as one of the highest."""


class Example(NamedTuple):
    """A position of real text with a high projection on one side of a direction.

    Attributes:
        side: "left" or "right".
        prompt, position: its location; prompts are numbered in the order given, from 0.
        token_index, token_string: the token at the position.
        projection: its projection (see `direction_examples`); `cosine` is the projection over the
            length of the projected vector (NaN on the output side of OV).
        token_rank: number of tokens of the whole vocabulary that score higher on this side than
            the token at the position (on the output side of OV: than the next token; NaN at the
            end of a prompt).
        before, after: the tokens around it. `values` are the projections of all these tokens,
            including the position itself.
        counterpart_position, counterpart_token, counterpart_projection: the position at the other
            end of the attention, and its projection on the other side.
        contribution: contribution to the counterpart: a part of a score (QK), a length (OV).
        attention: the attention weight between the two, 0 to 1.
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

    @property
    def location(self) -> tuple[int, int]:
        """The number of the prompt and the position."""
        return self.prompt, self.position


@dataclass(frozen=True, repr=False, eq=False)
class DirectionExamples(Result):
    """Positions of real text with the highest projections on a direction, both sides.

    `tokens_left` and `tokens_right` hold one list each: the highest tokens of the direction (among
    those of `token_filter`). `random_ranks` are the token ranks of the examples of random pairs of
    directions. All ranks are over the whole vocabulary.
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
    token_filter: TokenFilter | None = None
    token_source: TokenSource = field(default_factory=TokenSource)
    caveats: tuple[Caveat, ...] = ()

    @property
    def component(self) -> str:
        """The label of the head: "L5H1"."""
        return component_label(self.layer, self.head, self.model_name)

    @checked
    def words(self, side: Side) -> TokenLists:
        """Return the token list of a side (a `TokenLists` of one list)."""
        return self.tokens_left if side == "left" else self.tokens_right

    @checked
    def of_side(self, side: Side) -> tuple[Example, ...]:
        """Return the examples of a side, highest first."""
        return tuple(example for example in self.examples if example.side == side)

    @checked
    def token_ranks(self, side: Side) -> Float[Tensor, "own_and_pairs examples"]:
        """Return the token ranks on a side: row 0 of the direction, then of the random pairs."""
        random = self.random_ranks[SIDES.index(side)]
        own = random.new_full((1, random.shape[1]), torch.nan)
        for i, example in enumerate(self.of_side(side)):
            own[0, i] = example.token_rank
        return torch.cat([own, random])

    @checked
    def share_among_highest(self, side: Side) -> tuple[float, float]:
        """Return the share of examples whose token is among the side's 50 highest tokens.

        The highest of the whole vocabulary are meant, whatever `token_filter` lists. The second
        number is the mean share of the random pairs.
        """
        ranks = self.token_ranks(side)
        known = (~ranks.isnan()).sum(1)
        shares = (ranks < self._n_highest).sum(1) / known
        return float(shares[0]), float(shares[1:].nanmean())

    @property
    def _n_highest(self) -> int:
        return min(N_TOKENS, self.d_vocab)

    @checked
    def median_rank(self, side: Side) -> tuple[float, float]:
        """Return the median token rank in percent of the vocabulary, and the random pairs' mean.

        Tokens unrelated to the direction have a median of 50.
        """
        medians = 100 * self.token_ranks(side).nanmedian(1).values / self.d_vocab
        return float(medians[0]), float(medians[1:].nanmean())

    @checked
    def p_value(self, side: Side) -> float:
        """Return the p-value of the median rank under the random pairs (at least 1 / 50)."""
        medians = -self.token_ranks(side).nanmedian(1).values
        return float(upper_p_values(medians[:1], medians[1:])[0])

    @checked
    def description(self, side: Side) -> str:
        """Return a summary of the token ranks on a side, for the headline."""
        if not self.of_side(side):
            return f"{side}: no place with a projection above 0"
        n = int((~self.token_ranks(side)[0].isnan()).sum())
        if not n:
            return f"{side}: no example has a next token"
        (share, random), (median, usual) = self.share_among_highest(side), self.median_rank(side)
        token = "next token" if (self.circuit, side) == OV_OUTPUT else "token"
        return (
            f"{side}: the {token} of {100 * share:.0f} % of {n} examples is among the "
            f"{self._n_highest} highest (random {100 * random:.0f} %), the median token rank is "
            f"{percent(median)} of the vocabulary (random {percent(usual)}, "
            f"p {self.p_value(side):.2g})"
        )

    def headline(self) -> str:
        """Return the token ranks of the examples on both sides, against random pairs."""
        return (
            f"{self.model_name} {self.component} {self.circuit} direction {self.direction} over "
            f"{self.n_prompts} prompts, {self.n_positions} positions; "
            f"{'; '.join(self.description(side) for side in SIDES)}"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per example.

        Columns: layer, head, component, circuit, direction, side, rank, prompt, position,
        token_index, token_string, projection, cosine, token_rank, context_before, context_after,
        counterpart_position, counterpart_token, counterpart_projection, contribution, attention.
        """
        rows = [
            (
                *head_columns(self.layer, self.head, self.model_name).values(),
                self.circuit,
                self.direction,
                side,
                rank,
                *example[1:8],
                join_tokens(example.before),
                join_tokens(example.after),
                *example[11:],
            )
            for side in SIDES
            for rank, example in enumerate(self.of_side(side))
        ]
        names = [
            "layer", "head", "component", "circuit", "direction", "side", "rank", "prompt",
            "position", "token_index", "token_string", "projection", "cosine", "token_rank",
            "context_before", "context_after", "counterpart_position", "counterpart_token",
            "counterpart_projection", "contribution", "attention",
        ]  # fmt: skip
        return pd.DataFrame(rows, columns=names)


def percent(number: float) -> str:
    """Return a percentage with two significant digits below 10, none after the point above."""
    return f"{number:.0f} %" if number >= 10 else f"{number:.2g} %"


def join_tokens(tokens: tuple[str, ...]) -> str:
    """Join tokens to running text, with spaces between them if they contain none themselves."""
    return ("" if any(token.startswith(" ") for token in tokens) else " ").join(tokens)
