"""Trajectory: the path of every position over the sphere, layer by layer, in the original space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from tw_lens.analyses.projection import Projection
from tw_lens.analyses.token_filter import (
    TokenFilter,
    allowed_mask,
    filter_caveat,
    filter_summary,
)
from tw_lens.analyses.trajectory_measures import TRAJECTORY_MEASURES, trajectory_measures
from tw_lens.canonical import States, Weights
from tw_lens.errors import Caveat
from tw_lens.geometry import PathMeasures, rank_of, top_tokens
from tw_lens.results.arguments import (
    require_int,
    require_names,
    require_positive,
    require_states,
    require_weights,
)
from tw_lens.results.base import Result, figure
from tw_lens.results.token_lists import TokenLists, make_token_lists
from tw_lens.torch_settings import default_settings

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from tw_lens.analyses.projection import Color
    from tw_lens.analyses.trajectory_attribution import TrajectoryAttribution

SHOWN = ("norm", "step_angle", "arc_length", "turning_angle")  # by `plot` without `measures=`


@dataclass(frozen=True, repr=False, eq=False)
class Trajectory(Result):
    """The path of every position of a prompt.

    Angles are in radians, norms in units of the residual stream. `values` holds every measure of
    `TRAJECTORY_MEASURES` by name (see `trajectory`). `readouts` holds one list per layer and
    position (layers outermost): the top tokens of the model's own readout of the state, in logits,
    among those of the `token_filter`. `final_rank` is the rank, from 0, of the finally predicted
    token in the readout over the whole vocabulary.
    """

    model_name: str
    labels: tuple[str, ...]
    token_index: tuple[int, ...]
    token_strings: tuple[str, ...]
    values: dict[str, Float[Tensor, "layers_and_end position"]]
    final_rank: Int[Tensor, "layers_and_end position"]
    readouts: TokenLists
    token_filter: TokenFilter | None = None
    caveats: tuple[Caveat, ...] = ()

    @property
    def norm(self) -> Float[Tensor, "layers_and_end position"]:
        """The norms of the states."""
        return self.values["norm"]

    @property
    def path_measures(self) -> PathMeasures:
        """The measures along the path: step angle, arc length, chord, tortuosity, turning angle."""
        return PathMeasures(*(self.values[name] for name in PathMeasures._fields))

    @property
    def radial_share(self) -> Float[Tensor, "layers_and_end position"]:
        """The share of each step's squared length along the state."""
        return self.values["radial_share"]

    def headline(self) -> str:
        """Return the arc length of the last position's path, and its final readout."""
        last = self.readouts.token_string[-1][0]
        arc_length = float(self.values["arc_length"][-1, -1])
        return (
            f"{self.model_name}: {len(self.token_strings)} positions over {len(self.labels) - 1} "
            f"layers; the path of the last one is {arc_length:.2f} rad long and ends at the "
            f"readout {last!r}{filter_summary(self.token_filter)}"
        )

    def readout(self, layer: int, position: int) -> tuple[str, ...]:
        """Return the top tokens of a state's readout, best first.

        Args:
            layer: index of a label, 0 for the state before the first layer.
            position: of the prompt, from 0.

        Raises:
            IndexError: the state does not exist.
            TypeError: layer or position is not an int.
        """
        sizes = {"layer": len(self.labels), "position": len(self.token_strings)}
        for name, index in (("layer", layer), ("position", position)):
            if not 0 <= require_int(name, index) < sizes[name]:
                raise IndexError(f"{name} must be between 0 and {sizes[name] - 1}, got {index}.")
        return self.readouts.token_string[layer * len(self.token_strings) + position]

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per layer and position.

        Columns: layer, label, position, token_index, token_string, those of `TRAJECTORY_MEASURES`,
        reads_as, reads_as_index, logit (the top token of the model's readout, among those of the
        `token_filter`), final_rank.
        """
        rows = []
        n_positions = len(self.token_strings)
        for layer, label in enumerate(self.labels):
            for position in range(n_positions):
                state = (layer, position)
                top = next(self.readouts.rows(layer * n_positions + position))
                rows.append(
                    {
                        "layer": layer,
                        "label": label,
                        "position": position,
                        "token_index": self.token_index[position],
                        "token_string": self.token_strings[position],
                        **{name: float(self.values[name][state]) for name in TRAJECTORY_MEASURES},
                        "reads_as": top["token_string"],
                        "reads_as_index": top["token_index"],
                        "logit": top["score"],
                        "final_rank": int(self.final_rank[state]),
                    }
                )
        return pd.DataFrame(rows)

    @default_settings()
    def plot(
        self,
        projection: Projection | None = None,
        *,
        color: Color | TrajectoryAttribution = "token",
        measures: Sequence[str] = SHOWN,
    ) -> go.Figure:
        """Return a figure of the path on a projection, or of its measures over the layers.

        Args:
            projection: from `fit_projection`, of the same states.
            color: of the paths on a projection: by "token", by "layer", or, given a result of
                `trajectory_attribution`, by the component with the largest share of each step.
            measures: without a projection, any of `TRAJECTORY_MEASURES`, the measures of
                `trajectory`.

        Raises:
            TypeError: projection is no `Projection`, or measures is no list.
            ValueError: projection or attribution are of other states; an unknown color or measure.
        """
        if not isinstance(projection, Projection | None):
            raise TypeError(
                "projection must be a Projection; call fit_projection(weights, states) first (got "
                f"{type(projection).__name__})."
            )
        return figure(self, projection, color, require_names("measures", measures, "norm"))


@default_settings()
@require_weights
def trajectory(
    weights: Weights, states: States, *, k: int = 5, token_filter: TokenFilter | None = None
) -> Trajectory:
    """Measure the path of every position of a prompt.

    With `y_l = N(x_l)` under the final norm and `D_l = x_{l+1} - x_l`, for every layer l:

    - `norm`: `|x_l|`; `step_angle`: `angle(y_l, y_{l+1})` (NaN in the last row); `arc_length`: the
      sum of the steps before l; `chord`: `angle(y_0, y_l)`; `tortuosity`: arc length over chord;
      `turning_angle`: between the arriving and the leaving tangent.
    - `radial_share`, `tangential_share`: of `|D_l|^2`, along `x_l` and across it; their sum is 1.
    - `angle_to_embedding`: to the token's embedding as it enters the residual stream, without its
      position; `angle_to_next_readout`: to the next token's column of `A_U`; `angle_to_last`,
      `angle_to_next`: to the last and the next position's `y_l` (NaN at the last position).
    - the top tokens of the model's own readout `N(x_l) A_U + a_U`, and `final_rank`: how many
      tokens of the whole vocabulary score higher there than the token that the position finally
      predicts.

    Args:
        weights: from `read_weights`.
        states: from `read_states`, of the same model.
        k: tokens per readout.
        token_filter: the tokens that a readout may list, from `token_filter`; all by default.
            Measures and `final_rank` do not depend on it.

    Raises:
        TypeError: an argument of another type.
        ValueError: states of a model of another size, k below 1, or a filter that does not fit.

    Example:
        >>> trajectory(weights, states).labels
        ('0_pre', '1_pre', '2_pre', 'final_post')
        >>> trajectory(weights, states).final_rank[-1].tolist()
        [0, 0, 0, 0]

    Source: arXiv 2309.07315, section 5; angles by definitions of great circles.
    """
    require_positive("k", k)
    require_states(weights, states)
    keep = allowed_mask(weights, token_filter)
    readout = weights.readout
    y = readout.sphere(states.stream).flatten(0, 1)
    shape = states.stream.shape[:2]
    directions, bias = readout.directions(), readout.bias()
    result = top_tokens(y, directions, k, bias=bias, keep=keep)
    best = result if keep is None else top_tokens(y, directions, 1, bias=bias)
    predicted = best.token_index[:, 0].unflatten(0, shape)[-1]
    rank = rank_of(y, directions, predicted.expand(shape).flatten(), bias=bias)
    position_0 = Caveat("position 0", "the first position often has huge activations.")
    return Trajectory(
        model_name=states.model_name,
        labels=tuple(states.labels),
        token_index=tuple(states.tokens.tolist()),
        token_strings=states.token_strings,
        values=trajectory_measures(weights, states.stream, states.tokens),
        final_rank=rank.unflatten(0, shape),
        readouts=make_token_lists(result, weights.tokens),
        token_filter=token_filter,
        caveats=(position_0, *filter_caveat(token_filter)),
    )
