"""Preferred keys and attention scores of heads as functions of the query-key distance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses.conventions import EXACT
from tw_lens.analyses.head_probe import compare_keys_with_null
from tw_lens.analyses.token_filter import (
    TokenFilter,
    allowed_mask,
    filter_caveat,
    filter_summary,
    look_up_words,
)
from tw_lens.arguments import checked
from tw_lens.canonical import Block, LayerVocabulary, Weights
from tw_lens.errors import Caveat
from tw_lens.geometry import concat
from tw_lens.results.base import HeadComponents, Result, dropped_summary, head_columns
from tw_lens.results.caveats import caveats_at_distance
from tw_lens.results.token_lists import TokenLists, make_token_lists
from tw_lens.results.token_source import TokenSource, token_source

DISTANCES = (0, 1, 2, 4, 8, 16)


@dataclass(frozen=True, repr=False, eq=False)
class HeadProbeByDistance(HeadComponents, Result):
    """The highest-scoring keys of each head for each word, at each distance.

    `lists` holds one list per distance, component and word, distances outermost.
    """

    model_name: str
    layer: int
    distances: tuple[int, ...]
    heads: tuple[int, ...]
    word_index: tuple[int, ...]
    words: tuple[str, ...]
    dropped: tuple[str, ...]
    lists: TokenLists
    token_filter: TokenFilter | None = None
    token_source: TokenSource = field(default_factory=TokenSource)
    caveats: tuple[Caveat, ...] = ()

    def headline(self) -> str:
        """Return the numbers of words and heads, and the distances."""
        return (
            f"{self.model_name} layer {self.layer}: {len(self.words)} words through "
            f"{len(self.components)} heads at distances {', '.join(map(str, self.distances))}"
            f"{filter_summary(self.token_filter)}{dropped_summary(self.dropped)}"
            f"{self.token_source.summary([self.layer], ['QK'], self.only_head)}"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per listed token.

        Columns: layer, head, component, word, word_index, distance, rank, token_index,
        token_string, score, count (states behind the token's point, with a text vocabulary),
        coherence, exceeds_null (see `NullComparison`), faithfulness.
        """
        rows = []
        words = tuple(zip(self.words, self.word_index, strict=True))
        for index, (distance, head, (word, word_index)) in enumerate(
            product(self.distances, self.heads, words)
        ):
            columns = head_columns(self.layer, head, self.model_name) | {
                "word": word,
                "word_index": word_index,
                "distance": distance,
            }
            source = self.token_source.columns(self.layer, head, "QK")
            rows.extend(columns | row | source for row in self.lists.rows(index))
        return pd.DataFrame(rows)


