"""What a layer knows of positions: rotation, ALiBi slopes, learned biases, windows, temperature."""

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
from tw_lens.reading.model_access import (
    attention_of,
    hf_config_value,
    original_attention,
    original_module,
    per_layer_value,
    unsupported,
)
from tw_lens.reading.offloaded import device_of


def position_kind(model: Any) -> str:
    """How the model tells positions apart, in TransformerLens' words."""
    return str(getattr(model.cfg, "positional_embedding_type", None) or "none")


def read_rotary(model: Any, layer: int) -> Rotary | None:
    """The rotation of a layer within the model's context; None without rotation.

    Raises:
        UnsupportedModelError: the model rotates and keeps its tables where they are not found.
    """
    rotary = _tables_of(model, layer)
    n_ctx = getattr(model.cfg, "n_ctx", None)
    return rotary if rotary is None or not n_ctx else replace(rotary, n_ctx=int(n_ctx))


def _tables_of(model: Any, layer: int) -> Rotary | None:
    """The rotation of a layer, from the tables the model itself uses.

    Raises:
        UnsupportedModelError: the model rotates and keeps its tables where they are not found.
    """
    attention = attention_of(model.blocks[layer])
    module = original_attention(attention)
    unplaced = hf_config_value(model, "position_embedding_type") == "nope"
    if position_kind(model) != "rotary" or unplaced or _leaves_positions_out(attention):
        return None
    if not per_layer_value(hf_config_value(model, "layer_rope_theta") or 1, layer):  # Muse Glimmer
        return None
    start = int(getattr(module, "qk_nope_head_dim", 0) or 0)
    if getattr(attention, "rotary_cos", None) is not None:  # HookedTransformer keeps its tables
        held = _stored(attention.rotary_cos, attention.rotary_sin)
        return _rotary(held, adjacent=bool(model.cfg.rotary_adjacent_pairs))
    if isinstance(getattr(module, "embed_positions", None), Tensor):  # GPT-J: sines, then cosines

        def halves(n: int) -> tuple[Tensor, Tensor]:
            sin, cos = module.embed_positions[:n].chunk(2, dim=-1)
            return cos, sin

        return Rotary(tables=_floats(halves), interleaved=True)
    own = getattr(module, "rotary", None)  # TransformerLens' native model
    if isinstance(getattr(own, "cos_cached", None), Tensor):
        return _rotary(_stored(own.cos_cached, own.sin_cached), adjacent=True)
    rotary_emb = _rotary_module(model, attention)
    if rotary_emb is None:
        raise unsupported(
            model,
            f"layer {layer} rotates positions with tables that are not in one module",
            "Token norms and embedding distances do not need them.",
        )
    kinds = hf_config_value(model, "layer_types")
    takes_kind = "layer_type" in inspect.signature(rotary_emb.forward).parameters
    more = {"layer_type": kinds[layer]} if takes_kind else {}

    def ask(n: int) -> Any:
        device = device_of(model)
        x = torch.zeros(1, n, int(model.cfg.d_model), device=device)
        with torch.no_grad():
            return rotary_emb(x, torch.arange(n, device=device)[None], **more)

    as_complex = isinstance(ask(1), Tensor)  # cos + i sin (DeepSeek V2, Llama 4): adjacent pairs

    def asked(n: int) -> tuple[Tensor, Tensor]:
        cos, sin = (ask(n).real, ask(n).imag) if as_complex else ask(n)
        return cos[0], sin[0]

    flags = ("rotary_adjacent_pairs", "rotary_interleaved_cos_sin")
    adjacent = as_complex or any(getattr(model.cfg, flag, False) for flag in flags)
    return _rotary(asked, adjacent=adjacent, start=start, backwards=_rotates_backwards(attention))


def read_slopes(model: Any, layer: int, n_heads: int) -> Tensor | None:
    """ALiBi's slope of every head in score units; None without ALiBi.

    `2^(-8 i / n)` for `n` a power of two; otherwise the model family's own completion.
    Source: Press, Smith and Lewis, arXiv 2108.12409.
    """
    if position_kind(model) != "alibi" and not hf_config_value(model, "alibi"):
        return None
    module = original_attention(attention_of(model.blocks[layer]))
    mpt = hf_config_value(model, "attn_config")
    if mpt is not None:
        whole = 2 ** math.ceil(math.log2(n_heads))
        slopes = _geometric(whole, float(getattr(mpt, "alibi_bias_max", 8)))
        return slopes if whole == n_heads else torch.cat([slopes[1::2], slopes[::2]])[:n_heads]
    whole = 2 ** math.floor(math.log2(n_heads))
    slopes = torch.cat([_geometric(whole, 8.0), _geometric(2 * whole, 8.0)[::2]])[:n_heads]
    falcon = getattr(module, "inv_norm_factor", 1.0) if hf_config_value(model, "alibi") else 1.0
    return slopes * float(falcon)


