"""Direction examples: the positions of real text with the highest projections on a direction.

1. The direction is a pair of singular vectors `u`, `v` of W_QK or W_OV, with the sign that
   `head_spectrum` gives it. The null is 49 random pairs inside the head's own subspaces, with signs
   chosen in the same way.
2. The prompts are run once, in batches of equal length. Only the residual stream that enters the
   layer is used.
3. Every position has a projection on each side of each pair (`DirectionActivations.projections`).
4. The highest local maxima of each side are selected (`TopActivations`). For the direction itself
   each one becomes an `Example`, with its context and its counterpart: the position at the other
   end of the head's attention with the largest contribution (`DirectionActivations.counterpart`).
5. The tokens of the selected positions are ranked among all tokens on that side of the direction.
   The same ranks of the random pairs are the null distribution.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tw_lens.analyses.head_directions import tokens_of_direction_pair
from tw_lens.analyses.token_filter import TokenFilter, allowed_mask, filter_caveat
from tw_lens.arguments import checked
from tw_lens.canonical import LayerVocabulary, whole_vocabulary_points
from tw_lens.errors import Caveat
from tw_lens.progress import Progress
from tw_lens.reading import Prompt, read_resid_pre, read_weights
from tw_lens.results.arguments import Circuit
from tw_lens.results.caveats import caveats_at_distance
from tw_lens.results.token_lists import make_token_lists
from tw_lens.results.token_source import token_source
from tw_lens.studies.batching import batches
from tw_lens.studies.checkpoint import Checkpoint
from tw_lens.studies.direction_examples_result import N_TOKENS, DirectionExamples
from tw_lens.studies.direction_pairs import head_directions
from tw_lens.studies.example_search import ExampleSearch
from tw_lens.studies.prompts import PromptStream, progress_bar

N_RANDOM = 49
BATCH_SIZE = 16
WHOLE_VOCABULARY = Caveat(
    "ranks",
    "token ranks, and the share among the highest tokens, are over the whole vocabulary; "
    "token_filter only restricts the token lists.",
)


@checked
def direction_examples(
    model: Any,
    prompts: Iterable[Prompt],
    *,
    layer: int,
    head: int,
    direction: int = 0,
    circuit: Circuit = "QK",
    n_examples: int = 10,
    context: int = 8,
    first_position: int = 1,
    seed: int = 0,
    token_filter: TokenFilter | None = None,
    vocabulary: LayerVocabulary | None = None,
    checkpoint: str | Path | None = None,
    progress: Progress = False,
) -> DirectionExamples:
    """Find the positions of real text with the highest projections on a direction of W_QK or W_OV.

    With `u`, `v` the left and right singular vectors, `S` their singular value, `y = N(x)` the
    residual stream that enters the layer, on the sphere of the block's own norm, and `p_ij` the
    attention weight of the head from position i to position j:

    - QK, left: positions i with the highest projection of the query side, `y_i.u`; the counterpart
      is the key with the largest contribution, `s (y_i.u) (u A_Q) R(i-j) (y_j A_K)^T`.
    - QK, right: positions j with the highest projection of the key side, `y_j.v`; the counterpart
      is the query with the largest contribution, `s (y_i A_Q) R(i-j) ((y_j.v) v A_K)^T`.
    - OV, left: positions j with the highest projection of the input side, `y_j.u`; the counterpart
      is the position that reads most from it, by `p_ij S (y_j.u)`.
    - OV, right: positions i to which the head writes most along `v`, `sum_j p_ij S (y_j.u)`; the
      counterpart is the position it reads most of that from. On this side the token lists are
      compared with the next token.

    At distance 0, and without rotary positions, both contributions of QK are `S (y_i.u)(y_j.v)`. At
    other distances the rotation R separates what is paired at distance 0, so that a counterpart
    need not have a high projection on the other side. Biases of queries, keys and values are part
    of the attention but not of the contributions. Counterparts and the output of OV exclude
    positions before `first_position`.

    Examples are local maxima: positions with a projection above 0 (the opposite sign is a different
    use) that no other position within `context` positions exceeds. At most two of them have the
    same token, and those have different preceding tokens, because real text repeats itself.

    The result compares them with the direction's tokens: it ranks the tokens of the examples among
    all tokens on that side, and does the same for 49 random pairs of directions inside the head's
    own subspaces. Tokens are read at the points `N(W_E)`, or those of `vocabulary`, positions
    in the residual stream that enters the layer: without added position embeddings the two agree in
    layer 0; in later layers a direction may be used for something that no single token expresses.

    Args:
        model: a `HookedTransformer` or a `TransformerBridge`; it is run and not changed.
        prompts: texts, token ids, or a tokenizer's batches with `input_ids` and `attention_mask`.
            They are processed as a stream. Empty prompts are skipped, prompts longer than the
            context are truncated at its end; both are counted.
        layer: index of the block.
        head: index of the head.
        direction: index of the singular vector, 0 for the leading one.
        circuit: "QK" or "OV".
        n_examples: number of examples per side.
        context: number of tokens shown on either side of an example.
        first_position: earlier positions are excluded; position 0 often carries huge activations.
        seed: seed of the random pairs.
        token_filter: restricts the token lists to these tokens; ranks and shares are over the
            whole vocabulary all the same.
        vocabulary: points of the tokens at this layer, from `layer_vocabulary`, every token with a
            point; their embeddings by default.
        checkpoint: a file to save the study in; rerun with the same file to resume.
        progress: True shows a bar; a function is called with a sentence at each step.

    Returns:
        At most n_examples `Example` per side, highest first; scores in the model's own units
        (before the softmax and any cap), lengths in those of the residual stream.

    Raises:
        IndexError: the layer, the head or the direction does not exist.
        ValueError: the circuit is unknown, a count is below 1, the filter is of another vocabulary,
            or no prompt has a position to measure.
        CheckpointError: (a ValueError) the checkpoint is of other settings or prompts.
        UnsupportedModelError: see `read_weights`.

    Example:
        >>> result = direction_examples(model, ["w5 w6 w7", "w8 w9"], layer=1, head=0, n_examples=2)
        >>> result.n_prompts, result.n_positions
        (2, 5)

    Source: top-activating examples, as used for neurons; the directions of arXiv 2309.07315,
    section 4.5.
    """
    stream, n_positions = PromptStream(model, prompts, first_position), 0
    weights = read_weights(model, device="cpu")
    keep = allowed_mask(weights, token_filter)
    points = whole_vocabulary_points(weights, layer, vocabulary)
    pairs = head_directions(weights, points, layer, head, circuit, direction, n=N_RANDOM, seed=seed)
    settings = {
        "layer": layer, "head": head, "circuit": circuit, "direction": direction,
        "n_examples": n_examples, "context": context, "first_position": first_position,
        "seed": seed, "n_random": N_RANDOM, "batch_size": BATCH_SIZE,
    }  # fmt: skip
    if vocabulary is not None:
        settings["vocabulary"] = repr(vocabulary)
    saved = Checkpoint(checkpoint, model, {"study": "direction_examples", **settings})
    search = ExampleSearch(
        weights, layer, pairs, n_examples=n_examples, context=context, first_position=first_position
    )
    if saved.results is not None:
        search.restore(saved.results)
    with progress_bar(progress, prompts) as count:
        for batch in batches(stream, BATCH_SIZE):
            n_positions += len(batch.numbers) * (batch.tokens.shape[1] - first_position)
            if not saved.includes(*batch):
                resid_pre = read_resid_pre(model, batch.tokens, layer)
                for x, tokens, number in zip(resid_pre, batch.tokens, batch.numbers, strict=True):
                    search.add(x, tokens, number)
                saved.save_if_due(search.partial_results)
            count(len(batch.numbers))
    stream.require_prompts()
    saved.finish(search.partial_results)
    left, right = tokens_of_direction_pair(
        weights,
        points,
        circuit,
        pairs.left[:1],
        pairs.right[:1],
        N_TOKENS,
        keep=keep,
    )
    examples, random_ranks = search.examples(points)
    source = token_source(vocabulary)
    return DirectionExamples(
        model_name=weights.model_name,
        layer=layer,
        head=head,
        circuit=circuit,
        direction=direction,
        singular_value=pairs.S,
        first_position=first_position,
        tokens_left=make_token_lists(left, weights.tokens, count=source.count),
        tokens_right=make_token_lists(
            right, weights.tokens, count=source.count if circuit == "QK" else None
        ),
        examples=examples,
        random_ranks=random_ranks,
        d_vocab=weights.d_vocab,
        n_prompts=stream.n_prompts,
        n_positions=n_positions,
        n_cut=stream.n_cut,
        n_skipped=stream.n_skipped,
        token_filter=token_filter,
        token_source=source,
        caveats=(
            *caveats_at_distance(weights.caveats, 0, circuit),
            *_caveats(stream),
            *filter_caveat(token_filter),
            *source.caveats([layer]),
            *(WHOLE_VOCABULARY,) * (token_filter is not None),
        ),
    )


def _caveats(stream: PromptStream) -> tuple[Caveat, ...]:
    """Return the caveats on the prompts."""
    sentence = f"the highest positions of {stream.n_prompts} prompts may not be typical."
    return (*stream.caveats, *(Caveat("few prompts", sentence),) * stream.too_few)
