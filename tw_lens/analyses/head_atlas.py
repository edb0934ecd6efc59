"""What does every head of a model connect? One table: both circuits, both sides, as words."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tw_lens.analyses.head_directions import (
    compare_sides_with_null,
    head_svd,
    tokens_of_direction_pair,
)
from tw_lens.analyses.token_filter import TokenFilter, allowed_mask, filter_caveat
from tw_lens.canonical import Norm, Weights
from tw_lens.errors import Caveat
from tw_lens.geometry import TopTokens, concat
from tw_lens.progress import Progress, steps
from tw_lens.results.arguments import (
    CIRCUITS,
    Circuit,
    require_choice,
    require_positive,
    require_weights,
)
from tw_lens.results.base import Result, head_columns
from tw_lens.results.token_lists import (
    NullComparison,
    TokenLists,
    make_token_lists,
    significance_summary,
)
from tw_lens.tokens import visible

AT_ONCE = 2048


@dataclass(frozen=True, repr=False, eq=False)
class HeadAtlas(Result):
    """The leading directions of every head's W_QK and W_OV, read as words on both sides.

    Everything is aligned with `entries` `(layer, head, circuit, direction)`, layers outermost.
    QK: left = query, right = key. OV: left = read, right = written.
    """

    model_name: str
    entries: tuple[tuple[int, int, Circuit, int], ...]
    singular_value: Float[Tensor, " entries"]
    share: Float[Tensor, " entries"]
    left: TokenLists
    right: TokenLists
    token_filter: TokenFilter | None = None
    caveats: tuple[Caveat, ...] = ()

    def headline(self) -> str:
        """How many heads, and where a single direction holds most of its spectrum."""
        heads = {(layer, head) for layer, head, _, _ in self.entries}
        strongest = int(self.share.argmax())
        layer, head, circuit, direction = self.entries[strongest]
        return (
            f"{self.model_name}: {len(heads)} heads; the most concentrated spectrum is that of "
            f"L{layer}H{head} {circuit} ({100 * float(self.share[strongest]):.0f} % in direction "
            f"{direction}){'' if self.token_filter is None else f', words among {self.token_filter.description}'}"
            f"{significance_summary(self.left, self.right)}"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """One row per head, circuit and direction.

        Columns: layer, head, component, circuit, direction, singular_value, share, left_tokens,
        right_tokens (the words best first, a space between two, spaces of their own marked), and the
        control beside each side: left_coherence, left_exceeds_null, right_coherence, right_exceeds_null (see
        `NullComparison`).
        """
        rows = [
            (
                *head_columns(layer, head).values(),
                circuit,
                direction,
                float(self.singular_value[at]),
                float(self.share[at]),
                " ".join(map(visible, self.left.token_string[at])),
                " ".join(map(visible, self.right.token_string[at])),
                *self.left.control(at).values(),
                *self.right.control(at).values(),
            )
            for at, (layer, head, circuit, direction) in enumerate(self.entries)
        ]
        names = ["layer", "head", "component", "circuit", "direction", "singular_value", "share",
                 "left_tokens", "right_tokens", "left_coherence", "left_exceeds_null", "right_coherence",
                 "right_exceeds_null"]  # fmt: skip
        return pd.DataFrame(rows, columns=names)

    def only(
        self,
        *,
        layers: Sequence[int] | None = None,
        circuit: Circuit | None = None,
        word: str | None = None,
    ) -> HeadAtlas:
        """The heads of some layers, of one map, or with a word in a list of either side.

        Args:
            layers: blocks; all by default.
            circuit: "QK" or "OV"; both by default.
            word: what a listed word holds, in any case; give `" dog"` for words that begin so.

        Raises:
            ValueError: an unknown circuit, or nothing is left.

        Example:
            >>> atlas = head_atlas(weights, n=1)
            >>> len(atlas.only(layers=[2], circuit="OV").entries)
            4
        """
        if circuit is not None:
            require_choice("circuit", circuit, CIRCUITS)
        chosen = None if layers is None else set(layers)
        words = map(operator.add, self.left.token_string, self.right.token_string)
        kept = [
            at
            for at, ((layer, _, of, _), listed) in enumerate(zip(self.entries, words, strict=True))
            if (chosen is None or layer in chosen)
            and circuit in (None, of)
            and (word is None or any(word.lower() in w.lower() for w in listed))
        ]
        if not kept:
            raise ValueError(
                f"no row of the atlas has layers={sorted(chosen) if chosen else 'all'}, "
                f"circuit={circuit or 'QK or OV'} and a word with {word!r}: choose less narrowly, "
                "or ask head_atlas for more directions (n) or words (k)."
            )
        return replace(
            self,
            entries=tuple(self.entries[at] for at in kept),
            singular_value=self.singular_value[kept],
            share=self.share[kept],
            left=self.left.subset(kept),
            right=self.right.subset(kept),
        )


@require_weights
def head_atlas(
    weights: Weights,
    *,
    layers: Sequence[int] | None = None,
    n: int = 3,
    k: int = 5,
    token_filter: TokenFilter | None = None,
    progress: Progress = False,
) -> HeadAtlas:
    """Which words does every head of the model connect?

    The leading directions of `head_spectrum` (exact convention, distance 0) for all heads: of
    `W_QK = s A_Q A_K^T` and `W_OV = A_V A_O`. Blocks are read one at a time; the vocabulary is
    passed over once per circuit, for all heads together.

    Args:
        weights: from `read_weights`.
        layers: which blocks; all that attend by default.
        n: leading directions per head and circuit, at most d_head of them.
        k: words per side.
        token_filter: which words may be listed, from `token_filter`; all of them by default.
        progress: True shows a bar; a function is called with a sentence at each step.

    Returns:
        A row per head, circuit and direction; `share` is `S_i / sum(S)`.

    Raises:
        IndexError: a layer does not exist.
        UnsupportedModelError: a layer does not attend.
        ValueError: n or k below 1, no layer, or a filter of another vocabulary.

    Example:
        >>> head_atlas(weights, n=1).to_dataframe().shape
        (24, 13)

    Source: arXiv 2309.07315, section 4.5, for all heads at once.
    """
    require_positive("n", n)
    require_positive("k", k)
    chosen = weights.require_layers(weights.attention_layers if layers is None else layers)
    keep = allowed_mask(weights, token_filter)
    found: list[_Directions] = []
    with steps(progress, total=len(chosen), unit="layer") as step:
        for layer in chosen:
            step(f"Decomposing the heads of layer {layer}")
            found += _directions(weights, layer, n)
        step("Ranking the tokens of their directions", 0)
    groups = [
        [directions for directions in found if directions.sphere == sphere]
        for sphere in dict.fromkeys(directions.sphere for directions in found)
    ]
    found = [directions for group in groups for directions in group]
    sides = zip(*(_read(weights, group, k, keep) for group in groups), strict=True)
    (left, beside_left), (right, beside_right) = map(_together, sides)
    entries = [entry for directions in found for entry in directions.entries]
    order = sorted(range(len(entries)), key=lambda at: _place(entries[at], chosen))
    return HeadAtlas(
        model_name=weights.model_name,
        entries=tuple(entries[at] for at in order),
        singular_value=torch.cat([directions.S for directions in found])[order],
        share=torch.cat([directions.share for directions in found])[order],
        left=make_token_lists(left, weights.tokens, beside_left).subset(order),
        right=make_token_lists(right, weights.tokens, beside_right).subset(order),
        token_filter=token_filter,
        caveats=weights.caveats + filter_caveat(token_filter),
    )


class _Directions(NamedTuple):
    """A circuit's leading directions of one layer.

    `sphere` is the circuit and the kind of norm: where it is the same, each word stands at the same
    point (`N(W_E)` knows no gain), and one pass over the vocabulary serves several layers.
    """

    sphere: tuple[Circuit, str, float]
    norm: Norm
    entries: list[tuple[int, int, Circuit, int]]
    S: Float[Tensor, " directions"]
    share: Float[Tensor, " directions"]
    left: Float[Tensor, "directions d_model"]
    right: Float[Tensor, "directions d_model"]


def _directions(weights: Weights, layer: int, n: int) -> list[_Directions]:
    block = weights.block(layer)
    found = []
    for circuit in CIRCUITS:
        svd = head_svd(block, list(range(block.n_heads)), circuit)
        m = min(n, svd.S.shape[-1])
        found.append(
            _Directions(
                sphere=(circuit, block.norm.kind, block.norm.eps),
                norm=block.norm,
                entries=[(layer, h, circuit, i) for h in range(block.n_heads) for i in range(m)],
                S=svd.S[:, :m].flatten(),
                share=(svd.S / svd.S.sum(-1, keepdim=True))[:, :m].flatten(),
                left=svd.left[..., :m].mT.flatten(0, 1),
                right=svd.right[..., :m].mT.flatten(0, 1),
            )
        )
    return found


_Side = tuple[TopTokens, NullComparison | None]


def _read(
    weights: Weights, group: list[_Directions], k: int, keep: Bool[Tensor, " d_vocab"] | None
) -> tuple[_Side, _Side]:
    """Both sides of directions that share their sphere, as words, and the control beside them."""
    left = torch.cat([directions.left for directions in group])
    right = torch.cat([directions.right for directions in group])
    (circuit, *_), norm = group[0].sphere, group[0].norm
    words = [
        tokens_of_direction_pair(weights, norm, circuit, some_left, some_right, k, keep=keep)
        for some_left, some_right in zip(left.split(AT_ONCE), right.split(AT_ONCE), strict=True)
    ]
    found = tuple(map(concat, zip(*words, strict=True)))
    return tuple(
        zip(found, compare_sides_with_null(weights, norm, circuit, *found, keep), strict=True)
    )


def _together(sides: tuple[_Side, ...]) -> _Side:
    """One side of all groups, one after another."""
    found, controls = zip(*sides, strict=True)
    if any(control is None for control in controls):
        return concat(found), None
    return concat(found), NullComparison(*map(torch.cat, zip(*controls, strict=True)))


def _place(entry: tuple[int, int, Circuit, int], layers: tuple[int, ...]) -> tuple:
    layer, head, circuit, direction = entry
    return layers.index(layer), head, CIRCUITS.index(circuit), direction
