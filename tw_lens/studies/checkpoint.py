"""A study on disk, so that an interrupted one goes on where it was.

One safetensors file, written whole every ten seconds and at the end: the running sums, and in its
header what was asked, how many batches are in the sums, and a digest of their tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tw_lens.files import require_writable, write_atomically
from tw_lens.studies.bootstrap import BootstrapSums

LAYOUT = "tw_lens study 1"


class CheckpointError(ValueError):
    """A kept study that is cut, of another kind, or of other settings or prompts."""


class CheckpointState(NamedTuple):
    """How far a study is: batches counted, and a digest of their tokens."""

    n_batches: int = 0
    digest: str = ""


def save_study(
    path: Path, sums: BootstrapSums, progress: CheckpointState, settings: Mapping[str, Any]
) -> None:
    """Write a study as far as it is, whole or not at all."""
    from safetensors.torch import save_file

    header = {
        "layout": LAYOUT,
        "settings": json.dumps(settings),
        "progress": json.dumps(progress),
    }
    write_atomically(path, lambda to: save_file(sums._asdict(), to, metadata=header))


def load_study(
    path: Path, settings: Mapping[str, Any]
) -> tuple[BootstrapSums, CheckpointState] | None:
    """What was kept of the same study; None where nothing was kept yet.

    Raises:
        CheckpointError: the file is cut, of another kind, or of a study with other settings.
        FileNotFoundError, PermissionError: a file could not be written there.
    """
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        require_writable(path)
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("layout") != LAYOUT:
                raise CheckpointError(f"{str(path)!r} does not hold a study: name another file.")
            sums = BootstrapSums(*(file.get_tensor(name) for name in BootstrapSums._fields))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{str(path)!r} does not hold a whole study: remove it or name another file."
        ) from error
    kept = json.loads(header["settings"])
    differ = [name for name in settings if kept.get(name) != json.loads(json.dumps(settings[name]))]
    if differ:
        raise CheckpointError(
            f"{str(path)!r} holds a study with another {', '.join(differ)}: give what it was "
            "begun with, or name another file."
        )
    return sums, CheckpointState(*json.loads(header["progress"]))
