"""The parts of the residual stream: those of one step, and all that a layer reads."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.canonical import Block, Norm, States, Weights
from tw_lens.canonical.weights import ROUNDINGS

TOLERANCE = 1e-5
BIASES = "biases"

Parts = dict[str, Float[Tensor, "position d_model"]]


def tolerance_of_sums(weights: Weights) -> float:
    """Return the relative error up to which parts sum: more for a model in half precision."""
    return max(TOLERANCE, ROUNDINGS * weights.rounding)


def step_parts(weights: Weights, states: States, layer: int) -> tuple[Parts, bool]:
    """Return the parts of one step by name, and whether the heads are separated."""
    x, mlp, attn_out = states.stream[layer], states.mlp_out[layer], states.attn_out[layer]
    if layer not in weights.attention_layers:
        return {"attention": attn_out, "MLP": mlp}, True
    block = weights.block(layer)
    pattern = block.attention_pattern(x)
    heads, bias = _contributions(block, block.head_outputs(pattern, block.values(x), x))
    gap = relative_error(heads.sum(0) + bias - attn_out, attn_out)
    separated = gap < tolerance_of_sums(weights)
    parts: Parts = {"attention": attn_out}
    if separated:
        parts = {f"H{head}": part for head, part in enumerate(heads)} | {"bias": bias}
    parts |= {"MLP": mlp}
    if block.stream_norms is not None:
        return _through_stream_norms(block.stream_norms, x, attn_out, parts), separated
    if block.stream_scale != 1:
        parts = {name: part * block.stream_scale for name, part in parts.items()}
        parts["rest"] = (block.stream_scale - 1) * x
    return parts, separated


def _contributions(
    block: Block, heads: Float[Tensor, "n_heads position d_model"]
) -> tuple[Float[Tensor, "n_heads position d_model"], Float[Tensor, "position d_model"]]:
    """Return the contributions of the heads and of the bias, after norm and multiplier."""
    bias = block.b_O.expand(heads.shape[1:])
    norm, m = block.attention_output.norm, block.attention_output.multiplier
    if norm is None:
        return m * heads, m * bias
    linear = norm.linear_at(heads.sum(0) + bias)
    return m * linear(heads), m * (linear(bias) + norm.bias)


def _through_stream_norms(
    norms: tuple[Norm, Norm], x: Tensor, attn_out: Tensor, parts: Parts
) -> Parts:
    """Return the parts of `n_2(n_1(x + attention) + MLP)`, each after the norms applied to it."""
    first, second = norms
    inner = first(x + attn_out)
    linear_1, linear_2 = first.linear_at(x + attn_out), second.linear_at(inner + parts["MLP"])
    result = {
        name: linear_2(part if name == "MLP" else linear_1(part)) for name, part in parts.items()
    }
    biases = linear_2(first.bias.expand_as(x)) + second.bias
    result["rest"] = linear_2(linear_1(x)) + biases - x
    return result


def relative_error(difference: Tensor, reference: Tensor) -> float:
    """Return the largest entry of a difference over the largest entry of its reference."""
    error, largest = float(difference.abs().max()), float(reference.abs().max())
    return error / largest if largest else error


def stream_parts(weights: Weights, states: States, layer: int) -> Parts:
    """Return the parts of the stream that enters a layer, by name; biases are one part."""
    start, parts = states.stream[0], {}
    positions = weights.positions if weights.vocabulary.norm is None else None
    if positions is None:
        parts["embedding"] = start
    else:
        parts["position"] = positions[: len(states)]
        parts["embedding"] = start - parts["position"]
    parts[BIASES] = torch.zeros_like(start)
    for earlier in range(layer):
        of_step, _ = step_parts(weights, states, earlier)
        for name, part in of_step.items():
            if name == "bias":
                parts[BIASES] = parts[BIASES] + part
            else:
                parts[f"L{earlier}{name}" if name.startswith("H") else f"L{earlier} {name}"] = part
    return parts
