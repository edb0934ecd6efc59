"""Direction coherence: token similarity of directions' lists, compared with three nulls."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses.conventions import EXACT
from tw_lens.analyses.head_atlas import Entry, HeadAtlas, head_atlas
from tw_lens.analyses.null_directions import (
    CIRCUIT_SIDES,
    SIDES,
    CircuitSide,
    NullDirections,
    factor_of,
    readout_kind_of,
)
from tw_lens.analyses.similarity import SIMILARITY_MEASURES, SimilarityMeasure, token_similarity
from tw_lens.analyses.token_filter import TokenFilter, allowed_mask, filter_summary
from tw_lens.argument_kinds import require_choices, require_positive
from tw_lens.arguments import checked
from tw_lens.canonical import LayerVocabulary, Points, Weights, weights_of_points
from tw_lens.errors import Caveat
from tw_lens.geometry import upper_p_values
from tw_lens.progress import Progress, steps
from tw_lens.results.base import Result, head_columns
from tw_lens.results.token_lists import SIGNIFICANCE

Null = Literal["isotropic", "vocabulary", "within head"]
NULLS: tuple[Null, ...] = ("isotropic", "vocabulary", "within head")
Family = Literal["head", "layer", "model"]
FAMILIES: tuple[Family, ...] = ("head", "layer", "model")


@dataclass(frozen=True, repr=False, eq=False)
class DirectionCoherence(Result):
    """Coherence of the token list of every side of every direction, and its p-values.

    `value` is the mean pairwise similarity of a list's tokens, `null_mean` its mean under a null,
    and `p` the p-value. The axes are measures, nulls, sides (left, right) and the entries of the
    `atlas`. `n_null` is the number of directions of each null.
    """

    model_name: str
    atlas: HeadAtlas
    measures: tuple[SimilarityMeasure, ...]
    nulls: tuple[Null, ...]
    n_null: tuple[int, ...]
    value: Float[Tensor, "measures 2 entries"]
    null_mean: Float[Tensor, "measures nulls 2 entries"]
    p: Float[Tensor, "measures nulls 2 entries"]
    caveats: tuple[Caveat, ...] = ()

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The entries along the last axis: (layer, head, circuit, direction)."""
        return self.atlas.entries

    @checked
    def q(self, family: Family = "head") -> Float[Tensor, "measures nulls 2 entries"]:
        """Return p-values corrected by Benjamini-Hochberg over a head, a layer or the model.

        A family consists of both circuits, both sides and all directions, for one measure and null.

        Raises:
            ValueError: unknown family.
        """
        depth = {"head": 2, "layer": 1, "model": 0}[family]
        members: dict[tuple, list[int]] = {}
        for i, entry in enumerate(self.entries):
            members.setdefault(entry[:depth], []).append(i)
        q = torch.empty_like(self.p)
        for index in members.values():
            for m in range(len(self.measures)):
                for c in range(len(self.nulls)):
                    q[m, c][:, index] = benjamini_hochberg(self.p[m, c][:, index])
        return q

    def share_exceeding_null(self) -> Float[Tensor, "measures nulls"]:
        """Return the share of lists that exceed each null at the 5 % level; 5 % by chance."""
        listed = self.p.isfinite().sum((-1, -2)).clamp_min(1)
        return (self.p <= SIGNIFICANCE).sum((-1, -2)) / listed

    def headline(self) -> str:
        """Return the share of lists that exceed each null, for the first measure."""
        shares = ", ".join(
            f"{name!r} by {100 * float(share):.1f} %"
            for share, name in zip(self.share_exceeding_null()[0], self.nulls, strict=True)
        )
        return (
            f"{self.model_name}: {2 * len(self.entries):,} token lists"
            f"{filter_summary(self.atlas.token_filter)}, similarity by {self.measures[0]}; null "
            f"exceeded at the 5 % level: {shares} of the lists (5 % by chance)"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per direction, side, measure and null.

        Columns: layer, head, component, circuit, direction, side, measure, coherence, null,
        null_mean, p, and p corrected over families: q_head, q_layer, q_model (see `q`).
        """
        q = {family: self.q(family) for family in FAMILIES}
        rows = [
            (
                *head_columns(layer, head, self.model_name).values(),
                circuit,
                direction,
                side,
                measure,
                float(self.value[m, s, i]),
                null,
                float(self.null_mean[m, c, s, i]),
                float(self.p[m, c, s, i]),
                *(float(q[family][m, c, s, i]) for family in q),
            )
            for i, (layer, head, circuit, direction) in enumerate(self.entries)
            for s, side in enumerate(SIDES)
            for m, measure in enumerate(self.measures)
            for c, null in enumerate(self.nulls)
        ]
        names = ["layer", "head", "component", "circuit", "direction", "side", "measure",
                 "coherence", "null", "null_mean", "p", "q_head", "q_layer",
                 "q_model"]  # fmt: skip
        return pd.DataFrame(rows, columns=names)


def benjamini_hochberg(p: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the p-values of one family, corrected for the false discovery rate.

    A p-value that is NaN (a list without a similarity) is no test of the family and stays NaN.
    """
    from scipy.stats import false_discovery_control

    q, known = torch.full_like(p, torch.nan), ~p.isnan()
    if known.any():
        q[known] = torch.from_numpy(false_discovery_control(p[known].double().numpy())).to(p)
    return q


@checked
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
    vocabulary: LayerVocabulary | None = None,
    points: Points | None = None,
    seed: int = 0,
    progress: Progress = False,
) -> DirectionCoherence:
    """Compare the coherence of every direction's token lists with that of random directions.

    The coherence of a list is the mean pairwise similarity of its k tokens (`token_similarity`),
    for each side of each leading direction of `head_atlas`. The nulls are random directions, read
    out in the same way: "isotropic" (uniform on the sphere of states), "vocabulary" (normal,
    with the covariance of the token vectors that the side is read against), "within head" (uniform
    in the subspace spanned by the head's own factor of that side: `A_Q`, `A_K`, `A_V` or `A_O`).
    The first two do not depend on the head or on a norm's gain (points are `N(W_E)`), and are drawn
    once for all heads. Left sides take their sign from the right, so their nulls keep the sign
    they were drawn with; right sides and their nulls are signed by the same rule. The p-value of a
    list is `(1 + #{nulls >= list}) / (1 + n)`: its smallest value is `1 / (1 + n)`, so that among N
    lists a corrected value of 5 % needs `20 N / (1 + n)` lists that no null direction reaches. For
    a whole model, read `share_exceeding_null` or draw more null directions.

    "vocabulary" is the strict null: its directions lean towards the token vectors' main axes, so
    that a head unrelated to the tokens is below it more often than above.

    Random directions are not random weights. Where a norm's gain singles out few coordinates (the
    first layer of SmolLM2: 34 of 576, by `sum(g^2)^2 / sum(g^4)`), the directions of any head lean
    towards them, and tokens that are high on one coordinate are similar: a model from
    `permute_weights` exceeds all three nulls there, in 31 to 62 % of its lists. Compare with its
    `direction_coherence`.

    Args:
        weights: from `read_weights`.
        layers: indices of blocks; all attention layers by default.
        n: number of leading directions per head and circuit, at most d_head.
        k: tokens per side, at least 2.
        measures: similarity measures: "embedding", "unembedding" (untied models), "word class"
            (English, needs lemminflect).
        nulls: the nulls to compare with; "within head" is the slowest.
        n_null: directions of each of the first two nulls, per kind of readout.
        n_null_within: directions within each head's subspace.
        token_filter: the tokens that may be listed, from `token_filter`; all by default.
        vocabulary: points of the tokens at each layer, from `layer_vocabulary`; embeddings by
            default.
        points: named vectors to read in the place of tokens, from `Points` or `position_points`.
        seed: of the null directions.
        progress: True shows a bar; a function is called with a sentence at each step.

    Raises:
        IndexError: a layer does not exist.
        TypeError: an argument of another type.
        UnsupportedModelError: a layer is no attention layer.
        ValueError: a count below one, k below 2, an unknown measure or null, or "unembedding" on a
            tied model.
        ImportError: "word class" without lemminflect.

    Example:
        >>> result = direction_coherence(weights, layers=[1], n=2, n_null=99, n_null_within=49)
        >>> result.p.shape  # measures, nulls, sides, entries
        torch.Size([1, 3, 2, 16])

    Source: directions of heads read as words, arXiv 2309.07315, section 4.5; p-values by rank,
    Phipson and Smyth 2010.
    """
    require_positive("k", k, at_least=2)
    measures = require_choices("measures", measures, SIMILARITY_MEASURES)
    chosen = require_choices("nulls", nulls, NULLS)
    nulls = tuple(name for name in NULLS if name in chosen)
    of_model, weights = weights, weights_of_points(weights, points, vocabulary)
    similarities = [token_similarity(weights, measure) for measure in measures]
    atlas = head_atlas(
        of_model,
        layers=layers,
        n=n,
        k=k,
        token_filter=token_filter,
        vocabulary=vocabulary,
        points=points,
        progress=progress,
    )
    lists = (atlas.left.token_index, atlas.right.token_index)
    value = torch.stack(
        [torch.stack([similarity(side) for side in lists]) for similarity in similarities]
    )
    directions = NullDirections(weights, k, allowed_mask(weights, token_filter), similarities, seed)
    null_mean = torch.empty(len(similarities), len(nulls), *value.shape[1:])
    p = torch.empty_like(null_mean)
    layer_indices = list(dict.fromkeys(entry[0] for entry in atlas.entries))
    with steps(progress, total=len(layer_indices), unit="layer") as step:
        for layer in layer_indices:
            step(f"Drawing null directions for layer {layer}")
            block = weights.block(layer)
            met = EXACT.points(weights, block, vocabulary)
            shared = {
                circuit_side: directions.shared(readout_kind_of(circuit_side), met, n_null)
                for circuit_side in CIRCUIT_SIDES
            }
            within = directions.within(block, met, n_null_within) if "within head" in nulls else {}
            for (head, circuit_side), index in _groups(atlas, layer).items():
                side = SIDES.index(circuit_side[1])
                values = dict(zip(NULLS, shared[circuit_side], strict=False))
                if within:
                    factor = factor_of(block, circuit_side, head)
                    values["within head"] = within[circuit_side][factor]
                for c, null in enumerate(nulls):
                    for m in range(len(similarities)):
                        null_mean[m, c, side, index] = values[null][m].mean()
                        p[m, c, side, index] = upper_p_values(
                            value[m, side, index], values[null][m]
                        )
    return DirectionCoherence(
        model_name=weights.model_name,
        atlas=atlas,
        measures=measures,
        nulls=nulls,
        n_null=tuple(n_null_within if name == "within head" else n_null for name in nulls),
        value=value,
        null_mean=null_mean,
        p=p,
        caveats=atlas.caveats,
    )


def _groups(atlas: HeadAtlas, layer: int) -> dict[tuple[int, CircuitSide], list[int]]:
    """Return the indices of the entries of each head and circuit side of one layer."""
    groups: dict[tuple[int, CircuitSide], list[int]] = {}
    for i, (of, head, circuit, _) in enumerate(atlas.entries):
        if of == layer:
            for side in SIDES:
                groups.setdefault((head, (circuit, side)), []).append(i)
    return groups
