"""Map of heads: a cell per layer and head, colored by a measure that the reader chooses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tw_lens.analyses import HeadAtlas
from tw_lens.analyses.null_directions import CIRCUIT_SIDES
from tw_lens.rendering.figures.null_markers import SYMBOLS
from tw_lens.rendering.figures.style import json_in_script, to_lists
from tw_lens.results.arguments import CIRCUITS, SIDE_NAMES
from tw_lens.results.base import component_label
from tw_lens.studies import HEAD_KINDS, HeadKinds
from tw_lens.studies.head_kinds_result import (
    LEVEL,
    TESTED,
    WRITTEN,
    least_from_weights,
    least_in_use,
)

if TYPE_CHECKING:
    from markupsafe import Markup

KIND, LIST = "\u25c6", SYMBOLS["vocabulary"]
"""Marks of the map: a diamond for heads of a kind, the disc of the cards for their token lists."""
MEANINGS = {
    "Kind in use": "score where the model runs on repeated random tokens; the palest color is "
    f"chance, {KIND} marks heads that show this kind",
    "Kind from weights": "score from the weights alone; the palest color is chance, "
    f"{KIND} marks heads that the weights claim to be of this kind",
    "Faithfulness": "agreement with the running model on held-out text (QK: correlation of "
    "attention scores, OV: cosine of writes); floor: r with the points of permuted tokens",
    "Strength": "leading singular value, or its share of the sum of all",
    "Coherence": f"similarity of the leading direction's tokens; {LIST} marks lists above both "
    "nulls, as in the cards",
}


@dataclass(frozen=True)
class MapMeasure:
    """One measure of all heads, as the map shows it; `low` and `high` are the ends of its colors.

    `values` are NaN where a head has none; `marked` heads get a mark, for `cutoff` where that is
    stated. `floor` is what a value is to be compared with.
    """

    group: str
    name: str
    values: Float[Tensor, " heads"]
    low: float
    high: float
    marked: Bool[Tensor, " heads"]
    cutoff: str = ""
    floor: Float[Tensor, " heads"] | None = None

    @property
    def meaning(self) -> str:
        """What the measure and its marks say, in a sentence."""
        cutoff = f" ({self.cutoff})" if self.cutoff else ""
        return f"{self.name}: {MEANINGS[self.group]}{cutoff}."


@dataclass(frozen=True)
class HeadMap:
    """All heads of the model as (layer, head), their measures, and the layers that have cards."""

    model_name: str
    heads: tuple[tuple[int, int], ...]
    layers: tuple[int, ...]
    measures: tuple[MapMeasure, ...]

    def label(self, layer: int, head: int) -> str:
        """Return a head's label."""
        return component_label(layer, head, self.model_name)

    @property
    def width(self) -> int:
        """The largest number of heads in a layer."""
        return 1 + max(head for _, head in self.heads)

    @property
    def rows(self) -> list[tuple[int, list[str]]]:
        """Every layer with the labels of its heads."""
        layers = sorted({layer for layer, _ in self.heads})
        return [
            (layer, [self.label(layer, head) for of, head in self.heads if of == layer])
            for layer in layers
        ]

    @property
    def groups(self) -> list[tuple[str, list[tuple[int, str]]]]:
        """The menu: group, and its entries with their index."""
        names = dict.fromkeys(one.group for one in self.measures)
        return [
            (group, [(i, one.name) for i, one in enumerate(self.measures) if one.group == group])
            for group in names
        ]

    def data(self) -> Markup:
        """Return the measures for the page's script."""
        from markupsafe import Markup

        measures = [
            {
                "name": one.name,
                "group": one.group,
                "meaning": one.meaning,
                "of_lists": one.group == "Coherence",
                "low": to_lists(torch.tensor([one.low]), 3)[0],
                "high": to_lists(torch.tensor([one.high]), 3)[0],
                "values": to_lists(one.values, 3),
                "floor": None if one.floor is None else to_lists(one.floor, 3),
                "marked": one.marked.nonzero().flatten().tolist(),
            }
            for one in self.measures
        ]
        heads = [self.label(layer, head) for layer, head in self.heads]
        return Markup(json_in_script({"heads": heads, "measures": measures}))

    def shade(self, index: int) -> int:
        """Return how strong the first measure colors a head, in percent, as without a script."""
        one = self.measures[0]
        value = float(one.values[index])
        if value != value:
            return 0
        return round(100 * min(1.0, max(0.0, (value - one.low) / (one.high - one.low or 1))))


