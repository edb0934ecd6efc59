"""How do words travel over many sentences? Every measure of a path, with intervals and controls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tw_lens.analyses.trajectory_measures import TRAJECTORY_MEASURES, trajectory_measures
from tw_lens.canonical import Weights
from tw_lens.errors import Caveat
from tw_lens.progress import Progress
from tw_lens.reading import Prompt
from tw_lens.results import Result
from tw_lens.studies.bootstrap import Estimate, difference, estimate
from tw_lens.studies.runner import CONTROLS, MODEL, Settings, run_study


@dataclass(frozen=True, repr=False, eq=False)
class TrajectoryStatistics(Result):
    """Mean, spread and 95 % interval of every measure at every layer, for the model and controls.

    `mean`, `std` (standard deviation over states) and `count` have the axes sources, measures,
    layers; `sources[0]` is the model. `difference` is the model's mean less each control's, with its
    own interval: both come from the same prompts, so that it is narrower than two intervals side
    by side.
    """

    model_name: str
    labels: tuple[str, ...]
    sources: tuple[str, ...]
    mean: Estimate
    std: Float[Tensor, "sources measures layers_and_end"]
    count: Float[Tensor, "sources measures layers_and_end"]
    difference: Estimate
    n_prompts: int
    n_cut: int
    n_skipped: int
    caveats: tuple[Caveat, ...] = ()

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the measures (see `trajectory`)."""
        return TRAJECTORY_MEASURES

    @property
    def n_states(self) -> int:
        """How many positions were measured at each layer."""
        return int(self.count[0, TRAJECTORY_MEASURES.index("norm"), 0])

    def headline(self) -> str:
        """How far words travel, and how far the controls do."""
        at = (TRAJECTORY_MEASURES.index("arc_length"), -1)
        ways = [
            f"{source} {float(self.mean.value[i][at]):.2f} "
            f"[{float(self.mean.low[i][at]):.2f}, {float(self.mean.high[i][at]):.2f}]"
            for i, source in enumerate(self.sources)
        ]
        return (
            f"{self.model_name}: {self.n_prompts} prompts, {self.n_states} positions; they travel, "
            f"in rad: {', '.join(ways)}"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """One row per layer, measure and source; against controls also what the model is beyond.

        Columns: layer, label, measure, source, mean, spread, low, high, count, beyond, difference_low,
        difference_high, vs_control ("above", "below", "level" with the control). In the model's own
        rows the last four are empty.
        """
        stands = self.difference.sign()
        rows = []
        for i, source in enumerate(self.sources):
            for j, measure in enumerate(TRAJECTORY_MEASURES):
                for layer, label in enumerate(self.labels):
                    at, against = (i, j, layer), (i - 1, j, layer)
                    rows.append(
                        {
                            "layer": layer,
                            "label": label,
                            "measure": measure,
                            "source": source,
                            "mean": float(self.mean.value[at]),
                            "std": float(self.std[at]),
                            "low": float(self.mean.low[at]),
                            "high": float(self.mean.high[at]),
                            "count": int(self.count[at]),
                            **_beyond(self.difference, against, source),
                        }
                    )
                    if source != MODEL:
                        which = (against[0] * len(TRAJECTORY_MEASURES) + j) * len(
                            self.labels
                        ) + layer
                        rows[-1]["vs_control"] = stands[which]
        return pd.DataFrame(rows)


def _beyond(found: Estimate, at: tuple[int, int, int], source: str) -> dict[str, Any]:
    """The last columns of a row."""
    names = ("difference", "difference_low", "difference_high")
    if source == MODEL:
        return dict.fromkeys(names, float("nan")) | {"vs_control": ""}
    return {name: float(part[at]) for name, part in zip(names, found, strict=True)}


def trajectory_statistics(
    model: Any,
    prompts: Iterable[Prompt | Mapping[str, Any]],
    *,
    controls: Sequence[str] = CONTROLS,
    first_position: int = 1,
    batch_size: int = 16,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: Progress = False,
) -> TrajectoryStatistics:
    """Measure the walks of many prompts: what `trajectory` measures, as means with intervals.

    A mean is taken over all positions of all prompts; its interval comes from a bootstrap over
    prompts (1000 resamples), because the positions of one sentence are not independent. Prompts
    stream through: memory does not grow with their number. Those of one length run together, so
    that no padding and no mask is needed; padded batches are taken apart first.

    Args:
        model: a `HookedTransformer` or a `TransformerBridge`; it is run and not changed.
        prompts: texts, token ids, or a tokenizer's batches with `input_ids` and `attention_mask`
            (padded on either side). Empty ones are left out and counted, those longer than the
            context are cut at its end and counted.
        controls: which walks to compare with: "shuffled layers" (the prompt's own steps in another
            order), "random steps" (of the same lengths), "permuted weights" (the same architecture, the
            entries of each weight in random order; a second model in memory).
        first_position: positions before it are left out; position 0 often carries huge
            activations.
        batch_size: prompts run together.
        seed: of the controls and of the bootstrap.
        checkpoint: a file to keep the study in while it runs. Named again with the same prompts, an
            interrupted study goes on where it was, and gives the same numbers.
        progress: True shows a bar; a function is called with a sentence at each step.

    Raises:
        ValueError: a control is unknown, or no prompt has a position to measure.
        CheckpointError: (a ValueError) the kept study is of other settings or prompts.
        UnsupportedModelError: see `read_weights` and `permute_weights`.

    Example:
        >>> found = trajectory_statistics(model, ["w5 w6 w7", "w8 w9", ""], controls=[])
        >>> found.n_prompts, found.n_states, found.n_skipped
        (2, 5, 1)

    Source: the measures of `trajectory`; the interval, Hanley and MacGibbon 2006.
    """
    settings = Settings(tuple(controls), first_position, batch_size, seed)
    found = run_study(
        model,
        prompts,
        _measure,
        TRAJECTORY_MEASURES,
        settings,
        checkpoint=checkpoint,
        progress=progress,
    )
    return TrajectoryStatistics(
        model_name=found.model_name,
        labels=found.labels,
        sources=found.sources,
        mean=estimate(found.means),
        std=found.std,
        count=found.count,
        difference=difference(found.means[:, :1], found.means[:, 1:]),
        n_prompts=found.n_prompts,
        n_cut=found.n_cut,
        n_skipped=found.n_skipped,
        caveats=found.caveats,
    )


def _measure(
    weights: Weights,
    stream: Float[Tensor, "layers_and_end position d_model"],
    tokens: Int[Tensor, " position"],
    _generator: torch.Generator | None,
) -> Float[Tensor, "columns layers_and_end position"]:
    values = trajectory_measures(weights, stream, tokens)
    return torch.stack([values[name] for name in TRAJECTORY_MEASURES])
