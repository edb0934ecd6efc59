"""The prompts of a study: those measured with their numbers, the others counted; and its chance."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tw_lens.errors import Caveat
from tw_lens.progress import Progress, steps
from tw_lens.reading import Prompt, tokenize_prompts

MIN_PROMPTS = 30

ONE_BY_ONE = "each interval holds 95 % for its own figure; of twenty level ones, one is not."


class PromptStream:
    """The prompts that are measured, with their numbers; those cut and left out are counted."""

    def __init__(
        self, model: Any, prompts: Iterable[Prompt | Mapping[str, Any]], first_position: int
    ) -> None:
        if first_position < 0:
            raise ValueError(f"first_position={first_position}: give 0 or more.")
        self.n_prompts = self.n_cut = self.n_skipped = 0
        self._tokens, self._first = tokenize_prompts(model, prompts), first_position

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        for number, (tokens, cut) in enumerate(self._tokens):
            if tokens.numel() <= self._first:
                self.n_skipped += 1
                continue
            self.n_prompts += 1
            self.n_cut += cut
            yield number, tokens

    def require_some(self) -> None:
        """Refuse a study of nothing.

        Raises:
            ValueError: no prompt had a position to measure.
        """
        if not self.n_prompts:
            raise ValueError(
                f"no prompt has a position to measure ({self.n_skipped} were given): give prompts "
                f"of more than {self._first} tokens."
            )

    @property
    def caveats(self) -> tuple[Caveat, ...]:
        """Which prompts and positions a study leaves out."""
        named = []
        if self._first:
            last = self._first - 1
            which = "position 0 is" if last == 0 else f"positions 0 to {last} are"
            named.append(Caveat("positions", f"{which} left out (first_position=0 counts all)."))
        if self.n_cut:
            named.append(Caveat("cut", f"{self.n_cut} prompts were cut at the end of the context."))
        if self.n_skipped:
            named.append(
                Caveat("left out", f"{self.n_skipped} prompts had no position to measure.")
            )
        return tuple(named)

    @property
    def few(self) -> bool:
        """Whether so few prompts say little of others."""
        return self.n_prompts < MIN_PROMPTS

    @property
    def caveats_of_intervals(self) -> tuple[Caveat, ...]:
        """What a reader must know before figures with intervals over the prompts."""
        named = [*self.caveats, Caveat("intervals", ONE_BY_ONE)]
        if self.few:
            named.append(
                Caveat("few prompts", f"intervals from {self.n_prompts} prompts are too narrow.")
            )
        return tuple(named)


@contextmanager
def progress_bar(progress: Progress, prompts: Iterable[Any]) -> Iterator[Callable[[int], None]]:
    """The function to call with the number of prompts processed since its last call."""
    total = len(prompts) if isinstance(prompts, Sized) else None
    done, of = 0, "" if total is None else f" of {total}"
    with steps(progress, total=total, unit="prompt") as step:

        def count(n: int) -> None:
            nonlocal done
            done += n
            step(f"Processing prompts: {done}{of}", n)

        yield count


def seeded_generator(name: str, seed: int, number: int) -> torch.Generator:
    """Chance that depends on what it is for, the study's seed and the prompt's number only."""
    drawn = hashlib.sha256(f"{name} {seed} {number}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(drawn[:7], "big"))
