"""Random directions beside a head's own, and how alike the words are that they would list."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tw_lens.analyses.likeness import Likeness
from tw_lens.analyses.result import Circuit
from tw_lens.canonical import Block, Weights
from tw_lens.geometry import (
    Rows,
    covariance_directions,
    directions_within,
    nearest,
    signed_by_rule,
)

SIDES = ("left", "right")
Place = tuple[Circuit, str]
PLACES: tuple[Place, ...] = (("QK", "left"), ("QK", "right"), ("OV", "left"), ("OV", "right"))
WRITTEN = ("OV", "right")


def factor_of(block: Block, place: Place, head: int) -> int:
    """Which of a place's factors a head uses: heads of a group share their keys and values."""
    return head if place in (PLACES[0], WRITTEN) else block.kv_head[head]


class Controls:
    """How alike the words of random directions are; what heads share is drawn once."""

    def __init__(
        self,
        weights: Weights,
        k: int,
        keep: Bool[Tensor, " d_vocab"] | None,
        measures: list[Likeness],
        seed: int,
    ) -> None:
        self.weights, self.k, self.keep, self.measures = weights, k, keep, measures
        self.generator = torch.Generator().manual_seed(seed)
        self.drawn: dict[tuple, list[Float[Tensor, "measures n"]]] = {}

    def alike(
        self, directions: Float[Tensor, "lists d"], block: Block, place: Place
    ) -> Float[Tensor, "measures lists"]:
        """How alike the words of random directions are, read as those of a place are."""
        written = place == WRITTEN
        rows = self.rows(block, written)
        if place[1] == "right":
            words = signed_by_rule(directions, rows, self.k, relative=written, keep=self.keep)
        else:
            words = nearest(directions, rows, self.k, keep=self.keep)
        return torch.stack([measure(words.token_index) for measure in self.measures])

    def rows(self, block: Block, written: bool) -> Rows:
        """The words that a place of the block is read against."""
        if written:
            return self.weights.readout.directions()
        return self.weights.vocabulary.on_sphere(block.norm)

    def shared(self, block: Block, place: Place, n: int) -> list[Float[Tensor, "measures n"]]:
        """The isotropic control and that with the vocabulary's covariance, for one place.

        They are the same for all layers whose words stand at the same points.
        """
        written = place == WRITTEN
        table = (written, place[1], *(() if written else (block.norm.kind, block.norm.eps)))
        if table not in self.drawn:
            isotropic = torch.randn(n, self.weights.d_model, generator=self.generator)
            like_words = covariance_directions(self.rows(block, written), n, self.generator)
            self.drawn[table] = [
                self.alike(directions, block, place) for directions in (isotropic, like_words)
            ]
        return self.drawn[table]

    def within(self, block: Block, n: int) -> dict[Place, list[Float[Tensor, "measures n"]]]:
        """The controls inside the subspaces of the heads (of W_Q, W_K, W_V, W_O) of a layer."""
        factors = zip(PLACES, (*block.qk_factors(), block.A_V, block.A_O.mT), strict=True)
        drawn = {place: directions_within(L, n, self.generator) for place, L in factors}
        lefts = [place for place in PLACES if place[1] == "left"]
        alike = {
            place: self.alike(drawn[place].flatten(0, 1), block, place)
            for place in PLACES
            if place not in lefts
        }
        both = self.alike(torch.cat([drawn[p].flatten(0, 1) for p in lefts]), block, lefts[0])
        sizes = [len(drawn[place]) * n for place in lefts]
        alike |= dict(zip(lefts, both.split(sizes, dim=1), strict=True))
        return {place: list(some.split(n, dim=1)) for place, some in alike.items()}
