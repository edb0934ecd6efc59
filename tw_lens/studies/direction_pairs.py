"""Direction pairs: a head's singular pair, random pairs as its null, and token ranks on both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses.head_directions import head_svd
from tw_lens.analyses.null_directions import OV_OUTPUT, SIDES
from tw_lens.argument_kinds import require_int
from tw_lens.canonical import Block, TokenPoints, Weights
from tw_lens.geometry import random_directions_in_span, ranks_of, top_tokens_both_signs
from tw_lens.results.arguments import Circuit
from tw_lens.studies.top_activations import TopActivations


class DirectionPairs(NamedTuple):
    """Pairs (left, right) of directions of a head's circuit: a singular pair, then random ones.

    `S` is the singular value of the first pair.
    """

    head: int
    circuit: Circuit
    left: Float[Tensor, "pairs d_model"]
    right: Float[Tensor, "pairs d_model"]
    S: float

    def writes(self, side: int) -> bool:
        """Return whether a side (0: left, 1: right) is the output of the head."""
        return (self.circuit, SIDES[side]) == OV_OUTPUT


def require_head(block: Block, head: int) -> int:
    """Return the head as an index of the block.

    Raises:
        IndexError: the head does not exist.
        TypeError: the head is not an int.
    """
    return block.heads(require_int("head", head))[0]


def head_directions(
    weights: Weights,
    points: TokenPoints,
    layer: int,
    head: int,
    circuit: Circuit,
    direction: int,
    *,
    n: int,
    seed: int,
) -> DirectionPairs:
    """Return a singular pair followed by n random pairs in the head's subspaces.

    The sign of every pair is chosen as `head_spectrum` chooses it.

    Raises:
        IndexError: the layer, the head or the direction does not exist.
        TypeError: one of them is not an int.
        ValueError: the direction has singular value 0.
    """
    block = weights.block(layer)
    head = require_head(block, head)
    svd = head_svd(block, [head], circuit)
    rank = svd.S.shape[-1]
    if not 0 <= direction < rank:
        raise IndexError(
            f"direction {direction} does not exist: W_{circuit} of L{layer}H{head} has directions "
            f"0 to {rank - 1}."
        )
    if svd.vanishing[0, direction]:
        raise ValueError(
            f"direction {direction} of W_{circuit} of L{layer}H{head} has singular value 0, which "
            "leaves its vectors arbitrary; choose a direction that the head has."
        )
    generator = torch.Generator().manual_seed(seed)
    left, right = (
        torch.cat(
            [vectors[0, :, [direction]].T, random_directions_in_span(vectors, n, generator)[0]]
        )
        for vectors in (svd.left, svd.right)
    )
    writes = circuit == "OV"
    rows = weights.token_readout.directions() if writes else points.rows
    positive = top_tokens_both_signs(right, rows, 1, relative=writes).positive
    sign = torch.where(positive, 1.0, -1.0)[:, None]
    return DirectionPairs(head, circuit, left * sign, right * sign, float(svd.S[0, direction]))


def token_ranks(
    weights: Weights,
    points: TokenPoints,
    pairs: DirectionPairs,
    side: int,
    top: Sequence[TopActivations],
) -> Float[Tensor, "pairs k"]:
    """Return the vocabulary rank of every activation's token on its pair's side (NaN: no token).

    The rank is the number of tokens of the whole vocabulary that score higher.
    """
    lists = [one.activations() for one in top]
    tokens = torch.full((len(lists), max(1, *map(len, lists))), -1)
    for i, activations in enumerate(lists):
        for j, activation in enumerate(activations):
            tokens[i, j] = activation.token
    rows = weights.readout.directions() if pairs.writes(side) else points.rows
    ranks = ranks_of((pairs.left, pairs.right)[side], rows, tokens.clamp_min(0))
    return ranks.float().masked_fill(tokens < 0, torch.nan)
