"""Weights of an MLP without experts, by TransformerLens' names or those of a bare module."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tw_lens.reading.model_access import is_bridged, optional, resolved_module, to_float32_cpu

LINEARS = {"in": "up_proj", "gate": "gate_proj", "out": "down_proj"}


class DenseWeights(NamedTuple):
    """Matrices as they multiply rows from the left, and biases; None for what there is not."""

    W_in: Tensor | None
    W_gate: Tensor | None
    W_out: Tensor | None
    b_in: Tensor | None
    b_gate: Tensor | None
    b_out: Tensor | None


class Neurons(NamedTuple):
    """The same with zeros for missing biases; gates are None where there are none."""

    W_in: Tensor
    W_gate: Tensor | None
    W_out: Tensor
    b_in: Tensor
    b_gate: Tensor | None
    b_out: Tensor


def dense_weights(component: Any, where: str) -> DenseWeights:
    """Read the weights of a component, or of a bare module with three linear maps.

    Raises:
        ValueError: weights without data, quantised, or with NaN.
    """
    return DenseWeights(*(_weight(component, name, where) for name in DenseWeights._fields))


def neurons(weights: DenseWeights) -> Neurons | None:
    """Return weights with zeros for the biases that are None; None without both matrices."""
    W_in, W_gate, W_out, b_in, b_gate, b_out = weights
    if W_in is None or W_out is None or W_out.ndim != 2:
        return None
    d_mlp, d_model = W_out.shape
    return Neurons(
        W_in,
        W_gate,
        W_out,
        torch.zeros(d_mlp) if b_in is None else b_in,
        None if W_gate is None else torch.zeros(d_mlp) if b_gate is None else b_gate,
        torch.zeros(d_model) if b_out is None else b_out,
    )


def _weight(component: Any, name: str, where: str) -> Tensor | None:
    """Return a weight or bias of the component by TransformerLens' name; None without it."""
    kind, side = name.split("_")
    try:
        value = getattr(component, name, None)
    except (AttributeError, NotImplementedError, ValueError):  # the bridge has no such part
        return None
    if value is None and not is_bridged(component):
        linear = resolved_module(optional(component, LINEARS[side]))
        value = optional(linear, "bias" if kind == "b" else "weight")
        value = value.T if isinstance(value, Tensor) and kind == "W" else value
    if isinstance(value, Tensor) and value.is_meta and kind == "b":
        # The name may still refer to what was there before offloaded weights were materialised.
        value = optional(resolved_module(optional(component, side)), "bias")
    return to_float32_cpu(value, f"{where}.{name}") if isinstance(value, Tensor) else None
