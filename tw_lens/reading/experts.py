"""Mixtures of experts, identified by calling them: all neurons, and the routing as a function.

The layout of the experts' weights (which axis is which, halves or every second row) and the form of
their gates are not read from names: the ones that reproduce the module's own output on random
inputs are taken. The routing is what the module itself hands to its experts: the choice with its
weights, or one input per expert that is a multiple of its own (Llama 4).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tw_lens.canonical.mlp import ClampedShift, ClampedSwish
from tw_lens.reading.mlp_weights import Neurons, dense_weights, neurons
from tw_lens.reading.model_access import optional, original_module, resolved_module, to_float32_cpu

TOLERANCE = 2e-5
ROUTERS = ("gate", "router")
SHARED = ("shared_experts", "shared_expert")
JOINT, SINGLE = "gate_up_proj", "up_proj"  # of all experts, with gates and without
BIASES = ("gate_up_proj_bias", "up_proj_bias", "down_proj_bias")
LATENT = ("fc1_latent_proj", "fc2_latent_proj")  # linear maps around the experts (Nemotron-H)


class Experts(NamedTuple):
    """The neurons of all experts as one MLP's, the shared ones last (names as in `MLP`)."""

    W_in: Tensor
    W_gate: Tensor | None
    W_out: Tensor
    b_in: Tensor
    b_gate: Tensor | None
    b_out: Tensor
    b_experts: Tensor | None
    activation: Callable[[Tensor], Tensor]
    linear_activation: Callable[[Tensor], Tensor] | None
    routing: Callable[[Tensor], Tensor]
    routes_input: bool
    experts: tuple[str, ...]
    W_router: Tensor | None
    b_router: Tensor | None


