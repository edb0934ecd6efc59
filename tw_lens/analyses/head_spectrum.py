"""Head spectra: singular values of W_QK and W_OV, and the tokens of their singular vectors."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses.conventions import convention_rules
from tw_lens.analyses.head_directions import (
    compare_sides_with_null,
    head_svd,
    tokens_of_direction_pair,
    with_readout_of_score,
)
from tw_lens.analyses.token_filter import (
    TokenFilter,
    allowed_mask,
    filter_caveat,
    filter_summary,
)
from tw_lens.arguments import checked
from tw_lens.canonical import LayerVocabulary, Points, Weights, weights_of_points
from tw_lens.errors import Caveat
from tw_lens.geometry import spectrum_shares
from tw_lens.results.arguments import (
    Circuit,
    Convention,
    Score,
    require_distance,
    require_score,
)
from tw_lens.results.base import HeadComponents, Result, head_columns, plural
from tw_lens.results.caveats import caveats_at_distance
from tw_lens.results.token_lists import (
    TokenLists,
    make_token_lists,
    score_summary,
    significance_summary,
)
from tw_lens.results.token_source import TokenSource


@dataclass(frozen=True, repr=False, eq=False)
class HeadSpectrum(HeadComponents, Result):
    """Singular values of each head's matrix, and the tokens of its leading singular vectors.

    QK: left = query (destination), right = key (source). OV: left = input, right = output.
    `left` and `right` hold one list per head and direction, heads outermost.
    """

    model_name: str
    layer: int
    circuit: Circuit
    convention: Convention
    distance: int
    heads: tuple[int, ...]
    n: int
    singular_values: Float[Tensor, "heads d_head"]
    left: TokenLists
    right: TokenLists
    token_filter: TokenFilter | None = None
    token_source: TokenSource = field(default_factory=TokenSource)
    score: Score = "dot"
    caveats: tuple[Caveat, ...] = ()

    @property
    def coverage(self) -> Float[Tensor, "heads d_head"]:
        """The cumulative share in percent, `100 cumsum(S) / sum(S)`; 0 for a head of zeros."""
        return 100 * spectrum_shares(self.singular_values).cumsum(-1)

    @property
    def directions_for_99(self) -> Float[Tensor, " heads"]:
        """The share of directions (percent) at which the coverage first exceeds 99 %.

        NaN for a head of zeros.
        """
        reached = self.coverage > 99
        percent = 100 * (reached.float().argmax(-1) + 1) / reached.shape[-1]
        return percent.masked_fill(~reached.any(-1), torch.nan)

    def headline(self) -> str:
        """Return the settings, and the share of directions that covers 99 % of the spectrum."""
        needed = self.directions_for_99
        zero = int(needed.isnan().sum())
        spectrum = (
            f"{float(needed.nanmean()):.0f} % of the directions reach 99 % of the sum of singular "
            "values"
            if zero < len(needed)
            else "no spectrum"
        )
        return (
            f"{self.model_name} layer {self.layer} {self.circuit}"
            f"{f' at distance {self.distance}' if self.distance else ''}, {self.convention}: "
            f"{score_summary(self.score)}{plural(len(self.heads), 'head')}"
            f"{f' ({zero} of zeros)' if zero else ''}, {spectrum}"
            f"{filter_summary(self.token_filter)}{significance_summary(self.left, self.right)}"
            f"{self.token_source.summary([self.layer], [self.circuit], self.only_head)}"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per listed token.

        Columns: layer, head, component, direction, side, singular_value, rank, token_index,
        token_string, score and, in the exact convention, count (states behind the token's point,
        with a text vocabulary), coherence, exceeds_null (see `NullComparison`), faithfulness. A
        direction of singular value 0 has one row per side, "nothing".
        """
        rows = []
        for h, head in enumerate(self.heads):
            source = self.token_source.columns(self.layer, head, self.circuit)
            for direction in range(self.n):
                value = float(self.singular_values[h, direction])
                for side, lists in (("left", self.left), ("right", self.right)):
                    columns = head_columns(self.layer, head, self.model_name) | {
                        "direction": direction,
                        "side": side,
                        "singular_value": value,
                    }
                    lines = lists.rows(h * self.n + direction)
                    rows.extend(columns | row | source for row in lines)
        return pd.DataFrame(rows)


