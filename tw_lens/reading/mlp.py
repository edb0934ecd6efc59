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
from tw_lens.reading.experts import TOLERANCE, output_of, possible_experts
from tw_lens.reading.layer import HostLayer
from tw_lens.reading.linear_maps import require_plain_maps
from tw_lens.reading.mlp_parts import HostMLP, host_mlp
from tw_lens.reading.mlp_weights import DenseWeights, dense_weights, neurons
from tw_lens.reading.model_access import (
    hf_config_value,
    number,
    optional,
    resolved_module,
)
from tw_lens.reading.model_exceptions import normalises_output, normalises_stream
from tw_lens.reading.norms import read_head_norm, read_norm
from tw_lens.reading.parallel_experts import parallel_experts

ACTIVATIONS = ("act_fn", "activation_fn", "act", "gelu_impl", "intermediate_act_fn")
MISFITS = (AttributeError, KeyError, IndexError, RuntimeError, StopIteration, TypeError)
N_PROBES, LARGE = 16, 30
REMEDY = "Analyses of its attention still work."


def read_mlp(
    layer: HostLayer, attention_norm: Norm, stream_norms: tuple[Norm, ...], *, centred_stream: bool
) -> MLP:
    """Read the MLP of one layer, float32 on the CPU.

    Raises:
        UnsupportedModelError: the layer has no MLP, or one of another form.
        ValueError: weights without data, quantised, or with NaN.
    """
    host = host_mlp(layer)
    if host is None:
        raise layer.unsupported("has no MLP", REMEDY)
    require_plain_maps(host.component, layer.model, host.name)
    require_plain_maps(host.experts, layer.model, f"{layer.name}.moe")
    norm, parallel = _norm(layer, host, attention_norm)
    common = {
        "layer": layer.index,
        "norm": norm,
        "parallel": parallel,
        "stream_norms": stream_norms,
        "post_norm": _post_norm(layer),
        "centred_stream": centred_stream,
    }
    scale = number(layer.block, "residual_contribution_scale", 1.0)
    original = resolved_module(host.component)
    if host.experts is not None or optional(original, "experts", "input_linear") is not None:
        mixture = host.component if host.experts is None else host.experts
        beside = None if host.experts is None else host.component
        if optional(resolved_module(mixture), "experts", "router") is not None:
            return _mixture(layer, mixture, beside, common | {"multiplier": scale})
    return _dense(layer, host, common, scale)


def _dense(layer: HostLayer, host: HostMLP, common: dict[str, Any], scale: float) -> MLP:
    """Read an MLP without experts; `common` holds what every MLP has."""
    mlp, original = host.component, resolved_module(host.component)
    d_model = int(layer.model.cfg.d_model)
    W_in, W_gate, W_out, b_in, b_gate, b_out = dense_weights(mlp, host.name)
    if W_in is None or W_out is None or W_out.ndim != 2 or len(W_in) != d_model:
        raise layer.unsupported("has an MLP without a W_in and a W_out", REMEDY)
    d_mlp = len(W_out)
    if W_gate is None and W_in.shape[1] == 2 * d_mlp:  # one projection for both (ModernBERT)
        W_gate, W_in = W_in.split(d_mlp, dim=1)
        b_gate, b_in = (None, None) if b_in is None else b_in.split(d_mlp)
    if W_in.shape != (d_model, d_mlp):
        raise layer.unsupported("has an MLP whose W_in and W_out do not fit each other", REMEDY)
    inner_norm = optional(original, "ffn_sub_norm") or optional(mlp, "ln")  # BitNet, solu_ln
    if layer.original_block is None and W_gate is not None:
        if inner_norm is not None:
            raise layer.unsupported("normalises the gates of its MLP and not their product", REMEDY)
        # A HookedTransformer adds b_in to the product, behind the gate.
        b_out = b_out if b_in is None else b_in @ W_out + (0.0 if b_out is None else b_out)
        b_in = None
    weights = neurons(DenseWeights(W_in, W_gate, W_out, b_in, b_gate, b_out))
    assert weights is not None
    found = MLP(
        **weights._asdict(),
        **common,
        activation=_activation(layer, mlp),
        inner_norm=read_head_norm(
            inner_norm, layer.model, f"{host.name}.inner_norm", heads=1, d_head=d_mlp
        ),
        gate_multiplier=number(original, "gate_multiplier", 1.0),  # Falcon-H1
        multiplier=number(original, "down_multiplier", 1.0) * scale,
    )
    probe = torch.randn(4, d_model, generator=torch.Generator().manual_seed(0))
    probe = probe.to(next(mlp.parameters()))
    if host.is_bare and _error(found, probe, output_of(mlp, probe)) > _tolerance(probe):
        raise layer.unsupported("has an MLP of an unknown form", REMEDY)
    if found.inner_norm is None or layer.original_block is None:
        return found
    # TransformerLens leaves the norm out after its own processing (BitNet): what runs decides.
    theirs = output_of(mlp, probe)
    both = (found, replace(found, inner_norm=None))
    return min(both, key=lambda one: _error(one, probe, theirs))


