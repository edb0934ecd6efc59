"""Direction activations: projections of one prompt on direction pairs, and their counterparts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from tw_lens.canonical import Block, score_contribution
from tw_lens.studies.direction_pairs import DirectionPairs


class Counterpart(NamedTuple):
    """A position at the other end of the attention, with its contribution and attention weight."""

    position: int
    contribution: float
    attention: float


@dataclass(frozen=True, eq=False)
class DirectionActivations:
    """One prompt's residual stream `x` before a block, projected (see `direction_examples`)."""

    block: Block
    x: Float[Tensor, "position d_model"]
    directions: DirectionPairs
    first_position: int

    @cached_property
    def y(self) -> Float[Tensor, "position d_model"]:
        """`N(x)`, the residual states on the sphere of the block's norm."""
        return self.block.norm.sphere(self.x)

    @cached_property
    def pattern(self) -> Float[Tensor, "query key"]:
        """The attention pattern of the head."""
        return self.block.attention_pattern(self.x)[self.directions.head]

    @cached_property
    def projections(
        self,
    ) -> tuple[Float[Tensor, "position pairs"], Float[Tensor, "position pairs"]]:
        """The projection of every position on the left and on the right directions."""
        read = self.y @ self.directions.left.T
        if self.directions.circuit == "QK":
            return read, self.y @ self.directions.right.T
        first = self.first_position
        return read, self.directions.S * (self.pattern[:, first:] @ read[first:])

    @cached_property
    def contributions(self) -> tuple[Float[Tensor, "query key"], Float[Tensor, "query key"]]:
        """The contributions of the first pair: of positions on the left, and on the right."""
        _, circuit, left, right, S = self.directions
        if circuit == "OV":
            written = self.pattern * (S * self.projections[0][:, 0])
            return written, written
        block, head = self.block, self.directions.head
        A_Q, A_K = block.A_Q[head], block.A_K[block.kv_head[head]]
        query_part = self.projections[0][:, :1] * (left[0] @ A_Q)
        key_part = self.projections[1][:, :1] * (right[0] @ A_K)
        return (
            score_contribution(block, self.x, head, query_part[:, None], self.y @ A_K)[0],
            score_contribution(block, self.x, head, (self.y @ A_Q)[:, None], key_part)[0],
        )

    def counterpart(self, side: int, position: int) -> Counterpart:
        """Return the position with the largest contribution from a position (0: left, 1: right)."""
        is_query = (side == 0) == (self.directions.circuit == "QK")

        def others(matrix: Tensor) -> Tensor:
            return matrix[position] if is_query else matrix[:, position]

        contributions = others(self.contributions[side]).clone()
        contributions[~others(self.block.attention_scores.mask(len(self.x)))] = float("-inf")
        contributions[: self.first_position] = float("-inf")
        best = int(contributions.argmax())
        return Counterpart(best, float(contributions[best]), float(others(self.pattern)[best]))
