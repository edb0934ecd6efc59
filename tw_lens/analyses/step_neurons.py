"""Step neurons: the MLP's share of every step, neuron by neuron."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tw_lens.analyses.neuron_points import neuron_label
from tw_lens.analyses.step_parts import relative_error, tolerance_of_sums
from tw_lens.argument_kinds import require_index
from tw_lens.arguments import checked
from tw_lens.canonical import MLP, States, Weights
from tw_lens.errors import Caveat, UnsupportedModelError
from tw_lens.geometry import radial_and_tangential
from tw_lens.results.base import Result, figure, layer_label

if TYPE_CHECKING:
    import plotly.graph_objects as go

N_LARGEST = 50


class MeanShare(NamedTuple):
    """A neuron with its mean share of the steps of its layer, over the positions."""

    layer: int
    neuron: int
    share: float


@dataclass(frozen=True, repr=False, eq=False)
class StepNeurons(Result):
    """The neurons with the largest shares of every step, by absolute value.

    `neuron`, `share` and `activation` hold the k leading neurons of every layer and position;
    `largest` the 50 neurons with the largest absolute mean share of all, position 0 left out, and
    `largest_share` their share of the step at every position. `rest` is the share of all others,
    `bias` that of the MLP's biases, and the three sum to the MLP's share. NaN (and neuron -1)
    where a layer has no MLP, or one that is not read. `error` is the largest relative error of the
    sum of the neurons against what the MLP adds.
    """

    model_name: str
    token_index: tuple[int, ...]
    token_strings: tuple[str, ...]
    neuron: Int[Tensor, "n_layers k position"]
    share: Float[Tensor, "n_layers k position"]
    activation: Float[Tensor, "n_layers k position"]
    rest: Float[Tensor, "n_layers position"]
    bias: Float[Tensor, "n_layers position"]
    largest: tuple[MeanShare, ...]
    largest_share: Float[Tensor, "largest position"]
    error: float
    caveats: tuple[Caveat, ...] = ()

    def headline(self) -> str:
        """Return the neuron with the largest share of a step, position 0 left out."""
        first = min(1, len(self.token_strings) - 1)
        share = self.share[..., first:].abs().nan_to_num(-1.0)
        layer, rank, at = (int(i) for i in torch.unravel_index(share.argmax(), share.shape))
        position = at + first
        label = neuron_label(layer, int(self.neuron[layer, rank, position]), self.model_name)
        return (
            f"{self.model_name}: {self.neuron.shape[1]} neurons of each of {len(self.neuron)} "
            f"layers; {label} has the largest share of a step ("
            f"{100 * float(self.share[layer, rank, position]):.0f} % at position "
            f"{position}, {self.token_strings[position]!r}); neurons sum to the MLPs within "
            f"{self.error:.0e}"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per layer, position and leading neuron, one for the rest, one for biases.

        Columns: layer, position, token_index, token_string, component ("L5N123", "L5 rest",
        "L5 bias"), neuron (missing for the last two), share, activation.
        """
        rows = []
        for layer in range(len(self.neuron)):
            if self.rest[layer].isnan().all():
                continue
            for position, token in enumerate(self.token_strings):
                where = {
                    "layer": layer,
                    "position": position,
                    "token_index": self.token_index[position],
                    "token_string": token,
                }
                values = zip(
                    self.neuron[layer, :, position].tolist(),
                    self.share[layer, :, position].tolist(),
                    self.activation[layer, :, position].tolist(),
                    strict=True,
                )
                for neuron, share, activation in values:
                    if neuron < 0:  # a layer with fewer neurons
                        continue
                    own = {
                        "component": neuron_label(layer, neuron, self.model_name),
                        "neuron": neuron,
                    }
                    rows.append(where | own | {"share": share, "activation": activation})
                for name, values_of in (("rest", self.rest), ("bias", self.bias)):
                    own = {
                        "component": f"{layer_label(layer, self.model_name)} {name}",
                        "neuron": None,
                    }
                    share = float(values_of[layer, position])
                    rows.append(where | own | {"share": share, "activation": math.nan})
        return pd.DataFrame(rows).astype({"neuron": "Int64"})

    @checked
    def plot(self, position: int | None = None) -> go.Figure:
        """Return the leading neurons of one position at every layer.

        Args:
            position: the position; the last by default.

        Raises:
            IndexError: the position does not exist.
            TypeError: position is not an int.
        """
        last = len(self.token_strings) - 1
        at = last if position is None else require_index("position", position, last + 1)
        return figure(self, at)


