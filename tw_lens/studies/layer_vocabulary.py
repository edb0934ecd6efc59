"""Compute a layer vocabulary: the points at which the layers of a model meet its tokens.

1. `embedding`: every token as it enters the stream, on the sphere of the layer's own norm.
2. `alone`: one prompt per token, the model's own prefix and the token; the token's state.
3. `text`: the prompts stream through the model in batches of one length. For every token the states
   of its positions are summed, layer by layer, on the sphere of the layer's own norm; only tokens
   that occur take memory. A point is the sum over the count, shrunk towards the layer's mean state
   by `prior_count` pseudo-counts; tokens below `min_count` have no point.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tw_lens.canonical import SOURCES, LayerVocabulary, Norm, Source, Weights
from tw_lens.progress import Progress, steps
from tw_lens.reading import (
    Prompt,
    read_resid_pre_of_layers,
    read_weights,
    special_tokens_around,
)
from tw_lens.results.arguments import require_choice, require_positive
from tw_lens.studies.batching import batches
from tw_lens.studies.prompts import PromptStream, progress_bar, prompt_hash

TOKENS_AT_ONCE = 256


def layer_vocabulary(
    model: Any,
    *,
    layers: Sequence[int] | None = None,
    source: Source = "text",
    prompts: Iterable[Prompt | Mapping[str, Any]] | None = None,
    min_count: int = 5,
    prior_count: float | int = 1.0,
    first_position: int = 1,
    batch_size: int = 16,
    progress: Progress = False,
) -> LayerVocabulary:
    """Compute the point at which each layer's attention meets each token.

    With `N_l` the normalisation of layer l's attention (without gain and bias) and `x_l` the
    residual stream that enters it: "embedding" `N_l(embed(w))`; "alone" `N_l(x_l)` at w in the
    prompt (prefix, w, suffix) of the model's own special tokens; "text"
    `(sum N_l(x_l) + c m_l) / (n + c)` over the n positions of the prompts at which w stands, with
    `m_l` the mean over all positions and `c` the prior count.

    Args:
        model: a `HookedTransformer` or a `TransformerBridge`; it is run and not changed.
        layers: which layers; all attention layers by default.
        source: "embedding", "alone" or "text".
        prompts: the corpus of "text": texts, token ids or padded batches.
        min_count: a token that stands at fewer positions of the corpus has no point.
        prior_count: pseudo-counts of the layer's mean state in every point of "text".
        first_position: positions before it are left out; position 0 often carries huge activations.
        batch_size: prompts run together.
        progress: True shows a bar; a function is called with a sentence at each step.

    Returns:
        The points, with the count of each token; `save` keeps them in half precision.

    Raises:
        IndexError: a layer does not exist.
        ValueError: unknown source, "text" without prompts, prompts with another source, counts
            below one, or no token that reaches `min_count`.
        UnsupportedModelError: see `read_weights`.

    Example:
        >>> vocabulary = layer_vocabulary(model, layers=[1], prompts=["w5 w6 w5"], min_count=2)
        >>> vocabulary.token_index.tolist(), vocabulary.count.tolist()
        ([5], [2])

    Source: mean states of a token over text, after the static embeddings of Bommasani, Davis and
    Cardie 2020 (Interpreting pretrained contextualized representations via reductions).
    """
    require_choice("source", source, SOURCES)
    require_positive("min_count", min_count)
    if prior_count < 0:
        raise ValueError(f"prior_count must be at least 0, got {prior_count}.")
    if (prompts is None) == (source == "text"):
        given = "none" if prompts is None else "some"
        raise ValueError(f"source {source!r} and prompts: 'text' needs prompts; got {given}.")
    weights = read_weights(model)
    chosen = weights.require_layers(weights.attention_layers if layers is None else layers)
    norms = [weights.block(layer).norm for layer in chosen]
    everyone = torch.arange(weights.d_vocab)
    hashes: list[int] = []
    if source == "text":
        assert prompts is not None
        sums = TokenSums(weights.d_vocab, weights.d_model, len(chosen))
        stream = PromptStream(model, prompts, first_position)
        with progress_bar(progress, prompts) as count:
            for batch in batches(stream, batch_size):
                states = read_resid_pre_of_layers(model, batch.tokens, chosen)[
                    :, :, first_position:
                ]
                y = torch.stack([norm.sphere(x) for norm, x in zip(norms, states, strict=True)])
                sums.add(batch.tokens[:, first_position:].flatten(), y.flatten(1, 2))
                hashes += [prompt_hash(tokens) for tokens in batch.tokens]
                count(len(batch.numbers))
        stream.require_prompts()
        token_index, counts, points = sums.points(min_count, prior_count)
        if not len(token_index):
            raise ValueError(
                f"no token stands at {min_count} positions of the {stream.n_prompts} prompts: give "
                "more prompts, or a lower min_count."
            )
    else:
        make = _embedding_points if source == "embedding" else _alone_points
        token_index, counts = everyone, torch.ones_like(everyone)
        points = make(model, weights, chosen, norms, progress)
    return LayerVocabulary(
        model_name=weights.model_name,
        fingerprint=weights.fingerprint,
        source=source,
        layers=chosen,
        token_index=token_index,
        points=tuple(points),
        count=counts,
        d_vocab=weights.d_vocab,
        prompt_hashes=torch.tensor(sorted(set(hashes)), dtype=torch.long),
    )


class TokenSums:
    """Sums of states by token and layer; memory grows with the tokens that occur."""

    def __init__(self, d_vocab: int, d_model: int, n_layers: int) -> None:
        self.row = torch.full((d_vocab,), -1)
        self.count = torch.zeros(d_vocab, dtype=torch.long)
        self.total = torch.zeros(n_layers, 0, d_model)
        self.n_rows = 0

    def add(
        self, tokens: Int[Tensor, " states"], y: Float[Tensor, "layers states d_model"]
    ) -> None:
        """Add the states of some positions, one row of `y` per position."""
        new = tokens.unique()
        new = new[self.row[new] < 0]
        self.row[new] = torch.arange(self.n_rows, self.n_rows + len(new))
        self.n_rows += len(new)
        if self.n_rows > self.total.shape[1]:
            more = max(self.n_rows, 2 * self.total.shape[1]) - self.total.shape[1]
            blank = self.total.new_zeros(len(self.total), more, self.total.shape[2])
            self.total = torch.cat([self.total, blank], dim=1)
        self.total.index_add_(1, self.row[tokens], y)
        self.count.index_add_(0, tokens, torch.ones_like(tokens))

    def points(
        self, min_count: int, prior_count: float | int
    ) -> tuple[
        Int[Tensor, " tokens"], Int[Tensor, " tokens"], list[Float[Tensor, "tokens d_model"]]
    ]:
        """Ids, counts and shrunk means of the tokens that reach the minimum count."""
        token_index = (self.count >= min_count).nonzero().flatten()
        counts, rows = self.count[token_index], self.row[token_index]
        weight = (counts + prior_count)[:, None]
        points = []
        for total in self.total:
            mean = total.sum(0) / max(1, int(self.count.sum()))
            points.append((total[rows] + prior_count * mean) / weight)
        return token_index, counts, points


def _embedding_points(
    model: Any, weights: Weights, layers: Sequence[int], norms: Sequence[Norm], progress: Progress
) -> list[Float[Tensor, "d_vocab d_model"]]:
    """`N_l(embed(w))`; layers whose norms project alike share their points."""
    made: dict[tuple[str, float], Tensor] = {}
    for norm in norms:
        if (norm.kind, norm.eps) not in made:
            made[norm.kind, norm.eps] = torch.cat(list(weights.vocabulary.on_sphere(norm)()))
    return [made[norm.kind, norm.eps] for norm in norms]


def _alone_points(
    model: Any, weights: Weights, layers: Sequence[int], norms: Sequence[Norm], progress: Progress
) -> list[Float[Tensor, "d_vocab d_model"]]:
    """`N_l(x_l)` of every token between the special tokens of the model, one prompt each."""
    prefix, suffix = special_tokens_around(model, weights.tokens)
    points = [torch.empty(weights.d_vocab, weights.d_model) for _ in layers]
    with steps(progress, total=weights.d_vocab, unit="token") as step:
        for ids in torch.arange(weights.d_vocab).split(TOKENS_AT_ONCE):
            prompts = torch.cat(
                [prefix.expand(len(ids), -1), ids[:, None], suffix.expand(len(ids), -1)], dim=1
            )
            states = read_resid_pre_of_layers(model, prompts, layers)[:, :, len(prefix)]
            for part, norm, x in zip(points, norms, states, strict=True):
                part[ids] = norm.sphere(x)
            step("Running every token alone", len(ids))
    return points
