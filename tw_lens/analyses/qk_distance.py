"""What does a head look for at a distance? Its words and its scores as the key moves away."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses.head_probe import beside_keys, exact_keys
from tw_lens.analyses.result import (
    Result,
    WordLists,
    at_distance,
    of_weights,
    require_positive,
    word_lists,
)
from tw_lens.canonical import Block, Weights
from tw_lens.errors import Caveat
from tw_lens.geometry import joined

DISTANCES = (0, 1, 2, 4, 8, 16)


@dataclass(frozen=True, repr=False, eq=False)
class DistanceProbe(Result):
    """The keys each head prefers for each word, at each distance back.

    `lists` holds one list per distance, component and word, distances outermost.
    """

    model_name: str
    layer: int
    offsets: tuple[int, ...]
    components: tuple[str, ...]
    word_index: tuple[int, ...]
    words: tuple[str, ...]
    dropped: tuple[str, ...]
    lists: WordLists
    caveats: tuple[Caveat, ...] = ()

    def headline(self) -> str:
        """How many words, heads and distances."""
        return (
            f"{self.model_name} layer {self.layer}: {len(self.words)} words through "
            f"{len(self.components)} heads at distances {', '.join(map(str, self.offsets))}"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """One row per word found.

        Columns: component, word, word_index, offset, rank, token_index, token_string, score and,
        where the list has a control, coherence, above (see `Beside`).
        """
        rows, which = [], 0
        for offset in self.offsets:
            for component in self.components:
                for word, index in zip(self.words, self.word_index, strict=True):
                    head = {
                        "component": component,
                        "word": word,
                        "word_index": index,
                        "offset": offset,
                    }
                    rows.extend(head | row for row in self.lists.rows(which))
                    which += 1
        return pd.DataFrame(rows)


@dataclass(frozen=True, repr=False, eq=False)
class ScoreByDistance(Result):
    """Each head's attention score between words, as a function of their distance.

    `mean` and `std` are over all pairs of a query word and a key word (position bias included).
    """

    model_name: str
    layer: int
    offsets: tuple[int, ...]
    components: tuple[str, ...]
    words: tuple[str, ...]
    dropped: tuple[str, ...]
    mean: Float[Tensor, "heads offsets"]
    std: Float[Tensor, "heads offsets"]
    caveats: tuple[Caveat, ...] = ()

    def headline(self) -> str:
        """The heads whose scores fall and rise most from the first to the last distance."""
        change = self.mean[:, -1] - self.mean[:, 0]
        low, high = int(change.argmin()), int(change.argmax())
        return (
            f"{self.model_name} layer {self.layer}: from distance {self.offsets[0]} to "
            f"{self.offsets[-1]} the mean score of {len(self.words)} words changes by "
            f"{float(change[low]):+.2f} ({self.components[low]}) to {float(change[high]):+.2f} "
            f"({self.components[high]})"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Columns: component, offset, mean, std."""
        rows = [
            (component, offset, float(self.mean[c, o]), float(self.std[c, o]))
            for c, component in enumerate(self.components)
            for o, offset in enumerate(self.offsets)
        ]
        return pd.DataFrame(rows, columns=["component", "offset", "mean", "std"])


