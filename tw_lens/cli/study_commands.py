"""Commands on text: trajectories, layer vocabularies, and studies of many prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tw_lens.cli.application import app
from tw_lens.cli.terminal import (
    PROMPT,
    Checkpoint,
    Circuit,
    Direction,
    HeldOut,
    Layer,
    Layers,
    Model,
    OneHead,
    Prompt,
    Prompts,
    Readable,
    Report,
    ResultAndTable,
    load,
    parse_layers,
    progress,
    read,
    read_lines,
    read_vocabulary,
    report_errors,
    table_command,
    write_or_print,
)


@app.command()
@table_command
def trajectory(step: Report, model: Model = None, prompt: Prompt = PROMPT) -> ResultAndTable:
    """List the states of every position of a prompt: norms, angles, and their highest tokens."""
    from tw_lens.analyses import trajectory as measure_trajectory
    from tw_lens.reading import read_states, read_weights

    loaded = load(model, step)
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
    result = study(load(model, step), lines, checkpoint=checkpoint, progress=step)
    return result, result.to_dataframe()


@app.command()
@table_command
def trajectory_alignment(
    step: Report, prompts: Prompts, model: Model = None, checkpoint: Checkpoint = None
) -> ResultAndTable:
    """Measure the angle between a state and its successor, with intervals and controls."""
    from tw_lens.studies import trajectory_alignment as study

    lines = read_lines(prompts)
    result = study(load(model, step), lines, checkpoint=checkpoint, progress=step)
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
    loaded, _, token_filter = read(model, step, readable)
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
    loaded, _, token_filter = read(model, step, readable)
    result = study(
        loaded, lines, layer=layer, head=head, circuit=circuit, direction=direction, n_examples=n,
        token_filter=token_filter, checkpoint=checkpoint, progress=step,
    )  # fmt: skip
    return result, result.to_dataframe()


@app.command()
def vocabulary(
    prompts: Prompts,
    output: Annotated[Path, typer.Option("-o", "--output", help="File of the vocabulary.")],
    model: Model = None,
    layers: Layers = "",
    held_out: HeldOut = None,
    unseen: Annotated[
        Literal["predicted", "omitted"],
        typer.Option(help="Tokens that the prompts do not hold: predicted or omitted."),
    ] = "predicted",
    min_count: Annotated[int, typer.Option(help="Fewer positions count as unseen.")] = 1,
    checkpoint: Checkpoint = None,
) -> None:
    """Write the mean states of all tokens over text, layer by layer, for --vocabulary."""
    with report_errors(), progress() as step:
        from tw_lens.files import require_writable
        from tw_lens.studies import layer_vocabulary

        require_writable(output)
        lines = read_lines(prompts)
        made = layer_vocabulary(
            load(model, step), layers=parse_layers(layers), prompts=lines,
            held_out=None if held_out is None else read_lines(held_out), unseen=unseen,
            min_count=min_count, checkpoint=checkpoint, progress=step,
        )  # fmt: skip
        made.save(output)
    typer.echo(f"{made}\nWritten: {output}")


@app.command()
@table_command
def faithfulness(
    step: Report,
    prompts: Prompts,
    model: Model = None,
    layers: Layers = "",
    vocabulary: Annotated[
        list[str] | None,
        typer.Option(
            "--vocabulary",
            help="text, alone, embedding or a file (repeatable; default: text and embedding).",
        ),
    ] = None,
) -> ResultAndTable:
    """Measure how well token points predict the scores and writes of every head in text."""
    from tw_lens.studies import faithfulness as study
    from tw_lens.studies import layer_vocabulary

    lines, chosen, loaded = read_lines(prompts), parse_layers(layers), load(model, step)
    points = []
    for option in vocabulary or ["text", "embedding"]:
        if option in ("alone", "embedding"):
            made = layer_vocabulary(loaded, layers=chosen, source=option, progress=step)
        else:
            made = read_vocabulary(option, loaded, chosen, step)
        points += [] if made is None else [made]
    result = study(loaded, lines, vocabulary=points, layers=chosen, progress=step)
    return result, result.by_layer()


@app.command()
def sweep(
    models: Annotated[
        list[str], typer.Argument(help="Folders, or model names that TransformerLens knows.")
    ],
    measures: Annotated[
        str, typer.Option(help="Measures with commas between them.")
    ] = "spectra,faithfulness,kinds,travel",
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="File of the table: .csv, .json, .parquet, .tex or .md (default: a summary).",
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", help="Text file, one prompt per line (default: 32 sentences)."),
    ] = None,
    n_jobs: Annotated[
        int | None, typer.Option(help="Workers, each with a model; -1 for one per core.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint", help="Folder to save the sweep in; rerun with the same one to resume."
        ),
    ] = None,
) -> None:
    """Measure every layer of many models, or of the checkpoints of a training run."""
    with report_errors():
        with progress() as step:
            from tw_lens.files import require_writable
            from tw_lens.rendering import table_format
            from tw_lens.studies import sweep as study

            if output is not None:
                table_format(output)
                require_writable(output)
            chosen: Any = [part.strip() for part in measures.split(",")]
            result = study(
                models, measures=chosen, n_jobs=n_jobs, checkpoint=checkpoint, progress=step,
                prompts=None if prompts is None else read_lines(prompts),
            )  # fmt: skip
        if output is None:
            write_or_print(result, result.summary(), {})
        else:
            write_or_print(result, result.to_dataframe(), {table_format(output): output})
