"""The command line: the page, the certificate, and tables on the terminal or in files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tw_lens.terminal import layers as numbers
from tw_lens.terminal import progress, refusals, show

PROMPT = "To kill two birds with one stone"
FAILED = 1

app = typer.Typer(
    name="tw-lens",
    help="How words travel through a transformer. With no MODEL: the bundled SmolLM2.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

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
Csv = Annotated[Path | None, typer.Option("--csv", help="Write the table as CSV.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write the table as JSON.")]
Parquet = Annotated[Path | None, typer.Option("--parquet", help="Write the table as Parquet.")]
Latex = Annotated[Path | None, typer.Option("--latex", help="Write the table as LaTeX.")]
Markdown = Annotated[Path | None, typer.Option(help="Write the table as Markdown.")]


@app.command()
def report(
    model: Model = None,
    prompt: Prompt = PROMPT,
    layers: Annotated[
        str, typer.Option("--layers", help="Blocks, as 0,5,11 (default: first, middle, last).")
    ] = "",
    output: Annotated[Path, typer.Option("-o", "--output", help="The page.")] = Path("report.html"),
    method: Annotated[Literal["pca", "umap"], typer.Option("--map", help="The drawing.")] = "pca",
) -> None:
    """Everything for chosen layers and a prompt, on one page that opens offline."""
    with refusals(), progress() as say:
        from tw_lens.files import require_writable
        from tw_lens.rendering import report as write_report

        require_writable(output)
        chosen = numbers(layers)
        loaded = _load(model, say)
        path = write_report(
            loaded, output, prompt=prompt, layers=chosen, method=method, progress=say
        )
    typer.echo(f"The page is at {path.resolve()}")


@app.command()
def check(
    model: Model = None,
    prompt: Prompt = PROMPT,
    csv: Csv = None,
    json: Json = None,
    parquet: Parquet = None,
    latex: Latex = None,
    markdown: Markdown = None,
) -> None:
    """The certificate: does the canonical form compute what the model computes?"""
    with refusals():
        with progress() as say:
            from tw_lens.reading import check as certify

            loaded = _load(model, say)
            say("Certifying")
            certificate = certify(loaded, prompt)
        table = certificate.to_dataframe()
        show(certificate, table, (csv, json, parquet, latex, markdown))
    if not certificate.passed:
        raise typer.Exit(FAILED)


@app.command()
def norms(
    model: Model = None,
    scale: Annotated[bool, typer.Option(help="With the final norm's gain.")] = True,
    bias: Annotated[bool, typer.Option(help="With the biases.")] = True,
    convention: Convention = "exact",
    readable: Readable = False,
    k: K = 10,
    csv: Csv = None,
    json: Json = None,
    parquet: Parquet = None,
    latex: Latex = None,
    markdown: Markdown = None,
) -> None:
    """The loudest and the quietest tokens under the final norm."""
    with refusals():
        with progress() as say:
            import pandas as pd

            from tw_lens.analyses import token_norms

            weights = _weights(model, say)
            say("Scoring every token")
            result = token_norms(
                weights,
                scale=scale,
                bias=bias,
                convention=convention,
                among=_readable(weights, readable),
            )
            table = pd.concat([result.top(k), result.bottom(k)])
        show(result, table, (csv, json, parquet, latex, markdown))


@app.command()
def probe(
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
    csv: Csv = None,
    json: Json = None,
    parquet: Parquet = None,
    latex: Latex = None,
    markdown: Markdown = None,
) -> None:
    """Words probed through the heads of a layer."""
    with refusals():
        with progress() as say:
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
        show(result, result.to_dataframe(), (csv, json, parquet, latex, markdown))


@app.command()
def spectrum(
    model: Model = None,
    layer: Layer = 0,
    circuit: Circuit = "QK",
    convention: Convention = "exact",
    head: Head = None,
    offset: Offset = 0,
    n: Annotated[int, typer.Option("-n", help="Leading directions to read.")] = 5,
    readable: Readable = False,
    k: K = 5,
    csv: Csv = None,
    json: Json = None,
    parquet: Parquet = None,
    latex: Latex = None,
    markdown: Markdown = None,
) -> None:
    """Singular directions of the heads of a layer, both sides as words."""
    with refusals():
        with progress() as say:
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
        show(result, result.to_dataframe(), (csv, json, parquet, latex, markdown))


@app.command()
def atlas(
    model: Model = None,
    layers: Annotated[str, typer.Option(help="Blocks, as 0,5,11 (default: all).")] = "",
    n: Annotated[int, typer.Option("-n", help="Leading directions per head.")] = 1,
    k: K = 5,
    readable: Readable = False,
    csv: Csv = None,
    json: Json = None,
    parquet: Parquet = None,
    latex: Latex = None,
    markdown: Markdown = None,
) -> None:
    """Every head of a model: what W_QK and W_OV connect, both sides as words."""
    with refusals():
        with progress() as say:
            from tw_lens.analyses import head_atlas

            weights = _weights(model, say)
            among = _readable(weights, readable)
            result = head_atlas(
                weights, layers=numbers(layers), n=n, k=k, among=among, progress=say
            )
        show(result, result.to_dataframe(), (csv, json, parquet, latex, markdown))


@app.command()
def trajectory(
    model: Model = None,
    prompt: Prompt = PROMPT,
    csv: Csv = None,
    json: Json = None,
    parquet: Parquet = None,
    latex: Latex = None,
    markdown: Markdown = None,
) -> None:
    """The path of every position of a prompt: norms, angles, and what each state reads as."""
    with refusals():
        with progress() as say:
            from tw_lens.analyses import trajectory as travel
            from tw_lens.reading import read_states, read_weights

            loaded = _load(model, say)
            say("Travelling")
            result = travel(read_weights(loaded), read_states(loaded, prompt))
        show(result, result.to_dataframe(), (csv, json, parquet, latex, markdown))


def _weights(model: str | None, say: Any) -> Any:
    from tw_lens.reading import read_weights

    return read_weights(_load(model, say))


def _readable(weights: Any, readable: bool) -> Any:
    from tw_lens.analyses import word_filter

    return word_filter(weights) if readable else None


def _load(model: str | None, say: Any) -> Any:
    from tw_lens.reading import load_model

    say(f"Loading {model or 'the bundled SmolLM2'}")
    return load_model(model)


if __name__ == "__main__":
    app()
