"""What does every head of a model connect? One table: both circuits, both sides, as words."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tw_lens.analyses.head_spectrum import head_svd, signed_words
from tw_lens.analyses.result import (
    CIRCUITS,
    Circuit,
    Result,
    WordLists,
    require_positive,
    word_lists,
)
from tw_lens.analyses.word_filter import WordFilter, listed
from tw_lens.canonical import Norm, Weights
from tw_lens.errors import Caveat
from tw_lens.geometry import Neighbours
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
    left: WordLists
    right: WordLists
    among: WordFilter | None = None
    caveats: tuple[Caveat, ...] = ()

    def headline(self) -> str:
        """How many heads, and where a single direction holds most of its spectrum."""
        heads = {(layer, head) for layer, head, _, _ in self.entries}
        strongest = int(self.share.argmax())
        layer, head, circuit, direction = self.entries[strongest]
        return (
            f"{self.model_name}: {len(heads)} heads; the most concentrated spectrum is that of "
            f"L{layer}H{head} {circuit} ({100 * float(self.share[strongest]):.0f} % in direction "
            f"{direction}){'' if self.among is None else f', words among {self.among.said}'}"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """One row per head, circuit and direction.

        Columns: layer, head, component, circuit, direction, singular_value, share, left_words,
        right_words (the words best first, a space between two, spaces of their own marked).
        """
        rows = [
            (
                layer,
                head,
                f"L{layer}H{head}",
                circuit,
                direction,
                float(self.singular_value[at]),
                float(self.share[at]),
                " ".join(map(visible, self.left.token_string[at])),
                " ".join(map(visible, self.right.token_string[at])),
            )
            for at, (layer, head, circuit, direction) in enumerate(self.entries)
        ]
        names = ["layer", "head", "component", "circuit", "direction", "singular_value", "share",
                 "left_words", "right_words"]  # fmt: skip
        return pd.DataFrame(rows, columns=names)


def head_atlas(
    weights: Weights,
    *,
    layers: Iterable[int] | None = None,
    n: int = 3,
    k: int = 5,
    among: WordFilter | None = None,
    progress: Callable[[str], None] | None = None,
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
        among: which words may be listed, from `word_filter`; all of them by default.
        progress: called with a sentence at each step.

    Returns:
        A row per head, circuit and direction; `share` is `S_i / sum(S)`.

    Raises:
        IndexError: a layer does not exist.
        UnsupportedModel: a layer does not attend.
        ValueError: n or k below 1, no layer, or a filter of another vocabulary.

    Example:
        >>> head_atlas(weights, n=1).to_dataframe().shape
        (24, 9)

    Source: arXiv 2309.07315, section 4.5, for all heads at once.
    """
    require_positive("n", n)
    require_positive("k", k)
    chosen = weights.attention_layers if layers is None else tuple(dict.fromkeys(layers))
    if not chosen:
        raise ValueError("layers is empty: name at least one block, or leave it out.")
    keep = listed(weights, among)
    say = progress or (lambda step: None)
    groups: dict[tuple, list[_Directions]] = {}
    for layer in chosen:
        say(f"Reading the heads of layer {layer}")
        for found in _directions(weights, layer, n):
            groups.setdefault(found.sphere, []).append(found)
    say("Reading their directions as words")
    parts = [_read(weights, group, k, keep) for group in groups.values()]
    entries = [entry for part in parts for entry in part.entries]
    order = sorted(range(len(entries)), key=lambda at: _place(entries[at], chosen))
    joined = [torch.cat([getattr(p, name) for p in parts]) for name in ("S", "share")]
    left, right = (
        Neighbours(*(torch.cat(column)[order] for column in zip(*side, strict=True)))
        for side in ([p.left for p in parts], [p.right for p in parts])
    )
    return HeadAtlas(
        model_name=weights.model_name,
        entries=tuple(entries[at] for at in order),
        singular_value=joined[0][order],
        share=joined[1][order],
        left=word_lists(left, weights.tokens),
        right=word_lists(right, weights.tokens),
        among=among,
        caveats=weights.caveats + (() if among is None else (among.caveat,)),
    )


class _Directions(NamedTuple):
    """A circuit's leading directions of one layer; `sphere` says which point each word is there."""

    sphere: tuple
    norm: Norm
    entries: list[tuple[int, int, Circuit, int]]
    S: Tensor
    share: Tensor
    left: Tensor
    right: Tensor


class _Words(NamedTuple):
    entries: list[tuple[int, int, Circuit, int]]
    S: Tensor
    share: Tensor
    left: Neighbours
    right: Neighbours


def _directions(weights: Weights, layer: int, n: int) -> list[_Directions]:
    block = weights.block(layer)
    norm, found = block.norm, []
    for circuit in CIRCUITS:
        svd = head_svd(block, list(range(block.n_heads)), circuit)
        m = min(n, svd.S.shape[-1])
        entries = [(layer, h, circuit, i) for h in range(block.n_heads) for i in range(m)]
        sphere = (circuit, norm.kind, norm.eps)  # N(W_E) knows no gain: layers share their points
        S, share = svd.S[:, :m], (svd.S / svd.S.sum(-1, keepdim=True))[:, :m]
        sides = (side[..., :m].mT.flatten(0, 1) for side in (svd.left, svd.right))
        found.append(_Directions(sphere, norm, entries, S.flatten(), share.flatten(), *sides))
    return found


def _read(
    weights: Weights, group: list[_Directions], k: int, keep: Bool[Tensor, " d_vocab"] | None
) -> _Words:
    left, right = (torch.cat([getattr(d, side) for d in group]) for side in ("left", "right"))
    circuit = group[0].sphere[0]
    batches = [
        signed_words(weights, group[0].norm, circuit, "exact", some_left, some_right, k, keep)
        for some_left, some_right in zip(left.split(AT_ONCE), right.split(AT_ONCE), strict=True)
    ]
    words = (
        Neighbours(*(torch.cat(column) for column in zip(*side, strict=True)))
        for side in zip(*batches, strict=True)
    )
    entries = [entry for directions in group for entry in directions.entries]
    S, share = (torch.cat([getattr(d, name) for d in group]) for name in ("S", "share"))
    return _Words(entries, S, share, *words)


def _place(entry: tuple[int, int, Circuit, int], layers: tuple[int, ...]) -> tuple:
    layer, head, circuit, direction = entry
    return layers.index(layer), head, CIRCUITS.index(circuit), direction
