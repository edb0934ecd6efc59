"""Hooks that a user has left on a model: recorders are called, changes are refused.

Hooks are TransformerLens' own, on its hook points, or plain PyTorch hooks on any module. A run is
made with them; if they change anything that is read, the model is another one than its weights, and
results of both would not fit together. Weights are read without the hooks on hook points; a plain
hook may be a part of the model (an adapter), so `read_weights` makes a short run to see what it
does. Hooks that the model's own packages leave on modules are a part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from threading import RLock
from typing import Any

from torch import Tensor

from tw_lens.reading.model_access import name_of, optional

ROUNDING = 1e-5
ONE_SUSPENSION = RLock()  # another thread would take the suspended state for the user's
OWN_PACKAGES = {"tw_lens", "transformer_lens", "transformers", "accelerate", "torch"}
WRAPPED = "._original_component"  # in the names of a bridge's modules


def hooked_points(model: Any) -> dict[str, Any]:
    """Return the hook points that have TransformerLens' forward hooks, by name, each once."""
    points = optional(model, "hook_dict") or {}
    found = {id(p): (name, p) for name, p in points.items() if optional(p, "fwd_hooks")}
    return dict(found.values())


def hooked_modules(model: Any) -> dict[str, Any]:
    """Return the modules (hook points too) that have a user's plain PyTorch hooks, by name."""
    found = [
        module
        for module in model.modules()
        if any(_is_users(hook) for hooks in _hooks(module) for hook in hooks.values())
    ]
    return {_name_of(model, module): module for module in found}


def has_hooks(model: Any) -> bool:
    """Return whether a user has left hooks on the model."""
    return bool(hooked_points(model) or hooked_modules(model))


@contextmanager
def without_point_hooks(part: Any) -> Iterator[None]:
    """Suspend TransformerLens' hooks on the hook points of a model or block within a context."""
    with ONE_SUSPENSION:
        points = [module for module in part.modules() if optional(module, "fwd_hooks")]
        with _suspended(points, _is_not_ours):
            yield


@contextmanager
def without_hooks(model: Any) -> Iterator[None]:
    """Suspend all hooks that a user has left within a context."""
    with ONE_SUSPENSION:
        points, modules = hooked_points(model).values(), hooked_modules(model).values()
        with _suspended(points, _is_not_ours), _suspended(modules, _is_users):
            yield


def require_same_run(model: Any, hooked: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Reject hooks that change what was read.

    Args:
        model: the model.
        hooked: logits and values of a run with the hooks.
        own: those of a run without.

    Raises:
        ValueError: they differ by more than rounding.
    """
    for name, value in own.items():
        if float((hooked[name] - value).abs().max()) <= ROUNDING * float(value.abs().max()):
            continue
        modules = hooked_modules(model)
        names = list(hooked_points(model) | modules)
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        remove = "remove them by their handles" if modules else "call model.reset_hooks() first"
        raise ValueError(
            f"{name_of(model)} has hooks that change its activations ({', '.join(names[:3])}"
            f"{more}), so that its runs do not fit its weights; {remove}, or run the model "
            "yourself and give the cache: read_states(model, cache)."
        )


@contextmanager
def _suspended(modules: Iterable[Any], chosen: Callable[[Any], bool]) -> Iterator[None]:
    """Take the chosen hooks off some modules within a context, and put all back in order."""
    kept = [(hooks, dict(hooks)) for module in modules for hooks in _hooks(module)]
    try:
        for hooks, before in kept:
            for key in [key for key, hook in before.items() if chosen(hook)]:
                del hooks[key]
        yield
    finally:
        for hooks, before in kept:
            hooks.clear()
            hooks.update(before)


def _name_of(model: Any, module: Any) -> str:
    """Return a module's name in the model; TransformerLens' own where a bridge has several."""
    every = model.named_modules(remove_duplicate=False)
    names = [name for name, each in every if each is module]
    return min(names, key=lambda name: (name.count(WRAPPED), len(name))).replace(WRAPPED, "")


def _hooks(module: Any) -> tuple[dict[int, Any], dict[int, Any]]:
    """Return the hooks that run before and after a module."""
    return module._forward_pre_hooks, module._forward_hooks


def _package_of(hook: Any) -> str:
    return str(optional(hook, "__module__")).partition(".")[0]


def _is_not_ours(hook: Any) -> bool:
    return _package_of(hook) != "tw_lens"


def _is_users(hook: Any) -> bool:
    """Return whether a hook is no part of the model: its function is of none of its packages."""
    return _package_of(hook) not in OWN_PACKAGES
