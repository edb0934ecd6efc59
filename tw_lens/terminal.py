"""What the commands share: a progress line, refusals in one sentence, tables shown or written."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import pandas as pd

REFUSED = 2
FAILED = 1
KEYWORD = inspect.Parameter.KEYWORD_ONLY
FORMATS = {
    "csv": "CSV",
    "json": "JSON",
    "parquet": "Parquet",
    "latex": "LaTeX",
    "markdown": "Markdown",
}


def table_command(command: Callable[..., tuple[Any, pd.DataFrame]]) -> Callable[..., None]:
    """Make a command of a function that returns a result and its table.

    The function's first parameter, which the terminal does not see, takes a sentence at each step.
    The command has an option for every format of files. Refusals end it with 2, a certificate that
    did not pass with 1.
    """
    asked = inspect.signature(command, eval_str=True)
    shown = [*asked.parameters.values()][1:]
    for name in FORMATS:
        option = typer.Option(f"--{name}", help=f"Write the table as {FORMATS[name]}.")
        annotation = Annotated[Path | None, option]
        shown.append(inspect.Parameter(name, KEYWORD, default=None, annotation=annotation))

    @wraps(command)
    def run(**given: Any) -> None:
        files = {name: path for name in FORMATS if (path := given.pop(name)) is not None}
        with report_errors():
            with progress() as say:
                result, table = command(say, **given)
            write_or_print(result, table, files)
        if not getattr(result, "passed", True):
            raise typer.Exit(FAILED)

    run.__signature__ = asked.replace(parameters=shown, return_annotation=None)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    del run.__wrapped__
    return run


def write_or_print(result: Any, table: pd.DataFrame, files: dict[str, Path]) -> None:
    """Write a result's table to the files asked for, or print it."""
    from rich.console import Console

    from tw_lens.rendering import rich_table, save_table

    for suffix, path in files.items():
        save_table(result, path, table=table, format=suffix)
        typer.echo(f"Written: {path}")
    if not files:
        console = Console()
        console.print(rich_table(table, repr(result)))
        for caveat in result.caveats:
            console.print(f"Caveat, {caveat}", markup=False, highlight=False)


def parse_layers(text: str) -> list[int] | None:
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


def read_lines(file: Path) -> list[str]:
    """The sentences of a text file, one per line; blank lines are left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no text, or holds no sentence.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f"there is no file {str(file)!r}: give a text file, a prompt a line."
        )
    try:
        held = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError:
        raise ValueError(f"{str(file)!r} is no text in UTF-8: give one prompt a line.") from None
    if not (sentences := [line for line in held if line]):
        raise ValueError(f"{str(file)!r} holds no sentence: give one prompt a line.")
    return sentences


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
def report_errors() -> Iterator[None]:
    """Errors that name what was given and what fits, as one sentence and an exit code of 2."""
    try:
        yield
    except (ValueError, IndexError, OSError, TypeError) as error:
        typer.echo(f"tw-lens: {error}", err=True)
        sys.exit(REFUSED)
