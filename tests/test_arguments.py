"""Every public call says in one sentence what an argument must be; none fails inside."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from fractions import Fraction
from inspect import isfunction, signature
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tw_lens as tw
from tw_lens import argument_kinds as kinds
from tw_lens.arguments import checked
from tw_lens.canonical import LayerVocabulary, Weights
from tw_lens.progress import Progress
from tw_lens.results import Circuit, Result

ROOT = Path(__file__).parent.parent
N_CALLS = 5000


def test_random_calls_answer_or_are_refused():
    """In a process of its own: here the type checks of the tests would answer first."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "tests.fuzz", str(N_CALLS)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith(f"{N_CALLS} calls of "), done.stdout


def public_calls() -> dict[str, Any]:
    """Return the public functions, and the public methods that take arguments."""
    functions = {name: getattr(tw, name) for name in tw.__all__}
    found = {name: call for name, call in functions.items() if isfunction(call)}
    for owner in [Weights, LayerVocabulary, *result_classes(Result)]:
        for name, call in vars(owner).items():
            if isfunction(call) and name[0] != "_" and len(signature(call).parameters) > 1:
                found[f"{owner.__name__}.{name}"] = call
    return found


def result_classes(cls: type) -> list[type]:
    subclasses = [sub for sub in cls.__subclasses__() if sub.__module__.startswith("tw_lens")]
    return subclasses + [inner for sub in subclasses for inner in result_classes(sub)]


def test_every_public_call_is_checked():
    unchecked = []
    for name, call in public_calls().items():
        wrappers = [call]
        while hasattr(wrappers[-1], "__wrapped__"):
            wrappers.append(wrappers[-1].__wrapped__)
        if not any(one.__code__ is checked(len).__code__ for one in wrappers if isfunction(one)):
            unchecked.append(name)
    assert len(public_calls()) > 60 and unchecked == []


@checked
def call(
    layer: int,
    *,
    k: int = 5,
    seed: int = 0,
    scale: bool = True,
    words: Iterable[str | int] = (),
    layers: Sequence[int] | None = None,
    circuit: Circuit = "QK",
    circuits: Iterable[Circuit] = (),
    names: Sequence[str] = (),
    tolerance: float | None = None,
    path: str | Path = "file",
    vocabulary: LayerVocabulary | Sequence[LayerVocabulary] | Circuit | None = None,
    progress: Progress = False,
    anything: Any = None,
) -> dict[str, Any]:
    """Return the arguments as they arrive."""
    return dict(locals())


VOCABULARY = LayerVocabulary("tiny", "", "alone", (0,), torch.tensor([1]), (torch.zeros(1, 2),),
                             torch.tensor([1]), 3)  # fmt: skip
TAKEN = [
    ("layer", np.int64(1), 1), ("layer", torch.tensor(2), 2), ("k", 2**31 - 1, 2**31 - 1),
    ("seed", 2**32 - 1, 2**32 - 1), ("words", "dog", ("dog",)),
    ("words", ["a", np.int32(3)], ("a", 3)),
    ("words", torch.tensor([4, 5]), (4, 5)), ("layers", None, None), ("layers", range(2), (0, 1)),
    ("layers", np.array([1, 2]), (1, 2)), ("layers", {3}, (3,)), ("circuit", "OV", "OV"),
    ("circuits", iter(["OV", "QK", "OV"]), ("OV", "QK")), ("names", ["a"], ("a",)),
    ("tolerance", Fraction(1, 2), 0.5), ("tolerance", np.float32(2), 2.0), ("tolerance", 1, 1.0),
    ("path", "a/b", Path("a/b")), ("vocabulary", VOCABULARY, VOCABULARY),
    ("vocabulary", "QK", "QK"),
    ("vocabulary", [VOCABULARY], (VOCABULARY,)), ("progress", print, print), ("anything", 1j, 1j),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "arrives"), TAKEN, ids=range(len(TAKEN)))
def test_values_arrive_in_their_plain_form(name, value, arrives):
    found = call(**{"layer": 0, name: value})[name]
    assert found == arrives and type(found) is type(arrives)


class Unprintable:
    def __repr__(self):
        raise RuntimeError


