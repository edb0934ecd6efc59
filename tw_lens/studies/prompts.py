"""Prompts of a study: token ids with their numbers, counts of skipped ones, seeded generators."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from tw_lens.errors import Caveat
from tw_lens.progress import Progress, steps
from tw_lens.reading import Prompt, tokenize_prompts

MIN_PROMPTS = 30

POINTWISE = (
    "intervals are pointwise 95 %, not corrected for multiple comparisons: of twenty effects of "
    "size 0, about one is not level."
)


class PromptStream:
    """The prompts that are measured, with their numbers; truncated and skipped ones are counted."""

    def __init__(self, model: Any, prompts: Iterable[Prompt], first_position: int) -> None:
        self.n_prompts = self.n_cut = self.n_skipped = 0
        self.prompts, self.first = prompts, first_position
        self._tokens = tokenize_prompts(model, prompts)

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        for number, (tokens, cut) in enumerate(self._tokens):
            if tokens.numel() <= self.first:
                self.n_skipped += 1
                continue
            self.n_prompts += 1
            self.n_cut += cut
            yield number, tokens

    def require_prompts(self) -> None:
        """Reject a study without prompts.

        Raises:
            ValueError: no prompt had a position to measure.
        """
        if not self.n_prompts:
            raise ValueError(
                f"no prompt has a position to measure (got {self.n_skipped} prompts); pass prompts "
                f"of more than {self.first} tokens."
            )

    @property
    def caveats(self) -> tuple[Caveat, ...]:
        """The prompts and positions that a study leaves out."""
        caveats = []
        if self.first:
            last = self.first - 1
            excluded = "position 0 is" if last == 0 else f"positions 0 to {last} are"
            sentence = f"{excluded} excluded (first_position=0 includes all)."
            caveats.append(Caveat("positions", sentence))
        if self.n_cut:
            sentence = f"{self.n_cut} prompts were truncated at the end of the context."
            caveats.append(Caveat("cut", sentence))
        if self.n_skipped:
            sentence = f"{self.n_skipped} prompts had no position to measure."
            caveats.append(Caveat("left out", sentence))
        return tuple(caveats)

    @property
    def too_few(self) -> bool:
        """Return whether there are too few prompts (less than 30) to say much about others."""
        return self.n_prompts < MIN_PROMPTS

    @property
    def interval_caveats(self) -> tuple[Caveat, ...]:
        """The caveats of a study that reports intervals over prompts."""
        caveats = [*self.caveats, Caveat("intervals", POINTWISE)]
        if self.too_few:
            sentence = f"intervals from {self.n_prompts} prompts are too narrow."
            caveats.append(Caveat("few prompts", sentence))
        return tuple(caveats)


@contextmanager
def progress_bar(progress: Progress, prompts: Iterable[Any]) -> Iterator[Callable[[int], None]]:
    """Yield the function to call with the number of prompts processed since its last call."""
    total = len(prompts) if isinstance(prompts, Sized) else None
    done, of = 0, "" if total is None else f" of {total}"
    with steps(progress, total=total, unit="prompt") as step:

        def count(n: int) -> None:
            nonlocal done
            done += n
            step(f"Processing prompts: {done}{of}", n)

        yield count


def seeded_generator(name: str, seed: int, number: int) -> torch.Generator:
    """Return a generator that depends only on its purpose, the study's seed and the prompt."""
    digest = hashlib.sha256(f"{name} {seed} {number}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def prompt_hash(tokens: Int[Tensor, " position"]) -> int:
    """Return a 62-bit hash of a prompt's token ids, to know a prompt again."""
    digest = hashlib.sha256(str(tokens.tolist()).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 2
