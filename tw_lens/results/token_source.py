"""Token source: where a result reads tokens, and how well these points predict the heads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Int
from torch import Tensor

from tw_lens.canonical import HeadFaithfulness, LayerVocabulary, Points, Source
from tw_lens.errors import Caveat
from tw_lens.results.arguments import Circuit
from tw_lens.results.base import correlation_text

EMBEDDING_POINTS = Caveat(
    "embedding points",
    "Tokens are read at their embeddings, and heads behind the first layer read states that have "
    "moved away from them: on SmolLM2 the scores of embedded words correlate with the model's own "
    "at 0.01 to 0.18 there (1.00 in layer 0). Give vocabulary= from layer_vocabulary.",
)
DIRECT_PATH = Caveat(
    "direct path",
    "Parts of a sum are read as they enter the stream, over one stated divisor: layers behind the "
    "first also meet what earlier layers made of them, and every state has a divisor of its own.",
)
WHERE: dict[Source, str] = {
    "embedding": "tokens at their embeddings",
    "alone": "tokens at their states behind the prefix alone",
    "text": "tokens at their mean states over text",
}


@dataclass(frozen=True, eq=False)
class TokenSource:
    """The points at which a result reads tokens, or the named points that it reads instead.

    Attributes:
        name: "embedding", "alone" or "text" (see `LayerVocabulary`); None for named points, and in
            the published convention, whose results do not state it.
        points: the named points; None for tokens.
        n_tokens: number of tokens whose states were seen; None for the whole vocabulary.
        predicted: whether the other tokens' points are predicted from their embeddings.
        count: states behind each token's point; None where every point is one state.
        faithfulness: agreement with the heads on held-out text; None where it was not measured.
    """

    name: Source | None = "embedding"
    points: Points | None = None
    n_tokens: int | None = None
    predicted: bool = False
    count: Int[Tensor, " d_vocab"] | None = None
    faithfulness: HeadFaithfulness | None = None

    def r(self, layer: int, head: int | None, circuit: Circuit) -> float:
        """Return the faithfulness of one head and circuit; NaN where it was not measured."""
        return self._measured("value", layer, head, circuit)

    def floor(self, layer: int, head: int | None, circuit: Circuit) -> float:
        """Return the floor of that faithfulness: r with the points of permuted tokens."""
        return self._measured("floor", layer, head, circuit)

    def _measured(
        self, field: Literal["value", "floor"], layer: int, head: int | None, circuit: Circuit
    ) -> float:
        if self.faithfulness is None or head is None:
            return math.nan
        return self.faithfulness.mean(field, circuit, [layer], head)

    def sentence(
        self, layers: Sequence[int], circuits: Sequence[Circuit], head: int | None = None
    ) -> str:
        """Return the source with the faithfulness of a head, or the mean over layers' heads."""
        if self.points is not None:
            return self.points.summary
        agreement = self.agreement(layers, circuits, head)
        if agreement is None:
            return f"{self.where}, faithfulness not measured"
        return f"{self.where}, faithfulness {agreement}" if circuits else self.where

    @property
    def where(self) -> str:
        """Where tokens are read: "tokens at their mean states over text (500 tokens)"."""
        where = WHERE[self.name] if self.name else ""
        if self.n_tokens is not None:
            others = ", the others predicted" if self.predicted else ""
            where += f" ({self.n_tokens:,} tokens{others})"
        return where

    def agreement(
        self, layers: Sequence[int], circuits: Sequence[Circuit], head: int | None = None
    ) -> str | None:
        """Return the faithfulness of a head, or the mean over layers' heads, with its floor.

        It says over how many heads a mean goes. None where nothing was measured.
        """
        found = self.faithfulness
        if found is None or not len(found.columns(layers, head)):
            return None
        numbers = [
            f"{circuit} "
            + correlation_text(
                found.mean("value", circuit, layers, head),
                found.mean("floor", circuit, layers, head),
            )
            for circuit in circuits
        ]
        n = len(found.columns(layers, head))
        of = f" of layer {layers[0]}" if len(layers) == 1 else ""
        over = f", mean{'s' * (len(numbers) > 1)} over the {n} heads{of}" if n > 1 else ""
        return f"{' and '.join(numbers)} on held-out text{over}"

    def summary(
        self, layers: Sequence[int], circuits: Sequence[Circuit], head: int | None = None
    ) -> str:
        """Return the sentence as a clause for a headline; "" in the published convention."""
        stated = self.name is not None or self.points is not None
        return f"; {self.sentence(layers, circuits, head)}" if stated else ""

    def columns(self, layer: int, head: int | None, circuit: Circuit) -> dict[str, float]:
        """Return the column `faithfulness` of a head's rows; none in the published convention."""
        stated = self.name is not None or self.points is not None
        return {"faithfulness": self.r(layer, head, circuit)} if stated else {}

    def caveats(self, layers: Iterable[int]) -> tuple[Caveat, ...]:
        """Return the caveat of embeddings for layers behind the first, or that of parts."""
        if self.points is not None:
            return (DIRECT_PATH,) if self.points.kind == "part" else ()
        return (EMBEDDING_POINTS,) if self.name == "embedding" and any(layers) else ()


PUBLISHED_SOURCE = TokenSource(name=None)


def token_source(vocabulary: LayerVocabulary | None, points: Points | None = None) -> TokenSource:
    """Return the source of named points, of a vocabulary, or that of embeddings."""
    if points is not None:
        return TokenSource(name=None, points=points)
    if vocabulary is None:
        return TokenSource()
    whole = len(vocabulary) == vocabulary.d_vocab
    return TokenSource(
        name=vocabulary.source,
        n_tokens=None if whole else len(vocabulary),
        predicted=vocabulary.maps is not None,
        count=vocabulary.counts_by_token if vocabulary.source == "text" else None,
        faithfulness=vocabulary.faithfulness,
    )
