"""Prompt to states: the residual stream, from a run of the model or from an activation cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tw_lens.arguments import checked
from tw_lens.canonical import Crossing, States
from tw_lens.reading.cached_prompt import require_whole_prompt
from tw_lens.reading.fingerprint import sampled_fingerprint
from tw_lens.reading.forward import run
from tw_lens.reading.layer import HostLayer, host_layers
from tw_lens.reading.model_access import name_of, require_model, tokenizer_of
from tw_lens.reading.model_exceptions import normalises_stream
from tw_lens.reading.model_parts import model_parts, plain_attn_out_hook, residual_hooks
from tw_lens.reading.offloaded import materialised
from tw_lens.reading.prompts import Prompt, tokenize_prompt
from tw_lens.reading.readable_models import require_one_stack
from tw_lens.reading.stack_names import SOURCE_HOOK
from tw_lens.reading.stacks import Stack
from tw_lens.tokens import TokenStrings

EMBEDDED_TOKENS = "embed.hook_in"
EMBEDDINGS = ("hook_embed", "embed.hook_embed")  # the second in a HookedEncoder
WRITE_HOOKS = ("hook_attn_out", "hook_mlp_out", "hook_resid_mid", "attn.o.hook_out")
WRITE_HOOKS += ("cross_attn.o.hook_out", "cross_ln_post.hook_out")


class WrittenParts(NamedTuple):
    """What the parts of one block add to the stream; `cross_out` is None without that part."""

    attn_out: Tensor
    mlp_out: Tensor
    cross_out: Tensor | None = None


def write_hooks(n_layers: int) -> list[str]:
    """Return the hooks of what attention and the MLP add; not every block has all of them."""
    hooks = [f"blocks.{layer}.{hook}" for layer in range(n_layers) for hook in WRITE_HOOKS]
    return [*hooks, SOURCE_HOOK]


def written_parts(
    values: dict[str, Tensor], layer: HostLayer, before: Tensor, after: Tensor
) -> WrittenParts:
    """Return what attention (or the mixer in its place), cross-attention and the MLP added.

    Where a hook is missing, its part is the remainder of the step.

    Args:
        values: the values at the hooks, by name.
        layer: the block's layer.
        before: the residual stream before the block.
        after: the residual stream after it.
    """
    step, block = after - before, layer.original_block
    attn_out, mlp_out, middle = (values.get(f"{layer.name}.{hook}") for hook in WRITE_HOOKS[:3])
    crossed = [values.get(f"{layer.name}.{hook}") for hook in WRITE_HOOKS[4:]]
    cross_out = crossed[0] if crossed[1] is None else crossed[1]
    if normalises_stream(layer.model):
        attn_out = values[f"{layer.name}.{plain_attn_out_hook(layer.model)}"]
        return WrittenParts(attn_out, values[f"{layer.name}.hook_mlp_out"], cross_out)
    if cross_out is not None and middle is not None:
        return WrittenParts(middle - before - cross_out, after - middle, cross_out)
    if attn_out is not None and hasattr(block, "attn_out_multiplier"):
        # Falcon-H1 multiplies after the hook, and a second mixer adds to the same step.
        scaled = attn_out * block.attn_out_multiplier
        return WrittenParts(scaled, step - scaled)
    if attn_out is not None and hasattr(block, "per_layer_input_gate"):
        # Gemma 4 adds a third part, and multiplies the sum.
        return WrittenParts(attn_out, after / float(block.layer_scalar) - before - attn_out)
    if attn_out is None:
        if mlp_out is not None:
            attn_out = step - mlp_out
        else:
            attn_out = step if middle is None else middle - before
    return WrittenParts(attn_out, step - attn_out if mlp_out is None else mlp_out)


@checked
def read_states(
    model: Any,
    prompt: Prompt,
    *,
    tokens: Sequence[int] | Tensor | Any = None,
) -> States:
    """Read a prompt's residual stream: every block's input, what each part added, the final state.

    Args:
        model: a `HookedTransformer`, `HookedEncoder` or `TransformerBridge`.
        prompt: a text, token ids `[position]` or `[1, position]`, a tokenizer's output, or an
            `ActivationCache` of one prompt that holds the residual hooks, as a dict of tensors or
            arrays or as `run_with_cache` returns it (the model is run all the same, to confirm
            that the cache is of the whole prompt). Ids must not hold padding; a tokenizer's output
            may, with its attention_mask.
        tokens: the prompt that produced the cache; needed where the cache does not hold its tokens
            and the embeddings do not identify them.

    Raises:
        TypeError: the prompt is none of these.
        ValueError: the prompt is empty or longer than the context; the cache lacks hooks, holds
            several prompts or some positions of one, or is of another model or prompt; the states
            contain NaN.
        UnsupportedModelError: the model has no residual stream of this form.

    Example:
        >>> states = read_states(model, "w5 w6 w7")
        >>> states.stream.shape
        torch.Size([4, 4, 64])
    """
    require_model(model)
    require_one_stack(model)
    layers = host_layers(model)
    residuals, writes = residual_hooks(model), write_hooks(len(layers))
    cache = _cache_in(prompt)
    if cache is not None and isinstance(model, Stack):
        raise ValueError(
            "a cache of an encoder-decoder holds both stacks; give the prompt of this one instead."
        )
    if cache is not None:
        values = _from_cache(cache, residuals, writes)
        ids = _tokens_beside(model, cache, tokens, len(values[residuals[0]]))
    elif tokens is not None:
        raise ValueError(
            "tokens= belongs to an ActivationCache, and the prompt is none; give the prompt alone."
        )
    else:
        ids = tokenize_prompt(model, prompt)
        _, values = run(model, ids, residuals, also=writes)
    stream = _stacked(model, [values[name] for name in residuals])
    if cache is not None:
        require_whole_prompt(model, stream, ids)
    added = [
        written_parts(values, layer, before, after)
        for layer, before, after in zip(layers, stream[:-1], stream[1:], strict=True)
    ]
    strings = TokenStrings(tokenizer_of(model), int(model.cfg.d_vocab))
    return States(
        model_name=name_of(model),
        tokens=ids,
        token_strings=tuple(strings.strings(ids.tolist())),
        stream=stream,
        attn_out=torch.stack([parts.attn_out for parts in added]),
        mlp_out=torch.stack([parts.mlp_out for parts in added]),
        crossing=_crossing(model, strings, added, values.get(SOURCE_HOOK)),
        sampled_fingerprint=sampled_fingerprint(model),
    )


def _crossing(
    model: Any, strings: TokenStrings, added: list[WrittenParts], source: Tensor | None
) -> Crossing | None:
    """Return what the decoder reads from its encoder; None where there is none."""
    crossed = [parts.cross_out for parts in added if parts.cross_out is not None]
    if source is None or not crossed:
        return None
    ids = model.source
    return Crossing(torch.stack(crossed), source, ids, tuple(strings.strings(ids.tolist())))


def _cache_in(prompt: Any) -> Any:
    """Return the cache that a prompt is, alone or beside its logits; None where it is no cache."""
    if isinstance(prompt, tuple) and len(prompt) == 2:  # what run_with_cache returns
        prompt = prompt[1]
    is_mapping = isinstance(prompt, Mapping) and "input_ids" not in prompt
    return prompt if is_mapping or hasattr(prompt, "cache_dict") else None


def _stacked(model: Any, residuals: list[Tensor]) -> Tensor:
    """Return the residual stream, if it is one of the model's width without NaN.

    Raises:
        ValueError: it is not.
    """
    shapes = {tuple(residual.shape) for residual in residuals}
    d_model = int(model.cfg.d_model)
    if len(shapes) > 1 or residuals[0].shape[-1] != d_model:
        raise ValueError(
            f"the cache must hold states of {name_of(model)}, [position, {d_model}], at every "
            f"layer; got {', '.join(map(str, sorted(shapes)))}."
        )
    stream = torch.stack(residuals)
    if not torch.isfinite(stream).all():
        raise ValueError(
            "the residual stream contains NaN or infinity, which would make every result "
            "meaningless; half precision may overflow: run the model in float32."
        )
    return stream


def _from_cache(cache: Any, residuals: list[str], writes: list[str]) -> dict[str, Tensor]:
    """Return one prompt's values at the hooks that a cache holds."""
    missing = [name for name in residuals if name not in cache]
    for layer in range(len(residuals) - 1):
        if not any(name in cache for name in writes if name.startswith(f"blocks.{layer}.")):
            missing.append(f"blocks.{layer}.hook_attn_out")
    if missing:
        last = residuals[-1].rpartition(".")[2]
        raise ValueError(
            f"the cache does not hold {missing[0]} ({len(missing)} hooks are missing); run the "
            f"model with a names_filter that keeps every hook_resid_pre, the last {last} "
            "and every hook_attn_out (or hook_mlp_out)."
        )
    if (beyond := f"blocks.{len(residuals) - 1}.hook_resid_pre") in cache:
        raise ValueError(
            f"the cache holds {beyond}, and the model has {len(residuals) - 1} layers; give a "
            "cache of this model."
        )
    names = [name for name in (*residuals, *writes) if name in cache]
    return {name: _one_prompt(cache[name], 2).float().cpu() for name in names}


