"""Hooks that a user has left on the model: results are the same, or the hooks are named."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

import tw_lens as tw
from tests.models import golden_bridge, shared_bridge, tiny_bridge
from tests.zoo import zoo_bridge
from tw_lens.reading.user_hooks import has_hooks, hooked_points

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


MODULES: dict[str, Any] = {
    "blocks.1.attn": lambda model: model.blocks[1].attn,
    "blocks.0": lambda model: model.blocks[0].original_component,
    "blocks.1.mlp": lambda model: model.blocks[1].mlp,
    "blocks.0.ln2": lambda model: model.blocks[0].ln2.original_component,
    "blocks.0.ln2.hook_in": lambda model: model.blocks[0].hook_resid_mid,
    "blocks.1.attn.q": lambda model: model.blocks[1].attn.q.original_component,
}
WEIGHTS = {
    "read_weights": tw.read_weights,
    "permute_weights": lambda model: tw.read_weights(tw.permute_weights(model)),
}


def first_of(out: Any) -> torch.Tensor:
    return out[0] if isinstance(out, tuple) else out


def halve_output(_module: Any, _inputs: Any, out: Any) -> Any:
    return (0.5 * out[0], *out[1:]) if isinstance(out, tuple) else 0.5 * out


def halve_input(_module: Any, inputs: Any, options: Any) -> Any:
    name = next(iter(options), None)
    changed = {name: 0.5 * options[name]} if not inputs else {}
    return tuple(0.5 * value for value in inputs[:1]) + inputs[1:], {**options, **changed}


@pytest.mark.parametrize(
    ("name", "call"),
    [
        *itertools.product(MODULES, ("read_states", "read_weights")),
        *itertools.product(["blocks.1.attn"], [*RUNS, "permute_weights"][1:]),
    ],
)
def test_plain_hooks_that_change_activations_are_named(name: str, call: str):
    model = tiny_bridge("llama")
    module = MODULES[name](model)
    sentence = rf"has hooks that change its activations \({name}.*handle"
    for handle in (
        module.register_forward_hook(halve_output),
        module.register_forward_pre_hook(halve_input, with_kwargs=True),
    ):
        with pytest.raises(ValueError, match=sentence):
            (RUNS | WEIGHTS)[call](model)
        assert handle.id in {**module._forward_hooks, **module._forward_pre_hooks}
        handle.remove()
    (RUNS | WEIGHTS)[call](model)


@pytest.mark.parametrize("name", [*MODULES][:-1])  # reading calls projections
def test_plain_hooks_that_record_are_called_and_change_nothing(name: str):
    model, seen = tiny_bridge("llama"), []
    states, expected = tw.read_states(model, IDS), tw.read_weights(model)
    handles = [
        MODULES[name](model).register_forward_hook(lambda _m, _i, out: seen.append(first_of(out)))
        for _ in range(2)
    ]
    assert torch.equal(tw.read_states(model, IDS).stream, states.stream)
    assert [out.shape[1] for out in seen] == [len(IDS)] * 2
    weights = tw.read_weights(model)
    assert torch.equal(weights.block(1).A_Q, expected.block(1).A_Q)
    assert len(seen) == 4  # once for each in the short run that shows what they do
    assert tw.check(model, IDS).passed
    order = [key for key in MODULES[name](model)._forward_hooks if key in {h.id for h in handles}]
    assert order == [handle.id for handle in handles]


def test_hooks_that_change_late_tokens_only_are_named_by_the_run():
    model = tiny_bridge("llama")

    def last_of_many(_module: Any, _inputs: Any, out: Any) -> Any:
        late = torch.arange(out[0].shape[1])[:, None] >= 20
        return (torch.where(late, 0, out[0]), *out[1:])

    model.blocks[1].attn.register_forward_hook(last_of_many)
    assert tw.check(model, IDS).passed
    with pytest.raises(ValueError, match=r"change its activations \(blocks.1.attn\)"):
        tw.check(model, list(range(5, 30)))


def test_a_cache_of_a_run_with_a_plain_hook_is_read():
    model = tiny_bridge("llama")
    handle = model.blocks[1].attn.register_forward_hook(halve_output)
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor([IDS]))
    states = tw.read_states(model, cache, tokens=IDS)
    assert torch.equal(states.stream[2], cache["blocks.2.hook_resid_pre"][0])
    handle.remove()
    assert not torch.equal(states.stream, tw.read_states(model, IDS).stream)


def test_hooks_of_the_models_own_packages_are_a_part_of_it():
    """Granite's bridge records its scaled contributions by hooks; transformers records outputs."""
    model = zoo_bridge("GraniteForCausalLM")
    assert tw.check(model, IDS).passed
    model.original_model(torch.tensor([IDS]), output_attentions=True, output_hidden_states=True)
    assert any(module._forward_hooks for module in model.modules())
    assert not has_hooks(model)


def test_threads_that_run_one_model():
    model = golden_bridge()
    prompts = [[*range(start, start + 6)] for start in range(5, 29)]
    expected = [tw.read_states(model, prompt).stream for prompt in prompts]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda prompt: tw.read_states(model, prompt).stream, prompts))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_threads_that_read_one_model_leave_its_hooks():
    model = tiny_bridge("gpt2")
    model.add_hook("blocks.1.attn.hook_q", lambda value, hook: value)
    count = len(hooked_points(model)["blocks.1.attn.hook_q"].fwd_hooks)
    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(lambda: tw.read_weights(model).block(1)) for _ in range(40)]:
            future.result()
    assert len(hooked_points(model)["blocks.1.attn.hook_q"].fwd_hooks) == count
