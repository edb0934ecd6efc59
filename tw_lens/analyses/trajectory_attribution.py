"""Trajectory attribution: every step as the sum of the contributions of each head and the MLP.

1. Recompute the attention pattern of each layer from the canonical form, and every head's output.
2. Apply what lies between this output and the residual stream: the norm after attention, the
   multiplier, or (BERT) the norms of the stream itself. A norm is linear once its divisor is
   known, and the divisor is that of the sum: each part is divided by the same number.
3. Check that the parts sum to the model's own step.
4. Project each part on the tangential part of the step: its signed share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses.step_neurons import StepNeurons, step_neurons
from tw_lens.analyses.step_parts import (
    CROSS_NAMES,
    HEAD_LETTERS,
    is_head,
    relative_error,
    step_parts,
    tolerance_of_sums,
)
from tw_lens.argument_kinds import require_index, require_positive
from tw_lens.arguments import checked
from tw_lens.canonical import States, Weights
from tw_lens.errors import Caveat
from tw_lens.geometry import tangential_shares
from tw_lens.results.base import Result, figure, layer_label
from tw_lens.results.caveats import without_distance

if TYPE_CHECKING:
    import plotly.graph_objects as go

OTHER_COMPONENTS = (*CROSS_NAMES, "MLP", *CROSS_NAMES.values(), "rest")


@dataclass(frozen=True, repr=False, eq=False)
class TrajectoryAttribution(Result):
    """Signed share of every component in each tangential step, and the norm of its contribution.

    `components` are `H0`, `H1`, ... and, where a layer has them, `attention` (heads that cannot be
    separated, or a layer in place of attention), `bias` (what the layer adds for any input of its
    heads), `MLP`, and `rest` (the effect of the stream's norms or scale on the state itself).
    `length` is the norm of what the final norm sees of a contribution (centred where it centres).
    `share` and `length` are NaN where a layer has no such component. `residual_error` is the
    largest relative error of the sum of the parts against the step, over all layers, beyond the
    rounding of the residual stream. `neurons` are the leading neurons of every step, a result of
    their own; None where they were not asked for.
    """

    model_name: str
    token_index: tuple[int, ...]
    token_strings: tuple[str, ...]
    components: tuple[str, ...]
    share: Float[Tensor, "n_layers components position"]
    length: Float[Tensor, "n_layers components position"]
    residual_error: float
    neurons: StepNeurons | None = None
    caveats: tuple[Caveat, ...] = ()

    def headline(self) -> str:
        """Return the component with the largest mean share, and the error of the sum."""
        mean = self.mean_share()
        layer, component = divmod(int(mean.nan_to_num(-math.inf).argmax()), len(self.components))
        largest = (
            "shares are not defined, because no step turns its state"
            if mean.isnan().all()
            else f"{self.label(layer, component)} has the largest mean share "
            f"({100 * float(mean[layer, component]):.0f} % of its step)"
        )
        return (
            f"{self.model_name}: {self.share.shape[0]} layers, {len(self.components)} components; "
            f"{largest}; parts sum to the steps within {self.residual_error:.0e}"
        )

    @checked
    def label(self, layer: int, component: int) -> str:
        """Return a component's label: `L5H1`, `L5 MLP`."""
        layer = require_index("layer", layer, len(self.share))
        name = self.components[require_index("component", component, len(self.components))]
        own = layer_label(layer, self.model_name)
        return f"{own}{name}" if is_head(name) else f"{own} {name}"

    @checked
    def head_of(self, component: int) -> int | None:
        """Return a component's head; None for the other components."""
        name = self.components[require_index("component", component, len(self.components))]
        return int(name[1:]) if is_head(name) else None

    def mean_share(self) -> Float[Tensor, "n_layers components"]:
        """Return the mean share over the positions, without position 0 if there are others."""
        return self.share[:, :, min(1, self.share.shape[-1] - 1) :].nanmean(-1)

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per layer, component and position.

        Columns: layer, head (missing for other components), component, position, token_index,
        token_string, share, length.
        """
        rows = []
        for layer, component in (~self.share.isnan().all(-1)).nonzero().tolist():
            for position, token in enumerate(self.token_strings):
                rows.append(
                    {
                        "layer": layer,
                        "head": self.head_of(component),
                        "component": self.label(layer, component),
                        "position": position,
                        "token_index": self.token_index[position],
                        "token_string": token,
                        "share": float(self.share[layer, component, position]),
                        "length": float(self.length[layer, component, position]),
                    }
                )
        return pd.DataFrame(rows).astype({"head": "Int64"})

    @checked
    def plot(self, position: int | None = None) -> go.Figure:
        """Return a heat map of layers and components.

        Args:
            position: one position; by default the mean over the positions (see `mean_share`).

        Raises:
            IndexError: the position does not exist.
            TypeError: position is not an int.
        """
        if position is not None:
            require_index("position", position, len(self.token_strings))
        return figure(self, position)


@checked
def trajectory_attribution(
    weights: Weights, states: States, *, neurons: int | None = None
) -> TrajectoryAttribution:
    """Decompose every step into the contributions of each head and the MLP.

    `D_l = x_{l+1} - x_l = sum of parts p`; with `t` the part of `D_l` across `x_l` (both as the
    final norm sees them), the share of a part is `<p, t> / <t, t>`: the shares of a step sum to 1,
    and a part with a negative share points against the step. Norms after attention and of the
    stream, output gates, multipliers and parallel blocks are included. The parts are checked to sum
    to the step within 1e-5 of the layer's largest entry, beyond the rounding of the stream itself
    (a position with entries of 25,000 is stored to 2e-3, whatever was added to it); for a model in
    half precision within eight steps of its number format, as in `check` (with a caveat). Heads
    that do not sum to the attention output are not separated (`attention`, with a caveat).

    Args:
        weights: from `read_weights`.
        states: from `read_states`, of the same model.
        neurons: how many neurons of every step to name (`neurons` of the result); none by default.
            The share of a neuron is that of `f_n W_out[n]`, behind the norms and multipliers that
            the model applies to the sum.

    Raises:
        TypeError: an argument of another type.
        UnsupportedModelError: neurons of a model without any MLP of the canonical form.
        ValueError: states of another model, or a layer whose parts do not sum to its step.

    Example:
        >>> result = trajectory_attribution(weights, states)
        >>> result.components
        ('H0', 'H1', 'H2', 'H3', 'bias', 'MLP')
        >>> result.residual_error < 1e-5
        True

    Source: arXiv 2309.07315, section 4 (heads as updates); shares by definition.
    """
    if neurons is not None:
        require_positive("neurons", neurons)
    weights.require_states(states)
    parts_of_layer, errors, not_separated = [], [], []
    tolerance = tolerance_of_sums(weights)
    for layer in range(weights.n_layers):
        parts, separated = step_parts(weights, states, layer)
        step = states.stream[layer + 1] - states.stream[layer]
        difference = sum(parts.values()) - step
        both = states.stream[layer : layer + 2]
        error = _error_beyond_rounding(difference, both, step, weights.rounding)
        if not error < tolerance:
            raise ValueError(
                f"the decomposition of layer {layer} of {states.model_name} does not sum to its "
                f"step (relative error {error:.0e}); use trajectory, which measures whole steps."
            )
        parts_of_layer.append(parts)
        errors.append(error)
        not_separated += [] if separated else [layer]
    names = [
        f"{letter}{head}"
        for letter in HEAD_LETTERS
        for head in range(max(sum(name[0] == letter for name in parts) for parts in parts_of_layer))
    ]
    names += [name for name in OTHER_COMPONENTS if any(name in parts for parts in parts_of_layer)]
    share = torch.full((len(parts_of_layer), len(names), len(states)), math.nan)
    length = share.clone()
    norm = weights.readout.norm
    for layer, parts in enumerate(parts_of_layer):
        index = [names.index(name) for name in parts]
        projected = norm.project(torch.stack(list(parts.values())))
        share[layer, index] = tangential_shares(norm.project(states.stream[layer]), projected)
        length[layer, index] = projected.norm(dim=-1)
    return TrajectoryAttribution(
        model_name=states.model_name,
        token_index=tuple(states.tokens.tolist()),
        token_strings=states.token_strings,
        components=tuple(names),
        share=share,
        length=length,
        residual_error=max(errors),
        neurons=None if neurons is None else step_neurons(weights, states, neurons),
        caveats=_caveats(weights, not_separated),
    )


def _error_beyond_rounding(
    difference: Tensor, states: Tensor, step: Tensor, rounding: float
) -> float:
    """Return the relative error of a step, beyond one rounding of each of its two states."""
    rounded = 2 * rounding * states.abs().amax(0)
    return relative_error((difference.abs() - rounded).clamp_min(0), step)


def _caveats(weights: Weights, not_separated: list[int]) -> tuple[Caveat, ...]:
    caveats = [Caveat("position 0", "the first position is left out of means.")]
    if weights.rounding > torch.finfo(torch.float32).eps:
        sentence = "parts sum to the steps up to the rounding of the model's own states."
        caveats.append(Caveat("half precision", sentence))
    if not_separated:
        layers = ", ".join(map(str, not_separated))
        caveats.append(Caveat("heads", f"the heads of layers {layers} cannot be separated."))
    return (*without_distance(weights.caveats), *caveats)
