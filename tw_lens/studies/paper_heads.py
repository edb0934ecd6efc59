"""The paper's questions on heads: words through both circuits, biases, and singular vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product

import pandas as pd

from tw_lens.analyses import HeadSpectrum, bias_directions, head_probe, head_spectrum
from tw_lens.analyses.convention_rules import ReadoutTarget
from tw_lens.canonical import Weights
from tw_lens.results.arguments import CIRCUITS, SIDE_NAMES, Convention
from tw_lens.results.base import Result, component_label
from tw_lens.studies.paper_parts import (
    PaperFigure,
    PaperPart,
    PaperSettings,
    Reading,
    concatenated,
    part_of_readings,
)


def probe_parts(weights: Weights, settings: PaperSettings) -> Iterator[PaperPart]:
    """Yield the parts on words through W_QK and W_OV, and on the biases."""
    probe = partial(head_probe, weights, words=settings.words, k=settings.k)
    conventions = settings.conventions
    yield part_of_readings(
        "words_qk",
        "Which keys does each head attend to for a word's query?",
        "4.3",
        conventions,
        _per_layer(settings, conventions, "words through W_QK", partial(probe, circuit="QK")),
    )
    readings: list[Reading] = []
    read_out: dict[ReadoutTarget, tuple[Convention, ...]]
    read_out = {"residual": conventions, "update": ("exact",)}
    for readout, of in read_out.items():
        call = partial(probe, circuit="OV", readout=readout)
        what = f"words through W_OV, {readout}"
        readings += _per_layer(settings, of, what, call, readout=readout)
    yield part_of_readings(
        "words_ov",
        "What does each head write for a word, and the whole layer (component without a head), "
        "read out as the word's state with the update (residual), or the update alone?",
        "4.4",
        conventions,
        readings,
    )
    biases = partial(bias_directions, weights, k=settings.k)
    yield part_of_readings(
        "bias_directions",
        "Which tokens do the key bias (side query) and the query bias (side key) favour?",
        "4.3",
        conventions,
        _per_layer(settings, conventions, "bias directions", biases),
    )


def spectrum_parts(weights: Weights, settings: PaperSettings) -> Iterator[PaperPart]:
    """Yield the parts on singular vectors of W_QK and of W_OV, and on singular values."""
    spectra: list[HeadSpectrum] = []
    conventions = settings.conventions
    for circuit in CIRCUITS:
        call = partial(head_spectrum, weights, circuit=circuit, n=settings.n, k=settings.k)
        part = part_of_readings(
            f"singular_vectors_{circuit.lower()}",
            f"Which tokens do the leading singular vectors of W_{circuit} connect "
            f"(left: {SIDE_NAMES[circuit, 'left']}, right: {SIDE_NAMES[circuit, 'right']})?",
            "4.5",
            conventions,
            _per_layer(settings, conventions, f"singular vectors of W_{circuit}", call),
        )
        spectra += [result for result in part.results if isinstance(result, HeadSpectrum)]
        yield part
    yield PaperPart(
        name="singular_values",
        question="How many directions of each head hold its spectrum (coverage: cumulative share "
        "in %)?",
        section="4.5",
        conventions=conventions,
        table=concatenated(map(_singular_values, spectra), "singular_values"),
        figures=tuple(PaperFigure(_figure_name(one), one) for one in spectra),
    )


def _per_layer(
    settings: PaperSettings,
    conventions: Sequence[Convention],
    what: str,
    call: Callable[..., Result],
    **columns: str,
) -> list[Reading]:
    """Return a reading per convention and layer, conventions outermost."""
    return [
        Reading(
            f"{what} ({convention}, layer {layer})",
            partial(call, layer=layer, convention=convention),
            {"convention": convention, **columns},
        )
        for convention, layer in product(conventions, settings.layers)
    ]


def _figure_name(result: HeadSpectrum) -> str:
    circuit = result.circuit.lower()
    return f"singular_values_{circuit}_layer_{result.layer}_{result.convention}"


def _singular_values(result: HeadSpectrum) -> pd.DataFrame:
    values, coverage = result.singular_values.tolist(), result.coverage.tolist()
    rows = [
        {
            "convention": result.convention,
            "circuit": result.circuit,
            "layer": result.layer,
            "head": head,
            "component": component_label(result.layer, head, result.model_name),
            "direction": direction,
            "singular_value": value,
            "coverage": coverage[h][direction],
        }
        for h, head in enumerate(result.heads)
        for direction, value in enumerate(values[h])
    ]
    return pd.DataFrame(rows)
