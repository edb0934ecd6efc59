"""Mixtures of attention experts (JetMoE): query and output maps that a router chooses per token.

The experts share keys and values, so the layer is read as attention with the heads of all experts.
What the router gives a head at a position multiplies its values (`HeadRouting`): 0 for experts that
are not chosen.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tw_lens.canonical import HeadRouting
from tw_lens.reading.layer import HostLayer
from tw_lens.reading.matrices import AttentionMatrices
from tw_lens.reading.model_access import optional, resolved_module, to_float32_cpu


def is_mixture(layer: HostLayer) -> bool:
    """Return whether a router chooses the query and output maps of a layer."""
    experts = resolved_module(layer.part("experts"))
    return all(_of_experts(experts, name) is not None for name in ("input_linear", "output_linear"))


def read_mixture(layer: HostLayer) -> AttentionMatrices:
    """Read the heads of all experts, the experts side by side for every key/value head.

    Raises:
        ValueError: weights without data, quantised, or with NaN.
    """
    module, where = layer.original_attention, layer.attention_name
    experts = resolved_module(module.experts)
    n_kv, d_head = int(module.num_key_value_heads), int(module.head_dim)
    queries, outputs, both = (
        to_float32_cpu(tensor, f"{where}.{name}")
        for tensor, name in (
            (experts.input_linear.weight, "experts.input_linear"),
            (experts.output_linear.weight, "experts.output_linear"),
            (resolved_module(module.kv_proj).weight, "kv_proj"),
        )
    )
    n_experts, _, d_model = queries.shape
    n_heads = n_experts * n_kv
    W_Q = queries.reshape(n_experts, n_kv, d_head, d_model).permute(1, 0, 3, 2).flatten(0, 1)
    W_O = outputs.reshape(n_experts, d_model, n_kv, d_head).permute(2, 0, 3, 1).flatten(0, 1)
    W_K, W_V = both.reshape(2, n_kv, d_head, d_model).mT
    blank = torch.zeros(n_kv, d_head)
    return AttentionMatrices(
        W_Q=W_Q.contiguous(),
        W_K=W_K.contiguous(),
        W_V=W_V.contiguous(),
        W_O=W_O.contiguous(),
        b_Q=torch.zeros(n_heads, d_head),
        b_K=blank,
        b_V=blank,
        b_O=to_float32_cpu(experts.bias, f"{where}.experts.bias"),
    )


def read_routing(layer: HostLayer) -> HeadRouting:
    """Read the router of a mixture of attention experts."""
    module = layer.original_attention
    experts = resolved_module(module.experts)
    router = resolved_module(experts.router)
    W = to_float32_cpu(resolved_module(router.layer).weight, f"{layer.attention_name}.router")
    return HeadRouting(W.T.contiguous(), int(router.top_k), int(module.num_key_value_heads))


def _of_experts(experts: Any, name: str) -> Tensor | None:
    """Return the weight of a map that every expert has, `[n_experts, out, in]`; None without it."""
    weight = optional(optional(experts, name), "weight")
    return weight if isinstance(weight, Tensor) and weight.ndim == 3 else None
