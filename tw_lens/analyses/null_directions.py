"""Null directions: random directions, and the similarity of the tokens that they list."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tw_lens.analyses.similarity import TokenSimilarity, token_similarity
from tw_lens.canonical import Block, TokenPoints, Weights, combined_mask
from tw_lens.devices import drawn
from tw_lens.geometry import (
    TokenVectorChunks,
    TopTokens,
    random_directions_in_span,
    random_directions_like,
    top_tokens,
    top_tokens_signed,
    unit,
    upper_p_values,
)
from tw_lens.results.arguments import Circuit
from tw_lens.results.token_lists import NullComparison

Side = Literal["left", "right"]
SIDES: tuple[Side, Side] = ("left", "right")
CircuitSide = tuple[Circuit, Side]
CIRCUIT_SIDES: tuple[CircuitSide, ...] = (
    ("QK", "left"),
    ("QK", "right"),
    ("OV", "left"),
    ("OV", "right"),
)
OV_OUTPUT: CircuitSide = ("OV", "right")
ReadoutKind = Literal["points", "points, signed", "readout, signed", "logits", "readout"]
"""Ways to read directions as tokens: against the points `N(W_E)`, as they are or with the sign
chosen by the rule of right-hand sides; against the readout `A_U`, with that rule or as they are, or
as a state of the sphere is read out, `y A_U + a_U`."""
READOUT_KINDS: tuple[ReadoutKind, ...] = get_args(ReadoutKind)
_NULL_CACHE: WeakKeyDictionary[Weights, dict[tuple, NullDirections]] = WeakKeyDictionary()
AT_ONCE = 4096  # directions read at a time, to bound the memory of their scores of all tokens
N_NULL = 399  # directions per null of a token list: enough for the 5 % level


def readout_kind_of(circuit_side: CircuitSide) -> ReadoutKind:
    """Return how the directions of a side of a circuit are read as tokens."""
    if circuit_side[1] == "left":
        return "points"
    return "readout, signed" if circuit_side == OV_OUTPUT else "points, signed"


def factor_of(block: Block, circuit_side: CircuitSide, head: int) -> int:
    """Return the index of a head's factor; the heads of a group share those of keys and values."""
    return head if circuit_side in (CIRCUIT_SIDES[0], OV_OUTPUT) else block.kv_head[head]


