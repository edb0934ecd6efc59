"""Which words are loudest? Scores of tokens under the final norm's gain and bias."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses.conventions import convention_rules
from tw_lens.analyses.token_filter import TokenFilter, allowed_mask, filter_caveat
from tw_lens.canonical import Weights
from tw_lens.errors import Caveat
from tw_lens.results.arguments import (
    Convention,
    require_positive,
    require_weights,
)
from tw_lens.results.base import Result
from tw_lens.tokens import TokenStrings


@dataclass(frozen=True, repr=False, eq=False)
class TokenNorms(Result):
    """A score for every token of the vocabulary."""

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
        """Which of the four schemes: norm, scaled_norm, bias, scaled_and_bias."""
        return {
            (False, False): "norm",
            (True, False): "scaled_norm",
            (False, True): "bias",
            (True, True): "scaled_and_bias",
        }[(self.scale, self.bias)]

    def headline(self) -> str:
        """The highest and the lowest token."""
        high, low = self.top(1).iloc[0], self.bottom(1).iloc[-1]
        listed = "" if self.token_filter is None else f", among {self.token_filter.description}"
        return (
            f"{self.model_name}, {self.convention}, {self.scheme}{listed}: {high.token_string!r} "
            f"{high.score:.3g} to {low.token_string!r} {low.score:.3g}"
        )

    def top(self, k: int = 5) -> pd.DataFrame:
        """The k highest tokens, best first. Columns: rank, token_index, token_string, score."""
        require_positive("k", k)
        score = self._listed(-torch.inf)
        return self._table(score.topk(min(k, self._n_listed)), first_rank=0)

    def bottom(self, k: int = 5) -> pd.DataFrame:
        """The k lowest tokens, lowest last; ranks count over all tokens listed, from 0."""
        require_positive("k", k)
        k = min(k, self._n_listed)
        lowest = self._listed(torch.inf).topk(k, largest=False)
        return self._table((lowest.values.flip(0), lowest.indices.flip(0)), self._n_listed - k)

    def to_dataframe(self) -> pd.DataFrame:
        """Every token (or those chosen by `token_filter`), best first (see `top` for the columns)."""
        return self.top(len(self.score))

    @property
    def _n_listed(self) -> int:
        return len(self.score if self.token_filter is None else self.token_filter)

    def _listed(self, never: float) -> Float[Tensor, " d_vocab"]:
        """The scores, with `never` for tokens that may not be listed."""
        return (
            self.score
            if self.token_filter is None
            else self.score.where(self.token_filter.keep, never)
        )

    def _table(self, found: tuple[Tensor, Tensor], first_rank: int) -> pd.DataFrame:
        score, index = found[0].tolist(), found[1].tolist()
        return pd.DataFrame(
            {
                "rank": range(first_rank, first_rank + len(index)),
                "token_index": index,
                "token_string": self.tokens.strings(index),
                "score": score,
            }
        )


@require_weights
def token_norms(
    weights: Weights,
    *,
    scale: bool = True,
    bias: bool = True,
    convention: Convention = "exact",
    token_filter: TokenFilter | None = None,
) -> TokenNorms:
    """Score every token by its length under the final norm.

    `exact`: `sqrt(d) |A_U[:, w]| + a_U[w]`, the largest logit that any state on the sphere can
    give token w (in logits). `scale=False` leaves the final norm's gain out, `bias=False` leaves
    `a_U` out. `published`: `|e|`, `|gain * e|`, each plus `bias . e` when `bias=True`.

    Args:
        weights: from `read_weights`.
        scale: with the final norm's gain.
        bias: with the final norm's bias (and the unembedding's).
        convention: "exact" or "published".
        token_filter: which tokens may be listed (`exact`), from `token_filter`; all of them by default.

    Raises:
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
