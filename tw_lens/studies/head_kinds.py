"""Head kinds from weights and from use: previous token, same token, induction, sink, copying.

1. For every layer, sample tokens; read them at their points, as queries, keys and values.
2. Score the kinds from the weights alone. Induction needs an earlier head that attends to the
   previous token: those that the weights claim, else the best one.
3. With a model, run random tokens, repeated once, and score the same kinds in the heads' patterns
   and in what they write.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tw_lens.analyses.head_kind_scores import (
    Matching,
    attention_to_places,
    composed_scores,
    match_tokens,
    values_written,
    written_scores,
)
from tw_lens.arguments import checked
from tw_lens.canonical import (
    Block,
    LayerVocabulary,
    Weights,
    met_by,
    position_points,
    token_points,
)
from tw_lens.devices import drawn, moved
from tw_lens.progress import Progress, steps
from tw_lens.reading import read_resid_pre_of_layers, read_weights, special_tokens_around
from tw_lens.results.caveats import without_distance
from tw_lens.results.token_source import token_source
from tw_lens.studies.head_kinds_result import SHARE, HeadKinds

N_TOKENS = 192
N_SEQUENCES = 8
LENGTH = 24


@checked
def head_kinds(
    weights: Weights,
    model: Any = None,
    *,
    vocabulary: LayerVocabulary | None = None,
    seed: int = 0,
    progress: Progress = False,
) -> HeadKinds:
    """Say which heads are of a known kind, from the weights, and whether their use agrees.

    Scores from the weights, for sampled tokens at their points:

    - previous token, same token, attention sink: the mean attention to the previous position, to
      the same token's first place and to the first position, by the layer's own scores on
      sequences of random tokens, repeated once (learned positions included). Claimed from 0.4 on.
    - induction: the mean share of other tokens w' that score lower than w itself for the query of
      token w, where the key of w' is what an earlier previous-token head writes for it (the best of
      these heads counts); 0.5 by chance. Claimed from 0.9 on, at the 1 % level of 199 random
      pairings.
    - copying: the same with the logit of w' for what the head writes for w; suppression: one minus
      that. Claimed from 0.75 on, at the same level.

    Scores from use, with a model: the same sequences, behind the model's own prefix, as the model
    runs on them. Attention to the same places; for induction, to the token behind the same token's
    first place; copying as above, of the values at the positions themselves, weighted by the
    attention that they receive. Shown from 0.4 and 0.75 on.

    With a model, the weights' sequences too begin with the states of the model's prefix, which do
    not depend on a text.

    Args:
        weights: from `read_weights`.
        model: the weights' model, to see the kinds in use; it is run and not changed.
        vocabulary: points of the tokens at each layer, from `layer_vocabulary`; embeddings by
            default.
        seed: of the tokens and permutations.
        progress: True shows a bar; a function is called with a sentence at each step.

    Raises:
        TypeError: model is no TransformerLens model.
        ValueError: another model than that of the weights, or a vocabulary of another model or
            without some layer; fewer than two tokens that text can contain.
        UnsupportedModelError: outputs are not the model's tokens.

    Example:
        >>> head_kinds(weights).from_weights.shape  # kinds, heads
        torch.Size([6, 12])

    Source: previous-token, copying and induction heads after Elhage et al. 2021 (A mathematical
    framework for transformer circuits) and Olsson et al. 2022 (arXiv 2209.11895); suppression,
    McDougall et al. 2023 (arXiv 2310.04625); attention sinks, arXiv 2309.17453.
    """
    if model is not None:
        _require_same_model(weights, model)
    generator = torch.Generator().manual_seed(seed)
    readout, layers = weights.token_readout, weights.attention_layers
    tokens = _sample(weights, generator)
    first = torch.zeros(len(layers), 0, weights.d_model)
    if model is not None:
        first = moved(_prefix_states(model, weights), weights.device)
    writers: list[tuple[float, Tensor]] = []  # previous-token heads so far: share, what they write
    scores, p, heads = [], [], []
    with steps(progress, total=len(layers), unit="layer") as step:
        for index, layer in enumerate(layers):
            step(f"Scoring the heads of layer {layer}")
            block = weights.block(layer)
            points = token_points(weights, layer, block.norm, vocabulary)
            y = points.gather(tokens)
            previous, sink, same, _ = _simulated(
                weights, block, tokens, y, block.norm.sphere(first[index]), vocabulary is None,
                generator,
            )  # fmt: skip
            written = values_written(block, block.values_of_points(y))
            copied = match_tokens(written_scores(readout, written, tokens), generator)
            induced = _induction(block, y, writers, generator)
            nan = torch.full_like(previous, torch.nan)
            scores.append(
                torch.stack([previous, same, induced.auc, sink, copied.auc, 1 - copied.auc])
            )
            p.append(torch.stack([nan, nan, induced.p_above, nan, copied.p_above, copied.p_below]))
            heads += [(layer, head) for head in range(block.n_heads)]
            writers += [(float(s), written[h]) for h, s in enumerate(previous)]
            writers = _previous_token_heads(writers)
    use, n = (None, 0) if model is None else _use(model, weights, tokens, generator, progress)
    source = token_source(vocabulary)
    return HeadKinds(
        model_name=weights.model_name,
        heads=tuple(heads),
        from_weights=torch.cat(scores, dim=1),
        p=torch.cat(p, dim=1),
        from_use=use,
        n_sequences=n,
        token_source=source,
        caveats=without_distance(weights.caveats) + source.caveats(layers),
    )


def _require_same_model(weights: Weights, model: Any) -> None:
    other = read_weights(model, device="cpu")
    if other.fingerprint != weights.fingerprint:
        raise ValueError(
            f"the model given ({other.model_name}) is not the model of these weights "
            f"({weights.model_name}): give the model that they were read from."
        )


def _sample(weights: Weights, generator: torch.Generator) -> Int[Tensor, " tokens"]:
    """Return distinct tokens that text can contain.

    Raises:
        ValueError: there are fewer than two.
    """
    usable = (~torch.tensor(weights.tokens.without_text())).nonzero().flatten()
    usable = usable[usable < weights.readout.W_U.shape[1]]
    if len(usable) < 2:
        raise ValueError(
            f"kinds of heads are found on repeated random tokens, and {weights.model_name} has "
            f"{len(usable)} of them; at least 2 are needed."
        )
    chosen = drawn(torch.randperm, len(usable), generator=generator)[:N_TOKENS]
    return usable[chosen]


def _prefix_states(model: Any, weights: Weights) -> Float[Tensor, "layers prefix d_model"]:
    """Return the states of the model's prefix at every layer; of no position without one."""
    prefix, _ = special_tokens_around(model, weights.tokens)
    if not len(prefix):
        return torch.zeros(len(weights.attention_layers), 0, weights.d_model)
    return read_resid_pre_of_layers(model, prefix[None], weights.attention_layers)[:, 0]


