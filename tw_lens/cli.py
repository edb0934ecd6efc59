"""Command line: the report page, the certificate, and tables on the terminal or in files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tw_lens.terminal import (
    Checkpoint,
    Circuit,
    Convention,
    Direction,
    Distance,
    Head,
    K,
    Layer,
    Model,
    OneHead,
    Prompt,
    Prompts,
    Readable,
    Report,
    parse_layers,
    progress,
    read_lines,
    report_errors,
    table_command,
)

PROMPT = "To kill two birds with one stone"

app = typer.Typer(
    name="tw-lens", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Read a transformer's heads and trajectories. No MODEL: the bundled SmolLM2.",
)  # fmt: skip

ResultAndTable = tuple[Any, Any]


@app.command()
def report(
    model: Model = None,
    prompt: Prompt = PROMPT,
    layers: Annotated[
        str, typer.Option("--layers", help="Layers, e.g. 0,5,11 (default: first, middle, last).")
    ] = "",
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
) -> None:
    """Write one page on a prompt and the chosen layers; it opens offline."""
    with report_errors(), progress() as step:
        from tw_lens.files import require_writable
        from tw_lens.rendering import report as write_report

        require_writable(output)
        chosen, lines = parse_layers(layers), None if prompts is None else read_lines(prompts)
        path = write_report(
            _load(model, step), output, prompt=prompt, layers=chosen, method=method, prompts=lines,
            progress=step,
        )  # fmt: skip
    typer.echo(f"The page is at {path.resolve()}")


@app.command()
@table_command
def check(step: Report, model: Model = None, prompt: Prompt = PROMPT) -> ResultAndTable:
    """Compare the canonical form with the running model, quantity by quantity."""
    from tw_lens.reading import check as certify

    loaded = _load(model, step)
    step("Comparing the canonical form with the model")
    certificate = certify(loaded, prompt)
    return certificate, certificate.to_dataframe()


@app.command()
@table_command
def norms(
    step: Report,
    model: Model = None,
    scale: Annotated[bool, typer.Option(help="With the final norm's gain.")] = True,
    bias: Annotated[bool, typer.Option(help="With the biases.")] = True,
    convention: Convention = "exact",
    readable: Readable = False,
    k: K = 10,
) -> ResultAndTable:
    """List the tokens with the largest and the smallest norms under the final norm."""
    import pandas as pd

    from tw_lens.analyses import token_norms

    _, weights, token_filter = _read(model, step, readable)
    step("Computing the norms of all tokens")
    result = token_norms(
        weights, scale=scale, bias=bias, convention=convention, token_filter=token_filter
    )
    return result, pd.concat([result.top(k), result.bottom(k)])


@app.command()
@table_command
def probe(
    step: Report,
    model: Model = None,
    layer: Layer = 0,
    words: Annotated[
        list[str] | None,
        typer.Option("--word", "-w", help="Token to probe (repeatable); default: common nouns."),
    ] = None,
    circuit: Circuit = "QK",
    convention: Convention = "exact",
    head: Head = None,
    distance: Distance = 0,
    readable: Readable = False,
    k: K = 5,
) -> ResultAndTable:
    """Probe tokens through the heads of a layer."""
    from tw_lens.analyses import common_nouns, head_probe

    _, weights, token_filter = _read(model, step, readable)
    step("Probing tokens")
    result = head_probe(
        weights, layer=layer, words=words or common_nouns(weights), circuit=circuit, k=k,
        convention=convention, head=head, distance=distance, token_filter=token_filter,
    )  # fmt: skip
    return result, result.to_dataframe()


@app.command()
@table_command
def spectrum(
    step: Report,
    model: Model = None,
    layer: Layer = 0,
    circuit: Circuit = "QK",
    convention: Convention = "exact",
    head: Head = None,
    distance: Distance = 0,
    n: Annotated[int, typer.Option("-n", help="Number of leading directions.")] = 5,
    readable: Readable = False,
    k: K = 5,
) -> ResultAndTable:
    """List the singular directions of the heads of a layer, both sides as tokens."""
    from tw_lens.analyses import head_spectrum

    _, weights, token_filter = _read(model, step, readable)
    step("Computing singular directions")
    result = head_spectrum(
        weights, layer=layer, circuit=circuit, n=n, k=k, convention=convention, head=head,
        distance=distance, token_filter=token_filter,
    )  # fmt: skip
    return result, result.to_dataframe()


@app.command()
@table_command
def atlas(
    step: Report,
    model: Model = None,
    layers: Annotated[str, typer.Option(help="Layers, e.g. 0,5,11 (default: all).")] = "",
    circuit: Annotated[
        Literal["QK", "OV"] | None,
        typer.Option(help="Attention circuit: QK or OV (default: both)."),
    ] = None,
    word: Annotated[str, typer.Option(help="Only heads with a token that contains this.")] = "",
    n: Annotated[int, typer.Option("-n", help="Number of leading directions per head.")] = 1,
    k: K = 5,
    readable: Readable = False,
) -> ResultAndTable:
    """List the leading directions of every head of a model, both sides as tokens."""
    from tw_lens.analyses import head_atlas

    _, weights, token_filter = _read(model, step, readable)
    heads = head_atlas(
        weights, layers=parse_layers(layers), n=n, k=k, token_filter=token_filter, progress=step
    )
    result = heads.only(circuit=circuit, word=word or None)
    return result, result.to_dataframe()


@app.command()
@table_command
def trajectory(step: Report, model: Model = None, prompt: Prompt = PROMPT) -> ResultAndTable:
    """List the states of every position of a prompt: norms, angles, and their highest tokens."""
    from tw_lens.analyses import trajectory as measure_trajectory
    from tw_lens.reading import read_states, read_weights

    loaded = _load(model, step)
    step("Running the prompt")
    result = measure_trajectory(read_weights(loaded), read_states(loaded, prompt))
    return result, result.to_dataframe()


@app.command()
@table_command
def trajectory_statistics(
    step: Report, prompts: Prompts, model: Model = None, checkpoint: Checkpoint = None
) -> ResultAndTable:
    """Measure the trajectories of many prompts, with intervals and controls."""
    from tw_lens.studies import trajectory_statistics as study

    lines = read_lines(prompts)
    result = study(_load(model, step), lines, checkpoint=checkpoint, progress=step)
    return result, result.to_dataframe()


@app.command()
@table_command
def trajectory_alignment(
    step: Report, prompts: Prompts, model: Model = None, checkpoint: Checkpoint = None
) -> ResultAndTable:
    """Measure the angle between a state and its successor, with intervals and controls."""
    from tw_lens.studies import trajectory_alignment as study

    lines = read_lines(prompts)
    result = study(_load(model, step), lines, checkpoint=checkpoint, progress=step)
    return result, result.summary()


@app.command()
@table_command
def direction_ablation(
    step: Report,
    prompts: Prompts,
    layer: Layer,
    head: OneHead,
    model: Model = None,
    circuit: Circuit = "QK",
    n: Annotated[int, typer.Option("-n", help="Number of leading directions, one by one.")] = 20,
    readable: Readable = False,
    checkpoint: Checkpoint = None,
) -> ResultAndTable:
    """Measure the effect of ablating a head's directions, with random pieces as controls."""
    from tw_lens.studies import direction_ablation as study

    lines = read_lines(prompts)
    loaded, _, token_filter = _read(model, step, readable)
    result = study(
        loaded, lines, layer=layer, head=head, circuit=circuit, directions=range(n),
        token_filter=token_filter, checkpoint=checkpoint, progress=step,
    )  # fmt: skip
    return result, result.to_dataframe()


