"""Commands on text: trajectories, layer vocabularies, and studies of many prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tw_lens.cli.application import app
from tw_lens.cli.muted_streams import muted_libraries
from tw_lens.cli.options import (
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
)
from tw_lens.cli.output import note, write_or_print
from tw_lens.cli.prompt_files import read_lines
from tw_lens.cli.selections import chosen_layers, nth_layer, parse_layers_or_all, parse_one_head
from tw_lens.cli.terminal import (
    Report,
    ResultAndTable,
    announce,
    load,
    progress,
    read,
    read_vocabulary,
    shared_options,
    table_command,
)


@app.command(epilog='Example: tw-lens trajectory --prompt "To kill two birds with one stone"')
@table_command
def trajectory(step: Report, model: Model = None, prompt: Prompt = PROMPT) -> ResultAndTable:
    """List the states of every position of a prompt: norms, angles, and their highest tokens."""
    from tw_lens.analyses import trajectory as measure_trajectory
    from tw_lens.reading import read_states, read_weights

    loaded = load(model, step)
    step("Running the prompt")
    result = measure_trajectory(read_weights(loaded), read_states(loaded, prompt))
    return result, result.to_dataframe()


@app.command(epilog="Example: tw-lens trajectory-statistics --prompts prompts.txt --csv table.csv")
@table_command
def trajectory_statistics(
    step: Report, prompts: Prompts, model: Model = None, checkpoint: Checkpoint = None
) -> ResultAndTable:
    """Measure the trajectories of many prompts, with intervals and controls."""
    from tw_lens.studies import trajectory_statistics as study

    lines = read_lines(prompts)
    result = study(load(model, step), lines, checkpoint=checkpoint, progress=step)
    return result, result.to_dataframe()


@app.command(epilog="Example: tw-lens trajectory-alignment --prompts prompts.txt --csv table.csv")
@table_command
def trajectory_alignment(
    step: Report, prompts: Prompts, model: Model = None, checkpoint: Checkpoint = None
) -> ResultAndTable:
    """Measure the angle between a state and its successor, with intervals and controls."""
    from tw_lens.studies import trajectory_alignment as study

    lines = read_lines(prompts)
    result = study(load(model, step), lines, checkpoint=checkpoint, progress=step)
    return result, result.summary()


@app.command(epilog="Example: tw-lens direction-ablation --head L5H1 --prompts prompts.txt -n 4")
@table_command
def direction_ablation(
    step: Report,
    prompts: Prompts,
    head: OneHead,
    layer: Layer = None,
    model: Model = None,
    circuit: Circuit = "QK",
    n: Annotated[int, typer.Option("-n", help="Number of leading directions, one by one.")] = 20,
    readable: Readable = False,
    checkpoint: Checkpoint = None,
) -> ResultAndTable:
    """Measure the effect of ablating a head's directions, with random pieces as controls."""
    from tw_lens.studies import direction_ablation as study

    lines = read_lines(prompts)
    typed_layer, index = parse_one_head(head, layer)
    loaded, weights, token_filter = read(model, step, readable)
    result = study(
        loaded, lines, layer=nth_layer(typed_layer, weights.n_layers), head=index,
        circuit=circuit, directions=range(n),
        token_filter=token_filter, checkpoint=checkpoint, progress=step,
    )  # fmt: skip
    return result, result.to_dataframe()


@app.command(epilog="Example: tw-lens direction-examples --head L5H1 --prompts prompts.txt")
@table_command
def direction_examples(
    step: Report,
    prompts: Prompts,
    head: OneHead,
    layer: Layer = None,
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
    typed_layer, index = parse_one_head(head, layer)
    loaded, weights, token_filter = read(model, step, readable)
    result = study(
        loaded, lines, layer=nth_layer(typed_layer, weights.n_layers), head=index,
        circuit=circuit, direction=direction, n_examples=n,
        token_filter=token_filter, checkpoint=checkpoint, progress=step,
    )  # fmt: skip
    return result, result.to_dataframe()


@app.command(
    epilog="Example: tw-lens vocabulary --prompts prompts.txt --layers 5 -o points.safetensors"
)
@shared_options()
def vocabulary(
    prompts: Prompts,
    output: Annotated[Path, typer.Option("-o", "--output", help="File of the vocabulary.")],
    model: Model = None,
    layers: Layers = "all",
    held_out: HeldOut = None,
    unseen: Annotated[
        Literal["predicted", "omitted"],
        typer.Option(
            case_sensitive=False, help="Tokens that the prompts do not hold: predicted or omitted."
        ),
    ] = "predicted",
    min_count: Annotated[int, typer.Option(help="Fewer positions count as unseen.")] = 1,
    checkpoint: Checkpoint = None,
) -> None:
    """Write the mean states of all tokens over text, layer by layer, for --vocabulary."""
    with progress() as step:
        from tw_lens.files import require_writable
        from tw_lens.studies import layer_vocabulary

        require_writable(output)
        lines, selection = read_lines(prompts), parse_layers_or_all(layers)
        others = None if held_out is None else read_lines(held_out)
        loaded = load(model, step)
        made = layer_vocabulary(
            loaded, prompts=lines, held_out=others, unseen=unseen,
            layers=chosen_layers(selection, len(loaded.blocks)),
            min_count=min_count, checkpoint=checkpoint, progress=step,
        )  # fmt: skip
        made.save(output)
    note(f"{made}\nWritten: {output}", err=False)


@app.command(epilog="Example: tw-lens faithfulness --prompts prompts.txt --layers 0,5,-1")
@table_command
def faithfulness(
    step: Report,
    prompts: Prompts,
    model: Model = None,
    layers: Layers = "all",
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

    lines, selection = read_lines(prompts), parse_layers_or_all(layers)
    loaded = load(model, step)
    chosen = chosen_layers(selection, len(loaded.blocks))
    points = []
    for option in vocabulary or ["text", "embedding"]:
        if option in ("alone", "embedding"):
            made = layer_vocabulary(loaded, layers=chosen, source=option, progress=step)
        else:
            made = read_vocabulary(option, loaded, chosen, step)
        points += [] if made is None else [made]
    result = study(loaded, lines, vocabulary=points, layers=chosen, progress=step)
    return result, result.by_layer()


@app.command(
    epilog="Example: tw-lens sweep gpt2 distilgpt2 --measures spectra,travel "
    "--prompts prompts.txt -o table.csv"
)
@shared_options("quiet")
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
    from tw_lens.files import require_writable
    from tw_lens.rendering import table_format
    from tw_lens.results.base import plural

    if output is not None:
        table_format(output)
        require_writable(output)
    lines = None if prompts is None else read_lines(prompts)
    chosen: Any = [part.strip() for part in measures.split(",")]
    with progress() as step:
        announce(f"measuring {plural(len(models), 'model')}\u2026", step)
        with muted_libraries():
            from tw_lens.studies import sweep as study

            result = study(
                models, measures=chosen, n_jobs=n_jobs, checkpoint=checkpoint, progress=step,
                prompts=lines,
            )  # fmt: skip
    if output is None:
        write_or_print(result, result.summary(), {})
    else:
        write_or_print(result, result.to_dataframe(), {table_format(output): output})