A_LIST = "words must be a list of strings or token ids, e.g. [' dog']; got"
AN_INSTANCE = (
    "vocabulary must be 'QK' or 'OV' or a LayerVocabulary or a list of them; call "
    "layer_vocabulary(model, ...) first (got"
)
REFUSED = [
    ("layer", None, "layer must be an int, got None."),
    ("layer", True, "layer must be an int, got True."),
    ("layer", 1j, "layer must be an int, got 1j."),
    ("layer", 1.0, "layer must be an int, got 1.0."),
    ("layer", np.array([1, 2]), "layer must be an int, got array([1, 2])."),
    ("layer", Unprintable(), "layer must be an int, got an Unprintable."),
    ("layer", torch.zeros(9, 9), "layer must be an int, got a Tensor."),
    ("layer", 10**5000, "layer must be at most 9,223,372,036,854,775,807, got an int."),
    ("k", 0, "k must be at least 1, got 0."),
    ("k", 2**31, "k must be at most 2,147,483,647, got 2147483648."),
    ("k", None, "k must be an int, got None."),
    ("seed", -1, "seed must be at least 0, got -1."),
    ("seed", 0.5, "seed must be an int, got 0.5."),
    ("seed", 2**32, "seed must be at most 4,294,967,295, got 4294967296."),
    ("scale", 2, "scale must be True or False, got 2."),
    ("scale", None, "scale must be True or False, got None."),
    ("words", [None], f"{A_LIST} [None]."),
    ("words", [True], f"{A_LIST} [True]."),
    ("words", {"a": 1}, f"{A_LIST} {{'a': 1}}."),
    ("words", ["\ud800"], "words must be text, got lone surrogates in '\\ud800'."),
    ("words", count(), f"{A_LIST} count("),
    ("layers", [1.5], "layers must be a list of ints, e.g. [1]; got [1.5]."),
    ("layers", "1", "layers must be a list of ints, e.g. [1]; got '1'."),
    ("circuit", None, "unknown circuit None; expected 'QK' or 'OV'."),
    ("circuit", np.array(["QK", "OV"]), "unknown circuit array(['QK', 'OV'], dtype='<U2'); exp"),
    ("circuits", "QK", "circuits must be a list of names, e.g. ['QK']; got 'QK'."),
    ("circuits", ["VO"], "unknown circuit 'VO'; expected 'QK' or 'OV'."),
    ("names", [1], "names must be a list of names, e.g. ['norm']; got [1]."),
    ("tolerance", "1", "tolerance must be a number, got '1'."),
    ("tolerance", float("nan"), "tolerance must be a finite number, got nan."),
    ("tolerance", 10**400, "tolerance must be a finite number, got an int."),
    ("tolerance", -1, "tolerance must be at least 0, got -1.0."),
    ("path", b"a", "path must be a string or a Path, got b'a'."),
    ("path", "", "path must be the name of a file, got ''."),
    ("path", "a\0b", "path must be the name of a file, got 'a\\x00b'."),
    ("path", "\ud800", "path must be the name of a file, got '\\ud800'."),
    ("path", "x" * 300, "path must be the name of a file, got a str."),
    ("vocabulary", 1, f"{AN_INSTANCE} int)."),
    ("vocabulary", [VOCABULARY, None], f"{AN_INSTANCE} NoneType)."),
    ("vocabulary", "VO", "unknown vocabulary 'VO'; expected 'QK' or 'OV' or a LayerVocabulary or"),
    ("progress", 1, "progress must be True, False or a function of one sentence; got 1."),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "sentence"), REFUSED, ids=range(len(REFUSED)))
def test_other_values_are_refused_in_one_sentence(name, value, sentence):
    with pytest.raises((TypeError, ValueError)) as caught:
        call(**{"layer": 0, name: value})
    assert str(caught.value).startswith(sentence)
    assert sentence.endswith(".") <= (str(caught.value) == sentence)


def test_missing_and_unknown_arguments_are_named():
    with pytest.raises(TypeError, match=r"^call needs layer; give layer=\.$"):
        call(k=1)
    with pytest.raises(TypeError, match=r"^call: got an unexpected keyword argument 'size'; its"):
        call(0, size=1)
    with pytest.raises(TypeError, match=r"^call: too many positional arguments; its arguments are"):
        call(0, 1)


def test_counts_have_bounds_by_their_names():
    for name in ("n_null", "n_null_within", "n_permutations", "n_perturbations", "n_random"):
        with pytest.raises(ValueError, match=f"^{name} must be at most 100,000, got 2147483648"):
            kinds.require_int(name, 2**31)
    parameters = {p for one in public_calls().values() for p in signature(one).parameters}
    assert set(kinds.RANGES) <= parameters  # no range of a name that no call has


def test_an_index_has_the_bounds_of_what_it_counts():
    assert kinds.require_index("index", 2, 3) == 2
    for value in (-1, 3):
        with pytest.raises(IndexError, match=f"^index must be between 0 and 2, got {value}"):
            kinds.require_index("index", value, 3)


def test_an_object_of_another_class_is_refused_with_an_article():
    with pytest.raises(TypeError, match="must be an AttentionPattern; call attention_pattern"):
        tw.attention_widget(5)  # pyright: ignore[reportArgumentType]
