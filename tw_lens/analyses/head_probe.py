"""Head probes: words mapped through W_QK and W_OV, and the tokens with the highest scores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tw_lens.analyses.convention_rules import ReadoutTarget
from tw_lens.analyses.conventions import convention_rules
from tw_lens.analyses.head_directions import with_readout_of_score
from tw_lens.analyses.null_directions import compare_with_null
from tw_lens.analyses.token_filter import (
    TokenFilter,
    allowed_mask,
    filter_caveat,
    filter_summary,
    look_up_words,
)
from tw_lens.arguments import checked
from tw_lens.canonical import (
    Block,
    LayerVocabulary,
    Points,
    TokenPoints,
    Weights,
    weights_of_points,
)
from tw_lens.errors import Caveat
from tw_lens.geometry import TopTokens
from tw_lens.results.arguments import (
    Circuit,
    Convention,
    Score,
    require_distance,
    require_score,
)
from tw_lens.results.base import (
    HeadComponents,
    Result,
    dropped_summary,
    head_columns,
    plural,
)
from tw_lens.results.caveats import caveats_at_distance
from tw_lens.results.token_lists import (
    NullComparison,
    TokenLists,
    make_token_lists,
    score_summary,
    significance_summary,
)
from tw_lens.results.token_source import TokenSource


@dataclass(frozen=True, repr=False, eq=False)
class HeadProbe(HeadComponents, Result):
    """The highest-scoring tokens of each head for each probed word.

    QK: the keys that the word's query attends to most; OV: the readout of the head's update for the
    word. `lists` holds one list per component and word, components outermost. `norm` is the length
    of the update `u` (OV), NaN for QK. `dropped` are the words that are not a single token.
    """

    model_name: str
    layer: int
    circuit: Circuit
    convention: Convention
    distance: int
    heads: tuple[int | None, ...]
    word_index: tuple[int, ...]
    words: tuple[str, ...]
    dropped: tuple[str, ...]
    lists: TokenLists
    norm: Float[Tensor, "components words"]
    token_filter: TokenFilter | None = None
    token_source: TokenSource = field(default_factory=TokenSource)
    score: Score = "dot"
    caveats: tuple[Caveat, ...] = ()

    def headline(self) -> str:
        """Return the settings, the number of words, and the words dropped."""
        return (
            f"{self.model_name} layer {self.layer} {self.circuit}"
            f"{f' at distance {self.distance}' if self.distance else ''}, {self.convention}: "
            f"{score_summary(self.score)}"
            f"{plural(len(self.words), 'word')} through "
            f"{plural(len(self.components), 'component')}"
            f"{filter_summary(self.token_filter)}{dropped_summary(self.dropped)}"
            f"{significance_summary(self.lists)}"
            f"{self.token_source.summary([self.layer], [self.circuit], self.only_head)}"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per listed token.

        Columns: layer, head, component, word, word_index, rank, token_index, token_string, score,
        norm and, in the exact convention, count (states behind the token's point; QK with a text
        vocabulary), coherence, exceeds_null (see `NullComparison`), faithfulness.
        """
        rows = []
        for c, head in enumerate(self.heads):
            source = self.token_source.columns(self.layer, head, self.circuit)
            for w, (word, word_index) in enumerate(zip(self.words, self.word_index, strict=True)):
                columns = head_columns(self.layer, head, self.model_name) | {
                    "word": word,
                    "word_index": word_index,
                }
                index, norm = c * len(self.words) + w, float(self.norm[c, w])
                rows.extend(columns | row | source for row in self.lists.rows(index, norm=norm))
        return pd.DataFrame(rows).astype({"head": "Int64"})


