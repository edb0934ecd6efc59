"""Factors between an encoder-decoder's parts, measured in a run of one token.

T5 multiplies what its decoder hands to the unembedding where the two share a matrix, T5Gemma what
its embeddings hand to the first block; neither has a module that does it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tw_lens.canonical import Norm
from tw_lens.reading.forward import run
from tw_lens.reading.model_access import hf_config_value, optional, resolved_module, unsupported
from tw_lens.reading.model_parts import residual_hooks
from tw_lens.reading.stacks import Stack

READ_OUT, FIRST = "unembed.hook_in", "blocks.0.hook_resid_pre"
MOST = 1e-4  # relative; rounding in half precision is larger and passes by ROUNDED
ROUNDED = 2e-2


def embedding_factor(model: Stack, W_E: Tensor, position: Tensor | None) -> float | None:
    """Return the factor between an embedding's row and the stream that enters the first block.

    None where a norm lies between them.

    Args:
        model: the stack.
        W_E: its embedding.
        position: what is added for position 0; None where positions are not added.

    Raises:
        UnsupportedModelError: something else lies between them.
    """
    norm = optional(model, "embed_ln")
    if norm is not None and resolved_module(norm) is not None:
        return None
    rows = W_E.any(-1).nonzero().flatten().tolist()
    row = next(row for row in rows if row != hf_config_value(model, "pad_token_id"))
    runnable = model if model.is_encoder else _decoder_of_one_token(model)
    _, values = run(runnable, torch.tensor([row]), [FIRST])
    embedded = values[FIRST] if position is None else values[FIRST] - position
    return _ratio(model, embedded, W_E[row].detach().float().cpu()[None], "embedding")


def readout_factor(model: Stack, norm: Norm) -> float:
    """Return the factor between the final norm's output and what the unembedding reads.

    Raises:
        UnsupportedModelError: something else lies between them.
    """
    if optional(model, "ln_final") is None:
        return 1.0
    decoder = _decoder_of_one_token(model)
    last = residual_hooks(decoder)[-1]
    _, values = run(decoder, _one_token(model), [READ_OUT, last])
    return _ratio(model, values[READ_OUT], norm(values[last]), "final norm")


def _decoder_of_one_token(model: Stack) -> Stack:
    """Return the decoder of the same model, beside a source of one token."""
    return Stack(model.whole_model, "decoder", _one_token(model))


def _one_token(model: Stack) -> Tensor:
    """Return a token that pads nothing: some models mask padding by its id (T5Gemma)."""
    return torch.tensor([1 if hf_config_value(model, "pad_token_id") == 0 else 0])


def _ratio(model: Stack, after: Tensor, before: Tensor, name: str) -> float:
    """Return the factor between two values, exactly 1 where it is within rounding."""
    ratio = float((after * before).sum() / before.square().sum())
    gap = float((after - ratio * before).abs().max() / after.abs().max())
    step = max(torch.finfo(p.dtype).eps for p in model.parameters())
    if not gap < max(MOST, ROUNDED if step > MOST else 0):
        raise unsupported(model, f"more than a factor follows its {name}")
    return 1.0 if abs(ratio - 1) < max(MOST, step) else ratio
