"""Reading never changes the model."""

import pytest
import torch

import tw_lens as tw
from tests.models import BRIDGES, tiny_bridge

PROMPT = "w5 w6 w7 w8"


def snapshot(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def hooks_left(model) -> int:
    module_hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    points = model.hook_dict.values()
    return module_hooks + sum(len(point.fwd_hooks) + len(point.bwd_hooks) for point in points)


@pytest.mark.parametrize("processed", [False, True])
@pytest.mark.parametrize("architecture", BRIDGES)
def test_state_dict_hooks_and_logits_stay(architecture: str, processed: bool):
    model = tiny_bridge(architecture)
    if processed:
        model.enable_compatibility_mode()
    fresh, unread = hooks_left(model), snapshot(model)
    tw.read_weights(model)
    assert hooks_left(model) == fresh  # reading weights neither runs nor hooks the model
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():  # the first run of a bridge installs TransformerLens' own wiring
        logits_before = model(ids)
        model.run_with_cache(ids)
    before, hooks_before, mode = snapshot(model), hooks_left(model), model.training
    assert before.keys() == unread.keys()
    assert all(torch.equal(value, before[name]) for name, value in unread.items())
    weights = tw.read_weights(model)
    assert tw.check(model, PROMPT).passed
    states = tw.read_states(model, PROMPT)
    for layer in range(weights.n_layers):
        for circuit in ("QK", "OV"):
            tw.head_spectrum(weights, layer=layer, circuit=circuit, n=2, k=2)
            tw.head_probe(weights, layer=layer, words=[1, 2], circuit=circuit)
    tw.token_norms(weights)
    tw.embedding_distances(weights)
    tw.trajectory(weights, states)
    after = model.state_dict()
    assert before.keys() == after.keys() and len(before) > 20
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    assert hooks_left(model) == hooks_before
    assert model.training == mode
    assert all(parameter.grad is None for parameter in model.parameters())
    with torch.no_grad():
        assert torch.equal(model(ids), logits_before)


def test_writing_into_canonical_weights_does_not_reach_the_model():
    model = tiny_bridge("llama")
    before = snapshot(model)
    block = tw.read_weights(model).block(1)
    for tensor in (block.A_Q, block.A_K, block.A_V, block.A_O, block.a_Q, block.norm.gain):
        tensor.add_(1.0)
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
