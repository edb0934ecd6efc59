"""The questions of the paper, answered in its order and in both conventions.

1. Tokens: embedding distances (section 4.1) and token norms (4.2).
2. Heads of the chosen layers: words through W_QK (4.3) and W_OV (4.4), the tokens that the biases
   favour (4.3), singular vectors and values (4.5).
3. The prompt: measures of its trajectory, and its projections (5).

A result that the model does not have is left out, with the sentence that refuses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import pandas as pd
import torch

from tw_lens.analyses import embedding_distances, fit_projection, token_norms, trajectory
from tw_lens.canonical import States, Weights
from tw_lens.studies.paper_heads import probe_parts, spectrum_parts
from tw_lens.studies.paper_parts import (
    PaperFigure,
    PaperPart,
    PaperSettings,
    Reading,
    concatenated,
    read_all,
)

N_STEPS = 4  # and one per projection


def paper_parts(
    weights: Weights, states: States, settings: PaperSettings, step: Callable[[str], object]
) -> Iterator[PaperPart]:
    """Yield the parts in the paper's order."""
    step("Measuring the embeddings and the token norms")
    yield _distances(weights, settings)
    yield _norms(weights, settings)
    step("Probing words through W_QK and W_OV")
    yield from probe_parts(weights, settings)
    step("Decomposing W_QK and W_OV")
    yield from spectrum_parts(weights, settings)
    step("Following the prompt through the layers")
    path = _path(weights, states)
    yield path
    for method in settings.methods:
        step(f"Fitting the projection ({method})")
        yield _projection(weights, states, path, method)


def _distances(weights: Weights, settings: PaperSettings) -> PaperPart:
    found, refused = read_all([Reading("distances", partial(embedding_distances, weights))])
    return PaperPart(
        name="embedding_distances",
        question="How far does normalisation move the embeddings: original, centred, scaled, both?",
        section="4.1",
        conventions=settings.conventions,
        table=found[0][1].to_dataframe() if found else pd.DataFrame(),
        results=tuple(result for _, result in found),
        figures=tuple(PaperFigure("embedding_distances", result) for _, result in found),
        refused=refused,
    )


def _norms(weights: Weights, settings: PaperSettings) -> PaperPart:
    choices = product(settings.conventions, (False, True), (False, True))
    readings = [
        Reading(
            f"token norms ({convention}, scale={scale}, bias={bias})",
            partial(token_norms, weights, scale=scale, bias=bias, convention=convention),
        )
        for convention, bias, scale in choices
    ]
    found, refused = read_all(readings)
    norms = [result for _, result in found]
    ends = [
        table.assign(convention=one.convention, scheme=one.scheme, end=end)
        for one in norms
        for end, table in (("top", one.top(settings.k)), ("bottom", one.bottom(settings.k)))
    ]
    return PaperPart(
        name="token_norms",
        question="Which tokens have the largest and the smallest norms, with the final norm's gain "
        "(scaled) and bias, and without?",
        section="4.2",
        conventions=settings.conventions,
        table=concatenated(ends, "token_norms"),
        results=tuple(norms),
        figures=tuple(
            PaperFigure(f"token_norms_{one.scheme}_{one.convention}", one)
            for i, one in enumerate(norms)
            if not any(torch.equal(one.score, other.score) for other in norms[:i])
        ),
        refused=refused,
    )


def _path(weights: Weights, states: States) -> PaperPart:
    found, refused = read_all([Reading("trajectory", partial(trajectory, weights, states))])
    return PaperPart(
        name="trajectory",
        question="How does every state of the prompt move over the layers, and what does it read "
        "as?",
        section="5",
        conventions=("exact",),
        table=found[0][1].to_dataframe() if found else pd.DataFrame(),
        results=tuple(result for _, result in found),
        figures=tuple(PaperFigure("trajectory_norms_and_angles", path) for _, path in found),
        refused=refused,
    )


def _projection(weights: Weights, states: States, path: PaperPart, method: str) -> PaperPart:
    call = partial(fit_projection, weights, states, method=method)
    found, refused = read_all([Reading(f"projection ({method})", call)])
    return PaperPart(
        name=f"projection_{method}",
        question="Where do the states of the prompt and the tokens lie in three dimensions "
        f"({method})?",
        section="5",
        conventions=("exact",),
        table=found[0][1].to_dataframe() if found else pd.DataFrame(),
        results=tuple(result for _, result in found),
        figures=tuple(
            PaperFigure(f"path_{method}", drawn, (result,))
            for drawn, (_, result) in product(path.results, found)
        ),
        refused=refused,
    )
