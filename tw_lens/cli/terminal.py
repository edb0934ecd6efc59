"""Options and behaviour shared by all commands: loading, progress, errors, printed tables."""

from __future__ import annotations

import codecs
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tw_lens.cli.muted_streams import muted_libraries

if TYPE_CHECKING:
    import pandas as pd

    from tw_lens.canonical import LayerVocabulary

REJECTED = 2
FAILED = 1
KEYWORD = inspect.Parameter.KEYWORD_ONLY
FORMATS = {
    "csv": "CSV",
    "json": "JSON",
    "parquet": "Parquet",
    "latex": "LaTeX",
    "markdown": "Markdown",
}

ENCODINGS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)

PROMPT = "To kill two birds with one stone"

Report = Callable[[str], None]
ResultAndTable = tuple[Any, Any]

Model = Annotated[
    str | None,
    typer.Argument(
        help="A folder, or a model name that TransformerLens knows (default: the bundled SmolLM2)."
    ),
]
Prompt = Annotated[str, typer.Option("--prompt", "-p", help="Text to run the model on.")]
Prompts = Annotated[Path, typer.Option("--prompts", help="Text file, one prompt per line.")]
Layer = Annotated[int, typer.Option("--layer", "-l", help="Index of the layer.")]
Layers = Annotated[str, typer.Option(help="Layers, e.g. 0,5,11 (default: all).")]
HeldOut = Annotated[
    Path | None,
    typer.Option("--held-out", help="Other text, one prompt per line, to measure faithfulness."),
]
Distance = Annotated[
    int, typer.Option(help="Distance from the query back to the key (QK of rotary models).")
]
Head = Annotated[int | None, typer.Option("--head", help="Index of the head (default: all heads).")]
OneHead = Annotated[int, typer.Option("--head", help="Index of the head.")]
Direction = Annotated[int, typer.Option("--direction", help="Index of the singular direction.")]
Circuit = Annotated[
    Literal["QK", "OV"], typer.Option("--circuit", help="Attention circuit: QK or OV.")
]
Convention = Annotated[
    Literal["exact", "published"],
    typer.Option("--convention", help="Convention: exact or published."),
]
K = Annotated[int, typer.Option("-k", help="Number of tokens per list.")]
Readable = Annotated[
    bool,
    typer.Option(
        "--readable",
        help="List whole words only: no fragments, no special or never-trained tokens.",
    ),
]
Vocabulary = Annotated[
    str,
    typer.Option(
        "--vocabulary",
        help="Where tokens are read: text (their mean states over reference text), embedding, or "
        "a file that `tw-lens vocabulary` wrote.",
    ),
]
Score = Annotated[
    Literal["dot", "standardised"],
    typer.Option(help="Scores of written tokens (OV): dot, or standardised for loud tokens."),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint", help="File to save the study in; rerun with the same file to resume."
    ),
]


def table_command(command: Callable[..., tuple[Any, pd.DataFrame]]) -> Callable[..., None]:
    """Turn a function that returns a result and its table into a command.

    The function's first parameter is not an option: it is called with a sentence at each step. The
    command gets an option for every file format. It exits with code 2 on rejected input, and with
    code 1 if a certificate did not pass.
    """
    signature = inspect.signature(command, eval_str=True)
    parameters = [*signature.parameters.values()][1:]
    for name in FORMATS:
        option = typer.Option(f"--{name}", help=f"Write the table as {FORMATS[name]}.")
        annotation = Annotated[Path | None, option]
        parameters.append(inspect.Parameter(name, KEYWORD, default=None, annotation=annotation))

    @wraps(command)
    def run(**options: Any) -> None:
        files = {name: path for name in FORMATS if (path := options.pop(name)) is not None}
        with report_errors():
            with progress() as report:
                result, table = command(report, **options)
            write_or_print(result, table, files)
        if not getattr(result, "passed", True):
            raise typer.Exit(FAILED)

    made: Any = run  # the attributes that typer reads are not declared for functions
    made.__signature__ = signature.replace(parameters=parameters, return_annotation=None)
    made.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del made.__wrapped__
    return made


def write_or_print(result: Any, table: pd.DataFrame, files: dict[str, Path]) -> None:
    """Write a result's table to the requested files, or print it."""
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
    """Return the layers in a text such as "0,5,11"; None for an empty text.

    Raises:
        ValueError: the text is not a list of ints.
    """
    if not text.strip():
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(
            f"--layers must be numbers with commas between them, e.g. 0,5,11; got {text!r}."
        ) from None


def read_lines(file: Path) -> list[str]:
    """Return the prompts of a text file, one per line, without outer whitespace or blank lines.

    Only newlines end a line: form feeds and other separators belong to the text. A byte-order
    mark does not; it also tells UTF-16 and UTF-32.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is in another encoding, or contains no prompt.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f"the file {str(file)!r} does not exist; pass a text file with one prompt per line."
        )
    data = file.read_bytes()
    encoding = next((name for mark, name in ENCODINGS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = None
    if text is None or 4 * text.count("\0") > len(text):  # UTF-16 without a mark: half are NUL
        raise ValueError(
            f"{str(file)!r} must be UTF-8 text with one prompt per line; it is not UTF-8: save it "
            "as UTF-8."
        )
    lines = [line.strip() for line in text.split("\n")]
    if not (prompts := [line for line in lines if line]):
        raise ValueError(f"{str(file)!r} must contain at least one prompt; all lines are blank.")
    return prompts


@contextmanager
def progress() -> Iterator[Report]:
    """Show a line with the current step on the terminal (not in redirected output)."""
    if not sys.stderr.isatty():
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
    """Print an error as one sentence and exit with code 2."""
    try:
        yield
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
        typer.echo(f"tw-lens: {reason}", err=True)
    return chosen


def load(model: str | None, step: Report) -> Any:
    """Load a model from a folder or by name; the bundled one without a name.

    One line on standard error says so; bars and warnings of other libraries are dropped.
    """
    line = f"loading {model or 'the bundled SmolLM2'}\u2026"
    step(line)
    if not sys.stderr.isatty():
        typer.echo(line, err=True)
    with muted_libraries():
        from tw_lens.reading import load_model

        return load_model(model)
