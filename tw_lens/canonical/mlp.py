"""One block's MLP in folded form: what every neuron reads from the sphere, and what it writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tw_lens.canonical.residual_sum import add_parts
from tw_lens.canonical.sphere_projection import HeadNorm, Norm
from tw_lens.torch_settings import default_settings


class PreActivations(NamedTuple):
    """The neurons' inputs: `gate` inside the activation of a gated MLP (None elsewhere)."""

    gate: Float[Tensor, "position d_mlp"] | None
    linear: Float[Tensor, "position d_mlp"]


@dataclass(frozen=True)
class ClampedSwish:
    """`g sigmoid(alpha g)` of an input that is at most `limit` (GPT-OSS)."""

    alpha: float
    limit: float

    def __call__(self, gate: Tensor) -> Tensor:
        """Return the activation of the gates' inputs."""
        gate = gate.clamp(max=self.limit)
        return gate * torch.sigmoid(self.alpha * gate)


@dataclass(frozen=True)
class ClampedShift:
    """`l + 1` of an input between `-limit` and `limit`: what the gate of GPT-OSS multiplies."""

    limit: float

    def __call__(self, linear: Tensor) -> Tensor:
        """Return what the gates multiply, from the inputs beside them."""
        return linear.clamp(-self.limit, self.limit) + 1


