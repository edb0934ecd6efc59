"""The stream that an MLP reads, and the MLP's quantities against the model's own hooks."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tw_lens.canonical import MLP, PreActivations, Weights
from tw_lens.errors import Caveat, UnsupportedModelError
from tw_lens.reading.forward import run_batch
from tw_lens.reading.layer import host_layer
from tw_lens.reading.model_parts import residual_hooks
from tw_lens.reading.states import WRITE_HOOKS, WrittenParts, written_parts

# Of an MLP, and of the dense MLP of a Granite hybrid.
PRE_HOOKS, LINEAR_HOOKS = (
    (f"mlp.{hook}", f"shared_mlp.{hook}") for hook in ("hook_pre", "hook_pre_linear")
)
STREAM_HOOKS = ("ln2.hook_in", "hook_resid_mid")
MLP_HOOKS = (*PRE_HOOKS, *LINEAR_HOOKS, "hook_mlp_out", *STREAM_HOOKS)


def mlp_hooks(n_layers: int) -> list[str]:
    """Return the hooks of the MLPs' quantities; not every block has all of them."""
    return [f"blocks.{layer}.{hook}" for layer in range(n_layers) for hook in MLP_HOOKS]


def read_resid_mid(
    model: Any, weights: Weights, tokens: Int[Tensor, "prompt position"], layer: int
) -> Float[Tensor, "prompt position d_model"]:
    """Return the stream that a layer's MLP reads, for prompts of one length.

    Raises:
        UnsupportedModelError: the layer has no MLP of the canonical form, or no hook shows it.
    """
    mlp, own = weights.mlp(layer), host_layer(model, layer)
    names = residual_hooks(model)[layer : layer + 2]
    hooks = [f"blocks.{layer}.{hook}" for hook in (*STREAM_HOOKS, *WRITE_HOOKS)]
    _, values = run_batch(model, tokens, names, also=hooks)
    before, after = (values[name] for name in names)
    parts = written_parts(values, own, before, after)
    shown = [values.get(name) for name in hooks[:2]]
    found = _mid(mlp, before, parts if layer in weights.attention_layers else None, *shown)
    if found is None:
        raise own.unsupported("has no hook at the stream that its MLP reads")
    return found


def readable_mlp(weights: Weights, layer: int) -> MLP | None:
    """Return the MLP of a layer; None where it is not of the canonical form."""
    try:
        return weights.mlp(layer)
    except UnsupportedModelError:
        return None


def compare_mlp(
    mlp: MLP,
    values: dict[str, Tensor],
    before: Tensor,
    parts: WrittenParts | None,
    *,
    in_half: bool,
) -> list[tuple[str, Tensor, Tensor]]:
    """Return `mlp_pre` and `mlp_out` as (name, ours, the model's), where the model hooks them.

    Args:
        mlp: of the layer.
        values: the values at the model's hooks.
        before: the stream that enters the block.
        parts: what the block's parts add; None in a layer without attention.
        in_half: whether the model is in half precision, where each quantity is computed from the
            model's own previous one.
    """
    own = {hook: values.get(f"blocks.{mlp.layer}.{hook}") for hook in MLP_HOOKS}
    pre, linear = (
        next((own[hook] for hook in hooks if own[hook] is not None), None)
        for hooks in (PRE_HOOKS, LINEAR_HOOKS)
    )
    mid = _mid(mlp, before, parts, own["ln2.hook_in"], own["hook_resid_mid"])
    if mid is None:
        return []
    out = own["hook_mlp_out"]
    if out is None and parts is not None and parts.cross_out is not None:
        out = parts.mlp_out
    y, found = mlp.norm.sphere(mid), []
    ours = mlp.pre_activations_of_points(y)
    # The hooks of a mixture show its own input, or the neurons of one part.
    theirs = None if mlp.routing is not None else _own_pre_activations(ours, pre, linear)
    if theirs is not None:
        found.append(("mlp_pre", _joined(ours), _joined(theirs)))
    used = theirs if in_half and theirs is not None else ours
    if out is not None:
        found.append(("mlp_out", mlp.mlp_out(mlp.activations(used, y), mlp.biases_out(y)), out))
    return found


def _mid(
    mlp: MLP, before: Tensor, parts: WrittenParts | None, read: Tensor | None, middle: Tensor | None
) -> Tensor | None:
    """Return the stream that the MLP reads: the model's own where its block has such a middle.

    A second mixer may add to it beside attention (Falcon-H1).
    """
    if mlp.parallel:
        return before
    if not mlp.stream_norms and middle is not None:
        return middle
    return read if parts is None else mlp.resid_mid(before, parts.attn_out, parts.cross_out)


def _own_pre_activations(
    ours: PreActivations, pre: Tensor | None, linear: Tensor | None
) -> PreActivations | None:
    """Return the model's own inputs of the neurons, if its hooks show them all."""
    if pre is None:
        return None
    if ours.gate is None:
        return PreActivations(None, pre)
    if pre.shape[-1] == 2 * ours.linear.shape[-1]:  # one projection for both
        return PreActivations(*pre.chunk(2, dim=-1))
    return None if linear is None else PreActivations(pre, linear)


def _joined(pre: PreActivations) -> Tensor:
    return pre.linear if pre.gate is None else torch.cat([pre.gate, pre.linear], dim=-1)


def unread_mlps(layers: list[int]) -> tuple[Caveat, ...]:
    """Return the caveat of layers whose MLPs are not of the canonical form."""
    if not layers:
        return ()
    names = ", ".join(map(str, layers))
    return (Caveat("MLPs", f"the MLPs of layers {names} are not read, and not certified."),)
