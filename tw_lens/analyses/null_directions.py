"""Random directions beside a head's own, and how alike the words are that they would list."""

from __future__ import annotations

from typing import Literal, get_args
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tw_lens.analyses.similarity import TokenSimilarity, token_similarity
from tw_lens.canonical import Block, Norm, Weights
from tw_lens.geometry import (
    TokenVectorChunks,
    TopTokens,
    random_directions_in_span,
    random_directions_like,
    top_tokens_signed,
    unit,
    upper_p_values,
)
from tw_lens.geometry import (
    top_tokens as top_tokens,
)
from tw_lens.results.arguments import Circuit
from tw_lens.results.token_lists import NullComparison

SIDES = ("left", "right")
CircuitSide = tuple[Circuit, str]
CIRCUIT_SIDES: tuple[CircuitSide, ...] = (
    ("QK", "left"),
    ("QK", "right"),
    ("OV", "left"),
    ("OV", "right"),
)
OV_OUTPUT = ("OV", "right")
ReadoutKind = Literal["points", "points, signed", "readout, signed", "logits"]
"""How directions are read as words: against the words' points `N(W_E)`, as they are or with the
sign chosen by the rule of right-hand sides; against the readout `A_U`, with that rule, or as a
state of the sphere would be read, `y A_U + a_U`."""
READOUT_KINDS = get_args(ReadoutKind)
_NULL_CACHE: WeakKeyDictionary[Weights, dict[tuple, NullDirections]] = WeakKeyDictionary()
AT_ONCE = 4096  # directions read at a time: their scores of all words are what takes memory
N_NULL = 399  # of each control beside a list: enough for a mark at 5 %


def readout_kind_of(place: CircuitSide) -> ReadoutKind:
    """How the words of a place are read."""
    if place[1] == "left":
        return "points"
    return "readout, signed" if place == OV_OUTPUT else "points, signed"


def factor_of(block: Block, place: CircuitSide, head: int) -> int:
    """Which of a place's factors a head uses: heads of a group share their keys and values."""
    return head if place in (CIRCUIT_SIDES[0], OV_OUTPUT) else block.kv_head[head]


class NullDirections:
    """How alike the words of random directions are; what heads share is drawn once."""

    def __init__(
        self,
        weights: Weights,
        k: int,
        keep: Bool[Tensor, " d_vocab"] | None,
        measures: list[TokenSimilarity],
        seed: int,
    ) -> None:
        self.readout, self.vocabulary = weights.readout, weights.vocabulary
        self.k, self.keep, self.measures, self.seed = k, keep, measures, seed
        self.within_generator = torch.Generator().manual_seed(seed)
        self.drawn: dict[tuple, list[Float[Tensor, "measures n"]]] = {}

    def similarity(
        self, directions: Float[Tensor, "lists d"], table: ReadoutKind, norm: Norm
    ) -> Float[Tensor, "measures lists"]:
        """How alike the words of directions are, read against a table, some thousands at once."""
        return torch.cat(
            [self._similarity(some, table, norm) for some in directions.split(AT_ONCE)], dim=1
        )

    def _similarity(
        self, directions: Float[Tensor, "lists d"], table: ReadoutKind, norm: Norm
    ) -> Float[Tensor, "measures lists"]:
        points, readout, keep = self.vocabulary.on_sphere(norm), self.readout, self.keep
        if table == "points":
            words = top_tokens(directions, points, self.k, keep=keep)
        elif table == "points, signed":
            words = top_tokens_signed(directions, points, self.k, relative=False, keep=keep)
        elif table == "readout, signed":
            met = readout.pull_back(directions)
            words = top_tokens_signed(met, readout.columns, self.k, relative=True, keep=keep)
        else:
            met = readout.pull_back(directions.shape[1] ** 0.5 * unit(directions))
            words = top_tokens(met, readout.columns, self.k, bias=readout.bias(), keep=keep)
        return torch.stack([measure(words.token_index) for measure in self.measures])

    def rows(self, table: ReadoutKind, norm: Norm) -> TokenVectorChunks:
        """The words of a table; its points are those under the norm."""
        if table.startswith("points"):
            return self.vocabulary.on_sphere(norm)
        return self.readout.directions()

    def shared(self, table: ReadoutKind, norm: Norm, n: int) -> list[Float[Tensor, "measures n"]]:
        """The isotropic control and that with the vocabulary's covariance, for one table.

        They are the same for all layers whose words stand at the same points, and do not depend on
        what else was asked.
        """
        points = (norm.kind, norm.eps) if table.startswith("points") else ()
        key = (table, n, *points)
        if key not in self.drawn:
            chance = torch.Generator().manual_seed(
                len(READOUT_KINDS) * self.seed + READOUT_KINDS.index(table)
            )
            rows = self.rows(table, norm)
            isotropic = torch.randn(n, len(norm.gain), generator=chance)
            sizes = [min(AT_ONCE, n - start) for start in range(0, n, AT_ONCE)]
            like_words = torch.cat([random_directions_like(rows, size, chance) for size in sizes])
            self.drawn[key] = [
                self.similarity(directions, table, norm) for directions in (isotropic, like_words)
            ]
        return self.drawn[key]

    def within(self, block: Block, n: int) -> dict[CircuitSide, list[Float[Tensor, "measures n"]]]:
        """The controls inside the subspaces of the heads (of W_Q, W_K, W_V, W_O) of a layer."""
        factors = zip(CIRCUIT_SIDES, (*block.qk_factors(), block.A_V, block.A_O.mT), strict=True)
        drawn = {
            place: random_directions_in_span(L, n, self.within_generator) for place, L in factors
        }
        alike = {}
        for table in dict.fromkeys(map(readout_kind_of, CIRCUIT_SIDES)):
            places = [place for place in CIRCUIT_SIDES if readout_kind_of(place) == table]
            together = torch.cat([drawn[place].flatten(0, 1) for place in places])
            sizes = [len(drawn[place]) * n for place in places]
            found = self.similarity(together, table, block.norm).split(sizes, dim=1)
            alike |= dict(zip(places, found, strict=True))
        return {place: list(alike[place].split(n, dim=1)) for place in CIRCUIT_SIDES}


def compare_with_null(
    weights: Weights,
    found: TopTokens,
    table: ReadoutKind,
    norm: Norm,
    keep: Bool[Tensor, " d_vocab"] | None = None,
) -> NullComparison | None:
    """How alike the words of lists are, beside those of random directions read in the same way.

    The random directions are drawn once for a model, a table and a length of lists (399 of each
    control, seed 0), so that the first call takes a moment; None for lists of single words.
    """
    k = found.token_index.shape[1]
    if k < 2:
        return None
    held = _NULL_CACHE.setdefault(weights, {})
    key = (k, None if keep is None else keep.numpy().tobytes())
    if key not in held:
        held[key] = NullDirections(
            weights, k, keep, [token_similarity(weights, "embedding")], seed=0
        )
    (measure,) = held[key].measures
    value = measure(found.token_index)
    drawn = held[key].shared(table, norm, N_NULL)
    return NullComparison(
        value, torch.stack([upper_p_values(value, one[0]) for one in drawn], dim=-1)
    )
