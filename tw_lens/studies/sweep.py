"""Sweep: the same measures for every layer of many models or checkpoints.

1. Models are loaded one at a time (by each worker), and released before the next (`sweep_run`).
2. A model whose parameters are those of an earlier one is refused by name.
3. With `n_jobs`, joblib gives the models to workers. Its own configuration names other backends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tw_lens.argument_kinds import items_of, require_choices, shown
from tw_lens.arguments import checked
from tw_lens.progress import Progress, steps
from tw_lens.reading import Prompt
from tw_lens.studies.sweep_measures import IN_TEXT, SWEEP_MEASURES, SweepMeasure
from tw_lens.studies.sweep_models import ModelSource, model_sources
from tw_lens.studies.sweep_result import Sweep
from tw_lens.studies.sweep_run import (
    Measured,
    SweepSettings,
    measure_in_worker,
    measure_source,
    require_new,
)


@checked
def sweep(
    models: Iterable[Any] | Mapping[str, Any],
    *,
    measures: Sequence[SweepMeasure] = SWEEP_MEASURES,
    prompts: Iterable[Prompt] | None = None,
    seed: int = 0,
    n_jobs: int | None = None,
    checkpoint: str | Path | None = None,
    progress: Progress = False,
) -> Sweep:
    """Measure every layer of many models, or of the checkpoints of a training run.

    - spectra: with `p_i = S_i / sum(S)` of the singular values of a head's `W_QK` and `W_OV`, the
      effective rank `exp(-sum_i p_i log p_i)` and the leading share `p_0`, as means over the heads
      that are not zero, and the head of the largest leading share.
    - faithfulness: the correlation of embeddings with the running model, and its floor, as means
      over heads (see `faithfulness`, source "embedding").
    - kinds: the number of heads that the weights claim for each kind, and the best score (see
      `head_kinds`), both at embeddings.
    - travel: the mean angle on the sphere and the mean length of each layer's step, and the norm of
      the state before it, over all positions but the first.

    Models are loaded when their turn comes, and released before the next. Results of models that
    are given as names, folders or functions do not depend on `n_jobs`, up to rounding where workers
    run with another number of threads.

    Args:
        models: a list of names or folders (see `load_model`), of functions that load a model and
            are called once, or of models; or a mapping from names to these. A name's last part may
            say the training step: "step1000", "checkpoint-1000".
        measures: which of "spectra", "faithfulness", "kinds" and "travel".
        prompts: texts or token ids for faithfulness and travel; 32 of `reference_prompts` by
            default.
        seed: of the sampled tokens and permutations of faithfulness and kinds.
        n_jobs: workers, each with one model in memory; -1 for one per core. By default one, or what
            `joblib.parallel_config` says, which also names other backends (Dask, Ray).
        checkpoint: a folder to save each model's measures in; it is created. Rerun with the same
            folder to resume an interrupted sweep, or to add models, with the same numbers as an
            uninterrupted one.
        progress: True shows a bar; a function is called with a sentence at each step.

    Raises:
        TypeError: models is no list of what a sweep takes.
        ValueError: two models have the same parameters, an unknown measure, prompts without a
            measure that needs them, or `n_jobs` with models that are loaded already.
        ReferenceTextError: (a ValueError) a tokenizer knows too few words of the default prompts.
        CheckpointError: (a ValueError) a file of the folder is of other settings or damaged.
        ModelLoadError: a model cannot be loaded.
        UnsupportedModelError: see `read_weights`.

    Example:
        >>> result = sweep({"step0": model}, measures=["spectra", "travel"], prompts=["w5 w6 w7"])
        >>> result.models[0].step, len(result.to_dataframe())
        (0, 3)

    Source: effective rank, Roy and Vetterli 2007 (The effective rank: a measure of effective
    dimensionality).
    """
    sources = model_sources(models)
    measures = require_choices("measures", measures, SWEEP_MEASURES)
    if prompts is not None and not set(measures) & set(IN_TEXT):
        raise ValueError(
            f"prompts= needs a measure that runs the model ({' or '.join(map(repr, IN_TEXT))}); "
            f"got measures={list(measures)}."
        )
    n_workers = _number_of_workers(n_jobs, sources)
    settings = SweepSettings(measures, _listed(prompts), seed, _folder(checkpoint))
    if n_workers > 1:
        measured = _measure_in_parallel(sources, settings, n_workers, progress)
    else:
        measured = _measure_in_turn(sources, settings, progress)
    tables = [torch.cat(one.tables, dim=1) for one in measured]
    return Sweep(
        models=tuple(one.model for one in measured),
        measures=measures,
        values=torch.cat(tables),
        caveats=tuple(dict.fromkeys(caveat for one in measured for caveat in one.caveats)),
    )


def _number_of_workers(n_jobs: int | None, sources: Sequence[ModelSource]) -> int:
    """Return the number of joblib's workers, at most one per model; 1 for none.

    Raises:
        ValueError: it is 0, or a model is loaded already.
    """
    import joblib

    if n_jobs == 0:
        raise ValueError("n_jobs must be a number of workers, or -1 for one per core; got 0.")
    loaded = next((source.value for source in sources if source.is_loaded), None)
    if loaded is not None and n_jobs in (None, 1):
        return 1
    if loaded is not None:
        raise ValueError(
            f"n_jobs={n_jobs} needs models that a worker can load: names, folders or functions; "
            f"got a loaded {type(loaded).__name__}."
        )
    available: Any = joblib.effective_n_jobs  # its annotation leaves out None
    return min(int(available(n_jobs)), len(sources))


def _listed(prompts: Iterable[Prompt] | None) -> tuple[Prompt, ...] | None:
    """Return the prompts as a tuple, to run every model on them.

    Raises:
        TypeError: they are no list.
    """
    items = None if prompts is None else items_of(prompts)
    if prompts is not None and items is None:
        raise TypeError(f"prompts must be a list of texts or of token ids, got {shown(prompts)}.")
    return items


def _folder(checkpoint: str | Path | None) -> Path | None:
    """Return the folder of the checkpoint, which is created.

    Raises:
        NotADirectoryError: it is a file.
        FileNotFoundError: the folder that it would be in does not exist.
        PermissionError: it cannot be created.
    """
    if checkpoint is None:
        return None
    folder = Path(checkpoint)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(
            f"{str(folder)!r} is a file; a sweep keeps one file per model: name a folder."
        )
    if not folder.absolute().parent.is_dir():
        raise FileNotFoundError(
            f"the folder {folder.absolute().parent} does not exist; create it first."
        )
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise PermissionError(f"the folder {folder} cannot be created: {error}.") from error
    return folder


def _measure_in_turn(
    sources: Sequence[ModelSource], settings: SweepSettings, progress: Progress
) -> list[Measured]:
    measured: list[Measured] = []
    with steps(progress, total=len(sources), unit="model") as step:
        for i, source in enumerate(sources, start=1):

            def report(name: str, what: str, number: int = i) -> None:
                step(f"{what} of {name} ({number} of {len(sources)})", 0)

            one = measure_source(source, settings, [other.model for other in measured], report)
            measured.append(one)
            step(f"Measured {one.model.name} ({i} of {len(sources)})")
    return measured


def _measure_in_parallel(
    sources: Sequence[ModelSource], settings: SweepSettings, n_workers: int, progress: Progress
) -> list[Measured]:
    import joblib

    measured: list[Measured] = []
    calls = (joblib.delayed(measure_in_worker)(source, settings) for source in sources)
    with steps(progress, total=len(sources), unit="model") as step:
        for i, one in enumerate(_workers(n_workers)(calls), start=1):
            require_new(one.model, [other.model for other in measured])
            measured.append(one)
            step(f"Measured {one.model.name} ({i} of {len(sources)})")
    return measured


def _workers(n: int) -> Callable[[Iterable[Any]], Iterable[Measured]]:
    """Return joblib's workers; they yield results one by one where their backend can."""
    import joblib

    make: Any = joblib.Parallel
    try:
        return make(n_jobs=n, batch_size=1, return_as="generator")
    except ValueError:  # backends of a multiprocessing pool (Ray) return all results at once
        return make(n_jobs=n, batch_size=1)
