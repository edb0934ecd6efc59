"""Commands on one prompt: the report page and the certificate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tw_lens.cli.application import app
from tw_lens.cli.options import MODEL_FORMAT, PROMPT, Model, Prompt, SomeLayers, Vocabulary
from tw_lens.cli.output import note
from tw_lens.cli.prompt_files import read_lines
from tw_lens.cli.selections import chosen_layers, parse_layers
from tw_lens.cli.terminal import (
    Report,
    ResultAndTable,
    load,
    progress,
    shared_options,
    table_command,
)


@app.command(epilog="Example: tw-lens report --layers 0,15,-1 -o report.html")
@shared_options()
def report(
    model: Model = None,
    prompt: Prompt = PROMPT,
    layers: SomeLayers = "",
    output: Annotated[Path, typer.Option("-o", "--output", help="File of the page.")] = Path(
        "report.html"
    ),
    method: Annotated[
        Literal["pca", "umap"], typer.Option("--projection", help="Projection method.")
    ] = "pca",
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", help="Text file, one prompt per line; adds a section on them."),
    ] = None,
    vocabulary: Vocabulary = "text",
) -> None:
    """Write one page on a prompt and the chosen layers; it opens offline."""
    with progress() as step:
        from tw_lens.canonical import load_vocabulary
        from tw_lens.files import require_writable
        from tw_lens.rendering import report as write_report

        require_writable(output)
        selection = parse_layers(layers)
        lines = None if prompts is None else read_lines(prompts)
        named = vocabulary in ("text", "embedding")
        loaded = load(model, step)
        chosen = chosen_layers(selection, len(loaded.blocks))
        path = write_report(
            loaded, output, prompt=prompt, layers=chosen, method=method, prompts=lines,
            vocabulary=vocabulary if named else load_vocabulary(vocabulary), progress=step,
        )  # fmt: skip
    note(f"The page is at {path.resolve()}", err=False)


@app.command(epilog='Example: tw-lens check --prompt "To kill two birds with one stone"')
@table_command
def check(
    step: Report,
    model: Model = None,
    prompt: Prompt = PROMPT,
    target: Annotated[
        str,
        typer.Option("--target", help="Of an encoder-decoder: what its decoder reads."),
    ] = "",
) -> ResultAndTable:
    """Compare the canonical form with the running model, quantity by quantity.

    Of an encoder-decoder both stacks, beside --prompt as the source and --target.
    """
    from tw_lens.reading import check as certify

    if target and any((MODEL_FORMAT.get() or {}).get(name) for name in ("stack", "source")):
        raise ValueError(
            "--target certifies both stacks beside --prompt as the source; leave --stack and "
            "--source out, or --target."
        )
    loaded = load(model, step, whole=bool(target))
    step("Comparing the canonical form with the model")
    certificate = certify(loaded, prompt, target or None)
    return certificate, certificate.to_dataframe()
