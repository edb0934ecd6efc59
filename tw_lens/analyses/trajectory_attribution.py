"""Who moved a word? Every step of the path as the sum of what each head and the MLP added.

1. Recompute the attention pattern of each layer from the canonical form, and every head's output.
2. Take it through whatever stands between it and the stream: the norm after attention, the
   multiplier, or (BERT) the norms of the stream itself. A norm is linear once its divisor is
   known, and the divisor is that of the sum: each part is divided by the same number.
3. Check that the parts add up to the step the model really made.
4. Project each part on the step's tangential part: its signed share of the movement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.canonical import Block, Norm, States, Weights
from tw_lens.errors import Caveat
from tw_lens.geometry import tangential_shares
from tw_lens.results.arguments import require_weights
from tw_lens.results.base import Result, figure
from tw_lens.results.caveats import without_distance

if TYPE_CHECKING:
    import plotly.graph_objects as go

ADDS_UP = 1e-5
BESIDE_HEADS = ("attention", "bias", "MLP", "rest")

Parts = dict[str, Float[Tensor, "position d_model"]]


@dataclass(frozen=True, repr=False, eq=False)
class TrajectoryAttribution(Result):
    """Every component's signed share of each tangential step, and the length of what it added.

    `components` are `H0`, `H1`, ... and, where a layer has them, `attention` (heads that cannot be
    told apart, or what stands in attention's place), `bias` (what the layer adds whatever its
    heads read), `MLP`, and `rest` (what the norms or the scale of the stream do to the state
    itself). `share` and `length` are NaN where a layer has no such component. `residual_error` is the largest
    relative gap between the sum of the parts and the step, over all layers, beyond the rounding
    of the stream.
    """

    model_name: str
    token_index: tuple[int, ...]
    token_strings: tuple[str, ...]
    components: tuple[str, ...]
    share: Float[Tensor, "n_layers components position"]
    length: Float[Tensor, "n_layers components position"]
    residual_error: float
    caveats: tuple[Caveat, ...] = ()

    def headline(self) -> str:
        """The component with the largest mean share, and how well the parts add up."""
        mean = self.mean_share()
        layer, which = divmod(int(mean.nan_to_num(-math.inf).argmax()), len(self.components))
        return (
            f"{self.model_name}: {self.share.shape[0]} layers, {len(self.components)} components; "
            f"{self.named(layer, which)} moves most ({100 * float(mean[layer, which]):.0f} % of "
            f"its step); parts add up to {self.residual_error:.0e}"
        )

    def named(self, layer: int, component: int) -> str:
        """A component's name: `L5H1`, `L5 MLP`."""
        name = self.components[component]
        return f"L{layer}{name}" if name.startswith("H") else f"L{layer} {name}"

    def head_of(self, component: int) -> int | None:
        """A component's head; None for what is no head."""
        name = self.components[component]
        return int(name[1:]) if name.startswith("H") else None

    def mean_share(self) -> Float[Tensor, "n_layers components"]:
        """The mean share over the positions, position 0 left out where there are others."""
        return self.share[:, :, min(1, self.share.shape[-1] - 1) :].nanmean(-1)

    def to_dataframe(self) -> pd.DataFrame:
        """Columns: layer, head (missing for other components), component, position, token_index, token_string, share, length."""
        rows = []
        for layer, which in (~self.share.isnan().all(-1)).nonzero().tolist():
            for position, token in enumerate(self.token_strings):
                rows.append(
                    {
                        "layer": layer,
                        "head": self.head_of(which),
                        "component": self.named(layer, which),
                        "position": position,
                        "token_index": self.token_index[position],
                        "token_string": token,
                        "share": float(self.share[layer, which, position]),
                        "length": float(self.length[layer, which, position]),
                    }
                )
        return pd.DataFrame(rows).astype({"head": "Int64"})

    def plot(self, position: int | None = None) -> go.Figure:
        """Layer by component, as a heat map: of one position, or the mean over all but the first.

        Raises:
            IndexError: the position does not exist.
        """
        if position is not None and not 0 <= position < len(self.token_strings):
            raise IndexError(
                f"position {position} does not exist: the prompt has positions 0 to "
                f"{len(self.token_strings) - 1}."
            )
        return figure(self, position)


