"""What does a head look for when no word asks? The biases' directions in W_QK as words."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch

from tw_lens.analyses.conventions import convention_rules
from tw_lens.analyses.null_directions import compare_with_null
from tw_lens.analyses.token_filter import TokenFilter, allowed_mask, filter_caveat
from tw_lens.canonical import Weights
from tw_lens.errors import Caveat
from tw_lens.geometry import top_tokens as top_tokens
from tw_lens.results.arguments import (
    Convention,
    require_positive,
    require_weights,
)
from tw_lens.results.base import Result, component_label, head_columns
from tw_lens.results.token_lists import TokenLists, make_token_lists, significance_summary

CELLS = (("query", "+"), ("key", "+"), ("query", "-"), ("key", "-"))


@dataclass(frozen=True, repr=False, eq=False)
class BiasDirections(Result):
    """For each head, the words along the four bias directions (heads outermost, then `CELLS`)."""

    model_name: str
    layer: int
    convention: Convention
    heads: tuple[int, ...]
    lists: TokenLists
    token_filter: TokenFilter | None = None
    caveats: tuple[Caveat, ...] = ()

    @property
    def components(self) -> tuple[str, ...]:
        """A label per head: "L5H1"."""
        return tuple(component_label(self.layer, head) for head in self.heads)

    def headline(self) -> str:
        """What was read."""
        read = f"{self.model_name} layer {self.layer}, {self.convention}: {len(self.heads)} heads"
        return read + significance_summary(self.lists)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per word.

        Columns: layer, head, component, side, sign, rank, token_index, token_string, score and, in the exact
        convention, coherence, above (the control beside the list, see `NullComparison`).
        """
        rows = []
        for which in range(self.lists.score.shape[0]):
            side, sign = CELLS[which % len(CELLS)]
            head = head_columns(self.layer, self.heads[which // len(CELLS)])
            head |= {"side": side, "sign": sign}
            rows.extend(head | row for row in self.lists.rows(which))
        return pd.DataFrame(rows)


@require_weights
def bias_directions(
    weights: Weights,
    *,
    layer: int,
    k: int = 5,
    convention: Convention = "exact",
    head: int | None = None,
    token_filter: TokenFilter | None = None,
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
        head: one head, or None for all.
        token_filter: which tokens may be listed (`exact`), from `token_filter`; all by default.

    Raises:
        IndexError: the layer or the head does not exist.
        ValueError: unknown convention, `published` on processed weights, or a layer whose queries
            and keys have no bias at all (there is no direction to read).

    Example:
        >>> bias_directions(weights, layer=0).heads
        (0, 1, 2, 3)

    Source: arXiv 2309.07315, section 4.3.
    """
    require_positive("k", k)
    rules = convention_rules(weights, convention)
    keep = allowed_mask(weights, token_filter, convention)
    block = weights.block(layer)
    heads = block.heads(head)
    query, key = (side[heads] for side in rules.bias_directions(block))
    if not query.any() and not key.any():
        raise ValueError(
            f"layer {layer} of {weights.model_name} has no bias on queries or keys (neither its "
            "own nor the norm's): there is no bias direction to read."
        )
    directions = torch.stack([query, key, -query, -key], dim=1).flatten(0, 1)
    result = top_tokens(directions, rules.points(weights, block.norm), k, keep=keep)
    null = None
    if rules.has_null:
        null = compare_with_null(weights, result, "points", block.norm, keep)
    return BiasDirections(
        model_name=weights.model_name,
        layer=layer,
        convention=convention,
        heads=tuple(heads),
        lists=make_token_lists(result, weights.tokens, null),
        token_filter=token_filter,
        caveats=weights.caveats + filter_caveat(token_filter),
    )
