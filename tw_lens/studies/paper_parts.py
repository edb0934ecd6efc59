"""The questions of the paper, each with its results in both conventions as one table.

1. Tokens: embedding distances (section 4.1) and token norms (4.2).
2. Heads of the chosen layers: words through W_QK (4.3) and W_OV (4.4), the tokens that the biases
   favour (4.3), singular values and vectors (4.5).
3. The prompt: measures of its trajectory, and its projections (5).

A result that the model does not have is left out, with the sentence that refuses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import pandas as pd
import torch

from tw_lens.analyses import (
    HeadSpectrum,
    TokenNorms,
    bias_directions,
    embedding_distances,
    fit_projection,
    head_probe,
    head_spectrum,
    token_norms,
    trajectory,
)
from tw_lens.analyses.projection import Method
from tw_lens.canonical import States, Weights
from tw_lens.results.arguments import CIRCUITS, Circuit, Convention
from tw_lens.results.base import Result, component_label

HEAD = ["layer", "head", "component"]
TOKEN = ["rank", "token_index", "token_string", "score"]
NULL = ["coherence", "exceeds_null"]
VECTORS = ["convention", *HEAD, "direction", "side", "singular_value"]
COLUMNS = {
    "token_norms": ["convention", "scheme", "end", *TOKEN],
    "words_qk": ["convention", *HEAD, "word", "word_index", *TOKEN, *NULL],
    "words_ov": ["convention", "readout", *HEAD, "word", "word_index", "norm", *TOKEN, *NULL],
    "bias_directions": ["convention", *HEAD, "side", "sign", *TOKEN, *NULL],
    "singular_values": ["convention", "circuit", *HEAD, "direction", "singular_value", "coverage"],
    "singular_vectors_qk": [*VECTORS, *TOKEN, *NULL],
    "singular_vectors_ov": [*VECTORS, *TOKEN, *NULL],
}  # fmt: skip
"""The columns of the tables on both conventions."""

Call = Callable[[], Result]
Report = Callable[[str], object]


@dataclass(frozen=True)
class PaperSettings:
    """What is computed: conventions, layers, probed token ids, list lengths, and projections."""

    conventions: tuple[Convention, ...]
    layers: tuple[int, ...]
    words: tuple[int, ...]
    n: int
    k: int
    methods: tuple[Method, ...]

    @property
    def pairs(self) -> Iterator[tuple[Convention, int]]:
        """Every convention and layer, conventions outermost."""
        return product(self.conventions, self.layers)


class PaperFigure(NamedTuple):
    """A figure: its name, the result that is drawn, and the options of `figure`."""

    name: str
    result: Result
    options: tuple[Any, ...] = ()


@dataclass(frozen=True)
class PaperPart:
    """One question of the paper: its table, and the results that have a figure.

    `refused` says which results the model does not have, and why.
    """

    name: str
    question: str
    section: str
    conventions: tuple[Convention, ...]
    results: tuple[Result, ...]
    table: pd.DataFrame
    figures: tuple[PaperFigure, ...] = ()
    refused: tuple[str, ...] = ()


def paper_parts(
    weights: Weights, states: States, settings: PaperSettings, step: Report
) -> Iterator[PaperPart]:
    """Yield the parts in the paper's order."""
    step("Measuring the embeddings and the token norms")
    yield _distances(weights, settings)
    yield _norms(weights, settings)
    step("Probing words through W_QK and W_OV")
    yield _probe_qk(weights, settings)
    yield _probe_ov(weights, settings)
    yield _biases(weights, settings)
    step("Decomposing W_QK and W_OV")
    yield from _spectra(weights, settings)
    step("Following the prompt through the layers")
    yield from _paths(weights, states, settings, step)


def _distances(weights: Weights, settings: PaperSettings) -> PaperPart:
    found, refused = _read({"embedding distances": partial(embedding_distances, weights)})
    return PaperPart(
        "embedding_distances",
        "How far does normalisation move the embeddings, original, centred, scaled and both?",
        "4.1",
        settings.conventions,
        tuple(found.values()),
        _table_of(found),
        tuple(PaperFigure("embedding_distances", result) for result in found.values()),
        refused,
    )


