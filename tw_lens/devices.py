"""Devices: objects of the package moved to where a model's weights are, and results back.

A public call computes on the device of its `Weights`: its other arguments are moved there, new
tensors are made there, and its result returns to the CPU. Random numbers are drawn on the CPU, so
that they are the same everywhere.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

CPU = torch.device("cpu")
FIXED = ("Weights", "LayerVocabulary")  # large: their parts move where they are used
STAY = ("activation", "linear_activation")  # functions without tensors of their own
WITHOUT_FLOAT64 = ("mps",)  # what is summed in float64 is computed on the CPU there


def usable_device(device: torch.device | str) -> torch.device:
    """Return a device that tensors can be made on, with its index.

    Raises:
        ValueError: the device does not exist here.
    """
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        known = isinstance(device, (str, torch.device))
        named = repr(device) if known else f"of type {type(device).__name__}"
        raise ValueError(
            f"device {named} cannot be used here ({reason}); give 'cpu', or leave it out."
        ) from None


def moved(value: Any, device: torch.device) -> Any:
    """Return tensors, objects of this package, and containers of them on a device.

    Functions that stand in the package's objects hold tensors of the CPU: they get their arguments
    there, and what they return is moved. Models stay where they are, and what is on the device
    already is returned as it is.
    """
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        items = [moved(item, device) for item in value.values()]
        return value if _same(items, value.values()) else dict(zip(value, items, strict=True))
    if isinstance(value, (tuple, list)):
        items = [moved(item, device) for item in value]
        if _same(items, value):
            return value
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if is_dataclass(value) and _is_ours(value):
        return _moved_fields(value, device)
    return value


def _same(items: Iterable[Any], others: Iterable[Any]) -> bool:
    return all(a is b for a, b in zip(items, others, strict=True))


def _moved_fields(value: Any, device: torch.device) -> Any:
    held = {f.name: getattr(value, f.name) for f in fields(value)}
    new = {name: _moved_part(name, item, device) for name, item in held.items()}
    if all(new[name] is held[name] for name in held):
        return value
    again = object.__new__(type(value))
    for name, item in new.items():
        object.__setattr__(again, name, item)
    return again


def _moved_part(name: str, item: Any, device: torch.device) -> Any:
    if isinstance(item, torch.nn.Module):  # an activation with parameters; never the model
        first = next(item.parameters(), None)
        return item if first is None or first.device == device else copy.deepcopy(item).to(device)
    if isinstance(item, (Tensor, type)) or is_dataclass(item) or not callable(item):
        return moved(item, device)
    if name in STAY:
        return item
    return on_device(item, device)


def on_device(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """Return a function of the CPU that is called and returns on a device."""
    if isinstance(function, _OnDevice):
        if function.device == device:
            return function
        function = function.function
    return function if device == CPU else _OnDevice(function, device)


class _OnDevice:
    """What `on_device` returns; it can be pickled."""

    def __init__(self, function: Callable[..., Any], device: torch.device) -> None:
        self.function, self.device = function, device

    def __call__(self, *arguments: Any) -> Any:
        with CPU:
            result = self.function(*moved(arguments, CPU))
        return moved(result, self.device)


def _is_ours(value: Any) -> bool:
    """Return whether an object is of a class of this package, or of a subclass, and may move."""
    classes = type(value).__mro__
    ours = any(c.__module__.partition(".")[0] == "tw_lens" for c in classes)
    return ours and not any(c.__name__ in FIXED for c in classes)


def drawn(sample: Callable[..., Tensor], *arguments: Any, **options: Any) -> Tensor:
    """Return random numbers of a torch function, drawn on the CPU, on the device of the call."""
    return sample(*arguments, **options, device=CPU).to(torch.get_default_device())
