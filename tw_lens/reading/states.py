"""Prompt to states: the residual stream, from a run of the model or from a cache at hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tw_lens.canonical import States
from tw_lens.reading.forward import residual_hooks, run
from tw_lens.reading.model_access import POST_NORM, architecture_of, name_of, original_module
from tw_lens.reading.offloaded import materialised
from tw_lens.reading.prompts import tokenize_prompt
from tw_lens.tokens import TokenStrings

EMBEDDED_TOKENS = "embed.hook_in"


def write_hooks(n_layers: int) -> list[str]:
    """The hooks that hold what attention and the MLP added, where a block has them."""
    per_block = ("hook_attn_out", "hook_mlp_out", "hook_resid_mid", "attn.o.hook_out")
    return [f"blocks.{layer}.{hook}" for layer in range(n_layers) for hook in per_block]


def attn_and_mlp_out(
    held: dict[str, Tensor], model: Any, layer: int, before: Tensor, after: Tensor
) -> tuple[Tensor, Tensor]:
    """What attention (or what stands in its place) and the MLP added in one block.

    Where a hook is missing, its part is what the other leaves of the step.
    """
    added, rest, middle = (
        held.get(f"blocks.{layer}.{hook}")
        for hook in ("hook_attn_out", "hook_mlp_out", "hook_resid_mid")
    )
    block = original_module(model.blocks[layer])
    if architecture_of(model) in POST_NORM:  # the hook holds the stream normalised after it
        return held[f"blocks.{layer}.attn.o.hook_out"], rest
    if added is not None and hasattr(block, "attn_out_multiplier"):
        # Falcon-H1 multiplies behind the hook, and a second mixer adds to the same step.
        return (added := added * block.attn_out_multiplier), after - before - added
    if added is not None and hasattr(block, "per_layer_input_gate"):
        # Gemma 4 adds a third part, and multiplies the sum.
        return added, after / float(block.layer_scalar) - before - added
    if added is None:
        added = after - before - rest if rest is not None else None
    if added is None and middle is not None:
        added = middle - before
    if added is None:
        added = after - before
    return added, after - before - added if rest is None else rest


def read_states(
    model: Any, prompt: str | Sequence[int] | Tensor | Any, *, tokens: Sequence[int] | None = None
) -> States:
    """The stream of a prompt: every block's input, what attention and the MLP added, the end.

    Args:
        model: a `HookedTransformer` or a `TransformerBridge`.
        prompt: a text, token ids `[position]`, or an `ActivationCache` of one prompt that holds
            the residual hooks (nothing is run then).
        tokens: the ids that made the cache; needed where the cache does not hold them itself and
            the embeddings do not tell them apart.

    Raises:
        ValueError: the prompt is empty or beyond the context, the cache lacks hooks or holds
            several prompts.
        UnsupportedModelError: the model has no residual stream of this form.

    Example:
        >>> states = read_states(model, "w5 w6 w7")
        >>> states.stream.shape
        torch.Size([4, 4, 64])
    """
    n_layers = len(model.blocks)
    names, parts = residual_hooks(n_layers), write_hooks(n_layers)
    if hasattr(prompt, "cache_dict") or isinstance(prompt, dict):
        held = _from_cache(prompt, names, parts)
        ids = (
            torch.as_tensor(tokens, dtype=torch.long)
            if tokens is not None
            else _tokens_of_cache(model, prompt)
        )
        if ids.numel() != held[names[0]].shape[0]:
            raise ValueError(
                f"{ids.numel()} tokens were given and the cache holds "
                f"{held[names[0]].shape[0]} positions."
            )
    else:
        ids = tokenize_prompt(model, prompt)
        _, held = run(model, ids, names, also=parts)
    stream = torch.stack([held[name] for name in names])
    steps = [attn_and_mlp_out(held, model, i, stream[i], stream[i + 1]) for i in range(n_layers)]
    strings = TokenStrings(getattr(model, "tokenizer", None), int(model.cfg.d_vocab))
    return States(
        model_name=name_of(model),
        tokens=ids,
        token_strings=tuple(strings.strings(ids.tolist())),
        stream=stream,
        attn_out=torch.stack([added for added, _ in steps]),
        mlp_out=torch.stack([rest for _, rest in steps]),
    )


def _from_cache(cache: Any, names: list[str], parts: list[str]) -> dict[str, Tensor]:
    missing = [name for name in names if name not in cache]
    for layer in range(len(names) - 1):
        if not any(name in cache for name in parts if name.startswith(f"blocks.{layer}.")):
            missing.append(f"blocks.{layer}.hook_attn_out")
    if missing:
        raise ValueError(
            f"the cache does not hold {missing[0]} ({len(missing)} hooks are missing): run the "
            "model with a names_filter that keeps the residual hooks."
        )
    held = [name for name in (*names, *parts) if name in cache]
    return {name: _one_prompt(cache[name], 2).float().cpu() for name in held}


def _one_prompt(value: Tensor, ndim: int) -> Tensor:
    if value.ndim == ndim + 1:
        if value.shape[0] != 1:
            raise ValueError(f"the cache holds {value.shape[0]} prompts: one at a time fits.")
        value = value[0]
    return value.detach()


def _tokens_of_cache(model: Any, cache: Any) -> Tensor:
    """The ids behind a cache: stored by the embedding, else found by their exact embedding."""
    if EMBEDDED_TOKENS in cache:
        return _one_prompt(cache[EMBEDDED_TOKENS], 1).long().cpu()
    if "hook_embed" in cache:
        entered = _one_prompt(cache["hook_embed"], 2).float()
        with materialised(model.embed):
            W_E = model.embed.W_E.detach().float()
        unit = W_E / W_E.norm(dim=-1, keepdim=True).clamp_min(1e-30)
        cosines = entered.to(unit) @ unit.T / entered.to(unit).norm(dim=-1, keepdim=True)
        two = cosines.topk(2, dim=-1)
        if bool((two.values[:, 0] > 0.9999).all()) and bool((two.values[:, 1] < 0.9999).all()):
            return two.indices[:, 0].cpu()
    raise ValueError(
        "the cache does not tell which tokens made it: give them as read_states(model, cache, "
        "tokens=[...])."
    )
