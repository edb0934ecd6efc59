"""The models of a sweep: names, folders, functions that load one, and loaded models.

1. Names and folders are what `load_model` takes. A function is called once, when its turn comes.
2. Every model has a name: its key in a mapping, the name or folder as given, else the model's own.
3. A training step is read from the last part of the name ("step1000", "checkpoint-1000").
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tw_lens.argument_kinds import items_of, require_text, shown
from tw_lens.reading import load_model

STEP = re.compile(
    r"(?<![a-z])(?:step|checkpoint|ckpt|iter)[-_=]?(\d+)(?![a-z0-9]|\.\d)", re.IGNORECASE
)
LOADING = threading.Lock()  # loading changes settings of the process, which threads share
EXPECTED = (
    "names or folders that load_model takes, functions that load a model, or models that "
    "load_model returns"
)


class ModelSource(NamedTuple):
    """A model that is not loaded yet, or one that is; `name` is empty for the model's own."""

    name: str
    value: Any

    @property
    def is_loaded(self) -> bool:
        """Whether the model is in memory already, so that no other process can load it."""
        return isinstance(self.value, torch.nn.Module) or hasattr(self.value, "cfg")

    def load(self) -> Any:
        """Return the model.

        Raises:
            ModelLoadError: no model of the name can be loaded.
        """
        if self.is_loaded:
            return self.value
        with LOADING:
            return load_model(self.value) if isinstance(self.value, str) else self.value()


def model_sources(models: Any) -> list[ModelSource]:
    """Return the models of a list, or of a mapping from names.

    Raises:
        TypeError: it is no list, or an item is none of what a sweep takes.
        ValueError: there is none, or one name stands twice.
    """
    if isinstance(models, Mapping):
        named = [(require_text("a name in models", name), one) for name, one in models.items()]
        sources = [_source(value, name) for name, value in named]
    else:
        items = items_of(models)
        if items is None:
            raise TypeError(f"models must be a list of {EXPECTED}; got {shown(models)}.")
        sources = [_source(value) for value in items]
    if not sources:
        raise ValueError(f"models is empty; give a list of {EXPECTED}.")
    names = Counter(source.name for source in sources if source.name)
    if repeated := [name for name, n in names.items() if n > 1]:
        raise ValueError(f"models names {repeated[0]!r} twice; give every model once.")
    return sources


def _source(value: Any, name: str = "") -> ModelSource:
    if isinstance(value, str | Path):
        return ModelSource(name or str(value), require_text("a model's name", str(value)))
    source = ModelSource(name, value)
    if not (source.is_loaded or callable(value)):
        raise TypeError(f"models must be {EXPECTED}; got {shown(value)}.")
    return source


def step_of(name: str) -> int | None:
    """Return the training step that the last part of a name says; None where it says none."""
    found = STEP.findall(Path(name).name)
    return int(found[-1]) if found else None


def run_of(name: str) -> str:
    """Return a name without its step, which the checkpoints of one training run share."""
    folder, last = Path(name).parent, Path(name).name
    return str(folder / STEP.sub("", last))
