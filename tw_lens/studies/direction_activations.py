"""What a head sees of a prompt along some pairs of directions, and who has to do with whom."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from tw_lens.canonical import Block, score_contribution
from tw_lens.studies.direction_pairs import DirectionPairs


class Counterpart(NamedTuple):
    """The position at the other end of the attention, what it gains, and what is really paid."""

    position: int
    contribution: float
    attention: float


@dataclass(frozen=True, eq=False)
class DirectionActivations:
    """One prompt's stream `x` before a block, seen along directions (see `direction_examples`)."""

    block: Block
    x: Float[Tensor, "position d_model"]
    directions: DirectionPairs
    first_position: int

    @cached_property
    def y(self) -> Float[Tensor, "position d_model"]:
        """`N(x)`."""
        return self.block.norm.sphere(self.x)

    @cached_property
    def pattern(self) -> Float[Tensor, "query key"]:
        """The attention that the head really pays."""
        return self.block.attention_pattern(self.x)[self.directions.head]

    @cached_property
    def projections(
        self,
    ) -> tuple[Float[Tensor, "position pairs"], Float[Tensor, "position pairs"]]:
        """Every position's value on the left and on the right."""
        read = self.y @ self.directions.left.T
        if self.directions.circuit == "QK":
            return read, self.y @ self.directions.right.T
        first = self.first_position
        return read, self.directions.S * (self.pattern[:, first:] @ read[first:])

    @cached_property
    def contributions(self) -> tuple[Float[Tensor, "query key"], Float[Tensor, "query key"]]:
        """What places on the left, and on the right, contribute along the first pair."""
        _, circuit, left, right, S = self.directions
        if circuit == "OV":
            moved = self.pattern * (S * self.projections[0][:, 0])
            return moved, moved
        block, head = self.block, self.directions.head
        A_Q, A_K = block.A_Q[head], block.A_K[block.kv_head[head]]
        asked = self.projections[0][:, :1] * (left[0] @ A_Q)
        offered = self.projections[1][:, :1] * (right[0] @ A_K)
        return (
            score_contribution(block, self.x, head, asked[:, None], self.y @ A_K)[0],
            score_contribution(block, self.x, head, (self.y @ A_Q)[:, None], offered)[0],
        )

    def counterpart(self, side: int, position: int) -> Counterpart:
        """Who gains most by a place on a side (0: left, 1: right)."""
        asks = (side == 0) == (self.directions.circuit == "QK")  # the place is a query

        def seen_from_here(matrix: Tensor) -> Tensor:
            return matrix[position] if asks else matrix[:, position]

        gained = seen_from_here(self.contributions[side]).clone()
        gained[~seen_from_here(self.block.attention_scores.mask(len(self.x)))] = float("-inf")
        gained[: self.first_position] = float("-inf")
        other = int(gained.argmax())
        return Counterpart(other, float(gained[other]), float(seen_from_here(self.pattern)[other]))