def step_neurons(weights: Weights, states: States, k: int) -> StepNeurons:
    """Return the k neurons with the largest shares of every step (see `trajectory_attribution`).

    Raises:
        UnsupportedModelError: no layer has an MLP of the canonical form, or neurons do not sum to
            what an MLP adds.
    """
    n_layers, n = weights.n_layers, len(states)
    leading = {
        "neuron": torch.full((n_layers, k, n), -1),
        "share": torch.full((n_layers, k, n), math.nan),
        "activation": torch.full((n_layers, k, n), math.nan),
    }
    rest, bias = torch.full((2, n_layers, n), math.nan).unbind(0)
    errors, refusals, means = [], {}, list[tuple[MeanShare, Tensor]]()
    first = min(1, n - 1)
    for layer in range(n_layers):
        try:
            mlp = weights.mlp(layer)
        except UnsupportedModelError as refusal:
            refusals[layer] = refusal
            continue
        share, constant, activation, error = _shares(weights, states, mlp)
        errors.append(error)
        found = min(k, mlp.d_mlp)
        index = share.abs().topk(found, dim=-1).indices
        top = share.gather(-1, index)
        leading["neuron"][layer, :found] = index.T
        leading["share"][layer, :found] = top.T
        leading["activation"][layer, :found] = activation.gather(-1, index).T
        mean = share[first:].nanmean(0)
        most = mean.abs().nan_to_num(-1.0).topk(min(N_LARGEST, mlp.d_mlp)).indices.tolist()
        means += [(MeanShare(layer, j, float(mean[j])), share[:, j].clone()) for j in most]
        rest[layer], bias[layer] = share.sum(-1) - top.sum(-1), constant
    if not errors:
        raise next(iter(refusals.values()))
    means = sorted(means, key=lambda one: _size(one[0]), reverse=True)[:N_LARGEST]
    return StepNeurons(
        model_name=states.model_name,
        token_index=tuple(states.tokens.tolist()),
        token_strings=states.token_strings,
        rest=rest,
        bias=bias,
        largest=tuple(mean for mean, _ in means),
        largest_share=torch.stack([share for _, share in means]),
        error=max(errors),
        caveats=_caveats(
            {n: why for n, why in refusals.items() if n not in weights.layers_without_mlp}
        ),
        **leading,
    )


def _size(mean: MeanShare) -> float:
    """Return the absolute share; -1 where it is not defined."""
    return -1.0 if math.isnan(mean.share) else abs(mean.share)


def _shares(
    weights: Weights, states: States, mlp: MLP
) -> tuple[
    Float[Tensor, "position d_mlp"], Float[Tensor, " position"],
    Float[Tensor, "position d_mlp"], float,
]:  # fmt: skip
    """Return every neuron's share of one layer's step, that of the biases, and activations."""
    layer, x = mlp.layer, states.stream[mlp.layer]
    y = mlp.norm.sphere(_resid_mid(mlp, states))
    activation, biases = mlp.activations(mlp.pre_activations_of_points(y), y), mlp.biases_out(y)
    whole = states.mlp_out[layer]
    error = relative_error(mlp.mlp_out(activation, biases) - whole, whole)
    if not error < tolerance_of_sums(weights):
        raise UnsupportedModelError(
            weights.architecture,
            f"the neurons of layer {layer} do not sum to what stands beside attention in its step "
            f"(relative error {error:.0e})",
            "trajectory_attribution without neurons= still works on it.",
        )
    norm = weights.readout.norm
    step = norm.project(states.stream[layer + 1] - x)
    _, across = radial_and_tangential(norm.project(x), step)
    size = across.square().sum(-1, keepdim=True)
    target = _before_stream(weights, states, mlp)(norm.project(across))
    directions = torch.where(size > 0, target / size, math.nan)
    parts, constant = mlp.along(activation, biases, directions)
    return parts, constant, activation, error


def _resid_mid(mlp: MLP, states: States) -> Float[Tensor, "position d_model"]:
    """Return the stream that an MLP reads."""
    layer = mlp.layer
    return mlp.resid_mid(states.stream[layer], states.attn_out[layer], states.cross_out(layer))


def _before_stream(weights: Weights, states: States, mlp: MLP) -> Callable[[Tensor], Tensor]:
    """Return the transpose of what lies between the MLP and the stream."""
    layer = mlp.layer
    if layer not in weights.attention_layers:
        return lambda direction: direction
    block = weights.block(layer)
    if block.stream_norms is None:
        return lambda direction: block.stream_scale * direction
    return block.stream_norms[-1].adjoint_at(_resid_mid(mlp, states) + states.mlp_out[layer])


def _caveats(refusals: dict[int, UnsupportedModelError]) -> tuple[Caveat, ...]:
    if not refusals:
        return ()
    layers = ", ".join(map(str, refusals))
    reason = next(iter(refusals.values())).part
    return (Caveat("MLPs", f"the MLPs of layers {layers} are not split into neurons: {reason}."),)
