"""Forward passes with the hooks that reading needs, for prompts of one length at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from tw_lens.devices import CPU
from tw_lens.errors import UnsupportedModelError
from tw_lens.reading.layer import HostLayer, host_layers
from tw_lens.reading.mlp_parts import Point, host_mlp
from tw_lens.reading.model_access import architecture_of, name_of
from tw_lens.reading.model_parts import model_parts, residual_hooks
from tw_lens.reading.offloaded import device_of
from tw_lens.reading.user_hooks import has_hooks, require_same_run, without_hooks

UNEMBEDDED = "unembed.hook_in"
HOST_PACKAGES = ("transformer-lens", "transformers")
# What a call raises whose other side has renamed an attribute, an argument or an entry.
MISFITS = (AttributeError, TypeError, KeyError, ImportError, NotImplementedError)
MISCOUNTED = (
    "values to unpack"  # a call that returns more or fewer values than the other side takes
)
ONE_RUN = threading.RLock()  # hooks of two threads on one model would record each other's runs


@contextmanager
def _unhooked_parts(model: Any) -> Iterator[dict[str, Tensor]]:
    """Record what attention and MLPs compute where no hook of TransformerLens shows it."""
    values: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(_recorder(values, name, point))
        for layer in host_layers(model)
        for name, point in _unhooked_points(layer).items()
        for module in point.modules
    ]
    try:
        yield values
    finally:
        for handle in handles:
            handle.remove()


def _unhooked_points(layer: HostLayer) -> dict[str, Point]:
    """Return the values of a layer that no hook shows, by the hooks of other models."""
    mlp = host_mlp(layer)
    found = {} if mlp is None else mlp.unhooked_points(layer)
    if layer.has_unhooked_attention:
        found[f"{layer.name}.hook_attn_out"] = Point((layer.attention,))
    return found


def _recorder(values: dict[str, Tensor], name: str, point: Point) -> Any:
    """Return a forward hook that adds a module's output, or its input, to a value."""

    def record(_module: Any, inputs: Any, out: Any) -> None:
        value = inputs if point.is_input else out
        value = point.factor * (value[0] if isinstance(value, tuple) else value)
        values[name] = value + values[name] if name in values else value

    return record


def run(
    model: Any, tokens: Tensor, names: list[str], *, also: list[str] | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run one prompt; return its logits `[position, d_vocab]` and the values at the hooks.

    Args:
        model: the model.
        tokens: one prompt's ids.
        names: hooks that must exist.
        also: hooks that are returned where they exist.

    Raises:
        UnsupportedModelError: a hook of `names` does not exist.
        ValueError: dropout is active, or hooks on the model change its activations.
    """
    logits, values = run_batch(model, tokens[None], names, also=also)
    # A router's hooks have one axis for prompts and positions.
    return logits[0], {n: value[0] if len(value) == 1 else value for n, value in values.items()}


def run_batch(
    model: Any, tokens: Tensor, names: list[str], *, also: list[str] | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run prompts of one length (see `run`); the first axis of every result is the prompt."""
    requested = set(names) | set(also or [])
    with ONE_RUN, CPU:  # what a model makes without naming a device is moved by itself
        logits, values = _run_once(model, tokens, names, requested)
        if has_hooks(model):
            with without_hooks(model):
                own_logits, own = _run_once(model, tokens, names, requested)
            require_same_run(model, values | {"logits": logits}, own | {"logits": own_logits})
    missing = [name for name in names if name not in values]
    if missing:
        raise UnsupportedModelError(
            architecture_of(model),
            f"it has no hook {missing[0]}",
            "Analyses of the weights alone (spectra, probes) do not need it.",
        )
    return logits, values


def _run_once(
    model: Any, tokens: Tensor, names: list[str], requested: set[str]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the logits and the values at the hooks, float32 on the CPU."""
    device = device_of(model)
    tokens = tokens.to(device)
    with _unhooked_parts(model) as outputs, _without_randomness(model, device):
        logits, cache = _run_with_cache(model, tokens, requested)
    values = {name: cache[name].float().cpu() for name in requested if name in cache}
    values |= {name: out.float().cpu() for name, out in outputs.items() if name in requested}
    last = names[-1]
    if last not in values and model_parts(model).final_norm is None:
        # GPT: the last state goes to the unembedding unchanged.
        _, cache = _run_with_cache(model, tokens, {UNEMBEDDED})
        values[last] = cache[UNEMBEDDED].float().cpu()
    return logits.float().cpu(), values


def _run_with_cache(model: Any, tokens: Tensor, names: set[str]) -> tuple[Tensor, Any]:
    """Run the model with hooks on the names.

    Raises:
        UnsupportedModelError: TransformerLens and transformers do not fit each other on this model.
    """
    try:
        with torch.no_grad():
            return model.run_with_cache(tokens, names_filter=lambda name: name in names)
    except (*MISFITS, ValueError) as error:
        if isinstance(error, ValueError) and MISCOUNTED not in str(error):
            raise
        versions = ", ".join(f"{name} {version(name)}" for name in HOST_PACKAGES)
        raise UnsupportedModelError(
            architecture_of(model),
            f"it does not run with {versions} ({type(error).__name__}: {error})",
            "Analyses of the weights alone (spectra, probes) do not run it; to run it, install "
            "the versions that the documentation lists as tried.",
        ) from error


@contextmanager
def _without_randomness(model: Any, device: torch.device) -> Iterator[None]:
    """Reject a pass that draws random numbers, and leave the random states as they were.

    What the pass does decides, not its modules: dropout may be a function.

    Raises:
        ValueError: the pass drew random numbers (dropout of a model in training mode).
    """
    on_cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=on_cuda):
        before = _random_states(on_cuda)
        yield
        drew = any(not a.equal(b) for a, b in zip(before, _random_states(on_cuda), strict=True))
    if drew and any(module.training for module in model.modules()):
        raise ValueError(
            f"{name_of(model)} is in training mode, where dropout makes every pass different; "
            "call model.eval() first."
        )
    if drew:
        raise ValueError(
            f"{name_of(model)} draws random numbers when it runs, so every pass is different; "
            "switch its noise off first."
        )


def _random_states(on_cuda: list[torch.device]) -> list[Tensor]:
    return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, on_cuda)]


def read_residuals(model: Any, tokens: Tensor) -> Tensor:
    """Return the residual streams `[prompt, layers_and_end, position, d_model]` of prompts.

    All prompts have one length and none is padded, so neither masks nor positions need care.
    """
    names = residual_hooks(model)
    _, values = run_batch(model, tokens, names)
    return torch.stack([values[name] for name in names], dim=1)


def read_resid_pre(model: Any, tokens: Tensor, layer: int) -> Tensor:
    """Return the input `[prompt, position, d_model]` of a layer, for prompts of one length."""
    name = residual_hooks(model)[layer]
    return run_batch(model, tokens, [name])[1][name]


def read_resid_pre_of_layers(model: Any, tokens: Tensor, layers: Sequence[int]) -> Tensor:
    """The residual stream `[layer, prompt, position, d_model]` that enters each of some layers."""
    hooks = residual_hooks(model)
    names = [hooks[layer] for layer in layers]
    _, cache = run_batch(model, tokens, names)
    return torch.stack([cache[name] for name in names])
