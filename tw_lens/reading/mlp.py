"""The MLP of one layer, from a TransformerLens component to its canonical form."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tw_lens.canonical import MLP, Norm
from tw_lens.reading.experts import read_experts
from tw_lens.reading.layer import HostLayer
from tw_lens.reading.linear_maps import require_plain_maps
from tw_lens.reading.model_access import (
    hf_config_value,
    number,
    optional,
    original_module,
    resolved_module,
    to_float32_cpu,
)
from tw_lens.reading.model_exceptions import normalises_output, normalises_stream
from tw_lens.reading.norms import read_head_norm, read_norm
from tw_lens.reading.parallel_experts import read_parallel_experts

ACTIVATIONS = ("act_fn", "activation_fn", "act", "gelu_impl", "intermediate_act_fn")
MISFITS = (AttributeError, KeyError, IndexError, RuntimeError, StopIteration, TypeError)
REMEDY = "Analyses of its attention still work."


def read_mlp(
    layer: HostLayer, attention_norm: Norm, stream_norms: tuple[Norm, ...], *, centred_stream: bool
) -> MLP:
    """Read the MLP of one layer, float32 on the CPU.

    Raises:
        UnsupportedModelError: the layer has no MLP, or one of another form.
        ValueError: weights without data, quantised, or with NaN.
    """
    mlp, where = optional(layer.block, "mlp"), f"{layer.name}.mlp"
    if mlp is None or (mlp is not original_module(mlp) and resolved_module(mlp) is None):
        raise layer.unsupported("has no MLP that TransformerLens shows", REMEDY)
    original = resolved_module(mlp)
    require_plain_maps(mlp, layer.model, where)
    if optional(original, "experts", "input_linear") is not None:
        return _mixture(layer, mlp, attention_norm, stream_norms, centred_stream=centred_stream)
    d_model = int(layer.model.cfg.d_model)
    W_in, W_gate, W_out = (_weight(mlp, name, where) for name in ("W_in", "W_gate", "W_out"))
    if W_in is None or W_out is None or W_out.ndim != 2 or len(W_in) != d_model:
        raise layer.unsupported("has an MLP without a W_in and a W_out", REMEDY)
    d_mlp = len(W_out)
    b_in, b_gate = _weight(mlp, "b_in", where), _weight(mlp, "b_gate", where)
    if W_gate is None and W_in.shape[1] == 2 * d_mlp:  # one projection for both (ModernBERT)
        W_gate, W_in = W_in.split(d_mlp, dim=1)
        b_gate, b_in = (None, None) if b_in is None else b_in.split(d_mlp)
    if W_in.shape != (d_model, d_mlp):
        raise layer.unsupported("has an MLP whose W_in and W_out do not fit each other", REMEDY)
    b_out = _weight(mlp, "b_out", where)
    b_out = torch.zeros(d_model) if b_out is None else b_out
    inner_norm = optional(original, "ffn_sub_norm") or optional(mlp, "ln")  # BitNet, solu_ln
    if layer.original_block is None and W_gate is not None:
        if inner_norm is not None:
            raise layer.unsupported("normalises the gates of its MLP and not their product", REMEDY)
        # A HookedTransformer adds b_in to the product, behind the gate.
        b_in, b_out = None, b_out if b_in is None else b_out + b_in @ W_out
    norm, parallel = _norm(layer, attention_norm)
    found = MLP(
        layer=layer.index,
        norm=norm,
        W_in=W_in,
        W_out=W_out,
        b_in=torch.zeros(d_mlp) if b_in is None else b_in,
        b_out=b_out,
        activation=_activation(layer, mlp),
        W_gate=W_gate,
        b_gate=None if W_gate is None else torch.zeros(d_mlp) if b_gate is None else b_gate,
        parallel=parallel,
        stream_norms=stream_norms,
        inner_norm=read_head_norm(
            inner_norm, layer.model, f"{where}.inner_norm", heads=1, d_head=d_mlp
        ),
        post_norm=_post_norm(layer),
        gate_multiplier=number(original, "gate_multiplier", 1.0),  # Falcon-H1
        multiplier=number(original, "down_multiplier", 1.0)
        * number(layer.block, "residual_contribution_scale", 1.0),
        centred_stream=centred_stream,
    )  # fmt: skip
    if found.inner_norm is None or layer.original_block is None:
        return found
    # TransformerLens leaves the norm out after its own processing (BitNet): what runs decides.
    return min((found, replace(found, inner_norm=None)), key=lambda one: _error(one, mlp))


def _error(found: MLP, mlp: Any) -> float:
    """Return the largest gap of a canonical MLP and the component's own output on `n(x)`."""
    n_x = torch.randn(4, len(found.W_in), generator=torch.Generator().manual_seed(0))
    weight = next(mlp.parameters())
    with torch.no_grad():
        theirs = mlp(n_x[None].to(weight))[0].float().cpu()
    plain = replace(found, norm=Norm.none(len(found.W_in)), post_norm=None, multiplier=1.0)
    pre = plain.pre_activations_of_points(n_x)
    return float((plain.mlp_out(plain.activations(pre, n_x)) - theirs).abs().max())


