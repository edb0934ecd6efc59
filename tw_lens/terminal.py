"""What a terminal shows: progress, tables, and refusals as one sentence."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    import pandas as pd

    from tw_lens.errors import Caveat

REFUSED = 2
FORMATS = ("csv", "json", "parquet", "latex")


def shown(
    table: pd.DataFrame,
    headline: str,
    caveats: tuple[Caveat, ...],
    files: tuple[Path | None, ...],
) -> None:
    """Write the table to the files asked for, or print it."""
    from rich.console import Console

    from tw_lens.rendering import rich_table, save_table

    written = [(suffix, path) for suffix, path in zip(FORMATS, files, strict=True) if path]
    for suffix, path in written:
        save_table(table, path, format=suffix, caption=headline)
        typer.echo(f"Written: {path}")
    if not written:
        console = Console()
        console.print(rich_table(table, headline))
        for caveat in caveats:
            console.print(f"Caveat, {caveat}", markup=False, highlight=False)


@contextmanager
def progress() -> Iterator[Any]:
    """A line that tells what is going on, on the terminal only."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("Starting")

        def say(step: str) -> None:
            bar.update(task, description=step)

        yield say


@contextmanager
def refusals() -> Iterator[None]:
    """Errors that name what was given and what fits, as one sentence and an exit code of 2."""
    try:
        yield
    except (ValueError, IndexError, OSError, TypeError) as error:
        typer.echo(f"tw-lens: {error}", err=True)
        sys.exit(REFUSED)
