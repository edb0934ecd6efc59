"""Example search: the highest positions of many prompts on a direction and on random pairs."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tw_lens.analyses.null_directions import SIDES
from tw_lens.canonical import TokenPoints, Weights
from tw_lens.studies.checkpoint import PartialResults
from tw_lens.studies.direction_activations import DirectionActivations
from tw_lens.studies.direction_examples_result import Example
from tw_lens.studies.direction_pairs import DirectionPairs, token_ranks
from tw_lens.studies.top_activations import (
    TopActivations,
    from_tensors,
    local_maxima,
    push_local_maxima,
    to_tensors,
)


class ExampleSearch:
    """The top activations of every pair on both sides, and the examples of the first pair.

    It grows prompt by prompt (`add`), and can be saved and restored (`partial_results`, `restore`).
    """

    def __init__(
        self,
        weights: Weights,
        layer: int,
        pairs: DirectionPairs,
        *,
        n_examples: int,
        context: int,
        first_position: int,
    ) -> None:
        self._weights, self._layer, self._pairs = weights, layer, pairs
        self._block = weights.block(layer)
        self._context, self._first = context, first_position
        self._top = [[TopActivations(n_examples) for _ in pairs.left] for _ in SIDES]
        self._examples: list[dict[tuple[int, int], Example]] = [{} for _ in SIDES]

    def add(
        self,
        x: Float[Tensor, "position d_model"],
        tokens: Int[Tensor, " position"],
        number: int,
    ) -> None:
        """Search one prompt, given the residual stream that enters the layer."""
        activations = DirectionActivations(self._block, x, self._pairs, self._first)
        for side, top in enumerate(self._top):
            projections = activations.projections[side]
            maxima = local_maxima(projections, reach=self._context, first_position=self._first)
            labels = _next_tokens(tokens) if self._pairs.writes(side) else tokens
            push_local_maxima(top, projections, maxima, tokens, labels, prompt=number)
            known, locations = self._examples[side], [a.location for a in top[0].activations()]
            self._examples[side] = {
                location: known.get(location)
                or self._example(activations, side, location[1], tokens, number)
                for location in locations
            }

    def _example(
        self,
        activations: DirectionActivations,
        side: int,
        position: int,
        tokens: Int[Tensor, " position"],
        number: int,
    ) -> Example:
        """Return a position with its context and its counterpart (the token rank comes later)."""
        values = activations.projections[side][:, 0]
        strings = self._weights.tokens.strings(tokens.tolist())
        counterpart = activations.counterpart(side, position)
        around = slice(max(0, position - self._context), position + self._context + 1)
        length = float("nan") if self._pairs.writes(side) else float(activations.y[position].norm())
        other_side = activations.projections[1 - side][:, 0]
        return Example(
            side=SIDES[side],
            prompt=number,
            position=position,
            token_index=int(tokens[position]),
            token_string=strings[position],
            projection=float(values[position]),
            cosine=float(values[position]) / length,
            token_rank=float("nan"),
            before=tuple(strings[around.start : position]),
            after=tuple(strings[position + 1 : around.stop]),
            values=tuple(values[around].tolist()),
            counterpart_position=counterpart.position,
            counterpart_token=strings[counterpart.position],
            counterpart_projection=float(other_side[counterpart.position]),
            contribution=counterpart.contribution,
            attention=counterpart.attention,
        )

    def examples(
        self, points: TokenPoints
    ) -> tuple[
        tuple[Example, ...], tuple[Float[Tensor, "pairs left"], Float[Tensor, "pairs right"]]
    ]:
        """Return the examples with their token ranks, and the token ranks of the random pairs."""
        left, right = (
            token_ranks(self._weights, points, self._pairs, side, top)
            for side, top in enumerate(self._top)
        )
        ranked = tuple(
            example._replace(token_rank=float(rank))
            for examples, ranks in zip(self._examples, (left, right), strict=True)
            for example, rank in zip(examples.values(), ranks[0], strict=False)
        )
        return ranked, (left[1:], right[1:])

    def partial_results(self) -> PartialResults:
        """Return the state of the search for a checkpoint."""
        lists = [one for top in self._top for one in top]
        examples = [[list(example) for example in side.values()] for side in self._examples]
        return PartialResults(to_tensors(lists), {"examples": examples})

    def restore(self, results: PartialResults) -> None:
        """Continue from the state in a checkpoint."""
        from_tensors(results.tensors, [one for top in self._top for one in top])
        for side, rows in enumerate(results.values["examples"]):
            examples = map(_example_from_json, rows)
            self._examples[side] = {example.location: example for example in examples}


def _next_tokens(tokens: Int[Tensor, " position"]) -> Int[Tensor, " position"]:
    """Return the token after every position, -1 at the end."""
    return torch.cat([tokens[1:], tokens.new_tensor([-1])])


def _example_from_json(row: list[Any]) -> Example:
    """Return an example whose tuples JSON turned into lists."""
    fields: list[Any] = [tuple(value) if isinstance(value, list) else value for value in row]
    return Example(*fields)
