"""Faithfulness of a reading: does the point of a token predict what a head does with it in text?

1. The prompts run through the model; the head's real scores and values come from its real states.
2. The same quantities are computed with every state replaced by its token's point, at the same
   positions, and with the points of other tokens (a permutation: the floor, which position alone
   reaches).
3. QK: for every query, the correlation over its keys of predicted with real scores. OV: for every
   position, the cosine of what the head would write for the point with what it writes for the real
   state, both less their means over the prompt.
4. Means over positions, with a bootstrap over prompts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tw_lens.canonical import Block, LayerVocabulary
from tw_lens.errors import Caveat
from tw_lens.progress import Progress
from tw_lens.reading import Prompt, read_resid_pre_of_layers, read_weights
from tw_lens.results.arguments import CIRCUITS
from tw_lens.results.base import Result, head_columns
from tw_lens.studies.batching import batches
from tw_lens.studies.bootstrap import BootstrapSums, Estimate, estimate
from tw_lens.studies.layer_vocabulary import prompt_hash
from tw_lens.studies.prompts import PromptStream, progress_bar

MIN_KEYS = 4


@dataclass(frozen=True, repr=False, eq=False)
class Faithfulness(Result):
    """Correlation of predicted with real scores and writes, per head, circuit and vocabulary.

    `correlation`, `floor` (the points of permuted tokens) and `difference` (correlation less floor,
    resample by resample) have the axes sources, circuits (QK, OV), heads; `n` counts the queries
    (QK) and positions (OV) measured. `heads` are (layer, head).
    """

    model_name: str
    sources: tuple[str, ...]
    heads: tuple[tuple[int, int], ...]
    correlation: Estimate
    floor: Estimate
    difference: Estimate
    n: Int[Tensor, "circuits heads"]
    n_prompts: int
    n_seen: int
    caveats: tuple[Caveat, ...] = ()

    def headline(self) -> str:
        """The mean correlation over heads, per source and circuit."""
        parts = [
            f"{source} {circuit} r = {float(self.correlation.value[s, c].nanmean()):.2f} (floor "
            f"{float(self.floor.value[s, c].nanmean()):.2f})"
            for s, source in enumerate(self.sources)
            for c, circuit in enumerate(CIRCUITS)
        ]
        return (
            f"{self.model_name}, {len(self.heads)} heads, {self.n_prompts} held-out prompts: "
            f"{', '.join(parts)}"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """One row per head, circuit and source.

        Columns: layer, head, component, circuit, source, correlation, low, high (95 % interval over
        prompts), floor, difference, difference_low, difference_high, n.
        """
        rows = [
            head_columns(layer, head)
            | {
                "circuit": circuit,
                "source": source,
                "correlation": float(self.correlation.value[s, c, h]),
                "low": float(self.correlation.low[s, c, h]),
                "high": float(self.correlation.high[s, c, h]),
                "floor": float(self.floor.value[s, c, h]),
                "difference": float(self.difference.value[s, c, h]),
                "difference_low": float(self.difference.low[s, c, h]),
                "difference_high": float(self.difference.high[s, c, h]),
                "n": int(self.n[c, h]),
            }
            for h, (layer, head) in enumerate(self.heads)
            for c, circuit in enumerate(CIRCUITS)
            for s, source in enumerate(self.sources)
        ]
        return pd.DataFrame(rows)

    def of_layer(self, layer: int) -> pd.DataFrame:
        """Mean over the heads of one layer, a row per circuit and source."""
        table = self.to_dataframe()
        table = table[table.layer == layer].groupby(["circuit", "source"], sort=False)
        return table[["correlation", "floor", "difference"]].mean().reset_index()


def faithfulness(
    model: Any,
    prompts: Iterable[Prompt | Mapping[str, Any]],
    *,
    vocabulary: LayerVocabulary | Sequence[LayerVocabulary],
    layers: Sequence[int] | None = None,
    first_position: int = 1,
    batch_size: int = 16,
    seed: int = 0,
    progress: Progress = False,
) -> Faithfulness:
    """Measure how well the points of tokens predict what each head does in text.

    With `p(w)` the point of a token in the place of the normalised state `N(x)`:

    - QK: `corr_j(s_ij, s(p(w_i), p(w_j), i - j))` over the keys j that query i sees, at least four;
      `s` is the head's score before the softmax, with its rotation, norms, caps and position bias.
    - OV: `cos(v_j W_O - m, p_j W_O - m')` with `v_j` the value the head reads at position j, `p_j`
      the value of its token's point, and `m`, `m'` the means of either over the prompt's positions.
    - Floor: the same with points of permuted tokens, which know positions and nothing of the words.

    Positions whose token has no point in one of the vocabularies are left out, as queries and as
    keys. Prompts that a vocabulary was computed from are left out and counted (`n_seen`).

    Args:
        model: a `HookedTransformer` or a `TransformerBridge`; it is run and not changed.
        prompts: held-out texts, token ids or padded batches.
        vocabulary: from `layer_vocabulary`, one or several to compare on the same positions.
        layers: which layers; all that every vocabulary has by default.
        first_position: positions before it are left out.
        batch_size: prompts run together.
        seed: of the permutation and the bootstrap.
        progress: True shows a bar; a function is called with a sentence at each step.

    Raises:
        ValueError: no vocabulary, one of another model, a layer without points, or no prompt with a
            position to measure.
        UnsupportedModelError: see `read_weights`.

    Example:
        >>> vocabulary = tw_lens.layer_vocabulary(model, layers=[0], source="embedding")
        >>> faithfulness(model, ["w5 w6 w7 w8 w9"], vocabulary=vocabulary).sources
        ('embedding',)

    Source: interval from a bootstrap over prompts, Hanley and MacGibbon 2006.
    """
    several = [vocabulary] if isinstance(vocabulary, LayerVocabulary) else list(vocabulary)
    if not several:
        raise ValueError(
            "vocabulary must be one or more of what layer_vocabulary returns; got none."
        )
    weights = read_weights(model)
    for one in several:
        one.require_model(weights)
    shared = [la for la in several[0].layers if all(la in one.layers for one in several)]
    chosen = weights.require_layers(shared if layers is None else layers)
    n_heads = [weights.block(layer).n_heads for layer in chosen]
    heads = tuple((la, h) for la, n in zip(chosen, n_heads, strict=True) for h in range(n))
    shape = (2 * len(several), len(CIRCUITS), len(heads))
    sums = BootstrapSums.empty(shape[0] * shape[1] * shape[2])
    known = torch.stack([one.mask for one in several]).all(0)
    others = _permuted(known, seed)
    used = {int(h) for one in several for h in one.prompt_hashes}
    stream, n_seen, n_measured = PromptStream(model, prompts, first_position), 0, 0
    with progress_bar(progress, prompts) as count:
        for batch in batches(stream, batch_size):
            fresh = [i for i, t in enumerate(batch.tokens) if prompt_hash(t) not in used]
            n_seen += len(batch.numbers) - len(fresh)
            count(len(batch.numbers))
            if not fresh:
                continue
            states = read_resid_pre_of_layers(model, batch.tokens[fresh], chosen)
            cells = [[] for _ in fresh]
            for la, layer in enumerate(chosen):
                block = weights.block(layer)
                for i, x in enumerate(states[la]):
                    tokens = batch.tokens[fresh[i]]
                    usable = known[tokens]
                    usable[:first_position] = False
                    predictions = [
                        one.gather(layer, ids)
                        for one in several
                        for ids in (tokens, others[tokens])
                    ]
                    cells[i].append(_measure(block, x, predictions, usable))
            for i, parts in enumerate(cells):
                values = torch.cat(parts, dim=2).flatten(0, 2)
                number = batch.numbers[fresh[i]]
                sums.add(values[:, first_position:], seed=seed, number=number)
                n_measured += 1
    stream.require_prompts()
    if not n_measured:
        raise ValueError(
            f"all {n_seen} prompts were used to compute the vocabulary: give held-out prompts."
        )
    means = sums.means().unflatten(1, (len(several), 2, *shape[1:]))
    own, floor = means[:, :, 0], means[:, :, 1]
    return Faithfulness(
        model_name=weights.model_name,
        sources=tuple(one.source for one in several),
        heads=heads,
        correlation=estimate(own),
        floor=estimate(floor),
        difference=estimate(own - floor),
        n=sums.counts[0].unflatten(0, shape)[0].long(),
        n_prompts=n_measured,
        n_seen=n_seen,
        caveats=stream.interval_caveats,
    )


def _permuted(known: Bool[Tensor, " d_vocab"], seed: int) -> Int[Tensor, " d_vocab"]:
    """For every token that has a point another one, by a random permutation."""
    ids = known.nonzero().flatten()
    others = torch.arange(len(known))
    others[ids] = ids[torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))]
    return others


def _measure(
    block: Block,
    x: Float[Tensor, "position d_model"],
    predictions: list[Float[Tensor, "position d_model"]],
    usable: Bool[Tensor, " position"],
) -> Float[Tensor, "predictions circuits heads position"]:
    """Both circuits' agreement of every prediction with the real states of one prompt."""
    real_scores = block.scores(block.queries(x), block.keys(x))
    pairs = block.attention_scores.mask(len(x)) & usable[:, None] & usable[None, :]
    real_values = _centred(_values(block, block.values(x)), usable)
    gram = block.A_O @ block.A_O.mT
    parts = []
    for y in predictions:
        scores = block.scores(block.queries_of_points(y), block.keys_of_points(y))
        values = _centred(_values(block, block.values_of_points(y)), usable)
        ov = _cosine(values, real_values, gram).masked_fill(~usable, torch.nan)
        parts.append(torch.stack([_row_correlation(scores, real_scores, pairs), ov]))
    return torch.stack(parts)


def _centred(
    v: Float[Tensor, "heads position d_value"], usable: Bool[Tensor, " position"]
) -> Float[Tensor, "heads position d_value"]:
    """Values less their mean over the usable positions; NaN with fewer than `MIN_KEYS` of them."""
    if int(usable.sum()) < MIN_KEYS:
        return torch.full_like(v, torch.nan)
    return v - v[:, usable].mean(1, keepdim=True)


def _values(
    block: Block, v: Float[Tensor, "position n_kv_heads d_value"]
) -> Float[Tensor, "n_heads position d_value"]:
    v = v if block.v_norm is None else block.v_norm(v)
    return v[:, block.kv_head].transpose(0, 1)


def _row_correlation(
    a: Float[Tensor, "heads query key"],
    b: Float[Tensor, "heads query key"],
    pairs: Bool[Tensor, "query key"],
) -> Float[Tensor, "heads query"]:
    """The correlation of two rows over the keys of a mask; NaN with fewer than `MIN_KEYS` keys."""
    n = pairs.sum(-1, keepdim=True)
    a, b = (t.double().masked_fill(~pairs, 0.0) for t in (a, b))
    a, b = (((t - t.sum(-1, keepdim=True) / n) * pairs) for t in (a, b))
    r = (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))
    return r.masked_fill(n[:, 0] < MIN_KEYS, torch.nan).float()


def _cosine(
    a: Float[Tensor, "heads position d_value"],
    b: Float[Tensor, "heads position d_value"],
    gram: Float[Tensor, "heads d_value d_value"],
) -> Float[Tensor, "heads position"]:
    """The cosine of `a W_O` with `b W_O`, by `gram = W_O W_O^T`."""
    inner = ((a @ gram) * b).sum(-1)
    sizes = ((a @ gram) * a).sum(-1) * ((b @ gram) * b).sum(-1)
    return torch.where(sizes > 0, inner / sizes.clamp_min(1e-30).sqrt(), torch.nan)
