"""Options and arguments that several commands share, as typer reads them."""

from __future__ import annotations

from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

PROMPT = "To kill two birds with one stone"

Model = Annotated[
    str | None,
    typer.Argument(
        help="A folder, or a model name that TransformerLens knows (default: the bundled SmolLM2)."
    ),
]
Prompt = Annotated[str, typer.Option("--prompt", "-p", help="Text to run the model on.")]
Prompts = Annotated[Path, typer.Option("--prompts", help="Text file, one prompt per line.")]
Layer = Annotated[
    int | None, typer.Option("--layer", "-l", help="Index of the layer; -1 is the last.")
]
Layers = Annotated[str, typer.Option(help="Layers, e.g. 0,3-5,-1, or all.")]
SomeLayers = Annotated[
    str,
    typer.Option("--layers", help="Layers, e.g. 0,3-5,-1, or all (default: three of them)."),
]
HeldOut = Annotated[
    Path | None,
    typer.Option("--held-out", help="Other text, one prompt per line, to measure faithfulness."),
]
Distance = Annotated[
    int, typer.Option(help="Distance from the query back to the key (QK of rotary models).")
]
Head = Annotated[
    str | None,
    typer.Option("--head", help="Head, 1, or with its layer, L5H1 (default: all heads)."),
]
OneHead = Annotated[str, typer.Option("--head", help="Head, 1, or with its layer, L5H1.")]
Direction = Annotated[int, typer.Option("--direction", help="Index of the singular direction.")]
Circuit = Annotated[
    Literal["QK", "OV"],
    typer.Option("--circuit", case_sensitive=False, help="Attention circuit: QK or OV."),
]
Convention = Annotated[
    Literal["exact", "published"],
    typer.Option("--convention", case_sensitive=False, help="Convention: exact or published."),
]
K = Annotated[int, typer.Option("-k", help="Number of tokens per list.")]
Readable = Annotated[
    bool,
    typer.Option(
        "--readable",
        help="List whole words only: no fragments, no special or never-trained tokens.",
    ),
]
Vocabulary = Annotated[
    str,
    typer.Option(
        "--vocabulary",
        help="Where tokens are read: text (their mean states over reference text), embedding, or "
        "a file that `tw-lens vocabulary` wrote.",
    ),
]
Score = Annotated[
    Literal["dot", "standardised"],
    typer.Option(
        case_sensitive=False,
        help="Scores of written tokens (OV): dot, or standardised for loud tokens.",
    ),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint", help="File to save the study in; rerun with the same file to resume."
    ),
]

Device = Annotated[str, typer.Option("--device", help="Device of the model, e.g. cuda or cuda:1.")]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"],
    typer.Option("--dtype", help="Number format of the model's weights."),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress and no notes on standard error.")
]
Wide = Annotated[
    bool, typer.Option("--wide", help="Print every row and column, as files have them.")
]
Stack = Annotated[
    str,
    typer.Option(
        "--stack", help="Of an encoder-decoder: encoder, decoder, or cross for cross-attention."
    ),
]
Source = Annotated[
    str, typer.Option("--source", help="What the encoder reads while --stack decoder runs.")
]
SHARED = {
    "device": (Device, "cpu"), "dtype": (Dtype, "float32"), "stack": (Stack, ""),
    "source": (Source, ""), "quiet": (Quiet, False),
}  # fmt: skip
MODEL_FORMAT: ContextVar[dict[str, Any] | None] = ContextVar("model format", default=None)
"""The shared options of the command that runs, but for --quiet."""
