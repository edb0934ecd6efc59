"""The parts of the residual stream: those of one step, and all that a layer reads."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.canonical import Block, Norm, States, Weights
from tw_lens.canonical.weights import ROUNDINGS
from tw_lens.results.base import layer_label

TOLERANCE = 1e-5
BIASES = "biases"
HEAD_LETTERS = ("H", "X")  # of self-attention and of cross-attention
CROSS_NAMES = {"attention": "cross-attention", "bias": "cross-attention bias"}

Parts = dict[str, Float[Tensor, "position d_model"]]


def is_head(name: str) -> bool:
    """Return whether a part of a step is a head: "H3", or "X3" of cross-attention."""
    return name[:1] in HEAD_LETTERS and name[1:].isdigit()


def tolerance_of_sums(weights: Weights) -> float:
    """Return the relative error up to which parts sum: more for a model in half precision."""
    return max(TOLERANCE, ROUNDINGS * weights.rounding)


def step_parts(weights: Weights, states: States, layer: int) -> tuple[Parts, bool]:
    """Return the parts of one step by name, and whether the heads are separated."""
    x, mlp, attn_out = states.stream[layer], states.mlp_out[layer], states.attn_out[layer]
    if layer not in weights.attention_layers:
        return {"attention": attn_out, "MLP": mlp}, True
    block = weights.block(layer)
    most = tolerance_of_sums(weights)
    parts, separated = _attention_parts(block, x, x, attn_out, most)
    crossed: Parts = {}
    if states.crossing is not None:
        mid, source = block.resid_mid(x, attn_out), states.crossing.source
        own, of_heads = _attention_parts(
            weights.cross_block(layer), mid, source, states.crossing.cross_out[layer], most
        )
        crossed = {CROSS_NAMES.get(name, name.replace("H", "X")): own[name] for name in own}
        separated = separated and of_heads
    if block.stream_norms is not None:
        stages = [parts, crossed, {"MLP": mlp}] if crossed else [parts, {"MLP": mlp}]
        return _through_stream_norms(block.stream_norms, x, stages), separated
    parts |= crossed | {"MLP": mlp}
    if block.stream_scale != 1:
        parts = {name: part * block.stream_scale for name, part in parts.items()}
        parts["rest"] = (block.stream_scale - 1) * x
    return parts, separated


def _attention_parts(
    block: Block, x: Tensor, source: Tensor, out: Tensor, most: float
) -> tuple[Parts, bool]:
    """Return the heads and the bias of an attention, or all of it where they do not sum to it.

    Args:
        block: of the attention.
        x: the stream that its queries read.
        source: the stream that its keys and values read.
        out: what it adds.
        most: the largest error of a sum of heads.
    """
    pattern = block.attention_pattern(x, source)
    heads, bias = _contributions(block, block.head_outputs(pattern, block.values(source), x))
    if not relative_error(heads.sum(0) + bias - out, out) < most:
        return {"attention": out}, False
    return {f"H{head}": part for head, part in enumerate(heads)} | {"bias": bias}, True


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


def _through_stream_norms(norms: tuple[Norm, ...], x: Tensor, stages: list[Parts]) -> Parts:
    """Return the parts of `n_2(n_1(x + attention) + MLP)`, each after the norms applied to it.

    A norm follows every stage: attention, cross-attention in a decoder that has it, MLP.
    """
    result, stream = {"rest": x}, x
    for norm, stage in zip(norms, stages, strict=True):
        stream = stream + sum(stage.values())
        linear = norm.linear_at(stream)
        result = {name: linear(part) for name, part in (result | stage).items()}
        result["rest"] = result["rest"] + norm.bias
        stream = norm(stream)
    rest = result.pop("rest") - x
    return result | {"rest": rest}


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
            if name in ("bias", CROSS_NAMES["bias"]):
                parts[BIASES] = parts[BIASES] + part
            else:
                own = layer_label(earlier, states.model_name)
                parts[f"{own}{name}" if is_head(name) else f"{own} {name}"] = part
    return parts
