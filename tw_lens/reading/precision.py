"""Number formats: the tolerance that a model's own rounding asks for."""

from __future__ import annotations

from typing import Any

import torch

from tw_lens.canonical.weights import ROUNDINGS

TOLERANCE = 1e-4


def default_tolerance(model: Any) -> float:
    """Return the tolerance for a model's own rounding, set by its coarsest number format."""
    return max(TOLERANCE, ROUNDINGS * coarsest_step(model))


def is_half_precision(model: Any) -> bool:
    """Return whether some of the model's parameters are coarser than float32."""
    return coarsest_step(model) > torch.finfo(torch.float32).eps


def coarsest_step(model: Any) -> float:
    """Return the largest relative step of the number formats of a model's parameters."""
    return max(torch.finfo(p.dtype).eps for p in model.parameters())
