"""A model's permuted weights, the control of every claim about training, and a model's fingerprint."""

from __future__ import annotations

import copy
import hashlib
from typing import Any

import torch

from tw_lens.errors import UnsupportedModelError
from tw_lens.reading.model_access import architecture_of

ENTRIES_READ = 64


def permute_weights(model: Any, *, seed: int = 0) -> Any:
    """The same architecture with random weights: the entries of every tensor in random order.

    Every matrix, gain and bias keeps its values, so that sizes and spreads are the model's own;
    what training has arranged is gone. Tied tensors stay tied. The model itself is not changed;
    its copy takes as much memory again.

    Args:
        model: a `HookedTransformer` or a `TransformerBridge`.
        seed: of the shuffling.

    Raises:
        UnsupportedModelError: its weights are not in memory, or are not plain numbers.

    Example:
        >>> twin = permute_weights(model)
        >>> twin.W_E.shape == model.W_E.shape, fingerprint(twin) == fingerprint(model)
        (True, False)
    """
    if any(p.is_meta or not p.is_floating_point() for p in model.parameters()):
        raise UnsupportedModelError(
            architecture_of(model),
            "its weights are kept outside memory or are packed, and a permuted weights needs a copy",
            "Leave the control out: controls=('shuffled layers', 'random steps').",
        )
    twin = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for find_tensor in twin.parameters():
            order = torch.randperm(find_tensor.numel(), generator=generator).to(find_tensor.device)
            find_tensor.copy_(find_tensor.flatten()[order].view_as(find_tensor))
    return twin


def fingerprint(model: Any) -> str:
    """Tells models apart: a digest of every parameter's name, shape, sum and first entries."""
    digest = hashlib.sha256()
    for name, find_tensor in model.named_parameters():
        digest.update(f"{name} {tuple(find_tensor.shape)}".encode())
        if not find_tensor.is_meta:
            held = find_tensor.detach()
            digest.update(str(float(held.sum(dtype=torch.float64))).encode())
            digest.update(str(held.flatten()[:ENTRIES_READ].tolist()).encode())
    return digest.hexdigest()
