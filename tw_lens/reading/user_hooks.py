"""Hooks that a user has left on a model's hook points: recorders are called, changes are refused.

Reading suspends them. A run is made with them; if they change anything that is read, the model is
another one than its weights, and results of both would not fit together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from tw_lens.reading.model_access import name_of, optional

ROUNDING = 1e-5


def hooked_points(model: Any) -> dict[str, Any]:
    """Return the hook points that have forward hooks, by name, each once."""
    points = optional(model, "hook_dict") or {}
    found = {id(p): (name, p) for name, p in points.items() if optional(p, "fwd_hooks")}
    return dict(found.values())


@contextmanager
def without_hooks(model: Any) -> Iterator[None]:
    """Suspend the hooks on hook points within a context."""
    suspended = [(p._forward_hooks, dict(p._forward_hooks)) for p in hooked_points(model).values()]
    try:
        for hooks, _ in suspended:
            hooks.clear()
        yield
    finally:
        for hooks, before in suspended:
            hooks.update(before)


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
        names = list(hooked_points(model))
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise ValueError(
            f"{name_of(model)} has hooks that change its activations ({', '.join(names[:3])}"
            f"{more}), so that its runs do not fit its weights; call model.reset_hooks() first, or "
            "run the model yourself and give the cache: read_states(model, cache)."
        )
