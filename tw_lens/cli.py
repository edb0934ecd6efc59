"""The command line: the page, the certificate, and tables on the terminal or in files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tw_lens.terminal import parse_layers, progress, read_lines, report_errors, table_command

PROMPT = "To kill two birds with one stone"

app = typer.Typer(
    name="tw-lens",
    help="How words travel through a transformer. With no MODEL: the bundled SmolLM2.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Say = Callable[[str], None]
Tabled = tuple[Any, Any]
Model = Annotated[
    str | None,
    typer.Argument(help="A folder or a name TransformerLens knows; none: the bundled SmolLM2."),
]
Prompt = Annotated[str, typer.Option("--prompt", "-p", help="The text to run.")]
Layer = Annotated[int, typer.Option("--layer", "-l", help="Which block.")]
Distance = Annotated[int, typer.Option(help="Distance back to the key (QK, rotary models).")]
Head = Annotated[int | None, typer.Option("--head", help="One head (default: all).")]
Circuit = Annotated[Literal["QK", "OV"], typer.Option("--circuit", help="Which map.")]
Convention = Annotated[
    Literal["exact", "published"], typer.Option("--convention", help="Whose arithmetic.")
]
K = Annotated[int, typer.Option("-k", help="Words per list.")]
Readable = Annotated[
    bool,
    typer.Option(
        "--readable",
        help="List whole words only: no fragments, no special or never-trained tokens.",
    ),
]
Prompts = Annotated[Path, typer.Option(help="A text file, one prompt a line.")]
Checkpoint = Annotated[
    Path | None, typer.Option(help="A file to keep the study in: named again, it goes on.")
]


@app.command()
def report(
    model: Model = None,
    prompt: Prompt = PROMPT,
    layers: Annotated[
        str, typer.Option("--layers", help="Blocks, as 0,5,11 (default: first, middle, last).")
    ] = "",
    output: Annotated[Path, typer.Option("-o", "--output", help="The page.")] = Path("report.html"),
    method: Annotated[Literal["pca", "umap"], typer.Option("--map", help="The drawing.")] = "pca",
    prompts: Annotated[
        Path | None, typer.Option(help="A text file, one prompt a line, for a section on them.")
    ] = None,
) -> None:
    """Everything for chosen layers and a prompt, on one page that opens offline."""
    with report_errors(), progress() as say:
        from tw_lens.files import require_writable
        from tw_lens.rendering import report as write_report

        require_writable(output)
        chosen = parse_layers(layers)
        many = None if prompts is None else read_lines(prompts)
        path = write_report(
            _load(model, say),
            output,
            prompt=prompt,
            layers=chosen,
            method=method,
            prompts=many,
            progress=say,
        )
    typer.echo(f"The page is at {path.resolve()}")


@app.command()
@table_command
def check(say: Say, model: Model = None, prompt: Prompt = PROMPT) -> Tabled:
    """The certificate: does the canonical form compute what the model computes?"""
    from tw_lens.reading import check as certify

    loaded = _load(model, say)
    say("Certifying")
    certificate = certify(loaded, prompt)
    return certificate, certificate.to_dataframe()


@app.command()
@table_command
def norms(
    say: Say,
    model: Model = None,
    scale: Annotated[bool, typer.Option(help="With the final norm's gain.")] = True,
    bias: Annotated[bool, typer.Option(help="With the biases.")] = True,
    convention: Convention = "exact",
    readable: Readable = False,
    k: K = 10,
) -> Tabled:
    """The loudest and the quietest tokens under the final norm."""
    import pandas as pd

    from tw_lens.analyses import token_norms

    weights = _weights(model, say)
    say("AttentionScores every token")
    token_filter = _readable(weights, readable)
    result = token_norms(
        weights, scale=scale, bias=bias, convention=convention, token_filter=token_filter
    )
    return result, pd.concat([result.top(k), result.bottom(k)])


@app.command()
@table_command
def probe(
    say: Say,
    model: Model = None,
    layer: Layer = 0,
    words: Annotated[
        list[str] | None,
        typer.Option("--word", "-w", help="A word (repeatable); default: common nouns."),
    ] = None,
    circuit: Circuit = "QK",
    convention: Convention = "exact",
    head: Head = None,
    distance: Distance = 0,
    readable: Readable = False,
    k: K = 5,
) -> Tabled:
    """Words probed through the heads of a layer."""
    from tw_lens.analyses import common_nouns, head_probe

    weights = _weights(model, say)
    say("Probing")
    result = head_probe(
        weights,
        layer=layer,
        words=words or common_nouns(weights),
        circuit=circuit,
        k=k,
        convention=convention,
        head=head,
        distance=distance,
        token_filter=_readable(weights, readable),
    )
    return result, result.to_dataframe()


@app.command()
@table_command
def spectrum(
    say: Say,
    model: Model = None,
    layer: Layer = 0,
    circuit: Circuit = "QK",
    convention: Convention = "exact",
    head: Head = None,
    distance: Distance = 0,
    n: Annotated[int, typer.Option("-n", help="Leading directions to read.")] = 5,
    readable: Readable = False,
    k: K = 5,
) -> Tabled:
    """Singular directions of the heads of a layer, both sides as words."""
    from tw_lens.analyses import head_spectrum

    weights = _weights(model, say)
    say("Decomposing")
    result = head_spectrum(
        weights,
        layer=layer,
        circuit=circuit,
        n=n,
        k=k,
        convention=convention,
        head=head,
        distance=distance,
        token_filter=_readable(weights, readable),
    )
    return result, result.to_dataframe()


@app.command()
@table_command
def atlas(
    say: Say,
    model: Model = None,
    layers: Annotated[str, typer.Option(help="Blocks, as 0,5,11 (default: all).")] = "",
    circuit: Annotated[Literal["QK", "OV"] | None, typer.Option(help="Only one map.")] = None,
    word: Annotated[str, typer.Option(help="Only heads with a word that holds this.")] = "",
    n: Annotated[int, typer.Option("-n", help="Leading directions per head.")] = 1,
    k: K = 5,
    readable: Readable = False,
) -> Tabled:
    """Every head of a model: what W_QK and W_OV connect, both sides as words."""
    from tw_lens.analyses import head_atlas

    weights = _weights(model, say)
    token_filter = _readable(weights, readable)
    found = head_atlas(
        weights, layers=parse_layers(layers), n=n, k=k, token_filter=token_filter, progress=say
    )
    result = found.only(circuit=circuit, word=word or None)
    return result, result.to_dataframe()


@app.command()
@table_command
def trajectory(say: Say, model: Model = None, prompt: Prompt = PROMPT) -> Tabled:
    """The path of every position of a prompt: norms, angles, and what each state reads as."""
    from tw_lens.analyses import trajectory as travel
    from tw_lens.reading import read_states, read_weights

    loaded = _load(model, say)
    say("Travelling")
    result = travel(read_weights(loaded), read_states(loaded, prompt))
    return result, result.to_dataframe()


@app.command()
@table_command
def trajectory_statistics(
    say: Say, prompts: Prompts, model: Model = None, checkpoint: Checkpoint = None
) -> Tabled:
    """Many prompts travelling: every measure at every layer, with intervals and controls."""
    from tw_lens.studies import trajectory_statistics as study

    prompts = read_lines(prompts)
    result = study(_load(model, say), prompts, checkpoint=checkpoint, progress=say)
    return result, result.to_dataframe()


@app.command()
@table_command
def trajectory_alignment(
    say: Say, prompts: Prompts, model: Model = None, checkpoint: Checkpoint = None
) -> Tabled:
    """Does a word approach what follows it? Over many prompts, with intervals and controls."""
    from tw_lens.studies import trajectory_alignment as study

    prompts = read_lines(prompts)
    result = study(_load(model, say), prompts, checkpoint=checkpoint, progress=say)
    return result, result.summary()


@app.command()
@table_command
def direction_ablation(
    say: Say,
    prompts: Prompts,
    layer: Layer,
    head: Annotated[int, typer.Option("--head", help="Which head.")],
    model: Model = None,
    circuit: Circuit = "QK",
    n: Annotated[int, typer.Option("-n", help="Leading directions, taken out one by one.")] = 20,
) -> Tabled:
    """What changes when directions of a head are taken out of the running model, with controls."""
    from tw_lens.studies import direction_ablation as study

    prompts, tried = read_lines(prompts), range(n)
    asked = {"layer": layer, "head": head, "circuit": circuit, "directions": tried}
    result = study(_load(model, say), prompts, **asked, progress=say)
    return result, result.to_dataframe()


def _weights(model: str | None, say: Say) -> Any:
    from tw_lens.reading import read_weights

    return read_weights(_load(model, say))


def _readable(weights: Any, readable: bool) -> Any:
    from tw_lens.analyses import token_filter as token_filter

    return token_filter(weights) if readable else None


def _load(model: str | None, say: Say) -> Any:
    from tw_lens.reading import load_model

    say(f"Loading {model or 'the bundled SmolLM2'}")
    return load_model(model)


if __name__ == "__main__":
    app()
