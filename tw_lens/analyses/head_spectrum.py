"""Which words does a head connect? Singular vectors of W_QK and W_OV, both sides as words."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tw_lens.analyses.controls import SIDES, beside, table_of
from tw_lens.analyses.result import (
    CIRCUITS,
    CONVENTIONS,
    Beside,
    Circuit,
    Convention,
    Result,
    WordLists,
    at_distance,
    of_weights,
    require_choice,
    require_offset,
    require_positive,
    said_above,
    word_lists,
)
from tw_lens.analyses.word_filter import WordFilter, chosen_words, listed
from tw_lens.canonical import Block, Norm, Weights
from tw_lens.errors import Caveat
from tw_lens.geometry import (
    FactoredSVD,
    Neighbours,
    chosen,
    factored_svd,
    nearest_of_both_signs,
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
    offset: int
    heads: tuple[int, ...]
    n: int
    singular_values: Float[Tensor, "heads d_head"]
    left: WordLists
    right: WordLists
    among: WordFilter | None = None
    caveats: tuple[Caveat, ...] = ()

    @property
    def components(self) -> tuple[str, ...]:
        """A label per head: "L5H1"."""
        return tuple(f"L{self.layer}H{head}" for head in self.heads)

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
            f"{f' at distance {self.offset}' if self.offset else ''}, {self.convention}: "
            f"{len(self.heads)} heads, 99 % of the spectrum in "
            f"{float(self.directions_for_99.mean()):.0f} % of the directions"
            f"{'' if self.among is None else f', words among {self.among.said}'}"
            f"{said_above(self.left, self.right)}"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """One row per word.

        Columns: component, direction, side, singular_value, rank, token_index, token_string, score
        and, in the exact convention, coherence, above (the control beside the list, see `Beside`).
        """
        rows = []
        for h, component in enumerate(self.components):
            for direction in range(self.n):
                value = float(self.singular_values[h, direction])
                for side, lists in (("left", self.left), ("right", self.right)):
                    head = {
                        "component": component,
                        "direction": direction,
                        "side": side,
                        "singular_value": value,
                    }
                    rows.extend(head | row for row in lists.rows(h * self.n + direction))
        return pd.DataFrame(rows)


@of_weights
def head_spectrum(
    weights: Weights,
    *,
    layer: int,
    circuit: Circuit = "QK",
    n: int = 20,
    k: int = 5,
    convention: Convention = "exact",
    head: int | None = None,
    offset: int = 0,
    among: WordFilter | None = None,
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
        offset: how far the key lies behind the query (QK, `exact`, layers that rotate positions):
            the decomposition is of `s A_Q R(offset) A_K^T`.
        among: which words may be listed (`exact`), from `word_filter`; all of them by default. The
            signs are those of the whole vocabulary.

    Returns:
        All singular values `[heads, d_head]` and the words of the leading n directions, beside what
        random directions list (`exact`; see `Beside`, and `coherence` for more controls). Words of
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
    require_choice("convention", convention, CONVENTIONS)
    require_positive("n", n)
    require_positive("k", k)
    if convention == "published":
        weights.require_unprocessed('convention="published"')
    keep = listed(weights, among, convention)
    block = weights.block(layer)
    heads = block.heads(head)
    n = min(n, block.W_Q.shape[-1] if circuit == "QK" else block.W_V.shape[-1])
    require_offset(offset, circuit, convention)
    svd = head_svd(block, heads, circuit, convention, offset=offset)
    left, right = svd.left[..., :n].mT.flatten(0, 1), svd.right[..., :n].mT.flatten(0, 1)
    if convention == "published" and circuit == "QK":
        left = left * svd.S[:, :n].flatten()[:, None]
    left_words, right_words = signed_words(
        weights, block.norm, circuit, convention, left, right, k, keep
    )
    controls = (None, None)
    if convention == "exact":
        controls = beside_sides(weights, block.norm, circuit, left_words, right_words, keep)
    return HeadSpectrum(
        model_name=weights.model_name,
        layer=layer,
        circuit=circuit,
        convention=convention,
        offset=offset,
        heads=tuple(heads),
        n=n,
        singular_values=svd.S,
        left=word_lists(left_words, weights.tokens, controls[0]),
        right=word_lists(right_words, weights.tokens, controls[1]),
        among=among,
        caveats=at_distance(weights.caveats, offset, circuit) + chosen_words(among),
    )


def head_svd(
    block: Block,
    heads: list[int],
    circuit: Circuit,
    convention: Convention = "exact",
    *,
    offset: int = 0,
) -> FactoredSVD:
    """Singular values and vectors of some heads' W_QK or W_OV (see `head_spectrum`)."""
    kv = [block.kv_head[h] for h in heads]
    exact = convention == "exact"
    if circuit == "QK":
        L, R = block.qk_factors(offset) if exact else (block.W_Q, block.W_K)
        L = L[heads] * (block.scoring.scale if exact else 1.0)
        svd = factored_svd(L, R, group_of_head=kv)
        return svd if exact else svd._replace(S=svd.S / block.W_Q.shape[-1] ** 0.5)
    V = block.A_V[kv] if exact else block.W_V[kv]
    return factored_svd(V, (block.A_O if exact else block.W_O)[heads].mT)


def beside_sides(
    weights: Weights,
    norm: Norm,
    circuit: Circuit,
    left: Neighbours,
    right: Neighbours,
    keep: Bool[Tensor, " d_vocab"] | None,
) -> tuple[Beside | None, Beside | None]:
    """The control beside the words of both sides (see `signed_words`)."""
    return tuple(
        beside(weights, found, table_of((circuit, side)), norm, keep)
        for side, found in zip(SIDES, (left, right), strict=True)
    )


def signed_words(
    weights: Weights,
    norm: Norm,
    circuit: Circuit,
    convention: Convention,
    left: Float[Tensor, "directions d_model"],
    right: Float[Tensor, "directions d_model"],
    k: int,
    keep: Bool[Tensor, " d_vocab"] | None = None,
) -> tuple[Neighbours, Neighbours]:
    """The words of both sides, each pair's sign chosen by the whole right-hand vocabulary.

    `norm` is the one that the heads of these directions read through.
    """
    vocabulary, exact = weights.vocabulary, convention == "exact"
    points = vocabulary.on_sphere(norm) if exact else vocabulary.on_ellipsoid(norm)
    n = len(left)
    if circuit == "QK":  # one vocabulary for both sides: one pass over it
        both = nearest_of_both_signs(torch.cat([left, right]), points, k, keep=keep)
        words = chosen(both.upright[n:].repeat(2), both.along, both.against)
        return words.of(slice(n)), words.of(slice(n, None))
    rows = weights.readout.columns if exact else vocabulary.rows
    right = weights.readout.met(right) if exact else right
    read = nearest_of_both_signs(left, points, k, keep=keep)
    written = nearest_of_both_signs(right, rows, k, relative=exact, keep=keep)
    return (
        chosen(written.upright, read.along, read.against),
        chosen(written.upright, written.along, written.against),
    )
