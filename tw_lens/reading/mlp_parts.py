"""Where a block keeps its MLP, and the points of an MLP that TransformerLens does not hook."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from tw_lens.reading.layer import HostLayer
from tw_lens.reading.model_access import is_bridged, optional, resolved_module

# Modules that may be a block's only part (Nemotron-H), or that stand behind its mixer
# (RecurrentGemma), in a block that TransformerLens hooks as a whole.
UNHOOKED = ("mixer", "mlp_block")
NORMS = {"mixer": "norm", "mlp_block": "channel_pre_norm"}


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

    def unhooked_points(self, block_name: str) -> dict[str, tuple[nn.Module, bool]]:
        """Return what a bare MLP does not hook: the module, and whether its input is the value.

        By the names of the hooks that other models have for the same values.
        """
        if not self.is_bare:
            return {}
        gate, up = (optional(self.component, name) for name in ("gate_proj", "up_proj"))
        found = {"hook_mlp_out": (self.component, False), "hook_resid_mid": (self.norm, True)}
        names = ("mlp.hook_pre",) if gate is None else ("mlp.hook_pre", "mlp.hook_pre_linear")
        for name, module in zip(names, [m for m in (gate, up) if m is not None], strict=False):
            if isinstance(module, nn.Module):
                found[name] = (module, False)
        return {f"{block_name}.{name}": point for name, point in found.items()}


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
