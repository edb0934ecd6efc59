"""The command line: the page, the certificate, and tables on the terminal or in files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tw_lens.terminal import layers as numbers
from tw_lens.terminal import lines, progress, refusals, tabled

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
Offset = Annotated[int, typer.Option(help="Distance back to the key (QK, rotary models).")]
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
Sentences = Annotated[Path, typer.Option(help="A text file, one prompt a line.")]
Kept = Annotated[
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
    sentences: Annotated[
        Path | None, typer.Option(help="A text file, one prompt a line, for a section on them.")
    ] = None,
) -> None:
    """Everything for chosen layers and a prompt, on one page that opens offline."""
    with refusals(), progress() as say:
        from tw_lens.files import require_writable
        from tw_lens.rendering import report as write_report

        require_writable(output)
        chosen = numbers(layers)
        many = None if sentences is None else lines(sentences)
        path = write_report(
            _load(model, say),
            output,
            prompt=prompt,
            layers=chosen,
            method=method,
            sentences=many,
            progress=say,
        )
    typer.echo(f"The page is at {path.resolve()}")


@app.command()
@tabled
def check(say: Say, model: Model = None, prompt: Prompt = PROMPT) -> Tabled:
    """The certificate: does the canonical form compute what the model computes?"""
    from tw_lens.reading import check as certify

    loaded = _load(model, say)
    say("Certifying")
    certificate = certify(loaded, prompt)
    return certificate, certificate.to_dataframe()


@app.command()
@tabled
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
    say("Scoring every token")
    among = _readable(weights, readable)
    result = token_norms(weights, scale=scale, bias=bias, convention=convention, among=among)
    return result, pd.concat([result.top(k), result.bottom(k)])


@app.command()
@tabled
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
    offset: Offset = 0,
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
        offset=offset,
        among=_readable(weights, readable),
    )
    return result, result.to_dataframe()


@app.command()
@tabled
def spectrum(
    say: Say,
    model: Model = None,
    layer: Layer = 0,
    circuit: Circuit = "QK",
    convention: Convention = "exact",
    head: Head = None,
    offset: Offset = 0,
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
        offset=offset,
        among=_readable(weights, readable),
    )
    return result, result.to_dataframe()


@app.command()
@tabled
def atlas(
    say: Say,
    model: Model = None,
    layers: Annotated[str, typer.Option(help="Blocks, as 0,5,11 (default: all).")] = "",
    n: Annotated[int, typer.Option("-n", help="Leading directions per head.")] = 1,
    k: K = 5,
    readable: Readable = False,
) -> Tabled:
    """Every head of a model: what W_QK and W_OV connect, both sides as words."""
    from tw_lens.analyses import head_atlas

    weights = _weights(model, say)
    among = _readable(weights, readable)
    result = head_atlas(weights, layers=numbers(layers), n=n, k=k, among=among, progress=say)
    return result, result.to_dataframe()


@app.command()
@tabled
def trajectory(say: Say, model: Model = None, prompt: Prompt = PROMPT) -> Tabled:
    """The path of every position of a prompt: norms, angles, and what each state reads as."""
    from tw_lens.analyses import trajectory as travel
    from tw_lens.reading import read_states, read_weights

    loaded = _load(model, say)
    say("Travelling")
    result = travel(read_weights(loaded), read_states(loaded, prompt))
    return result, result.to_dataframe()


@app.command()
@tabled
def statistics(say: Say, sentences: Sentences, model: Model = None, kept: Kept = None) -> Tabled:
    """Many prompts travelling: every measure at every layer, with intervals and controls."""
    from tw_lens.studies import trajectory_statistics

    prompts = lines(sentences)
    result = trajectory_statistics(_load(model, say), prompts, kept=kept, progress=say)
    return result, result.to_dataframe()


@app.command()
@tabled
def approach(say: Say, sentences: Sentences, model: Model = None, kept: Kept = None) -> Tabled:
    """Does a word approach what follows it? Over many prompts, with intervals and controls."""
    from tw_lens.studies import approach as study

    prompts = lines(sentences)
    result = study(_load(model, say), prompts, kept=kept, progress=say)
    return result, result.summary()


@app.command()
@tabled
def effect(
    say: Say,
    sentences: Sentences,
    layer: Layer,
    head: Annotated[int, typer.Option("--head", help="Which head.")],
    model: Model = None,
    circuit: Circuit = "QK",
    n: Annotated[int, typer.Option("-n", help="Leading directions, taken out one by one.")] = 20,
) -> Tabled:
    """What changes when directions of a head are taken out of the running model, with controls."""
    from tw_lens.studies import direction_effect as study

    prompts, tried = lines(sentences), range(n)
    asked = {"layer": layer, "head": head, "circuit": circuit, "directions": tried}
    result = study(_load(model, say), prompts, **asked, progress=say)
    return result, result.to_dataframe()


def _weights(model: str | None, say: Say) -> Any:
    from tw_lens.reading import read_weights

    return read_weights(_load(model, say))


def _readable(weights: Any, readable: bool) -> Any:
    from tw_lens.analyses import word_filter

    return word_filter(weights) if readable else None


def _load(model: str | None, say: Say) -> Any:
    from tw_lens.reading import load_model

    say(f"Loading {model or 'the bundled SmolLM2'}")
    return load_model(model)


if __name__ == "__main__":
    app()
