"""Progress of long calls: a progress bar, a callback, or nothing.

Every long call has `progress=`: False shows nothing, True shows a bar, and a function is called
with one sentence per step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from tw_lens.argument_kinds import require_progress

Progress = bool | Callable[[str], object]


class Step(Protocol):
    """A callback for one step: a sentence, and the number of units done since the last step."""

    def __call__(self, sentence: str, done: int = 1) -> None:
        """Report a step."""
        ...


@contextmanager
def steps(progress: Progress, *, total: int | None = None, unit: str = "step") -> Iterator[Step]:
    """Yield the function to which a long call reports its steps.

    Args:
        progress: True for a bar (tqdm, on standard error), a function for sentences, or False.
        total: number of units, where it is known.
        unit: name of a unit.

    Raises:
        TypeError: progress is neither a bool nor a function.
    """
    from tqdm import tqdm

    require_progress("progress", progress)
    with tqdm(total=total, unit=unit, disable=progress is not True) as bar:

        def step(sentence: str, done: int = 1) -> None:
            bar.set_description(sentence)
            bar.update(done)
            if callable(progress):
                progress(sentence)

        yield step
