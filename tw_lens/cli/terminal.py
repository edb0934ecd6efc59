"""Behaviour shared by all commands: loading, progress, errors, tables."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tw_lens.cli.muted_streams import muted_libraries
from tw_lens.cli.options import MODEL_FORMAT, SHARED, Wide
from tw_lens.cli.output import QUIET, note, require_outputs, write_or_print
from tw_lens.cli.selections import chosen_stack, with_leading_spaces

if TYPE_CHECKING:
    import pandas as pd

    from tw_lens.canonical import LayerVocabulary

FAILED = 1
REJECTED = 2
INTERRUPTED = 130  # 128 + SIGINT
CLOSED_PIPE = 141  # 128 + SIGPIPE
KEYWORD = inspect.Parameter.KEYWORD_ONLY
FORMATS = {
    "csv": "CSV",
    "json": "JSON",
    "parquet": "Parquet",
    "latex": "LaTeX",
    "markdown": "Markdown",
}

Report = Callable[[str], None]
ResultAndTable = tuple[Any, Any]


def shared_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command options of all commands: where a model is, which stack of it, and --quiet."""
    chosen = names or tuple(SHARED)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def run(**options: Any) -> None:
            given = {name: options.pop(name) for name in chosen}
            quiet, model_format = QUIET.set(given.pop("quiet")), MODEL_FORMAT.set(given)
            try:
                with report_errors():
                    command(**options)
            finally:
                QUIET.reset(quiet)
                MODEL_FORMAT.reset(model_format)

        parameters = [*inspect.signature(command, eval_str=True).parameters.values()]
        parameters += [
            inspect.Parameter(name, KEYWORD, default=SHARED[name][1], annotation=SHARED[name][0])
            for name in chosen
        ]
        return _with_parameters(run, parameters)

    return decorate


def table_command(command: Callable[..., tuple[Any, pd.DataFrame]]) -> Callable[..., None]:
    """Turn a function that returns a result and its table into a command.

    The function's first parameter is not an option: it is called with a sentence at each step. The
    command gets an option for every file format, --wide, and the shared ones. It exits with code 2
    on rejected input, and with code 1 if a certificate did not pass.
    """
    parameters = [*inspect.signature(command, eval_str=True).parameters.values()][1:]
    for name in FORMATS:
        option = typer.Option(
            f"--{name}", help=f"Write the table as {FORMATS[name]} (- for standard output)."
        )
        annotation = Annotated[Path | None, option]
        parameters.append(inspect.Parameter(name, KEYWORD, default=None, annotation=annotation))
    parameters.append(inspect.Parameter("wide", KEYWORD, default=False, annotation=Wide))

    @wraps(command)
    def run(**options: Any) -> None:
        files = {name: path for name in FORMATS if (path := options.pop(name)) is not None}
        wide = options.pop("wide")
        require_outputs(files)
        with progress() as report:
            result, table = command(report, **options)
        write_or_print(result, table, files, wide=wide)
        if not getattr(result, "passed", True):
            raise typer.Exit(FAILED)

    return shared_options()(_with_parameters(run, parameters))


def _with_parameters(
    command: Callable[..., None], parameters: list[inspect.Parameter]
) -> Callable[..., None]:
    """Return a command with the parameters that typer reads."""
    made: Any = command  # the attributes that typer reads are not declared for functions
    made.__signature__ = inspect.Signature(parameters, return_annotation=None)
    made.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del made.__wrapped__
    return made


@contextmanager
def progress() -> Iterator[Report]:
    """Show a line with the current step on the terminal (not in redirected output)."""
    if QUIET.get() or not sys.stderr.isatty():
        yield lambda step: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(file=sys.stderr)  # this stream, also while other libraries are muted
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("Starting")

        def report(step: str) -> None:
            bar.update(task, description=step)

        yield report


@contextmanager
def report_errors() -> Iterator[None]:
    """Print an error as one sentence and exit with code 2; end silently where a pipe is closed."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # flushed again at the end
        sys.exit(CLOSED_PIPE)
    except KeyboardInterrupt:
        typer.echo("tw-lens: interrupted", err=True)
        sys.exit(INTERRUPTED)
    except (ValueError, IndexError, OSError, TypeError) as error:
        typer.echo(f"tw-lens: {error}", err=True)
        sys.exit(REJECTED)


def read(model: str | None, step: Report, readable: bool) -> tuple[Any, Any, Any]:
    """Return the model, its weights, and the filter of readable tokens (or None)."""
    from tw_lens.analyses import token_filter
    from tw_lens.reading import read_weights

    loaded = load(model, step)
    weights = read_weights(loaded)
    return loaded, weights, token_filter(weights) if readable else None


def words_of(typed: Sequence[str], weights: Any) -> list[str]:
    """Return words as typed, with a leading space where only so they are tokens, and say so."""
    return with_leading_spaces(typed, weights.tokens, lambda text: note(f"tw-lens: {text}"))


def read_vocabulary(
    option: str,
    model: Any,
    layers: Sequence[int] | None,
    step: Report,
    convention: Literal["exact", "published"] = "exact",
) -> LayerVocabulary | None:
    """Return the layer vocabulary that `--vocabulary` names; None for embeddings.

    Where the model's tokenizer cannot read the reference text, embeddings take its place, and the
    terminal says so.

    Raises:
        FileNotFoundError, ValueError: the file is missing, or no layer vocabulary.
    """
    from tw_lens.canonical import load_vocabulary
    from tw_lens.studies.reference_text import choose_vocabulary

    if option not in ("text", "embedding"):
        return load_vocabulary(option)
    if convention == "published":
        return None
    chosen, reason = choose_vocabulary(model, option, layers=layers, progress=step)
    if reason:
        note(f"tw-lens: {reason}")
    return chosen


def announce(line: str, step: Report) -> None:
    """Say what a command does: in its progress line, or where it has none as a line."""
    step(line)
    if not sys.stderr.isatty():
        note(line)


def load(model: str | None, step: Report, *, whole: bool = False) -> Any:
    """Load a model from a folder or by name; the bundled one without a name.

    One line on standard error says so; bars and warnings of other libraries are dropped. Of an
    encoder-decoder the stack that the options name is returned, or the `whole` model.
    """
    announce(f"loading {model or 'the bundled SmolLM2'}\u2026", step)
    options = dict(MODEL_FORMAT.get() or {})
    name, source = options.pop("stack", ""), options.pop("source", "")
    with muted_libraries():
        from tw_lens.reading import load_model

        loaded = load_model(model, **options)
    return loaded if whole else chosen_stack(loaded, name, source)