def _norms(weights: Weights, settings: PaperSettings) -> PaperPart:
    calls: dict[str, Call] = {}
    for convention, bias, scale in product(settings.conventions, (False, True), (False, True)):
        if scale or not weights.processed:  # folding destroys the gain
            what = f"token norms ({convention}, scale={scale}, bias={bias})"
            options: dict[str, Any] = {"scale": scale, "bias": bias, "convention": convention}
            calls[what] = partial(token_norms, weights, **options)
    found, refused = _read(calls)
    norms = [result for result in found.values() if isinstance(result, TokenNorms)]
    ends = [
        table.assign(convention=one.convention, scheme=one.scheme, end=end)
        for one in norms
        for end, table in (("top", one.top(settings.k)), ("bottom", one.bottom(settings.k)))
    ]
    if weights.processed:
        refused += (
            "token norms without the final norm's gain (norm, bias): the gain is folded into the "
            "unembedding.",
        )
    return PaperPart(
        "token_norms",
        "Which tokens have the largest and the smallest norms, with the final norm's gain (scaled) "
        "and bias, and without?",
        "4.2",
        settings.conventions,
        tuple(norms),
        _together(ends, "token_norms"),
        tuple(
            PaperFigure(f"token_norms_{one.scheme}_{one.convention}", one)
            for i, one in enumerate(norms)
            if not any(torch.equal(one.score, other.score) for other in norms[:i])
        ),
        refused,
    )


def _probe_qk(weights: Weights, settings: PaperSettings) -> PaperPart:
    calls: dict[str, Call] = {}
    columns: dict[str, dict[str, str]] = {}
    for convention, layer in settings.pairs:
        what = f"words through W_QK ({convention}, layer {layer})"
        options: dict[str, Any] = {"layer": layer, "words": settings.words, "k": settings.k}
        calls[what] = partial(head_probe, weights, convention=convention, **options)
        columns[what] = {"convention": convention}
    question = "Which keys does each head attend to for a word's query?"
    return _part("words_qk", question, "4.3", settings, calls, columns)


def _probe_ov(weights: Weights, settings: PaperSettings) -> PaperPart:
    calls: dict[str, Call] = {}
    columns: dict[str, dict[str, str]] = {}
    for convention, layer in settings.pairs:
        for readout in ("residual",) if convention == "published" else ("residual", "update"):
            what = f"words through W_OV ({convention}, {readout}, layer {layer})"
            options: dict[str, Any] = {
                "layer": layer,
                "words": settings.words,
                "k": settings.k,
                "circuit": "OV",
            }
            options |= {"readout": readout} if convention == "exact" else {}
            calls[what] = partial(head_probe, weights, convention=convention, **options)
            columns[what] = {"convention": convention, "readout": readout}
    question = (
        "What does each head write for a word, and the whole layer (component without a head); "
        "read out as the word's state with the update (residual), or the update alone?"
    )
    return _part("words_ov", question, "4.4", settings, calls, columns)


def _biases(weights: Weights, settings: PaperSettings) -> PaperPart:
    calls: dict[str, Call] = {}
    columns: dict[str, dict[str, str]] = {}
    for convention, layer in settings.pairs:
        what = f"bias directions ({convention}, layer {layer})"
        options: dict[str, Any] = {"layer": layer, "k": settings.k, "convention": convention}
        calls[what] = partial(bias_directions, weights, **options)
        columns[what] = {"convention": convention}
    question = "Which tokens do the key bias (side query) and the query bias (side key) favour?"
    return _part("bias_directions", question, "4.3", settings, calls, columns)


def _spectra(weights: Weights, settings: PaperSettings) -> Iterator[PaperPart]:
    spectra: list[HeadSpectrum] = []
    for circuit in CIRCUITS:
        part = _spectra_of(weights, settings, circuit)
        spectra += [result for result in part.results if isinstance(result, HeadSpectrum)]
        yield part
    yield PaperPart(
        "singular_values",
        "How many directions of each head hold the spectrum (coverage: cumulative share in %)?",
        "4.5",
        settings.conventions,
        tuple(spectra),
        _together(map(_singular_values, spectra), "singular_values"),
        tuple(
            PaperFigure(
                f"singular_values_{one.circuit.lower()}_layer_{one.layer}_{one.convention}", one
            )
            for one in spectra
        ),
    )


