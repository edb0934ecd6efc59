"""Result of `direction_ablation`: the effect of every set of directions, and of random pieces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses.token_filter import TokenFilter
from tw_lens.errors import Caveat
from tw_lens.results.arguments import Circuit
from tw_lens.results.base import Result, component_label, head_columns
from tw_lens.studies.ablation_pieces import ABLATION_MEASURES
from tw_lens.studies.ablation_sets import Sets, set_label
from tw_lens.studies.bootstrap import Estimate

Action = Literal["ablate", "isolate"]
ACTIONS = ("ablate", "isolate")
SOURCES = ("direction", "random")


@dataclass(frozen=True, repr=False, eq=False)
class DirectionAblation(Result):
    """Effect of ablating or isolating each set of directions, and of random pieces as controls.

    `effect` has the axes sources (direction, random), sets, measures. The measures are
    `attention_tv`, the total variation distance between the head's attention with and without the
    ablation (0 to 1); `output_change`, the norm of the change of the head's output over the norm
    of that output; `kl`, the KL divergence of the next-token distribution from the model's own,
    in nats. `difference` is the effect of the direction minus that of its random pieces, sets by
    measures. `energy` is the Frobenius norm of each set, `share` its square over the head's.
    `residual_error` is the largest relative error of the residual stream against the canonical
    form. `left_tokens` and `right_tokens` are the highest tokens of sets of one direction, among
    those of `token_filter`.
    """

    model_name: str
    layer: int
    head: int
    circuit: Circuit
    action: Action
    sets: Sets
    energy: Float[Tensor, " sets"]
    share: Float[Tensor, " sets"]
    left_tokens: tuple[str, ...]
    right_tokens: tuple[str, ...]
    effect: Estimate
    difference: Estimate
    residual_error: float
    n_prompts: int
    n_positions: int
    n_random: int
    token_filter: TokenFilter | None = None
    caveats: tuple[Caveat, ...] = ()

    @property
    def component(self) -> str:
        """The label of the head: "L5H1"."""
        return component_label(self.layer, self.head, self.model_name)

    @property
    def names(self) -> tuple[str, ...]:
        """The label of every set: "0", "0+1+2", "none", or "0 to 63"."""
        return tuple(map(set_label, self.sets))

    def sign(self) -> list[list[str]]:
        """Return for every set and measure "above", "below" or "level" with random pieces."""
        flat, n = self.difference.sign(), len(ABLATION_MEASURES)
        return [flat[start : start + n] for start in range(0, len(flat), n)]

    def headline(self) -> str:
        """Return the set with the largest effect, and how many exceed the random pieces."""
        kl_known = not bool(self.effect.value[0, :, ABLATION_MEASURES.index("kl")].isnan().all())
        measure = ABLATION_MEASURES.index("kl" if kl_known else "output_change")
        changed, symbol, unit = (
            ("the next token", "KL ", "nats") if kl_known else ("its output", "", "of its norm")
        )
        n_above = sum(row[measure] == "above" for row in self.sign())
        largest = int(self.effect.value[0, :, measure].argmax())
        value, low, high = (float(part[0, largest, measure]) for part in self.effect)
        return (
            f"{self.model_name} {self.component} {self.circuit}, {self.n_prompts} prompts: to "
            f"{self.action} {self.names[largest]} changes {changed} most, {symbol}{value:.2g} "
            f"[{low:.2g}, {high:.2g}] {unit}; {n_above} of {len(self.sets)} change it more than "
            "random pieces of the same energy do"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per set and measure, with its random pieces.

        Columns: layer, head, component, circuit, action, directions, energy, share, measure,
        value, low, high, random, random_low, random_high, difference, difference_low,
        difference_high, vs_control ("above", "below", "level" with random pieces), left_tokens,
        right_tokens.
        """
        rows = []
        signs = self.sign()
        for i, name in enumerate(self.names):
            for m, measure in enumerate(ABLATION_MEASURES):
                numbers = [
                    float(part[index])
                    for estimated, index in (
                        (self.effect, (0, i, m)),
                        (self.effect, (1, i, m)),
                        (self.difference, (i, m)),
                    )
                    for part in estimated
                ]
                rows.append(
                    (
                        *head_columns(self.layer, self.head, self.model_name).values(),
                        self.circuit, self.action, name, float(self.energy[i]),
                        float(self.share[i]), measure, *numbers,
                        signs[i][m], self.left_tokens[i], self.right_tokens[i],
                    )
                )  # fmt: skip
        names = [
            "layer", "head", "component", "circuit", "action", "directions", "energy", "share",
            "measure", "value", "low", "high", "random", "random_low", "random_high", "difference",
            "difference_low", "difference_high", "vs_control", "left_tokens", "right_tokens",
        ]  # fmt: skip
        return pd.DataFrame(rows, columns=names)
