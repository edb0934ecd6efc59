"""The command that writes the paper's tables and figures into a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tw_lens.cli.application import app
from tw_lens.cli.options import PROMPT, K, Model, Prompt, SomeLayers
from tw_lens.cli.output import note
from tw_lens.cli.selections import chosen_layers, parse_layers
from tw_lens.cli.terminal import load, progress, shared_options


@app.command(epilog="Example: tw-lens paper --layers 0,15,-1 --projection pca -o paper")
@shared_options()
def paper(
    model: Model = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="New or empty folder for the files.")
    ] = Path("paper"),
    prompt: Prompt = PROMPT,
    layers: SomeLayers = "",
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
    with progress() as step:
        from tw_lens.analyses.projection import METHODS
        from tw_lens.files import require_new_folder
        from tw_lens.rendering import paper_tables

        require_new_folder(output)
        selection = parse_layers(layers)
        loaded = load(model, step)
        result = paper_tables(
            loaded, output, prompt=prompt, words=words, n=n, k=k, progress=step,
            layers=chosen_layers(selection, len(loaded.blocks)),
            methods=[method] if method else METHODS,
        )  # fmt: skip
    note(f"{result.headline()}.", err=False)
    for sentence in result.refused:
        note(f"Not defined: {sentence}", err=False)
    note(f"The index is at {(output / 'README.md').resolve()}", err=False)
