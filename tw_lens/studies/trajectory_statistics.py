"""Trajectory statistics: every measure of a trajectory over many prompts, with controls."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tw_lens.analyses.trajectory_measures import TRAJECTORY_MEASURES, trajectory_measures
from tw_lens.arguments import checked
from tw_lens.canonical import Weights
from tw_lens.errors import Caveat
from tw_lens.progress import Progress
from tw_lens.reading import Prompt
from tw_lens.results import Result
from tw_lens.studies.bootstrap import Estimate, difference, estimate
from tw_lens.studies.runner import CONTROLS, MODEL, Control, Settings, run_study


@dataclass(frozen=True, repr=False, eq=False)
class TrajectoryStatistics(Result):
    """Mean with 95 % interval of every measure at every layer, for the model and its controls.

    `mean`, `std` (standard deviation over states) and `count` have the axes sources, measures,
    layers; `sources[0]` is the model. `difference` is the model's mean minus each control's, with
    its own interval: both come from the same prompts, so that this interval is narrower than a
    comparison of the two separate intervals.
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
        """The names of the measures (see `trajectory`)."""
        return TRAJECTORY_MEASURES

    @property
    def n_states(self) -> int:
        """The number of positions measured at each layer."""
        return int(self.count[0, TRAJECTORY_MEASURES.index("norm"), 0])

    def headline(self) -> str:
        """Return the mean arc length of the model and of its controls."""
        index = (TRAJECTORY_MEASURES.index("arc_length"), -1)
        lengths = [
            f"{source} {float(self.mean.value[i][index]):.2f} "
            f"[{float(self.mean.low[i][index]):.2f}, {float(self.mean.high[i][index]):.2f}]"
            for i, source in enumerate(self.sources)
        ]
        return (
            f"{self.model_name}: {self.n_prompts} prompts, {self.n_states} positions; mean arc "
            f"length in rad: {', '.join(lengths)}"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per source, measure and layer.

        Columns: layer, label, measure, source, mean, std, low, high, count, difference,
        difference_low, difference_high, vs_control ("above", "below", "level" with the control).
        In the model's own rows the last four are empty.
        """
        signs = iter(self.difference.sign())
        rows = []
        for i, source in enumerate(self.sources):
            for j, measure in enumerate(TRAJECTORY_MEASURES):
                for layer, label in enumerate(self.labels):
                    index = (i, j, layer)
                    rows.append(
                        {
                            "layer": layer,
                            "label": label,
                            "measure": measure,
                            "source": source,
                            "mean": float(self.mean.value[index]),
                            "std": float(self.std[index]),
                            "low": float(self.mean.low[index]),
                            "high": float(self.mean.high[index]),
                            "count": int(self.count[index]),
                            **_difference(self.difference, (i - 1, j, layer), source),
                            "vs_control": "" if source == MODEL else next(signs),
                        }
                    )
        return pd.DataFrame(rows)


def _difference(difference: Estimate, index: tuple[int, int, int], source: str) -> dict[str, float]:
    """Return the difference columns of a row (NaN in the model's own rows)."""
    names = ("difference", "difference_low", "difference_high")
    if source == MODEL:
        return dict.fromkeys(names, float("nan"))
    return {name: float(part[index]) for name, part in zip(names, difference, strict=True)}


@checked
def trajectory_statistics(
    model: Any,
    prompts: Iterable[Prompt],
    *,
    controls: Iterable[Control] = CONTROLS,
    first_position: int = 1,
    batch_size: int = 16,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: Progress = False,
) -> TrajectoryStatistics:
    """Measure the trajectories of many prompts: the measures of `trajectory`, as means.

    A mean is taken over all positions of all prompts; its interval comes from a bootstrap over
    prompts (1000 resamples), because the positions of one prompt are not independent. Prompts are
    processed as a stream: memory does not grow with their number. Prompts of equal length run
    together, so that neither padding nor a mask is needed; padded batches are split first.

    Args:
        model: a `HookedTransformer` or a `TransformerBridge`; it is run and not changed.
        prompts: texts, token ids, or a tokenizer's batches with `input_ids` and `attention_mask`
            (padded on either side). Empty prompts are skipped, prompts longer than the context are
            truncated at its end; both are counted.
        controls: which controls to measure: "shuffled layers" (the prompt's own steps in another
            order), "random steps" (of the same lengths), "permuted weights" (the same
            architecture, the entries of each weight in random order; a second model in memory).
        first_position: earlier positions are excluded; position 0 often carries huge activations.
        batch_size: number of prompts run together.
        seed: seed of the controls and of the bootstrap.
        checkpoint: a file to save the study in; rerun with the same file and prompts to resume an
            interrupted study, with the same numbers as an uninterrupted one.
        progress: True shows a bar; a function is called with a sentence at each step.

    Raises:
        ValueError: a control is unknown, or no prompt has a position to measure.
        CheckpointError: (a ValueError) the checkpoint is of other settings or prompts.
        UnsupportedModelError: see `read_weights` and `permute_weights`.

    Example:
        >>> result = trajectory_statistics(model, ["w5 w6 w7", "w8 w9", ""], controls=[])
        >>> result.n_prompts, result.n_states, result.n_skipped
        (2, 5, 1)

    Source: the measures of `trajectory`; the interval, Hanley and MacGibbon 2006.
    """
    settings = Settings(tuple(controls), first_position, batch_size, seed)
    result = run_study(
        model,
        prompts,
        _measure,
        TRAJECTORY_MEASURES,
        settings,
        checkpoint=checkpoint,
        progress=progress,
    )
    return TrajectoryStatistics(
        model_name=result.model_name,
        labels=result.labels,
        sources=result.sources,
        mean=estimate(result.means),
        std=result.std,
        count=result.count,
        difference=difference(result.means[:, :1], result.means[:, 1:]),
        n_prompts=result.n_prompts,
        n_cut=result.n_cut,
        n_skipped=result.n_skipped,
        caveats=result.caveats,
    )


def _measure(
    weights: Weights,
    stream: Float[Tensor, "layers_and_end position d_model"],
    tokens: Int[Tensor, " position"],
    _generator: torch.Generator | None,
) -> Float[Tensor, "columns layers_and_end position"]:
    values = trajectory_measures(weights, stream, tokens)
    return torch.stack([values[name] for name in TRAJECTORY_MEASURES])
