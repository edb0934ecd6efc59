"""Where are a direction's words really used? The places of real text that lie highest along it.

1. The direction is a pair of singular vectors `u`, `v` of W_QK or W_OV, signed as `head_spectrum`
   signs them; beside it stand random pairs inside the head's own subspaces, signed alike.
2. Prompts pass by once, those of one length together; only the stream that enters the layer is
   looked at. Every position has a value on each side (`DirectionActivations.projections`).
3. The highest places of each side are kept (`TopActivations`), each with its context and its partner: the
   position at the other end of the head's attention that it has most to do with (`DirectionActivations.example`).
4. The tokens found there are ranked among the direction's words, beside those of random pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from tw_lens.analyses.head_directions import tokens_of_direction_pair
from tw_lens.analyses.null_directions import SIDES
from tw_lens.canonical import Weights
from tw_lens.errors import Caveat
from tw_lens.reading import Prompt, read_resid_pre, read_weights
from tw_lens.results.arguments import CIRCUITS, Circuit, require_choice, require_positive
from tw_lens.results.caveats import caveats_at_distance
from tw_lens.results.token_lists import make_token_lists
from tw_lens.studies.batching import batches
from tw_lens.studies.direction_activations import DirectionActivations
from tw_lens.studies.direction_examples_result import DirectionExamples, Example
from tw_lens.studies.direction_pairs import head_directions, token_ranks
from tw_lens.studies.prompts import PromptStream
from tw_lens.studies.top_activations import TopActivations, peaks, push_all

N_WORDS = 50
N_RANDOM = 49
BATCH_SIZE = 16


def direction_examples(
    model: Any,
    prompts: Iterable[Prompt | Mapping[str, Any]],
    *,
    layer: int,
    head: int,
    direction: int = 0,
    circuit: Circuit = "QK",
    k: int = 10,
    context: int = 8,
    first_position: int = 1,
    seed: int = 0,
) -> DirectionExamples:
    """Find where in real text a direction of W_QK or W_OV is used, to compare with its words.

    With `u`, `v` the left and right singular vectors, `S` their value, `y = N(x)` the stream that
    enters the layer, on the sphere of the block's own norm, and `p_ij` the attention that the head
    really pays from position i to position j:

    - QK, left: positions i whose query lies highest along `u`, by `y_i.u`; the partner is the key
      that gains most by it, `s (y_i.u) (u A_Q) R(i-j) (y_j A_K)^T`.
    - QK, right: positions j whose key lies highest along `v`, by `y_j.v`; the partner is the query
      that looks there most because of it, `s (y_i A_Q) R(i-j) ((y_j.v) v A_K)^T`.
    - OV, left: positions j whose value lies highest along `u`, by `y_j.u`; the partner is the
      position that reads it most, by `p_ij S (y_j.u)`.
    - OV, right: positions i into which the head writes most along `v`, `sum_j p_ij S (y_j.u)`; the
      partner is the position it reads that from. The words written are compared with the token
      that follows.

    At distance 0, and without rotary positions, both contributions of QK are `S (y_i.u)(y_j.v)`;
    at other distances the rotation R parts what belongs together at distance 0, so that a partner
    need not lie along the other side. Biases of queries, keys and values are in the attention and
    not in the contributions. Neither partners nor what is written come from positions before
    `first_position`.

    Listed are peaks: places with a value above 0 (the other sign is another use) that no other
    place within `context` positions exceeds; of these at most two with the same token, behind
    different ones, because real text repeats itself.

    NullComparison them: how the tokens found there rank among all words on that side of the direction, and
    the same for 49 random pairs of directions inside the head's own subspaces. Words are read at
    the points `N(W_E)`, places in the stream that enters the layer: without added positions the two
    agree in layer 0, and further on a direction may be used for what no single word says.

    Args:
        model: a `HookedTransformer` or a `TransformerBridge`; it is run and not changed.
        prompts: texts, token ids, or a tokenizer's batches with `input_ids` and `attention_mask`.
            They stream through. Empty ones are left out and counted, those longer than the
            context are cut at its end and counted.
        layer: which block.
        head: which of its heads.
        direction: which singular vector, 0 for the leading one.
        circuit: "QK" or "OV".
        k: places per side.
        context: tokens shown on either side of a place.
        first_position: positions before it are left out; position 0 often carries huge
            activations.
        seed: of the random pairs.

    Returns:
        At most k `Example` per side, highest first; scores in the model's own units (before the
        softmax and any cap), lengths written in those of the stream.

    Raises:
        IndexError: the layer, the head or the direction does not exist.
        ValueError: an unknown circuit, a count below one, or no prompt has a position to measure.
        UnsupportedModelError: see `read_weights`.

    Example:
        >>> found = direction_examples(model, ["w5 w6 w7", "w8 w9"], layer=1, head=0, k=2)
        >>> found.n_prompts, found.n_positions
        (2, 5)

    Source: top-activating examples, as used for neurons; the directions of arXiv 2309.07315,
    section 4.5.
    """
    require_choice("circuit", circuit, CIRCUITS)
    for name, given in (("k", k), ("context", context)):
        require_positive(name, given)
    weights = read_weights(model)
    block = weights.block(layer)
    pairs = head_directions(weights, layer, head, circuit, direction, n=N_RANDOM, seed=seed)
    sides = range(len(SIDES))
    highest = [[TopActivations(k) for _ in pairs.left] for _ in sides]
    examples: list[dict[tuple[int, int], Example]] = [{}, {}]
    rows, n_positions = PromptStream(model, prompts, first_position), 0
    for batch in batches(rows, BATCH_SIZE):
        n_positions += len(batch.numbers) * (batch.tokens.shape[1] - first_position)
        entering = read_resid_pre(model, batch.tokens, layer)
        for x, tokens, number in zip(entering, batch.tokens, batch.numbers, strict=True):
            activations = DirectionActivations(block, x, pairs, first_position)
            for side in sides:
                along = activations.projections[side]
                peak = peaks(along, reach=context, first_position=first_position)
                said = _followed(tokens) if pairs.writes(side) else tokens
                push_all(highest[side], along, peak, tokens, said, prompt=number)
                examples[side] = {
                    at: examples[side].get(at)
                    or _example(activations, side, at, tokens, weights, context)
                    for at in (place.at for place in highest[side][0].places())
                }
    rows.require_some()
    ranks = [token_ranks(weights, layer, pairs, side, highest[side]) for side in sides]
    first = pairs.left[:1], pairs.right[:1]
    words = tokens_of_direction_pair(
        weights, EXACT.points(weights, block), circuit, *first, N_WORDS
    )
    return DirectionExamples(
        model_name=weights.model_name,
        layer=layer,
        head=head,
        circuit=circuit,
        direction=direction,
        singular_value=pairs.S,
        first_position=first_position,
        tokens_left=make_token_lists(words[0], weights.tokens),
        tokens_right=make_token_lists(words[1], weights.tokens),
        examples=tuple(
            example._replace(token_rank=float(rank))
            for side in sides
            for example, rank in zip(examples[side].values(), ranks[side][0], strict=False)
        ),
        random_ranks=(ranks[0][1:], ranks[1][1:]),
        d_vocab=weights.d_vocab,
        n_prompts=rows.n_prompts,
        n_positions=n_positions,
        n_cut=rows.n_cut,
        n_skipped=rows.n_skipped,
        caveats=caveats_at_distance(weights.caveats, 0, circuit) + _caveats(rows),
    )


def _followed(tokens: Int[Tensor, " position"]) -> Int[Tensor, " position"]:
    """The token behind every position, -1 at the end."""
    return torch.cat([tokens[1:], tokens.new_tensor([-1])])


def _example(
    activations: DirectionActivations,
    side: int,
    at: tuple[int, int],
    tokens: Int[Tensor, " position"],
    weights: Weights,
    context: int,
) -> Example:
    """A place in its context, with its partner."""
    number, here = at
    values, strings = activations.projections[side][:, 0], weights.tokens.strings(tokens.tolist())
    counterpart = activations.counterpart(side, here)
    around = slice(max(0, here - context), here + context + 1)
    length = (
        float("nan") if activations.directions.writes(side) else float(activations.y[here].norm())
    )
    return Example(
        side=SIDES[side],
        prompt=number,
        position=here,
        token_index=int(tokens[here]),
        token_string=strings[here],
        projection=float(values[here]),
        cosine=float(values[here]) / length,
        token_rank=float("nan"),  # known when the last prompt has passed by
        before=tuple(strings[around.start : here]),
        after=tuple(strings[here + 1 : around.stop]),
        values=tuple(values[around].tolist()),
        counterpart_position=counterpart.position,
        counterpart_token=strings[counterpart.position],
        counterpart_projection=float(activations.projections[1 - side][counterpart.position, 0]),
        contribution=counterpart.contribution,
        attention=counterpart.attention,
    )


def _caveats(rows: PromptStream) -> tuple[Caveat, ...]:
    """What a reader must know of the prompts before the places."""
    few = f"the highest places of {rows.n_prompts} prompts may not be typical."
    return (*rows.caveats, *(Caveat("few prompts", few),) * rows.few)