@checked
def head_probe(
    weights: Weights,
    *,
    layer: int,
    words: Iterable[str | int],
    circuit: Circuit = "QK",
    k: int = 5,
    convention: Convention = "exact",
    head: int | None = None,
    readout: ReadoutTarget = "update",
    distance: int = 0,
    token_filter: TokenFilter | None = None,
    vocabulary: LayerVocabulary | None = None,
    points: Points | None = None,
    score: Score = "dot",
) -> HeadProbe:
    """Probe words through the heads of a layer.

    QK, `exact`: the keys with the highest scores for the word's query,
    `s (N(w) A_Q + a_Q) R(distance) A_K^T N(W_E)^T`, in attention-score units; with query-key norms
    or a bottleneck, the exact scores `s n_q(q) R(distance) n_k(k)^T` of whole keys; with a
    soft-cap, the capped scores.

    OV, `exact`: the model's readout (logits) of `u = (N(w) A_V + a_V) W_O` alone
    (`readout="update"`) or of `x + u` (`readout="residual"`; x is the word's embedding as it enters
    the residual stream; there is no null, because x by itself reads out tokens similar to the
    word), per head and, with `head=None`, for the whole layer: what the layer adds for a word that
    attends to itself only, `b_O` included (component "L5").

    `published`: `n(w) W_Q W_K^T / sqrt(d_head) . n(W_E)^T` without query and key biases;
    `ln_f(e + u + b_O) . W_E^T` with `u = n(w) W_V W_O + b_V W_O`.

    Args:
        weights: from `read_weights`.
        layer: index of the block.
        words: strings that are single tokens, or token ids; other strings are dropped and listed in
            the result.
        circuit: "QK" or "OV".
        k: tokens per list.
        convention: "exact" or "published".
        head: one head, or None for all.
        readout: what the exact OV probe reads out, "update" or "residual".
        distance: from the query back to the key (QK, `exact`, layers with rotary positions).
        token_filter: the tokens that may be listed (`exact`), from `token_filter`; all by default.
        vocabulary: points of the tokens at this layer, from `layer_vocabulary`; their embeddings
            by default.
        points: named vectors to read in the place of tokens, from `Points` or `position_points`;
            `words` are their names or numbers then.
        score: "dot": the logit that the model would give; "standardised": over its deviation for
            what the layer writes, which keeps tokens with long readout directions from leading
            every list (written tokens of OV only; see `standardise_readout`).

    Raises:
        IndexError: the layer, the head or a token id does not exist.
        TypeError: an argument of another type.
        ValueError: unknown circuit, convention or readout, no word left, `published` on processed
            weights, a distance in a layer without rotary positions, a filter that does not fit.

    Example:
        >>> head_probe(weights, layer=1, words=["w5"], circuit="OV", head=2).components
        ('L1H2',)

    Source: arXiv 2309.07315, sections 4.3 and 4.4.
    """
    require_distance(distance, circuit, convention)
    require_score(score, circuit, convention)
    weights = weights_of_points(weights, points, vocabulary, convention, score)
    rules = convention_rules(weights, convention)
    if readout == "residual" and (vocabulary is not None or points is not None):
        raise ValueError(
            'readout="residual" adds the word\'s embedding and needs vocabulary=None and '
            "points=None, which lie behind the norm."
        )
    if readout == "residual" and weights.stack == "cross":
        raise ValueError(
            'readout="residual" adds the word\'s embedding, and a word of the source is not in the '
            'stream that cross-attention writes to; use readout="update".'
        )
    keep = allowed_mask(weights, token_filter, convention)
    block = weights.attention_block(layer)
    heads = block.heads(head)
    met = rules.points(weights, block, vocabulary)
    written = with_readout_of_score(weights, block, met, score)
    index, dropped = look_up_words(weights, words, met if circuit == "QK" else met.keys)
    ids = torch.tensor(index)
    components: tuple[int | None, ...] = tuple(heads)
    null = None
    if circuit == "QK":
        result = rules.top_keys(weights, block, met, ids, heads, k, distance=distance, keep=keep)
        norm = torch.full((len(heads), len(ids)), float("nan"))
        if rules.has_null:
            null = compare_keys_with_null(weights, block, met.keys, result, keep)
    else:
        update = rules.update(weights, block, met, ids, heads)
        if head is None and weights.vocabulary.is_whole_state:
            components += (None,)
            of_layer = rules.layer_update(weights, block, met, ids, update)
            update = update._replace(u=torch.cat([update.u, of_layer[None]]))
        norm = update.u.norm(dim=-1)
        result = rules.top_outputs(written, update, ids, k, readout=readout, keep=keep)
        if rules.has_null and readout == "update":
            null = compare_with_null(written, result, "logits", met, keep)
    source = rules.token_source(vocabulary, points)
    return HeadProbe(
        model_name=weights.model_name,
        layer=layer,
        circuit=circuit,
        convention=convention,
        distance=distance,
        heads=components,
        word_index=tuple(index),
        words=tuple(weights.tokens.strings(index)),
        dropped=tuple(dropped),
        lists=make_token_lists(
            result, weights.tokens, null, source.count if circuit == "QK" else None
        ),
        norm=norm,
        token_filter=token_filter,
        token_source=source,
        score=score,
        caveats=caveats_at_distance(weights.caveats, distance, circuit)
        + filter_caveat(token_filter)
        + source.caveats([layer]),
    )


def compare_keys_with_null(
    weights: Weights,
    block: Block,
    points: TokenPoints,
    result: TopTokens,
    keep: Bool[Tensor, " d_vocab"] | None = None,
) -> NullComparison | None:
    """Return the null comparison of lists of keys.

    None where keys are normalised: their scores are not those of a direction.
    """
    if not block.bilinear:
        return None
    return compare_with_null(weights, result, "points", points, keep)
