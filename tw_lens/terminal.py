"""What the commands share: a progress line, refusals in one sentence, tables shown or written."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    import pandas as pd

REFUSED = 2
FORMATS = ("csv", "json", "parquet", "latex", "markdown")


def show(result: Any, table: pd.DataFrame, files: tuple[Path | None, ...]) -> None:
    """Write a result's table to the files asked for, or print it."""
    from rich.console import Console

    from tw_lens.rendering import rich_table, save_table

    written = [(suffix, path) for suffix, path in zip(FORMATS, files, strict=True) if path]
    for suffix, path in written:
        save_table(result, path, table=table, format=suffix)
        typer.echo(f"Written: {path}")
    if not written:
        console = Console()
        console.print(rich_table(table, repr(result)))
        for caveat in result.caveats:
            console.print(f"Caveat, {caveat}", markup=False, highlight=False)


def layers(text: str) -> list[int] | None:
    """Numbers with commas between them; None for no text.

    Raises:
        ValueError: anything else.
    """
    if not text.strip():
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--layers {text!r}: numbers with commas fit, as in 0,5,11.") from None


@contextmanager
def progress() -> Iterator[Any]:
    """A line that tells what is going on, on the terminal only."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("Starting")

        def say(step: str) -> None:
            progress.update(task, description=step)

        yield say


@contextmanager
def refusals() -> Iterator[None]:
    """Errors that name what was given and what fits, as one sentence and an exit code of 2."""
    try:
        yield
    except (ValueError, IndexError, OSError, TypeError) as error:
        typer.echo(f"tw-lens: {error}", err=True)
        sys.exit(REFUSED)
