"""Score attribution: why a head gives a score, as an exact sum over parts of query and key.

1. The stream that a layer reads is the sum of what was added before: embedding, learned positions,
   every earlier head, every earlier MLP, biases.
2. Each part passes the layer's norm with the divisor of the whole state, then W_Q or W_K, query-key
   norms with the divisor of the whole vector, and the rotation.
3. A score, or a weighted sum of scores, is the sum over pairs of query parts and key parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses.step_parts import BIASES, Parts, stream_parts, tolerance_of_sums
from tw_lens.argument_kinds import require_index, require_positive
from tw_lens.arguments import checked
from tw_lens.canonical import Block, States, Weights
from tw_lens.errors import Caveat, UnsupportedModelError
from tw_lens.results.base import Result, component_label, figure, head_columns
from tw_lens.results.caveats import without_distance

if TYPE_CHECKING:
    import plotly.graph_objects as go

FIXED_DIVISOR = Caveat(
    "fixed divisors",
    "queries or keys are divided by their length: parts are divided by the length of the whole "
    "vectors, which would change if a part were removed.",
)
BEFORE_SOFTCAP = Caveat("before the soft-cap", "scores are those before the soft-cap.")


@dataclass(frozen=True, repr=False, eq=False)
class ScoreAttribution(Result):
    """Contributions of every pair of a query part and a key part to a score.

    `matrix` sums to `total` less `position_bias` (ALiBi's part). `query` and `key` are the
    positions of the score; None for the attention-weighted mean over keys, or over the prompt.
    `relative`: the mean score over the keys of the query is taken out. `error` is the largest gap
    of the sum against the model's own scores, over the largest score.
    """

    model_name: str
    layer: int
    head: int
    query: int | None
    key: int | None
    token_strings: tuple[str, ...]
    parts: tuple[str, ...]
    matrix: Float[Tensor, "query_parts key_parts"]
    position_bias: float
    total: float
    relative: bool
    error: float
    caveats: tuple[Caveat, ...] = ()

    @property
    def component(self) -> str:
        """The label of the head: "L5H1"."""
        return component_label(self.layer, self.head)

    @checked
    def top_pairs(self, n: int = 10) -> pd.DataFrame:
        """Return the pairs of parts with the largest contributions, by absolute value.

        Columns: query_part, key_part, contribution, share (of the total).

        Raises:
            TypeError, ValueError: n is no positive int.
        """
        n = min(require_positive("n", n), self.matrix.numel())
        order = self.matrix.abs().flatten().topk(n).indices
        rows = []
        for index in order.tolist():
            q, k = divmod(index, len(self.parts))
            value = float(self.matrix[q, k])
            share = value / self.total if self.total else float("nan")
            rows.append((self.parts[q], self.parts[k], value, share))
        return pd.DataFrame(rows, columns=["query_part", "key_part", "contribution", "share"])

    def headline(self) -> str:
        """Return the score, and the pair of parts that contributes most."""
        top = self.top_pairs(1).to_dict("records")[0]
        return (
            f"{self.model_name} {self.component}: {self._what()} is {self.total:+.3g}; most by the "
            f"query's {top['query_part']} and the key's {top['key_part']} "
            f"({top['contribution']:+.3g}); {len(self.parts)} parts each, within {self.error:.0e}"
        )

    def _what(self) -> str:
        """Return the score in words."""
        above = ", above the mean of its keys," if self.relative else ""
        if self.query is None:
            return f"the attention-weighted mean score{above}"
        own = repr(self.token_strings[self.query])
        if self.key is None:
            return f"the attention-weighted score of {own} (position {self.query}){above}"
        other = repr(self.token_strings[self.key])
        return f"the score of {own} ({self.query}) for {other} ({self.key}){above}"

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per part and side: what all its pairs contribute.

        Columns: layer, head, component, side ("query", "key"), part, contribution, share (of the
        total).
        """
        rows = []
        for side, axis in (("query", 1), ("key", 0)):
            for part, value in zip(self.parts, self.matrix.sum(axis).tolist(), strict=True):
                share = value / self.total if self.total else float("nan")
                columns = head_columns(self.layer, self.head)
                rows.append(
                    columns | {"side": side, "part": part, "contribution": value, "share": share}
                )
        return pd.DataFrame(rows)

    @checked
    def plot(self, n: int = 12) -> go.Figure:
        """Return a map of the parts with the largest contributions, and the waterfall to the score.

        Args:
            n: parts per side; the others are summed.

        Raises:
            TypeError, ValueError: n is no positive int.
        """
        return figure(self, require_positive("n", n))


@checked
def score_attribution(
    weights: Weights,
    states: States,
    *,
    layer: int,
    head: int,
    query: int | None = None,
    key: int | None = None,
    relative: bool = True,
) -> ScoreAttribution:
    """Attribute a head's score to parts of the query's and of the key's residual stream.

    `s_ij = s sum_ab (part_a L_i W_Q) R(i - j) (part_b L_j W_K)^T` with `L_i` the layer's norm,
    linear with the divisor of the whole state; constants (norm biases, `b_Q`, `b_K`, `b_O`) are the
    part "biases", ALiBi's bias is `position_bias`. The parts sum to the model's own score before
    the mask, within 1e-5 of the largest score (more in half precision).

    With a query and a key, one score. With a query, the mean over its keys, weighted by attention;
    with neither, the mean of that over the prompt's queries. `relative` takes out the mean score
    over the keys that the query sees, which explains no attention: a softmax does not depend on it.

    Args:
        weights: from `read_weights`.
        states: from `read_states`, of the same model.
        layer: index of the block.
        head: index of the head.
        query: position of the query; all by default.
        key: position of the key, one that the query sees; all by default.
        relative: whether the mean over the query's keys is taken out.

    Raises:
        IndexError: the layer, the head or a position does not exist.
        UnsupportedModelError: the parts do not sum to the score.
        ValueError: a key without a query, a key that the query does not see, states of another
            model.

    Example:
        >>> result = score_attribution(weights, states, layer=1, head=2, query=2, key=0)
        >>> round(float(result.matrix.sum()) - result.total, 4)
        -0.0

    Source: Elhage et al. 2021 (A mathematical framework for transformer circuits), QK circuits of
    composed heads; exact with the norms' divisors, by definition.
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
    q_whole, k_whole = block.attention_scores.norm_and_rotate(block.queries(x), block.keys(x))
    raw = block.attention_scores.raw_scores(q_whole, k_whole[:, block.kv_head])[head]
    pattern = block.attention_pattern(x)[head]
    pair_weights = _pair_weights(pattern, sees, query, key, relative=relative)
    parts = stream_parts(weights, states, layer)
    names, q, k = _projected(block, x, parts, head)
    total = float((pair_weights * raw).sum())
    matrix = block.attention_scores.scale * torch.einsum("ipe,ij,jqe->pq", q, pair_weights, k)
    bias = _position_bias(block, head, n)
    position_bias = float((pair_weights * bias).sum())
    rebuilt = block.attention_scores.scale * q.sum(1) @ k.sum(1).T + bias
    error = float((rebuilt - raw)[sees].abs().max() / raw[sees].abs().max().clamp_min(1e-30))
    if not error < tolerance_of_sums(weights):
        raise UnsupportedModelError(
            weights.architecture,
            f"the parts of L{layer}H{head} do not sum to its scores (relative error {error:.0e})",
            "trajectory_attribution and attention_pattern still work on it.",
        )
    return ScoreAttribution(
        model_name=states.model_name,
        layer=layer,
        head=head,
        query=query,
        key=key,
        token_strings=states.token_strings,
        parts=names,
        matrix=matrix,
        position_bias=position_bias,
        total=total,
        relative=relative,
        error=error,
        caveats=_caveats(weights, block),
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


def _projected(
    block: Block, x: Float[Tensor, "position d_model"], parts: Parts, head: int
) -> tuple[tuple[str, ...], Float[Tensor, "position parts d"], Float[Tensor, "position parts d"]]:
    """Return the parts' names, queries and keys, normalised and rotated as the whole vectors are.

    The constants of the map from the stream join the biases.
    """
    kv, scores = block.kv_head[head], block.attention_scores
    linear = block.norm.linear_at(x)
    stacked = linear(torch.stack(list(parts.values())))
    q = torch.einsum("pid,de->ipe", stacked, block.W_Q[head])
    k = torch.einsum("pid,de->ipe", stacked, block.W_K[kv])
    at = list(parts).index(BIASES)
    q[:, at] += block.a_Q[head]
    k[:, at] += block.a_K[kv]
    n_x = block.norm(x)
    if block.bottleneck_Q is not None:
        q = block.bottleneck_Q.normalise(q, n_x)
    if block.bottleneck_KV is not None:
        k = block.bottleneck_KV.normalise(k, n_x)
    whole_q, whole_k = block.queries(x), block.keys(x)
    q = scores.linearised(q, whole_q, head)
    k = scores.linearised(k, whole_k, kv, key=True)
    if any(norm is not None and norm.bias.any() for norm in (scores.q_norm, scores.k_norm)):
        q_all, k_all = scores.norm_and_rotate(whole_q, whole_k)  # the query-key norms' own biases
        q[:, at] += q_all[:, head] - q.sum(1)
        k[:, at] += k_all[:, kv] - k.sum(1)
    return tuple(parts), q, k


def _position_bias(block: Block, head: int, n: int) -> Float[Tensor, "query key"]:
    """Return what the score holds besides the product of query and key (ALiBi)."""
    scores = block.attention_scores
    nothing = torch.zeros(n, block.n_heads, 1)
    return scores.raw_scores(nothing, nothing)[head]


def _caveats(weights: Weights, block: Block) -> tuple[Caveat, ...]:
    scores = block.attention_scores
    found = [] if block.bilinear and block.bottleneck_Q is None else [FIXED_DIVISOR]
    found += [] if scores.softcap is None else [BEFORE_SOFTCAP]
    return (*without_distance(weights.caveats), *found)
