"""Commands on heads: norms, probes, spectra, atlas."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from tw_lens.cli.application import app
from tw_lens.cli.options import (
    Circuit,
    Convention,
    Distance,
    Head,
    K,
    Layer,
    Layers,
    Model,
    Readable,
    Score,
    Vocabulary,
)
from tw_lens.cli.selections import chosen_layers, nth_layer, parse_head, parse_layers_or_all
from tw_lens.cli.terminal import (
    Report,
    ResultAndTable,
    read,
    read_vocabulary,
    table_command,
    words_of,
)


@app.command(epilog="Example: tw-lens norms -k 5 --readable")
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


@app.command(epilog="Example: tw-lens probe --head L5H1 --circuit OV --word bird --word stone")
@table_command
def probe(
    step: Report,
    model: Model = None,
    layer: Layer = None,
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
    """Probe tokens through the heads of a layer (default: 0)."""
    from tw_lens.analyses import common_nouns, head_probe

    typed_layer, one_head = parse_head(head, layer)
    loaded, weights, token_filter = read(model, step, readable)
    chosen = nth_layer(typed_layer or 0, weights.n_layers)
    tokens = words_of(words, weights) if words else common_nouns(weights)
    points = read_vocabulary(vocabulary, loaded, [chosen], step, convention)
    step("Probing tokens")
    result = head_probe(
        weights, layer=chosen, words=tokens, circuit=circuit, k=k,
        convention=convention, head=one_head, distance=distance, token_filter=token_filter,
        vocabulary=points, score=score,
    )  # fmt: skip
    return result, result.to_dataframe()


@app.command(epilog="Example: tw-lens spectrum --head L27H5 --circuit OV -n 3")
@table_command
def spectrum(
    step: Report,
    model: Model = None,
    layer: Layer = None,
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
    """List the singular directions of the heads of a layer (default: 0), both sides as tokens."""
    from tw_lens.analyses import head_spectrum

    typed_layer, one_head = parse_head(head, layer)
    loaded, weights, token_filter = read(model, step, readable)
    chosen = nth_layer(typed_layer or 0, weights.n_layers)
    points = read_vocabulary(vocabulary, loaded, [chosen], step, convention)
    step("Computing singular directions")
    result = head_spectrum(
        weights, layer=chosen, circuit=circuit, n=n, k=k, convention=convention, head=one_head,
        distance=distance, token_filter=token_filter,
        vocabulary=points, score=score,
    )  # fmt: skip
    return result, result.to_dataframe()


@app.command(epilog="Example: tw-lens atlas --layers 27 --circuit OV --word myself")
@table_command
def atlas(
    step: Report,
    model: Model = None,
    layers: Layers = "all",
    circuit: Annotated[
        Literal["QK", "OV"] | None,
        typer.Option(case_sensitive=False, help="Attention circuit: QK or OV (default: both)."),
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

    selection = parse_layers_or_all(layers)
    loaded, weights, token_filter = read(model, step, readable)
    chosen = chosen_layers(selection, weights.n_layers)
    heads = head_atlas(
        weights, layers=chosen, n=n, k=k, token_filter=token_filter,
        vocabulary=read_vocabulary(vocabulary, loaded, chosen, step), score=score,
        progress=step,
    )  # fmt: skip
    result = heads.only(circuit=circuit, word=word or None)
    return result, result.to_dataframe()
