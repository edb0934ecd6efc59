"""Digests of a model's parameters: all of them, or a sample that costs nothing."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

ENTRIES_SAMPLED = 64
ENTRIES_AT_ONCE = 2**24
GOLDEN_RATIO = 0.6180339887498949


def fingerprint(model: Any) -> str:
    """Return a digest of every parameter's name, shape and bytes, and of the side of a stack."""
    digest = _digest_of_side(model)
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        if not parameter.is_meta:
            for part in parameter.detach().flatten().split(ENTRIES_AT_ONCE):
                # One entry keeps any stride, even in a contiguous tensor: `clone` resets it.
                part = part.cpu().clone(memory_format=torch.contiguous_format)
                digest.update(part.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def sampled_fingerprint(model: Any) -> str:
    """Return a digest of 64 entries of every parameter, spread over all of its axes.

    It tells models apart for the price of one small read per parameter; a change of a small part of
    a parameter may escape it.
    """
    digest = _digest_of_side(model)
    for parameter in model.parameters():
        digest.update(str(tuple(parameter.shape)).encode())
        if not parameter.is_meta and parameter.numel():
            digest.update(str(_sample(parameter.detach()).float().tolist()).encode())
    return digest.hexdigest()


def _digest_of_side(model: Any) -> Any:
    """Return a digest to add to: empty, but for the stacks of an encoder-decoder."""
    side = getattr(model, "side", None)
    return hashlib.sha256(side.encode() if isinstance(side, str) else b"")


def _sample(values: Tensor) -> Tensor:
    """Return entries at multiples of the golden ratio, which no axis is aligned with."""
    shape = values.shape or (1,)
    spread = torch.arange(1, ENTRIES_SAMPLED + 1, dtype=torch.float64) * GOLDEN_RATIO % 1
    index = torch.unravel_index((spread * values.numel()).long(), shape)
    return values.reshape(shape)[tuple(i.to(values.device) for i in index)]
