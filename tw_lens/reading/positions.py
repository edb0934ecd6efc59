"""Positions in a layer's scores: rotation, ALiBi slopes, windows, chunks and temperature."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tw_lens.canonical import Rotary
from tw_lens.canonical.rotary import Tables
from tw_lens.reading.layer import HostLayer
from tw_lens.reading.model_access import (
    hf_config_value,
    is_bridged,
    number,
    optional,
    original_model,
    resolved_module,
)
from tw_lens.reading.offloaded import device_of
from tw_lens.reading.stacks import Stack

ADJACENT_PAIRS = ("rotary_adjacent_pairs", "rotary_interleaved_cos_sin")
QUARTER_TURNS = ("rotate_half", "rotate_every_two")  # (x, y) -> (-y, x), beside the attention class
OTHER_MODALITIES = ("vision", "audio")


def position_kind(model: Any) -> str:
    """Return TransformerLens' name for the kind of positional embedding; "none" without one."""
    return str(optional(model.cfg, "positional_embedding_type") or "none")


def read_rotary(layer: HostLayer) -> Rotary | None:
    """Read a layer's rotation within the model's context; None without rotation.

    Raises:
        UnsupportedModelError: the model rotates and its tables are not found.
    """
    if not _rotates(layer):
        return None
    rotary = _stored_rotary(layer) or _computed_rotary(layer)
    n_ctx = optional(layer.model.cfg, "n_ctx")
    return replace(rotary, n_ctx=int(n_ctx)) if n_ctx else rotary


def _rotates(layer: HostLayer) -> bool:
    """Return whether the layer rotates its queries and keys."""
    if position_kind(layer.model) != "rotary" or layer.attends_to_source:
        return False
    if hf_config_value(layer.model, "position_embedding_type") == "nope":
        return False
    theta = layer.setting("layer_rope_theta")  # Muse Glimmer: 0 in layers without rotation
    if theta is not None and not theta:
        return False
    is_nope = optional(layer.attention, "_is_nope_layer")
    if is_nope is not None:  # SmolLM3, Cohere 2, EXAONE 4
        return not is_nope()
    use_rope = layer.part("use_rope")
    return use_rope is None or bool(use_rope)


def _stored_rotary(layer: HostLayer) -> Rotary | None:
    """Read the rotation from tables that the attention itself stores; None without such tables."""
    attention = layer.attention
    if optional(attention, "rotary_cos") is not None:  # HookedTransformer

        def grown(n: int) -> tuple[Tensor, Tensor]:
            """Read the tables of today: they grow with the longest prompt that was run."""
            return attention.rotary_cos[:n], attention.rotary_sin[:n]

        return _rotary(grown, adjacent=bool(layer.model.cfg.rotary_adjacent_pairs))
    positions = layer.part("embed_positions")
    if isinstance(positions, Tensor):  # GPT-J: sines, then cosines
        sin, cos = positions.chunk(2, dim=-1)
        return Rotary(tables=partial(_pairs, _stored(cos, sin)), interleaved=True)
    native = layer.part("rotary")  # TransformerLens' native model
    if isinstance(optional(native, "cos_cached"), Tensor):
        return _rotary(_stored(native.cos_cached, native.sin_cached), adjacent=True)
    return None


def _computed_rotary(layer: HostLayer) -> Rotary:
    """Read the rotation by calling the module that computes its tables.

    Raises:
        UnsupportedModelError: there is no such module.
    """
    rotary_emb, cfg = _rotary_module(layer), layer.model.cfg
    if rotary_emb is None:
        raise layer.unsupported(
            "rotates positions with tables that are not in one module",
            "Token norms and embedding distances do not need them.",
        )
    takes_kind = "layer_type" in inspect.signature(rotary_emb.forward).parameters
    options = {"layer_type": layer.kind} if takes_kind else {}
    sample = torch.zeros(1, 1, int(cfg.d_model), device=device_of(layer.model))
    call = partial(_call, rotary_emb, sample, options)
    as_complex = isinstance(call(1), Tensor)  # cos + i sin (DeepSeek V2, Llama 4): adjacent pairs
    adjacent, backwards = (True, False) if as_complex else _turning(layer)
    return _rotary(
        partial(_computed, call),
        adjacent=adjacent,
        start=int(layer.part("qk_nope_head_dim") or 0),
        backwards=backwards,
    )


