"""Mixtures of experts, identified by calling them: all neurons, and the routing as a function.

The layout of the experts' weights (which axis is which, halves or every second row) is not read
from names: the one that reproduces the module's own output on random inputs is taken. The routing
is what the module itself hands to its experts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tw_lens.reading.model_access import optional, original_module, resolved_module, to_float32_cpu

N_PROBES = 16
TOLERANCE = 2e-5
ROUTERS = ("gate", "router")
SHARED = ("shared_experts", "shared_expert")
LINEARS = ("gate_proj", "up_proj", "down_proj")


class Experts(NamedTuple):
    """The neurons of all experts as one MLP's, the shared ones last."""

    W_in: Tensor
    W_gate: Tensor
    W_out: Tensor
    routing: Callable[[Tensor], Tensor]
    names: tuple[str, ...]
    W_router: Tensor | None
    b_router: Tensor | None
    b_out: Tensor | None = None


def read_experts(module: Any, activation: Callable[[Tensor], Tensor], where: str) -> Experts | None:
    """Read a mixture of gated experts; None where none of the known layouts reproduces it.

    Args:
        module: the original module, called on `n(x)`.
        activation: its activation function.
        where: its name, for messages.

    Raises:
        ValueError: weights without data, quantised, or with NaN.
    """
    experts = resolved_module(optional(module, "experts"))
    both, down = optional(experts, "gate_up_proj"), optional(experts, "down_proj")
    if not isinstance(both, Tensor) or not isinstance(down, Tensor):
        return None
    if any(True for name, _ in experts.named_parameters() if "bias" in name):
        return None
    both = to_float32_cpu(both, f"{where}.experts.gate_up_proj")
    down = to_float32_cpu(down, f"{where}.experts.down_proj")
    shared = _shared_weights(module, where)
    device = next(module.parameters())
    probe = torch.randn(N_PROBES, _width(both, down), generator=torch.Generator().manual_seed(0))
    theirs, choice = _call(module, probe.to(device))
    W_router, b_router = _router(module, probe.to(device), choice, where)
    for W_in, W_gate, W_out in _layouts(both, down):
        n = len(W_out)
        found = Experts(
            torch.cat([W_in, *(s[0] for s in shared)], dim=1),
            torch.cat([W_gate, *(s[1] for s in shared)], dim=1),
            torch.cat([W_out, *(s[2] for s in shared)]),
            _routing(module, len(both), n // len(both), sum(len(s[2]) for s in shared)),
            tuple(str(i // (n // len(both))) for i in range(n))
            + ("shared",) * sum(len(s[2]) for s in shared),
            W_router,
            b_router,
        )
        seen = probe.to(device).float().cpu()
        post = activation(seen @ found.W_gate) * (seen @ found.W_in) * found.routing(seen)
        gap = (post @ found.W_out - theirs).abs().max() / theirs.abs().max()
        if float(gap) < max(TOLERANCE, torch.finfo(device.dtype).eps * 8):
            return found
    return None


def _width(both: Tensor, down: Tensor) -> int:
    """Return the width of the stream: the axis that `down` and the joint projection share."""
    shared = set(both.shape[1:]) & set(down.shape[1:])
    half = {size // 2 for size in both.shape[1:]} & set(down.shape[1:])
    return next(iter(shared - half or shared))


def _layouts(both: Tensor, down: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield `W_in`, `W_gate` and `W_out` of all experts for every layout of the right shape."""
    d = _width(both, down)
    joint = [t for t in (both, both.mT) if t.shape[1] == d]  # [experts, d_model, 2 d_expert]
    outs = [t for t in (down, down.mT) if t.shape[2] == d]  # [experts, d_expert, d_model]
    for one, out in itertools.product(joint, outs):
        n = out.shape[1]
        if one.shape[2] != 2 * n:
            continue
        for gate, linear in (one.split(n, dim=2), (one[..., ::2], one[..., 1::2])):
            yield (
                linear.permute(1, 0, 2).flatten(1), gate.permute(1, 0, 2).flatten(1),
                out.flatten(0, 1),
            )  # fmt: skip


def _shared_weights(module: Any, where: str) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return the weights of the experts that every token passes, `W_in`, `W_gate`, `W_out`."""
    shared = resolved_module(optional(module, *SHARED))
    if shared is None:
        return []
    gate, up, down = (
        to_float32_cpu(resolved_module(getattr(shared, name)).weight, f"{where}.shared.{name}").T
        for name in LINEARS
    )
    return [(up, gate, down)]


def _router(
    module: Any, probe: Tensor, choice: tuple[Tensor, Tensor], where: str
) -> tuple[Tensor | None, Tensor | None]:
    """Return weight and bias of a linear router, one row per expert; None where it has none.

    The weight is None too where it does not explain the choice: the chosen experts' weights must
    have the order of its logits, and a single chosen expert the largest one.
    """
    router = resolved_module(optional(module, *ROUTERS))
    weight, bias = optional(router, "weight"), optional(router, "bias")
    if not isinstance(weight, Tensor) or weight.shape[-1:] != probe.shape[-1:]:
        return None, None
    weight = to_float32_cpu(weight, f"{where}.router")
    bias = to_float32_cpu(bias, f"{where}.router bias") if isinstance(bias, Tensor) else None
    index, factor = (part.reshape(len(probe), -1).cpu() for part in choice)
    logits = probe.float().cpu() @ weight.T + (0.0 if bias is None else bias)
    chosen = logits.gather(-1, index.long())
    above = chosen.gather(-1, factor.argsort(dim=-1)).diff(dim=-1)
    if index.shape[-1] == 1:
        above = chosen - logits.amax(-1, keepdim=True)
    explained = bool((above >= -TOLERANCE * logits.abs().max()).all())
    return (weight, bias) if explained else (None, None)


def _routing(module: Any, n_experts: int, width: int, n_shared: int) -> Callable[[Tensor], Tensor]:
    """Return a function from `n(x)` to the factor on every neuron's activation."""

    def routing(n_x: Tensor) -> Tensor:
        like = next(module.parameters())
        if not len(n_x):
            return torch.zeros(0, n_experts * width + n_shared)
        x = n_x.reshape(-1, n_x.shape[-1]).to(like)
        _, (index, weight) = _call(module, x)
        chosen = torch.zeros(len(x), n_experts)
        chosen.scatter_(1, index.long().cpu(), weight.detach().float().cpu())
        factor = chosen.repeat_interleave(width, dim=1)
        gate = resolved_module(optional(module, "shared_expert_gate"))
        shared = torch.ones(len(x), n_shared)
        if gate is not None:
            with torch.no_grad():
                shared = shared * gate(x).sigmoid().float().cpu()
        return torch.cat([factor, shared], dim=1).reshape(*n_x.shape[:-1], -1)

    return routing


def _call(module: Any, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return a module's output `[position, d_model]`, and what it hands to its experts."""
    handed: list[tuple[Any, ...]] = []

    def record(_module: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        handed.append((*args, *options.values()))

    experts = optional(module, "experts")
    handles = [
        part.register_forward_pre_hook(record, with_kwargs=True)
        for part in {
            id(p): p for p in (experts, original_module(experts)) if p is not None
        }.values()
    ]
    try:
        with torch.no_grad():
            out = module(x[None])
    finally:
        for handle in handles:
            handle.remove()
    out = out[0] if isinstance(out, tuple) else out
    index, weight = _indices_and_weights(handed[-1][1:])
    return out.reshape(x.shape).float().cpu(), (index, weight)


def _indices_and_weights(handed: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    """Return the chosen experts and their weights from what experts were called with."""
    tensors = [value for value in handed if isinstance(value, Tensor)]
    index = next(t for t in tensors if not t.is_floating_point())
    return index, next(t for t in tensors if t.is_floating_point() and t.shape == index.shape)
