"""Attention output: from the heads' values to the residual stream, around `W_O`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tw_lens.canonical.sphere_projection import HeadNorm, Norm


@dataclass(frozen=True, eq=False)
class Gate:
    """An output gate: each head's values are multiplied by `sigmoid(n(x) W + b)` at the query.

    With `softplus`, the softplus function replaces the sigmoid (Laguna).
    """

    W: Float[Tensor, "n_heads d_model d_gate"]
    b: Float[Tensor, "n_heads d_gate"]
    softplus: bool = False

    def __call__(
        self, n_x: Float[Tensor, "position d_model"]
    ) -> Float[Tensor, "position n_heads d_gate"]:
        """Return the gate at every position; one number per head where `d_gate` is 1."""
        logits = torch.einsum("pd,hde->phe", n_x, self.W) + self.b
        return torch.nn.functional.softplus(logits) if self.softplus else logits.sigmoid()


@dataclass(frozen=True, eq=False)
class HeadRouting:
    """A mixture of attention experts (JetMoE): a router weighs each expert's heads at the query.

    Every expert has a query and an output map for each of the `n_kv_heads` key/value heads, which
    all experts share: head `h` is that of expert `h % n_experts` for key/value head
    `h // n_experts`. The weights are the softmax of the `n_chosen` largest entries of `n(x) W`, and
    0 for the other experts, whose heads write nothing at this position.
    """

    W: Float[Tensor, "d_model n_experts"]
    n_chosen: int
    n_kv_heads: int

    def logits(self, n_x: Float[Tensor, "position d_model"]) -> Float[Tensor, "position n_experts"]:
        """Return what the router chooses by, `n(x) W`."""
        return n_x @ self.W

    def __call__(self, n_x: Float[Tensor, "position d_model"]) -> Float[Tensor, "position heads 1"]:
        """Return the factor on the values of every head at every position."""
        logits = self.logits(n_x)
        largest, chosen = logits.topk(self.n_chosen, dim=-1)
        weight = torch.zeros_like(logits).scatter(-1, chosen, largest.softmax(-1))
        return weight.repeat(1, self.n_kv_heads)[..., None]

    def chosen_heads(
        self, n_x: Float[Tensor, "position d_model"]
    ) -> Int[Tensor, "position computed"]:
        """Return the heads that the model computes at every position, expert by expert."""
        chosen = self.logits(n_x).topk(self.n_chosen, dim=-1).indices
        first = self.W.shape[1] * torch.arange(self.n_kv_heads, device=chosen.device)
        return (chosen[..., None] + first).flatten(1)


@dataclass(frozen=True, eq=False)
class AttentionOutput:
    """The map from the heads' weighted values `z` to the output: `m * n(gate * n_z(z) W_O + b_O)`.

    Attributes:
        gate: an output gate on `z`, or the routing of a mixture; None without one.
        z_norm: a normalisation of `z` before `W_O` (BitNet); None without one.
        norm: a normalisation of the layer's whole output (Gemma 2, OLMo 2); None without one.
        multiplier: `m`, the factor on the output before it is added (Granite).
    """

    gate: Gate | HeadRouting | None = None
    z_norm: HeadNorm | None = None
    norm: Norm | None = None
    multiplier: float = 1.0

    @property
    def linear(self) -> bool:
        """Return whether a head's output depends on its own values only."""
        return self.gate is None and self.z_norm is None and self.norm is None

    def written(self, out: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Return `m * n(out)`, what is added to the stream for the sum of all heads' outputs."""
        return self.multiplier * (out if self.norm is None else self.norm(out))