def _simulated(
    weights: Weights,
    block: Block,
    tokens: Int[Tensor, " tokens"],
    y: Float[Tensor, "tokens d_model"],
    first: Float[Tensor, "prefix d_model"],
    at_embeddings: bool,
    generator: torch.Generator,
) -> Float[Tensor, "4 heads"]:
    """Return the attention to four places on random sequences (see `attention_to_places`).

    A sequence is the states of a prefix and the tokens as the layer meets them, learned positions
    included: normalised together with embeddings, elsewhere as parts (see `Points`).
    """
    start, W_pos, rotary = len(first), weights.positions, block.attention_scores.rotary
    contexts = [len(tokens) * 2 + start, None if W_pos is None else len(W_pos)]
    contexts += [None if rotary is None else rotary.n_ctx]
    n = min([LENGTH, *((n_ctx - start) // 2 for n_ctx in contexts if n_ctx is not None)])
    places = []
    for _ in range(N_SEQUENCES):
        order = drawn(torch.randperm, len(y), generator=generator)[:n].repeat(2)
        x = y[order]
        if W_pos is not None and at_embeddings:
            x = weights.vocabulary.embed(tokens[order]) + W_pos[start : start + 2 * n]
            x = block.norm.sphere(x)
        elif W_pos is not None:
            positions = position_points(weights, positions=range(start, start + 2 * n))
            x = x + met_by(block.norm, positions, positions.vectors)
        x = torch.cat([first, x])
        scores = block.scores(block.queries_of_points(x), block.keys_of_points(x))
        places.append(attention_to_places(block.attention_scores.pattern(scores), start, n))
    return torch.stack(places).mean(0)


def _previous_token_heads(found: list[tuple[float, Tensor]]) -> list[tuple[float, Tensor]]:
    """Return the heads that the weights claim as previous-token heads, else the best one."""
    claimed = [one for one in found if one[0] >= SHARE]
    return claimed or [max(found, key=lambda one: one[0])]


def _induction(
    block: Block,
    y: Float[Tensor, "tokens d_model"],
    writers: list[tuple[float, Tensor]],
    generator: torch.Generator,
) -> Matching:
    """Return the matching of each head's queries with what earlier previous-token heads write."""
    if not writers:
        nan = torch.full((block.n_heads,), torch.nan)
        return Matching(nan, nan, nan)
    scores = [
        torch.stack([composed_scores(block, h, y, written) for h in range(block.n_heads)])
        for _, written in writers
    ]
    return match_tokens(torch.stack(scores), generator)


def _use(
    model: Any,
    weights: Weights,
    tokens: Int[Tensor, " tokens"],
    generator: torch.Generator,
    progress: Progress,
) -> tuple[Float[Tensor, "kinds heads"], int]:
    """Return the scores of all kinds on repeated random tokens, and the number of sequences."""
    prefix, _ = special_tokens_around(model, weights.tokens)
    n = min(LENGTH, (int(model.cfg.n_ctx) - len(prefix)) // 2, len(tokens))
    orders = [
        drawn(torch.randperm, len(tokens), generator=generator)[:n] for _ in range(N_SEQUENCES)
    ]
    rows = [tokens[order].cpu() for order in orders]
    batch = torch.stack([torch.cat([prefix.cpu(), row, row]) for row in rows])
    columns = torch.stack(orders).repeat(1, 2)
    layers, scores = weights.attention_layers, []
    states = read_resid_pre_of_layers(model, batch, layers)
    with steps(progress, total=len(layers), unit="layer") as step:
        for layer, of_layer in zip(layers, states, strict=True):
            step(f"Scoring layer {layer} on random tokens")
            block = weights.block(layer)
            parts = [
                _use_of_sequence(weights, block, x, len(prefix), n, tokens, column)
                for x, column in zip(moved(of_layer, weights.device), columns, strict=True)
            ]
            scores.append(torch.stack(parts).nanmean(0))
    return torch.cat(scores, dim=1), len(rows)


def _use_of_sequence(
    weights: Weights,
    block: Block,
    x: Float[Tensor, "position d_model"],
    start: int,
    n: int,
    tokens: Int[Tensor, " tokens"],
    column: Int[Tensor, " behind_prefix"],
) -> Float[Tensor, "kinds heads"]:
    """Return the scores of all kinds on one sequence: a prefix, n tokens, and the same n again."""
    values = block.values(x)
    pattern = block.attention_pattern(x)
    previous, sink, same, after = attention_to_places(pattern, start, n)
    written = values_written(block, values)[:, start:]
    scores = written_scores(weights.token_readout, written, tokens)
    scores = scores - scores.mean(-2, keepdim=True)
    own = scores.gather(-1, column.expand(len(scores), -1)[..., None])
    lower = (scores < own).float().sum(-1) / (len(tokens) - 1)
    received = pattern[:, :, start:].sum(1)
    copied = (lower * received).sum(-1) / received.sum(-1)
    return torch.stack([previous, same, after, sink, copied, 1 - copied])
