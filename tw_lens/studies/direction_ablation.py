"""Direction ablation: the causal effect of a head's directions, with random pieces as controls.

1. Decompose a head's W_QK or W_OV as `sum_i S_i u_i v_i^T`; a direction is one such rank-one piece.
2. For every prompt, remove the piece (or all others) from the head's input by a hook on the running
   model. The head's attention and output follow from the canonical form; every later layer is the
   model's own.
3. Do the same with random pieces of the same head, rank and energy, drawn anew for every prompt.
4. Measure the change of the attention, of the head's output, and of the next-token distribution;
   intervals come from a bootstrap over prompts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, SupportsIndex

import torch

from tw_lens.analyses import head_spectrum
from tw_lens.analyses.head_directions import head_svd
from tw_lens.analyses.token_filter import TokenFilter, allowed_mask, filter_caveat
from tw_lens.arguments import checked
from tw_lens.canonical import LayerVocabulary, Weights
from tw_lens.progress import Progress
from tw_lens.reading import Prompt, is_half_precision, read_resid_pre, read_weights
from tw_lens.results.arguments import Circuit
from tw_lens.results.caveats import without_distance
from tw_lens.results.token_lists import TokenLists
from tw_lens.studies.ablation_pieces import (
    ABLATION_MEASURES,
    ablation_caveats,
    measure_ablation,
    rank_one_pieces,
    rounding_kl,
    to_float64,
)
from tw_lens.studies.ablation_sets import Sets, ablation_sets
from tw_lens.studies.bootstrap import BootstrapSums, Estimate, difference, estimate
from tw_lens.studies.checkpoint import Checkpoint, PartialResults
from tw_lens.studies.direction_ablation_result import SOURCES, Action, DirectionAblation
from tw_lens.studies.direction_pairs import require_head
from tw_lens.studies.prompts import PromptStream, progress_bar, seeded_generator
from tw_lens.tokens import visible

N_TOKENS = 5


@checked
def direction_ablation(
    model: Any,
    prompts: Iterable[Prompt],
    *,
    layer: int,
    head: int,
    circuit: Circuit = "QK",
    directions: Iterable[SupportsIndex | Iterable[SupportsIndex]] | None = None,
    action: Action = "ablate",
    n_random: int = 1,
    first_position: int = 1,
    seed: int = 0,
    token_filter: TokenFilter | None = None,
    vocabulary: LayerVocabulary | None = None,
    checkpoint: str | Path | None = None,
    progress: Progress = False,
) -> DirectionAblation:
    """Measure the effect of ablating directions of W_QK or W_OV in the running model.

    With `W = sum_i S_i u_i v_i^T` (exact convention), a direction i is removed from the head's
    input: its queries (QK) or values (OV) lose `(N(x) u_i) u_i^T A`. That is the piece
    `S_i u_i v_i^T` of W_OV, and of W_QK at distance 0; at another distance it is the contribution
    of this query direction there, `s (N(x_i) u_i) u_i^T A_Q R(i-j) A_K^T N(x_j)^T`. Constants
    (`a_Q`, `a_K`, `a_V`) stay: with all directions ablated, the bilinear part of the head is zero.
    Query-key norms and bottlenecks divide by the norms of the whole vectors, as without ablation.
    The weights are not modified: the change is added to the output of `W_O` by a hook, and the
    residual stream after the block is compared with the canonical form in every run.

    Random pieces: the part of W that random orthonormal directions of the head's input subspace
    read, scaled to the same singular values (so of the same rank and energy; with rotary positions
    at distance 0: a caveat gives the energy ratio at distance 8), drawn anew for every prompt.
    This null lies in the head's own subspace: it tests whether u_i matters more than the rest of
    what the head does.

    Args:
        model: a `HookedTransformer` or a `TransformerBridge`; it is run and not changed.
        prompts: texts, token ids or padded batches, as for `trajectory_statistics`.
        layer: index of the block.
        head: index of the head.
        circuit: "QK" or "OV".
        directions: sets of directions, each ablated separately: `[0, 1, (0, 1, 2)]`; a subspace
            from `direction_degeneracy` belongs together. By default the 20 leading directions, one
            by one.
        action: "ablate" to remove the set, "isolate" to remove all other directions.
        n_random: number of random pieces for every set and prompt.
        first_position: earlier positions are excluded.
        seed: seed of the random pieces and of the bootstrap.
        token_filter: restricts the token columns to these tokens; effects do not depend on it.
        vocabulary: points of the tokens at this layer, from `layer_vocabulary`, for the token
            columns; their embeddings by default.
        checkpoint: a file to save the study in; rerun with the same file to resume.
        progress: True shows a bar; a function is called with a sentence at each step.

    Raises:
        IndexError: the layer, the head or a direction does not exist.
        TypeError: the head or a direction is not an int, or the directions are not a list.
        ValueError: the circuit or the action is unknown, there is no set, the filter is of another
            vocabulary, or no prompt has a position to measure.
        CheckpointError: (a ValueError) the checkpoint is of other settings or prompts.
        UnsupportedModelError: the model's attention differs from the canonical form, or cannot be
            changed by a hook.

    Example:
        >>> result = direction_ablation(model, ["w5 w6 w7", "w8 w9"], layer=1, head=0,
        ...                             directions=[0, (), range(16)])
        >>> result.names
        ('0', 'none', '0 to 15')
        >>> result.to_dataframe().query("directions == 'none'").value.tolist()
        [0.0, 0.0, 0.0]

    Source: arXiv 2309.07315, section 4.5, for the directions; the test is causal ablation.
    """
    stream = PromptStream(model, prompts, first_position)
    weights = read_weights(model, device="cpu")
    allowed_mask(weights, token_filter)  # a filter that does not fit is rejected before the work
    block = weights.block(layer)
    head = require_head(block, head)
    precise = to_float64(block)
    svd = head_svd(precise, [head], circuit)
    if not svd.S.any():
        raise ValueError(f"W_{circuit} of L{layer}H{head} is zero: there is nothing to ablate.")
    sets = ablation_sets(directions, svd.S.shape[-1])
    A = precise.A_Q[head] if circuit == "QK" else precise.A_V[block.kv_head[head]]
    shape = (len(SOURCES), len(sets), len(ABLATION_MEASURES))
    saved = Checkpoint(checkpoint, model, {
        "study": "direction_ablation", "layer": layer, "head": head, "circuit": circuit,
        "directions": sets, "action": action, "n_random": n_random,
        "first_position": first_position, "seed": seed,
    })  # fmt: skip
    sums, residual_error, rounding = BootstrapSums.empty(math.prod(shape)), 0.0, None
    if saved.results is not None:
        sums = BootstrapSums(**saved.results.tensors)
        residual_error, rounding = saved.results.values["errors"]

    def partial_results() -> PartialResults:
        return PartialResults(sums._asdict(), {"errors": [residual_error, rounding]})

    with progress_bar(progress, prompts) as count:
        for number, tokens in stream:
            if not saved.includes([number], tokens[None]):
                generator = seeded_generator("random pieces", seed, number)
                pieces = rank_one_pieces(
                    svd, A, sets, keep=action == "isolate", n_random=n_random, generator=generator
                )
                x = read_resid_pre(model, tokens[None], layer)[0]
                values, error = measure_ablation(model, block, head, circuit, tokens, x, pieces)
                values = values[..., first_position:].unflatten(0, (len(sets), 1 + n_random))
                effects = torch.stack([values[:, 0], values[:, 1:].mean(1)])
                if weights.readout.is_embedding:
                    effects[:, :, ABLATION_MEASURES.index("kl")] = math.nan
                elif rounding is None and is_half_precision(model):
                    rounding = float(rounding_kl(model, block, tokens, x)[first_position:].mean())
                sums.add(effects.flatten(0, 2), seed=seed, number=number)
                residual_error = max(residual_error, error)
                saved.save_if_due(partial_results)
            count(1)
    stream.require_prompts()
    saved.finish(partial_results)
    means = sums.means().unflatten(1, shape)
    S = svd.S[0]
    energy = torch.stack([S[list(members)].norm() for members in sets])
    left, right = _tokens(weights, layer, head, circuit, sets, token_filter, vocabulary)
    return DirectionAblation(
        model_name=weights.model_name,
        layer=layer,
        head=head,
        circuit=circuit,
        action=action,
        sets=sets,
        energy=energy,
        share=energy.square() / S.square().sum(),
        left_tokens=left,
        right_tokens=right,
        effect=estimate(means),
        difference=Estimate(*(part[0] for part in difference(means[:, :1], means[:, 1:]))),
        residual_error=residual_error,
        n_prompts=stream.n_prompts,
        n_positions=int(sums.counts[0, 0]),
        n_random=n_random,
        token_filter=token_filter,
        caveats=(
            *without_distance(weights.caveats),
            *ablation_caveats(
                model, precise, head, svd if circuit == "QK" else None, sets, rounding
            ),
            *stream.interval_caveats,
            *filter_caveat(token_filter),
        ),
    )


def _tokens(
    weights: Weights,
    layer: int,
    head: int,
    circuit: Circuit,
    sets: Sets,
    token_filter: TokenFilter | None,
    vocabulary: LayerVocabulary | None,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the tokens of every set of one direction, left and right; "" for the other sets."""
    n = 1 + max((members[0] for members in sets if len(members) == 1), default=0)
    spectrum = head_spectrum(
        weights,
        layer=layer,
        head=head,
        circuit=circuit,
        n=n,
        k=N_TOKENS,
        token_filter=token_filter,
        vocabulary=vocabulary,
    )

    def joined(lists: TokenLists) -> tuple[str, ...]:
        return tuple(
            " ".join(map(visible, lists.token_string[members[0]])) if len(members) == 1 else ""
            for members in sets
        )

    return joined(spectrum.left), joined(spectrum.right)
