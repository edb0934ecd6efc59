"""Commands on heads: norms, probes, spectra, atlas."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from tw_lens.cli.application import app
from tw_lens.cli.terminal import (
    Circuit,
    Convention,
    Distance,
    Head,
    K,
    Layer,
    Layers,
    Model,
    Readable,
    Report,
    ResultAndTable,
    Score,
    Vocabulary,
    parse_layers,
    read,
    read_vocabulary,
    table_command,
)


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

    _, weights, token_filter = read(model, step, readable)
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
    vocabulary: Vocabulary = "text",
    score: Score = "dot",
) -> ResultAndTable:
    """Probe tokens through the heads of a layer."""
    from tw_lens.analyses import common_nouns, head_probe

    loaded, weights, token_filter = read(model, step, readable)
    points = read_vocabulary(vocabulary, loaded, [layer], step, convention)
    step("Probing tokens")
    result = head_probe(
        weights, layer=layer, words=words or common_nouns(weights), circuit=circuit, k=k,
        convention=convention, head=head, distance=distance, token_filter=token_filter,
        vocabulary=points, score=score,
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
    vocabulary: Vocabulary = "text",
    score: Score = "dot",
) -> ResultAndTable:
    """List the singular directions of the heads of a layer, both sides as tokens."""
    from tw_lens.analyses import head_spectrum

    loaded, weights, token_filter = read(model, step, readable)
    points = read_vocabulary(vocabulary, loaded, [layer], step, convention)
    step("Computing singular directions")
    result = head_spectrum(
        weights, layer=layer, circuit=circuit, n=n, k=k, convention=convention, head=head,
        distance=distance, token_filter=token_filter,
        vocabulary=points, score=score,
    )  # fmt: skip
    return result, result.to_dataframe()


@app.command()
@table_command
def atlas(
    step: Report,
    model: Model = None,
    layers: Layers = "",
    circuit: Annotated[
        Literal["QK", "OV"] | None,
        typer.Option(help="Attention circuit: QK or OV (default: both)."),
    ] = None,
    word: Annotated[str, typer.Option(help="Only heads with a token that contains this.")] = "",
    n: Annotated[int, typer.Option("-n", help="Number of leading directions per head.")] = 1,
    k: K = 5,
    readable: Readable = False,
    vocabulary: Vocabulary = "text",
    score: Score = "dot",
) -> ResultAndTable:
    """List the leading directions of every head of a model, both sides as tokens."""
    from tw_lens.analyses import head_atlas

    loaded, weights, token_filter = read(model, step, readable)
    chosen = parse_layers(layers)
    heads = head_atlas(
        weights, layers=chosen, n=n, k=k, token_filter=token_filter,
        vocabulary=read_vocabulary(vocabulary, loaded, chosen, step), score=score,
        progress=step,
    )  # fmt: skip
    result = heads.only(circuit=circuit, word=word or None)
    return result, result.to_dataframe()
