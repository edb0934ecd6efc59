"""Parts of the paper's tables: one question each, with its table, results and refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd

from tw_lens.analyses.projection import Method
from tw_lens.results.arguments import Convention
from tw_lens.results.base import Result

HEAD = ["layer", "head", "component"]
TOKEN = ["rank", "token_index", "token_string", "score"]
NULL = ["coherence", "exceeds_null"]
VECTORS = ["convention", *HEAD, "direction", "side", "singular_value", *TOKEN, *NULL]
COLUMNS = {
    "token_norms": ["convention", "scheme", "end", *TOKEN],
    "words_qk": ["convention", *HEAD, "word", "word_index", *TOKEN, *NULL],
    "words_ov": ["convention", "readout", *HEAD, "word", "word_index", "norm", *TOKEN, *NULL],
    "bias_directions": ["convention", *HEAD, "side", "sign", *TOKEN, *NULL],
    "singular_vectors_qk": VECTORS,
    "singular_vectors_ov": VECTORS,
    "singular_values": ["convention", "circuit", *HEAD, "direction", "singular_value", "coverage"],
}
"""The columns of the tables on both conventions."""


@dataclass(frozen=True)
class PaperSettings:
    """What is computed: conventions, layers, probed token ids, list lengths, and projections."""

    conventions: tuple[Convention, ...]
    layers: tuple[int, ...]
    words: tuple[int, ...]
    n: int
    k: int
    methods: tuple[Method, ...]


class PaperFigure(NamedTuple):
    """A figure: its name, the result that is drawn, and the options of `figure`."""

    name: str
    result: Result
    options: tuple[Any, ...] = ()


@dataclass(frozen=True)
class PaperPart:
    """One question of the paper: its table, results and figures.

    `section` is the paper's; `refused` says which results the model does not have, and why. The
    table is empty where it has none.
    """

    name: str
    question: str
    section: str
    conventions: tuple[Convention, ...]
    table: pd.DataFrame
    results: tuple[Result, ...] = ()
    figures: tuple[PaperFigure, ...] = ()
    refused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """A call of an analysis, its name in a refusal, and what its table does not say itself."""

    what: str
    call: Callable[[], Result]
    columns: Mapping[str, str] = field(default_factory=dict)


def read_all(readings: Sequence[Reading]) -> tuple[list[tuple[Reading, Any]], tuple[str, ...]]:
    """Make the calls; return the results, and the sentences that refuse others.

    Where all are refused, the first sentence stands for all.
    """
    found, refused = [], []
    for reading in readings:
        try:
            found.append((reading, reading.call()))
        except ValueError as refusal:
            refused.append(f"{reading.what}: {refusal}")
    if refused[1:] and not found:
        return found, (f"{refused[0]} The other layers and conventions are refused too.",)
    return found, tuple(refused)


def part_of_readings(
    name: str,
    question: str,
    section: str,
    conventions: tuple[Convention, ...],
    readings: Sequence[Reading],
) -> PaperPart:
    """Return the part of some calls, without figures; the table has the columns of `COLUMNS`."""
    found, refused = read_all(readings)
    return PaperPart(
        name=name,
        question=question,
        section=section,
        conventions=conventions,
        table=concatenated(
            (result.to_dataframe().assign(**reading.columns) for reading, result in found), name
        ),
        results=tuple(result for _, result in found),
        refused=refused,
    )


def concatenated(tables: Iterable[pd.DataFrame], name: str) -> pd.DataFrame:
    """Return tables below one another, with the columns of `COLUMNS`."""
    filled = [table.dropna(axis=1, how="all") for table in tables]
    table = pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()
    return table.reindex(columns=COLUMNS[name])
