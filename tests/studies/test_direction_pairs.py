"""Direction pairs: the sign of a pair is that of the rule, for random pairs too."""

from dataclasses import replace

import pytest
import torch

import tw_lens as tw
from tests.models import shared_bridge
from tw_lens.analyses.conventions import EXACT
from tw_lens.studies.direction_pairs import head_directions


@pytest.mark.parametrize("circuit", ["QK", "OV"])
def test_a_vector_added_to_all_tokens_turns_no_written_direction(circuit):
    """Words that are read are points, and keep their mean; words that are written are relative."""
    weights = tw.read_weights(shared_bridge("gpt2"))
    readout = weights.readout
    shift = 5 * torch.randn(weights.d_model, 1, generator=torch.Generator().manual_seed(0))
    moved = replace(weights, readout=replace(readout, W_U=readout.W_U.detach() + shift))
    pairs = []
    for one in (weights, moved):
        points = EXACT.points(one, one.block(1))
        pairs.append(head_directions(one, points, 1, 3, circuit, 0, n=40, seed=0))
    assert torch.equal(pairs[0].left, pairs[1].left)
    assert torch.equal(pairs[0].right, pairs[1].right)
    rows = weights.readout.directions() if circuit == "OV" else points.rows
    scores = pairs[0].right @ torch.cat(list(rows())).T
    if circuit == "OV":
        scores = scores - scores.mean(-1, keepdim=True)
    assert (scores.amax(-1) >= -scores.amin(-1) - 1e-5).all()
