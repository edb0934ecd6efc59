"""Linear maps, confirmed by calling them: what runs must be the weight that is read.

An adapter that is not merged (LoRA, DoRA), a wrapper or a hook changes the output of a projection,
and its weight does not show it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tw_lens.reading.model_access import is_bridged, optional, unsupported

COLUMNS_AT_ONCE = 8192
N_PROBES = 8
TOLERANCE = 2e-5


def require_plain_maps(component: Any, model: Any, where: str) -> None:
    """Reject a component with a linear map that computes more than its own weight and bias.

    Args:
        component: a module with its submodules; None for a part the model does not have.
        model: the model, for the message.
        where: the component's name, for the message.

    Raises:
        UnsupportedModelError: a map's output on random vectors is not `x W + b`.
    """
    for name, module in _maps(component):
        if not _is_plain(module) and (error := _error(module)) > _tolerance(module.weight):
            raise unsupported(
                model,
                f"{where}.{name} computes more than its weight (its output is off by {error:.0e}): "
                "an adapter that is not merged, a wrapper or a hook runs beside it",
                "Merge the adapter into the weights (PEFT: merge_and_unload()) or remove the hook "
                "before the model is wrapped.",
            )


def _maps(component: Any) -> Iterator[tuple[str, Any]]:
    """Yield the modules that have a matrix as their weight, without TransformerLens' own slots."""
    for name, module in component.named_modules() if component is not None else ():
        if is_bridged(module) or isinstance(module, nn.Embedding):
            continue
        weight = optional(module, "weight")
        if isinstance(weight, Tensor) and weight.ndim == 2 and weight.is_floating_point():
            yield name.replace("_original_component", "").strip(".") or "weight", module


def _is_plain(module: Any) -> bool:
    """Return whether a module is a Linear or Conv1D without anything that could change it."""
    from transformers.pytorch_utils import Conv1D

    own = vars(module)
    forward = own.get("_old_forward", own.get("forward"))  # accelerate keeps the first
    replaced = (
        forward is not None and getattr(forward, "__func__", None) is not type(module).forward
    )
    hooked = own["_forward_hooks"] or own["_forward_pre_hooks"]
    return type(module) in (nn.Linear, Conv1D) and not replaced and not hooked


def _error(module: Any) -> float:
    """Return the relative error of `x W + b` against the module's own output, in either layout.

    0 where neither layout fits: the module is no linear map (a norm with a gain per head). Of
    several outputs the nearest counts (a router returns its logits beside what it makes of them).
    """
    errors = []
    call = vars(module).get("_old_forward", module)  # offloaded weights are loaded already
    for transposed in (False, True):
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            weight = module.weight if transposed else module.weight.T
            generator = torch.Generator().manual_seed(0)
            x = torch.randn(1, N_PROBES, len(weight), generator=generator).to(weight)
            try:
                output = call(x)
            except Exception:  # the other layout's width; a model that does not run says so itself
                continue
            outputs = output if isinstance(output, tuple) else (output,)
            # Taken after the call: weight normalisation computes its weight in it.
            weight = module.weight if transposed else module.weight.T
            columns = weight.split(COLUMNS_AT_ONCE, dim=1)  # no second copy of an unembedding
            ours = torch.cat([x.float() @ part.float() for part in columns], dim=-1)
            bias = optional(module, "bias")
            if isinstance(bias, Tensor):
                ours = ours + bias.float()
        for each in outputs:
            if isinstance(each, Tensor) and ours.shape == each.shape:
                gap = (ours - each.float()).square().mean()
                errors.append(float((gap / each.float().square().mean().clamp_min(1e-30)).sqrt()))
    return min(errors, default=0.0)


def _tolerance(weight: Tensor) -> float:
    return max(TOLERANCE, torch.finfo(weight.dtype).eps)
