"""Faithfulness of a reading: do the points of tokens predict what a head does in text?

1. The prompts run through the model; the head's real scores and values come from its real states.
2. The same quantities are computed with every state replaced by its token's point, at the same
   positions; with the points of other tokens (a permutation: the floor, which position alone
   reaches); and with another real state of the same token, from an earlier prompt (the ceiling).
3. QK: for every query, the correlation over its keys of predicted with real scores. OV: for every
   position, the cosine of the write for the point with the write for the real state, both less
   their means over the prompt; and the same for the attention-weighted write of all positions.
4. Means over positions, with a bootstrap over prompts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tw_lens.arguments import checked
from tw_lens.canonical import Block, LayerVocabulary, TokenPoints, token_points
from tw_lens.progress import Progress
from tw_lens.reading import Prompt, read_resid_pre_of_layers, read_weights
from tw_lens.studies.batching import batches
from tw_lens.studies.bootstrap import BootstrapSums, estimate
from tw_lens.studies.faithfulness_measures import QUANTITIES, EarlierStates, PromptHeads
from tw_lens.studies.faithfulness_result import Agreement, Faithfulness
from tw_lens.studies.prompts import PromptStream, progress_bar, prompt_hash

OWN = len(QUANTITIES)
BOTH = [QUANTITIES.index("score"), QUANTITIES.index("value")]  # QK, OV


@checked
def faithfulness(
    model: Any,
    prompts: Iterable[Prompt],
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
      the value of its token's point, and `m`, `m'` the means of either over the prompt's positions;
      its explained variance `1 - E|real - predicted|^2 / E|real|^2`; and both for the head's write
      `sum_j A_ij v_j W_O` with the real pattern A.
    - Floor: the same with points of permuted tokens, which know positions and nothing of the words.
    - Ceiling: `sqrt(r)` of two real states of the same token, the second from an earlier one of
      these prompts: with `s = f(tokens) + rest` and independent rests, `r = var(f) / var(s)`.

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
        >>> from tw_lens import layer_vocabulary
        >>> vocabulary = layer_vocabulary(model, layers=[0], source="embedding")
        >>> faithfulness(model, ["w5 w6 w7 w8 w9"], vocabulary=vocabulary).sources
        ('embedding',)

    Source: interval from a bootstrap over prompts, Hanley and MacGibbon 2006.
    """
    several = [vocabulary] if isinstance(vocabulary, LayerVocabulary) else list(vocabulary)
    if not several:
        raise ValueError(
            "vocabulary must be one or more of what layer_vocabulary returns; got none."
        )
    weights = read_weights(model, device="cpu")
    for one in several:
        one.require_model(weights)
    shared = [la for la in several[0].layers if all(la in one.layers for one in several)]
    chosen = weights.require_layers(shared if layers is None else layers)
    blocks = [weights.block(layer) for layer in chosen]
    points = [
        [token_points(weights, block.layer, block.norm, one) for block in blocks] for one in several
    ]
    heads = tuple((block.layer, head) for block in blocks for head in range(block.n_heads))
    n_rows = len(several) * (OWN + len(BOTH)) + len(BOTH)
    sums = BootstrapSums.empty(n_rows * len(heads))
    known = torch.stack([one.mask for one in several]).all(0)
    others = _permuted(known, seed)
    earlier = EarlierStates(weights.d_vocab, weights.d_model, len(chosen))
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
            for i, x in zip(fresh, states.unbind(1), strict=True):
                tokens = batch.tokens[i]
                usable = known[tokens]
                usable[:first_position] = False
                rows = _agreement_of_prompt(blocks, x, tokens, usable, points, others, earlier)
                rows = rows[..., first_position:].flatten(0, 1)
                sums.add(rows, seed=seed, number=batch.numbers[i])
                n_measured += 1
    stream.require_prompts()
    if not n_measured:
        raise ValueError(
            f"all {n_seen} prompts were used to compute the vocabulary: give held-out prompts."
        )
    means = sums.means().unflatten(1, (n_rows, len(heads)))
    own, floor = means[:, : -len(BOTH)].unflatten(1, (len(several), -1)).split([OWN, len(BOTH)], 2)
    ceiling = means[:, None, -len(BOTH) :].clamp_min(0).sqrt()
    named = dict(zip(QUANTITIES, own[0].unbind(1), strict=True))
    layer_of_head = torch.tensor([layer for layer, _ in heads])
    of_layers = [
        torch.stack([part[..., layer_of_head == layer].nanmean(-1) for layer in chosen], dim=-1)
        for part in (own[:, :, BOTH], floor, ceiling)
    ]
    return Faithfulness(
        model_name=weights.model_name,
        sources=tuple(one.source for one in several),
        n_tokens=tuple(len(one) for one in several),
        heads=heads,
        layers=chosen,
        of_heads=_agreement(own[:, :, BOTH], floor, ceiling),
        of_layers=_agreement(*of_layers),
        explained=(1 - named["value_error"] / named["value_size"]).float(),
        write=named["write"].float(),
        write_explained=(1 - named["write_error"] / named["write_size"]).float(),
        n=sums.counts[0].unflatten(0, (n_rows, len(heads)))[BOTH].long(),
        n_prompts=n_measured,
        n_seen=n_seen,
        caveats=stream.interval_caveats,
    )


def _agreement(own: Tensor, floor: Tensor, ceiling: Tensor) -> Agreement:
    """Return values and intervals; axes: resamples, sources, circuits, cells."""
    return Agreement(estimate(own), estimate(floor), estimate(own - floor), estimate(ceiling))


def _permuted(known: Bool[Tensor, " d_vocab"], seed: int) -> Int[Tensor, " d_vocab"]:
    """Return another token for every token that has a point, by a random permutation."""
    ids = known.nonzero().flatten()
    others = torch.arange(len(known))
    others[ids] = ids[torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))]
    return others


def _agreement_of_prompt(
    blocks: Sequence[Block],
    x: Float[Tensor, "layers position d_model"],
    tokens: Int[Tensor, " position"],
    usable: Bool[Tensor, " position"],
    vocabularies: Sequence[Sequence[TokenPoints]],
    others: Int[Tensor, " d_vocab"],
    earlier: EarlierStates,
) -> Float[Tensor, "rows heads position"]:
    """Return, per source, own quantities and floor, and then the ceiling's; heads of all layers."""
    parts, states = [], []
    repeated = earlier.known(tokens)
    for i, (block, state) in enumerate(zip(blocks, x, strict=True)):
        real, rows = PromptHeads(block, state, usable), []
        for one in vocabularies:
            rows.append(real.agreement(one[i].gather(tokens)))
            rows.append(real.agreement(one[i].gather(others[tokens]))[BOTH])
        rows.append(real.agreement(earlier.of_layer(i, tokens), repeated)[BOTH])
        parts.append(torch.cat(rows))
        states.append(block.norm.sphere(state))
    earlier.add(tokens[usable], torch.stack(states)[:, usable])
    return torch.cat(parts, dim=1)