def read_window(model: Any, layer: int) -> int | None:
    """How many positions back a layer looks, itself included; None for all of them."""
    attention = attention_of(model.blocks[layer])
    module = original_attention(attention)
    if module is None:  # HookedTransformer says so per layer
        local = getattr(attention, "attn_type", "global") == "local"
        return int(model.cfg.window_size) if local else None
    if getattr(module, "attention_type", None) == "local":  # GPT-Neo
        return int(module.config.window_size)
    kinds = hf_config_value(model, "layer_types")
    if kinds is not None and kinds[layer] != "sliding_attention":
        return None
    window = hf_config_value(model, "sliding_window")
    return int(window) if isinstance(window, int) else None


def read_chunk(model: Any, layer: int) -> int | None:
    """The length of the chunks a layer's queries stay in (Llama 4); None for no chunks."""
    kinds, chunk = (
        hf_config_value(model, "layer_types"),
        hf_config_value(model, "attention_chunk_size"),
    )
    chunked = kinds is not None and kinds[layer] == "chunked_attention"
    return int(chunk) if chunk is not None and chunked else None


def read_temperature(model: Any, layer: int) -> Callable[[int], Tensor] | None:
    """The factor on the query at each position; None where there is none.

    Llama 4, on layers that do not rotate: `1 + c log(1 + floor((p + 1) / f))`; Ministral 3:
    `1 + c log(1 + floor(p / f))`.
    """
    module = original_attention(attention_of(model.blocks[layer]))
    if getattr(module, "attn_temperature_tuning", False) and not module.use_rope:
        c, f, first = float(module.attn_scale), float(module.floor_scale), 1
    else:
        rope = hf_config_value(model, "rope_parameters")
        beta = rope.get("llama_4_scaling_beta") if isinstance(rope, dict) else None
        if beta is None:
            return None
        c, f, first = float(beta), float(rope["original_max_position_embeddings"]), 0
    return lambda n: 1 + c * torch.log1p(((torch.arange(n) + first) / f).floor())


def _leaves_positions_out(attention: Any) -> bool:
    """Whether this layer of a rotary model does not rotate (SmolLM3, Cohere 2, EXAONE 4)."""
    asked = getattr(attention, "_is_nope_layer", None)
    if asked is not None:
        return bool(asked())
    return not getattr(original_attention(attention), "use_rope", True)


def _rotary_module(model: Any, attention: Any) -> Any:
    places = [
        getattr(model, "rotary_emb", None),
        getattr(attention, "_rotary_emb", None),
        getattr(original_attention(attention), "rotary_emb", None),
    ]
    original = getattr(model, "original_model", None)
    if original is not None:
        places += [
            module
            for name, module in original.named_modules()
            if name.endswith("rotary_emb") and "vision" not in name and "audio" not in name
        ]
    found = (
        original_module(place) if hasattr(place, "original_component") else place
        for place in places
    )
    return next((place for place in found if callable(place)), None)


def _rotates_backwards(attention: Any) -> bool:
    """Whether a model that rotates by itself turns the other way (NanoChat)."""
    if hasattr(attention, "_rotary_emb"):  # TransformerLens rotates, always forwards
        return False
    turn = getattr(sys.modules[type(original_attention(attention)).__module__], "rotate_half", None)
    return turn is not None and float(turn(torch.tensor([1.0, 0.0]))[1]) < 0


def _rotary(tables: Any, *, adjacent: bool, start: int = 0, backwards: bool = False) -> Rotary:
    """Tables in any layout, each pair once: `[n, pairs]`.

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

    return Rotary(tables=_floats(pairs), interleaved=adjacent, start=start)


def _stored(cos: Tensor, sin: Tensor) -> Tables:
    return lambda n: (cos[:n], sin[:n])


def _floats(tables: Any) -> Any:
    def at(n: int) -> tuple[Tensor, Tensor]:
        cos, sin = tables(n)
        return cos.detach().float().cpu(), sin.detach().float().cpu()

    return at


def _geometric(n: int, most: float) -> Tensor:
    return 2.0 ** (-most * torch.arange(1, n + 1).float() / n)