class NullDirections:
    """Similarities of the token lists of random directions; shared nulls are drawn once."""

    def __init__(
        self,
        weights: Weights,
        k: int,
        keep: Bool[Tensor, " d_vocab"] | None,
        measures: list[TokenSimilarity],
        seed: int,
    ) -> None:
        self.readout, self.d_model = weights.readout, weights.d_model
        self.k, self.keep, self.measures, self.seed = k, keep, measures, seed
        self.within_generator = torch.Generator().manual_seed(seed)
        self._shared: dict[tuple, list[Float[Tensor, "measures n"]]] = {}

    def similarity(
        self, directions: Float[Tensor, "lists d"], kind: ReadoutKind, points: TokenPoints
    ) -> Float[Tensor, "measures lists"]:
        """Return the token similarities of the directions' lists, `AT_ONCE` lists at a time."""
        chunks = directions.split(AT_ONCE)
        return torch.cat([self._similarity(chunk, kind, points) for chunk in chunks], dim=1)

    def _similarity(
        self, directions: Float[Tensor, "lists d"], kind: ReadoutKind, points: TokenPoints
    ) -> Float[Tensor, "measures lists"]:
        readout, keep = self.readout, self.keep
        known = combined_mask(keep, points)
        if kind == "points":
            lists = top_tokens(directions, points.rows, self.k, keep=known)
        elif kind == "points, signed":
            lists = top_tokens_signed(directions, points.rows, self.k, relative=False, keep=known)
        elif kind == "readout, signed":
            queries = readout.pull_back(directions)
            lists = top_tokens_signed(
                queries, readout.columns, self.k, relative=readout.relative, keep=keep
            )
        elif kind == "readout":
            queries = readout.pull_back(directions)
            lists = top_tokens(queries, readout.columns, self.k, keep=keep)
        else:
            queries = readout.pull_back(directions.shape[1] ** 0.5 * unit(directions))
            lists = top_tokens(queries, readout.columns, self.k, bias=readout.bias(), keep=keep)
        return torch.stack([measure(lists.token_index) for measure in self.measures])

    def rows(self, kind: ReadoutKind, points: TokenPoints) -> TokenVectorChunks:
        """Return the token vectors of a kind of readout, without tokens that have no point."""
        if not kind.startswith("points"):
            return self.readout.directions()
        return points.rows if points.mask is None else lambda: _known_rows(points)

    def shared(
        self, kind: ReadoutKind, points: TokenPoints, n: int
    ) -> list[Float[Tensor, "measures n"]]:
        """Return the similarities under the isotropic and the vocabulary null.

        They are the same for all layers with the same points, and do not depend on earlier calls.
        """
        key = (kind, n, *(points.key if kind.startswith("points") else ()))
        if key not in self._shared:
            generator = torch.Generator().manual_seed(
                len(READOUT_KINDS) * self.seed + READOUT_KINDS.index(kind)
            )
            rows = self.rows(kind, points)
            isotropic = drawn(torch.randn, n, self.d_model, generator=generator)
            sizes = [min(AT_ONCE, n - start) for start in range(0, n, AT_ONCE)]
            like_vocabulary = torch.cat(
                [random_directions_like(rows, size, generator) for size in sizes]
            )
            both = self.similarity(torch.cat([isotropic, like_vocabulary]), kind, points)
            self._shared[key] = list(both.split(n, dim=1))  # one pass over the tokens for both
        return self._shared[key]

    def within(
        self, block: Block, points: TokenPoints, n: int
    ) -> dict[CircuitSide, list[Float[Tensor, "measures n"]]]:
        """Return the similarities under the within-head null, one entry per factor.

        The directions lie in the column spaces of the heads' W_Q, W_K, W_V and W_O.
        """
        factors = zip(CIRCUIT_SIDES, (*block.qk_factors(), block.A_V, block.A_O.mT), strict=True)
        directions = {
            side: random_directions_in_span(L, n, self.within_generator) for side, L in factors
        }
        similarity: dict[CircuitSide, Float[Tensor, "measures lists"]] = {}
        for kind in READOUT_KINDS:
            sides = [side for side in CIRCUIT_SIDES if readout_kind_of(side) == kind]
            if sides:
                joint = torch.cat([directions[side].flatten(0, 1) for side in sides])
                sizes = [len(directions[side]) * n for side in sides]
                values = self.similarity(joint, kind, points).split(sizes, dim=1)
                similarity |= dict(zip(sides, values, strict=True))
        return {side: list(similarity[side].split(n, dim=1)) for side in CIRCUIT_SIDES}


def _known_rows(points: TokenPoints) -> Iterator[Tensor]:
    """The points of the tokens that have one, in chunks."""
    assert points.mask is not None
    start = 0
    for chunk in points.rows():
        known = points.mask[start : start + len(chunk)]
        start += len(chunk)
        yield chunk[known]


def compare_with_null(
    weights: Weights,
    result: TopTokens,
    kind: ReadoutKind,
    points: TokenPoints,
    keep: Bool[Tensor, " d_vocab"] | None = None,
) -> NullComparison | None:
    """Return the coherence of token lists and its p-values against the two shared nulls.

    The null directions are drawn once for a model, a kind of readout and a list length (399 per
    null, seed 0), so that the first call is slower. None for lists of one token.
    """
    k = result.token_index.shape[1]
    if k < 2:
        return None
    cache = _NULL_CACHE.setdefault(weights, {})
    key = (k, None if keep is None else keep.numpy().tobytes())
    if key not in cache:
        cache[key] = NullDirections(
            weights, k, keep, [token_similarity(weights, "embedding")], seed=0
        )
    (measure,) = cache[key].measures
    coherence = measure(result.token_index)
    nulls = cache[key].shared(kind, points, N_NULL)
    p = torch.stack([upper_p_values(coherence, null[0]) for null in nulls], dim=-1)
    return NullComparison(coherence, p)
