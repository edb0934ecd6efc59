"""One model of a sweep: loaded, measured and released.

Every measure of a model gives a table of layers by columns. With a checkpoint folder, a model's
tables are kept in one file, named after its fingerprint; kept tables are not computed again.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from tw_lens.canonical import Weights
from tw_lens.errors import Caveat
from tw_lens.reading import Prompt, fingerprint, read_weights, tokenize_prompts
from tw_lens.studies.checkpoint import Checkpoint, PartialResults
from tw_lens.studies.reference_text import (
    ReferenceTextError,
    lack_of_words,
    reference_prompts,
)
from tw_lens.studies.sweep_measures import (
    IN_TEXT,
    MEASURES,
    OF_INTERVALS,
    Inputs,
    SweepMeasure,
    Table,
)
from tw_lens.studies.sweep_models import ModelSource
from tw_lens.studies.sweep_result import SweptModel
from tw_lens.torch_settings import default_settings

N_PROMPTS = 32


class SweepSettings(NamedTuple):
    """What every model is measured with; `prompts` is None for the reference prompts."""

    measures: tuple[SweepMeasure, ...]
    prompts: tuple[Prompt, ...] | None
    seed: int
    folder: Path | None


class Measured(NamedTuple):
    """The tables of one model, in the order of the measures, and their caveats."""

    model: SweptModel
    tables: tuple[Table, ...]
    caveats: tuple[Caveat, ...]


def measure_in_worker(source: ModelSource, settings: SweepSettings) -> Measured:
    """Measure a model in a process or a thread of its own."""
    with default_settings():
        return measure_source(source, settings, [], lambda name, what: None)


def measure_source(
    source: ModelSource,
    settings: SweepSettings,
    seen: Sequence[SweptModel],
    report: Callable[[str, str], None],
) -> Measured:
    """Load a model, measure it and release it."""
    try:
        return _measure_model(source, source.load(), settings, seen, report)
    finally:
        gc.collect()  # a model refers to itself


def _measure_model(
    source: ModelSource,
    model: Any,
    settings: SweepSettings,
    seen: Sequence[SweptModel],
    report: Callable[[str, str], None],
) -> Measured:
    weights = read_weights(model, device="cpu")
    swept = SweptModel(source.name or weights.model_name, weights.n_layers, fingerprint(model))
    require_new(swept, seen)
    prompts = _prompts_of(weights, swept.name, settings)
    saved = _checkpoint(model, swept, prompts, settings)
    kept = saved.results or PartialResults({}, {})
    tables, caveats = dict(kept.tensors), dict(kept.values)
    inputs = Inputs(model, weights, prompts, settings.seed)
    for measure in settings.measures:
        if measure in tables:
            continue
        report(swept.name, measure.capitalize())
        tables[measure], found = MEASURES[measure](inputs)
        caveats[measure] = [list(one) for one in found if one.name not in OF_INTERVALS]
        saved.save_if_due(lambda: PartialResults(tables, caveats))
    saved.finish(lambda: PartialResults(tables, caveats))
    return Measured(
        model=swept,
        tables=tuple(tables[measure] for measure in settings.measures),
        caveats=tuple(Caveat(*one) for measure in settings.measures for one in caveats[measure]),
    )


def require_new(model: SweptModel, others: Sequence[SweptModel]) -> None:
    """Reject a model whose parameters are those of an earlier one.

    Raises:
        ValueError: with both names.
    """
    for other in others:
        if other.fingerprint == model.fingerprint:
            raise ValueError(
                f"{other.name!r} and {model.name!r} have the same weights, byte for byte: give "
                "only one of them (branches of public checkpoints may repeat the last one)."
            )


def _prompts_of(weights: Weights, name: str, settings: SweepSettings) -> tuple[Prompt, ...]:
    """Return the prompts to run a model on; none for measures of the weights.

    Raises:
        ReferenceTextError: the tokenizer knows too few words of the reference prompts.
    """
    if settings.prompts is not None or not set(settings.measures) & set(IN_TEXT):
        return settings.prompts or ()
    if lack := lack_of_words(weights, repr(name)):
        raise ReferenceTextError(
            f"{lack} for the reference prompts: give prompts=, texts or token ids of its own kind."
        )
    return tuple(reference_prompts(N_PROMPTS))


def _checkpoint(
    model: Any, swept: SweptModel, prompts: Sequence[Prompt], settings: SweepSettings
) -> Checkpoint:
    """Load the model's file of the folder, if there is one."""
    if settings.folder is None:
        return Checkpoint(None, model, {})
    tokens = [ids.tolist() for ids, _ in tokenize_prompts(model, prompts)]
    return Checkpoint(
        settings.folder / f"{swept.fingerprint}.safetensors",
        model,
        {
            "study": "sweep",
            "measures": list(settings.measures),
            "prompts": sha256(str(tokens).encode()).hexdigest(),
            "seed": settings.seed,
        },
    )
