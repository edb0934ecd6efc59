"""Many prompts through the running model, measured state by state, beside their controls.

1. Prompts become token ids; empty ones are left out, long ones cut, both counted.
2. Prompts of one length run together, on the model and on its random twin.
3. Each prompt's stream is measured as it is, with its layers shuffled, and with random steps.
4. The values of the positions asked for are counted into running sums (`tally`), which are kept
   on disk every ten seconds where a file is named.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
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
from tw_lens.reading import (
    Prompt,
    fingerprint,
    many_tokens,
    random_twin,
    read_streams,
    read_weights,
)
from tw_lens.studies.batches import batches
from tw_lens.studies.kept import Progress, StudyNotResumed, load_study, save_study
from tw_lens.studies.tally import Tally

MODEL = "model"
TWIN = "random twin"
SHUFFLED = "shuffled layers"
ALTERED = {SHUFFLED: shuffled_steps, "random steps": random_steps}
CONTROLS = (*ALTERED, TWIN)
"""What every figure is compared with: the prompt's own steps in another order, steps of the same
lengths in random directions, and the same architecture with random weights."""

FEW = 30
SECONDS_BETWEEN_SAVES = 10.0

Report = bool | Callable[[str], None]
Stream = Float[Tensor, "layers_and_end position d_model"]
Measure = Callable[
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
        if self.first_position < 0:
            raise ValueError(f"first_position={self.first_position}: give 0 or more.")
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} is no count: give at least 1.")


@dataclass(frozen=True, eq=False)
class Walks:
    """The running sums of a study, read out.

    `means[0]` are the means over all prompts, the others those of the resamples.
    """

    model_name: str
    labels: tuple[str, ...]
    sources: tuple[str, ...]
    means: Float[Tensor, "resamples_and_plain sources columns layers_and_end"]
    spread: Float[Tensor, "sources columns layers_and_end"]
    count: Float[Tensor, "sources columns layers_and_end"]
    n_prompts: int
    n_cut: int
    n_skipped: int
    caveats: tuple[Caveat, ...]


class _Rows:
    """The prompts that are measured, with their numbers; those cut and left out are counted."""

    def __init__(self, model: Any, prompts: Iterable[Any], first_position: int) -> None:
        self.n_prompts = self.n_cut = self.n_skipped = 0
        self._tokens, self._first = many_tokens(model, prompts), first_position

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        for number, (tokens, cut) in enumerate(self._tokens):
            if tokens.numel() <= self._first:
                self.n_skipped += 1
                continue
            self.n_prompts += 1
            self.n_cut += cut
            yield number, tokens


def walk(
    model: Any,
    prompts: Iterable[Prompt | Mapping[str, Any]],
    measure: Measure,
    columns: Sequence[str],
    settings: Settings,
    *,
    kept: str | Path | None = None,
    progress: Report = False,
) -> Walks:
    """Measure the walk of every prompt and of its controls.

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
        StudyNotResumed: (a ValueError) the kept study is of other settings or prompts.
        UnsupportedModel: see `read_weights` and `random_twin`.
    """
    sources = (MODEL, *settings.controls)
    weights = read_weights(model)
    walkers = {MODEL: (model, weights)}
    if TWIN in sources:
        twin = random_twin(model, seed=settings.seed)
        walkers[TWIN] = (twin, read_weights(twin))
    shape = (len(sources), len(columns), weights.n_layers + 1)
    path = None if kept is None else Path(kept)
    asked = asdict(settings) | {"columns": list(columns), "model": fingerprint(model)}
    tally, before = Tally.empty(shape[0] * shape[1] * shape[2]), Progress()
    if path is not None and (found := load_study(path, asked)):
        tally, before = found
    rows = _Rows(model, prompts, settings.first_position)
    digest, n_batches, saved = hashlib.sha256(), 0, -math.inf
    total = len(prompts) if isinstance(prompts, Sized) else None
    with _counted(progress, total) as count:
        for batch in batches(rows, settings.batch_size):
            n_batches += 1
            digest.update(str((batch.numbers, batch.tokens.tolist())).encode())
            count(len(batch.numbers))
            if n_batches <= before.n_batches:
                if n_batches == before.n_batches:
                    _require_same(before.digest, digest.hexdigest(), path)
                continue
            streams = {name: read_streams(it, batch.tokens) for name, (it, _) in walkers.items()}
            for i, (number, tokens) in enumerate(zip(*batch, strict=True)):
                measured = []
                for source in sources:
                    walker = source if source in walkers else MODEL
                    generator = _chance(source, settings.seed, number)
                    stream = ALTERED.get(source, _as_it_is)(streams[walker][i], generator)
                    chance = generator if source == MODEL else None
                    measured.append(measure(walkers[walker][1], stream, tokens, chance))
                values = torch.stack(measured)[..., settings.first_position :]
                tally.add(values.flatten(0, 2), seed=settings.seed, number=number)
            if path is not None and monotonic() - saved > SECONDS_BETWEEN_SAVES:
                save_study(path, tally, Progress(n_batches, digest.hexdigest()), asked)
                saved = monotonic()
    if n_batches < before.n_batches:
        _require_same(before.digest, digest.hexdigest(), path)
    if path is not None:
        save_study(path, tally, Progress(n_batches, digest.hexdigest()), asked)
    if not rows.n_prompts:
        raise ValueError(
            f"no prompt has a position to measure ({rows.n_skipped} were given): give prompts of "
            f"more than {settings.first_position} tokens."
        )
    return Walks(
        model_name=weights.model_name,
        labels=(*(f"{layer}_pre" for layer in range(weights.n_layers)), "final_post"),
        sources=sources,
        means=tally.means().unflatten(1, shape),
        spread=tally.spread().unflatten(0, shape),
        count=tally.count[0].unflatten(0, shape),
        n_prompts=rows.n_prompts,
        n_cut=rows.n_cut,
        n_skipped=rows.n_skipped,
        caveats=_caveats(settings, rows),
    )


@contextmanager
def _counted(progress: Report, total: int | None) -> Iterator[Callable[[int], object]]:
    """What is called with the number of prompts done since: a bar, or sentences."""
    from tqdm import tqdm

    done, of = 0, "" if total is None else f" of {total}"
    with tqdm(total=total, unit="prompt", disable=progress is not True) as bar:

        def count(n: int) -> None:
            nonlocal done
            bar.update(n)
            if callable(progress):
                progress(f"Following the prompts: {(done := done + n)}{of}")

        yield count


def _as_it_is(stream: Stream, _chance: torch.Generator) -> Stream:
    return stream


def _chance(source: str, seed: int, number: int) -> torch.Generator:
    """Chance that depends on the study's seed, the prompt's number and the control only."""
    drawn = hashlib.sha256(f"{source} {seed} {number}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(drawn[:7], "big"))


def _require_same(kept: str, found: str, path: Path | None) -> None:
    if kept != found:
        raise StudyNotResumed(
            f"{str(path)!r} holds a study of other prompts: give the same prompts in the same "
            "order, or name another file."
        )


def _caveats(settings: Settings, rows: _Rows) -> tuple[Caveat, ...]:
    """What a reader must know of the prompts before the figures."""
    named = []
    if settings.first_position:
        last = settings.first_position - 1
        which = "position 0 is" if last == 0 else f"positions 0 to {last} are"
        named.append(Caveat("positions", f"{which} left out (first_position=0 counts all)."))
    if rows.n_cut:
        named.append(Caveat("cut", f"{rows.n_cut} prompts were cut at the end of the context."))
    if rows.n_skipped:
        named.append(Caveat("left out", f"{rows.n_skipped} prompts had no position to measure."))
    many = "each interval holds 95 % for its own figure; of twenty level ones, one is not."
    named.append(Caveat("intervals", many))
    if TWIN in settings.controls:
        one = "the random twin is one draw of weights; its intervals are over prompts alone."
        named.append(Caveat("one twin", one))
    if rows.n_prompts < FEW:
        named.append(
            Caveat("few prompts", f"intervals from {rows.n_prompts} prompts are too narrow.")
        )
    return tuple(named)
