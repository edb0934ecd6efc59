"""Span shares: how much of a head's strength lies in the span of words, and of other points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses.null_directions import CIRCUIT_SIDES, SIDES, CircuitSide
from tw_lens.arguments import checked
from tw_lens.canonical import Block, LayerVocabulary, Points, Weights, token_points
from tw_lens.errors import Caveat
from tw_lens.geometry import principal_span
from tw_lens.progress import Progress, steps
from tw_lens.results.arguments import CIRCUITS
from tw_lens.results.base import Result, head_columns
from tw_lens.results.token_source import token_source


@dataclass(frozen=True, repr=False, eq=False)
class SpanShares(Result):
    """The share of `||W||_F^2` in the span of two sets of points, per head, circuit and side.

    The axes of `share` are sets (tokens, points), circuits (QK, OV), sides (left, right) and
    heads; `rank` is the dimension of each set's span at each layer, and `rank / d_model` the share
    of a matrix without a preference. The right side of OV is the one that the head writes.
    """

    model_name: str
    names: tuple[str, str]
    layers: tuple[int, ...]
    heads: tuple[tuple[int, int], ...]
    share: Float[Tensor, "2 2 2 heads"]
    rank: tuple[tuple[int, int], ...]
    d_model: int
    variance: float
    caveats: tuple[Caveat, ...] = ()

    def headline(self) -> str:
        """Return the head that lies furthest inside the span of the points."""
        ratio = self.share[1] / torch.tensor([self._expected(layer)[1] for layer, _ in self.heads])
        best = int(ratio.flatten().argmax())
        c, s, h = (int(i) for i in torch.unravel_index(torch.tensor(best), ratio.shape))
        layer, head = self.heads[h]
        return (
            f"{self.model_name}: {len(self.heads)} heads; {CIRCUITS[c]} {SIDES[s]} of L{layer}H"
            f"{head} lies furthest in the span of {self.names[1]}: "
            f"{100 * float(self.share[1, c, s, h]):.0f} % of its strength, "
            f"{100 * self._expected(layer)[1]:.0f} % by chance"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per head, circuit, side and set of points.

        Columns: layer, head, component, circuit, side, points, share, expected (by chance), rank.
        """
        rows = [
            head_columns(layer, head, self.model_name)
            | {
                "circuit": circuit,
                "side": side,
                "points": self.names[i],
                "share": float(self.share[i, c, s, h]),
                "expected": self._expected(layer)[i],
                "rank": self.rank[self.layers.index(layer)][i],
            }
            for h, (layer, head) in enumerate(self.heads)
            for c, circuit in enumerate(CIRCUITS)
            for s, side in enumerate(SIDES)
            for i in range(2)
        ]
        return pd.DataFrame(rows)

    def _expected(self, layer: int) -> tuple[float, float]:
        """Return rank over width of both sets at a layer."""
        words, points = self.rank[self.layers.index(layer)]
        return words / self.d_model, points / self.d_model


@checked
def span_shares(
    weights: Weights,
    points: Points,
    *,
    layers: Sequence[int] | None = None,
    vocabulary: LayerVocabulary | None = None,
    variance: float = 0.9,
    progress: Progress = False,
) -> SpanShares:
    """Return how much of every head's strength lies in the span of tokens, and of named points.

    With `B` an orthonormal basis of the leading principal components that hold a share `variance`
    of a set's variance: `||B^T W||_F^2 / ||W||_F^2` on the left side of `W_QK` and `W_OV`, and
    `||W B||_F^2 / ||W||_F^2` on the right side, from the factors of W.

    Args:
        weights: from `read_weights`.
        points: named vectors, e.g. `position_points(weights)`.
        layers: indices of blocks; all attention layers by default.
        vocabulary: points of the tokens, from `layer_vocabulary`; their embeddings by default.
        variance: share of each set's variance that its span holds, above 0 and at most 1.
        progress: True shows a bar; a function is called with a sentence at each step.

    Raises:
        IndexError: a layer does not exist.
        ValueError: points of another width, or a share outside (0, 1].

    Example:
        >>> from tw_lens import position_points
        >>> span_shares(weights, position_points(weights), layers=[0]).share.shape
        torch.Size([2, 2, 2, 4])

    Source: subspace overlap by Frobenius norms, by definition.
    """
    if not 0 < variance <= 1:
        raise ValueError(f"variance must be above 0 and at most 1, got {variance}.")
    chosen = weights.require_layers(weights.attention_layers if layers is None else layers)
    of_points = points.in_place_of_tokens(weights)
    shares, ranks, heads, spans = [], [], [], {}
    with steps(progress, total=len(chosen), unit="layer") as step:
        for layer in chosen:
            step(f"Measuring the spans of layer {layer}")
            block, bases = weights.block(layer), []
            for source, own in ((weights, vocabulary), (of_points, None)):
                met = token_points(source, layer, block.norm, own)
                key = (source is weights, met.key)
                if key not in spans:
                    spans[key] = principal_span(met.rows, variance)
                bases.append(spans[key])
            shares.append(torch.stack([_shares(block, basis) for basis in bases]))
            ranks.append((bases[0].shape[1], bases[1].shape[1]))
            heads += [(layer, head) for head in range(block.n_heads)]
    source = token_source(None, points)
    return SpanShares(
        model_name=weights.model_name,
        names=("tokens", points.label),
        layers=chosen,
        heads=tuple(heads),
        share=torch.cat(shares, dim=-1),
        rank=tuple(ranks),
        d_model=weights.d_model,
        variance=variance,
        caveats=weights.caveats + source.caveats(chosen),
    )


def _shares(block: Block, basis: Float[Tensor, "d rank"]) -> Float[Tensor, "2 2 heads"]:
    """Return the shares of both circuits and sides in one span, for every head."""
    L, R = block.qk_factors()
    kv = block.kv_head
    factors: dict[CircuitSide, tuple[Tensor, Tensor]] = dict(
        zip(CIRCUIT_SIDES, ((L, R[kv]), (R[kv], L), (block.A_V[kv], block.A_O.mT),
                            (block.A_O.mT, block.A_V[kv])), strict=True)
    )  # fmt: skip
    values = []
    for own, other in factors.values():
        gram = other.mT @ other
        inside = basis.T @ own
        strength = torch.einsum("hde,hef,hdf->h", own, gram, own)
        within = torch.einsum("hre,hef,hrf->h", inside, gram, inside)
        values.append(torch.where(strength > 0, within / strength, 0.0))
    return torch.stack(values).unflatten(0, (2, 2))
