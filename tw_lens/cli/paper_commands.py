"""The command that writes the paper's tables and figures into a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tw_lens.cli.application import app
from tw_lens.cli.terminal import (
    PROMPT,
    K,
    Model,
    Prompt,
    load,
    parse_layers,
    progress,
    report_errors,
)


@app.command()
def paper(
    model: Model = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="New or empty folder for the files.")
    ] = Path("paper"),
    prompt: Prompt = PROMPT,
    layers: Annotated[
        str, typer.Option("--layers", help="Layers, e.g. 0,5,11 (default: first, middle, last).")
    ] = "",
    words: Annotated[
        list[str] | None,
        typer.Option("--word", "-w", help="Token to probe (repeatable); default: common nouns."),
    ] = None,
    n: Annotated[int, typer.Option("-n", help="Number of leading singular vectors.")] = 20,
    k: K = 5,
    method: Annotated[
        Literal["pca", "umap"] | None,
        typer.Option("--projection", help="Projection method (default: both)."),
    ] = None,
) -> None:
    """Write every table and figure of the paper for a model into a folder."""
    with report_errors(), progress() as step:
        from tw_lens.analyses.projection import METHODS
        from tw_lens.files import require_new_folder
        from tw_lens.rendering import paper_tables

        require_new_folder(output)
        result = paper_tables(
            load(model, step), output, prompt=prompt, layers=parse_layers(layers), words=words,
            n=n, k=k, methods=[method] if method else METHODS, progress=step,
        )  # fmt: skip
    typer.echo(repr(result))
    for sentence in result.refused:
        typer.echo(f"Not defined: {sentence}")
    typer.echo(f"The index is at {(output / 'README.md').resolve()}")
