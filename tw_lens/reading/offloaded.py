"""Offloaded weights: materialised while they are read, a few modules at a time.

A module offloaded by accelerate (to disk or to the host's memory) has parameters without data (on
the meta device) and a hook that loads the data before every call and releases it afterwards.
Reading uses these hooks without a call; a tensor that is still referenced afterwards keeps its
data.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from tw_lens.reading.model_access import optional


@contextmanager
def materialised(*components: Any, exclude: Any = None) -> Iterator[None]:
    """Load the offloaded weights of some components within a context.

    Args:
        components: modules with their submodules; None for parts a model does not have.
        exclude: a submodule whose weights are not loaded.
    """
    excluded = set() if exclude is None else set(exclude.modules())
    modules = [m for part in components if part is not None for m in part.modules()]
    with ExitStack() as stack:
        for module in dict.fromkeys(modules):
            if module in excluded or not _offloads(module):
                continue
            if any(p.is_meta for p in module.parameters()):
                module._hf_hook.pre_forward(module)
                stack.callback(module._hf_hook.post_forward, module, None)
        yield


def has_meta_weights(model: Any) -> bool:
    """Return whether a parameter is on the meta device and no hook will load its data."""
    modules = [module for module in model.modules() if _offloads(module)]
    loadable = {
        id(p) for module in modules for p in module.parameters(recurse=_loads_submodules(module))
    }
    return any(p.is_meta and id(p) not in loadable for p in model.parameters())


def device_of(model: Any) -> torch.device:
    """Return the device for a model's tokens: the one of its first weight that has data."""
    of_weights = (p.device for p in model.parameters() if not p.is_meta)
    of_hooks = (
        torch.device(hook.execution_device)
        for module in model.modules()
        for hook in _hooks(module)
        if optional(hook, "execution_device") is not None
    )
    return next(of_weights, None) or next(of_hooks, torch.device("cpu"))


def _hooks(module: Any) -> list[Any]:
    """Return accelerate's hooks on a module itself: none, one, or several in a row."""
    hook = vars(module).get("_hf_hook")  # a bridge's component would return its original's
    return [] if hook is None else list(optional(hook, "hooks") or (hook,))


def _offloads(module: Any) -> bool:
    return any(optional(hook, "offload") for hook in _hooks(module))


def _loads_submodules(module: Any) -> bool:
    return any(optional(hook, "place_submodules") for hook in _hooks(module))
