"""Bias directions: the tokens that the query and key biases of a head favour."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product

import pandas as pd
import torch

from tw_lens.analyses.conventions import convention_rules
from tw_lens.analyses.null_directions import compare_with_null
from tw_lens.analyses.token_filter import (
    TokenFilter,
    allowed_mask,
    filter_caveat,
    filter_summary,
)
from tw_lens.arguments import checked
from tw_lens.canonical import LayerVocabulary, Weights, combined_mask
from tw_lens.errors import Caveat
from tw_lens.geometry import top_tokens
from tw_lens.results.arguments import Convention
from tw_lens.results.base import HeadComponents, Result, head_columns
from tw_lens.results.token_lists import TokenLists, make_token_lists, significance_summary
from tw_lens.results.token_source import TokenSource

CELLS = (("query", "+"), ("key", "+"), ("query", "-"), ("key", "-"))


@dataclass(frozen=True, repr=False, eq=False)
class BiasDirections(HeadComponents, Result):
    """The highest-scoring tokens of each head's four bias directions.

    `lists` holds one list per head and cell of `CELLS` (side, sign), heads outermost.
    """

    model_name: str
    layer: int
    convention: Convention
    heads: tuple[int, ...]
    lists: TokenLists
    token_filter: TokenFilter | None = None
    token_source: TokenSource = field(default_factory=TokenSource)
    caveats: tuple[Caveat, ...] = ()

    def headline(self) -> str:
        """Return the settings, and how many lists exceed the isotropic null."""
        return (
            f"{self.model_name} layer {self.layer}, {self.convention}: {len(self.heads)} heads"
            f"{filter_summary(self.token_filter)}{significance_summary(self.lists)}"
            f"{self.token_source.summary([self.layer], ['QK'])}"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per listed token.

        Columns: layer, head, component, side, sign, rank, token_index, token_string, score and, in
        the exact convention, count (states behind the token's point, with a text vocabulary),
        coherence, exceeds_null (see `NullComparison`), faithfulness.
        """
        rows = []
        for index, (head, (side, sign)) in enumerate(product(self.heads, CELLS)):
            columns = head_columns(self.layer, head, self.model_name) | {"side": side, "sign": sign}
            source = self.token_source.columns(self.layer, head, "QK")
            rows.extend(columns | row | source for row in self.lists.rows(index))
        return pd.DataFrame(rows)


@checked
def bias_directions(
    weights: Weights,
    *,
    layer: int,
    k: int = 5,
    convention: Convention = "exact",
    head: int | None = None,
    token_filter: TokenFilter | None = None,
    vocabulary: LayerVocabulary | None = None,
) -> BiasDirections:
    """Return the tokens that the query and key biases of each head favour.

    `exact`: "query" is `A_Q a_K` (the queries that the constant part of the key favours), "key" is
    `a_Q A_K^T` (the keys that the constant part of the query favours), both signs, against
    `N(W_E)`. `published`: `W_Q b_K` and `b_Q W_K^T` against `n(W_E)`. Scores are dot products,
    without the attention scale.

    Args:
        weights: from `read_weights`.
        layer: index of the block.
        k: tokens per direction.
        convention: "exact" or "published".
        head: one head, or None for all.
        token_filter: the tokens that may be listed (`exact`), from `token_filter`; all by default.
        vocabulary: points of the tokens at this layer, from `layer_vocabulary`; their embeddings
            by default.

    Raises:
        IndexError: the layer or the head does not exist.
        TypeError: an argument of another type.
        ValueError: unknown convention, `published` on processed weights, or a layer whose queries
            and keys have no bias at all.

    Example:
        >>> bias_directions(weights, layer=0).heads
        (0, 1, 2, 3)

    Source: arXiv 2309.07315, section 4.3.
    """
    rules = convention_rules(weights, convention)
    keep = allowed_mask(weights, token_filter, convention)
    block = weights.block(layer)
    heads = block.heads(head)
    points = rules.points(weights, block, vocabulary)
    query, key = (side[heads] for side in rules.bias_directions(block))
    if not query.any() and not key.any():
        raise ValueError(
            f"bias_directions needs a query or key bias: layer {layer} of {weights.model_name} has "
            "no bias on queries or keys (neither its own nor the norm's)."
        )
    directions = torch.stack([query, key, -query, -key], dim=1).flatten(0, 1)
    result = top_tokens(directions, points.rows, k, keep=combined_mask(keep, points))
    result = result.without(~directions.any(-1))
    null = None
    if rules.has_null:
        null = compare_with_null(weights, result, "points", points, keep)
    source = rules.token_source(vocabulary)
    return BiasDirections(
        model_name=weights.model_name,
        layer=layer,
        convention=convention,
        heads=tuple(heads),
        lists=make_token_lists(result, weights.tokens, null, source.count),
        token_filter=token_filter,
        token_source=source,
        caveats=weights.caveats + filter_caveat(token_filter) + source.caveats([layer]),
    )
