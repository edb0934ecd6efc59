"""Interventions on one layer's MLP by hooks; the model's weights are not changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tw_lens.canonical import MLP, Weights
from tw_lens.reading.forward import ONE_RUN, run_batch
from tw_lens.reading.intervention import InterventionRun, add_to_output, require_rebuilt
from tw_lens.reading.layer import HostLayer, host_layer
from tw_lens.reading.mlp_parts import host_mlp
from tw_lens.reading.model_access import optional
from tw_lens.reading.model_parts import residual_hooks
from tw_lens.reading.states import WRITE_HOOKS, WrittenParts, written_parts


def run_with_mlp_change(
    model: Any,
    weights: Weights,
    mlp: MLP,
    tokens: Int[Tensor, " position"],
    own: tuple[Float[Tensor, "position d_mlp"], Float[Tensor, "*position d_model"]],
    change: Float[Tensor, "edits position d_model"],
) -> InterventionRun:
    """Run one prompt once for every change of what the neurons of a layer write together.

    Args:
        model: a `HookedTransformer` or a `TransformerBridge`; it is run and not changed.
        weights: from `read_weights`.
        mlp: the MLP in canonical form.
        tokens: the prompt.
        own: the activations of its neurons on this prompt, and what its biases add.
        change: what is added to `activations W_out` (before any post-norm and multiplier); nothing
            in row 0.

    Raises:
        UnsupportedModelError: the residual stream after the block differs from the canonical form's
            by more than 1e-4 of its largest entry at a position (in half precision: by more than
            `check` allows).
    """
    layer = host_layer(model, mlp.layer)
    before, after = residual_hooks(model)[layer.index : layer.index + 2]
    reached: list[bool] = []
    with ONE_RUN:
        handles = [
            module.register_forward_hook(hook)
            for module, hook in _hooks(layer, mlp, change, reached)
        ]
        try:
            logits, values = run_batch(
                model,
                tokens.expand(len(change), -1),
                [before, after],
                also=[f"{layer.name}.{hook}" for hook in WRITE_HOOKS],
            )
        finally:
            for handle in handles:
                handle.remove()
    plain = {name: value[0] for name, value in values.items()}
    x = plain[before]
    parts = written_parts(plain, layer, x, plain[after])
    rebuilt = torch.stack(
        [_after(weights, mlp.layer, x, parts, mlp.mlp_out(*own, change=row)) for row in change]
    )
    error = require_rebuilt(layer, rebuilt, values[after])
    if not reached:
        raise layer.unsupported(
            "has an MLP whose output projection is not called, so that nothing can be changed",
            "Its neurons can still be read.",
        )
    return InterventionRun(logits, error)


def _after(
    weights: Weights,
    layer: int,
    x: Float[Tensor, "position d_model"],
    parts: WrittenParts,
    mlp_out: Float[Tensor, "position d_model"],
) -> Float[Tensor, "position d_model"]:
    """Return the residual stream after a block from what its parts add."""
    if layer in weights.attention_layers:
        return weights.block(layer).resid_post(x, parts.attn_out, mlp_out, parts.cross_out)
    return x + parts.attn_out + mlp_out


def _hooks(
    layer: HostLayer, mlp: MLP, change: Float[Tensor, "edits position d_model"], reached: list[bool]
) -> Iterator[tuple[nn.Module, Any]]:
    """Yield the modules and hooks that add to the sum over neurons, before anything else does.

    That is the projection, or where it is not called (after TransformerLens' own processing) the
    whole MLP; of a mixture, the whole or the dense MLP beside it.
    """
    host = host_mlp(layer)
    assert host is not None  # it was read from there
    add, called = add_to_output(change, reached), list[bool]()
    names = () if mlp.routing is not None else ("out", "dense_out", "down_proj")
    projection = optional(host.component, *names)

    def project(module: nn.Module, inputs: Any, out: Any) -> Any:
        called.append(True)
        return add(module, inputs, out)

    def whole(module: nn.Module, inputs: Any, out: Any) -> Any:
        if not called:
            return add(module, inputs, out)
        called.clear()
        return None

    if isinstance(projection, nn.Module):
        yield projection, project
    yield host.component, whole
