"""The kinds of arguments: one check per kind, each with one sentence for what does not fit.

A check takes the argument's name and its value, and returns the value in its plain form. The range
of a number depends on its name.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from numbers import Real
from pathlib import Path
from typing import Any, TypeVar

Name = TypeVar("Name", bound=str)
Check = Callable[[str, Any], Any]

MANY = 2**31 - 1
DRAWS = 10**5  # each draw is read against the whole vocabulary, or is a run of the model
RANGES: dict[str, tuple[float | int, float | int]] = {
    **dict.fromkeys(
        ("k", "n", "n_words", "n_examples", "context", "batch_size", "min_count"), (1, MANY)
    ),
    **dict.fromkeys(
        ("n_null", "n_null_within", "n_permutations", "n_perturbations", "n_random"), (1, DRAWS)
    ),
    "first_position": (0, MANY),
    "n_jobs": (-1, MANY),
    **dict.fromkeys(("tolerance", "prior_count"), (0, math.inf)),
    "seed": (0, 2**32 - 1),  # that of NumPy, which scikit-learn and UMAP use
}
ANY_INT = (-(2**63), 2**63 - 1)
LONGEST = 2**22  # items of a list: some iterators never end


def shown(value: Any) -> str:
    """Return a value as it stands in a message: its repr where that is short, else its type."""
    try:
        text = repr(value)
    except Exception:  # a foreign object may raise anything
        text = ""
    if 0 < len(text) <= 80 and text.isprintable():
        return text
    return with_article(type(value).__name__)


def with_article(name: str) -> str:
    """Return the name of a class as a noun of a sentence: `an AttentionPattern`, `States`."""
    return name if name.endswith("s") else f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def require_choice(name: str, value: Any, choices: Sequence[Name]) -> Name:
    """Return a value that is one of the choices.

    Raises:
        ValueError: with the value and the choices.
    """
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"unknown {name} {shown(value)}; expected {_listed(choices)}.")
    return choices[choices.index(value)]


def require_names(name: str, values: Any, example: str = "norm") -> tuple[str, ...]:
    """Return a list of names as a tuple.

    Raises:
        TypeError: the values are a single string, or no list of strings.
    """
    names = items_of(values)
    if names is None or not all(isinstance(item, str) for item in names):
        raise TypeError(f"{name} must be a list of names, e.g. [{example!r}]; got {shown(values)}.")
    return names


def require_each_choice(name: str, values: Any, choices: Sequence[Name]) -> tuple[Name, ...]:
    """Return the chosen names, each once, in the order given.

    Raises:
        TypeError: the values are a single string, or no list.
        ValueError: one of them is not one of the choices.
    """
    names = dict.fromkeys(require_names(name, values, choices[0]))
    return tuple(require_choice(name.removesuffix("s"), value, choices) for value in names)


def require_choices(name: str, values: Any, choices: Sequence[Name]) -> tuple[Name, ...]:
    """Return the chosen names, each once, in the order given; at least one.

    Raises:
        TypeError: the values are a single string, or no list.
        ValueError: there is none, or one of them is not one of the choices.
    """
    names = require_each_choice(name, values, choices)
    if not names:
        raise ValueError(f"{name} is empty; expected at least one of {_comma(choices)}.")
    return names


def require_int(name: str, value: Any) -> int:
    """Return a value as an int, within the range of its name.

    Raises:
        TypeError: it is not an int.
        ValueError: it is out of range.
    """
    if (number := int_of(value)) is None:
        raise TypeError(f"{name} must be an int, got {shown(value)}.")
    return _in_range(name, number, *RANGES.get(name, ANY_INT))


def require_positive(name: str, value: Any, *, at_least: int = 1) -> int:
    """Return a value as an int that is not too small.

    Raises:
        TypeError: it is not an int.
        ValueError: it is below `at_least`.
    """
    return _in_range(name, require_int(name, value), at_least, ANY_INT[1])


def require_index(name: str, value: Any, n: int) -> int:
    """Return the index of one of n things.

    Raises:
        IndexError: it does not exist.
        TypeError: it is not an int.
    """
    number = require_int(name, value)
    if not 0 <= number < n:
        raise IndexError(f"{name} must be between 0 and {n - 1}, got {number}.")
    return number


def require_number(name: str, value: Any) -> float:
    """Return a finite number, within the range of its name.

    Raises:
        TypeError: it is not a number.
        ValueError: it is infinite, NaN or out of range.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {shown(value)}.")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not abs(number) < math.inf:
        raise ValueError(f"{name} must be a finite number, got {shown(value)}.")
    return _in_range(name, number, *RANGES.get(name, (-math.inf, math.inf)))


