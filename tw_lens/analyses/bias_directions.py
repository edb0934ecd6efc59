"""What does a head look for when no word asks? The biases' directions in W_QK as words."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch

from tw_lens.analyses.controls import beside
from tw_lens.analyses.result import (
    CONVENTIONS,
    Convention,
    Result,
    WordLists,
    of_weights,
    require_choice,
    require_positive,
    said_above,
    word_lists,
)
from tw_lens.canonical import Weights
from tw_lens.errors import Caveat
from tw_lens.geometry import nearest

CELLS = (("query", "+"), ("key", "+"), ("query", "-"), ("key", "-"))


@dataclass(frozen=True, repr=False, eq=False)
class BiasDirections(Result):
    """For each head, the words along the four bias directions (heads outermost, then `CELLS`)."""

    model_name: str
    layer: int
    convention: Convention
    lists: WordLists
    caveats: tuple[Caveat, ...] = ()

    @property
    def n_heads(self) -> int:
        """Number of heads read."""
        return self.lists.score.shape[0] // len(CELLS)

    def headline(self) -> str:
        """What was read."""
        read = f"{self.model_name} layer {self.layer}, {self.convention}: {self.n_heads} heads"
        return read + said_above(self.lists)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per word.

        Columns: component, side, sign, rank, token_index, token_string, score and, in the exact
        convention, coherence, above (the control beside the list, see `Beside`).
        """
        rows = []
        for which in range(self.lists.score.shape[0]):
            side, sign = CELLS[which % len(CELLS)]
            component = f"L{self.layer}H{which // len(CELLS)}"
            head = {"component": component, "side": side, "sign": sign}
            rows.extend(head | row for row in self.lists.rows(which))
        return pd.DataFrame(rows)


@of_weights
def bias_directions(
    weights: Weights, *, layer: int, k: int = 5, convention: Convention = "exact"
) -> BiasDirections:
    """The words that the query and key biases of each head prefer.

    `exact`: "query" is `A_Q a_K` (which queries the constant key attracts), "key" is `a_Q A_K^T`
    (which keys the constant query prefers), both signs, against `N(W_E)`. `published`: `W_Q b_K`
    and `b_Q W_K^T` against `n(W_E)`. Scores are dot products, without the attention scale.

    Args:
        weights: from `read_weights`.
        layer: which block.
        k: words per direction.
        convention: "exact" or "published".

    Raises:
        IndexError: the layer does not exist.
        ValueError: unknown convention, `published` on processed weights, or a layer whose queries
            and keys have no bias at all (there is no direction to read).

    Example:
        >>> bias_directions(weights, layer=0).n_heads
        4

    Source: arXiv 2309.07315, section 4.3.
    """
    require_choice("convention", convention, CONVENTIONS)
    require_positive("k", k)
    if convention == "published":
        weights.require_unprocessed('convention="published"')
    block = weights.block(layer)
    kv = block.kv_head
    if convention == "published":
        query = torch.einsum("hde,he->hd", block.W_Q, block.b_K[kv])
        key = torch.einsum("he,hde->hd", block.b_Q, block.W_K[kv])
        rows = weights.vocabulary.on_ellipsoid(block.norm)
    else:
        (L, R), (a_Q, a_K) = block.qk_factors(), block.qk_constants()
        query = torch.einsum("hde,he->hd", L, a_K[kv])
        key = torch.einsum("he,hde->hd", a_Q, R[kv])
        rows = weights.vocabulary.on_sphere(block.norm)
    if not query.any() and not key.any():
        raise ValueError(
            f"layer {layer} of {weights.model_name} has no bias on queries or keys (neither its "
            "own nor the norm's): there is no bias direction to read."
        )
    directions = torch.stack([query, key, -query, -key], dim=1).flatten(0, 1)
    found = nearest(directions, rows, k)
    control = None if convention == "published" else beside(weights, found, "points", block.norm)
    lists = word_lists(found, weights.tokens, control)
    return BiasDirections(weights.model_name, layer, convention, lists, weights.caveats)
