"""Study runner: measures of the residual stream over many prompts, for the model and its controls.

1. Convert the prompts to token ids. Skip empty ones and truncate long ones, and count both.
2. Batch prompts of equal length and run the model on each batch, and the model with permuted
   weights if it is one of the controls.
3. For every prompt, measure the residual stream itself, the stream with its steps in shuffled
   order, the stream with random steps, and the stream of the permuted weights.
4. Add the values at the measured positions to running sums with bootstrap resamples
   (`BootstrapSums`). If a checkpoint file is named, save the sums every ten seconds and at the end.
5. Compute means, standard deviations and counts from the sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tw_lens.canonical import Weights
from tw_lens.errors import Caveat
from tw_lens.geometry import random_steps, shuffled_steps
from tw_lens.progress import Progress
from tw_lens.reading import (
    Prompt,
    permute_weights,
    read_residuals,
    read_weights,
)
from tw_lens.studies.batching import batches
from tw_lens.studies.bootstrap import BootstrapSums
from tw_lens.studies.checkpoint import Checkpoint, PartialResults
from tw_lens.studies.prompts import PromptStream, progress_bar, seeded_generator

MODEL = "model"
PERMUTED = "permuted weights"
SHUFFLED = "shuffled layers"
PATH_NULLS = {SHUFFLED: shuffled_steps, "random steps": random_steps}
Control = Literal["shuffled layers", "random steps", "permuted weights"]
CONTROLS: tuple[Control, ...] = get_args(Control)
"""The controls: the prompt's own steps in another order, steps of the same lengths in random
directions, and the same architecture with permuted weights."""

ONE_PERMUTATION = Caveat(
    "one permutation",
    "the permuted weights are one permutation; the intervals are over prompts only.",
)

Stream = Float[Tensor, "layers_and_end position d_model"]
StateMeasure = Callable[
    [Weights, Stream, Int[Tensor, " position"], torch.Generator | None],
    Float[Tensor, "columns layers_and_end position"],
]


@dataclass(frozen=True)
class Settings:
    """The settings of a study, except for its columns."""

    controls: tuple[str, ...]
    first_position: int
    batch_size: int
    seed: int


@dataclass(frozen=True, eq=False)
class StudyResult:
    """Means, standard deviations and counts of a study.

    `means[0]` are the means over all prompts, the other rows those of the resamples.
    """

    model_name: str
    labels: tuple[str, ...]
    sources: tuple[str, ...]
    means: Float[Tensor, "resamples_and_plain sources columns layers_and_end"]
    std: Float[Tensor, "sources columns layers_and_end"]
    count: Float[Tensor, "sources columns layers_and_end"]
    n_prompts: int
    n_cut: int
    n_skipped: int
    caveats: tuple[Caveat, ...]


def run_study(
    model: Any,
    prompts: Iterable[Prompt],
    measure: StateMeasure,
    columns: Sequence[str],
    settings: Settings,
    *,
    checkpoint: str | Path | None = None,
    progress: Progress = False,
) -> StudyResult:
    """Measure the residual stream of every prompt, and of its controls.

    Args:
        model: a `HookedTransformer` or a `TransformerBridge`; it is run and not changed.
        prompts: texts, ids, or padded batches with their `attention_mask`.
        measure: returns the values of one prompt's stream, NaN where a value is undefined; its
            last argument is a seeded generator for the model's own stream and None for controls.
        columns: a name for each value.
        settings: controls, first position, batch size and seed.
        checkpoint: a file to save the study in; rerun with the same file to resume.
        progress: True shows a bar; a function is called with a sentence at each step.

    Raises:
        ValueError: no prompt has a position to measure.
        CheckpointError: (a ValueError) the checkpoint is of other settings or prompts.
        UnsupportedModelError: see `read_weights` and `permute_weights`.
    """
    stream = PromptStream(model, prompts, settings.first_position)
    sources = (MODEL, *settings.controls)
    weights = read_weights(model, device="cpu")
    models = {MODEL: (model, weights)}
    if PERMUTED in sources:
        permuted = permute_weights(model, seed=settings.seed)
        models[PERMUTED] = (permuted, read_weights(permuted, device="cpu"))
    shape = (len(sources), len(columns), weights.n_layers + 1)
    saved = Checkpoint(
        checkpoint,
        model,
        {"study": "trajectories", **asdict(settings), "columns": list(columns)},
    )
    sums = BootstrapSums.empty(shape[0] * shape[1] * shape[2])
    if saved.results is not None:
        sums = BootstrapSums(**saved.results.tensors)

    def partial_results() -> PartialResults:
        return PartialResults(sums._asdict(), {})

    with progress_bar(progress, prompts) as count:
        for batch in batches(stream, settings.batch_size):
            if not saved.includes(*batch):
                residuals = {
                    name: read_residuals(one, batch.tokens) for name, (one, _) in models.items()
                }
                for i, (number, tokens) in enumerate(zip(*batch, strict=True)):
                    streams = {name: (models[name][1], residuals[name][i]) for name in models}
                    values = _values(streams, tokens, measure, sources, settings.seed, number)
                    values = values[..., settings.first_position :].flatten(0, 2)
                    sums.add(values, seed=settings.seed, number=number)
                saved.save_if_due(partial_results)
            count(len(batch.numbers))
    stream.require_prompts()
    saved.finish(partial_results)
    return StudyResult(
        model_name=weights.model_name,
        labels=(*(f"{layer}_pre" for layer in range(weights.n_layers)), "final_post"),
        sources=sources,
        means=sums.means().unflatten(1, shape),
        std=sums.std().unflatten(0, shape),
        count=sums.counts[0].unflatten(0, shape),
        n_prompts=stream.n_prompts,
        n_cut=stream.n_cut,
        n_skipped=stream.n_skipped,
        caveats=(*stream.interval_caveats, *(ONE_PERMUTATION,) * (PERMUTED in sources)),
    )


def _values(
    streams: Mapping[str, tuple[Weights, Stream]],
    tokens: Int[Tensor, " position"],
    measure: StateMeasure,
    sources: Sequence[str],
    seed: int,
    number: int,
) -> Float[Tensor, "sources columns layers_and_end position"]:
    """Return the values of one prompt for the model and every control.

    `streams` holds the weights and the residual stream of every model that was run.
    """
    measured = []
    for source in sources:
        generator = seeded_generator(source, seed, number)
        weights, stream = streams.get(source, streams[MODEL])
        if source in PATH_NULLS:
            stream = PATH_NULLS[source](stream, generator)
        measured.append(measure(weights, stream, tokens, generator if source == MODEL else None))
    return torch.stack(measured)
