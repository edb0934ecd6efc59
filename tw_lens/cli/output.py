"""What a command writes: tables for reading on the terminal, files, and pipes.

Standard output holds the answer alone; notes go to standard error, and `--quiet` drops them.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    import pandas as pd

STANDARD_OUTPUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
BINARY = ("parquet",)
QUIET: ContextVar[bool] = ContextVar("quiet", default=False)


def note(text: str, *, err: bool = True) -> None:
    """Print a line on standard error (or standard output), unless the command is quiet."""
    if not QUIET.get():
        typer.echo(text, err=err)


def is_pipe(path: Path) -> bool:
    """Whether a path is standard output, or another pipe or device: not a file to be replaced."""
    special = path.exists() and not path.is_file() and not path.is_dir()
    return str(path) in STANDARD_OUTPUT or special


def require_outputs(files: Mapping[str, Path]) -> None:
    """Reject files that cannot be written, before any work is done.

    Args:
        files: paths by format.

    Raises:
        OSError: a file cannot be written.
        ValueError: two tables for standard output, or a binary one for a terminal.
    """
    from tw_lens.files import require_writable

    for path in files.values():
        if not is_pipe(path):
            require_writable(path)
    piped = [kind for kind, path in files.items() if str(path) in STANDARD_OUTPUT]
    if len(piped) > 1:
        raise ValueError(
            f"{' and '.join(f'--{kind}' for kind in piped)} would both write to standard output; "
            "give one of them a file."
        )
    if piped and piped[0] in BINARY and sys.stdout.isatty():
        raise ValueError(
            f"--{piped[0]} is binary and standard output is a terminal; give a file, or pipe it."
        )


def write_or_print(
    result: Any, table: pd.DataFrame, files: Mapping[str, Path], *, wide: bool = False
) -> None:
    """Write a result's table to the requested files, or print it for reading."""
    from tw_lens.rendering import save_table

    for kind, path in files.items():
        if is_pipe(path):
            _write_to_pipe(result, table, kind, path)
        else:
            save_table(result, path, table=table, format=kind)
            note(f"Written: {path}")
    if not files:
        print_result(result, table, wide=wide)


def _write_to_pipe(result: Any, table: pd.DataFrame, kind: str, path: Path) -> None:
    from tw_lens.rendering import save_table

    with TemporaryDirectory() as folder:
        file = save_table(result, Path(folder) / "table", table=table, format=kind)
        with file.open("rb") as source:
            if str(path) in STANDARD_OUTPUT:
                sys.stdout.flush()
                shutil.copyfileobj(source, sys.stdout.buffer)
                sys.stdout.flush()
            else:
                with path.open("wb") as target:
                    shutil.copyfileobj(source, target)


def print_result(result: Any, table: pd.DataFrame, *, wide: bool = False) -> None:
    """Print a result: one sentence, its tables and its caveats."""
    from rich.console import Console
    from rich.text import Text

    from tw_lens.rendering import terminal_tables

    class Terminal(Console):
        """A console that leaves a closed pipe to the command."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    console = Terminal(highlight=False)
    console.print(Text(f"{result.headline()}."))
    after_title = False
    for part in terminal_tables(result, table, width=console.width, wide=wide):
        if not after_title:
            console.print()
        console.print(part)
        after_title = isinstance(part, Text)
    if result.caveats:
        console.print()
    for caveat in result.caveats:
        console.print(Text(f"Caveat, {caveat}"))
