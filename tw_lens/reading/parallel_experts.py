"""Mixtures whose experts are two stacked maps behind a top-k router (JetMoE)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from tw_lens.reading.experts import Experts
from tw_lens.reading.model_access import optional, resolved_module, to_float32_cpu


def parallel_experts(
    module: Any, activation: Callable[[Tensor], Tensor], where: str
) -> Iterator[Experts]:
    """Yield gated experts whose gates are the first half of one map; nothing for other mixtures.

    Args:
        module: the original module, called on `n(x)`.
        activation: its activation function.
        where: its name, for messages.

    Raises:
        ValueError: weights without data, quantised, or with NaN.
    """
    both, down = (
        optional(optional(module, name), "weight") for name in ("input_linear", "output_linear")
    )
    router = resolved_module(optional(module, "router"))
    linear = resolved_module(optional(router, "layer"))
    if not isinstance(both, Tensor) or not isinstance(down, Tensor) or linear is None:
        return
    both = to_float32_cpu(both, f"{where}.input_linear")  # [experts, 2 d_expert, d_model]
    down = to_float32_cpu(down, f"{where}.output_linear")  # [experts, d_model, d_expert]
    n_experts, _, width = down.shape
    gate, linear_part = both.permute(2, 0, 1).split(width, dim=2)
    yield Experts(
        W_in=linear_part.flatten(1),
        W_gate=gate.flatten(1),
        W_out=down.permute(0, 2, 1).flatten(0, 1),
        b_in=torch.zeros(n_experts * width),
        b_gate=torch.zeros(n_experts * width),
        b_out=to_float32_cpu(module.bias, f"{where}.bias"),
        b_experts=None,
        activation=activation,
        linear_activation=None,
        routing=_routing(router, n_experts, width),
        routes_input=False,
        experts=tuple(str(expert) for expert in range(n_experts) for _ in range(width)),
        W_router=to_float32_cpu(linear.weight, f"{where}.router"),
        b_router=None,
    )


def _routing(router: Any, n_experts: int, width: int) -> Callable[[Tensor], Tensor]:
    """Return a function from `n(x)` to the factor on every neuron's activation."""

    def routing(n_x: Tensor) -> Tensor:
        x = n_x.reshape(-1, n_x.shape[-1]).to(next(router.parameters()))
        factor = torch.zeros(len(x), n_experts)
        if len(x):
            with torch.no_grad():  # assignments of tokens to experts, sorted by expert
                _, token, weight, sizes, _ = router(x)
            expert = torch.repeat_interleave(torch.arange(n_experts), torch.tensor(sizes))
            factor[token.cpu(), expert] = weight.float().cpu()
        return factor.repeat_interleave(width, dim=1).reshape(*n_x.shape[:-1], -1)

    return routing
