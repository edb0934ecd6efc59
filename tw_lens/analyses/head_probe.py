"""What does a head do with a word? Words probed through W_QK and W_OV."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tw_lens.analyses.result import (
    CIRCUITS,
    CONVENTIONS,
    Circuit,
    Convention,
    Result,
    WordLists,
    require_choice,
    require_positive,
    word_lists,
)
from tw_lens.canonical import Block, Weights
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
    components: tuple[str, ...]
    word_index: tuple[int, ...]
    words: tuple[str, ...]
    dropped: tuple[str, ...]
    lists: WordLists
    norm: Float[Tensor, "components words"]
    caveats: tuple[Caveat, ...] = ()

    def headline(self) -> str:
        """What was probed, and how many words were dropped."""
        lost = f", {len(self.dropped)} dropped: {named(self.dropped)}" if self.dropped else ""
        return (
            f"{self.model_name} layer {self.layer} {self.circuit}, {self.convention}: "
            f"{len(self.words)} words through {len(self.components)} components{lost}"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Columns: component, word, word_index, rank, token_index, token_string, score, norm."""
        rows = []
        for c, component in enumerate(self.components):
            for w, (word, index) in enumerate(zip(self.words, self.word_index, strict=True)):
                head = {"component": component, "word": word, "word_index": index}
                tail = {"norm": float(self.norm[c, w])}
                which = c * len(self.words) + w
                rows.extend(head | row | tail for row in self.lists.rows(which))
        return pd.DataFrame(rows)


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
) -> HeadProbe:
    """Probe words through the heads of a layer.

    QK, `exact`: the keys that the word's query scores highest, `s (N(w) A_Q + a_Q) A_K^T N(W_E)^T`
    at rotary offset 0, in attention-score units. OV, `exact`: the model's readout (logits) of
    `u = (N(w) A_V + a_V) W_O` alone (`reading="u"`) or of `x + u` (`reading="x+u"`, x the word's
    embedding as it enters the stream), per head and, with `head=None`, summed over heads plus
    `b_O` (component "L5"). `published`: `n(w) W_Q W_K^T / sqrt(d_head) . n(W_E)^T` without query
    and key biases; `ln_f(e + u + b_O) . W_E^T` with `u = n(w) W_V W_O + b_V W_O`.

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

    Raises:
        IndexError: the layer, the head or a token id does not exist.
        ValueError: unknown circuit, convention or reading, no word left, `published` on processed
            weights.

    Example:
        >>> head_probe(weights, layer=1, words=["w5"], circuit="OV", head=2).components
        ('L1H2',)

    Source: arXiv 2309.07315, sections 4.3 and 4.4.
    """
    require_choice("circuit", circuit, CIRCUITS)
    require_choice("convention", convention, CONVENTIONS)
    require_choice("reading", reading, ("u", "x+u"))
    require_positive("k", k)
    if convention == "published":
        weights.require_unprocessed('convention="published"')
    block, heads = weights.block(layer), weights.heads(head)
    index, dropped = weights.tokens.look_up(words)
    ids = torch.tensor(index)
    components = tuple(f"L{layer}H{h}" for h in heads)
    if circuit == "QK":
        probe = _published_qk if convention == "published" else _exact_qk
        found, norm = probe(weights, block, ids, heads, k)
    else:
        if head is None:
            components += (f"L{layer}",)
        write = _published_update if convention == "published" else _exact_update
        update = write(weights, block, ids, heads, whole=head is None)
        u = update.u
        norm = u.norm(dim=-1)
        read = _published_reading if convention == "published" else _exact_reading
        found = read(weights, update, ids, k, reading)
    return HeadProbe(
        model_name=weights.model_name,
        layer=layer,
        circuit=circuit,
        convention=convention,
        components=components,
        word_index=tuple(index),
        words=tuple(weights.tokens.strings(index)),
        dropped=tuple(dropped),
        lists=word_lists(found, weights.tokens),
        norm=norm,
        caveats=weights.caveats,
    )


class _Update(NamedTuple):
    """What each component adds for each word, and the bias the whole layer adds once."""

    u: Float[Tensor, "components words d_model"]
    b_O: Float[Tensor, " d_model"]


def _exact_qk(
    weights: Weights, block: Block, ids: Int[Tensor, " words"], heads: list[int], k: int
) -> tuple[Neighbours, Tensor]:
    x = weights.vocabulary.embeddings(ids) * weights.vocabulary.scale
    q = torch.einsum("wd,hde->hwe", block.norm.sphere(x), block.A_Q[heads])
    q = q + block.a_Q[heads][:, None]
    kv = [block.kv_head[h] for h in heads]
    query = block.scale * q @ block.A_K[kv].mT
    found = nearest(query.flatten(0, 1), weights.vocabulary.on_sphere(block.norm), k)
    return found, torch.full(query.shape[:2], float("nan"))


def _published_qk(
    weights: Weights, block: Block, ids: Int[Tensor, " words"], heads: list[int], k: int
) -> tuple[Neighbours, Tensor]:
    n = block.norm.affine(weights.vocabulary.embeddings(ids))
    kv = [block.kv_head[h] for h in heads]
    query = torch.einsum("wd,hde->hwe", n, block.W_Q[heads]) @ block.W_K[kv].mT
    query = query / block.W_Q.shape[-1] ** 0.5
    found = nearest(query.flatten(0, 1), weights.vocabulary.on_ellipsoid(block.norm), k)
    return found, torch.full(query.shape[:2], float("nan"))


def _exact_update(
    weights: Weights, block: Block, ids: Int[Tensor, " words"], heads: list[int], *, whole: bool
) -> _Update:
    x = weights.vocabulary.embeddings(ids) * weights.vocabulary.scale
    kv = [block.kv_head[h] for h in heads]
    v = torch.einsum("wd,hde->hwe", block.norm.sphere(x), block.A_V[kv]) + block.a_V[kv][:, None]
    u = v @ block.A_O[heads]
    b_O = block.b_O
    if block.centred_stream:
        b_O = b_O - b_O.mean()
    return _Update(torch.cat([u, (u.sum(0) + b_O)[None]]) if whole else u, b_O)


def _exact_reading(
    weights: Weights, update: _Update, ids: Int[Tensor, " words"], k: int, reading: Reading
) -> Neighbours:
    state = update.u
    if reading == "x+u":
        state = state + weights.vocabulary.embeddings(ids) * weights.vocabulary.scale
    readout = weights.readout
    y = readout.norm.sphere(state).flatten(0, 1)
    return nearest(y, readout.directions(), k, offset=readout.offset())


def _published_update(
    weights: Weights, block: Block, ids: Int[Tensor, " words"], heads: list[int], *, whole: bool
) -> _Update:
    n = block.norm.affine(weights.vocabulary.embeddings(ids))
    kv = [block.kv_head[h] for h in heads]
    v = torch.einsum("wd,hde->hwe", n, block.W_V[kv]) + block.b_V[kv][:, None]
    u = v @ block.W_O[heads]
    return _Update(torch.cat([u, u.sum(0, keepdim=True)]) if whole else u, block.b_O)


def _published_reading(
    weights: Weights, update: _Update, ids: Int[Tensor, " words"], k: int, reading: Reading
) -> Neighbours:
    e = weights.vocabulary.embeddings(ids)
    state = weights.readout.norm.affine(e + update.u + update.b_O).flatten(0, 1)
    return nearest(state, weights.vocabulary.rows, k)
