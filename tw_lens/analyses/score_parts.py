"""One head's scores on a prompt: those that are attributed, and parts as queries and keys."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tw_lens.analyses.step_parts import tolerance_of_sums
from tw_lens.argument_kinds import require_index
from tw_lens.canonical import Block, States, Weights
from tw_lens.errors import Caveat, UnsupportedModelError
from tw_lens.results.caveats import without_distance

FIXED_DIVISOR = Caveat(
    "fixed divisors",
    "queries or keys are divided by their length: parts are divided by the length of the whole "
    "vectors, which would change if a part were removed.",
)
BEFORE_SOFTCAP = Caveat("before the soft-cap", "scores are those before the soft-cap.")


@dataclass(frozen=True, eq=False)
class PromptScores:
    """A head's scores before soft-cap and mask, and the weights of the sum that is attributed.

    `q` and `k` are the head's queries and keys, normalised and rotated; `position_bias` is what
    the scores hold besides their product (ALiBi).
    """

    block: Block
    head: int
    x: Float[Tensor, "position d_model"]
    q: Float[Tensor, "position d_head"]
    k: Float[Tensor, "position d_head"]
    raw: Float[Tensor, "query key"]
    sees: Bool[Tensor, "query key"]
    pair_weights: Float[Tensor, "query key"]
    position_bias: Float[Tensor, "query key"]

    def sum(self, scores: Float[Tensor, "query key"]) -> float:
        """Return the weighted sum of scores."""
        return float((self.pair_weights * scores).sum())

    def above_mean(
        self, scores: Float[Tensor, "*counts query key"]
    ) -> Float[Tensor, "*counts query key"]:
        """Return scores less the mean over the keys that each query sees, 0 where it sees none."""
        mean = (scores * self.sees).sum(-1, keepdim=True) / self.sees.sum(-1, keepdim=True)
        return (scores - mean) * self.sees

    def require_sum(self, weights: Weights, rebuilt: Float[Tensor, "query key"], of: str) -> float:
        """Return the largest gap of rebuilt scores, over the largest score; reject a large one.

        Raises:
            UnsupportedModelError: the parts do not sum to the scores.
        """
        size = self.raw[self.sees].abs().max().clamp_min(1e-30)
        error = float((rebuilt - self.raw)[self.sees].abs().max() / size)
        if error < tolerance_of_sums(weights):
            return error
        raise UnsupportedModelError(
            weights.architecture,
            f"the {of} of L{self.block.layer}H{self.head} do not sum to its scores (relative error "
            f"{error:.0e})",
            "trajectory_attribution and attention_pattern still work on it.",
        )

    def caveats(self, weights: Weights) -> tuple[Caveat, ...]:
        """Return the conditions under which a sum over parts of the scores holds."""
        block = self.block
        found = [] if block.bilinear and block.bottleneck_Q is None else [FIXED_DIVISOR]
        found += [] if block.attention_scores.softcap is None else [BEFORE_SOFTCAP]
        return (*without_distance(weights.caveats), *found)


def prompt_scores(
    weights: Weights,
    states: States,
    layer: int,
    head: int,
    query: int | None,
    key: int | None,
    *,
    relative: bool,
) -> PromptScores:
    """Return a head's scores, and the weights of one score, of a row, or of the prompt's mean.

    Raises:
        IndexError: the layer, the head or a position does not exist.
        ValueError: a key without a query, a key that the query does not see, states of another
            model.
    """
    weights.require_states(states)
    block = weights.block(layer)
    (head,) = block.heads(head)
    n = len(states)
    sees = block.attention_scores.mask(n)
    if key is not None and query is None:
        raise ValueError(f"key={key} needs query=, the position that attends to it.")
    for name, value in (("query", query), ("key", key)):
        if value is not None:
            require_index(name, value, n)
    if query is not None and key is not None and not sees[query, key]:
        raise ValueError(f"the query at position {query} does not see the key at position {key}.")
    x = states.stream[layer]
    scores = block.attention_scores
    q, k = scores.norm_and_rotate(block.queries(x), block.keys(x))
    raw = scores.raw_scores(q, k[:, block.kv_head])
    pattern = scores.pattern(scores.softcap_scores(raw))[head]
    nothing = torch.zeros(n, block.n_heads, 1)
    return PromptScores(
        block=block,
        head=head,
        x=x,
        q=q[:, head],
        k=k[:, block.kv_head[head]],
        raw=raw[head],
        sees=sees,
        pair_weights=_pair_weights(pattern, sees, query, key, relative=relative),
        position_bias=scores.raw_scores(nothing, nothing)[head],
    )


def _pair_weights(
    pattern: Float[Tensor, "query key"],
    sees: Tensor,
    query: int | None,
    key: int | None,
    *,
    relative: bool,
) -> Float[Tensor, "query key"]:
    """Return the weight of every score in the sum that is attributed."""
    chosen = torch.zeros_like(pattern)
    queries = torch.arange(len(pattern)) if query is None else torch.tensor([query])
    if query is not None and key is not None:
        chosen[query, key] = 1.0
    else:
        share = pattern[queries] / pattern[queries].sum(-1, keepdim=True)  # without a sink's weight
        chosen[queries] = share / len(queries)
    if relative:
        mean = sees / sees.sum(-1, keepdim=True)
        chosen = chosen - mean * chosen.sum(-1, keepdim=True)
    return chosen


def linear_images(
    of: PromptScores,
    q: Float[Tensor, "position parts d_head"],
    k: Float[Tensor, "position parts d_head"],
) -> tuple[Float[Tensor, "position parts d_head"], Float[Tensor, "position parts d_head"]]:
    """Return parts of queries and keys, normalised and rotated as the whole vectors are.

    Linear in the parts: constants are not added.
    """
    block, x, scores = of.block, of.x, of.block.attention_scores
    n_x = block.norm(x)
    if block.bottleneck_Q is not None:
        q = block.bottleneck_Q.normalise(q, n_x)
    if block.bottleneck_KV is not None:
        k = block.bottleneck_KV.normalise(k, n_x)
    return (
        scores.linearised(q, block.queries(x), of.head),
        scores.linearised(k, block.keys(x), block.kv_head[of.head], key=True),
    )
