"""Atomic writing of files and folders, and the folder of cached results."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EIO
from pathlib import Path
from typing import Any

ENDING_SIGNALS = ("SIGTERM", "SIGHUP")


def require_writable(path: Path) -> None:
    """Reject a file that cannot be written, before any work is done.

    Raises:
        FileNotFoundError: the file's folder does not exist.
        PermissionError: the file's folder cannot be written to.
        IsADirectoryError: the path is a folder.
    """
    _require_parent(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file.")
    _require_writable_parent(path)


def require_new_folder(folder: Path) -> None:
    """Reject a folder that cannot be created, before any work is done; an empty one may exist.

    Raises:
        FileExistsError: the folder holds files, or cannot be replaced.
        FileNotFoundError: the folder that it would be in does not exist.
        NotADirectoryError: it is a file.
        PermissionError: it cannot be created there.
    """
    _require_parent(folder)
    target = folder.resolve()
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"{folder} is a file; give the name of a folder.")
    if target == Path.cwd() or os.path.ismount(target):
        raise FileExistsError(f"{folder} cannot be replaced as a whole; name a new folder in it.")
    if target.is_dir() and (names := sorted(os.listdir(target))):
        files = f"{names[0]!r}" + (f" and {len(names) - 1} more" if names[1:] else "")
        raise FileExistsError(
            f"the folder {folder} holds {files}, and nothing is overwritten; name a new or an "
            "empty folder."
        )
    _require_writable_parent(folder)


def _require_parent(path: Path) -> None:
    parent = path.resolve().parent
    if not parent.is_dir():
        raise FileNotFoundError(f"the folder {parent} does not exist; create it first.")


def _require_writable_parent(path: Path) -> None:
    parent = path.resolve().parent
    try:
        tempfile.TemporaryFile(dir=parent).close()
    except OSError as error:
        raise PermissionError(f"the folder {parent} cannot be written to: {error}.") from error


def cache_folder() -> Path:
    """Return the folder of cached results: `$TW_LENS_CACHE`, or `~/.cache/tw_lens`."""
    return Path(os.environ.get("TW_LENS_CACHE") or Path.home() / ".cache" / "tw_lens")


def write_to_cache(path: Path, write: Callable[[Path], Any], what: str) -> None:
    """Write a file of the cache folder; warn where that is impossible.

    Args:
        path: the file, in `cache_folder()`.
        write: writes the file, atomically.
        what: what is cached, for the warning.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
    except OSError as error:
        warnings.warn(
            f"{what} could not be cached in {path.parent} ({error}) and will be computed each "
            "time; set TW_LENS_CACHE to a writable folder.",
            stacklevel=4,
        )


def write_atomically(path: Path, write: Callable[[Path], Any]) -> Path:
    """Write a file in a temporary folder beside its place, and move it there when it is complete.

    Whatever ends the writing (an error, a full disk, Ctrl-C, SIGTERM) leaves an earlier file as it
    was and nothing else. A link is followed: the file it names is replaced.

    Raises:
        FileNotFoundError, PermissionError, IsADirectoryError: see `require_writable`.
        OSError: the disk is full.
    """
    require_writable(path)
    target = path.resolve()
    folder = target.with_name(f".tw_lens-{secrets.token_hex(8)}")
    written = folder / target.name
    try:
        with _removed_when_ended(folder):
            folder.mkdir()
            write(written)
            os.chmod(written, folder.stat().st_mode & 0o666)
            with written.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(written, target)
    except OSError as error:
        raise OSError(error.errno or EIO, error.strerror or str(error), str(path)) from error
    return path


def write_folder_atomically(folder: Path, write: Callable[[Path], Any]) -> Path:
    """Write a new folder under another name beside its place; rename it when it is complete.

    Whatever ends the writing (an error, a full disk, Ctrl-C, SIGTERM) leaves nothing. An empty
    folder of that name is replaced.

    Raises:
        FileExistsError, FileNotFoundError, NotADirectoryError, PermissionError: see
            `require_new_folder`.
        OSError: the disk is full, or files were put into the folder meanwhile.
    """
    require_new_folder(folder)
    target = folder.resolve()
    made = target.with_name(f".tw_lens-{secrets.token_hex(8)}")
    try:
        with _removed_when_ended(made):
            made.mkdir()
            write(made)
            for file in filter(Path.is_file, made.rglob("*")):
                with file.open("rb+") as opened:
                    os.fsync(opened.fileno())
            if target.is_dir():
                target.rmdir()
            os.rename(made, target)
    except OSError as error:
        raise OSError(error.errno or EIO, error.strerror or str(error), str(folder)) from error
    return folder


@contextmanager
def _removed_when_ended(folder: Path) -> Iterator[None]:
    """Remove a folder at the end of a context, and where a signal ends the process within it.

    Only signals that would end the process without notice are caught; a program's own handlers
    stay, and signals only reach the main thread.
    """

    def end(number: int, _frame: Any) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    main = threading.current_thread() is threading.main_thread()
    numbers = [getattr(signal, name) for name in ENDING_SIGNALS if main and hasattr(signal, name)]
    caught = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    try:
        for number in caught:
            signal.signal(number, end)
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for number in caught:
            signal.signal(number, signal.SIG_DFL)