def possible_experts(
    module: Any,
    beside: Any,
    activation: Callable[[Tensor], Tensor],
    where: str,
    probe: Tensor,
) -> Iterator[Experts]:
    """Yield a mixture of experts in every known layout of the right shapes.

    Args:
        module: the original module, called on `n(x)`.
        beside: an MLP whose output is added to the module's; None without one.
        activation: its activation function.
        where: its name, for messages.
        probe: inputs on which the router is read.

    Raises:
        ValueError: weights without data, quantised, or with NaN.
    """
    experts = resolved_module(optional(module, "experts"))
    gated = optional(experts, JOINT) is not None
    weights = [optional(experts, JOINT, SINGLE), optional(experts, "down_proj")]
    biases = {name for name, _ in experts.named_parameters() if "bias" in name}
    if not all(isinstance(one, Tensor) for one in weights) or biases - set(BIASES):
        return
    both, down = (to_float32_cpu(one, f"{where}.experts") for one in weights)
    b_both, b_experts = (
        None if (bias := optional(experts, *names)) is None else to_float32_cpu(bias, where)
        for names in (BIASES[:2], BIASES[2:])
    )
    shared = _shared(module, beside, where)
    enter, leave = (_linear(optional(module, name), f"{where}.{name}") for name in LATENT)
    factor, routes_input = factors_of_experts(module, probe)
    W_router, b_router = _router(module, probe, factor, where)
    width = probe.shape[-1] if enter is None else len(enter[0])
    for found, gates in itertools.product(
        _layouts(both, down, b_both, width, gated=gated), _gates(experts, activation)
    ):
        parts = [_through(found, enter, leave), *shared]
        if any((part.W_gate is None) == gated for part in parts):
            return
        n, n_shared = len(parts[0].W_out), sum(len(part.W_out) for part in shared)
        names = tuple(str(i // (n // len(both))) for i in range(n)) + ("shared",) * n_shared
        yield Experts(
            W_in=torch.cat([part.W_in for part in parts], dim=1),
            W_gate=_joined([part.W_gate for part in parts], dim=1),
            W_out=torch.cat([part.W_out for part in parts]),
            b_in=torch.cat([part.b_in for part in parts]),
            b_gate=_joined([part.b_gate for part in parts], dim=0),
            b_out=torch.stack([part.b_out for part in parts]).sum(0),
            b_experts=b_experts,
            activation=gates[0],
            linear_activation=gates[1],
            routing=_routing(module, n // len(both), n_shared),
            routes_input=routes_input,
            experts=names,
            W_router=W_router,
            b_router=b_router,
        )


def _joined(of_parts: list[Tensor | None], *, dim: int) -> Tensor | None:
    """Return the weights or biases of several MLPs as those of one; None if they have none."""
    found = [one for one in of_parts if one is not None]
    return torch.cat(found, dim=dim) if found else None


def _layouts(
    both: Tensor, down: Tensor, bias: Tensor | None, width: int, *, gated: bool
) -> Iterator[Neurons]:
    """Yield the weights of all experts for every layout of the right shape.

    Args:
        both: the experts' maps to their neurons, and to the gates before them or in turns with
            them.
        down: the maps from the neurons.
        bias: the biases of `both`.
        width: of what the experts read and write.
        gated: whether there are gates.
    """
    ins = [t for t in (both, both.mT) if t.shape[1] == width]  # [experts, width, neurons]
    outs = [t for t in (down, down.mT) if t.shape[2] == width]  # [experts, neurons, width]
    for one, out in itertools.product(ins, outs):
        n = out.shape[1]
        if one.shape[2] != (1 + gated) * n:
            continue
        b = torch.zeros(len(one), one.shape[2]) if bias is None else bias
        W_out, nothing = out.flatten(0, 1), torch.zeros(width)
        if not gated:
            yield Neurons(_flat(one), None, W_out, b.flatten(), None, nothing)
            continue
        for halves in (True, False):
            (gate, linear), (b_gate, b_in) = (
                t.split(n, dim=-1) if halves else (t[..., ::2], t[..., 1::2]) for t in (one, b)
            )
            yield Neurons(
                _flat(linear), _flat(gate), W_out, b_in.flatten(), b_gate.flatten(), nothing
            )


def _flat(maps: Tensor) -> Tensor:
    """Return the maps of all experts `[experts, width, neurons]` as one, `[width, neurons]`."""
    return maps.permute(1, 0, 2).flatten(1)


def _through(
    own: Neurons,
    enter: tuple[Tensor, Tensor] | None,
    leave: tuple[Tensor, Tensor] | None,
) -> Neurons:
    """Return weights that read and write through linear maps (weight, bias); None for no map."""
    if enter is not None:
        W, b = enter
        own = own._replace(W_in=W.T @ own.W_in, b_in=own.b_in + b @ own.W_in)
        if own.W_gate is not None and own.b_gate is not None:
            own = own._replace(W_gate=W.T @ own.W_gate, b_gate=own.b_gate + b @ own.W_gate)
    if leave is not None:
        own = own._replace(W_out=own.W_out @ leave[0].T, b_out=leave[1])
    return own


def _linear(module: Any, where: str) -> tuple[Tensor, Tensor] | None:
    """Return weight and bias of a linear map; None where there is none."""
    weight, bias = (optional(resolved_module(module), name) for name in ("weight", "bias"))
    if not isinstance(weight, Tensor):
        return None
    read = to_float32_cpu(weight, where)
    return read, torch.zeros(len(read)) if bias is None else to_float32_cpu(bias, where)


def _gates(
    experts: Any, activation: Callable[[Tensor], Tensor]
) -> list[tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor] | None]]:
    """Return the possible functions of a gate, and of the input beside it (None for itself)."""
    alpha, limit = optional(experts, "alpha"), optional(experts, "limit")
    if alpha is None or limit is None:
        return [(activation, None)]
    clamped = (ClampedSwish(float(alpha), float(limit)), ClampedShift(float(limit)))
    return [clamped, (activation, None)]


def _shared(module: Any, beside: Any, where: str) -> list[Neurons]:
    """Return the weights of the experts that every token passes."""
    inside = resolved_module(optional(module, *SHARED))
    found = (dense_weights(one, f"{where}.shared") for one in (inside, beside) if one is not None)
    return [read for one in found if (read := neurons(one)) is not None]


def _router(
    module: Any, probe: Tensor, factor: Tensor, where: str
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
    logits = probe.float().cpu() @ weight.T + (0.0 if bias is None else bias)
    n_chosen = int((factor != 0).sum(-1).amax())
    chosen = logits.gather(-1, factor.topk(n_chosen, dim=-1).indices)
    above = -chosen.diff(dim=-1)
    if n_chosen == 1:
        above = chosen - logits.amax(-1, keepdim=True)
    explained = bool((above >= -TOLERANCE * logits.abs().max()).all())
    return (weight, bias) if explained else (None, None)


def _routing(module: Any, width: int, n_shared: int) -> Callable[[Tensor], Tensor]:
    """Return a function from `n(x)` to the factor on every neuron's activation or input."""

    def routing(n_x: Tensor) -> Tensor:
        like = next(module.parameters())
        x = n_x.reshape(-1, n_x.shape[-1]).to(like)
        n_routed = width * len(optional(module, "experts").down_proj)
        if not len(x):
            return torch.zeros(*n_x.shape[:-1], n_routed + n_shared)
        factor = factors_of_experts(module, x)[0].repeat_interleave(width, dim=1)
        gate = resolved_module(optional(module, "shared_expert_gate"))
        shared = torch.ones(len(x), n_shared)
        if gate is not None:
            with torch.no_grad():
                shared = shared * gate(x).sigmoid().float().cpu()
        return torch.cat([factor, shared], dim=1).reshape(*n_x.shape[:-1], -1)

    return routing


def factors_of_experts(module: Any, x: Tensor) -> tuple[Tensor, bool]:
    """Return the factor of every expert `[position, n_experts]`, and whether it is on its input."""
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
            module(x[None])
    finally:
        for handle in handles:
            handle.remove()
    n_experts = len(resolved_module(experts).down_proj)
    first, *rest = (value.detach().cpu() for value in handed[-1] if isinstance(value, Tensor))
    if not rest:  # one input per expert, a multiple of the module's own
        own = x.float().cpu()
        inputs = first.float().reshape(n_experts, *x.shape)
        return ((inputs * own).sum(-1) / own.square().sum(-1).clamp_min(1e-30)).T, True
    index = next(t for t in rest if not t.is_floating_point())
    weight = next(t for t in rest if t.is_floating_point() and t.shape == index.shape)
    factor = torch.zeros(len(x), n_experts)
    return factor.scatter_(1, index.long(), weight.float()), False


def output_of(module: Any, x: Tensor) -> Tensor:
    """Return a module's output `[position, d_model]`, float32 on the CPU."""
    with torch.no_grad():
        out = module(x[None])
    out = out[0] if isinstance(out, tuple) else out
    return out.reshape(x.shape).float().cpu()