def head_map(kinds: HeadKinds, atlas: HeadAtlas, layers: Sequence[int]) -> HeadMap:
    """Return the map of all heads.

    Args:
        kinds: of all heads.
        atlas: of all heads, with the faithfulness of its vocabulary.
        layers: those that have cards.
    """
    measures = [*_kinds(kinds), *_faithfulness(kinds, atlas), *_strength(kinds, atlas),
                *_coherence(kinds, atlas)]  # fmt: skip
    return HeadMap(kinds.model_name, kinds.heads, tuple(layers), tuple(measures))


def _kinds(kinds: HeadKinds) -> Iterable[MapMeasure]:
    sources = [
        ("Kind from weights", kinds.from_weights, kinds.claimed(), least_from_weights().tolist())
    ]
    if kinds.from_use is not None:
        use = ("Kind in use", kinds.from_use, kinds.shown_in_use(), least_in_use().tolist())
        sources.insert(0, use)
    for group, scores, marked, least in sources:
        for i, kind in enumerate(HEAD_KINDS):
            matching = kind in WRITTEN or (kind, group) == ("induction", "Kind from weights")
            low, cutoff = 0.5 if matching else 0.0, f"score {least[i]:.2g} or more"
            if group == "Kind from weights" and kind in TESTED:
                cutoff += f", p {LEVEL:g} or less"
            yield MapMeasure(group, kind, scores[i], low, 1.0, marked[i], cutoff)


def _of_heads(
    kinds: HeadKinds, atlas: HeadAtlas, circuit: str, values: Sequence[float]
) -> Float[Tensor, " heads"]:
    """Return an entry of each head's leading direction, in the order of the map."""
    found = {
        entry[:2]: value
        for entry, value in zip(atlas.entries, values, strict=True)
        if entry[2:] == (circuit, 0)
    }
    return torch.tensor([found.get(head, torch.nan) for head in kinds.heads])


def _measure(group: str, name: str, values: Tensor, marked: Tensor | None = None) -> MapMeasure:
    """Return a measure whose colors begin at 0 and end at the largest value."""
    known = values[values.isfinite()]
    high = max(float(known.max()), 1e-12) if len(known) else 1.0
    nothing = torch.zeros(len(values), dtype=torch.bool)
    return MapMeasure(group, name, values, 0.0, high, nothing if marked is None else marked)


def _faithfulness(kinds: HeadKinds, atlas: HeadAtlas) -> Iterable[MapMeasure]:
    for circuit in CIRCUITS:
        r, floor = (
            torch.tensor([of(*head, circuit) for head in kinds.heads])
            for of in (atlas.token_source.r, atlas.token_source.floor)
        )
        if bool(r.isfinite().any()):
            none, group = torch.zeros(len(r), dtype=torch.bool), "Faithfulness"
            yield MapMeasure(group, f"{circuit} faithfulness r", r, 0.0, 1.0, none, floor=floor)
            yield MapMeasure(
                group, f"{circuit} faithfulness r less its floor", r - floor, 0.0, 1.0, none
            )


def _strength(kinds: HeadKinds, atlas: HeadAtlas) -> Iterable[MapMeasure]:
    for circuit in CIRCUITS:
        values = _of_heads(kinds, atlas, circuit, atlas.singular_value.tolist())
        yield _measure("Strength", f"{circuit}: leading singular value", values)
        share = _of_heads(kinds, atlas, circuit, (100 * atlas.share).tolist())
        yield _measure("Strength", f"{circuit}: its share of the spectrum (%)", share)


def _coherence(kinds: HeadKinds, atlas: HeadAtlas) -> Iterable[MapMeasure]:
    for circuit, side in CIRCUIT_SIDES:
        lists = atlas.left if side == "left" else atlas.right
        if lists.null is None:
            continue
        values = _of_heads(kinds, atlas, circuit, lists.null.coherence.tolist())
        above = lists.null.above("vocabulary").float().tolist()
        marked = _of_heads(kinds, atlas, circuit, above) == 1
        yield _measure("Coherence", f"{circuit} {SIDE_NAMES[circuit, side]}", values, marked)
