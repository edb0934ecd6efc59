"""What does a head do with a word? Words probed through W_QK and W_OV."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tw_lens.analyses.controls import beside
from tw_lens.analyses.result import (
    CIRCUITS,
    CONVENTIONS,
    Beside,
    Circuit,
    Convention,
    Result,
    WordLists,
    at_distance,
    of_weights,
    require_choice,
    require_offset,
    require_positive,
    said_above,
    word_lists,
)
from tw_lens.analyses.word_filter import WordFilter, chosen_words, listed
from tw_lens.canonical import Block, Rows, Weights
from tw_lens.errors import Caveat
from tw_lens.geometry import Neighbours, nearest
from tw_lens.tokens import named

Reading = Literal["u", "x+u"]


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
    offset: int
    components: tuple[str, ...]
    word_index: tuple[int, ...]
    words: tuple[str, ...]
    dropped: tuple[str, ...]
    lists: WordLists
    norm: Float[Tensor, "components words"]
    among: WordFilter | None = None
    caveats: tuple[Caveat, ...] = ()

    def headline(self) -> str:
        """What was probed, and how many words were dropped."""
        lost = f", {len(self.dropped)} dropped: {named(self.dropped)}" if self.dropped else ""
        return (
            f"{self.model_name} layer {self.layer} {self.circuit}"
            f"{f' at distance {self.offset}' if self.offset else ''}, {self.convention}: "
            f"{len(self.words)} words through {len(self.components)} components"
            f"{'' if self.among is None else f', among {self.among.said}'}{lost}"
            f"{said_above(self.lists)}"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """One row per word found.

        Columns: component, word, word_index, rank, token_index, token_string, score, norm and,
        where the list has a control, coherence, above (see `Beside`).
        """
        rows = []
        for c, component in enumerate(self.components):
            for w, (word, index) in enumerate(zip(self.words, self.word_index, strict=True)):
                head = {"component": component, "word": word, "word_index": index}
                which, norm = c * len(self.words) + w, float(self.norm[c, w])
                rows.extend(head | row for row in self.lists.rows(which, norm=norm))
        return pd.DataFrame(rows)


@of_weights
def head_probe(
    weights: Weights,
    *,
    layer: int,
    words: Iterable[str | int],
    circuit: Circuit = "QK",
    k: int = 5,
    convention: Convention = "exact",
    head: int | None = None,
    reading: Reading = "u",
    offset: int = 0,
    among: WordFilter | None = None,
) -> HeadProbe:
    """Probe words through the heads of a layer.

    QK, `exact`: the keys that the word's query scores highest, `s (N(w) A_Q + a_Q) R(offset) A_K^T
    N(W_E)^T`, in attention-score units; with query-key norms or a bottleneck, the exact scores
    `s n_q(q) R(offset) n_k(k)^T` of whole keys; with a soft-cap, the capped scores. OV, `exact`:
    the model's readout (logits) of `u = (N(w) A_V + a_V) W_O` alone (`reading="u"`) or of `x + u`
    (`reading="x+u"`, x the word as it enters the stream; without a control, for x brings words like
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
        reading: what the exact OV probe reads.
        offset: how far the key lies behind the query (QK, `exact`, layers that rotate positions).
        among: which words may be listed (`exact`), from `word_filter`; all of them by default.

    Raises:
        IndexError: the layer, the head or a token id does not exist.
        ValueError: unknown circuit, convention or reading, no word left, `published` on processed
            weights, an offset where positions do not rotate, a filter that does not fit.

    Example:
        >>> head_probe(weights, layer=1, words=["w5"], circuit="OV", head=2).components
        ('L1H2',)

    Source: arXiv 2309.07315, sections 4.3 and 4.4.
    """
    require_choice("circuit", circuit, CIRCUITS)
    require_choice("convention", convention, CONVENTIONS)
    require_choice("reading", reading, ("u", "x+u"))
    require_offset(offset, circuit, convention)
    require_positive("k", k)
    if convention == "published":
        weights.require_unprocessed('convention="published"')
    keep = listed(weights, among, convention)
    block = weights.block(layer)
    heads = block.heads(head)
    index, dropped = weights.tokens.look_up(words)
    ids = torch.tensor(index)
    components = tuple(f"L{layer}H{h}" for h in heads)
    control = None
    if circuit == "QK":
        if convention == "published":
            found = _published_qk(weights, block, ids, heads, k)
        else:
            found = exact_keys(weights, block, ids, heads, k, offset=offset, keep=keep)
            control = beside_keys(weights, block, found, keep)
        norm = torch.full((len(heads), len(ids)), float("nan"))
    else:
        if head is None:
            components += (f"L{layer}",)
        write = _published_update if convention == "published" else _exact_update
        update = write(weights, block, ids, heads, whole=head is None)
        norm = update.u.norm(dim=-1)
        if convention == "published":
            found = _published_reading(weights, update, ids, k)
        else:
            found = _exact_reading(weights, update, ids, k, reading, keep)
            if reading == "u":
                control = beside(weights, found, "said", block.norm, keep)
    return HeadProbe(
        model_name=weights.model_name,
        layer=layer,
        circuit=circuit,
        convention=convention,
        offset=offset,
        components=components,
        word_index=tuple(index),
        words=tuple(weights.tokens.strings(index)),
        dropped=tuple(dropped),
        lists=word_lists(found, weights.tokens, control),
        norm=norm,
        among=among,
        caveats=at_distance(weights.caveats, offset, circuit) + chosen_words(among),
    )


class _Update(NamedTuple):
    """What each component adds for each word, and the bias the whole layer adds once."""

    u: Float[Tensor, "components words d_model"]
    b_O: Float[Tensor, " d_model"]


def exact_keys(
    weights: Weights,
    block: Block,
    ids: Int[Tensor, " words"],
    heads: list[int],
    k: int,
    *,
    offset: int,
    keep: Bool[Tensor, " d_vocab"] | None = None,
) -> Neighbours:
    """The keys that score highest for each head and word, heads outermost (see `head_probe`).

    What is the same for every key (`q a_K^T`, which no softmax sees) is left out where scores are
    bilinear, and is inside where keys are normalised.
    """
    kv = torch.tensor(block.kv_head)[heads]
    q = block.met_query(block.queries(weights.vocabulary.entering(ids)), offset)
    q = q[:, heads].transpose(0, 1)  # heads, words, d_head
    if block.bilinear:
        query = (q @ block.A_K[kv].mT).flatten(0, 1)
        rows = weights.vocabulary.on_sphere(block.norm)
    else:  # whole keys, all key heads in one row: each query has zeros for the others
        n_kv, n_words = block.W_K.shape[0], len(ids)
        query = torch.zeros(len(heads), n_words, n_kv, block.d_head)
        query[torch.arange(len(heads)), :, kv] = q
        query = query.flatten(2).flatten(0, 1)
        rows = _whole_keys(weights, block)
    found = nearest(query, rows, k, keep=keep)
    return found._replace(score=block.scoring.capped(found.score))


def beside_keys(
    weights: Weights, block: Block, found: Neighbours, keep: Bool[Tensor, " d_vocab"] | None = None
) -> Beside | None:
    """The control beside lists of keys; None where keys are normalised: no direction finds them."""
    return beside(weights, found, "points", block.norm, keep) if block.bilinear else None


def _whole_keys(weights: Weights, block: Block) -> Rows:
    """Every word's keys as they meet a query: `[words, n_kv_heads * d_head]`."""
    return lambda: (
        block.met_key(block.keys(weights.vocabulary.entered(chunk))).flatten(1)
        for chunk in weights.vocabulary.rows()
    )


def _published_qk(
    weights: Weights, block: Block, ids: Int[Tensor, " words"], heads: list[int], k: int
) -> Neighbours:
    n = block.norm.affine(weights.vocabulary.embeddings(ids))
    kv = [block.kv_head[h] for h in heads]
    query = torch.einsum("wd,hde->hwe", n, block.W_Q[heads]) @ block.W_K[kv].mT
    query = query / block.W_Q.shape[-1] ** 0.5
    return nearest(query.flatten(0, 1), weights.vocabulary.on_ellipsoid(block.norm), k)


def _exact_update(
    weights: Weights, block: Block, ids: Int[Tensor, " words"], heads: list[int], *, whole: bool
) -> _Update:
    kv = [block.kv_head[h] for h in heads]
    x = weights.vocabulary.entering(ids)
    values = block.values(x)
    v = (values if block.v_norm is None else block.v_norm(values))[:, kv].transpose(0, 1)
    u = v @ block.A_O[heads]
    if whole:
        alone = torch.eye(len(ids)).expand(block.n_heads, -1, -1)
        added = block.attention_output(alone, values, x)
        if block.centred_stream:
            added = added - added.mean(-1, keepdim=True)
        u = torch.cat([u, added[None]])
    return _Update(u, block.a_O)


def _exact_reading(
    weights: Weights,
    update: _Update,
    ids: Int[Tensor, " words"],
    k: int,
    reading: Reading,
    keep: Bool[Tensor, " d_vocab"] | None,
) -> Neighbours:
    state = update.u
    if reading == "x+u":
        state = state + weights.vocabulary.entering(ids)
    readout = weights.readout
    met = readout.met(readout.sphere(state)).flatten(0, 1)
    return nearest(met, readout.columns, k, offset=readout.offset(), keep=keep)


def _published_update(
    weights: Weights, block: Block, ids: Int[Tensor, " words"], heads: list[int], *, whole: bool
) -> _Update:
    n = block.norm.affine(weights.vocabulary.embeddings(ids))
    kv = [block.kv_head[h] for h in heads]
    v = torch.einsum("wd,hde->hwe", n, block.W_V[kv]) + block.b_V[kv][:, None]
    u = v @ block.W_O[heads]
    return _Update(torch.cat([u, u.sum(0, keepdim=True)]) if whole else u, block.b_O)


def _published_reading(
    weights: Weights, update: _Update, ids: Int[Tensor, " words"], k: int
) -> Neighbours:
    e = weights.vocabulary.embeddings(ids)
    state = weights.readout.norm.affine(e + update.u + update.b_O).flatten(0, 1)
    return nearest(state, weights.vocabulary.rows, k)