@checked
def head_spectrum(
    weights: Weights,
    *,
    layer: int,
    circuit: Circuit = "QK",
    n: int = 20,
    k: int = 5,
    convention: Convention = "exact",
    head: int | None = None,
    distance: int = 0,
    token_filter: TokenFilter | None = None,
    vocabulary: LayerVocabulary | None = None,
    points: Points | None = None,
    score: Score = "dot",
) -> HeadSpectrum:
    """Decompose W_QK or W_OV of every head, and list the tokens of both singular vectors.

    `exact`: the SVD of `W_QK = s A_Q A_K^T` (both sides against `N(W_E)`) or `W_OV = A_V A_O` (left
    against `N(W_E)`, right through the readout `A_U`, relative to the mean token because logits are
    defined up to a constant); scores are dot products of unit vectors with the tokens' points.
    `published`: the SVD of `W_Q W_K^T / sqrt(d_head)` (left scaled by S, both sides against
    `n(W_E)`) or `W_V W_O` (left against `n(W_E)`, right against `W_E`). The sign of a pair is kept
    when `max_w v.M_w >= max_w -v.M_w` over the right-hand vocabulary, else both sides are flipped.

    Args:
        weights: from `read_weights`.
        layer: index of the block.
        circuit: "QK" or "OV".
        n: number of leading directions, at most d_head.
        k: tokens per side.
        convention: "exact" or "published".
        head: one head, or None for all.
        distance: from the query back to the key (QK, `exact`, layers with rotary positions): the
            SVD is of `s A_Q R(distance) A_K^T`.
        token_filter: the tokens that may be listed (`exact`), from `token_filter`; all by default.
            Signs are chosen over the whole vocabulary.
        vocabulary: points of the tokens at this layer, from `layer_vocabulary`; their embeddings
            by default.
        points: named vectors to read in the place of tokens, from `Points` or `position_points`.
        score: "dot": the logit that the model would give; "standardised": over its deviation for
            what the layer writes, which keeps tokens with long readout directions from leading
            every list (written tokens of OV only; see `standardise_readout`).

    Returns:
        All singular values `[heads, d_head]`, the tokens of the leading n directions and, for
        `exact`, their null comparison (see `NullComparison`; `direction_coherence` has more nulls).
        The tokens of neighbouring directions with nearly equal singular values may mix (see
        `direction_degeneracy`).

    Raises:
        IndexError: the layer or the head does not exist.
        TypeError: an argument of another type.
        ValueError: unknown circuit or convention, n or k below 1, `published` on processed weights,
            a distance in a layer without rotary positions, a filter that does not fit.

    Example:
        >>> head_spectrum(weights, layer=1, circuit="OV").singular_values.shape
        torch.Size([4, 16])

    Source: arXiv 2309.07315, section 4.5.
    """
    require_distance(distance, circuit, convention)
    require_score(score, circuit, convention)
    weights = weights_of_points(weights, points, vocabulary, convention, score)
    rules = convention_rules(weights, convention)
    keep = allowed_mask(weights, token_filter, convention)
    block = weights.attention_block(layer)
    heads = block.heads(head)
    n = min(n, block.W_Q.shape[-1] if circuit == "QK" else block.W_V.shape[-1])
    svd = head_svd(block, heads, circuit, rules, distance=distance)
    left, right = svd.left[..., :n].mT.flatten(0, 1), svd.right[..., :n].mT.flatten(0, 1)
    left = rules.left_vectors(left, svd.S[:, :n], circuit)
    met = rules.points(weights, block, vocabulary)
    written = with_readout_of_score(weights, block, met, score)
    sides = tokens_of_direction_pair(
        written, met, circuit, left, right, k, rules=rules, keep=keep,
        vanishing=svd.vanishing[:, :n].flatten(),
    )  # fmt: skip
    nulls = (None, None)
    if rules.has_null:
        nulls = compare_sides_with_null(weights, written, met, circuit, *sides, keep)
    source = rules.token_source(vocabulary, points)
    return HeadSpectrum(
        model_name=weights.model_name,
        layer=layer,
        circuit=circuit,
        convention=convention,
        distance=distance,
        heads=tuple(heads),
        n=n,
        score=score,
        singular_values=svd.S,
        left=make_token_lists(sides[0], weights.tokens, nulls[0], source.count),
        right=make_token_lists(
            sides[1], weights.tokens, nulls[1], source.count if circuit == "QK" else None
        ),
        token_filter=token_filter,
        token_source=source,
        caveats=caveats_at_distance(weights.caveats, distance, circuit)
        + filter_caveat(token_filter)
        + source.caveats([layer]),
    )
