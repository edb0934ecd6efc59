"""The readout: from a final state to logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tw_lens.canonical.embedding import ROWS_AT_ONCE, TokenVectorChunks
from tw_lens.canonical.sphere_projection import Norm


@dataclass(frozen=True, eq=False)
class Readout:
    """The model's map from a final state to logits, `cap(N(x) A_U + a_U)`.

    `A_U = scale P diag(gain) W_U`, `a_U = scale (bias W_U + b_U)`. `W_U [d_model, d_vocab]` stays
    where the model holds it and is read in chunks of columns.

    Attributes:
        norm: the final norm (`Norm.none` where the model has none).
        W_U: the unembedding.
        b_U: its bias.
        scale: the factor on the logits (Cohere, Granite).
        softcap: `cap(t) = softcap * tanh(t / softcap)` (Gemma 2); None for no soft-cap.
        head: the function of a masked language model before the final norm; None without one.
        is_embedding: True where the model has no unembedding and `W_U` is `W_E` transposed.
        relative: whether scores count relative to the mean token's: logits are defined up to a
            constant, the scores of named points are not.
    """

    norm: Norm
    W_U: Tensor
    b_U: Float[Tensor, " d_vocab"]
    scale: float = 1.0
    softcap: float | None = None
    head: Callable[[Tensor], Tensor] | None = None
    is_embedding: bool = False
    relative: bool = True

    def columns(self) -> Iterator[Float[Tensor, "words d_model"]]:
        """Yield `W_U` transposed, float32, a chunk of tokens at a time."""
        for start in range(0, self.W_U.shape[1], ROWS_AT_ONCE):
            yield self.W_U[:, start : start + ROWS_AT_ONCE].detach().float().T

    def sphere(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Return `N(x)` as the unembedding reads it (after the head, if there is one)."""
        return self.norm.sphere(x if self.head is None else self.head(x))

    def directions(self) -> TokenVectorChunks:
        """Return the columns of `A_U` as rows: each token's readout direction on the sphere."""
        return lambda: map(self._fold, self.columns())

    def direction(self, token_index: Int[Tensor, " words"]) -> Float[Tensor, "words d_model"]:
        """Return the columns of `A_U` of some tokens, as rows; NaN for tokens without a column."""
        return self._fold(self._columns_of(token_index))

    def _columns_of(self, token_index: Int[Tensor, " words"]) -> Float[Tensor, "words d_model"]:
        """Return columns of `W_U` as rows; NaN for tokens that are only read."""
        last = self.W_U.shape[1] - 1
        token_index = token_index.to(self.W_U.device)
        columns = self.W_U[:, token_index.clamp_max(last)]
        return columns.detach().float().T.where((token_index <= last)[:, None], torch.nan)

    def _fold(self, columns: Float[Tensor, "words d_model"]) -> Float[Tensor, "words d_model"]:
        """Fold columns of `W_U` to read the sphere: `P diag(gain)` and the scale applied."""
        return self.norm.project(columns * (self.norm.gain * self.scale))

    def pull_back(
        self, directions: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch d_model"]:
        """Return `y'` with `y A_U = y' W_U`: directions in the space of raw columns."""
        return self.norm.project(directions) * (self.norm.gain * self.scale)

    def bias(self) -> Float[Tensor, " d_vocab"]:
        """Return `a_U = scale (bias W_U + b_U)`: the constant part of every logit."""
        if not self.norm.bias.any():
            return self.b_U * self.scale
        bias = torch.cat([chunk @ self.norm.bias for chunk in self.columns()])
        return (bias + self.b_U) * self.scale

    def softcap_logits(self, logits: Tensor) -> Tensor:
        """Return `softcap * tanh(logits / softcap)`; the logits unchanged without a soft-cap."""
        return logits if self.softcap is None else self.softcap * (logits / self.softcap).tanh()

    def logits(self, x: Float[Tensor, "states d_model"]) -> Float[Tensor, "states d_vocab"]:
        """Return the model's own logits of residual states (head and final norm included)."""
        y = self.pull_back(self.sphere(x))
        raw = torch.cat([y @ chunk.T for chunk in self.columns()], dim=-1)
        return self.softcap_logits(raw + self.bias())
