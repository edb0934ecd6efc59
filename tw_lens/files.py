"""Atomic writing of files, and the folder of cached results."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any


def require_writable(path: Path) -> None:
    """Reject a file that cannot be written, before any work is done.

    Raises:
        FileNotFoundError: the file's folder does not exist.
        PermissionError: the file's folder cannot be written to.
        IsADirectoryError: the path is a folder.
    """
    folder = path.resolve().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder {folder} does not exist; create it first.")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file.")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise PermissionError(f"the folder {folder} cannot be written to.") from error


def cache_folder() -> Path:
    """Return the folder of cached results: `$TW_LENS_CACHE`, or `~/.cache/tw_lens`."""
    return Path(os.environ.get("TW_LENS_CACHE") or Path.home() / ".cache" / "tw_lens")


def write_to_cache(path: Path, write: Callable[[Path], Any], what: str) -> bool:
    """Write a file of the cache folder; warn and return False where that is impossible.

    Args:
        path: the file, in `cache_folder()`.
        write: writes a file of the name it is given.
        what: what is cached, for the warning.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, write)
    except OSError as error:
        warnings.warn(
            f"{what} could not be cached in {path.parent} ({error}) and will be computed each "
            "time; set TW_LENS_CACHE to a writable folder.",
            stacklevel=4,
        )
        return False
    return True


def write_atomically(path: Path, write: Callable[[Path], Any]) -> Path:
    """Write a temporary file in the same folder and rename it when it is complete."""
    require_writable(path)
    handle, name = tempfile.mkstemp(dir=path.resolve().parent, prefix=".tw_lens-")
    os.close(handle)
    try:
        write(Path(name))
        os.chmod(name, 0o644)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
    return path