@app.command()
@table_command
def direction_examples(
    step: Report,
    prompts: Prompts,
    layer: Layer,
    head: OneHead,
    model: Model = None,
    circuit: Circuit = "QK",
    direction: Direction = 0,
    n: Annotated[int, typer.Option("-n", help="Number of examples per side.")] = 10,
    readable: Readable = False,
    checkpoint: Checkpoint = None,
) -> ResultAndTable:
    """Find the positions of the prompts with the highest projections on a direction of a head."""
    from tw_lens.studies import direction_examples as study

    lines = read_lines(prompts)
    loaded, _, token_filter = _read(model, step, readable)
    result = study(
        loaded, lines, layer=layer, head=head, circuit=circuit, direction=direction, n_examples=n,
        token_filter=token_filter, checkpoint=checkpoint, progress=step,
    )  # fmt: skip
    return result, result.to_dataframe()


def _read(model: str | None, step: Report, readable: bool) -> tuple[Any, Any, Any]:
    """Return the model, its weights, and the filter of readable tokens (or None)."""
    from tw_lens.analyses import token_filter
    from tw_lens.reading import read_weights

    loaded = _load(model, step)
    weights = read_weights(loaded)
    return loaded, weights, token_filter(weights) if readable else None


def _load(model: str | None, step: Report) -> Any:
    from tw_lens.reading import load_model

    step(f"Loading {model or 'the bundled SmolLM2'}")
    return load_model(model)


if __name__ == "__main__":
    app()