def read_slopes(layer: HostLayer, n_heads: int) -> Tensor | None:
    """Read ALiBi's slope of every head in score units; None without ALiBi.

    `2^(-8 i / n)` for `n` a power of two, and for any `n` in a HookedTransformer; otherwise the
    model family's own completion.
    Source: Press, Smith and Lewis, arXiv 2108.12409.
    """
    falcon = bool(hf_config_value(layer.model, "alibi"))
    if position_kind(layer.model) != "alibi" and not falcon:
        return None
    if layer.original_attention is None:
        return _geometric(n_heads, 8.0)
    mpt = hf_config_value(layer.model, "attn_config")
    if mpt is not None:
        whole = 2 ** math.ceil(math.log2(n_heads))
        slopes = _geometric(whole, number(mpt, "alibi_bias_max", 8.0))
        return slopes if whole == n_heads else torch.cat([slopes[1::2], slopes[::2]])[:n_heads]
    whole = 2 ** math.floor(math.log2(n_heads))
    slopes = torch.cat([_geometric(whole, 8.0), _geometric(2 * whole, 8.0)[::2]])[:n_heads]
    return slopes * number(layer.original_attention, "inv_norm_factor", 1.0) if falcon else slopes


def read_window(layer: HostLayer) -> int | None:
    """Read how many positions back a query sees, itself included; None for all of them."""
    if layer.attends_to_source:
        return None
    radius = layer.part("local_radius")  # LongT5
    if radius is None:  # LED
        radius = optional(layer.part("longformer_self_attn"), "one_sided_attn_window_size")
    if radius is not None:
        return int(radius) + 1
    if layer.original_attention is None:  # HookedTransformer keeps a type per layer
        local = optional(layer.attention, "attn_type") == "local"
        return int(layer.model.cfg.window_size) if local else None
    if layer.part("attention_type") == "local":  # GPT-Neo
        return int(layer.original_attention.config.window_size)
    if layer.kind not in (None, "sliding_attention"):
        return None
    window = hf_config_value(layer.model, "sliding_window")
    if not isinstance(window, int):
        return None
    both_ways = isinstance(layer.model, Stack) and layer.model.is_encoder
    return window + both_ways  # T5Gemma's encoder sees as many positions on either side


def read_chunk(layer: HostLayer) -> int | None:
    """Read the length of the chunks that a query is confined to (Llama 4); None without chunks."""
    chunk = hf_config_value(layer.model, "attention_chunk_size")
    return int(chunk) if chunk is not None and layer.kind == "chunked_attention" else None


def read_temperature(layer: HostLayer) -> Callable[[int], Tensor] | None:
    """Read the factor on the query at each position; None without one.

    Llama 4, in layers that do not rotate: `1 + c log(1 + floor((p + 1) / f))`; Ministral 3:
    `1 + c log(1 + floor(p / f))`; HookedTransformer (Qwen 1): `log(p + 1) / log(f)`, at least 1.
    """
    cfg = layer.model.cfg
    if optional(cfg, "use_logn_attn") and not is_bridged(layer.attention):
        trained = math.log(cfg.train_seq_length or cfg.n_ctx)
        return lambda n: (torch.arange(1, n + 1).log() / trained).clamp_min(1)
    attention = layer.original_attention
    if layer.part("attn_temperature_tuning") and not attention.use_rope:
        c, f, first = float(attention.attn_scale), float(attention.floor_scale), 1
    else:
        rope = hf_config_value(layer.model, "rope_parameters")
        beta = rope.get("llama_4_scaling_beta") if isinstance(rope, dict) else None
        if beta is None:
            return None
        c, f, first = float(beta), float(rope["original_max_position_embeddings"]), 0
    return partial(_temperature, c, f, first)


def _temperature(c: float, f: float, first: int, n: int) -> Tensor:
    return 1 + c * torch.log1p(((torch.arange(n).float() + first) / f).floor())


