"""Many prompts through the running model, measured state by state, beside their controls.

1. Prompts become token ids; empty ones are left out, long ones cut, both counted.
2. Prompts of one length run together, on the model and on its permuted weights.
3. Each prompt's stream is measured as it is, with its layers shuffled, and with random steps.
4. The values of the positions asked for are counted into running sums (`sums`), which are kept
   on disk every ten seconds where a file is named.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tw_lens.canonical import Weights
from tw_lens.errors import Caveat
from tw_lens.geometry import random_steps, shuffled_steps
from tw_lens.progress import Progress
from tw_lens.reading import (
    Prompt,
    fingerprint,
    permute_weights,
    read_residuals,
    read_weights,
)
from tw_lens.studies.batching import batches
from tw_lens.studies.bootstrap import BootstrapSums
from tw_lens.studies.checkpoint import CheckpointError, CheckpointState, load_study, save_study
from tw_lens.studies.prompts import PromptStream, progress_bar, seeded_generator

MODEL = "model"
PERMUTED = "permuted weights"
SHUFFLED = "shuffled layers"
PATH_NULLS = {SHUFFLED: shuffled_steps, "random steps": random_steps}
CONTROLS = (*PATH_NULLS, PERMUTED)
"""What every figure is compared with: the prompt's own steps in another order, steps of the same
lengths in random directions, and the same architecture with random weights."""

ONE_PERMUTATION = Caveat(
    "one twin", "the permuted weights is one draw of weights; its intervals are over prompts alone."
)
SECONDS_BETWEEN_SAVES = 10.0

Stream = Float[Tensor, "layers_and_end position d_model"]
StateMeasure = Callable[
    [Weights, Stream, Int[Tensor, " position"], torch.Generator | None],
    Float[Tensor, "columns layers_and_end position"],
]


@dataclass(frozen=True)
class Settings:
    """What a study is asked for."""

    controls: tuple[str, ...]
    first_position: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        unknown = [name for name in self.controls if name not in CONTROLS]
        if unknown:
            raise ValueError(
                f"controls: {unknown[0]!r} is unknown: {', '.join(map(repr, CONTROLS))} fit."
            )
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} is no count: give at least 1.")


@dataclass(frozen=True, eq=False)
class StudyResult:
    """The running sums of a study, read out.

    `means[0]` are the means over all prompts, the others those of the resamples.
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
    prompts: Iterable[Prompt | Mapping[str, Any]],
    measure: StateMeasure,
    columns: Sequence[str],
    settings: Settings,
    *,
    checkpoint: str | Path | None = None,
    progress: Progress = False,
) -> StudyResult:
    """StateMeasure the walk of every prompt and of its controls.

    Args:
        model: a `HookedTransformer` or a `TransformerBridge`; it is run and not changed.
        prompts: texts, ids, or padded batches with their `attention_mask`.
        measure: the values of one prompt's stream, NaN where one has no meaning; it is given
            chance for the model's own walk, and none for controls.
        columns: a name for each value.
        settings: what is asked for.
        kept: the file the study is kept in; named again, the study goes on from there.
        progress: show a bar, or call this with a sentence at each step.

    Raises:
        ValueError: no prompt has a position to measure.
        CheckpointError: (a ValueError) the kept study is of other settings or prompts.
        UnsupportedModelError: see `read_weights` and `permute_weights`.
    """
    rows = PromptStream(model, prompts, settings.first_position)
    sources = (MODEL, *settings.controls)
    weights = read_weights(model)
    walkers = {MODEL: (model, weights)}
    if PERMUTED in sources:
        twin = permute_weights(model, seed=settings.seed)
        walkers[PERMUTED] = (twin, read_weights(twin))
    shape = (len(sources), len(columns), weights.n_layers + 1)
    path = None if checkpoint is None else Path(checkpoint)
    asked = asdict(settings) | {"columns": list(columns), "model": fingerprint(model)}
    sums, before = BootstrapSums.empty(shape[0] * shape[1] * shape[2]), CheckpointState()
    if path is not None and (found := load_study(path, asked)):
        sums, before = found
    digest, n_batches, saved = hashlib.sha256(), 0, -math.inf
    with progress_bar(progress, prompts) as count:
        for batch in batches(rows, settings.batch_size):
            n_batches += 1
            digest.update(str((batch.numbers, batch.tokens.tolist())).encode())
            count(len(batch.numbers))
            if n_batches <= before.n_batches:
                if n_batches == before.n_batches:
                    _require_same(before.digest, digest.hexdigest(), path)
                continue
            streams = {name: read_residuals(it, batch.tokens) for name, (it, _) in walkers.items()}
            for i, (number, tokens) in enumerate(zip(*batch, strict=True)):
                measured = []
                for source in sources:
                    walker = source if source in walkers else MODEL
                    generator = seeded_generator(source, settings.seed, number)
                    stream = PATH_NULLS.get(source, _as_it_is)(streams[walker][i], generator)
                    given = generator if source == MODEL else None
                    measured.append(measure(walkers[walker][1], stream, tokens, given))
                values = torch.stack(measured)[..., settings.first_position :]
                sums.add(values.flatten(0, 2), seed=settings.seed, number=number)
            if path is not None and monotonic() - saved > SECONDS_BETWEEN_SAVES:
                save_study(path, sums, CheckpointState(n_batches, digest.hexdigest()), asked)
                saved = monotonic()
    if n_batches < before.n_batches:
        _require_same(before.digest, digest.hexdigest(), path)
    if path is not None:
        save_study(path, sums, CheckpointState(n_batches, digest.hexdigest()), asked)
    rows.require_some()
    return StudyResult(
        model_name=weights.model_name,
        labels=(*(f"{layer}_pre" for layer in range(weights.n_layers)), "final_post"),
        sources=sources,
        means=sums.means().unflatten(1, shape),
        std=sums.std().unflatten(0, shape),
        count=sums.count[0].unflatten(0, shape),
        n_prompts=rows.n_prompts,
        n_cut=rows.n_cut,
        n_skipped=rows.n_skipped,
        caveats=(*rows.caveats_of_intervals, *(ONE_PERMUTATION,) * (PERMUTED in sources)),
    )


def _as_it_is(stream: Stream, _generator: torch.Generator) -> Stream:
    return stream


def _require_same(checkpoint: str, found: str, path: Path | None) -> None:
    if checkpoint != found:
        raise CheckpointError(
            f"{str(path)!r} holds a study of other prompts: give the same prompts in the same "
            "order, or name another file."
        )
