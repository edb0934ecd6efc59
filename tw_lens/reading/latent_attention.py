"""Latent attention (DeepSeek): its chain of projections composed into one matrix each.

Queries and keys are made as `n(x) W_down`, normalised, times `W_up`. The norm's gain is folded
into the product `W = W_down diag(gain) W_up`; what is left of the norm is a division by one
number per position (`Bottleneck`), so that `W_QK` and `W_OV` keep their directions.
The last dimensions of a key (the rotated ones) come from the stream directly and are shared by all
heads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tw_lens.canonical import Bottleneck, HeadNorm
from tw_lens.reading.model_access import (
    attention_of,
    original_attention,
    original_module,
    to_float32_cpu,
    unsupported,
)
from tw_lens.reading.norms import read_head_norm


def is_latent(attention: Any) -> bool:
    """Whether an attention layer reads its keys and values through a bottleneck."""
    return getattr(original_attention(attention), "kv_a_proj_with_mqa", None) is not None


def read_latent(model: Any, layer: int) -> dict[str, Any]:
    """`W_Q`, `W_K`, `W_V`, `W_O`, their biases and the two bottlenecks of a layer.

    Raises:
        UnsupportedModelError: the projections into a bottleneck carry biases.
    """
    module = original_attention(attention_of(model.blocks[layer]))
    where = f"blocks.{layer}.attn"
    nope, rope = int(module.qk_nope_head_dim), int(module.qk_rope_head_dim)
    d_value, rank = int(module.v_head_dim), int(module.kv_lora_rank)
    names = ("q_a_proj", "q_b_proj", "q_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")
    linears = {name: getattr(module, name, None) for name in names}
    for name, linear in linears.items():
        if linear is not None and getattr(linear, "bias", None) is not None:
            raise unsupported(model, f"layer {layer} adds a bias in {name}, inside its bottleneck")
    W = {
        name: to_float32_cpu(linear.weight, f"{where}.{name}").T
        for name, linear in linears.items()
        if linear is not None
    }
    bottleneck_Q = None
    if "q_a_proj" in W:
        norm = _latent_norm(module.q_a_layernorm, model, f"{where}.q_a_layernorm")
        bottleneck_Q = Bottleneck(W["q_a_proj"], norm.eps)
        W_Q = (W["q_a_proj"] * norm.gain) @ W["q_b_proj"]
    else:
        W_Q = W["q_proj"]
    W_Q = _heads(W_Q, nope + rope)
    norm = _latent_norm(module.kv_a_layernorm, model, f"{where}.kv_a_layernorm")
    down, shared = W["kv_a_proj_with_mqa"].split([rank, rope], dim=1)
    W_K, W_V = _heads((down * norm.gain) @ W["kv_b_proj"], nope + d_value).split(
        [nope, d_value], dim=-1
    )
    W_K = torch.cat([W_K, shared.expand(len(W_K), *shared.shape)], dim=-1)
    config = getattr(module, "config", None)
    sparse = getattr(module, "indexer", None) is not None
    if getattr(config, "rope_interleave", False) or sparse:  # turned pairs come out as two halves
        order = torch.cat([torch.arange(0, rope, 2), torch.arange(1, rope, 2)])
        order = torch.cat([torch.arange(nope), nope + order])
        W_Q, W_K = W_Q[..., order], W_K[..., order]
    W_O = W["o_proj"].reshape(len(W_V), d_value, -1)
    n = len(W_Q)
    return {
        "W_Q": W_Q,
        "W_K": W_K,
        "W_V": W_V,
        "W_O": W_O,
        "b_Q": torch.zeros(n, nope + rope),
        "b_K": torch.zeros(n, nope + rope),
        "b_V": torch.zeros(n, d_value),
        "bottleneck_Q": bottleneck_Q,
        "bottleneck_KV": Bottleneck(down.contiguous(), norm.eps, width=nope),
    }


def _latent_norm(module: Any, model: Any, where: str) -> HeadNorm:
    width = int((original_module(module) or module).weight.shape[-1])
    norm = read_head_norm(module, model, where, heads=1, d_head=width)
    assert norm is not None
    if norm.centred or bool(norm.bias.any()):
        raise unsupported(model, f"the norm {where} inside its bottleneck is not an RMSNorm")
    return norm


def _heads(W: Tensor, width: int) -> Tensor:
    """`[d_model, heads * width]` as `[heads, d_model, width]`."""
    return W.reshape(W.shape[0], -1, width).transpose(0, 1).contiguous()
