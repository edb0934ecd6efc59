"""Positions in a layer's scores: rotation, ALiBi slopes, windows, chunks and temperature."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable
from dataclasses import replace
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

ADJACENT_PAIRS = ("rotary_adjacent_pairs", "rotary_interleaved_cos_sin")
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
    if position_kind(layer.model) != "rotary":
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

        def halves(n: int) -> tuple[Tensor, Tensor]:
            sin, cos = positions[:n].chunk(2, dim=-1)
            return cos, sin

        return Rotary(tables=_as_float32(halves), interleaved=True)
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

    def call(n: int) -> Any:
        device = device_of(layer.model)
        x = torch.zeros(1, n, int(cfg.d_model), device=device)
        with torch.no_grad():
            return rotary_emb(x, torch.arange(n, device=device)[None], **options)

    as_complex = isinstance(call(1), Tensor)  # cos + i sin (DeepSeek V2, Llama 4): adjacent pairs

    def tables(n: int) -> tuple[Tensor, Tensor]:
        result = call(n)
        cos, sin = (result.real, result.imag) if as_complex else result
        return cos[0], sin[0]

    return _rotary(
        tables,
        adjacent=as_complex or any(optional(cfg, flag) for flag in ADJACENT_PAIRS),
        start=int(layer.part("qk_nope_head_dim") or 0),
        backwards=_rotates_backwards(layer),
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
    if layer.original_attention is None:  # HookedTransformer keeps a type per layer
        local = optional(layer.attention, "attn_type") == "local"
        return int(layer.model.cfg.window_size) if local else None
    if layer.part("attention_type") == "local":  # GPT-Neo
        return int(layer.original_attention.config.window_size)
    if layer.kind not in (None, "sliding_attention"):
        return None
    window = hf_config_value(layer.model, "sliding_window")
    return int(window) if isinstance(window, int) else None


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
    return lambda n: 1 + c * torch.log1p(((torch.arange(n) + first) / f).floor())


def _rotary_module(layer: HostLayer) -> Any:
    """Find the module that computes cosines and sines: the bridge's, the layer's, the model's."""
    modules = [
        optional(layer.model, "rotary_emb"),
        optional(layer.attention, "_rotary_emb"),
        layer.part("rotary_emb"),
    ]
    if (original := original_model(layer.model)) is not None:
        modules += [
            module
            for name, module in original.named_modules()
            if name.endswith("rotary_emb") and not any(part in name for part in OTHER_MODALITIES)
        ]
    return next((m for m in map(resolved_module, modules) if callable(m)), None)


def _rotates_backwards(layer: HostLayer) -> bool:
    """Return whether a model that rotates by itself turns the other way (NanoChat)."""
    if hasattr(layer.attention, "_rotary_emb"):  # TransformerLens rotates, always forwards
        return False
    source = sys.modules[type(layer.original_attention).__module__]
    rotate_half = optional(source, "rotate_half")
    return rotate_half is not None and float(rotate_half(torch.tensor([1.0, 0.0]))[1]) < 0


def _rotary(tables: Tables, *, adjacent: bool, start: int = 0, backwards: bool = False) -> Rotary:
    """Build a rotation from tables in any layout, keeping each pair once: `[n, pairs]`.

    Models repeat each pair's cosine as halves `c0 c1 .. c0 c1 ..`, side by side `c0 c0 c1 c1 ..`,
    or not at all.
    """
    sample = tables(3)[0].float()
    n = sample.shape[-1]
    halves = n % 2 == 0 and torch.equal(sample[:, : n // 2], sample[:, n // 2 :])
    doubled = n % 2 == 0 and torch.equal(sample[:, 0::2], sample[:, 1::2])

    def pairs(positions: int) -> tuple[Tensor, Tensor]:
        cos, sin = tables(positions)
        sin = -sin if backwards else sin
        if halves:
            return cos[:, : n // 2], sin[:, : n // 2]
        if doubled:
            return cos[:, 0::2], sin[:, 0::2]
        return cos, sin

    return Rotary(tables=_as_float32(pairs), interleaved=adjacent, start=start)


def _stored(cos: Tensor, sin: Tensor) -> Tables:
    return lambda n: (cos[:n], sin[:n])


def _as_float32(tables: Tables) -> Tables:
    def converted(n: int) -> tuple[Tensor, Tensor]:
        cos, sin = tables(n)
        return cos.detach().float().cpu(), sin.detach().float().cpu()

    return converted


def _geometric(n: int, exponent: float) -> Tensor:
    """Return `2^(-exponent i / n)` for `i` from 1 to n."""
    return 2.0 ** (-exponent * torch.arange(1, n + 1).float() / n)
