"""Random directions beside a head's own, and how alike the words are that they would list."""

from __future__ import annotations

from typing import Literal, get_args
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tw_lens.analyses.likeness import Likeness, likeness
from tw_lens.analyses.result import Beside, Circuit
from tw_lens.canonical import Block, Norm, Weights
from tw_lens.geometry import (
    Neighbours,
    Rows,
    covariance_directions,
    directions_within,
    nearest,
    signed_by_rule,
    unit,
    upper_p_values,
)

SIDES = ("left", "right")
Place = tuple[Circuit, str]
PLACES: tuple[Place, ...] = (("QK", "left"), ("QK", "right"), ("OV", "left"), ("OV", "right"))
WRITTEN = ("OV", "right")
Table = Literal["points", "points, signed", "written, signed", "said"]
"""How directions are read as words: against the words' points `N(W_E)`, as they are or with the
sign chosen by the rule of right-hand sides; against the readout `A_U`, with that rule, or as a
state of the sphere would be read, `y A_U + a_U`."""
TABLES = get_args(Table)
KEPT: WeakKeyDictionary[Weights, dict[tuple, Controls]] = WeakKeyDictionary()
AT_ONCE = 4096  # directions read at a time: their scores of all words are what takes memory
DRAWN = 399  # of each control beside a list: enough for a mark at 5 %


def table_of(place: Place) -> Table:
    """How the words of a place are read."""
    if place[1] == "left":
        return "points"
    return "written, signed" if place == WRITTEN else "points, signed"


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
        self.readout, self.vocabulary = weights.readout, weights.vocabulary
        self.k, self.keep, self.measures, self.seed = k, keep, measures, seed
        self.within_generator = torch.Generator().manual_seed(seed)
        self.drawn: dict[tuple, list[Float[Tensor, "measures n"]]] = {}

    def alike(
        self, directions: Float[Tensor, "lists d"], table: Table, norm: Norm
    ) -> Float[Tensor, "measures lists"]:
        """How alike the words of directions are, read against a table, some thousands at once."""
        return torch.cat(
            [self._alike(some, table, norm) for some in directions.split(AT_ONCE)], dim=1
        )

    def _alike(
        self, directions: Float[Tensor, "lists d"], table: Table, norm: Norm
    ) -> Float[Tensor, "measures lists"]:
        points, readout, keep = self.vocabulary.on_sphere(norm), self.readout, self.keep
        if table == "points":
            words = nearest(directions, points, self.k, keep=keep)
        elif table == "points, signed":
            words = signed_by_rule(directions, points, self.k, relative=False, keep=keep)
        elif table == "written, signed":
            met = readout.met(directions)
            words = signed_by_rule(met, readout.columns, self.k, relative=True, keep=keep)
        else:
            met = readout.met(directions.shape[1] ** 0.5 * unit(directions))
            words = nearest(met, readout.columns, self.k, offset=readout.offset(), keep=keep)
        return torch.stack([measure(words.token_index) for measure in self.measures])

    def rows(self, table: Table, norm: Norm) -> Rows:
        """The words of a table; its points are those under the norm."""
        if table.startswith("points"):
            return self.vocabulary.on_sphere(norm)
        return self.readout.directions()

    def shared(self, table: Table, norm: Norm, n: int) -> list[Float[Tensor, "measures n"]]:
        """The isotropic control and that with the vocabulary's covariance, for one table.

        They are the same for all layers whose words stand at the same points, and do not depend on
        what else was asked.
        """
        points = (norm.kind, norm.eps) if table.startswith("points") else ()
        key = (table, n, *points)
        if key not in self.drawn:
            chance = torch.Generator().manual_seed(len(TABLES) * self.seed + TABLES.index(table))
            rows = self.rows(table, norm)
            isotropic = torch.randn(n, len(norm.gain), generator=chance)
            sizes = [min(AT_ONCE, n - start) for start in range(0, n, AT_ONCE)]
            like_words = torch.cat([covariance_directions(rows, size, chance) for size in sizes])
            self.drawn[key] = [
                self.alike(directions, table, norm) for directions in (isotropic, like_words)
            ]
        return self.drawn[key]

    def within(self, block: Block, n: int) -> dict[Place, list[Float[Tensor, "measures n"]]]:
        """The controls inside the subspaces of the heads (of W_Q, W_K, W_V, W_O) of a layer."""
        factors = zip(PLACES, (*block.qk_factors(), block.A_V, block.A_O.mT), strict=True)
        drawn = {place: directions_within(L, n, self.within_generator) for place, L in factors}
        alike = {}
        for table in dict.fromkeys(map(table_of, PLACES)):
            places = [place for place in PLACES if table_of(place) == table]
            together = torch.cat([drawn[place].flatten(0, 1) for place in places])
            sizes = [len(drawn[place]) * n for place in places]
            found = self.alike(together, table, block.norm).split(sizes, dim=1)
            alike |= dict(zip(places, found, strict=True))
        return {place: list(alike[place].split(n, dim=1)) for place in PLACES}


def beside(
    weights: Weights,
    found: Neighbours,
    table: Table,
    norm: Norm,
    keep: Bool[Tensor, " d_vocab"] | None = None,
) -> Beside | None:
    """How alike the words of lists are, beside those of random directions read in the same way.

    The random directions are drawn once for a model, a table and a length of lists (399 of each
    control, seed 0), so that the first call takes a moment; None for lists of single words.
    """
    k = found.token_index.shape[1]
    if k < 2:
        return None
    held = KEPT.setdefault(weights, {})
    key = (k, None if keep is None else keep.numpy().tobytes())
    if key not in held:
        held[key] = Controls(weights, k, keep, [likeness(weights, "embedding")], seed=0)
    (measure,) = held[key].measures
    value = measure(found.token_index)
    drawn = held[key].shared(table, norm, DRAWN)
    return Beside(value, torch.stack([upper_p_values(value, one[0]) for one in drawn], dim=-1))
