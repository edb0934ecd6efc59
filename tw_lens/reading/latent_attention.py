"""Latent attention (DeepSeek): its chain of projections composed into one matrix each.

Queries and keys are computed as `n(x) W_down`, normalised, times `W_up`. The norm's gain is folded
into the product `W = W_down diag(gain) W_up`; what remains of the norm is a division by one
number per position (`Bottleneck`), so that `W_QK` and `W_OV` keep their directions.
The last dimensions of a key (the rotated ones) come directly from the residual stream and are
shared by all heads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tw_lens.canonical import Bottleneck, HeadNorm
from tw_lens.reading.layer import HostLayer
from tw_lens.reading.matrices import AttentionMatrices
from tw_lens.reading.model_access import optional, resolved_module, to_float32_cpu
from tw_lens.reading.norms import read_head_norm

PROJECTIONS = ("q_a_proj", "q_b_proj", "q_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")


def is_latent(layer: HostLayer) -> bool:
    """Return whether a layer's keys and values go through a bottleneck."""
    return layer.part("kv_a_proj_with_mqa") is not None


def read_latent(layer: HostLayer) -> AttentionMatrices:
    """Read the composed matrices and the two bottlenecks of a layer.

    Raises:
        UnsupportedModelError: the projections into a bottleneck have biases.
    """
    module = layer.original_attention
    nope, rope = int(module.qk_nope_head_dim), int(module.qk_rope_head_dim)
    d_value, rank = int(module.v_head_dim), int(module.kv_lora_rank)
    W = _projections(layer)
    W_Q, bottleneck_Q = _queries(layer, W)
    W_Q = _heads(W_Q, nope + rope)
    norm = _latent_norm(layer, "kv_a_layernorm")
    down, shared = W["kv_a_proj_with_mqa"].split([rank, rope], dim=1)
    W_K, W_V = _heads((down * norm.gain) @ W["kv_b_proj"], nope + d_value).split(
        [nope, d_value], dim=-1
    )
    W_K = torch.cat([W_K, shared.expand(len(W_K), *shared.shape)], dim=-1)
    if _interleaves_pairs(layer):  # rotated pairs leave the rotation as two halves
        order = torch.cat([torch.arange(0, rope, 2), torch.arange(1, rope, 2)])
        order = torch.cat([torch.arange(nope), nope + order])
        W_Q, W_K = W_Q[..., order], W_K[..., order]
    W_O = W["o_proj"].reshape(len(W_V), d_value, -1)
    n_heads = len(W_Q)
    return AttentionMatrices(
        W_Q=W_Q,
        W_K=W_K,
        W_V=W_V,
        W_O=W_O,
        b_Q=torch.zeros(n_heads, nope + rope),
        b_K=torch.zeros(n_heads, nope + rope),
        b_V=torch.zeros(n_heads, d_value),
        b_O=torch.zeros(W_O.shape[-1]),
        bottleneck_Q=bottleneck_Q,
        bottleneck_KV=Bottleneck(down.contiguous(), norm.eps, width=nope),
    )


def _projections(layer: HostLayer) -> dict[str, Tensor]:
    """Read the layer's projections `[d_in, d_out]`, by name."""
    linears: dict[str, Any] = {name: layer.part(name) for name in PROJECTIONS}
    linears = {name: linear for name, linear in linears.items() if linear is not None}
    for name, linear in linears.items():
        if optional(linear, "bias") is not None:
            raise layer.unsupported(f"adds a bias in {name}, inside its bottleneck")
    return {
        name: to_float32_cpu(linear.weight, f"{layer.attention_name}.{name}").T
        for name, linear in linears.items()
    }


def _queries(layer: HostLayer, W: dict[str, Tensor]) -> tuple[Tensor, Bottleneck | None]:
    """Return the query projection `[d_model, heads * d_head]` and its bottleneck, if it has one."""
    if "q_a_proj" not in W:
        return W["q_proj"], None
    norm = _latent_norm(layer, "q_a_layernorm")
    return (W["q_a_proj"] * norm.gain) @ W["q_b_proj"], Bottleneck(W["q_a_proj"], norm.eps)


def _interleaves_pairs(layer: HostLayer) -> bool:
    """Return whether the rotated dimensions of queries and keys are stored as adjacent pairs."""
    configured = optional(layer.part("config"), "rope_interleave")
    return bool(configured) or layer.part("indexer") is not None


def _latent_norm(layer: HostLayer, name: str) -> HeadNorm:
    """Read the RMSNorm inside a bottleneck."""
    module, where = layer.part(name), f"{layer.attention_name}.{name}"
    width = int(resolved_module(module).weight.shape[-1])
    norm = read_head_norm(module, layer.model, where, heads=1, d_head=width)
    if norm is None or norm.centred or bool(norm.bias.any()):
        raise layer.unsupported(f"has a norm {name} inside its bottleneck that is no RMSNorm")
    return norm


def _heads(W: Tensor, width: int) -> Tensor:
    """Return `[d_model, heads * width]` as `[heads, d_model, width]`."""
    return W.reshape(W.shape[0], -1, width).transpose(0, 1).contiguous()
