"""The result of `sweep`: a table of models and layers by measures."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.errors import Caveat
from tw_lens.results.base import Result
from tw_lens.studies.sweep_measures import COLUMNS, Column
from tw_lens.studies.sweep_models import run_of, step_of

MAIN_COLUMNS = {
    "spectra": "qk_effective_rank",
    "faithfulness": "qk_correlation",
    "kinds": "induction_score",
    "travel": "step_angle",
}
"""The column of each measure that the headline names."""
LONGEST = 40  # letters of a model's name in the headline


class SweptModel(NamedTuple):
    """A model of a sweep: its name, number of layers, and a digest of its parameters."""

    name: str
    n_layers: int
    fingerprint: str

    @property
    def step(self) -> int | None:
        """The training step that the name says; None where it says none."""
        return step_of(self.name)

    @property
    def run(self) -> str:
        """The name without the step, which the checkpoints of one training run share."""
        return run_of(self.name)


@dataclass(frozen=True, repr=False, eq=False)
class Sweep(Result):
    """Measures of every layer of many models or checkpoints.

    `values` has one row per model and layer, models outermost, and one column for each of
    `columns`; NaN where a value is not defined (see `sweep`).
    """

    models: tuple[SweptModel, ...]
    measures: tuple[str, ...]
    values: Float[Tensor, "models_and_layers columns"]
    caveats: tuple[Caveat, ...] = ()

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of the measures, with their labels."""
        return tuple(column for measure in self.measures for column in COLUMNS[measure])

    @property
    def model_name(self) -> str:
        """The name of the only model, or those of the first and the last with their number."""
        first, last = (_short(self.models[i].name) for i in (0, -1))
        n = len(self.models)
        return first if n == 1 else f"{first} to {last} ({n} models)"

    @property
    def has_steps(self) -> bool:
        """Whether the names of all models say their training step."""
        return all(model.step is not None for model in self.models)

    def headline(self) -> str:
        """Return the models, and one column of every measure for the first and the last."""
        table = self.summary()
        parts = []
        for measure in self.measures:
            name = MAIN_COLUMNS[measure]
            ends = list(dict.fromkeys([0, len(table) - 1]))
            values = " to ".join(_number(float(table[name].iloc[i])) for i in ends)
            parts.append(f"{name} {values}")
        steps = [model.step for model in self.models if model.step is not None]
        text = ""
        if self.has_steps and len(steps) > 1:
            text = f", steps {min(steps)} to {max(steps)}"
        return f"{self.model_name}{text}, over layers: {', '.join(parts)}"

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per model and layer.

        Columns: model, step (missing where the name says none), fingerprint, layer, and those of
        the measures, each QK before OV. Spectra: qk_effective_rank, qk_leading_share (means over
        heads), qk_strongest_head (of the largest leading share). Faithfulness: qk_correlation,
        qk_floor. Kinds: previous_token_heads (number of claimed heads), previous_token_score (of
        the best head), and so for each of `HEAD_KINDS`. Travel: step_angle, step_length (of the
        layer's step), state_norm (before it).
        """
        pairs = [(model, layer) for model in self.models for layer in range(model.n_layers)]
        return _table(
            {
                "model": [model.name for model, _ in pairs],
                "step": pd.array([model.step for model, _ in pairs], dtype="Int64"),
                "fingerprint": [model.fingerprint for model, _ in pairs],
                "layer": [layer for _, layer in pairs],
            },
            self.columns,
            self.values,
        )

    def summary(self) -> pd.DataFrame:
        """Return one row per model: means over layers, best scores, and numbers of heads.

        Columns: model, step, and those of `to_dataframe` but the strongest heads.
        """
        at = [i for i, column in enumerate(self.columns) if column.over_layers]
        columns = tuple(self.columns[i] for i in at)
        rows = [
            torch.stack(
                [
                    OVER_LAYERS[column.over_layers](part[:, i])
                    for i, column in zip(at, columns, strict=True)
                ]
            )
            for part in self.of_models()
        ]
        steps = pd.array([model.step for model in self.models], dtype="Int64")
        names = [model.name for model in self.models]
        return _table({"model": names, "step": steps}, columns, torch.stack(rows))

    def of_models(self) -> tuple[Float[Tensor, "layers columns"], ...]:
        """Return the rows of `values` of each model."""
        return self.values.split([model.n_layers for model in self.models])


def _of_known(reduce: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """Return a reduction of the values that are not NaN; NaN without any."""
    known = values[~values.isnan()]
    return reduce(known) if len(known) else values.new_tensor(math.nan)


OVER_LAYERS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": torch.nanmean,
    "max": partial(_of_known, torch.max),
    "sum": partial(_of_known, torch.sum),
}
"""How the values of a model's layers are summed up; NaN is left out."""


def _table(
    first: dict[str, object], columns: tuple[Column, ...], values: Float[Tensor, "rows columns"]
) -> pd.DataFrame:
    """Return a table; whole numbers have a type that knows missing values."""
    table = pd.DataFrame(first)
    parts = {
        column.name: pd.Series(
            values[:, i].numpy(), dtype="Float64" if column.is_whole else "float64"
        ).astype("Int64" if column.is_whole else "float64")
        for i, column in enumerate(columns)
    }
    return pd.concat([table, pd.DataFrame(parts)], axis=1)


def _short(name: str) -> str:
    """Return the last part of a name, shortened."""
    last = Path(name).name or name
    return last if len(last) <= LONGEST else f"{last[: LONGEST - 1]}\u2026"


def _number(value: float) -> str:
    return "not defined" if math.isnan(value) else f"{value:.3g}"
