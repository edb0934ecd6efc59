"""Caches of a whole prompt, told from those of some of its positions by running the model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tw_lens.reading.forward import read_residuals
from tw_lens.reading.layer import host_layers
from tw_lens.reading.precision import coarsest_step, default_tolerance
from tw_lens.reading.user_hooks import without_hooks


def require_whole_prompt(model: Any, stream: Tensor, tokens: Tensor) -> None:
    """Reject a cached residual stream that these tokens, as a whole prompt, do not produce.

    Compared are the embedding and the output of the blocks up to the first with attention: the
    states of some positions (`pos_slice`) or of a padded row have looked at others than those in
    the cache. Later blocks may differ: their change is the user's own. The error is that of what a
    block added, beyond the rounding of the stream.

    Args:
        model: the model, run once.
        stream: the cached residual stream `[layers_and_end, position, d_model]`.
        tokens: the ids that produced the cache.

    Raises:
        ValueError: the cache is of another prompt, of some positions, or of a changed run.
    """
    with without_hooks(model):
        own = read_residuals(model, tokens[None])[0]
    with_attention = [layer.index for layer in host_layers(model) if layer.attention is not None]
    end = with_attention[0] + 2 if with_attention else len(own)
    own, stream = own[:end], stream[:end]
    added = torch.cat([own[:1], own.diff(dim=0)]).abs().amax(-1)
    excess = (stream - own).abs() - 2 * coarsest_step(model) * own.abs()
    errors = excess.clamp_min(0).amax(-1) / added.clamp_min(torch.finfo(torch.float32).tiny)
    if float(errors.max()) < default_tolerance(model):
        return
    index, position = divmod(int(errors.argmax()), errors.shape[-1])
    raise ValueError(
        f"the cache is not of these {len(tokens)} tokens as a whole prompt: what enters layer "
        f"{index} at position {position} is off by {float(errors.max()):.0e} from the model's own "
        "(a cache of some positions, of a padded row, of other tokens, or of a changed run); give "
        "the prompt itself, read_states(model, tokens)."
    )
