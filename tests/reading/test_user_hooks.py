"""Hooks that a user has left on the model: results are the same, or the hooks are named."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

import tw_lens as tw
from tests.models import golden_bridge, shared_bridge, tiny_bridge

IDS = [5, 6, 7, 8]
POINTS = ("blocks.1.hook_resid_pre", "blocks.0.attn.hook_pattern", "embed.hook_out")
RUNS = {
    "read_states": lambda model: tw.read_states(model, IDS),
    "check": lambda model: tw.check(model, IDS),
    "trajectory_statistics": lambda model: tw.trajectory_statistics(model, [IDS], controls=[]),
    "direction_ablation": lambda model: tw.direction_ablation(model, [IDS], layer=1, head=0),
    "direction_examples": lambda model: tw.direction_examples(model, [IDS], layer=1, head=0),
    "layer_vocabulary": lambda model: tw.layer_vocabulary(model, prompts=[IDS], min_count=1),
}


def halve(value: torch.Tensor, hook: Any) -> torch.Tensor:
    return value * 0.5


@pytest.mark.parametrize("point", POINTS)
def test_hooks_that_record_change_nothing_and_stay(point: str):
    model, seen = tiny_bridge("llama"), []
    stream = tw.read_states(model, IDS).stream
    model.add_hook(point, lambda value, hook: seen.append(hook.name))
    states = tw.read_states(model, IDS)
    assert torch.equal(states.stream, stream) and len(seen) == 1
    assert tw.check(model, IDS).passed and len(seen) == 2
    assert len(model.hook_dict[point].fwd_hooks) == len(model.hook_dict[point]._forward_hooks) == 1


@pytest.mark.parametrize("call", RUNS)
@pytest.mark.parametrize("point", POINTS[:2])
def test_hooks_that_change_activations_are_named(point: str, call: str):
    model = tiny_bridge("llama")
    sentence = rf"tiny-llama has hooks that change its activations \({point}\).*reset_hooks"
    with model.hooks(fwd_hooks=[(point, halve)]), pytest.raises(ValueError, match=sentence):
        RUNS[call](model)
    RUNS[call](model)
    model.add_hook(point, halve)
    with pytest.raises(ValueError, match=sentence):
        RUNS[call](model)
    assert len(model.hook_dict[point]._forward_hooks) == 1
    model.reset_hooks()
    RUNS[call](model)


@pytest.mark.parametrize(
    "point", [*POINTS, "blocks.0.ln1.hook_normalized", "blocks.1.attn.q.hook_out"]
)
@pytest.mark.parametrize("architecture", ["llama", "gemma", "gpt2"])
def test_weights_are_read_without_hooks(architecture: str, point: str):
    expected, model = tw.read_weights(shared_bridge(architecture)), tiny_bridge(architecture)
    model.add_hook(point, halve)
    weights = tw.read_weights(model)
    assert weights.vocabulary.scale == expected.vocabulary.scale
    for layer in range(weights.n_layers):
        assert torch.equal(weights.block(layer).A_Q, expected.block(layer).A_Q)
    assert len(model.hook_dict[point]._forward_hooks) == 1


def test_a_cache_of_a_hooked_run_is_read():
    model, point = tiny_bridge("llama"), "blocks.2.hook_resid_pre"
    with torch.no_grad(), model.hooks(fwd_hooks=[(point, halve)]):
        _, cache = model.run_with_cache(torch.tensor([IDS]))
        states = tw.read_states(model, cache, tokens=IDS)
    assert torch.equal(states.stream[2], cache[point][0])
    assert not torch.equal(states.stream, tw.read_states(model, IDS).stream)


def test_threads_that_run_one_model():
    model = golden_bridge()
    prompts = [[*range(start, start + 6)] for start in range(5, 29)]
    expected = [tw.read_states(model, prompt).stream for prompt in prompts]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda prompt: tw.read_states(model, prompt).stream, prompts))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
