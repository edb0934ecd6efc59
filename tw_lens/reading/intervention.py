"""The running model with one layer's attention changed by hooks; its weights stay as they are.

1. What a layer's `W_O` gives is changed by what is asked, in every row of a batch by its own.
2. Whatever stands behind it (post-norms, multipliers, the MLP, later layers) is the model's own.
3. The stream behind the block is compared with what the canonical form says it must be: this
   certifies the attention on this prompt, and that the change went where it should.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tw_lens.canonical import Block
from tw_lens.errors import UnsupportedModelError
from tw_lens.reading.certificate import default_tolerance
from tw_lens.reading.forward import residual_hooks, run_batch
from tw_lens.reading.model_access import architecture_of, attention_of, resolved_module
from tw_lens.reading.states import attn_and_mlp_out, write_hooks


class InterventionRun(NamedTuple):
    """The model's logits with every change, and how far the stream is from what it must be."""

    logits: Float[Tensor, "edits position d_vocab"]
    residual_error: float


def run_with_head_change(
    model: Any,
    block: Block,
    tokens: Int[Tensor, " position"],
    x: Float[Tensor, "position d_model"],
    change: Float[Tensor, "edits position d_model"],
) -> InterventionRun:
    """Run one prompt once for every change of what a layer's `W_O` gives.

    Args:
        model: a `HookedTransformer` or a `TransformerBridge`; it is run and not changed.
        block: its attention in canonical form.
        tokens: the prompt.
        x: the stream that enters the block on this prompt.
        change: what is added to the output of `W_O` (before any post-norm and multiplier).

    Raises:
        UnsupportedModelError: the stream behind the block is not what the canonical form says (1e-4 of
            its largest entry at a position; in half precision what `check` allows).
    """
    layer, names = block.layer, residual_hooks(len(model.blocks))
    here, after = names[layer : layer + 2]
    reached: list[bool] = []
    handle = output_projection(model, layer).register_forward_hook(_adding(change, reached))
    try:
        logits, held = run_batch(
            model,
            tokens.expand(len(change), -1),
            [here, after],
            also=[name for name in write_hooks(layer + 1) if name.startswith(f"blocks.{layer}.")],
        )
    finally:
        handle.remove()
    if not reached:
        raise _no_output(model, layer)
    pattern = block.attention_pattern(x)
    out = block.head_outputs(pattern, block.values(x), x).sum(0) + block.b_O
    made = []
    for row, added in enumerate(change):
        own = {name: value[row] for name, value in held.items()}
        _, rest = attn_and_mlp_out(own, model, layer, own[here], own[after])
        made.append(block.resid_post(own[here], block.attention_output.written(out + added), rest))
    miss = (torch.stack(made) - held[after]).abs().amax(-1)
    residual_error = float((miss / held[after].abs().amax(-1).clamp_min(1e-30)).max())
    if not residual_error < default_tolerance(model):
        raise UnsupportedModelError(
            architecture_of(model),
            f"with a piece of layer {layer} taken out its stream is off by {residual_error:.0e} from the "
            "canonical form's",
            "check(model, prompt) says which quantity does not fit; the weights can still be read.",
        )
    return InterventionRun(logits, residual_error)


def output_projection(model: Any, layer: int) -> nn.Module:
    """The module whose output is that of `W_O`: the projection, or a HookedTransformer's attention.

    Raises:
        UnsupportedModelError: the layer's attention has no output projection of its own.
    """
    attention = attention_of(model.blocks[layer])
    for name in ("o", "o_proj"):
        module = getattr(attention, name, None)
        if isinstance(module, nn.Module):
            return module
    if resolved_module(attention) is attention and hasattr(attention, "W_O"):
        return attention
    raise _no_output(model, layer)


def _no_output(model: Any, layer: int) -> UnsupportedModelError:
    return UnsupportedModelError(
        architecture_of(model),
        f"the attention of layer {layer} has no output projection of its own to change",
        "Spectra, probes and walks of the model can still be computed.",
    )


def _adding(change: Float[Tensor, "edits position d_model"], reached: list[bool]) -> Any:
    """A forward hook that adds to a module's output, shaped as the module has it."""

    def add(_module: nn.Module, _given: Any, out: Any) -> Any:
        reached.append(True)
        first = out[0] if isinstance(out, tuple) else out
        changed = first + change.to(first).reshape(first.shape)
        return (changed, *out[1:]) if isinstance(out, tuple) else changed

    return add