@of_weights
def distance_probe(
    weights: Weights,
    *,
    layer: int,
    words: Iterable[str | int],
    offsets: Iterable[int] = DISTANCES,
    k: int = 5,
    head: int | None = None,
) -> DistanceProbe:
    """Which keys does a head look for at distance 0, 1, 2, 4, ...?

    `head_probe` in the exact convention at every distance: the words v with the highest
    `s (N(w) A_Q + a_Q) R(offset) k_v^T`.

    Args:
        weights: from `read_weights`.
        layer: which block; it must rotate its queries and keys.
        words: the query words: single tokens or token ids.
        offsets: distances from the query back to the key.
        k: keys per list.
        head: one head, or None for all.

    Raises:
        IndexError: the layer, the head or a token id does not exist.
        ValueError: positions do not rotate in this layer, no distance or no word is left.

    Example:
        >>> distance_probe(weights, layer=0, words=["w5"], offsets=[1])
        Traceback (most recent call last):
        ValueError: offset=1 needs rotary positions and layer 0 does not rotate its queries...

    Source: rotary positions, arXiv 2104.09864, in the canonical form of a head.
    """
    require_positive("k", k)
    block = weights.block(layer)
    heads, distances = block.heads(head), _distances(block, offsets)
    index, dropped = weights.tokens.look_up(words)
    ids = torch.tensor(index)
    lists = [exact_keys(weights, block, ids, heads, k, offset=offset) for offset in distances]
    found = joined(lists)
    return DistanceProbe(
        model_name=weights.model_name,
        layer=layer,
        offsets=distances,
        components=tuple(f"L{layer}H{h}" for h in heads),
        word_index=tuple(index),
        words=tuple(weights.tokens.strings(index)),
        dropped=tuple(dropped),
        lists=word_lists(found, weights.tokens, beside_keys(weights, block, found)),
        caveats=at_distance(weights.caveats, max(distances), "QK"),
    )


@of_weights
def score_by_distance(
    weights: Weights,
    *,
    layer: int,
    words: Iterable[str | int],
    offsets: Iterable[int] = tuple(range(33)),
    head: int | None = None,
) -> ScoreByDistance:
    """How does a head's score depend on distance alone?

    The mean and the standard deviation, over all pairs of a query word and a key word of the list,
    of the model's own score at each distance: `cap(s n_q(q) R(offset) n_k(k)^T - slope * offset)`,
    the slope being ALiBi's.

    Args:
        weights: from `read_weights`.
        layer: which block; it must rotate its queries and keys, or use ALiBi.
        words: single tokens or token ids; every pair of two of them is scored.
        offsets: distances from the query back to the key.
        head: one head, or None for all.

    Raises:
        IndexError: the layer, the head or a token id does not exist.
        ValueError: scores of this layer do not depend on the distance, no distance or word left.

    Example:
        >>> score_by_distance(weights, layer=0, words=["w5"])
        Traceback (most recent call last):
        ValueError: scores of layer 0 do not depend on the distance of two words: it neither...

    Source: rotary positions, arXiv 2104.09864; ALiBi, arXiv 2108.12409.
    """
    block = weights.block(layer)
    scoring = block.scoring
    if scoring.rotary is None and scoring.slopes is None:
        raise ValueError(
            f"scores of layer {layer} do not depend on the distance of two words: it neither "
            "rotates its queries and keys nor uses ALiBi."
        )
    heads = block.heads(head)
    distances = _distances(block, offsets, rotates=scoring.rotary is not None)
    index, dropped = weights.tokens.look_up(words)
    x = weights.vocabulary.entering(torch.tensor(index))
    q, k = block.queries(x), block.met_key(block.keys(x))[:, block.kv_head]
    means, stds = [], []
    for offset in distances:
        turned = block.met_query(q, offset if scoring.rotary is not None else 0)
        scores = torch.einsum("ihe,jhe->hij", turned, k)
        if scoring.slopes is not None:
            scores = scores - offset * scoring.slopes[:, None, None]
        scores = scoring.capped(scores)[heads].flatten(1)
        means.append(scores.mean(-1))
        stds.append(scores.std(-1, correction=0))
    return ScoreByDistance(
        model_name=weights.model_name,
        layer=layer,
        offsets=distances,
        components=tuple(f"L{layer}H{h}" for h in heads),
        words=tuple(weights.tokens.strings(index)),
        dropped=tuple(dropped),
        mean=torch.stack(means, dim=-1),
        std=torch.stack(stds, dim=-1),
        caveats=at_distance(weights.caveats, max(distances), "QK"),
    )


def _distances(block: Block, offsets: Iterable[int], *, rotates: bool = True) -> tuple[int, ...]:
    distances = tuple(int(offset) for offset in offsets)
    if not distances:
        raise ValueError("no distance was given: offsets=[0, 1, 2, 4] fits.")
    for offset in distances:
        block.require_offset(offset if rotates or offset < 0 else 0)
    return distances
