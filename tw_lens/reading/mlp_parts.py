"""Where a block keeps its MLP, and the points of an MLP that TransformerLens does not hook."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

from tw_lens.reading.layer import HostLayer
from tw_lens.reading.model_access import is_bridged, number, optional, resolved_module

# Modules that may be a block's only part (Nemotron-H), or that stand behind its mixer
# (RecurrentGemma), in a block that TransformerLens hooks as a whole.
UNHOOKED = ("mixer", "mlp_block")
NORMS = {"mixer": "norm", "mlp_block": "channel_pre_norm"}


class Point(NamedTuple):
    """A value of the running model: the sum of some modules' outputs, or the input of one."""

    modules: tuple[Any, ...]
    is_input: bool = False
    factor: float = 1.0


@dataclass(frozen=True)
class HostMLP:
    """The MLP of a host's block.

    Attributes:
        component: TransformerLens' component, or the bare module where it has none.
        name: its name in hooks and error messages, `blocks.3.mlp`.
        experts: a mixture of experts whose output is added to the component's (Granite hybrids);
            None elsewhere.
        norm: the norm before it, in a block that TransformerLens hooks as a whole; None elsewhere.
        is_whole_block: whether the block has no other part.
    """

    component: Any
    name: str
    experts: Any = None
    norm: Any = None
    is_whole_block: bool = False

    @property
    def is_bare(self) -> bool:
        """Return whether the MLP is a bare module, without TransformerLens' hooks."""
        return not is_bridged(self.component) and self.norm is not None

    def unhooked_points(self, layer: HostLayer) -> dict[str, Point]:
        """Return the values that no hook shows, by the hooks that other models have for them."""
        if self.experts is not None:
            factor = number(layer.original_block, "residual_multiplier", 1.0)
            found = {"hook_mlp_out": Point((self.experts, self.component), factor=factor)}
        elif self.is_bare:
            gate, up = (optional(self.component, name) for name in ("gate_proj", "up_proj"))
            found = {"hook_mlp_out": Point((self.component,))}
            found["hook_resid_mid"] = Point((self.norm,), is_input=True)
            inputs = {"mlp.hook_pre": gate or up, "mlp.hook_pre_linear": gate and up}
            found |= {n: Point((m,)) for n, m in inputs.items() if isinstance(m, nn.Module)}
        else:
            found = {}
        return {f"{layer.name}.{name}": point for name, point in found.items()}


def host_mlp(layer: HostLayer) -> HostMLP | None:
    """Find the MLP of a layer; None where the block has none."""
    block = layer.block
    for name in ("mlp", "shared_mlp"):
        component = optional(block, name)
        if component is not None and resolved_module(component) is not None:
            experts = optional(block, "moe") if name == "shared_mlp" else None
            return HostMLP(component, f"{layer.name}.{name}", experts=experts)
    for name in UNHOOKED:
        module = resolved_module(optional(layer.original_block, name))
        if optional(module, "down_proj", "experts") is not None:
            norm = optional(layer.original_block, NORMS[name])
            alone = name == "mixer"
            return HostMLP(module, f"{layer.name}.{name}", norm=norm, is_whole_block=alone)
    return None
