"""Access to a TransformerLens model: names, settings, optional parts and tensors."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tw_lens.errors import UnsupportedModelError

ROWS_AT_ONCE = 8192
STILL_POSSIBLE = "TransformerLens' own hooks and caches still work on it."


def optional(owner: Any, *names: str) -> Any:
    """Return the first attribute of these names that is present and not None; None without any."""
    values = (getattr(owner, name, None) for name in names)
    return next((value for value in values if value is not None), None)


def require_model(model: Any) -> None:
    """Reject what is no TransformerLens model.

    Raises:
        TypeError: with the type that was given.
    """
    has_stack = any(name.endswith("blocks") for name in dir(model))
    if not hasattr(model, "cfg") or not (has_stack or hasattr(model, "run_with_cache")):
        raise TypeError(
            "model must be a TransformerLens model (HookedTransformer or TransformerBridge), got "
            f"{type(model).__name__}; wrap it with TransformerBridge.boot_transformers."
        )


def number(owner: Any, name: str, default: float) -> float:
    """Return a numeric attribute as a float, or the default where the owner does not have it."""
    value = optional(owner, name)
    return default if value is None else float(value)


def architecture_of(model: Any) -> str:
    """Return the architecture's name from the model's configuration."""
    name = optional(model.cfg, "architecture") or optional(model.cfg, "original_architecture")
    return str(name or type(model).__name__)


def name_of(model: Any) -> str:
    """Return the model's name from its configuration."""
    return str(optional(model.cfg, "model_name") or architecture_of(model))


def tokenizer_of(model: Any) -> Any:
    """Return the model's tokenizer; None for a model without one."""
    return optional(model, "tokenizer")


def original_model(model: Any) -> Any:
    """Return the Hugging Face model behind a bridge; None for a HookedTransformer."""
    return optional(model, "original_model")


def hf_config(model: Any) -> Any:
    """Return the configuration of the original model's text part; None for a HookedTransformer."""
    config = optional(original_model(model), "config")
    text_config = optional(config, "get_text_config")
    return config if text_config is None else text_config()


def hf_config_value(model: Any, *names: str) -> Any:
    """Return the first of these settings that the original model's configuration has, else None."""
    return optional(hf_config(model), *names)


def per_layer_value(values: Any, layer: int) -> Any:
    """Return one layer's entry of a per-layer setting; a setting for all layers unchanged."""
    return values[layer] if isinstance(values, (list, tuple)) else values


def is_bridged(component: Any) -> bool:
    """Return whether a component is a bridge's slot for an original module."""
    return hasattr(component, "original_component")


def original_module(component: Any) -> Any:
    """Return the original module behind a bridge's component; None for a HookedTransformer's."""
    return optional(component, "original_component")


def resolved_module(component: Any) -> Any:
    """Return the module that computes: a bridge's original one (None if empty), else itself."""
    return original_module(component) if is_bridged(component) else component


def find_tensor(component: Any, *names: str) -> Tensor | None:
    """Return the first tensor of these names on a component or on the module behind it.

    A bridge's names may still refer to what was there before offloaded weights were materialised,
    so a tensor with data comes first.
    """
    owners = [owner for owner in (component, original_module(component)) if owner is not None]
    values = [optional(owner, name) for name in names for owner in owners]
    tensors = [value for value in values if isinstance(value, Tensor)]
    return next((t for t in tensors if not t.is_meta), tensors[0] if tensors else None)


def require_numbers(tensor: Tensor, name: str) -> None:
    """Reject a tensor whose entries are not the model's weights, without a copy of the whole.

    Raises:
        ValueError: the tensor has no data, is quantised, or contains NaN or infinity.
    """
    if tensor.is_meta:
        raise ValueError(f"{name} is on the meta device, without data; load the weights first.")
    if not tensor.is_floating_point():
        raise ValueError(
            f"{name} is quantised ({tensor.dtype}), so its entries are not the model's weights; "
            "load the model in float32, bfloat16 or float16."
        )
    # A sum is finite only if every entry is; it may also overflow.
    values = torch.atleast_1d(tensor.detach())
    longest = max(range(values.ndim), key=values.shape.__getitem__)
    parts = values.split(ROWS_AT_ONCE, dim=longest)
    total = sum(float(part.sum(dtype=torch.float32)) for part in parts)
    finite = math.isfinite(total) and tensor.dtype != torch.float64  # its numbers may overflow
    if not finite and not all(part.float().isfinite().all() for part in parts):
        raise ValueError(
            f"{name} contains NaN or infinity, which would make every result meaningless; check "
            "the checkpoint it was loaded from."
        )


def to_float32_cpu(tensor: Tensor, name: str) -> Tensor:
    """Return a detached float32 copy on the CPU.

    Raises:
        ValueError: see `require_numbers`.
    """
    require_numbers(tensor, name)
    return tensor.detach().to("cpu", torch.float32, copy=True)


def unsupported(model: Any, part: str, remedy: str = STILL_POSSIBLE) -> UnsupportedModelError:
    """Return the error for a part that the canonical form cannot represent."""
    return UnsupportedModelError(architecture_of(model), part, remedy)
