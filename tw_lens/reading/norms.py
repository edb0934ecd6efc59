"""Norms, identified by calling them.

Candidates differ in their gain (as stored, or as an offset from one), their centring and their
eps. The one that reproduces the module's own output is taken; flags and class names are not used.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tw_lens.canonical import HeadNorm, Norm
from tw_lens.reading.model_access import (
    find_tensor,
    hf_config,
    optional,
    original_module,
    resolved_module,
    to_float32_cpu,
    unsupported,
)
from tw_lens.reading.offloaded import device_of, materialised

EPS_NAMES = ("eps", "variance_epsilon", "rms_norm_eps", "norm_eps")


class _Candidate(NamedTuple):
    """A norm with one choice of gain, bias, eps and centring."""

    gain: Tensor
    bias: Tensor
    eps: float
    centred: bool

    def __call__(self, x: Tensor) -> Tensor:
        x = x - x.mean(-1, keepdim=True) if self.centred else x
        normalised = x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        return normalised * self.gain + self.bias


def read_norm(module: Any, model: Any, where: str) -> Norm:
    """Identify a norm of the residual stream from the module's own output.

    Raises:
        UnsupportedModelError: no candidate reproduces the module.
    """
    d_model = int(model.cfg.d_model)
    if isinstance(resolved_module(module), torch.nn.Identity):
        return Norm.none(d_model)
    best = _identify(module, model, where, (d_model,))
    return Norm(gain=best.gain, bias=best.bias, eps=best.eps, centred=best.centred)


def unit_rms_norm(model: Any) -> Norm:
    """Return an RMSNorm without a gain, with the model's own eps."""
    blank = torch.zeros(int(model.cfg.d_model))
    return Norm(gain=blank + 1, bias=blank, eps=_epsilons(None, model)[0], centred=False)


def read_head_norm(
    module: Any, model: Any, where: str, *, heads: int, d_head: int
) -> HeadNorm | None:
    """Identify a norm of queries, keys or values; None where there is no module.

    Raises:
        UnsupportedModelError: no candidate reproduces the module.
    """
    if module is None:
        return None
    per_head = optional(original_module(module), "norms")
    if per_head is not None and len(per_head) == heads:  # StableLM: a module for every head
        norms = [_identify(n, model, f"{where}.{h}", (d_head,)) for h, n in enumerate(per_head)]
        gain, bias = torch.stack([n.gain for n in norms]), torch.stack([n.bias for n in norms])
        return HeadNorm(gain, bias, norms[0].eps, norms[0].centred, across=False)
    weight = find_tensor(module, "w", "weight")
    across = weight is not None and weight.shape == (heads * d_head,) and heads > 1
    shape = (heads * d_head,) if across else (heads, d_head)
    if weight is not None and weight.ndim == 1 and not across:
        shape = (d_head,)
    best = _identify(module, model, where, shape)
    return HeadNorm(best.gain, best.bias, best.eps, best.centred, across)


def _identify(module: Any, model: Any, where: str, shape: tuple[int, ...]) -> _Candidate:
    """Return the candidate that reproduces a module on random vectors of a shape."""
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(1, 4, *shape, generator=generator) + 0.5
    # The second pair is so small that eps decides the result.
    sizes = torch.tensor([1.0, 3.0, 1e-3, 3e-3]).reshape(4, *[1] * len(shape))
    with materialised(module), torch.no_grad():
        weight = find_tensor(module, "w", "weight")
        bias = find_tensor(module, "b", "bias")
        stored = torch.ones(shape) if weight is None else to_float32_cpu(weight, f"{where}.weight")
        shift = torch.zeros(shape) if bias is None else to_float32_cpu(bias, f"{where}.bias")
        dtype = next(model.parameters()).dtype if weight is None else weight.dtype
        device = device_of(model) if weight is None else weight.device
        probe = (probe * sizes).to(dtype)
        output = module(probe.to(device)).float().cpu()
    candidates = [
        _Candidate(gain.expand(shape), offset.expand(shape), eps, centred)
        for gain, offset, eps, centred in itertools.product(
            (stored,) if weight is None else (stored, stored + 1.0),
            (shift,) if bias is None else (shift, torch.zeros(shape)),
            _epsilons(module, model),
            (True, False),
        )
    ]
    errors = [_relative_error(candidate(probe.float()), output) for candidate in candidates]
    best = min(range(len(candidates)), key=errors.__getitem__)
    if errors[best] > (2e-5 if dtype == torch.float32 else 2e-2):
        kind = type(original_module(module) or module).__name__
        raise unsupported(
            model,
            f"the norm {where} ({kind}) is neither LayerNorm nor RMSNorm with a gain and a bias "
            f"(nearest candidate off by {errors[best]:.1e})",
            "Its residual stream can still be read with TransformerLens' own cache.",
        )
    return candidates[best]


def _epsilons(module: Any, model: Any) -> list[float]:
    """Return the possible values of eps: the module's and the configurations', then the usual."""
    owners = (module, original_module(module), model.cfg, hf_config(model))
    values = [optional(owner, name) for owner in owners for name in EPS_NAMES]
    numbers = [float(value) for value in values if isinstance(value, (int, float, Tensor))]
    # A module that keeps no eps uses its number format's own smallest step (torch.nn.RMSNorm).
    return list(dict.fromkeys([*numbers, 1e-5, 1e-6, torch.finfo(torch.float32).eps]))


def _relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest absolute gap of a row over the row's largest absolute value."""
    gap = (ours - theirs).abs().amax(-1) / theirs.abs().amax(-1).clamp_min(1e-30)
    return float(gap.max())
