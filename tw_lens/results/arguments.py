"""Checks of the arguments that the calls share: each rejects a bad value in one sentence."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from inspect import signature
from typing import Any, Literal, ParamSpec, TypeVar

from tw_lens.canonical import States, Weights

P = ParamSpec("P")
R = TypeVar("R")
Name = TypeVar("Name", bound=str)

Convention = Literal["exact", "published"]
Circuit = Literal["QK", "OV"]
Score = Literal["dot", "standardised"]
SCORES: tuple[Score, ...] = ("dot", "standardised")
CONVENTIONS: tuple[Convention, ...] = ("exact", "published")
CIRCUITS: tuple[Circuit, ...] = ("QK", "OV")

INTS = (
    "layer", "head", "k", "n", "distance", "n_words", "n_components", "n_null", "n_null_within",
    "n_permutations", "n_perturbations", "seed",
)  # fmt: skip
BOOLS = ("scale", "bias", "leading_space", "whole_words", "unused")


def require_weights(analysis: Callable[P, R]) -> Callable[P, R]:
    """Check the arguments that the analyses share, before the analysis runs.

    The first argument must be `Weights`; parameters named in `INTS`, `BOOLS`, `layers`,
    `distances` and `words` must have their type, or be None where None is the default.

    Raises:
        TypeError: one of them has another type.
    """
    parameters = signature(analysis).parameters

    @wraps(analysis)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        if args or "weights" in kwargs:
            first = args[0] if args else kwargs["weights"]
            if not isinstance(first, Weights):
                raise TypeError(
                    f"{analysis.__name__} expects Weights; call read_weights(model) first "
                    f"(got {type(first).__name__})."
                )
        for name, value in kwargs.items():
            if name in CHECKS and not (value is None and parameters[name].default is None):
                kwargs[name] = CHECKS[name](name, value)
        return analysis(*args, **kwargs)

    return checked


def require_states(weights: Weights, states: States) -> None:
    """Reject states that are not `States` of the weights' model.

    Raises:
        TypeError: another type.
        ValueError: another number of layers or another width.
    """
    if not isinstance(states, States):
        raise TypeError(
            f"states must be States; call read_states(model, prompt) first (got "
            f"{type(states).__name__})."
        )
    weights.require_states(states)


def require_score(score: Score, circuit: Circuit, convention: Convention) -> None:
    """Reject a score that the circuit or the convention does not have.

    Raises:
        ValueError: unknown, or "standardised" for W_QK or the published convention.
    """
    require_choice("score", score, SCORES)
    if score == "standardised" and (circuit != "OV" or convention != "exact"):
        raise ValueError(
            'score="standardised" needs circuit="OV" and convention="exact", got '
            f"circuit={circuit!r}, convention={convention!r}."
        )


def require_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Reject a value that is not one of the choices.

    Raises:
        ValueError: with the value and the choices.
    """
    if value not in choices:
        raise ValueError(f"unknown {name} {value!r}; expected {_listed(choices)}.")


def require_names(name: str, values: Any, example: str) -> tuple[str, ...]:
    """Return a list of names as a tuple.

    Raises:
        TypeError: the values are a single string, or no list.
    """
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a list of names, e.g. [{example!r}]; got {values!r}.")
    return tuple(values)


def require_choices(name: str, values: Iterable[str], choices: Sequence[Name]) -> tuple[Name, ...]:
    """Return the chosen names, each once, in the order given.

    Raises:
        TypeError: the values are a single string, or no list.
        ValueError: there is none, or one of them is not one of the choices.
    """
    names = tuple(dict.fromkeys(require_names(name, values, choices[0])))
    for value in names:
        require_choice(name.removesuffix("s"), value, choices)
    if not names:
        raise ValueError(f"{name} is empty; expected at least one of {_comma(choices)}.")
    return tuple(choices[choices.index(value)] for value in names)


def require_int(name: str, value: Any) -> int:
    """Return a value as an int.

    Raises:
        TypeError: it is not an int.
    """
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, got {value!r}.") from None


def require_bool(name: str, value: Any) -> bool:
    """Return a value that is True or False.

    Raises:
        TypeError: it is neither.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}.")
    return value


def require_ints(name: str, values: Any) -> tuple[int, ...]:
    """Return a list of ints as a tuple.

    Raises:
        TypeError: the values are no list, or one of them is not an int.
    """
    sentence = f"{name} must be a list of ints, e.g. [1]; got {values!r}."
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise TypeError(sentence)
    try:
        return tuple(map(operator.index, values))
    except TypeError:
        raise TypeError(sentence) from None


def require_words(name: str, values: Any) -> tuple[str | int, ...]:
    """Return strings and token ids as a tuple; a single string counts as one word.

    Raises:
        TypeError: the values are no list, or one of them is neither a string nor an int.
    """
    sentence = f"{name} must be a list of strings or token ids, e.g. [' dog']; got {values!r}."
    if isinstance(values, str):
        return (values,)
    if isinstance(values, bytes) or not isinstance(values, Iterable):
        raise TypeError(sentence)
    try:
        return tuple(value if isinstance(value, str) else operator.index(value) for value in values)
    except TypeError:
        raise TypeError(sentence) from None


def require_positive(name: str, value: int, *, at_least: int = 1) -> None:
    """Reject a count that is not an int or is too small.

    Raises:
        TypeError: it is not an int.
        ValueError: it is below `at_least`.
    """
    if require_int(name, value) < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {value}.")


def require_distance(distance: int, circuit: str, convention: str) -> None:
    """Reject a distance other than 0 for W_OV and for the published convention.

    Raises:
        ValueError: the reading does not depend on a distance.
    """
    if distance != 0 and (circuit != "QK" or convention != "exact"):
        raise ValueError(
            f"distance={distance} needs circuit='QK' and convention='exact': W_OV and the "
            "published convention do not depend on a distance."
        )


CHECKS: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(INTS, require_int),
    **dict.fromkeys(BOOLS, require_bool),
    "layers": require_ints,
    "distances": require_ints,
    "words": require_words,
}


def _listed(choices: Sequence[str]) -> str:
    """The choices as "'a' or 'b'", or "one of 'a', 'b', 'c'"."""
    return " or ".join(map(repr, choices)) if len(choices) < 3 else f"one of {_comma(choices)}"


def _comma(choices: Sequence[str]) -> str:
    return ", ".join(map(repr, choices))
