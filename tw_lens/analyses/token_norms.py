"""Token norms: scores of all tokens under the final norm's gain and bias."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses.conventions import convention_rules
from tw_lens.analyses.token_filter import (
    TokenFilter,
    allowed_mask,
    filter_caveat,
    filter_summary,
)
from tw_lens.arguments import checked
from tw_lens.canonical import Weights
from tw_lens.errors import Caveat
from tw_lens.results.arguments import Convention
from tw_lens.results.base import Result
from tw_lens.tokens import TokenStrings


@dataclass(frozen=True, repr=False, eq=False)
class TokenNorms(Result):
    """A score for every token of the vocabulary.

    `scale`, `bias`: whether the score includes the final norm's gain and bias.
    """

    model_name: str
    convention: Convention
    scale: bool
    bias: bool
    score: Float[Tensor, " d_vocab"]
    tokens: TokenStrings
    token_filter: TokenFilter | None = None
    caveats: tuple[Caveat, ...] = ()

    @property
    def scheme(self) -> str:
        """The name of the scoring scheme: norm, scaled_norm, bias or scaled_and_bias."""
        return {
            (False, False): "norm",
            (True, False): "scaled_norm",
            (False, True): "bias",
            (True, True): "scaled_and_bias",
        }[(self.scale, self.bias)]

    def headline(self) -> str:
        """Return the highest and the lowest token."""
        high, low = self.top(1).iloc[0], self.bottom(1).iloc[-1]
        return (
            f"{self.model_name}, {self.convention}, {self.scheme}"
            f"{filter_summary(self.token_filter)}: norms from {high.score:.3g} "
            f"({high.token_string!r}) to {low.score:.3g} ({low.token_string!r})"
        )

    @checked
    def top(self, k: int = 5) -> pd.DataFrame:
        """Return the k highest tokens: rank (from 0), token_index, token_string, score."""
        highest = self._masked(-torch.inf).topk(min(k, self._n_listed))
        return self._table(highest.values, highest.indices, first_rank=0)

    @checked
    def bottom(self, k: int = 5) -> pd.DataFrame:
        """Return the k lowest tokens, lowest last; ranks count all listed tokens, from 0."""
        k = min(k, self._n_listed)
        lowest = self._masked(torch.inf).topk(k, largest=False)
        return self._table(lowest.values.flip(0), lowest.indices.flip(0), self._n_listed - k)

    def to_dataframe(self) -> pd.DataFrame:
        """Return every token that may be listed, best first (columns as in `top`)."""
        return self.top(len(self.score))

    @property
    def _n_listed(self) -> int:
        return len(self.score if self.token_filter is None else self.token_filter)

    def _masked(self, fill: float) -> Float[Tensor, " d_vocab"]:
        """Return the scores, with `fill` for tokens that may not be listed."""
        if self.token_filter is None:
            return self.score
        return self.score.where(self.token_filter.keep, fill)

    def _table(self, scores: Tensor, indices: Tensor, first_rank: int) -> pd.DataFrame:
        score, index = scores.tolist(), indices.tolist()
        return pd.DataFrame(
            {
                "rank": range(first_rank, first_rank + len(index)),
                "token_index": index,
                "token_string": self.tokens.strings(index),
                "score": score,
            }
        )


@checked
def token_norms(
    weights: Weights,
    *,
    scale: bool = True,
    bias: bool = True,
    convention: Convention = "exact",
    token_filter: TokenFilter | None = None,
) -> TokenNorms:
    """Score every token by its norm under the final norm.

    `exact`: `sqrt(d) |A_U[:, w]| + a_U[w]`, the largest logit that any state on the sphere can
    give token w (in logits). `scale=False` leaves out the final norm's gain, `bias=False` leaves
    out `a_U`. `published`: `|e|`, `|gain * e|`, each plus `bias . e` when `bias=True`.

    Args:
        weights: from `read_weights`.
        scale: include the final norm's gain.
        bias: include the final norm's bias (and the unembedding's).
        convention: "exact" or "published".
        token_filter: the tokens that may be listed (`exact`), from `token_filter`; all by default.

    Raises:
        TypeError: an argument of another type.
        ValueError: unknown convention; `published` or `scale=False` on folded weights, whose gain
            is gone; a filter that does not fit.

    Example:
        >>> token_norms(weights, convention="published").top(2).token_index.tolist()
        [367, 986]

    Source: arXiv 2309.07315, section 4.2.
    """
    rules = convention_rules(weights, convention)
    allowed_mask(weights, token_filter, convention)
    score = rules.token_norms(weights, scale=scale, bias=bias)
    caveats = tuple(c for c in weights.caveats if c.name in ("norms folded", "centred"))
    caveats += filter_caveat(token_filter)
    return TokenNorms(
        weights.model_name, convention, scale, bias, score, weights.tokens, token_filter, caveats
    )