def _one_prompt(value: Any, ndim: int) -> Tensor:
    """Return a cached value, a tensor or an array, without its batch dimension."""
    value = torch.as_tensor(value)
    if value.ndim == ndim + 1:
        if value.shape[0] != 1:
            raise ValueError(f"the cache must hold one prompt, got {value.shape[0]} prompts.")
        value = value[0]
    return value.detach()


def _tokens_beside(model: Any, cache: Any, tokens: Any, n_positions: int) -> Tensor:
    """Return the ids that produced a cache: those given, or those that the cache tells.

    Raises:
        ValueError: the cache tells none, or others than those given, or another number of them.
    """
    told = _tokens_of_cache(model, cache)
    ids = told if tokens is None else tokenize_prompt(model, tokens)
    if ids is None:
        raise ValueError(
            "the cache does not tell which tokens produced it; give them as read_states(model, "
            "cache, tokens=[...])."
        )
    if ids.numel() != n_positions:
        raise ValueError(
            f"{ids.numel()} tokens were given and the cache holds {n_positions} positions; "
            "give the tokens that produced the cache."
        )
    if told is not None and told.tolist() != ids.tolist():
        raise ValueError(
            "the tokens given are not those that produced the cache, which holds its own; leave "
            "tokens= out."
        )
    return ids


def _tokens_of_cache(model: Any, cache: Any) -> Tensor | None:
    """Return the ids that a cache tells, stored or by their embeddings; None where it does not."""
    if EMBEDDED_TOKENS in cache:
        return _one_prompt(cache[EMBEDDED_TOKENS], 1).long().cpu()
    if (name := next((name for name in EMBEDDINGS if name in cache), None)) is not None:
        embedded = _one_prompt(cache[name], 2).float()
        embed = model_parts(model).embed
        with materialised(embed):
            W_E = embed.W_E.detach().float()
        embedded = embedded.to(W_E)
        unit = W_E / W_E.norm(dim=-1, keepdim=True).clamp_min(1e-30)
        cosines = embedded @ unit.T / embedded.norm(dim=-1, keepdim=True).clamp_min(1e-30)
        best, second = cosines.topk(2, dim=-1).values.unbind(-1)
        if bool((best > 0.9999).all()) and bool((second < 0.9999).all()):
            return cosines.argmax(dim=-1).cpu()
    return None