def _rotary_module(layer: HostLayer) -> Any:
    """Find the module that computes cosines and sines: the bridge's, the layer's, the model's."""
    near = map(resolved_module, (optional(layer.model, "rotary_emb"), layer.part("rotary_emb")))
    found = next(filter(callable, near), None)
    if found is not None or (original := original_model(layer.model)) is None:
        return found
    modules = (
        resolved_module(module)
        for name, module in original.named_modules()
        if name.endswith("rotary_emb") and not any(part in name for part in OTHER_MODALITIES)
    )
    return next(filter(callable, modules), None)


def _turning(layer: HostLayer) -> tuple[bool, bool]:
    """Return whether a layer rotates adjacent dimensions, and whether backwards (NanoChat).

    Where TransformerLens rotates (its hooks on cosines and sines tell), its configuration says how.
    A model that rotates by itself is asked where its own function takes a unit vector.
    """
    if hasattr(layer.attention, "hook_cos"):
        return any(optional(layer.model.cfg, flag) for flag in ADJACENT_PAIRS), False
    source = sys.modules[type(layer.original_attention).__module__]
    rotate = optional(source, *QUARTER_TURNS)
    if rotate is None:
        return False, False
    turned = rotate(torch.eye(4)[:1].reshape(1, 1, 1, 4)).flatten()
    partner = int(turned.abs().argmax())
    return partner == 1, bool(turned[partner] < 0)


def _rotary(tables: Tables, *, adjacent: bool, start: int = 0, backwards: bool = False) -> Rotary:
    """Build a rotation from tables in any layout, keeping each pair once: `[n, pairs]`.

    Models repeat each pair's cosine as halves `c0 c1 .. c0 c1 ..`, side by side `c0 c0 c1 c1 ..`
    (then they rotate adjacent dimensions: GLM-4V has a function for its pictures too), or not at
    all.
    """
    sample = tables(3)[0].float()
    n = sample.shape[-1]
    halves = n % 2 == 0 and torch.equal(sample[:, : n // 2], sample[:, n // 2 :])
    doubled = n % 2 == 0 and torch.equal(sample[:, 0::2], sample[:, 1::2])
    kept = slice(n // 2) if halves else slice(None, None, 2 if doubled else 1)
    return Rotary(
        tables=partial(_pairs, tables, kept=kept, sign=-1 if backwards else 1),
        interleaved=adjacent or (doubled and not halves),
        start=start,
    )


# Tables of cosines and sines as partial functions, not closures, so that blocks can be pickled.


def _stored(cos: Tensor, sin: Tensor) -> Tables:
    return partial(_rows, cos.detach(), sin.detach())


def _rows(cos: Tensor, sin: Tensor, n: int) -> tuple[Tensor, Tensor]:
    return cos[:n], sin[:n]


def _call(rotary_emb: Any, sample: Tensor, options: dict[str, Any], n: int) -> Any:
    """Return what a module of rotary embeddings computes for positions 0 to n-1."""
    positions = torch.arange(n, device=sample.device)[None]
    with torch.no_grad():
        return rotary_emb(sample.expand(1, n, -1), positions, **options)


def _computed(call: Callable[[int], Any], n: int) -> tuple[Tensor, Tensor]:
    result = call(n)
    first, second = (result.real, result.imag) if isinstance(result, Tensor) else result
    at_zero = first[0, 0]  # GPT-J returns the sines first: at position 0 they are all 0
    cos, sin = (first, second) if bool(at_zero.any()) else (second, first)
    return cos[0], sin[0]


def _pairs(
    tables: Tables, n: int, kept: slice = slice(None), sign: int = 1
) -> tuple[Tensor, Tensor]:
    """Return tables with each pair once, float32 on the CPU."""
    cos, sin = (table.detach().float().cpu()[:, kept] for table in tables(n))
    return cos, sign * sin


def _geometric(n: int, exponent: float) -> Tensor:
    """Return `2^(-exponent i / n)` for `i` from 1 to n."""
    return 2.0 ** (-exponent * torch.arange(1, n + 1).float() / n)
