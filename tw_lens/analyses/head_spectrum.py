"""Which words does a head connect? Singular vectors of W_QK and W_OV, both sides as words."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses.conventions import convention_rules
from tw_lens.analyses.head_directions import (
    compare_sides_with_null,
    head_svd,
    tokens_of_direction_pair,
)
from tw_lens.analyses.token_filter import TokenFilter, allowed_mask, filter_caveat
from tw_lens.canonical import Weights
from tw_lens.errors import Caveat
from tw_lens.results.arguments import (
    CIRCUITS,
    Circuit,
    Convention,
    require_choice,
    require_distance,
    require_positive,
    require_weights,
)
from tw_lens.results.base import Result, component_label, head_columns
from tw_lens.results.caveats import caveats_at_distance
from tw_lens.results.token_lists import (
    TokenLists,
    make_token_lists,
    significance_summary,
)


@dataclass(frozen=True, repr=False, eq=False)
class HeadSpectrum(Result):
    """Singular values of each head's matrix, and the words at both ends of the leading directions.

    QK: left = query (destination), right = key (source). OV: left = read, right = written.
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
    caveats: tuple[Caveat, ...] = ()

    @property
    def components(self) -> tuple[str, ...]:
        """A label per head: "L5H1"."""
        return tuple(component_label(self.layer, head) for head in self.heads)

    @property
    def coverage(self) -> Float[Tensor, "heads d_head"]:
        """Cumulative share of the spectrum in percent, `100 cumsum(S) / sum(S)`."""
        S = self.singular_values
        return 100 * S.cumsum(-1) / S.sum(-1, keepdim=True)

    @property
    def directions_for_99(self) -> Float[Tensor, " heads"]:
        """The share of directions (percent) at which the coverage first exceeds 99 %."""
        rank = self.singular_values.shape[-1]
        first = (self.coverage > 99).float().argmax(-1)
        return 100 * (first + 1) / rank

    def headline(self) -> str:
        """How many heads, and how spread their spectra are."""
        return (
            f"{self.model_name} layer {self.layer} {self.circuit}"
            f"{f' at distance {self.distance}' if self.distance else ''}, {self.convention}: "
            f"{len(self.heads)} heads, 99 % of the spectrum in "
            f"{float(self.directions_for_99.mean()):.0f} % of the directions"
            f"{'' if self.token_filter is None else f', words among {self.token_filter.description}'}"
            f"{significance_summary(self.left, self.right)}"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """One row per word.

        Columns: layer, head, component, direction, side, singular_value, rank, token_index, token_string, score
        and, in the exact convention, coherence, above (the control beside the list, see `NullComparison`).
        """
        rows = []
        for h, of in enumerate(self.heads):
            for direction in range(self.n):
                value = float(self.singular_values[h, direction])
                for side, lists in (("left", self.left), ("right", self.right)):
                    head = {
                        **head_columns(self.layer, of),
                        "direction": direction,
                        "side": side,
                        "singular_value": value,
                    }
                    rows.extend(head | row for row in lists.rows(h * self.n + direction))
        return pd.DataFrame(rows)


@require_weights
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
) -> HeadSpectrum:
    """Singular value decomposition of W_QK or W_OV, read as words on both sides.

    `exact`: of `W_QK = s A_Q A_K^T` (both sides against `N(W_E)`) or `W_OV = A_V A_O` (left against
    `N(W_E)`, right through the readout `A_U`, relative to the mean word because logits count only
    up to a constant); scores are dot products of unit vectors with the words' points.
    `published`: of `W_Q W_K^T / sqrt(d_head)` (left scaled by S, both sides against `n(W_E)`) or
    `W_V W_O` (left against `n(W_E)`, right against `W_E`). The sign of a pair is kept when
    `max_w v.M_w >= max_w -v.M_w` over the right-hand vocabulary, else both sides are flipped.

    Args:
        weights: from `read_weights`.
        layer: which block.
        circuit: "QK" or "OV".
        n: leading directions to read, at most d_head of them.
        k: words per side.
        convention: "exact" or "published".
        head: one head, or None for all.
        distance: how far the key lies behind the query (QK, `exact`, layers that rotate positions):
            the decomposition is of `s A_Q R(distance) A_K^T`.
        token_filter: which words may be listed (`exact`), from `token_filter`; all of them by default. The
            signs are those of the whole vocabulary.

    Returns:
        All singular values `[heads, d_head]` and the words of the leading n directions, beside what
        random directions list (`exact`; see `NullComparison`, and `direction_coherence` for more controls). Words of
        neighbouring directions with nearly equal singular values may mix.

    Raises:
        IndexError: the layer or the head does not exist.
        ValueError: unknown circuit or convention, `published` on processed weights, an offset
            where positions do not rotate, a filter that does not fit.

    Example:
        >>> head_spectrum(weights, layer=1, circuit="OV").singular_values.shape
        torch.Size([4, 16])

    Source: arXiv 2309.07315, section 4.5.
    """
    require_choice("circuit", circuit, CIRCUITS)
    require_positive("n", n)
    require_positive("k", k)
    require_distance(distance, circuit, convention)
    rules = convention_rules(weights, convention)
    keep = allowed_mask(weights, token_filter, convention)
    block = weights.block(layer)
    heads = block.heads(head)
    n = min(n, block.W_Q.shape[-1] if circuit == "QK" else block.W_V.shape[-1])
    svd = head_svd(block, heads, circuit, rules, distance=distance)
    left, right = svd.left[..., :n].mT.flatten(0, 1), svd.right[..., :n].mT.flatten(0, 1)
    left = rules.left_vectors(left, svd.S[:, :n], circuit)
    sides = tokens_of_direction_pair(
        weights, block.norm, circuit, left, right, k, rules=rules, keep=keep
    )
    nulls = (None, None)
    if rules.has_null:
        nulls = compare_sides_with_null(weights, block.norm, circuit, *sides, keep)
    return HeadSpectrum(
        model_name=weights.model_name,
        layer=layer,
        circuit=circuit,
        convention=convention,
        distance=distance,
        heads=tuple(heads),
        n=n,
        singular_values=svd.S,
        left=make_token_lists(sides[0], weights.tokens, nulls[0]),
        right=make_token_lists(sides[1], weights.tokens, nulls[1]),
        token_filter=token_filter,
        caveats=caveats_at_distance(weights.caveats, distance, circuit)
        + filter_caveat(token_filter),
    )
