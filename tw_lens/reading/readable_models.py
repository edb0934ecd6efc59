"""Which models can be read: one stack of blocks, words, plain numbers, no hooks that change it."""

from __future__ import annotations

from typing import Any

import torch

from tw_lens.reading.forward import run
from tw_lens.reading.model_access import name_of, optional, require_model, unsupported
from tw_lens.reading.model_parts import residual_hooks
from tw_lens.reading.offloaded import has_meta_weights
from tw_lens.reading.stacks import Stack, is_encoder_decoder

PROBED = 8  # tokens of the run that shows what a user's hooks do
READABLE = {torch.float64, torch.float32, torch.bfloat16, torch.float16}


def require_readable(model: Any) -> None:
    """Reject what is no TransformerLens language model, and weights that are not plain numbers."""
    require_model(model)
    if optional(model, "blocks") is None:
        if is_encoder_decoder(model):
            raise unsupported(
                model,
                "it has an encoder and a decoder",
                'Give one of them: stack(model, "encoder"), "decoder" or "cross".',
            )
        if optional(model, "encoder") is not None and optional(model, "decoder") is not None:
            raise unsupported(
                model,
                "its encoder and decoder are in TransformerLens' older form",
                "Load the model as a TransformerBridge (boot_transformers), and give one of its "
                'stacks: stack(model, "encoder"), "decoder" or "cross".',
            )
        stacks = [name for name, _ in model.named_children() if name.endswith("blocks")]
        raise unsupported(
            model, f"it has no single stack of blocks ({', '.join(stacks) or 'none at all'})"
        )
    if optional(model, "embed") is None:
        raise unsupported(model, "it has no embed: there are no words to read")
    if has_meta_weights(model):
        raise ValueError(
            f"weights of {name_of(model)} are on the meta device, without data; load them first."
        )
    packed = {p.dtype for p in model.parameters()} - READABLE
    if packed:
        raise ValueError(
            f"weights of {name_of(model)} are quantised ({', '.join(map(str, packed))}), so their "
            "entries are not the model's weights; load it in float32, bfloat16 or float16."
        )


def require_effectless_hooks(model: Any, d_vocab: int) -> None:
    """Reject plain PyTorch hooks on modules that change a short run.

    Raises:
        ValueError: they change it.
    """
    if isinstance(model, Stack) and not model.is_encoder:
        model = Stack(model.whole_model, "decoder", torch.tensor([0]))
    n = min(PROBED, int(model.cfg.n_ctx))
    ids = torch.linspace(0, d_vocab - 1, n).long()
    run(model, ids, residual_hooks(model))
