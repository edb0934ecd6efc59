"""Prompt to states: the residual stream, from a run of the model or from a cache at hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tw_lens.canonical import States
from tw_lens.errors import UnsupportedModel
from tw_lens.reading.offloaded import at_hand, device_of
from tw_lens.reading.parts import POST_NORM, architecture_of, attention_of, inner, name_of
from tw_lens.tokens import TokenStrings

EMBEDDED_TOKENS = "embed.hook_in"


def stream_hooks(n_layers: int) -> list[str]:
    """The hooks that hold the stream: every block's input and the last one's output."""
    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(n_layers)]
    return [*names, f"blocks.{n_layers - 1}.hook_resid_post"]


def added_hooks(n_layers: int) -> list[str]:
    """The hooks that hold what attention and the MLP added, where a block has them."""
    per_block = ("hook_attn_out", "hook_mlp_out", "hook_resid_mid", "attn.o.hook_out")
    return [f"blocks.{layer}.{hook}" for layer in range(n_layers) for hook in per_block]


def parts_added(
    held: dict[str, Tensor], model: Any, layer: int, before: Tensor, after: Tensor
) -> tuple[Tensor, Tensor]:
    """What attention (or what stands in its place) and the MLP added in one block.

    Where a hook is missing, its part is what the other leaves of the step.
    """
    added, rest, middle = (
        held.get(f"blocks.{layer}.{hook}")
        for hook in ("hook_attn_out", "hook_mlp_out", "hook_resid_mid")
    )
    block = inner(model.blocks[layer])
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


def prompt_tokens(model: Any, prompt: str | Sequence[int] | Tensor) -> Tensor:
    """The ids `[position]` that the model itself makes of a prompt.

    Raises:
        ValueError: the prompt is empty, longer than the context, several prompts at once, or text
            for a model without a tokenizer.
        IndexError: an id outside the vocabulary.
    """
    if isinstance(prompt, str):
        if not prompt.strip():
            raise ValueError("the prompt is empty: give at least one word.")
        if getattr(model, "tokenizer", None) is None:
            raise ValueError("the model has no tokenizer: give the prompt as a list of token ids.")
        # One text may hold lone surrogates (raw bytes read as text): no tokenizer takes those.
        text = prompt.encode("utf-8", "replace").decode("utf-8")
        tokens = model.to_tokens(text, truncate=False)[0]
    else:
        tokens = torch.as_tensor(prompt, dtype=torch.long)
        if tokens.ndim == 2 and tokens.shape[0] == 1:
            tokens = tokens[0]
        if tokens.ndim != 1:
            raise ValueError(
                f"one prompt at a time: token ids of shape {tuple(tokens.shape)} were given, "
                "[position] fits."
            )
        if tokens.numel() == 0:
            raise ValueError("the prompt is empty: give at least one token id.")
    d_vocab, n_ctx = int(model.cfg.d_vocab), int(model.cfg.n_ctx)
    if int(tokens.min()) < 0 or int(tokens.max()) >= d_vocab:
        raise IndexError(f"a token id of the prompt is outside 0 to {d_vocab - 1}.")
    if tokens.numel() > n_ctx:
        raise ValueError(
            f"the prompt has {tokens.numel()} tokens and the model's context {n_ctx}: shorten it."
        )
    return tokens.cpu()


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
    """One pass of the model: its logits `[position, d_vocab]` and the hooks asked for.

    Args:
        model: the model.
        tokens: one prompt's ids.
        names: hooks that must be there.
        also: hooks that are kept where they are.

    Raises:
        UnsupportedModel: a hook does not exist.
    """
    wanted = set(names) | set(also or [])
    device = device_of(model)
    with _unhooked_attention(model) as outputs, torch.no_grad():
        logits, cache = model.run_with_cache(
            tokens[None].to(device), names_filter=lambda name: name in wanted
        )
    held = {name: cache[name][0].float().cpu() for name in wanted if name in cache}
    held |= {name: out[0].float().cpu() for name, out in outputs.items() if name in wanted}
    last = names[-1]
    if last not in held and getattr(model, "ln_final", None) is None:  # GPT: the end is read as is
        with torch.no_grad():
            _, cache = model.run_with_cache(
                tokens[None].to(device), names_filter=lambda name: name == "unembed.hook_in"
            )
        held[last] = cache["unembed.hook_in"][0].float().cpu()
    missing = [name for name in names if name not in held]
    if missing:
        raise UnsupportedModel(
            architecture_of(model),
            f"it has no hook {missing[0]}",
            "What does not need the stream (weights, spectra, probes) can still be computed.",
        )
    return logits[0].float().cpu(), held


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
        UnsupportedModel: the model has no residual stream of this form.

    Example:
        >>> states = read_states(model, "w5 w6 w7")
        >>> states.stream.shape
        torch.Size([4, 4, 64])
    """
    n_layers = len(model.blocks)
    names, parts = stream_hooks(n_layers), added_hooks(n_layers)
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
        ids = prompt_tokens(model, prompt)
        _, held = run(model, ids, names, also=parts)
    stream = torch.stack([held[name] for name in names])
    steps = [parts_added(held, model, i, stream[i], stream[i + 1]) for i in range(n_layers)]
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
        with at_hand(model.embed):
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
