"""Score attribution: why a head gives a score, as an exact sum over parts of query and key.

1. The stream that a layer reads is the sum of what was added before: embedding, learned positions,
   every earlier head, every earlier MLP, biases.
2. Each part passes the layer's norm with the divisor of the whole state, then W_Q or W_K, query-key
   norms with the divisor of the whole vector, and the rotation.
3. A score, or a weighted sum of scores, is the sum over pairs of query parts and key parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tw_lens.analyses.score_parts import PromptScores, linear_images, prompt_scores
from tw_lens.analyses.step_parts import BIASES, Parts, stream_parts
from tw_lens.argument_kinds import require_positive
from tw_lens.arguments import checked
from tw_lens.canonical import States, Weights
from tw_lens.errors import Caveat
from tw_lens.results.base import Result, component_label, figure, head_columns

if TYPE_CHECKING:
    import plotly.graph_objects as go


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


class PairParts(NamedTuple):
    """One head's scores above the mean of each query's keys, and their sums over parts.

    `by_query` is summed over the key's parts, `by_key` over the query's parts; `score` has one
    entry per pair.
    """

    head: int
    sees: Bool[Tensor, "query key"]
    by_query: Float[Tensor, "query key parts"]
    by_key: Float[Tensor, "query key parts"]
    score: Float[Tensor, "query key 1"]


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
        >>> abs(float(result.matrix.sum()) - result.total) < 1e-4
        True

    Source: Elhage et al. 2021 (A mathematical framework for transformer circuits), QK circuits of
    composed heads; exact with the norms' divisors, by definition.
    """
    of = prompt_scores(weights, states, layer, head, query, key, relative=relative)
    parts, scale = stream_parts(weights, states, layer), of.block.attention_scores.scale
    q, k = _queries_and_keys(of, parts)
    error = of.require_sum(weights, scale * q.sum(1) @ k.sum(1).T + of.position_bias, "parts")
    return ScoreAttribution(
        model_name=states.model_name,
        layer=layer,
        head=of.head,
        query=query,
        key=key,
        token_strings=states.token_strings,
        parts=tuple(parts),
        matrix=scale * torch.einsum("ipe,ij,jqe->pq", q, of.pair_weights, k),
        position_bias=of.sum(of.position_bias),
        total=of.sum(of.raw),
        relative=relative,
        error=error,
        caveats=of.caveats(weights),
    )


def parts_of_all_pairs(
    weights: Weights, states: States, layer: int, n: int
) -> tuple[tuple[str, ...], Iterator[PairParts]]:
    """Return the parts' names, and head by head their sums in every score of the first n positions.

    Raises:
        UnsupportedModelError, ValueError: see `score_attribution`.
    """
    parts = stream_parts(weights, states, layer)

    def heads() -> Iterator[PairParts]:
        for head in range(weights.block(layer).n_heads):
            of = prompt_scores(weights, states, layer, head, None, None, relative=True)
            scale = of.block.attention_scores.scale
            q, k = _queries_and_keys(of, parts)
            of.require_sum(weights, scale * q.sum(1) @ k.sum(1).T + of.position_bias, "parts")
            sums = (
                scale * torch.einsum("ipe,je->pij", q, k.sum(1)),
                scale * torch.einsum("ie,jpe->pij", q.sum(1), k),
                of.raw[None],
            )
            shown = (of.above_mean(one)[:, :n, :n].permute(1, 2, 0) for one in sums)
            yield PairParts(head, of.sees[:n, :n], *shown)

    return tuple(parts), heads()


def _queries_and_keys(
    of: PromptScores, parts: Parts
) -> tuple[Float[Tensor, "position parts d_head"], Float[Tensor, "position parts d_head"]]:
    """Return the parts' queries and keys; the biases take the constants of the maps."""
    block, scores, at = of.block, of.block.attention_scores, list(parts).index(BIASES)
    kv, stacked = block.kv_head[of.head], block.norm.linear_at(of.x)(torch.stack([*parts.values()]))
    q = torch.einsum("pid,de->ipe", stacked, block.W_Q[of.head])
    k = torch.einsum("pid,de->ipe", stacked, block.W_K[kv])
    q[:, at] += block.a_Q[of.head]
    k[:, at] += block.a_K[kv]
    q, k = linear_images(of, q, k)
    if any(norm is not None and norm.bias.any() for norm in (scores.q_norm, scores.k_norm)):
        q[:, at] += of.q - q.sum(1)  # the query-key norms' own biases
        k[:, at] += of.k - k.sum(1)
    return q, k
