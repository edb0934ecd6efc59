"""Models that have no canonical form as a whole, or hooks that change them, are rejected."""

from __future__ import annotations

from typing import Any

import torch

from tw_lens.reading.forward import run
from tw_lens.reading.model_access import (
    hf_config_value,
    name_of,
    optional,
    require_model,
    unsupported,
)
from tw_lens.reading.model_parts import residual_hooks
from tw_lens.reading.offloaded import has_meta_weights
from tw_lens.reading.stacks import Stack, is_encoder_decoder

PROBED = 8  # tokens of the run that shows what a user's hooks do
READABLE = {torch.float64, torch.float32, torch.bfloat16, torch.float16}
# The part of a block that mixes several residual streams: where their number stands, and its name.
SEVERAL_STREAMS = {
    "attn_hc": ("hc_mult", "hyper-connections"),  # DeepSeek V4
    "altup": ("altup_num_inputs", "AltUp"),  # Gemma 3n
}


def require_readable(model: Any) -> None:
    """Reject what is no TransformerLens language model, and weights that are not plain numbers.

    Raises:
        TypeError: the model is none of TransformerLens.
        UnsupportedModelError: it has no words, or not one stack of blocks on one residual stream.
        ValueError: weights without data, or quantised.
    """
    require_model(model)
    require_one_stack(model)
    if optional(model, "embed") is None:
        raise unsupported(model, "it has no embed: there are no words to read")
    _require_one_stream(model)
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


def require_one_stack(model: Any) -> None:
    """Reject a model without a stack of blocks of its own.

    Raises:
        UnsupportedModelError: with the stacks that it has instead.
    """
    if optional(model, "blocks") is not None:
        return
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
    names = [name for name, _ in model.named_children() if name.endswith("blocks")]
    found = "it has no single stack of blocks"
    outer, inner = (hf_config_value(model, f"{which}_cycles") for which in "HL")
    if outer and inner:  # HRM-Text
        raise unsupported(
            model,
            f"{found}: two loops, one in the other, run L_blocks {outer * inner} times and "
            f"H_blocks {outer} times, so that a head reads another stream in each run",
        )
    raise unsupported(model, f"{found} ({', '.join(names) or 'none at all'})")


def _require_one_stream(model: Any) -> None:
    """Reject blocks that pass on several streams.

    Before a part of a block they are collapsed into what it reads, and afterwards what it writes
    goes to all of them, by weights that are computed at every position.

    Raises:
        UnsupportedModelError: with the number of streams.
    """
    for part, (setting, name) in SEVERAL_STREAMS.items():
        if any(optional(block, part) is not None for block in model.blocks):
            raise unsupported(
                model,
                f"it carries {hf_config_value(model, setting)} residual streams from block to block"
                f" and mixes them by weights that it computes at every position ({name}), so that "
                "heads do not read and write one stream",
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
