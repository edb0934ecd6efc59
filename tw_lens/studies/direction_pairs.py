"""A head's direction with its words, and random pairs of directions beside it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses.head_directions import head_svd
from tw_lens.analyses.null_directions import OV_OUTPUT, SIDES
from tw_lens.canonical import Block, Weights
from tw_lens.geometry import random_directions_in_span, ranks_of, top_tokens_both_signs
from tw_lens.results.arguments import Circuit
from tw_lens.studies.top_activations import TopActivations


class DirectionPairs(NamedTuple):
    """Pairs of directions of a head's circuit: the pair asked about first, with its value."""

    head: int
    circuit: Circuit
    left: Float[Tensor, "pairs d_model"]
    right: Float[Tensor, "pairs d_model"]
    S: float

    def writes(self, side: int) -> bool:
        """Whether a side (0: left, 1: right) is what is written."""
        return (self.circuit, SIDES[side]) == OV_OUTPUT


def require_head(block: Block, head: int) -> int:
    """The head that a study is about.

    Raises:
        IndexError: it does not exist.
        TypeError: no head is named, or several.
    """
    if head is None:
        raise TypeError(f"head must be an int, 0 to {block.n_heads - 1}; got None.")
    return block.heads(head)[0]


def head_directions(
    weights: Weights, layer: int, head: int, circuit: Circuit, direction: int, *, n: int, seed: int
) -> DirectionPairs:
    """A direction and, behind it, n random pairs in the head's subspaces, all signed by the rule.

    Raises:
        IndexError: the layer, the head or the direction does not exist.
        TypeError: one of them is no number.
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
    generator = torch.Generator().manual_seed(seed)
    left, right = (
        torch.cat([some[0, :, [direction]].T, random_directions_in_span(some, n, generator)[0]])
        for some in (svd.left, svd.right)
    )
    written = circuit == "OV"
    rows = weights.readout.directions() if written else weights.vocabulary.on_sphere(block.norm)
    upright = top_tokens_both_signs(right, rows, 1, relative=written).positive
    sign = torch.where(upright, 1.0, -1.0)[:, None]
    return DirectionPairs(head, circuit, left * sign, right * sign, float(svd.S[0, direction]))


def token_ranks(
    weights: Weights, layer: int, pairs: DirectionPairs, side: int, highest: list[TopActivations]
) -> Float[Tensor, "pairs k"]:
    """How many words score higher on a pair's side than what its places say (NaN: nothing said)."""
    most = max(1, *(len(kept.places()) for kept in highest))
    said = torch.full((len(highest), most), -1)
    for i, kept in enumerate(highest):
        for j, place in enumerate(kept.places()):
            said[i, j] = place.token
    written = pairs.writes(side)
    norm = weights.block(layer).norm
    rows = weights.readout.directions() if written else weights.vocabulary.on_sphere(norm)
    ranks = ranks_of((pairs.left, pairs.right)[side], rows, said.clamp_min(0))
    return ranks.float().masked_fill(said < 0, torch.nan)
