"""Interventions on one layer's attention by hooks; the model's weights are not changed.

1. Add a given change to the output of a layer's `W_O`, one change per batch row.
2. Everything after it (post-norms, multipliers, the MLP, later layers) is the model's own.
3. Compare the residual stream after the block with the one of the canonical form: this certifies
   the attention on this prompt, and that the change arrived where it should.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tw_lens.canonical import Block
from tw_lens.errors import UnsupportedModelError
from tw_lens.reading.attention_experts import is_mixture
from tw_lens.reading.forward import ONE_RUN, run_batch
from tw_lens.reading.layer import HostLayer, host_layer
from tw_lens.reading.model_access import architecture_of, number, optional
from tw_lens.reading.model_parts import residual_hooks
from tw_lens.reading.precision import default_tolerance
from tw_lens.reading.states import WRITE_HOOKS, written_parts


class InterventionRun(NamedTuple):
    """The model's logits under every change, and the relative error of its residual stream."""

    logits: Float[Tensor, "edits position d_vocab"]
    residual_error: float


def run_with_head_change(
    model: Any,
    block: Block,
    tokens: Int[Tensor, " position"],
    x: Float[Tensor, "position d_model"],
    change: Float[Tensor, "edits position d_model"],
) -> InterventionRun:
    """Run one prompt once for every change of the output of a layer's `W_O`.

    Args:
        model: a `HookedTransformer` or a `TransformerBridge`; it is run and not changed.
        block: its attention in canonical form.
        tokens: the prompt.
        x: the block's input on this prompt.
        change: what is added to the output of `W_O` (before any post-norm and multiplier).

    Raises:
        UnsupportedModelError: the residual stream after the block differs from the canonical
            form's by more than 1e-4 of its largest entry at a position (in half precision: by more
            than `check` allows).
    """
    layer = host_layer(model, block.layer)
    before, after = residual_hooks(model)[layer.index : layer.index + 2]
    reached: list[bool] = []
    hook = add_to_output(change, reached)
    with ONE_RUN:
        handles = [output_projection(model, layer.index).register_forward_hook(hook)]
        if (explicit := _explicit_sum(layer)) is layer.attention:
            handles.append(explicit.register_forward_hook(hook, prepend=True))
        elif explicit is not None:
            handles.append(explicit.register_forward_hook(_add_to_first_head(change, reached)))
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
    if not reached:
        raise _no_output_projection(layer)
    pattern = block.attention_pattern(x)
    out = block.head_outputs(pattern, block.values(x), x).sum(0) + block.b_O
    rebuilt = []
    for row, change_of_row in enumerate(change):
        of_row = {name: value[row] for name, value in values.items()}
        parts = written_parts(of_row, layer, of_row[before], of_row[after])
        attn_out = block.attention_output.written(out + change_of_row)
        rebuilt.append(block.resid_post(of_row[before], attn_out, parts.mlp_out, parts.cross_out))
    return InterventionRun(logits, require_rebuilt(layer, torch.stack(rebuilt), values[after]))


def require_rebuilt(
    layer: HostLayer,
    rebuilt: Float[Tensor, "edits position d_model"],
    theirs: Float[Tensor, "edits position d_model"],
) -> float:
    """Return the largest error of the stream after a changed block, over its largest entry.

    Raises:
        UnsupportedModelError: it is more than `check` allows.
    """
    gap = (rebuilt - theirs).abs().amax(-1)
    error = float((gap / theirs.abs().amax(-1).clamp_min(1e-30)).max())
    if error < default_tolerance(layer.model):
        return error
    raise layer.unsupported(
        f"has a residual stream after ablation that is off by {error:.0e} from the canonical "
        "form's",
        "check(model, prompt) names the quantity that does not fit; the weights can still be read.",
    )


def output_projection(model: Any, layer: int) -> nn.Module:
    """Return the module whose output is that of `W_O`.

    That is the projection, or in a HookedTransformer and in a mixture the whole attention.

    Raises:
        UnsupportedModelError: the layer's attention has no output projection of its own.
    """
    host = host_layer(model, layer)
    for name in ("o", "o_proj"):
        module = optional(host.attention, name)
        if isinstance(module, nn.Module):
            return module
    if host.original_attention is None:
        if hasattr(host.attention, "W_O"):
            return host.attention
    elif is_mixture(host):  # its output maps are no module of their own
        return host.original_attention
    raise _no_output_projection(host)


def _explicit_sum(layer: HostLayer) -> Any:
    """Return where a bridge sums its heads without calling the projection (`use_attn_result`).

    That is the hook point of the heads' outputs. With a multiplier on what a block adds (Granite)
    only TransformerLens' own hooks reach that point, and the whole attention is returned. None
    where the projection is called.
    """
    if layer.original_attention is None or not optional(layer.model.cfg, "use_attn_result"):
        return None
    if number(layer.block, "residual_contribution_scale", 1.0) != 1.0:
        return layer.attention
    return optional(layer.attention, "hook_result")


def _no_output_projection(layer: HostLayer) -> UnsupportedModelError:
    return UnsupportedModelError(
        architecture_of(layer.model),
        f"the attention of layer {layer.index} has no output projection of its own to change",
        "Spectra, probes and trajectories of the model can still be computed.",
    )


def add_to_output(change: Float[Tensor, "edits position d_model"], reached: list[bool]) -> Any:
    """Return a forward hook that adds to a module's output, in the output's own shape."""

    def add(_module: nn.Module, _inputs: Any, out: Any) -> Any:
        reached.append(True)
        first = out[0] if isinstance(out, tuple) else out
        changed = first + change.to(first).reshape(first.shape)
        return (changed, *out[1:]) if isinstance(out, tuple) else changed

    return add


def _add_to_first_head(change: Float[Tensor, "edits position d_model"], reached: list[bool]) -> Any:
    """Return a forward hook that adds to the first of the heads' outputs before their sum."""

    def add(_module: nn.Module, _inputs: Any, out: Tensor) -> Tensor:
        reached.append(True)
        first = out[..., :1, :] + change.to(out)[..., None, :]
        return torch.cat([first, out[..., 1:, :]], dim=-2)

    return add
