"""Permuted weights, a randomised-weights baseline for claims about training."""

from __future__ import annotations

import copy
from typing import Any

import torch

from tw_lens.arguments import checked
from tw_lens.errors import UnsupportedModelError
from tw_lens.reading.model_access import architecture_of, require_model

PATCHED = "_original_block_forward"  # T5's blocks keep the forward pass they had
LEAVE_OUT = "Leave this control out: controls=('shuffled layers', 'random steps')."


@checked
def permute_weights(model: Any, *, seed: int = 0) -> Any:
    """Return a copy of the model with the entries of every tensor in random order.

    Every matrix, gain and bias keeps its set of values, so that their sizes and standard
    deviations are the model's own; the arrangement that training produced is destroyed. Tied
    tensors stay tied. The model itself is not changed; its copy takes as much memory again.

    Args:
        model: a `HookedTransformer` or a `TransformerBridge`.
        seed: the seed of the permutations.

    Raises:
        UnsupportedModelError: its weights are not in memory, or are not plain numbers.

    Example:
        >>> permuted = permute_weights(model)
        >>> permuted.W_E.shape == model.W_E.shape, bool((permuted.W_E == model.W_E).all())
        (True, False)
    """
    require_model(model)
    if any(p.is_meta or not p.is_floating_point() for p in model.parameters()):
        raise UnsupportedModelError(
            architecture_of(model),
            "its weights are offloaded or quantised, and permuting weights needs a copy",
            LEAVE_OUT,
        )
    if any(vars(module).get(PATCHED) is not None for module in model.modules()):
        raise UnsupportedModelError(
            architecture_of(model),
            "a copy of its blocks still calls the hooks of the model itself, because "
            "TransformerLens patches their forward pass",
            LEAVE_OUT,
        )
    permuted = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in permuted.parameters():
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return permuted