@require_weights
def trajectory_attribution(weights: Weights, states: States) -> TrajectoryAttribution:
    """Decompose every step into what each head and the MLP really added.

    `D_l = x_{l+1} - x_l = sum of parts p`; with `t` the part of `D_l` across `x_l` (both as the
    final norm sees them), the share of a part is `<p, t> / <t, t>`: the shares of a step add up to
    1, and a negative one held the state back. Norms behind attention and of the stream, output
    gates, multipliers and parallel blocks are included. The parts are checked to add up to the
    step within 1e-5 of the layer's largest entry, beyond the rounding of the stream itself (a
    position with entries of 25,000 is stored to 2e-3, whatever was added to it); heads that do not
    add up to what attention added are not told apart (`attention`, with a caveat).

    Args:
        weights: from `read_weights`.
        states: from `read_states`, of the same model.

    Raises:
        ValueError: states of another model, or a layer whose parts do not add up to its step.

    Example:
        >>> found = trajectory_attribution(weights, states)
        >>> found.components
        ('H0', 'H1', 'H2', 'H3', 'bias', 'MLP')
        >>> found.residual_error < 1e-5
        True

    Source: arXiv 2309.07315, section 4 (heads as updates); shares by definition.
    """
    weights.require_states(states)
    found, gaps, whole = [], [], []
    for layer in range(weights.n_layers):
        parts, told_apart = _parts(weights, states, layer)
        step = states.stream[layer + 1] - states.stream[layer]
        residual_error = _beyond_rounding(
            sum(parts.values()) - step, states.stream[layer : layer + 2], step
        )
        if not residual_error < ADDS_UP:
            raise ValueError(
                f"layer {layer} of {states.model_name}: its parts miss its step by {residual_error:.0e}, so "
                "nobody can be said to have moved it; `trajectory` measures the step itself."
            )
        found.append(parts)
        gaps.append(residual_error)
        whole += [] if told_apart else [layer]
    n_heads = max(sum(name.startswith("H") for name in parts) for parts in found)
    names = [f"H{head}" for head in range(n_heads)]
    names += [name for name in BESIDE_HEADS if any(name in parts for parts in found)]
    share = torch.full((len(found), len(names), len(states)), math.nan)
    length = share.clone()
    norm = weights.readout.norm
    for layer, parts in enumerate(found):
        at = [names.index(name) for name in parts]
        seen = norm.project(torch.stack(list(parts.values())))
        share[layer, at] = tangential_shares(norm.project(states.stream[layer]), seen)
        length[layer, at] = seen.norm(dim=-1)
    return TrajectoryAttribution(
        model_name=states.model_name,
        token_index=tuple(states.tokens.tolist()),
        token_strings=states.token_strings,
        components=tuple(names),
        share=share,
        length=length,
        residual_error=max(gaps),
        caveats=_caveats(weights, whole),
    )


def _parts(weights: Weights, states: States, layer: int) -> tuple[Parts, bool]:
    """The parts of one step by name, and whether its heads are told apart."""
    x, mlp, added = states.stream[layer], states.mlp_out[layer], states.attn_out[layer]
    if layer not in weights.attention_layers:
        return {"attention": added, "MLP": mlp}, True
    block = weights.block(layer)
    pattern = block.attention_pattern(x)
    heads, bias = _written(block, block.head_outputs(pattern, block.values(x), x))
    told_apart = _relative(heads.sum(0) + bias - added, added) < ADDS_UP
    parts: Parts = {f"H{head}": part for head, part in enumerate(heads)}
    parts |= {"bias": bias}
    if not told_apart:
        parts = {"attention": added}
    parts |= {"MLP": mlp}
    if block.stream_norms is not None:
        return _through(block.stream_norms, x, added, parts), told_apart
    if block.stream_scale != 1:
        parts = {name: part * block.stream_scale for name, part in parts.items()}
        parts["rest"] = (block.stream_scale - 1) * x
    return parts, told_apart


def _written(
    block: Block, heads: Float[Tensor, "n_heads position d_model"]
) -> tuple[Float[Tensor, "n_heads position d_model"], Float[Tensor, "position d_model"]]:
    """What each head adds behind the norm and multiplier, and what is added besides."""
    bias = block.b_O.expand(heads.shape[1:])
    norm, m = block.attention_output.norm, block.attention_output.multiplier
    if norm is None:
        return m * heads, m * bias
    linear = norm.linear_at(heads.sum(0) + bias)
    return m * linear(heads), m * (linear(bias) + norm.bias)


def _through(norms: tuple[Norm, Norm], x: Tensor, added: Tensor, parts: Parts) -> Parts:
    """Parts of `n_2(n_1(x + attention) + MLP)`: each through the norms that stand behind it."""
    first, second = norms
    inner = first(x + added)
    one, two = first.linear_at(x + added), second.linear_at(inner + parts["MLP"])
    taken = {name: two(p if name == "MLP" else one(p)) for name, p in parts.items()}
    biases = two(first.bias.expand_as(x)) + second.bias
    taken["rest"] = two(one(x)) + biases - x
    return taken


def _beyond_rounding(miss: Tensor, between: Tensor, step: Tensor) -> float:
    """The relative gap left when both states of a step may be off by a rounding of their own."""
    rounding = 2 * torch.finfo(between.dtype).eps * between.abs().amax(0)
    return _relative((miss.abs() - rounding).clamp_min(0), step)


def _relative(residual_error: Tensor, size: Tensor) -> float:
    """The largest entry of a gap over the largest entry of what it is a gap of."""
    largest = float(size.abs().max())
    return (
        float(residual_error.abs().max()) / largest
        if largest
        else float(residual_error.abs().max())
    )


def _caveats(weights: Weights, whole: list[int]) -> tuple[Caveat, ...]:
    said = [Caveat("position 0", "the first position is left out of means.")]
    if whole:
        layers = ", ".join(map(str, whole))
        said.append(Caveat("heads", f"the heads of layers {layers} cannot be told apart."))
    return (*without_distance(weights.caveats), *said)
