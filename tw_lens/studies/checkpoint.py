"""Checkpoint of a study: an interrupted study resumes where it stopped and gives the same numbers.

1. A study processes its prompts in batches, always in the same order.
2. Every ten seconds and at the end its partial results are written to one file (see
   `tensor_files`): tensors and JSON values, the settings, the number of batches processed, and a
   digest of their tokens.
3. A study with the same settings loads the partial results and skips the batches they include; the
   digest of the skipped batches must be the stored one.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from operator import index
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

from jaxtyping import Int
from torch import Tensor

from tw_lens.files import require_writable
from tw_lens.reading import fingerprint
from tw_lens.tensor_files import load_tensors, save_tensors

LAYOUT = "tw_lens study 3"
SECONDS_BETWEEN_SAVES = 10.0


class CheckpointError(ValueError):
    """A checkpoint that is incomplete, of another kind, or of other settings or prompts."""


class PartialResults(NamedTuple):
    """Results of the batches processed so far: tensors, and values that JSON represents exactly."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]


class CheckpointState(NamedTuple):
    """The content of a checkpoint: results, number of batches, and the digest of their tokens."""

    results: PartialResults
    n_batches: int
    digest: str


class Checkpoint:
    """The checkpoint of a running study; without a path nothing is saved.

    `results` are the partial results to resume from, None for a new study.
    """

    def __init__(self, path: str | Path | None, model: Any, settings: Mapping[str, Any]) -> None:
        """Load the checkpoint if there is one.

        Args:
            path: the file, or None.
            model: the model of the study.
            settings: everything else that the results depend on, as JSON values; `study` names
                the study.

        Raises:
            CheckpointError: the file is incomplete, or of another study, model or settings.
            FileNotFoundError, PermissionError: the file cannot be written.
        """
        self._path = None if path is None else Path(path)
        self._digest, self._n_batches, self._saved = hashlib.sha256(), 0, -math.inf
        self._settings: dict[str, Any] = {}
        state = None
        if self._path is not None:
            self._settings = {**settings, "model": fingerprint(model)}
            state = load_checkpoint(self._path, self._settings)
        self.results = None if state is None else state.results
        self._n_saved, self._saved_digest = (0, "") if state is None else state[1:]

    def includes(self, numbers: Sequence[int], tokens: Int[Tensor, "prompt position"]) -> bool:
        """Register the next batch and return whether the loaded results include it.

        Raises:
            CheckpointError: the batches included are of other prompts.
        """
        self._n_batches += 1
        self._digest.update(str((tuple(numbers), tokens.tolist())).encode())
        if self._n_batches == self._n_saved:
            self._require_same_prompts()
        return self._n_batches <= self._n_saved

    def save_if_due(self, results: Callable[[], PartialResults]) -> None:
        """Save the results if the last save was more than ten seconds ago."""
        if self._path is not None and monotonic() - self._saved > SECONDS_BETWEEN_SAVES:
            self._save(results())

    def finish(self, results: Callable[[], PartialResults]) -> None:
        """Save the results of all batches.

        Raises:
            CheckpointError: the loaded results include more prompts than were given.
        """
        if self._n_batches < self._n_saved:
            self._require_same_prompts()
        if self._path is not None:
            self._save(results())

    def _save(self, results: PartialResults) -> None:
        assert self._path is not None
        state = CheckpointState(results, self._n_batches, self._digest.hexdigest())
        save_checkpoint(self._path, state, self._settings)
        self._saved = monotonic()

    def _require_same_prompts(self) -> None:
        if self._saved_digest != self._digest.hexdigest():
            raise CheckpointError(
                f"{str(self._path)!r} holds a study of other prompts: pass the same prompts in "
                "the same order, or name another file."
            )


def save_checkpoint(path: Path, state: CheckpointState, settings: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically."""
    (tensors, values), n_batches, digest = state
    header = {"settings": settings, "values": values, "progress": [n_batches, digest]}
    save_tensors(path, LAYOUT, tensors, header)


def load_checkpoint(path: Path, settings: Mapping[str, Any]) -> CheckpointState | None:
    """Load the checkpoint of a study with these settings; None if the file does not exist.

    Raises:
        CheckpointError: the file is incomplete, or of another study or other settings.
        FileNotFoundError, PermissionError: the file cannot be written.
    """
    if not path.exists():
        require_writable(path)
        return None
    tensors, header = load_tensors(path, LAYOUT, "study", CheckpointError)
    _require_same_settings(path, header["settings"], settings)
    n_batches, digest = header["progress"]
    return CheckpointState(PartialResults(tensors, header["values"]), n_batches, digest)


def _require_same_settings(path: Path, saved: dict[str, Any], settings: Mapping[str, Any]) -> None:
    requested = json.loads(json.dumps(settings, default=index))
    different = [name for name in requested if saved.get(name) != requested[name]]
    if "study" in different:
        raise CheckpointError(
            f"{str(path)!r} holds another study ({saved.get('study')}): name another file."
        )
    if different:
        raise CheckpointError(
            f"{str(path)!r} holds a study with other settings ({', '.join(different)}): pass the "
            "settings it was started with, or name another file."
        )
