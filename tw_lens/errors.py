"""The error for unsupported models, and the caveats that results carry."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Caveat", "UnsupportedModelError"]


class UnsupportedModelError(ValueError):
    """A model, or a part of it, cannot be read exactly.

    The message names the architecture, the unsupported part, and what can still be done.
    """

    def __init__(self, architecture: str, part: str, remedy: str) -> None:
        super().__init__(f"{architecture}: {part}. {remedy}")
        self.architecture = architecture
        self.part = part
        self.remedy = remedy

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.architecture, self.part, self.remedy)


class Caveat(NamedTuple):
    """A condition under which a result holds: a short name and one sentence."""

    name: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.name}: {self.sentence}"
