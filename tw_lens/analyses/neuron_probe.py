"""Neuron probe: which neurons of an MLP a word drives, and what they write for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tw_lens.analyses.conventions import EXACT
from tw_lens.analyses.neuron_points import neuron_caveats, neuron_label
from tw_lens.analyses.null_directions import compare_with_null
from tw_lens.analyses.token_filter import (
    TokenFilter,
    allowed_mask,
    filter_caveat,
    filter_summary,
    look_up_words,
)
from tw_lens.argument_kinds import require_positive
from tw_lens.arguments import checked
from tw_lens.canonical import (
    LayerVocabulary,
    Points,
    Weights,
    token_points,
    weights_of_points,
)
from tw_lens.errors import Caveat
from tw_lens.geometry import top_tokens
from tw_lens.results.base import Result, dropped_summary
from tw_lens.results.token_lists import TokenLists, make_token_lists, significance_summary
from tw_lens.results.token_source import TokenSource, token_source
from tw_lens.tokens import visible


@dataclass(frozen=True, repr=False, eq=False)
class NeuronProbe(Result):
    """The neurons that write most for each word, and the tokens that they write.

    `neuron`, `activation` and `written` (the norm of what the neuron adds) hold the leading neurons
    of every word; `share` is that norm squared over the sum over all neurons. `lists` holds the
    tokens that each of them promotes for the word, words outermost.
    """

    model_name: str
    layer: int
    word_index: tuple[int, ...]
    words: tuple[str, ...]
    dropped: tuple[str, ...]
    neuron: Int[Tensor, "words n"]
    activation: Float[Tensor, "words n"]
    written: Float[Tensor, "words n"]
    share: Float[Tensor, "words n"]
    lists: TokenLists
    token_filter: TokenFilter | None = None
    token_source: TokenSource = field(default_factory=TokenSource)
    caveats: tuple[Caveat, ...] = ()

    def headline(self) -> str:
        """Return the number of words, and the neuron with the largest share."""
        best = int(self.share.argmax())
        w, rank = divmod(best, self.share.shape[1])
        return (
            f"{self.model_name} layer {self.layer}: {len(self.words)} words, "
            f"{self.neuron.shape[1]} neurons each; "
            f"{neuron_label(self.layer, int(self.neuron[w, rank]), self.model_name)} writes most, "
            f"for {self.words[w]!r} ({100 * float(self.share[w, rank]):.0f} % of the squared norms)"
            f"{filter_summary(self.token_filter)}{dropped_summary(self.dropped)}"
            f"{significance_summary(self.lists)}{self.token_source.summary([self.layer], [])}"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per word and neuron.

        Columns: layer, neuron, component, word, word_index, rank, activation, written, share,
        tokens (that it promotes for the word), coherence, exceeds_null (see `NullComparison`).
        """
        rows = []
        for w, (word, word_index) in enumerate(zip(self.words, self.word_index, strict=True)):
            for rank, neuron in enumerate(self.neuron[w].tolist()):
                index = w * self.neuron.shape[1] + rank
                rows.append(
                    {
                        "layer": self.layer,
                        "neuron": neuron,
                        "component": neuron_label(self.layer, neuron, self.model_name),
                        "word": word,
                        "word_index": word_index,
                        "rank": rank,
                        "activation": float(self.activation[w, rank]),
                        "written": float(self.written[w, rank]),
                        "share": float(self.share[w, rank]),
                        "tokens": " ".join(map(visible, self.lists.token_string[index])),
                        **self.lists.null_columns(index),
                    }
                )
        return pd.DataFrame(rows)


@checked
def neuron_probe(
    weights: Weights,
    *,
    layer: int,
    words: Iterable[str | int],
    n: int = 10,
    k: int = 5,
    token_filter: TokenFilter | None = None,
    vocabulary: LayerVocabulary | None = None,
    points: Points | None = None,
) -> NeuronProbe:
    """Return the neurons that a word drives, and what they write for it.

    The activation of neuron n at the word's point, `f(y A_in + a_in)` (gated: `f(y A_gate + a_gate)
    (y A_in + a_in)`), times `|A_out[n]|`, is the norm of what it adds (over the divisor of a norm
    of the output, for the word); the n largest are listed with the tokens whose logits this raises
    most.

    Args:
        weights: from `read_weights`.
        layer: index of the block.
        words: strings that are single tokens, or token ids; other strings are dropped and listed in
            the result.
        n: number of neurons per word.
        k: tokens per list.
        token_filter: the tokens that may be listed, from `token_filter`; all by default.
        vocabulary: points of the tokens at this layer, from `layer_vocabulary`; their embeddings
            by default.
        points: named vectors to read in the place of tokens, from `Points` or `position_points`.

    Raises:
        IndexError: the layer or a token id does not exist.
        UnsupportedModelError: the layer has no MLP of the canonical form.
        ValueError: no word left, or a word without a point.

    Example:
        >>> neuron_probe(weights, layer=1, words=["w5"], n=3).neuron.shape
        torch.Size([1, 3])

    Source: Geva et al. 2022 (arXiv 2203.14680), at the points of single tokens.
    """
    weights = weights_of_points(weights, points, vocabulary)
    mlp = weights.mlp(layer)
    keep = allowed_mask(weights, token_filter, "exact")
    met = token_points(weights, layer, mlp.norm, vocabulary)
    index, dropped = look_up_words(weights, words, met)
    if not weights.vocabulary.is_whole_state:
        raise ValueError(
            "a neuron has an activation for whole states only, and the points are of kind "
            f"{'' if points is None else points.kind!r}; neuron_table reads neurons by them."
        )
    y = met.at(torch.tensor(index))
    activation = mlp.activations(mlp.pre_activations_of_points(y), y)
    divisor = mlp.output_divisor(activation, mlp.biases_out(y))
    written = activation.abs() * mlp.A_out.norm(dim=-1) / divisor
    n = min(require_positive("n", n), mlp.d_mlp)
    neuron = written.topk(n, dim=-1).indices
    directions = mlp.A_out[neuron] * activation.gather(-1, neuron)[..., None]
    table = EXACT.output_tokens(weights)
    found = top_tokens(table.pull_back(directions.flatten(0, 1)), table.rows, k, keep=keep)
    source = token_source(vocabulary, points)
    null = compare_with_null(weights, found, "readout", met, keep)
    top = written.gather(-1, neuron)
    return NeuronProbe(
        model_name=weights.model_name,
        layer=layer,
        word_index=tuple(index),
        words=tuple(weights.tokens.strings(index)),
        dropped=tuple(dropped),
        neuron=neuron,
        activation=activation.gather(-1, neuron),
        written=top,
        share=top.square() / written.square().sum(-1, keepdim=True).clamp_min(1e-30),
        lists=make_token_lists(found, weights.tokens, null),
        token_filter=token_filter,
        token_source=source,
        caveats=weights.caveats + filter_caveat(token_filter) + neuron_caveats(mlp, source),
    )
