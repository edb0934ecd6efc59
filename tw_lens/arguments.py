"""The frame of every public call: its arguments are checked, torch's settings are the defaults.

1. `checked` wraps a call. An annotation names the kind of an argument: a number, a choice, a list,
   a path, an object of the package. `| None` permits None.
2. A value of the kind is passed on in its plain form (an int, a tuple, a `Path`); another one is
   rejected before the call runs. Whether a layer, a head or a token exists is for the model to say.
3. Where an annotation names anything else (a model, a prompt), the call looks at the value itself.
4. The call runs under torch's default settings (see `torch_settings`), on the device of its
   `Weights`; its result returns to the CPU (see `devices`).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from functools import cache, wraps
from inspect import BoundArguments, Parameter, Signature, signature
from typing import Any, Literal, ParamSpec, TypeVar, get_args, get_origin

import torch

from tw_lens.argument_kinds import (
    Check,
    items_of,
    require_bool,
    require_choice,
    require_each_choice,
    require_int,
    require_ints,
    require_names,
    require_number,
    require_path,
    require_progress,
    require_text,
    require_words,
    shown,
    with_article,
)
from tw_lens.devices import CPU, moved
from tw_lens.torch_settings import default_settings

P = ParamSpec("P")
R = TypeVar("R")

LIST_OF = re.compile(r"(?:Sequence|Iterable)\[(\w+)\]")
HOW_TO_GET = {
    "Weights": "call read_weights(model) first",
    "States": "call read_states(model, prompt) first",
    "LayerVocabulary": "call layer_vocabulary(model, ...) first",
    "Points": "call Points(vectors, names) or position_points(weights) first",
    "TokenFilter": "call token_filter(weights) first",
    "Projection": "call fit_projection(weights, states) first",
    "Trajectory": "call trajectory(weights, states) first",
    "TrajectoryAttribution": "call trajectory_attribution(weights, states) first",
    "StepNeurons": "read the neurons of trajectory_attribution(weights, states, neurons=5)",
    "AttentionPattern": "call attention_pattern(weights, states, layer=...) first",
    "DirectionExamples": "call direction_examples(model, prompts, ...) first",
    "DataFrame": "call to_dataframe() of a result",
}
_COMPUTING_ON: ContextVar[torch.device] = ContextVar("computing on", default=CPU)
RESULTS = ("Result", "Points", "States")  # what returns to the CPU
KINDS: dict[str, Check] = {
    "int": require_int,
    "bool": require_bool,
    "str": require_text,
    **dict.fromkeys(("float", "float | int", "int | float"), require_number),
    "str | Path": require_path,
    "Progress": require_progress,
    **dict.fromkeys(("Sequence[int]", "Iterable[int]"), require_ints),
    **dict.fromkeys(("Sequence[str]", "Iterable[str]"), require_names),
    **dict.fromkeys(("Sequence[str | int]", "Iterable[str | int]"), require_words),
}


def checked(call: Callable[P, R]) -> Callable[P, R]:
    """Check every argument of a call by its annotation, then run it under torch's default settings.

    Raises:
        TypeError: an argument of another kind, a missing or an unknown one.
        ValueError: a number out of its range, or a name that is not one of the choices.
    """
    shape = signature(call)

    @cache
    def checks() -> dict[str, Check]:
        names = vars(sys.modules[call.__module__])
        return {name: _check_of(p, names) for name, p in shape.parameters.items()}

    @wraps(call)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        given = _bind(call.__name__, shape, args, kwargs)
        for name, value in given.arguments.items():
            given.arguments[name] = checks()[name](name, value)
        _require_complete(call.__name__, shape, given)
        outer = _COMPUTING_ON.get()
        device = _device_of(given.arguments) or outer
        with default_settings(device):
            if device == outer:
                return call(*given.args, **given.kwargs)
            for name, value in given.arguments.items():
                given.arguments[name] = moved(value, device)
            token = _COMPUTING_ON.set(device)
            try:
                result = call(*given.args, **given.kwargs)
            finally:
                _COMPUTING_ON.reset(token)
            return moved(result, outer) if _is_a(result, RESULTS) else result

    return run


def _device_of(arguments: Mapping[str, Any]) -> torch.device | None:
    """Return the device of the first of the arguments that is a `Weights`; None without one."""
    weights = (value for value in arguments.values() if _is_a(value, ["Weights"]))
    return next((value.device for value in weights), None)


def _bind(name: str, shape: Signature, args: Any, kwargs: Any) -> BoundArguments:
    try:
        return shape.bind_partial(*args, **kwargs)
    except TypeError as error:
        known = ", ".join(shape.parameters)
        raise TypeError(f"{name}: {error}; its arguments are {known}.") from None


def _require_complete(name: str, shape: Signature, given: BoundArguments) -> None:
    missing = [
        p.name
        for p in shape.parameters.values()
        if p.default is Parameter.empty and p.name not in given.arguments
    ]
    if missing:
        raise TypeError(f"{name} needs {' and '.join(missing)}; give {'= and '.join(missing)}=.")


def _check_of(parameter: Parameter, names: Mapping[str, Any]) -> Check:
    """Return the check of a parameter's annotation; one that accepts all for other annotations."""
    text = str(parameter.annotation)
    plain = text.removesuffix(" | None")
    check = KINDS.get(plain) or _check_of_members(plain.split(" | "), names)
    if plain == text:
        return check
    return lambda name, value: None if value is None else check(name, value)


def _check_of_members(members: Sequence[str], names: Mapping[str, Any]) -> Check:
    """Return the check of choices, of classes, or of lists of either."""
    choices: tuple[str, ...] = ()
    classes: list[str] = []
    is_list = False
    for member in members:
        inner = LIST_OF.fullmatch(member)
        is_list = is_list or inner is not None
        member = inner[1] if inner else member.rpartition(".")[2]
        if get_origin(names.get(member)) is Literal:
            choices += get_args(names[member])
        elif member in HOW_TO_GET:
            classes = [*dict.fromkeys([*classes, member])]
        else:
            return lambda name, value: value
    if not classes:
        require = require_each_choice if is_list else require_choice
        return lambda name, value: require(name, value, choices)
    return lambda name, value: _require_instance(name, value, classes, choices, is_list=is_list)


def _require_instance(
    name: str, value: Any, classes: Sequence[str], choices: Sequence[str], *, is_list: bool
) -> Any:
    """Return an object of a class of `HOW_TO_GET`, a list of them, or one of the choices.

    Raises:
        TypeError: it is none of them.
        ValueError: a string that is not one of the choices.
    """
    items = items_of(value) if is_list and not _is_a(value, classes) else (value,)
    if items is not None and all(_is_a(item, classes) for item in items):
        return items if is_list and not _is_a(value, classes) else value
    whats = [*map(repr, choices), *map(with_article, classes), *["a list of them"] * is_list]
    what = " or ".join(whats)
    if isinstance(value, str) and choices:
        if value in choices:
            return value
        raise ValueError(f"unknown {name} {shown(value)}; expected {what}.")
    wrong = next((item for item in items or () if not _is_a(item, classes)), value)
    raise TypeError(
        f"{name} must be {what}; {HOW_TO_GET[classes[0]]} (got {type(wrong).__name__})."
    )


def _is_a(value: Any, classes: Sequence[str]) -> bool:
    """Return whether an object is of a class of this package (or of pandas), by its name."""
    return any(
        base.__name__ in classes and base.__module__.partition(".")[0] in ("tw_lens", "pandas")
        for base in type(value).__mro__
    )
