"""Progress of long calls: a bar for a person, sentences for a program, or nothing.

Every call that takes a while has `progress=`: False shows nothing, True shows a bar, a function is
called with a sentence at each step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

Progress = bool | Callable[[str], object]


class Step(Protocol):
    """Reports one step: a sentence, and how many units are done since the last step."""

    def __call__(self, sentence: str, done: int = 1) -> None:
        """Report a step."""
        ...


@contextmanager
def steps(progress: Progress, *, total: int | None = None, unit: str = "step") -> Iterator[Step]:
    """The function that a long call reports its steps to.

    Args:
        progress: True for a bar (tqdm, on standard error), a function for sentences, or False.
        total: how many units there are, where it is known.
        unit: what is counted.

    Raises:
        TypeError: progress is neither a bool nor a function.
    """
    from tqdm import tqdm

    if not isinstance(progress, bool) and not callable(progress):
        raise TypeError(
            f"progress must be True, False or a function of one sentence; got {progress!r}."
        )
    with tqdm(total=total, unit=unit, disable=progress is not True) as bar:

        def step(sentence: str, done: int = 1) -> None:
            bar.set_description(sentence)
            bar.update(done)
            if callable(progress):
                progress(sentence)

        yield step
