"""What does a head do with a word? Words probed through W_QK and W_OV."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tw_lens.analyses.conventions import READOUTS, Readout, convention_rules
from tw_lens.analyses.null_directions import compare_with_null
from tw_lens.analyses.token_filter import TokenFilter, allowed_mask, filter_caveat
from tw_lens.canonical import Block, Weights
from tw_lens.errors import Caveat
from tw_lens.geometry import TopTokens
from tw_lens.geometry import top_tokens as top_tokens
from tw_lens.results.arguments import (
    CIRCUITS,
    Circuit,
    Convention,
    require_choice,
    require_distance,
    require_positive,
    require_weights,
)
from tw_lens.results.base import Result, component_label, head_columns
from tw_lens.results.caveats import caveats_at_distance
from tw_lens.results.token_lists import (
    NullComparison,
    TokenLists,
    make_token_lists,
    significance_summary,
)
from tw_lens.tokens import named


@dataclass(frozen=True, repr=False, eq=False)
class HeadProbe(Result):
    """The words that each head brings to (or makes of) each probed word.

    `lists` holds one list per component and word, components outermost. `norm` is the length of
    the update `u` (OV), NaN for QK.
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
    caveats: tuple[Caveat, ...] = ()

    @property
    def components(self) -> tuple[str, ...]:
        """A label per head, "L5H1", and "L5" for the sum over heads."""
        return tuple(component_label(self.layer, head) for head in self.heads)

    def headline(self) -> str:
        """What was probed, and how many words were dropped."""
        lost = f", {len(self.dropped)} dropped: {named(self.dropped)}" if self.dropped else ""
        return (
            f"{self.model_name} layer {self.layer} {self.circuit}"
            f"{f' at distance {self.distance}' if self.distance else ''}, {self.convention}: "
            f"{len(self.words)} words through {len(self.components)} components"
            f"{'' if self.token_filter is None else f', among {self.token_filter.description}'}{lost}"
            f"{significance_summary(self.lists)}"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """One row per word found.

        Columns: layer, head, component, word, word_index, rank, token_index, token_string, score, norm and,
        where the list has a control, coherence, above (see `NullComparison`).
        """
        rows = []
        for c, of in enumerate(self.heads):
            for w, (word, index) in enumerate(zip(self.words, self.word_index, strict=True)):
                head = head_columns(self.layer, of) | {"word": word, "word_index": index}
                which, norm = c * len(self.words) + w, float(self.norm[c, w])
                rows.extend(head | row for row in self.lists.rows(which, norm=norm))
        return pd.DataFrame(rows).astype({"head": "Int64"})


@require_weights
def head_probe(
    weights: Weights,
    *,
    layer: int,
    words: Iterable[str | int],
    circuit: Circuit = "QK",
    k: int = 5,
    convention: Convention = "exact",
    head: int | None = None,
    readout: Readout = "update",
    distance: int = 0,
    token_filter: TokenFilter | None = None,
) -> HeadProbe:
    """Probe words through the heads of a layer.

    QK, `exact`: the keys that the word's query scores highest, `s (N(w) A_Q + a_Q) R(distance) A_K^T
    N(W_E)^T`, in attention-score units; with query-key norms or a bottleneck, the exact scores
    `s n_q(q) R(distance) n_k(k)^T` of whole keys; with a soft-cap, the capped scores. OV, `exact`:
    the model's readout (logits) of `u = (N(w) A_V + a_V) W_O` alone (`readout="update"`) or of `x + u`
    (`readout="residual"`, x the word as it enters the stream; without a control, for x brings words like
    itself), per head and, with `head=None`, what the whole layer adds for a word that attends to
    itself alone, `b_O` included (component "L5").
    `published`: `n(w) W_Q W_K^T / sqrt(d_head) . n(W_E)^T` without query and key biases;
    `ln_f(e + u + b_O) . W_E^T` with `u = n(w) W_V W_O + b_V W_O`.

    Args:
        weights: from `read_weights`.
        layer: which block.
        words: strings that are single tokens, or token ids; strings that are not are dropped and
            named in the result.
        circuit: "QK" or "OV".
        k: neighbours per list.
        convention: "exact" or "published".
        head: one head, or None for all.
        readout: what the exact OV probe reads.
        distance: how far the key lies behind the query (QK, `exact`, layers that rotate positions).
        token_filter: which words may be listed (`exact`), from `token_filter`; all of them by default.

    Raises:
        IndexError: the layer, the head or a token id does not exist.
        ValueError: unknown circuit, convention or readout, no word left, `published` on processed
            weights, an offset where positions do not rotate, a filter that does not fit.

    Example:
        >>> head_probe(weights, layer=1, words=["w5"], circuit="OV", head=2).components
        ('L1H2',)

    Source: arXiv 2309.07315, sections 4.3 and 4.4.
    """
    require_choice("circuit", circuit, CIRCUITS)
    require_choice("readout", readout, READOUTS)
    require_distance(distance, circuit, convention)
    require_positive("k", k)
    rules = convention_rules(weights, convention)
    keep = allowed_mask(weights, token_filter, convention)
    block = weights.block(layer)
    heads = block.heads(head)
    index, dropped = weights.tokens.look_up(words)
    ids = torch.tensor(index)
    components: tuple[int | None, ...] = tuple(heads)
    null = None
    if circuit == "QK":
        result = rules.top_keys(weights, block, ids, heads, k, distance=distance, keep=keep)
        norm = torch.full((len(heads), len(ids)), float("nan"))
        if rules.has_null:
            null = compare_keys_with_null(weights, block, result, keep)
    else:
        update = rules.update(weights, block, ids, heads)
        if head is None:
            components += (None,)
            whole = rules.layer_update(weights, block, ids, update)
            update = update._replace(u=torch.cat([update.u, whole[None]]))
        norm = update.u.norm(dim=-1)
        result = rules.top_outputs(weights, update, ids, k, readout=readout, keep=keep)
        if rules.has_null and readout == "update":
            null = compare_with_null(weights, result, "logits", block.norm, keep)
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
        lists=make_token_lists(result, weights.tokens, null),
        norm=norm,
        token_filter=token_filter,
        caveats=caveats_at_distance(weights.caveats, distance, circuit)
        + filter_caveat(token_filter),
    )


def compare_keys_with_null(
    weights: Weights, block: Block, result: TopTokens, keep: Bool[Tensor, " d_vocab"] | None = None
) -> NullComparison | None:
    """The null of lists of keys; None where keys are normalised: no direction ranks them."""
    if not block.bilinear:
        return None
    return compare_with_null(weights, result, "points", block.norm, keep)
