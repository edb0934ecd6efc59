"""What does a head look for at a distance? Its words and its scores as the key moves away."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses.conventions import EXACT
from tw_lens.analyses.head_probe import compare_keys_with_null
from tw_lens.canonical import Block, Weights
from tw_lens.errors import Caveat
from tw_lens.geometry import concat
from tw_lens.results.arguments import require_positive, require_weights
from tw_lens.results.base import Result, component_label, head_columns
from tw_lens.results.caveats import caveats_at_distance
from tw_lens.results.token_lists import TokenLists, make_token_lists

DISTANCES = (0, 1, 2, 4, 8, 16)


@dataclass(frozen=True, repr=False, eq=False)
class HeadProbeByDistance(Result):
    """The keys each head prefers for each word, at each distance back.

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
    caveats: tuple[Caveat, ...] = ()

    @property
    def components(self) -> tuple[str, ...]:
        """A label per head: "L5H1"."""
        return tuple(component_label(self.layer, head) for head in self.heads)

    def headline(self) -> str:
        """How many words, heads and distances."""
        return (
            f"{self.model_name} layer {self.layer}: {len(self.words)} words through "
            f"{len(self.components)} heads at distances {', '.join(map(str, self.distances))}"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """One row per word found.

        Columns: layer, head, component, word, word_index, offset, rank, token_index, token_string, score and,
        where the list has a control, coherence, above (see `NullComparison`).
        """
        rows, which = [], 0
        for distance in self.distances:
            for of in self.heads:
                for word, index in zip(self.words, self.word_index, strict=True):
                    head = {
                        **head_columns(self.layer, of),
                        "word": word,
                        "word_index": index,
                        "distance": distance,
                    }
                    rows.extend(head | row for row in self.lists.rows(which))
                    which += 1
        return pd.DataFrame(rows)


@dataclass(frozen=True, repr=False, eq=False)
class HeadScoreByDistance(Result):
    """Each head's attention score between words, as a function of their distance.

    `mean` and `std` are over all pairs of a query word and a key word (position bias included).
    """

    model_name: str
    layer: int
    distances: tuple[int, ...]
    heads: tuple[int, ...]
    words: tuple[str, ...]
    dropped: tuple[str, ...]
    mean: Float[Tensor, "heads offsets"]
    std: Float[Tensor, "heads offsets"]
    caveats: tuple[Caveat, ...] = ()

    @property
    def components(self) -> tuple[str, ...]:
        """A label per head: "L5H1"."""
        return tuple(component_label(self.layer, head) for head in self.heads)

    def headline(self) -> str:
        """The heads whose scores fall and rise most from the first to the last distance."""
        change = self.mean[:, -1] - self.mean[:, 0]
        low, high = int(change.argmin()), int(change.argmax())
        return (
            f"{self.model_name} layer {self.layer}: from distance {self.distances[0]} to "
            f"{self.distances[-1]} the mean score of {len(self.words)} words changes by "
            f"{float(change[low]):+.2f} ({self.components[low]}) to {float(change[high]):+.2f} "
            f"({self.components[high]})"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Columns: layer, head, component, offset, mean, std."""
        rows = [
            head_columns(self.layer, head)
            | {"distance": distance, "mean": float(self.mean[c, o]), "std": float(self.std[c, o])}
            for c, head in enumerate(self.heads)
            for o, distance in enumerate(self.distances)
        ]
        return pd.DataFrame(rows)


@require_weights
def head_probe_by_distance(
    weights: Weights,
    *,
    layer: int,
    words: Iterable[str | int],
    distances: Iterable[int] = DISTANCES,
    k: int = 5,
    head: int | None = None,
) -> HeadProbeByDistance:
    """Which keys does a head look for at distance 0, 1, 2, 4, ...?

    `head_probe` in the exact convention at every distance: the words v with the highest
    `s (N(w) A_Q + a_Q) R(distance) k_v^T`.

    Args:
        weights: from `read_weights`.
        layer: which block; it must rotate its queries and keys.
        words: the query words: single tokens or token ids.
        distances: distances from the query back to the key.
        k: keys per list.
        head: one head, or None for all.

    Raises:
        IndexError: the layer, the head or a token id does not exist.
        ValueError: positions do not rotate in this layer, no distance or no word is left.

    Example:
        >>> head_probe_by_distance(weights, layer=0, words=["w5"], distances=[1])
        Traceback (most recent call last):
        ValueError: distance=1 needs rotary positions and layer 0 does not rotate its queries...

    Source: rotary positions, arXiv 2104.09864, in the canonical form of a head.
    """
    require_positive("k", k)
    block = weights.block(layer)
    heads, distances = block.heads(head), _distances(block, distances)
    index, dropped = weights.tokens.look_up(words)
    ids = torch.tensor(index)
    lists = [
        EXACT.top_keys(weights, block, ids, heads, k, distance=distance) for distance in distances
    ]
    found = concat(lists)
    return HeadProbeByDistance(
        model_name=weights.model_name,
        layer=layer,
        distances=distances,
        heads=tuple(heads),
        word_index=tuple(index),
        words=tuple(weights.tokens.strings(index)),
        dropped=tuple(dropped),
        lists=make_token_lists(
            found, weights.tokens, compare_keys_with_null(weights, block, found)
        ),
        caveats=caveats_at_distance(weights.caveats, max(distances), "QK"),
    )


@require_weights
def head_score_by_distance(
    weights: Weights,
    *,
    layer: int,
    words: Iterable[str | int],
    distances: Iterable[int] = tuple(range(33)),
    head: int | None = None,
) -> HeadScoreByDistance:
    """How does a head's score depend on distance alone?

    The mean and the standard deviation, over all pairs of a query word and a key word of the list,
    of the model's own score at each distance: `cap(s n_q(q) R(distance) n_k(k)^T - slope * distance)`,
    the slope being ALiBi's.

    Args:
        weights: from `read_weights`.
        layer: which block; it must rotate its queries and keys, or use ALiBi.
        words: single tokens or token ids; every pair of two of them is scored.
        distances: distances from the query back to the key.
        head: one head, or None for all.

    Raises:
        IndexError: the layer, the head or a token id does not exist.
        ValueError: scores of this layer do not depend on the distance, no distance or word left.

    Example:
        >>> head_score_by_distance(weights, layer=0, words=["w5"])
        Traceback (most recent call last):
        ValueError: scores of layer 0 do not depend on the distance of two words: it neither...

    Source: rotary positions, arXiv 2104.09864; ALiBi, arXiv 2108.12409.
    """
    block = weights.block(layer)
    attention_scores = block.attention_scores
    if attention_scores.rotary is None and attention_scores.slopes is None:
        raise ValueError(
            f"scores of layer {layer} do not depend on the distance of two words: it neither "
            "rotates its queries and keys nor uses ALiBi."
        )
    heads = block.heads(head)
    distances = _distances(block, distances, rotates=attention_scores.rotary is not None)
    index, dropped = weights.tokens.look_up(words)
    x = weights.vocabulary.embed(torch.tensor(index))
    q, k = block.queries(x), block.attention_scores.normalised_key(block.keys(x))[:, block.kv_head]
    means, stds = [], []
    for distance in distances:
        turned = block.query_at_distance(q, distance if attention_scores.rotary is not None else 0)
        scores = torch.einsum("ihe,jhe->hij", turned, k)
        if attention_scores.slopes is not None:
            scores = scores - distance * attention_scores.slopes[:, None, None]
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
        caveats=caveats_at_distance(weights.caveats, max(distances), "QK"),
    )


def _distances(block: Block, distances: Iterable[int], *, rotates: bool = True) -> tuple[int, ...]:
    distances = tuple(int(distance) for distance in distances)
    if not distances:
        raise ValueError("no distance was given: distances=[0, 1, 2, 4] fits.")
    for distance in distances:
        block.require_distance(distance if rotates or distance < 0 else 0)
    return distances
