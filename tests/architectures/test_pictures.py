"""Text stacks of models with pictures: exact without the packages that pictures need."""

from dataclasses import replace

import pytest
import torch

import tw_lens as tw
from tests.architectures.support import EXACT, PROMPT
from tests.zoo import zoo_bridge
from tw_lens.reading.certificate import certify
from tw_lens.reading.positions import _rotary

STACKS = [
    "Emu3ForConditionalGeneration",
    "Glm4vForConditionalGeneration",
    "Qwen2_5_VLForConditionalGeneration",
    "Qwen3_5ForConditionalGeneration",
    "Qwen3_5MoeForConditionalGeneration",
    "Qwen3VLForConditionalGeneration",
    "Qwen3VLMoeForConditionalGeneration",
]


@pytest.mark.parametrize("architecture", STACKS)
def test_its_text_stack_is_exact(architecture: str):
    assert tw.check(zoo_bridge(architecture), PROMPT).max_rel_error < EXACT


def test_a_rotation_of_halves_fails_where_adjacent_dimensions_are_rotated():
    """GLM-4V rotates text by adjacent dimensions and pictures by halves, in one file."""
    model = zoo_bridge("Glm4vForConditionalGeneration")
    weights = tw.read_weights(model)

    def mutated(layer: int):
        block = weights.block(layer)
        assert block.attention_scores.rotary.interleaved
        scores = block.attention_scores
        halves = replace(scores, rotary=replace(scores.rotary, interleaved=False))
        return replace(block, attention_scores=halves)

    assert certify(model, replace(weights, read_block=mutated), PROMPT).max_rel_error > 1e-3


@pytest.mark.parametrize("doubled", [True, False])
def test_tables_tell_which_dimensions_are_rotated_together(doubled: bool):
    angles = torch.arange(5)[:, None] * torch.tensor([1.0, 0.1, 0.01])
    angles = angles.repeat_interleave(2, dim=1) if doubled else torch.cat([angles, angles], dim=1)
    found = _rotary(lambda n: (angles[:n].cos(), angles[:n].sin()), adjacent=False)
    assert found.interleaved == doubled and found.tables(5)[0].shape == (5, 3)
