"""Weights that accelerate keeps on disk or in the host's memory, brought in while they are read.

An offloaded module holds parameters without data (on the meta device) and a hook that brings the
data in before every call and lets it go behind it. Reading does by hand what a call would do, for
a few modules at a time; a tensor that is still referred to afterwards keeps its data.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch


@contextmanager
def materialised(*components: Any, exclude: Any = None) -> Iterator[None]:
    """The weights of some components, with their data inside the context.

    Args:
        components: modules (or None, for parts a model does not have); what they hold is included.
        exclude: a module within, whose own weights stay where they are.
    """
    away = set() if exclude is None else set(exclude.modules())
    modules = [m for part in components if part is not None for m in part.modules()]
    with ExitStack() as stack:
        for module in dict.fromkeys(modules):
            if module in away or not _offloads(module):
                continue
            if any(p.is_meta for p in module.parameters()):
                module._hf_hook.pre_forward(module)
                stack.callback(module._hf_hook.post_forward, module, None)
        yield


def has_meta_weights(model: Any) -> bool:
    """Whether a parameter is on the meta device and nothing will bring its data in."""
    modules = [module for module in model.modules() if _offloads(module)]
    brought = {
        id(p) for module in modules for p in module.parameters(recurse=_places_within(module))
    }
    return any(p.is_meta and id(p) not in brought for p in model.parameters())


def device_of(model: Any) -> torch.device:
    """Where a model takes its tokens: the device of its first weight that has data."""
    here = (p.device for p in model.parameters() if not p.is_meta)
    running = (
        torch.device(hook.execution_device)
        for module in model.modules()
        for hook in _hooks(module)
        if getattr(hook, "execution_device", None) is not None
    )
    return next(here, None) or next(running, torch.device("cpu"))


def _hooks(module: Any) -> list[Any]:
    """Accelerate's hooks on a module itself: none, one, or several in a row."""
    hook = vars(module).get("_hf_hook")  # a bridge's component would hand out its original's
    return [] if hook is None else list(getattr(hook, "hooks", [hook]))


def _offloads(module: Any) -> bool:
    return any(getattr(hook, "offload", False) for hook in _hooks(module))


def _places_within(module: Any) -> bool:
    return any(getattr(hook, "place_submodules", False) for hook in _hooks(module))
