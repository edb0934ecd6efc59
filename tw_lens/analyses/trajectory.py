"""How does a word travel? Its path over the sphere, layer by layer, in the original space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses.result import Result, WordLists, figure, require_positive, word_lists
from tw_lens.canonical import States, Weights
from tw_lens.errors import Caveat
from tw_lens.geometry import PathMeasures, measure_path, nearest, radial_share

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from tw_lens.analyses.chart import Chart


@dataclass(frozen=True, repr=False, eq=False)
class Trajectory(Result):
    """The path of every position of a prompt; angles in radians, lengths in stream units.

    `readings` holds one list per layer and position (layers outermost): the model's own readout
    of the state, in logits.
    """

    model_name: str
    labels: tuple[str, ...]
    token_index: tuple[int, ...]
    token_strings: tuple[str, ...]
    norm: Float[Tensor, "layers_and_end position"]
    measures: PathMeasures
    radial_share: Float[Tensor, "layers_and_end position"]
    readings: WordLists
    caveats: tuple[Caveat, ...] = ()

    def headline(self) -> str:
        """How far the last position travels, and what it reads as in the end."""
        last = self.readings.token_string[-1][0]
        return (
            f"{self.model_name}: {len(self.token_strings)} positions over {len(self.labels) - 1} "
            f"layers; the last one travels {float(self.measures.arc_length[-1, -1]):.2f} rad and "
            f"reads {last!r}"
        )

    def reading(self, layer: int, position: int) -> tuple[str, ...]:
        """The tokens a state reads as, best first."""
        return self.readings.token_string[layer * len(self.token_strings) + position]

    def to_dataframe(self) -> pd.DataFrame:
        """One row per layer and position; `reads_as` is the top token of the model's readout."""
        rows = []
        n_positions = len(self.token_strings)
        for layer, label in enumerate(self.labels):
            for position in range(n_positions):
                at = (layer, position)
                top = next(self.readings.rows(layer * n_positions + position))
                rows.append(
                    {
                        "layer": layer,
                        "label": label,
                        "position": position,
                        "token_index": self.token_index[position],
                        "token_string": self.token_strings[position],
                        "norm": float(self.norm[at]),
                        "step_angle": float(self.measures.step_angle[at]),
                        "arc_length": float(self.measures.arc_length[at]),
                        "turning_angle": float(self.measures.turning_angle[at]),
                        "chord": float(self.measures.chord[at]),
                        "radial_share": float(self.radial_share[at]),
                        "reads_as": top["token_string"],
                        "reads_as_index": top["token_index"],
                        "logit": top["score"],
                    }
                )
        return pd.DataFrame(rows)

    def plot(self, chart: Chart | None = None) -> go.Figure:
        """The path among its words on a chart; without one, its measures over the layers."""
        return figure(self, chart)


def trajectory(weights: Weights, states: States, *, k: int = 5) -> Trajectory:
    """Measure the path of every position of a prompt.

    `y_l = N(x_l)` under the final norm. Step angle `angle(y_l, y_{l+1})` (row l, NaN in the last),
    arc length `sum of the steps before l`, turning angle between the arriving and the leaving
    tangent, chord `angle(y_0, y_l)`, norm `|x_l|`, radial share of `|x_{l+1} - x_l|^2`, and the
    top tokens of the model's own readout `N(x_l) A_U + a_U`.

    Args:
        weights: from `read_weights`.
        states: from `read_states`, of the same model.
        k: readings per state.

    Raises:
        ValueError: weights and states are of models of different sizes.

    Example:
        >>> trajectory(weights, states).labels
        ('0_pre', '1_pre', '2_pre', 'final_post')

    Source: arXiv 2309.07315, section 5; angles by definitions of great circles.
    """
    require_positive("k", k)
    weights.require_states(states)
    readout = weights.readout
    y = readout.sphere(states.stream)
    found = nearest(y.flatten(0, 1), readout.directions(), k, offset=readout.offset())
    position_0 = Caveat("position 0", "the first position often carries huge activations.")
    return Trajectory(
        model_name=states.model_name,
        labels=tuple(states.labels),
        token_index=tuple(states.tokens.tolist()),
        token_strings=states.token_strings,
        norm=states.stream.norm(dim=-1),
        measures=measure_path(y),
        radial_share=radial_share(states.stream),
        readings=word_lists(found, weights.tokens),
        caveats=(position_0,),
    )
