"""Position scores: what each head's query at one learned position gives a key at another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tw_lens.arguments import checked
from tw_lens.canonical import Points, Weights, met_by, position_points
from tw_lens.errors import Caveat, UnsupportedModelError
from tw_lens.results.base import HeadComponents, Result, head_columns
from tw_lens.results.token_source import token_source
from tw_lens.torch_settings import default_settings

if TYPE_CHECKING:
    import pandas as pd

N_POSITIONS = 64


@dataclass(frozen=True, repr=False, eq=False)
class HeadPositionScores(HeadComponents, Result):
    """Scores of learned positions: queries i as rows, keys j as columns."""

    model_name: str
    layer: int
    heads: tuple[int, ...]
    points: Points
    scores: Float[Tensor, "heads positions positions"]
    causal: bool
    caveats: tuple[Caveat, ...] = ()

    @default_settings()
    def most_attended(self) -> Int[Tensor, "heads positions"]:
        """Return the distance from each query back to the key with its highest score.

        Only keys at or before the query count where attention is causal.
        """
        n, scores = len(self.points), self.scores
        if self.causal:
            later = torch.ones(n, n, dtype=torch.bool).triu(1)
            scores = scores.masked_fill(later, -torch.inf)
        return torch.arange(n) - scores.argmax(-1)

    @checked
    def share_at_distance(self, distance: int) -> Float[Tensor, " heads"]:
        """Return the share of queries whose highest-scoring key lies at a distance back."""
        return (self.most_attended() == distance).float().mean(-1)

    @default_settings()
    def by_distance(self) -> Float[Tensor, "heads positions"]:
        """Return the mean score at each distance back, each query's mean over its keys taken out.

        Beside it, for rotary models: `head_score_by_distance`.
        """
        n, scores = len(self.points), self.scores
        distance = torch.arange(n)[:, None] - torch.arange(n)
        seen = distance >= 0 if self.causal else torch.ones_like(distance, dtype=torch.bool)
        mean = (scores * seen).sum(-1, keepdim=True) / seen.sum(-1, keepdim=True)
        above = scores - mean
        return torch.stack([above[:, distance == back].mean(-1) for back in range(n)], dim=-1)

    def headline(self) -> str:
        """Return the head whose positions attend to the previous position most often."""
        share = self.share_at_distance(1)
        best = int(share.argmax())
        return (
            f"{self.model_name} layer {self.layer}: {len(self.heads)} heads, {len(self.points)} "
            f"positions; {self.components[best]} scores the previous position highest at "
            f"{100 * float(share[best]):.0f} % of them"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per head and pair: layer, head, component, query, key, score."""
        import pandas as pd

        names, n = self.points.names, len(self.points)
        rows = [
            head_columns(self.layer, head, self.model_name)
            | {"query": names[i], "key": names[j], "score": float(self.scores[h, i, j])}
            for h, head in enumerate(self.heads)
            for i in range(n)
            for j in range(i + 1 if self.causal else n)
        ]
        return pd.DataFrame(rows)


@checked
def head_position_scores(
    weights: Weights, *, layer: int, head: int | None = None, n: int = N_POSITIONS
) -> HeadPositionScores:
    """Return the scores that a head gives pairs of learned positions.

    `s (p_i A_Q + a_Q) R(i - j) (p_j A_K)^T` for the first n positions, each met as a part of the
    stream over one stated divisor (see `position_points`). Words, and what earlier layers write,
    add to the score.

    Args:
        weights: from `read_weights`.
        layer: index of the block.
        head: one head, or None for all.
        n: number of positions, from 0.

    Raises:
        IndexError: the layer or the head does not exist.
        UnsupportedModelError: the model has no learned positions, or normalises queries or keys.

    Example:
        >>> head_position_scores(weights, layer=0, n=8).scores.shape
        torch.Size([4, 8, 8])

    Source: arXiv 2309.07315, section 4.3, with positions in the place of words.
    """
    block = weights.block(layer)
    if not block.bilinear:
        raise UnsupportedModelError(
            weights.architecture,
            "it normalises queries or keys, so that positions have no score of their own",
            "score_attribution gives their part in the score of a prompt.",
        )
    W_pos = weights.positions
    chosen = None if W_pos is None else range(min(n, len(W_pos)))  # without any, it is refused
    points, heads = position_points(weights, positions=chosen), block.heads(head)
    y = met_by(block.norm, points, points.vectors)
    k = torch.einsum("pd,hde->phe", y, block.A_K)
    scores = block.scores(block.queries_of_points(y), k)
    return HeadPositionScores(
        model_name=weights.model_name,
        layer=layer,
        heads=tuple(heads),
        points=points,
        scores=scores[heads],
        causal=block.attention_scores.causal,
        caveats=weights.caveats + token_source(None, points).caveats([layer]),
    )