def _in_range(name: str, value: Any, low: float | int, high: float | int) -> Any:
    if value < low:
        raise ValueError(f"{name} must be at least {low}, got {shown(value)}.")
    if value > high:
        raise ValueError(f"{name} must be at most {high:,}, got {shown(value)}.")
    return value


def require_bool(name: str, value: Any) -> bool:
    """Return a value that is True or False.

    Raises:
        TypeError: it is neither.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {shown(value)}.")
    return value


def require_ints(name: str, values: Any) -> tuple[int, ...]:
    """Return a list of ints as a tuple.

    Raises:
        TypeError: the values are no list, or one of them is not an int.
    """
    items = items_of(values)
    numbers = () if items is None else tuple(map(int_of, items))
    if items is None or None in numbers:
        raise TypeError(f"{name} must be a list of ints, e.g. [1]; got {shown(values)}.")
    return tuple(_in_range(name, number, *ANY_INT) for number in numbers)


def require_words(name: str, values: Any) -> tuple[str | int, ...]:
    """Return strings and token ids as a tuple; a single string counts as one word.

    Raises:
        TypeError: the values are no list, or one of them is neither a string nor an int.
        ValueError: a string that is no text.
    """
    items = (values,) if isinstance(values, str) else items_of(values)
    words = [item if isinstance(item, str) else int_of(item) for item in items or ()]
    if items is None or None in words:
        raise TypeError(
            f"{name} must be a list of strings or token ids, e.g. [' dog']; got {shown(values)}."
        )
    return tuple(
        require_text(name, word) if isinstance(word, str) else _in_range(name, word, *ANY_INT)
        for word in words
    )


def require_text(name: str, value: Any) -> str:
    """Return a value that is a string of text.

    Raises:
        TypeError: it is no string.
        ValueError: it contains lone surrogates, which no file and no tokenizer takes.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {shown(value)}.")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{name} must be text, got lone surrogates in {shown(value)}.")
    return value


def require_path(name: str, value: Any) -> Path:
    """Return a value as a path.

    Raises:
        TypeError: it is neither a string nor a path.
        ValueError: no file can have the name.
    """
    if not isinstance(value, str | Path):
        raise TypeError(f"{name} must be a string or a Path, got {shown(value)}.")
    try:
        parts = [os.fsencode(part) for part in Path(value).parts]
    except ValueError:
        parts = [b"\0"]
    if not str(value) or any(b"\0" in part or len(part) > 255 for part in parts):
        raise ValueError(f"{name} must be the name of a file, got {shown(value)}.")
    return Path(value)


def require_progress(name: str, value: Any) -> Any:
    """Return True, False or a function.

    Raises:
        TypeError: it is none of them.
    """
    if not isinstance(value, bool) and not callable(value):
        raise TypeError(
            f"{name} must be True, False or a function of one sentence; got {shown(value)}."
        )
    return value


def int_of(value: Any) -> int | None:
    """Return a whole number as an int; None for all else, booleans included."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except Exception:  # arrays and tensors raise errors of their own
        return None


def items_of(values: Any) -> tuple[Any, ...] | None:
    """Return the items of a list, an array or another iterable; None for all else."""
    if isinstance(values, str | bytes | bytearray | Mapping) or not isinstance(values, Iterable):
        return None
    try:
        items = tuple(islice(values, LONGEST + 1))
    except Exception:  # an array of dimension 0 has the methods of a list
        return None
    return items if len(items) <= LONGEST else None


def _listed(choices: Sequence[str]) -> str:
    """The choices as "'a' or 'b'", or "one of 'a', 'b', 'c'"."""
    return " or ".join(map(repr, choices)) if len(choices) < 3 else f"one of {_comma(choices)}"


def _comma(choices: Sequence[str]) -> str:
    return ", ".join(map(repr, choices))
