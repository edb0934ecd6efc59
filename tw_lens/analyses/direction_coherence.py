"""Does a list of words mean anything? How alike its words are, beside three named controls."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses.head_atlas import HeadAtlas, head_atlas
from tw_lens.analyses.null_directions import (
    CIRCUIT_SIDES,
    SIDES,
    CircuitSide,
    NullDirections,
    factor_of,
    readout_kind_of,
)
from tw_lens.analyses.similarity import SIMILARITY_MEASURES, SimilarityMeasure, token_similarity
from tw_lens.analyses.token_filter import TokenFilter, allowed_mask
from tw_lens.canonical import Weights
from tw_lens.errors import Caveat
from tw_lens.geometry import upper_p_values
from tw_lens.progress import Progress, steps
from tw_lens.results.arguments import (
    Circuit,
    require_choice,
    require_positive,
    require_some,
    require_weights,
)
from tw_lens.results.base import Result, head_columns
from tw_lens.results.token_lists import SIGNIFICANCE

Null = Literal["isotropic", "vocabulary", "within head"]
NULLS = ("isotropic", "vocabulary", "within head")
Family = Literal["head", "layer", "model"]


@dataclass(frozen=True, repr=False, eq=False)
class DirectionCoherence(Result):
    """How alike the words of every direction's side are, and how rare that is among controls.

    `entries` are those of the `atlas` (layer, head, circuit, direction); the tensors' axes are
    measures, controls, sides (left, right), entries.
    """

    model_name: str
    atlas: HeadAtlas
    measures: tuple[SimilarityMeasure, ...]
    nulls: tuple[Null, ...]
    n_null: tuple[int, ...]
    value: Float[Tensor, "measures 2 entries"]
    null_mean: Float[Tensor, "measures controls 2 entries"]
    p: Float[Tensor, "measures controls 2 entries"]
    caveats: tuple[Caveat, ...] = ()

    @property
    def entries(self) -> tuple[tuple[int, int, Circuit, int], ...]:
        """What is aligned with the last axis: (layer, head, circuit, direction)."""
        return self.atlas.entries

    def q(self, family: Family = "head") -> Float[Tensor, "measures controls 2 entries"]:
        """The p-values corrected by Benjamini-Hochberg over a head, a layer or the whole model.

        A family holds both circuits, both sides and all directions, of one measure and control.
        """
        require_choice("family", family, ("head", "layer", "model"))
        depth = {"head": 2, "layer": 1, "model": 0}[family]
        members: dict[tuple, list[int]] = {}
        for at, entry in enumerate(self.entries):
            members.setdefault(entry[:depth], []).append(at)
        q = torch.empty_like(self.p)
        for at in members.values():
            for m in range(len(self.measures)):
                for c in range(len(self.nulls)):
                    q[m, c][:, at] = benjamini_hochberg(self.p[m, c][:, at])
        return q

    def share_exceeding_null(self) -> Float[Tensor, "measures controls"]:
        """The share of word lists above 95 % of each control's (p at most 5 %); 5 % by chance."""
        return (self.p <= SIGNIFICANCE).float().mean((-1, -2))

    def headline(self) -> str:
        """How many of the lists stand above 95 % of each control's."""
        said = ", ".join(
            f"{100 * float(share):.1f} % beside {name!r}"
            for share, name in zip(self.share_exceeding_null()[0], self.nulls, strict=True)
        )
        return (
            f"{self.model_name}: {2 * len(self.entries):,} word lists, alike by "
            f"{self.measures[0]}; more than 95 % of random directions' are: {said} (5 % by chance)"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """One row per direction, side, measure and control.

        Columns: layer, head, component, circuit, direction, side, measure, coherence, control,
        null_mean, p, q_head, q_layer, q_model.
        """
        q = {family: self.q(family) for family in ("head", "layer", "model")}
        rows = [
            (
                *head_columns(layer, head).values(),
                circuit,
                direction,
                side,
                measure,
                float(self.value[m, s, at]),
                control,
                float(self.null_mean[m, c, s, at]),
                float(self.p[m, c, s, at]),
                *(float(q[family][m, c, s, at]) for family in q),
            )
            for at, (layer, head, circuit, direction) in enumerate(self.entries)
            for s, side in enumerate(SIDES)
            for m, measure in enumerate(self.measures)
            for c, control in enumerate(self.nulls)
        ]
        names = ["layer", "head", "component", "circuit", "direction", "side", "measure",
                 "coherence", "null", "null_mean", "p", "q_head", "q_layer",
                 "q_model"]  # fmt: skip
        return pd.DataFrame(rows, columns=names)


def benjamini_hochberg(p: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The p-values of one family, corrected for the false discovery rate (Benjamini-Hochberg)."""
    from scipy.stats import false_discovery_control

    flat = p.flatten()
    return torch.from_numpy(false_discovery_control(flat.double().numpy())).to(p).view_as(p)


@require_weights
def direction_coherence(
    weights: Weights,
    *,
    layers: Sequence[int] | None = None,
    n: int = 20,
    k: int = 5,
    measures: Iterable[SimilarityMeasure] = ("embedding",),
    nulls: Iterable[Null] = NULLS,
    n_null: int = 999,
    n_null_within: int = 39,
    token_filter: TokenFilter | None = None,
    seed: int = 0,
    progress: Progress = False,
) -> DirectionCoherence:
    """Are the words of a direction more alike than those of random directions?

    The k best words of each side of each leading direction (those of `head_atlas`), how alike they
    are (`token_similarity`), and the same for random directions read in the same way against the same
    words: "isotropic" (uniform on the sphere of states), "vocabulary" (normal, with the covariance
    of the words that the side is read against), "within head" (uniform in the subspace that the
    head's own factor of that side spans: `A_Q`, `A_K`, `A_V` or `A_O`). The first two do not depend
    on the head, nor on a norm's gain (words stand at `N(W_E)`), and are drawn once for all heads.
    Left sides get their sign from the right, so their controls keep the sign they were drawn with;
    right sides and their controls are signed by the same rule. The p-value of a list is
    `(1 + #{nulls >= list}) / (1 + n)`: its smallest value is `1 / (1 + n)`, so that among N
    lists a corrected value of 5 % needs `20 N / (1 + n)` lists that no control reaches: over a
    whole model read `share_exceeding_null`, or draw more controls.

    "vocabulary" is the strict one: its directions lean to where the words spread, so that a head
    that knows nothing of the words is below it more often than above.

    Random directions are not random weights. Where a norm's gain singles out few coordinates (the
    first layer of SmolLM2: 34 of 576, by `sum(g^2)^2 / sum(g^4)`), the directions of any head lean
    along them, and words that are high on one coordinate are alike: a `permute_weights` stands above
    all three controls there, in 31 to 62 % of its lists. Read its `direction_coherence` beside the model's.

    Args:
        weights: from `read_weights`.
        layers: which blocks; all that attend by default.
        n: leading directions per head and circuit.
        k: words per side, 2 at least.
        measures: how words are compared: "embedding", "unembedding" (untied models), "word class"
            (English, needs lemminflect).
        nulls: which of the three; "within head" is the dear one.
        n_null: directions of the first two controls, for each table of words.
        n_null_within: directions inside each head's subspace.
        token_filter: which words may be listed, from `token_filter`.
        seed: of the controls.
        progress: True shows a bar; a function is called with a sentence at each step.

    Raises:
        IndexError: a layer does not exist.
        UnsupportedModelError: a layer does not attend.
        ValueError: counts below one, k below 2, an unknown measure, or "unembedding" on a tied
            model.
        ImportError: "word class" without lemminflect.

    Example:
        >>> made = direction_coherence(weights, layers=[1], n=2, n_null=99, n_null_within=49)
        >>> made.p.shape  # measures, nulls, sides, entries
        torch.Size([1, 3, 2, 16])

    Source: directions of heads read as words, arXiv 2309.07315, section 4.5; p-values by rank,
    Phipson and Smyth 2010.
    """
    if k < 2:
        raise ValueError(f"k={k} words cannot be alike: give at least 2.")
    require_positive("n_null", n_null)
    require_positive("n_null_within", n_null_within)
    measures = require_some("measures", measures, SIMILARITY_MEASURES)
    asked = require_some("nulls", nulls, NULLS)
    nulls = tuple(name for name in NULLS if name in asked)
    alike = {measure: token_similarity(weights, measure) for measure in measures}
    atlas = head_atlas(
        weights, layers=layers, n=n, k=k, token_filter=token_filter, progress=progress
    )
    lists = (atlas.left.token_index, atlas.right.token_index)
    value = torch.stack(
        [torch.stack([measure(side) for side in lists]) for measure in alike.values()]
    )
    draw = NullDirections(
        weights, k, allowed_mask(weights, token_filter), list(alike.values()), seed
    )
    mean = torch.empty(len(alike), len(nulls), *value.shape[1:])
    p = torch.empty_like(mean)
    chosen = list(dict.fromkeys(entry[0] for entry in atlas.entries))
    with steps(progress, total=len(chosen), unit="layer") as step:
        for layer in chosen:
            step(f"Drawing null directions for layer {layer}")
            block = weights.block(layer)
            everywhere = {
                place: draw.shared(readout_kind_of(place), block.norm, n_null)
                for place in CIRCUIT_SIDES
            }
            inside = draw.within(block, n_null_within) if NULLS[2] in nulls else {}
            for (head, place), at in _groups(atlas, layer).items():
                side = SIDES.index(place[1])
                drawn = dict(zip(NULLS, everywhere[place], strict=False))
                if inside:
                    drawn[NULLS[2]] = inside[place][factor_of(block, place, head)]
                for c, control in enumerate(drawn[name] for name in nulls):
                    for m in range(len(alike)):
                        mean[m, c, side, at] = control[m].mean()
                        p[m, c, side, at] = upper_p_values(value[m, side, at], control[m])
    return DirectionCoherence(
        model_name=weights.model_name,
        atlas=atlas,
        measures=tuple(alike),
        nulls=nulls,
        n_null=tuple(n_null_within if c == NULLS[2] else n_null for c in nulls),
        value=value,
        null_mean=mean,
        p=p,
        caveats=atlas.caveats,
    )


def _groups(atlas: HeadAtlas, layer: int) -> dict[tuple[int, CircuitSide], list[int]]:
    """The entries of each head and place of one layer."""
    groups: dict[tuple[int, CircuitSide], list[int]] = {}
    for at, (of, head, circuit, _) in enumerate(atlas.entries):
        if of == layer:
            for side in SIDES:
                groups.setdefault((head, (circuit, side)), []).append(at)
    return groups