def _mixture(
    layer: HostLayer, mlp: Any, attention_norm: Norm, stream_norms: tuple[Norm, ...], *,
    centred_stream: bool,
) -> MLP:  # fmt: skip
    """Read a mixture of experts as one MLP with the neurons of all experts."""
    original = resolved_module(mlp)
    function = optional(resolved_module(optional(original, "experts")), *ACTIVATIONS)
    activation = _on_cpu(function) if callable(function) else _activation(layer, mlp)
    found = None
    with contextlib.suppress(*MISFITS):
        read = read_experts if optional(original, "experts") is not None else read_parallel_experts
        found = read(original, activation, f"{layer.name}.mlp")
    if found is None:
        raise layer.unsupported("has a mixture of experts of an unknown layout", REMEDY)
    norm, parallel = _norm(layer, attention_norm)
    d_mlp, d_model = found.W_out.shape
    return MLP(
        layer=layer.index,
        norm=norm,
        W_in=found.W_in,
        W_out=found.W_out,
        b_in=torch.zeros(d_mlp),
        b_out=torch.zeros(d_model) if found.b_out is None else found.b_out,
        activation=activation,
        W_gate=found.W_gate,
        b_gate=torch.zeros(d_mlp),
        parallel=parallel,
        stream_norms=stream_norms,
        post_norm=_post_norm(layer),
        multiplier=number(layer.block, "residual_contribution_scale", 1.0),
        centred_stream=centred_stream,
        routing=found.routing,
        experts=found.names,
        W_router=found.W_router,
        b_router=found.b_router,
    )


def _weight(mlp: Any, name: str, where: str) -> Tensor | None:
    """Return a weight or bias of the component by TransformerLens' name; None without it."""
    try:
        value = getattr(mlp, name, None)
    except (AttributeError, NotImplementedError, ValueError):  # the bridge has no such part
        return None
    if isinstance(value, Tensor) and value.is_meta and name.startswith("b_"):
        # The name may still refer to what was there before offloaded weights were materialised.
        value = optional(resolved_module(optional(mlp, name[2:])), "bias")
    return to_float32_cpu(value, f"{where}.{name}") if isinstance(value, Tensor) else None


def _norm(layer: HostLayer, attention_norm: Norm) -> tuple[Norm, bool]:
    """Return the norm before the MLP, and whether it reads the block's input."""
    block, model = layer.block, layer.model
    parallel = _is_parallel(layer)
    none = Norm.none(int(model.cfg.d_model))
    if normalises_stream(model) or normalises_output(model):
        return none, parallel
    ln2 = optional(block, "ln2")
    if ln2 is not None and resolved_module(ln2) is not None:
        return read_norm(ln2, model, f"{layer.name}.ln2"), parallel
    return (attention_norm if parallel else none), parallel


def _is_parallel(layer: HostLayer) -> bool:
    """Return whether the MLP reads the block's input: a bridge's block has no middle then."""
    if normalises_stream(layer.model):
        return False
    if layer.original_block is None:
        return bool(optional(layer.model.cfg, "parallel_attn_mlp"))
    return not hasattr(layer.block, "hook_resid_mid")


def _post_norm(layer: HostLayer) -> Norm | None:
    """Return the norm of what the MLP adds; None without one."""
    name = "ln2" if normalises_output(layer.model) else "ln2_post"
    module = optional(layer.block, name)
    if module is None or resolved_module(module) is None:
        return None
    return read_norm(module, layer.model, f"{layer.name}.{name}")


def _activation(layer: HostLayer, mlp: Any) -> Callable[[Tensor], Tensor]:
    """Return the activation function as the model calls it, for float32 tensors on the CPU."""
    original = resolved_module(mlp)
    for owner in (original, optional(original, "intermediate"), mlp):
        function = optional(owner, *ACTIVATIONS) if owner is not None else None
        if callable(function):
            return _on_cpu(function)
    from transformers.activations import ACT2FN

    name = hf_config_value(layer.model, "hidden_act", "activation_function")
    name = name or optional(layer.model.cfg, "act_fn")
    if name not in ACT2FN:
        raise layer.unsupported(f"has an activation function {name!r} that is not found", REMEDY)
    return ACT2FN[name]


def _on_cpu(function: Any) -> Callable[[Tensor], Tensor]:
    """Return a function, its parameters copied to the CPU in float32 if it has any."""
    if isinstance(function, torch.nn.Module) and any(True for _ in function.parameters()):
        function = copy.deepcopy(function).float().cpu().requires_grad_(False)
    return function