def _spectra_of(weights: Weights, settings: PaperSettings, circuit: Circuit) -> PaperPart:
    calls: dict[str, Call] = {}
    columns: dict[str, dict[str, str]] = {}
    for convention, layer in settings.pairs:
        what = f"singular vectors of W_{circuit} ({convention}, layer {layer})"
        options: dict[str, Any] = {
            "layer": layer,
            "circuit": circuit,
            "n": settings.n,
            "k": settings.k,
        }
        calls[what] = partial(head_spectrum, weights, convention=convention, **options)
        columns[what] = {"convention": convention}
    sides = {"QK": "left: query, right: key", "OV": "left: read, right: written"}[circuit]
    question = f"Which tokens do the leading singular vectors of W_{circuit} connect ({sides})?"
    name = f"singular_vectors_{circuit.lower()}"
    return _part(name, question, "4.5", settings, calls, columns)


def _singular_values(result: HeadSpectrum) -> pd.DataFrame:
    rows = [
        (h, component_label(result.layer, h), direction, value, coverage)
        for h, values, shares in zip(
            result.heads, result.singular_values.tolist(), result.coverage.tolist(), strict=True
        )
        for direction, (value, coverage) in enumerate(zip(values, shares, strict=True))
    ]
    names = ["head", "component", "direction", "singular_value", "coverage"]
    table = pd.DataFrame(rows, columns=pd.Index(names))
    return table.assign(convention=result.convention, circuit=result.circuit, layer=result.layer)


def _paths(
    weights: Weights, states: States, settings: PaperSettings, step: Report
) -> Iterator[PaperPart]:
    found, refused = _read({"trajectory": partial(trajectory, weights, states)})
    yield PaperPart(
        "trajectory",
        "How does every state of the prompt move over the layers, and what does it read as?",
        "5",
        ("exact",),
        tuple(found.values()),
        _table_of(found),
        tuple(PaperFigure("trajectory_norms_and_angles", path) for path in found.values()),
        refused,
    )
    for path, method in product(found.values(), settings.methods):
        step(f"Fitting the projection ({method})")
        yield _projection(weights, states, path, method)


def _projection(weights: Weights, states: States, path: Result, method: Method) -> PaperPart:
    what = f"projection ({method})"
    found, refused = _read({what: partial(fit_projection, weights, states, method=method)})
    return PaperPart(
        f"projection_{method}",
        f"Where do the states of the prompt and the tokens lie in three dimensions ({method})?",
        "5",
        ("exact",),
        tuple(found.values()),
        _table_of(found),
        tuple(PaperFigure(f"path_{method}", path, (result,)) for result in found.values()),
        refused,
    )


def _part(
    name: str,
    question: str,
    section: str,
    settings: PaperSettings,
    calls: Mapping[str, Call],
    columns: Mapping[str, dict[str, str]],
) -> PaperPart:
    """Return the part of some calls; `columns` are what their tables do not say themselves."""
    found, refused = _read(calls)
    tables = [result.to_dataframe().assign(**columns[what]) for what, result in found.items()]
    results = tuple(found.values())
    conventions = settings.conventions
    return PaperPart(
        name, question, section, conventions, results, _together(tables, name), refused=refused
    )


def _read(calls: Mapping[str, Call]) -> tuple[dict[str, Result], tuple[str, ...]]:
    """Make the calls; return the results by their name, and the sentences that refuse others."""
    found, refused = {}, []
    for what, call in calls.items():
        try:
            found[what] = call()
        except ValueError as refusal:
            refused.append(f"{what}: {refusal}")
    if refused[1:] and not found:
        return found, (f"{refused[0]} So it is with all others of this table.",)
    return found, tuple(refused)


def _table_of(found: Mapping[str, Result]) -> pd.DataFrame:
    """Return the table of a single result; an empty one where it is refused."""
    return next((result.to_dataframe() for result in found.values()), pd.DataFrame())


def _together(tables: Iterable[pd.DataFrame], name: str | None = None) -> pd.DataFrame:
    """Return tables below one another, with the columns of `COLUMNS` where it has the name."""
    filled: Sequence[pd.DataFrame] = [table.dropna(axis=1, how="all") for table in tables]
    table = pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()
    return table if name is None else table.reindex(columns=COLUMNS[name])