@dataclass(frozen=True, repr=False, eq=False)
class HeadScoreByDistance(HeadComponents, Result):
    """Attention scores of each head as a function of the query-key distance.

    `mean` and `std` are over all pairs of a query word and a key word (ALiBi bias included).
    """

    model_name: str
    layer: int
    distances: tuple[int, ...]
    heads: tuple[int, ...]
    words: tuple[str, ...]
    dropped: tuple[str, ...]
    mean: Float[Tensor, "heads distances"]
    std: Float[Tensor, "heads distances"]
    token_source: TokenSource = field(default_factory=TokenSource)
    caveats: tuple[Caveat, ...] = ()

    def headline(self) -> str:
        """Return the largest fall and rise of a mean score from the first to the last distance."""
        change = self.mean[:, -1] - self.mean[:, 0]
        low, high = int(change.argmin()), int(change.argmax())
        return (
            f"{self.model_name} layer {self.layer}: from distance {self.distances[0]} to "
            f"{self.distances[-1]} the mean score of {len(self.words)} words changes by "
            f"{float(change[low]):+.2f} ({self.components[low]}) to {float(change[high]):+.2f} "
            f"({self.components[high]}){dropped_summary(self.dropped)}"
            f"{self.token_source.summary([self.layer], ['QK'], self.only_head)}"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per head and distance: layer, head, component, distance, mean, std."""
        rows = [
            head_columns(self.layer, head, self.model_name)
            | {"distance": distance, "mean": float(self.mean[c, i]), "std": float(self.std[c, i])}
            for c, head in enumerate(self.heads)
            for i, distance in enumerate(self.distances)
        ]
        return pd.DataFrame(rows)


@checked
def head_probe_by_distance(
    weights: Weights,
    *,
    layer: int,
    words: Iterable[str | int],
    distances: Iterable[int] = DISTANCES,
    k: int = 5,
    head: int | None = None,
    token_filter: TokenFilter | None = None,
    vocabulary: LayerVocabulary | None = None,
) -> HeadProbeByDistance:
    """Return the keys that score highest for each word at distances 0, 1, 2, 4, ...

    `head_probe` in the exact convention at every distance: the tokens v with the highest
    `s (N(w) A_Q + a_Q) R(distance) k_v^T`, in attention-score units.

    Args:
        weights: from `read_weights`.
        layer: index of the block; distances other than 0 need rotary positions.
        words: the query words: single tokens or token ids.
        distances: distances from the query back to the key.
        k: keys per list.
        head: one head, or None for all.
        token_filter: the tokens that may be listed, from `token_filter`; all by default.
        vocabulary: points of the tokens at this layer, from `layer_vocabulary`; their embeddings
            by default.

    Raises:
        IndexError: the layer, the head or a token id does not exist.
        TypeError: an argument of another type.
        ValueError: a distance in a layer without rotary positions, no distance, no word left, a
            filter that does not fit.

    Example:
        >>> head_probe_by_distance(weights, layer=0, words=["w5"], distances=[1])
        Traceback (most recent call last):
        ValueError: distance=1 needs rotary positions and layer 0 does not rotate its queries...

    Source: rotary positions, arXiv 2104.09864, in the canonical form of a head.
    """
    keep = allowed_mask(weights, token_filter)
    block = weights.block(layer)
    heads, distances = block.heads(head), _distances(block, distances)
    points = EXACT.points(weights, block, vocabulary)
    index, dropped = look_up_words(weights, words, points)
    ids = torch.tensor(index)
    result = concat(
        [
            EXACT.top_keys(weights, block, points, ids, heads, k, distance=distance, keep=keep)
            for distance in distances
        ]
    )
    null = compare_keys_with_null(weights, block, points, result, keep)
    source = token_source(vocabulary)
    return HeadProbeByDistance(
        model_name=weights.model_name,
        layer=layer,
        distances=distances,
        heads=tuple(heads),
        word_index=tuple(index),
        words=tuple(weights.tokens.strings(index)),
        dropped=tuple(dropped),
        lists=make_token_lists(result, weights.tokens, null, source.count),
        token_filter=token_filter,
        token_source=source,
        caveats=caveats_at_distance(weights.caveats, max(distances), "QK")
        + filter_caveat(token_filter)
        + source.caveats([layer]),
    )


@checked
def head_score_by_distance(
    weights: Weights,
    *,
    layer: int,
    words: Iterable[str | int],
    distances: Iterable[int] = tuple(range(33)),
    head: int | None = None,
    vocabulary: LayerVocabulary | None = None,
) -> HeadScoreByDistance:
    """Return the mean attention score between words as a function of their distance.

    The mean and the standard deviation, over all pairs of a query word and a key word of the list,
    of the model's own score at each distance:
    `cap(s n_q(q) R(distance) n_k(k)^T + bias(distance))`, with ALiBi's bias `-slope * distance` or
    T5's bias of every range of distances.

    Args:
        weights: from `read_weights`.
        layer: index of the block; it must have rotary positions, ALiBi or relative position biases.
        words: single tokens or token ids; every ordered pair of them is scored.
        distances: distances from the query back to the key.
        head: one head, or None for all.
        vocabulary: points of the tokens at this layer, from `layer_vocabulary`; their embeddings
            by default.

    Raises:
        IndexError: the layer, the head or a token id does not exist.
        TypeError: an argument of another type.
        ValueError: scores of this layer do not depend on the distance, no distance, no word left.

    Example:
        >>> head_score_by_distance(weights, layer=0, words=["w5"])
        Traceback (most recent call last):
        ValueError: head_score_by_distance needs rotary positions, ALiBi or relative position...

    Source: rotary positions, arXiv 2104.09864; ALiBi, arXiv 2108.12409; relative position biases,
    arXiv 1910.10683.
    """
    block = weights.block(layer)
    attention_scores = block.attention_scores
    rotates = attention_scores.rotary is not None
    if not rotates and attention_scores.distance_bias(torch.zeros(1, dtype=torch.long)) is None:
        raise ValueError(
            "head_score_by_distance needs rotary positions, ALiBi or relative position biases, and "
            f"layer {layer} has none: its scores do not depend on the distance."
        )
    heads = block.heads(head)
    distances = _distances(block, distances, rotates=rotates)
    points = EXACT.points(weights, block, vocabulary)
    index, dropped = look_up_words(weights, words, points)
    y, source = points.at(torch.tensor(index)), token_source(vocabulary)
    k = attention_scores.normalised_key(block.keys_of_points(y))[:, block.kv_head]
    q = block.queries_of_points(y)
    means, stds = [], []
    for distance in distances:
        rotated = block.query_at_distance(q, distance if rotates else 0)
        scores = torch.einsum("ihe,jhe->hij", rotated, k)
        bias = attention_scores.distance_bias(torch.tensor([[-distance]]))
        scores = scores if bias is None else scores + bias
        scores = attention_scores.softcap_scores(scores)[heads].flatten(1)
        means.append(scores.mean(-1))
        stds.append(scores.std(-1, correction=0))
    return HeadScoreByDistance(
        model_name=weights.model_name,
        layer=layer,
        distances=distances,
        heads=tuple(heads),
        words=tuple(weights.tokens.strings(index)),
        dropped=tuple(dropped),
        mean=torch.stack(means, dim=-1),
        std=torch.stack(stds, dim=-1),
        token_source=source,
        caveats=caveats_at_distance(weights.caveats, max(distances), "QK")
        + source.caveats([layer]),
    )


def _distances(block: Block, distances: Iterable[int], *, rotates: bool = True) -> tuple[int, ...]:
    """Return the distances as a tuple; reject those at which the block cannot be read."""
    distances = tuple(distances)
    if not distances:
        raise ValueError("distances is empty; give at least one, e.g. [0, 1, 2, 4].")
    for distance in distances:
        block.attention_scores.require_distance(
            distance if rotates or (distance < 0 and block.attention_scores.causal) else 0,
            block.layer,
        )
    return distances
