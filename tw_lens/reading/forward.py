"""A pass of the model with the hooks that reading needs, for prompts of one length at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tw_lens.errors import UnsupportedModelError
from tw_lens.reading.model_access import architecture_of, attention_of, name_of
from tw_lens.reading.offloaded import device_of


def residual_hooks(n_layers: int) -> list[str]:
    """The hooks that hold the stream: every block's input and the last one's output."""
    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(n_layers)]
    return [*names, f"blocks.{n_layers - 1}.hook_resid_post"]


@contextmanager
def _unhooked_attention(model: Any) -> Iterator[dict[str, Tensor]]:
    """What attention adds in blocks whose attention TransformerLens shows as a bare module."""
    outputs: dict[str, Tensor] = {}
    handles = []
    for layer, block in enumerate(model.blocks):
        attention = attention_of(block)
        if attention is not None and attention is not getattr(block, "attn", None):
            name = f"blocks.{layer}.hook_attn_out"

            def keep(_module: Any, _given: Any, out: Any, name: str = name) -> None:
                outputs[name] = out[0] if isinstance(out, tuple) else out

            handles.append(attention.register_forward_hook(keep))
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def run(
    model: Any, tokens: Tensor, names: list[str], *, also: list[str] | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """One pass over one prompt: its logits `[position, d_vocab]` and the hooks asked for.

    Args:
        model: the model.
        tokens: one prompt's ids.
        names: hooks that must be there.
        also: hooks that are kept where they are.

    Raises:
        UnsupportedModelError: a hook does not exist.
    """
    logits, held = run_batch(model, tokens[None], names, also=also)
    return logits[0], {name: value[0] for name, value in held.items()}


def run_batch(
    model: Any, tokens: Tensor, names: list[str], *, also: list[str] | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """As `run`, for prompts of one length: everything has a first axis, the prompt."""
    _require_no_dropout(model)
    wanted = set(names) | set(also or [])
    tokens = tokens.to(device_of(model))
    with _unhooked_attention(model) as outputs, torch.no_grad():
        logits, cache = model.run_with_cache(tokens, names_filter=lambda name: name in wanted)
    held = {name: cache[name].float().cpu() for name in wanted if name in cache}
    held |= {name: out.float().cpu() for name, out in outputs.items() if name in wanted}
    last = names[-1]
    if last not in held and getattr(model, "ln_final", None) is None:  # GPT: the end is read as is
        with torch.no_grad():
            _, cache = model.run_with_cache(
                tokens, names_filter=lambda name: name == "unembed.hook_in"
            )
        held[last] = cache["unembed.hook_in"].float().cpu()
    missing = [name for name in names if name not in held]
    if missing:
        raise UnsupportedModelError(
            architecture_of(model),
            f"it has no hook {missing[0]}",
            "What does not need the stream (weights, spectra, probes) can still be computed.",
        )
    return logits.float().cpu(), held


def _require_no_dropout(model: Any) -> None:
    """Refuse a model whose every pass is another one.

    Raises:
        ValueError: dropout is at work.
    """
    if any(isinstance(m, nn.Dropout) and m.training and m.p > 0 for m in model.modules()):
        raise ValueError(
            f"{name_of(model)} is in training mode and drops values at random: call model.eval() "
            "first, so that every pass gives the same."
        )


def read_residuals(model: Any, tokens: Tensor) -> Tensor:
    """The streams `[prompt, layers_and_end, position, d_model]` of prompts of one length.

    No prompt is padded, so that no mask and no position can go wrong on either side.
    """
    names = residual_hooks(len(model.blocks))
    _, held = run_batch(model, tokens, names)
    return torch.stack([held[name] for name in names], dim=1)


def read_resid_pre(model: Any, tokens: Tensor, layer: int) -> Tensor:
    """The stream `[prompt, position, d_model]` that enters a layer, of prompts of one length."""
    name = residual_hooks(len(model.blocks))[layer]
    return run_batch(model, tokens, [name])[1][name]


def read_resid_pre_of_layers(model: Any, tokens: Tensor, layers: Sequence[int]) -> Tensor:
    """The residual stream `[layer, prompt, position, d_model]` that enters each of some layers."""
    hooks = residual_hooks(len(model.blocks))
    names = [hooks[layer] for layer in layers]
    _, cache = run_batch(model, tokens, names)
    return torch.stack([cache[name] for name in names])
