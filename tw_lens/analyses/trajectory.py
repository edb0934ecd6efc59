"""How does a word travel? Its path over the sphere, layer by layer, in the original space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from tw_lens.analyses.trajectory_measures import TRAJECTORY_MEASURES, trajectory_measures
from tw_lens.canonical import States, Weights
from tw_lens.errors import Caveat
from tw_lens.geometry import PathMeasures, rank_of
from tw_lens.geometry import top_tokens as top_tokens
from tw_lens.results.arguments import require_positive, require_weights
from tw_lens.results.base import Result, figure
from tw_lens.results.token_lists import TokenLists, make_token_lists

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from tw_lens.analyses.projection import Color, Projection
    from tw_lens.analyses.trajectory_attribution import TrajectoryAttribution

SHOWN = ("norm", "step_angle", "arc_length", "turning_angle")


@dataclass(frozen=True, repr=False, eq=False)
class Trajectory(Result):
    """The path of every position of a prompt; angles in radians, lengths in stream units.

    `values` holds every measure by name (see `trajectory`). `readouts` holds one list per layer
    and position (layers outermost): the model's own readout of the state, in logits. `final_rank`
    is the place, from 0, that the finally predicted token has in that readout.
    """

    model_name: str
    labels: tuple[str, ...]
    token_index: tuple[int, ...]
    token_strings: tuple[str, ...]
    values: dict[str, Float[Tensor, "layers_and_end position"]]
    final_rank: Int[Tensor, "layers_and_end position"]
    readouts: TokenLists
    caveats: tuple[Caveat, ...] = ()

    @property
    def norm(self) -> Float[Tensor, "layers_and_end position"]:
        """The norms of the states."""
        return self.values["norm"]

    @property
    def path_measures(self) -> PathMeasures:
        """The measures along the path."""
        return PathMeasures(*(self.values[name] for name in PathMeasures._fields))

    @property
    def radial_share(self) -> Float[Tensor, "layers_and_end position"]:
        """The share of each step's squared length that points along the state."""
        return self.values["radial_share"]

    def headline(self) -> str:
        """How far the last position travels, and what it reads as in the end."""
        last = self.readouts.token_string[-1][0]
        return (
            f"{self.model_name}: {len(self.token_strings)} positions over {len(self.labels) - 1} "
            f"layers; the last one travels {float(self.path_measures.arc_length[-1, -1]):.2f} rad and "
            f"reads {last!r}"
        )

    def readout(self, layer: int, position: int) -> tuple[str, ...]:
        """The tokens a state reads as, best first."""
        return self.readouts.token_string[layer * len(self.token_strings) + position]

    def to_dataframe(self) -> pd.DataFrame:
        """One row per layer and position; `reads_as` is the top token of the model's readout."""
        rows = []
        n_positions = len(self.token_strings)
        for layer, label in enumerate(self.labels):
            for position in range(n_positions):
                at = (layer, position)
                top = next(self.readouts.rows(layer * n_positions + position))
                rows.append(
                    {
                        "layer": layer,
                        "label": label,
                        "position": position,
                        "token_index": self.token_index[position],
                        "token_string": self.token_strings[position],
                        **{name: float(self.values[name][at]) for name in TRAJECTORY_MEASURES},
                        "reads_as": top["token_string"],
                        "reads_as_index": top["token_index"],
                        "logit": top["score"],
                        "final_rank": int(self.final_rank[at]),
                    }
                )
        return pd.DataFrame(rows)

    def plot(
        self,
        projection: Projection | None = None,
        *,
        color: Color | TrajectoryAttribution = "token",
        measures: Sequence[str] = SHOWN,
    ) -> go.Figure:
        """The path among its words on a chart; without one, its measures over the layers.

        Args:
            projection: from `fit_projection`, of the same states.
            color: of a chart's paths: by "token", by "layer", or, given what `trajectory_attribution` returns, by
                the component that moved each state most.
            measures: without a chart, the measures to draw (see `trajectory`).

        Raises:
            ValueError: the chart or the movers are of other states; a measure is unknown.
        """
        return figure(self, projection, color, tuple(measures))


@require_weights
def trajectory(weights: Weights, states: States, *, k: int = 5) -> Trajectory:
    """Measure the path of every position of a prompt.

    With `y_l = N(x_l)` under the final norm and `D_l = x_{l+1} - x_l`, for every layer l:

    - `norm`: `|x_l|`; `step_angle`: `angle(y_l, y_{l+1})` (NaN in the last row); `arc_length`: the
      sum of the steps before l; `chord`: `angle(y_0, y_l)`; `tortuosity`: arc length over chord;
      `turning_angle`: between the arriving and the leaving tangent.
    - `radial_share`, `tangential_share`: of `|D_l|^2`, along `x_l` and across it; their sum is 1.
    - `angle_to_embedding`: to the token as it enters the stream, without its position;
      `angle_to_next_readout`: to the next token's column of `A_U`; `angle_to_last`,
      `angle_to_next`: to the last and the next position's `y_l` (NaN at the last position).
    - the top tokens of the model's own readout `N(x_l) A_U + a_U`, and `final_rank`: how many
      tokens stand there above the one the position predicts in the end.

    Args:
        weights: from `read_weights`.
        states: from `read_states`, of the same model.
        k: readings per state.

    Raises:
        ValueError: weights and states are of models of different sizes.

    Example:
        >>> trajectory(weights, states).labels
        ('0_pre', '1_pre', '2_pre', 'final_post')
        >>> trajectory(weights, states).final_rank[-1].tolist()
        [0, 0, 0, 0]

    Source: arXiv 2309.07315, section 5; angles by definitions of great circles.
    """
    require_positive("k", k)
    weights.require_states(states)
    readout = weights.readout
    y = readout.sphere(states.stream)
    bias = readout.bias()
    found = top_tokens(y.flatten(0, 1), readout.directions(), k, bias=bias)
    final = found.token_index[:, 0].unflatten(0, y.shape[:2])[-1]
    asked = final.expand(y.shape[:2]).flatten()
    rank = rank_of(y.flatten(0, 1), readout.directions(), asked, bias=bias)
    position_0 = Caveat("position 0", "the first position often carries huge activations.")
    return Trajectory(
        model_name=states.model_name,
        labels=tuple(states.labels),
        token_index=tuple(states.tokens.tolist()),
        token_strings=states.token_strings,
        values=trajectory_measures(weights, states.stream, states.tokens),
        final_rank=rank.unflatten(0, y.shape[:2]),
        readouts=make_token_lists(found, weights.tokens),
        caveats=(position_0,),
    )