def _error(found: MLP, probe: Tensor, theirs: Tensor) -> float:
    """Return the largest relative error of a canonical MLP on `n(x)`, over positions.

    Args:
        found: the MLP.
        probe: `n(x)` in the number format of the model.
        theirs: the component's own output.
    """
    n_x = probe.float().cpu()
    plain = replace(found, norm=Norm.none(n_x.shape[-1]), post_norm=None, multiplier=1.0)
    activations = plain.activations(plain.pre_activations_of_points(n_x), n_x)
    gap = (plain.mlp_out(activations, plain.biases_out(n_x)) - theirs).abs().amax(-1)
    return float((gap / theirs.abs().amax(-1).clamp_min(1e-30)).max())


def _tolerance(probe: Tensor) -> float:
    return max(TOLERANCE, torch.finfo(probe.dtype).eps * 8)


def _mixture(layer: HostLayer, mixture: Any, beside: Any, common: dict[str, Any]) -> MLP:
    """Read a mixture of experts as one MLP with the neurons of all experts.

    Args:
        layer: the layer.
        mixture: the component.
        beside: an MLP whose output is added to that of the experts; None without one.
        common: what every MLP has.
    """
    original = resolved_module(mixture)
    function = optional(resolved_module(optional(original, "experts")), *ACTIVATIONS)
    activation = _on_cpu(function) if callable(function) else _activation(layer, mixture)
    unit = torch.randn(
        N_PROBES, int(layer.model.cfg.d_model), generator=torch.Generator().manual_seed(0)
    ).to(next(original.parameters()))
    probe = torch.cat([unit, LARGE * unit])  # which reach any clamp
    with contextlib.suppress(*MISFITS):
        theirs = output_of(original, probe)
        if beside is not None:
            theirs = theirs + output_of(beside, probe)
        finite = theirs.isfinite().all(-1)  # half precision may overflow
        probe, theirs = probe[finite.to(probe.device)], theirs[finite]
        where = f"{layer.name}.mlp"
        for found in (
            possible_experts(original, beside, activation, where, unit)
            if optional(original, "experts") is not None
            else parallel_experts(original, activation, where)
        ):
            mlp = MLP(**found._asdict(), **common)
            if _error(mlp, probe, theirs) < _tolerance(probe):
                return mlp
    raise layer.unsupported("has a mixture of experts of an unknown layout", REMEDY)


def _norm(layer: HostLayer, host: HostMLP, attention_norm: Norm) -> tuple[Norm, bool]:
    """Return the norm before the MLP, and whether it reads the block's input."""
    block, model = layer.block, layer.model
    if host.norm is not None:
        return read_norm(host.norm, model, f"{host.name}.norm"), host.is_whole_block
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
