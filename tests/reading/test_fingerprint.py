"""Fingerprints tell models apart; weights refuse the states of another model."""

import copy

import pytest
import torch

import tw_lens as tw
from tests.models import shared_bridge, tiny_bridge
from tw_lens.reading import fingerprint
from tw_lens.reading.fingerprint import sampled_fingerprint


def test_a_fingerprint_tells_models_apart():
    model = tiny_bridge("gpt2")
    before = fingerprint(model)
    assert before == fingerprint(model) == fingerprint(tiny_bridge("gpt2"))
    with torch.no_grad():
        model.original_model.transformer.h[1].mlp.c_fc.weight[40, 3] += 0.01
    assert fingerprint(model) != before


def test_states_of_another_model_of_the_same_sizes_are_refused(tmp_path):
    model = shared_bridge("gpt2")
    weights, states = tw.read_weights(model), tw.read_states(model, [5, 6, 7])
    other = tw.read_states(tw.permute_weights(model), [5, 6, 7])
    tw.trajectory(weights, states)
    with pytest.raises(ValueError, match="the same sizes and are of different parameters"):
        tw.trajectory(weights, other)
    again = [
        tw.load_states(tw.save_states(each, tmp_path / "states.safetensors"))
        for each in (states, other)
    ]
    tw.trajectory(copy.deepcopy(weights), again[0])
    with pytest.raises(ValueError, match="of different parameters"):
        tw.trajectory(weights, again[1])


def test_states_of_a_trained_step_are_refused():
    model = tiny_bridge("llama")
    weights = tw.read_weights(model)
    with torch.no_grad():
        model.original_model.model.layers[1].mlp.up_proj.weight.mul_(1.001)
    with pytest.raises(ValueError, match="read both from one model"):
        tw.trajectory_attribution(weights, tw.read_states(model, [5, 6, 7]))


@pytest.mark.parametrize("kept", ["column", "row"])
def test_a_sample_sees_changes_of_all_rows_or_columns_but_one(kept: str):
    model = tiny_bridge("llama")
    before, states = sampled_fingerprint(model), tw.read_states(model, [5, 6, 7])
    weight = model.original_model.model.layers[0].mlp.up_proj.weight
    with torch.no_grad():
        (weight[:, 1:] if kept == "column" else weight[1:]).mul_(-3)
    assert sampled_fingerprint(model) != before
    with pytest.raises(ValueError, match="read both from one model"):
        tw.attention_pattern(tw.read_weights(model), states, layer=1)


def test_a_fingerprint_sees_the_order_of_rows():
    model = tiny_bridge("gpt2")
    before = fingerprint(model)
    with torch.no_grad():
        W_E = model.original_model.transformer.wte.weight
        W_E[2:] = W_E[2:].flip(0).clone()
    assert fingerprint(model) != before


@pytest.mark.parametrize("digest", [fingerprint, sampled_fingerprint])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_digests_of_any_shape_and_stride(digest, dtype):
    def of(values: torch.Tensor) -> str:
        module = torch.nn.Module()
        module.p = torch.nn.Parameter(values)
        return digest(module)

    for shape in ((), (1,), (3,), (2, 3), (5, 1, 2)):
        zeros, ones = torch.zeros(shape, dtype=dtype), torch.ones(shape, dtype=dtype)
        assert of(ones) != of(zeros)
    # A row of one entry keeps the stride of the matrix that it was taken from.
    matrix = torch.arange(12, dtype=dtype).reshape(4, 3)
    for part in (matrix[:1, :1], matrix[:, :1], matrix.T, matrix[::2]):
        assert of(part) == of(part.clone(memory_format=torch.contiguous_format))
