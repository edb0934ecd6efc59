"""The weight matrices of one layer's attention, split into heads."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tw_lens.canonical import Bottleneck
from tw_lens.reading.layer import HostLayer
from tw_lens.reading.model_access import number, optional, to_float32_cpu

WEIGHTS = ("W_Q", "W_K", "W_V", "W_O")


class AttentionMatrices(NamedTuple):
    """Weights `[heads, d_model, d_head]` (`W_O [heads, d_value, d_model]`) and biases, float32."""

    W_Q: Tensor
    W_K: Tensor
    W_V: Tensor
    W_O: Tensor
    b_Q: Tensor
    b_K: Tensor
    b_V: Tensor
    b_O: Tensor
    bottleneck_Q: Bottleneck | None = None
    bottleneck_KV: Bottleneck | None = None


def read_matrices(layer: HostLayer) -> AttentionMatrices:
    """Read the matrices of a layer without latent attention, biases as zeros where there is none.

    Raises:
        UnsupportedModelError: they cannot be split into heads.
        ValueError: weights without data, quantised, or with NaN.
    """
    try:
        weights = {name: _with_own_heads(layer.attention, name) for name in WEIGHTS}
    except (NotImplementedError, ValueError):  # the bridge cannot split this layer
        weights = {}
    if weights and all(W is not None for W in weights.values()):
        matrices = _from_component(layer, weights)
    else:
        matrices = _from_linears(layer)
    factor = number(layer.original_block, "attention_in_multiplier", 1.0)  # Falcon-H1
    W_Q, W_K, W_V = (W * factor for W in (matrices.W_Q, matrices.W_K, matrices.W_V))
    return matrices._replace(W_Q=W_Q, W_K=W_K, W_V=W_V)


def _with_own_heads(attention: Any, name: str) -> Any:
    """Return a weight with the model's own key/value heads (HookedTransformer repeats them)."""
    unrepeated = optional(attention, f"_{name}")
    return unrepeated if isinstance(unrepeated, Tensor) else optional(attention, name)


def _from_component(layer: HostLayer, weights: dict[str, Any]) -> AttentionMatrices:
    """Read the matrices as TransformerLens has split them."""
    where = layer.attention_name
    for name, W in weights.items():
        if not isinstance(W, Tensor) or W.ndim != 3:
            raise layer.unsupported(f"has a {name} that cannot be split into heads")
    W = {name: to_float32_cpu(value, f"{where}.{name}") for name, value in weights.items()}
    b = {}
    for name in ("b_Q", "b_K", "b_V"):
        blank = torch.zeros(W[f"W_{name[-1]}"].shape[::2])
        b[name] = _or_zeros(_with_own_heads(layer.attention, name), f"{where}.{name}", blank)
    return AttentionMatrices(**W, **b, b_O=_output_bias(layer, W["W_O"].shape[-1]))


def _from_linears(layer: HostLayer) -> AttentionMatrices:
    """Split the original projections by the layer's own width.

    For layers whose widths differ or that TransformerLens does not hook (Gemma 4).
    """
    if layer.part("is_kv_shared_layer"):
        raise layer.unsupported("reads the keys and values of an earlier layer")
    # Gemma 4's full attention takes its keys for values.
    projections = (("q_proj",), ("k_proj",), ("v_proj", "k_proj"), ("o_proj",))
    q, k, v, o = (layer.part(*names) for names in projections)
    d_head = layer.part("head_dim")
    if d_head is None or q is None or k is None or v is None or o is None:
        raise layer.unsupported("has attention without a W_Q, W_K, W_V and W_O")
    where = layer.attention_name
    W_Q, b_Q = _split(q, d_head, f"{where}.q_proj")
    W_K, b_K = _split(k, d_head, f"{where}.k_proj")
    W_V, b_V = _split(v, d_head, f"{where}.v_proj")
    W_O = to_float32_cpu(o.weight, f"{where}.o_proj")
    b_O = _output_bias(layer, len(W_O), o.bias)
    W_O = W_O.T.reshape(-1, d_head, len(W_O)).contiguous()
    return AttentionMatrices(W_Q, W_K, W_V, W_O, b_Q, b_K, b_V, b_O)


def _split(linear: Any, d_head: int, where: str) -> tuple[Tensor, Tensor]:
    """Return a projection's weight `[heads, d_model, d_head]` and bias `[heads, d_head]`."""
    W = to_float32_cpu(linear.weight, where)
    bias = _or_zeros(linear.bias, where, torch.zeros(len(W) // d_head, d_head))
    return W.reshape(-1, d_head, W.shape[-1]).mT.contiguous(), bias


def _output_bias(layer: HostLayer, d_model: int, bias: Any = None) -> Tensor:
    """Return the bias of `W_O`: the projection's own if it is given, else the component's."""
    bias = optional(layer.attention, "b_O") if bias is None else bias
    return _or_zeros(bias, f"{layer.attention_name}.b_O", torch.zeros(d_model))


def _or_zeros(bias: Any, where: str, blank: Tensor) -> Tensor:
    """Return a bias in the shape of `blank`, or `blank` where there is none."""
    return blank if bias is None else to_float32_cpu(bias, where).reshape(blank.shape)