@dataclass(frozen=True, eq=False)
class MLP:
    """The MLP of one layer: `m = f(N(x) A_in + a_in) W_out + b_out`, raw and folded.

    Gated: `f(N(x) A_gate + a_gate) * (N(x) A_in + a_in)`. Raw with TransformerLens' names: `W_in
    [d_model, d_mlp]`, `W_gate` (None without a gate), `W_out [d_mlp, d_model]`, biases as zeros
    where there are none. Folded: `A_in = P diag(gain) W_in`, `a_in = bias W_in + b_in`, the same
    for the gate. A neuron of a gated MLP does not change if the signs of its `A_in` and `W_out`
    change together.

    `parallel`: the MLP reads the block's input, not the stream after attention. `stream_norms`:
    the norms of the stream after attention (and cross-attention) in a post-norm model (BERT), none
    elsewhere. `inner_norm` normalises the activations (BitNet), `post_norm` what the MLP adds
    (Gemma 2), None elsewhere; `gate_multiplier` is a factor on the gate's input, `multiplier` on
    the output.

    A mixture of experts holds the neurons of all experts, one expert after the other, and of the
    shared ones; `routing` gives the factor on every activation, 0 for experts that are not chosen,
    and `experts` the name of each neuron's expert. `routes_input`: the factor is on what an expert
    reads, and through it on both sides of a gate (Llama 4). `b_experts` holds the output bias of
    each expert, which its factor multiplies too. `linear_activation` acts on the input beside a
    gate (the clamp and the constant of GPT-OSS); the signs of such a neuron cannot change. None
    elsewhere. `W_router` is None where no linear router that explains the routing is found.
    """

    layer: int
    norm: Norm
    W_in: Float[Tensor, "d_model d_mlp"]
    W_out: Float[Tensor, "d_mlp d_model"]
    b_in: Float[Tensor, " d_mlp"]
    b_out: Float[Tensor, " d_model"]
    activation: Callable[[Tensor], Tensor]
    W_gate: Float[Tensor, "d_model d_mlp"] | None = None
    b_gate: Float[Tensor, " d_mlp"] | None = None
    parallel: bool = False
    stream_norms: tuple[Norm, ...] = ()
    inner_norm: HeadNorm | None = None
    post_norm: Norm | None = None
    gate_multiplier: float = 1.0
    multiplier: float = 1.0
    centred_stream: bool = False
    routing: Callable[[Tensor], Tensor] | None = None
    experts: tuple[str, ...] | None = None
    routes_input: bool = False
    b_experts: Float[Tensor, "n_experts d_model"] | None = None
    linear_activation: Callable[[Tensor], Tensor] | None = None
    W_router: Float[Tensor, "n_experts d_model"] | None = None
    b_router: Float[Tensor, " n_experts"] | None = None

    @property
    def d_mlp(self) -> int:
        """Number of neurons."""
        return len(self.W_out)

    @property
    def signs_are_free(self) -> bool:
        """Whether the signs of a neuron's `A_in` and `W_out` may change together."""
        return self.W_gate is not None and self.linear_activation is None

    @cached_property
    def A_in(self) -> Float[Tensor, "d_model d_mlp"]:
        """`P diag(gain) W_in`: what each neuron reads from the sphere (beside its gate)."""
        return self.norm.fold(self.W_in[None])[0]

    @cached_property
    def A_gate(self) -> Float[Tensor, "d_model d_mlp"] | None:
        """`P diag(gain) W_gate`: what the gate of each neuron reads; None without gates."""
        return None if self.W_gate is None else self.norm.fold(self.W_gate[None])[0]

    @cached_property
    def A_out(self) -> Float[Tensor, "d_mlp d_model"]:
        """`m W_out diag(post gain)` off the direction that every norm removes, as `A_O`."""
        return self._written(self.W_out)

    def _written(
        self, written: Float[Tensor, "neurons d_model"]
    ) -> Float[Tensor, "neurons d_model"]:
        if self.post_norm is not None:
            written = self.post_norm.project(written) * self.post_norm.gain
        written = written * self.multiplier
        return written - written.mean(-1, keepdim=True) if self.centred_stream else written

    def sides(
        self, neurons: Int[Tensor, " neurons"] | slice
    ) -> tuple[
        Float[Tensor, "neurons d_model"] | None,
        Float[Tensor, "neurons d_model"],
        Float[Tensor, "neurons d_model"],
    ]:
        """Return rows of `A_gate` (None without gates), `A_in` and `A_out` of some neurons.

        Only these are folded, so that no second copy of the whole MLP is made.
        """
        raw = (self.W_gate, self.W_in)
        gate, read = (None if W is None else self.norm.fold(W[None, :, neurons])[0].T for W in raw)
        assert read is not None
        return gate, read, self._written(self.W_out[neurons])

    @property
    def A_router(self) -> Float[Tensor, "n_experts d_model"] | None:
        """`W_router diag(gain) P`: the direction that each expert's routing logit reads."""
        return None if self.W_router is None else self.norm.project(self.W_router * self.norm.gain)

    @property
    @default_settings()
    def a_router(self) -> Float[Tensor, " n_experts"] | None:
        """`bias W_router + b_router`: the constant part of every routing logit."""
        if self.W_router is None:
            return None
        constant = self.W_router @ self.norm.bias
        return constant if self.b_router is None else constant + self.b_router

    @cached_property
    @default_settings()
    def a_in(self) -> Float[Tensor, " d_mlp"]:
        """`bias W_in + b_in`: the constant part of every neuron's input."""
        return self.norm.bias @ self.W_in + self.b_in

    @cached_property
    @default_settings()
    def a_gate(self) -> Float[Tensor, " d_mlp"] | None:
        """`bias W_gate + b_gate`: the constant part of every gate; None without gates."""
        if self.W_gate is None or self.b_gate is None:
            return None
        return self.norm.bias @ self.W_gate + self.b_gate

    def resid_mid(
        self,
        x: Float[Tensor, "*batch position d_model"],
        attn_out: Float[Tensor, "*batch position d_model"],
        cross_out: Float[Tensor, "*batch position d_model"] | None = None,
    ) -> Float[Tensor, "*batch position d_model"]:
        """Return the stream that the MLP reads, from the block's input and what attention adds."""
        if self.parallel:
            return x
        return add_parts(x, [attn_out, cross_out], self.stream_norms)

    def pre_activations_of_points(self, y: Float[Tensor, "points d_model"]) -> PreActivations:
        """Return the neurons' inputs for points of the sphere."""
        linear = y @ self.A_in + self.a_in
        if self.A_gate is None or self.a_gate is None:
            return PreActivations(None, linear)
        return PreActivations(y @ self.A_gate + self.a_gate, linear)

    def activations(
        self, pre: PreActivations, y: Float[Tensor, "position d_model"]
    ) -> Float[Tensor, "position d_mlp"]:
        """Return the neurons' activations, as `W_out` reads them (after any norm and routing).

        Args:
            pre: the neurons' inputs.
            y: the points of the sphere that they were computed for (which an expert is chosen by).
        """
        factor = None if self.routing is None else self.routing(self.norm.affine(y))
        if factor is not None and self.routes_input:
            gate = None if pre.gate is None else pre.gate * factor
            pre, factor = PreActivations(gate, pre.linear * factor), None
        if pre.gate is None:
            post = self.activation(pre.linear)
        else:
            linear = pre.linear
            linear = linear if self.linear_activation is None else self.linear_activation(linear)
            post = self.activation(pre.gate * self.gate_multiplier) * linear
        post = post if factor is None else post * factor
        return post if self.inner_norm is None else self.inner_norm(post[..., None, :])[..., 0, :]

    def biases_out(
        self, y: Float[Tensor, "position d_model"]
    ) -> Float[Tensor, "*position d_model"]:
        """Return what the biases add to the sum of what the neurons write, for points `y`.

        That is `b_out`, and the biases of the experts that are chosen where these have some.
        """
        if self.b_experts is None or self.routing is None or self.experts is None:
            return self.b_out
        width, n = self.experts.count("0"), len(self.b_experts)
        factor = self.routing(self.norm.affine(y))[..., : n * width : width]
        return self.b_out + factor @ self.b_experts

    def mlp_out(
        self,
        activations: Float[Tensor, "position d_mlp"],
        biases: Float[Tensor, "*position d_model"],
        *,
        change: Float[Tensor, "position d_model"] | None = None,
    ) -> Float[Tensor, "position d_model"]:
        """Return what the MLP adds to the stream for its neurons' activations.

        Args:
            activations: of the neurons.
            biases: from `biases_out`, for the same points.
            change: added to the sum of what neurons and biases write.
        """
        out = activations @ self.W_out + biases
        out = out if change is None else out + change
        return self.multiplier * (out if self.post_norm is None else self.post_norm(out))

    def output_divisor(
        self,
        activations: Float[Tensor, "position d_mlp"],
        biases: Float[Tensor, "*position d_model"],
    ) -> Float[Tensor, "position 1"]:
        """Return the divisor of the norm of what the MLP adds; ones without such a norm."""
        if self.post_norm is None:
            return torch.ones(len(activations), 1)
        out = self.post_norm.project(activations @ self.W_out + biases)
        return (out.square().mean(-1, keepdim=True) + self.post_norm.eps).sqrt()

    def along(
        self,
        activations: Float[Tensor, "position d_mlp"],
        biases: Float[Tensor, "*position d_model"],
        directions: Float[Tensor, "position d_model"],
    ) -> tuple[Float[Tensor, "position d_mlp"], Float[Tensor, " position"]]:
        """Return every neuron's part of `mlp_out . direction` at each position, and the biases'.

        A norm of the output divides each part by the divisor of the whole.
        """
        read = self.multiplier * directions
        constant = torch.zeros(len(directions))
        if self.post_norm is not None:
            constant = read @ self.post_norm.bias
            read = self.post_norm.adjoint_at(activations @ self.W_out + biases)(read)
        return activations * (read @ self.W_out.mT), (read * biases).sum(-1) + constant
