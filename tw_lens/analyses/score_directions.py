"""Score directions: how much of a head's real scores its leading singular directions carry.

1. Queries and keys of a prompt are sums over the singular directions of W_QK.
2. The leading r directions of both sides give scores of their own, up to the constants.
3. The same for rotated bases of the same two spans: what any r directions carry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses.head_directions import head_svd
from tw_lens.analyses.score_parts import PromptScores, linear_images, prompt_scores
from tw_lens.argument_kinds import require_positive
from tw_lens.arguments import checked
from tw_lens.canonical import States, Weights
from tw_lens.errors import Caveat
from tw_lens.geometry import FactoredSVD, random_orthonormal
from tw_lens.results.base import Result, component_label, head_columns

ROTATIONS = 20
MOST_SCORES = 2**22  # held at once
LEADING = 5  # directions of the headline


class _Carried(NamedTuple):
    """What the leading directions carry, by their number."""

    score: Float[Tensor, " directions"]
    explained: Float[Tensor, " directions"]


class _Content(NamedTuple):
    """Queries and keys without their constants: coordinates, and the images of the directions."""

    q_coordinates: Float[Tensor, "position directions"]
    k_coordinates: Float[Tensor, "position directions"]
    q_images: Float[Tensor, "position directions d_head"]
    k_images: Float[Tensor, "position directions d_head"]

    def sums(self) -> tuple[Float[Tensor, "position d_head"], Float[Tensor, "position d_head"]]:
        """Return the queries and keys that all directions give."""
        return (
            torch.einsum("ir,ire->ie", self.q_coordinates, self.q_images),
            torch.einsum("ir,ire->ie", self.k_coordinates, self.k_images),
        )

    def carried(self, of: PromptScores, basis: Float[Tensor, "directions directions"]) -> _Carried:
        """Return what the leading columns of a basis of both spans carry."""
        rows = [
            (coordinates @ basis)[..., None] * torch.einsum("ire,rs->ise", images, basis)
            for coordinates, images in (
                (self.q_coordinates, self.q_images), (self.k_coordinates, self.k_images)
            )
        ]  # fmt: skip
        q, k = (row.cumsum(1).transpose(0, 1) for row in rows)
        real = of.above_mean(of.raw - of.position_bias)
        variance = real.square().sum()
        score, gap = [], []
        for some in torch.arange(len(q)).split(max(1, MOST_SCORES // real.numel())):
            scores = of.block.attention_scores.scale * q[some] @ k[some].mT
            score.append((of.pair_weights * scores).sum((-2, -1)))
            gap.append((real - of.above_mean(scores)).square().sum((-2, -1)))
        explained = 1 - torch.cat(gap) / variance if variance else torch.zeros(len(q))
        return _Carried(torch.cat(score), explained)


@dataclass(frozen=True, repr=False, eq=False)
class ScoreDirections(Result):
    """What the leading singular directions of W_QK carry of a head's scores on a prompt.

    `score[r - 1]` is what the leading r directions of both sides give to the score; its last entry,
    `constant` and `position_bias` sum to `total`. `explained` is the share of the variance of all
    the prompt's scores, each query's mean over its keys taken out, that the leading directions
    explain. `rotated_score` and `rotated_explained` are the same for rotated bases.
    """

    model_name: str
    layer: int
    head: int
    query: int | None
    key: int | None
    token_strings: tuple[str, ...]
    singular_values: Float[Tensor, " directions"]
    score: Float[Tensor, " directions"]
    explained: Float[Tensor, " directions"]
    rotated_score: Float[Tensor, "rotations directions"]
    rotated_explained: Float[Tensor, "rotations directions"]
    constant: float
    position_bias: float
    total: float
    error: float
    caveats: tuple[Caveat, ...] = ()

    @property
    def component(self) -> str:
        """The label of the head: "L5H1"."""
        return component_label(self.layer, self.head, self.model_name)

    def headline(self) -> str:
        """Return the share of the scores' variance that the first directions explain."""
        n, r = len(self.singular_values), min(LEADING, len(self.singular_values))
        return (
            f"{self.model_name} {self.component}: the {r} leading of {n} directions explain "
            f"{self._percent(self.explained[r - 1])} of the variance of its scores, and "
            f"{self._percent(self.rotated_explained[:, r - 1].mean())} in rotated bases; all "
            f"directions explain {self._percent(self.explained[-1])}"
        )

    @staticmethod
    def _percent(share: Tensor) -> str:
        return f"{100 * float(share):.0f} %"

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per number of leading directions.

        Columns: layer, head, component, directions, singular_value, score, share (of the total),
        explained, rotated_score, rotated_explained (means over the rotations), rotated_95 (95 %
        quantile of the latter).
        """
        rows = []
        means = self.rotated_score.mean(0), self.rotated_explained.mean(0)
        high = self.rotated_explained.quantile(0.95, dim=0)
        for r, score in enumerate(self.score.tolist()):
            rows.append(
                head_columns(self.layer, self.head, self.model_name)
                | {
                    "directions": r + 1,
                    "singular_value": float(self.singular_values[r]),
                    "score": score,
                    "share": score / self.total if self.total else float("nan"),
                    "explained": float(self.explained[r]),
                    "rotated_score": float(means[0][r]),
                    "rotated_explained": float(means[1][r]),
                    "rotated_95": float(high[r]),
                }
            )
        return pd.DataFrame(rows)


@checked
def score_directions(
    weights: Weights,
    states: States,
    *,
    layer: int,
    head: int,
    query: int | None = None,
    key: int | None = None,
    relative: bool = True,
    rotations: int = ROTATIONS,
    seed: int = 0,
) -> ScoreDirections:
    """Return how much of a head's scores the leading singular directions of W_QK carry.

    With `W_QK = U S V^T`: `q_i = sum_r (y_i u_r) u_r^T L + a_Q` and `k_j` alike, and
    `s_ij(R) = s q_i(R) R(i - j) k_j(R)^T` with the leading R directions of both sides, without the
    constants. In a rotated basis `U O`, `V O` with a random orthogonal `O`, directions are ordered
    by their strength `o^T S o`: what any R directions of the two spans carry.

    Args:
        weights: from `read_weights`.
        states: from `read_states`, of the same model.
        layer: index of the block.
        head: index of the head.
        query: position of the query of the score; the prompt's mean score by default.
        key: position of the key, one that the query sees; all, weighted by attention, by default.
        relative: whether the mean over the query's keys is taken out of the score.
        rotations: number of rotated bases.
        seed: of the rotations.

    Raises:
        IndexError: the layer, the head or a position does not exist.
        UnsupportedModelError: the directions do not sum to the score.
        ValueError: a key without a query, a key that the query does not see, states of another
            model.

    Example:
        >>> result = score_directions(weights, states, layer=1, head=2)
        >>> abs(float(result.score[-1]) + result.constant - result.total) < 1e-4
        True

    Source: Merullo et al. 2024 (arXiv 2406.09519), scores along singular vectors; here exact on
    the running model's scores, beside rotated bases.
    """
    require_positive("rotations", rotations)
    of = prompt_scores(weights, states, layer, head, query, key, relative=relative)
    svd = head_svd(of.block, [of.head], "QK")
    content, whole = _along_directions(of, svd)
    own = content.carried(of, torch.eye(len(svd.S[0])))
    error = of.require_sum(weights, whole, "directions")
    bases = random_orthonormal(
        rotations, len(svd.S[0]), len(svd.S[0]), torch.Generator().manual_seed(seed)
    ).float()
    strength = torch.einsum("nrs,r,nrs->ns", bases, svd.S[0], bases)
    rotated = [
        content.carried(of, basis[:, order])
        for basis, order in zip(bases, strength.argsort(-1, descending=True), strict=True)
    ]
    return ScoreDirections(
        model_name=states.model_name,
        layer=layer,
        head=of.head,
        query=query,
        key=key,
        token_strings=states.token_strings,
        singular_values=svd.S[0],
        score=own.score,
        explained=own.explained,
        rotated_score=torch.stack([one.score for one in rotated]),
        rotated_explained=torch.stack([one.explained for one in rotated]),
        constant=of.sum(whole - of.position_bias) - float(own.score[-1]),
        position_bias=of.sum(of.position_bias),
        total=of.sum(of.raw),
        error=error,
        caveats=of.caveats(weights),
    )


def _along_directions(
    of: PromptScores, svd: FactoredSVD
) -> tuple[_Content, Float[Tensor, "query key"]]:
    """Return queries and keys along the directions, and the scores that they rebuild."""
    block, head, n = of.block, of.head, len(of.x)
    kv, y = block.kv_head[head], block.norm.sphere(of.x)
    q, k = (
        torch.cat([(basis.mT @ A).expand(n, -1, -1), (y @ A)[:, None]], dim=1)
        for basis, A in ((svd.left[0], block.A_Q[head]), (svd.right[0], block.A_K[kv]))
    )
    q, k = linear_images(of, q, k)
    content = _Content(y @ svd.left[0], y @ svd.right[0], q[:, :-1], k[:, :-1])
    q_all, k_all = content.sums()
    q_all, k_all = q_all + of.q - q[:, -1], k_all + of.k - k[:, -1]  # and the constants
    return content, block.attention_scores.scale * q_all @ k_all.T + of.position_bias
