"""Keyword arguments that every call checks in the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Literal, ParamSpec, TypeVar

from tw_lens.canonical import Weights

if TYPE_CHECKING:
    pass


P = ParamSpec("P")
R = TypeVar("R")


Convention = Literal["exact", "published"]


Circuit = Literal["QK", "OV"]


CONVENTIONS = ("exact", "published")


CIRCUITS = ("QK", "OV")


def require_weights(analysis: Callable[P, R]) -> Callable[P, R]:
    """Make an analysis reject a first argument that is no `Weights`, such as a model.

    Raises:
        TypeError: the first argument is not `Weights`.
    """

    @wraps(analysis)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        if args or "weights" in kwargs:
            first = args[0] if args else kwargs["weights"]
            if not isinstance(first, Weights):
                raise TypeError(
                    f"{analysis.__name__} expects Weights; call read_weights(model) first "
                    f"(got {type(first).__name__})."
                )
        return analysis(*args, **kwargs)

    return checked


def require_choice(name: str, given: str, choices: Sequence[str]) -> None:
    """Refuse a keyword argument that is none of the choices.

    Raises:
        ValueError: with what was given and what fits.
    """
    if given not in choices:
        raise ValueError(f"{name}={given!r} is unknown: {' or '.join(map(repr, choices))} fits.")


def require_some(name: str, given: Iterable[str], choices: Sequence[str]) -> tuple[str, ...]:
    """Choices given as a list, each once.

    Raises:
        TypeError: one text, or something else that is no list.
        ValueError: one of them is none of the choices, or there is none.
    """
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"{name}={given!r} is no list: give [{given!r}].")
    some = tuple(dict.fromkeys(given))
    for one in some:
        require_choice(name.removesuffix("s"), one, choices)
    if not some:
        raise ValueError(f"{name} is empty: {', '.join(map(repr, choices))} fit.")
    return some


def require_positive(name: str, given: int) -> None:
    """Refuse a count below one.

    Raises:
        ValueError: with what was given.
    """
    if given < 1:
        raise ValueError(f"{name}={given} is no count: give at least 1.")


def require_distance(distance: int, circuit: str, convention: str) -> None:
    """Refuse a distance where it has no meaning.

    Raises:
        ValueError: W_OV and the published convention know no distance.
    """
    if distance != 0 and (circuit != "QK" or convention != "exact"):
        raise ValueError(
            f"distance={distance} belongs to circuit='QK' and convention='exact': W_OV and the "
            "published experiments know no distance."
        )
