"""Digests of a model's parameters: all of them, or a sample that costs nothing."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

ENTRIES_HASHED = 64
ENTRIES_SAMPLED = 16


def fingerprint(model: Any) -> str:
    """Return a digest of every parameter's name, shape, sum and first entries."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        if not parameter.is_meta:
            values = parameter.detach()
            digest.update(str(float(values.sum(dtype=torch.float64))).encode())
            digest.update(str(values.flatten()[:ENTRIES_HASHED].tolist()).encode())
    return digest.hexdigest()


def sampled_fingerprint(model: Any) -> str:
    """Return a digest of some entries of every parameter, evenly spaced.

    It tells models apart for the price of one small read per parameter; a change of a few entries
    may escape it.
    """
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(str(tuple(parameter.shape)).encode())
        if not parameter.is_meta:
            values = parameter.detach().flatten()
            step = max(1, len(values) // ENTRIES_SAMPLED)
            digest.update(str(values[::step].float().tolist()).encode())
    return digest.hexdigest()
