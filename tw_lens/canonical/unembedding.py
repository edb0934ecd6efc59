"""The readout: how the model turns a final state into logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tw_lens.canonical.embedding import ROWS_AT_ONCE, TokenVectorChunks
from tw_lens.canonical.norm import Norm


@dataclass(frozen=True, eq=False)
class Readout:
    """How the model turns a final state into logits: `cap(N(x) A_U + a_U)`.

    `A_U = scale P diag(gain) W_U`, `a_U = scale (bias W_U + b_U)`. `W_U [d_model, d_vocab]` stays
    where the model holds it and is read in chunks of columns.

    Attributes:
        norm: the final norm (`Norm.none` where the model has none).
        W_U: the unembedding.
        b_U: its bias.
        scale: what the model multiplies its logits by (Cohere, Granite).
        softcap: `cap(t) = softcap * tanh(t / softcap)` (Gemma 2); None for no cap.
        head: what a masked language model does to a state before its norm; None for nothing.
        is_embedding: True where the model has no unembedding and `W_U` is `W_E` transposed.
    """

    norm: Norm
    W_U: Tensor
    b_U: Float[Tensor, " d_vocab"]
    scale: float = 1.0
    softcap: float | None = None
    head: Callable[[Tensor], Tensor] | None = None
    is_embedding: bool = False

    def columns(self) -> Iterator[Float[Tensor, "words d_model"]]:
        """`W_U` transposed, float32, a chunk of words at a time."""
        for start in range(0, self.W_U.shape[1], ROWS_AT_ONCE):
            yield self.W_U[:, start : start + ROWS_AT_ONCE].detach().float().cpu().T

    def sphere(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """`N(x)`: a state where the unembedding meets it (behind the head, if there is one)."""
        return self.norm.sphere(x if self.head is None else self.head(x))

    def directions(self) -> TokenVectorChunks:
        """The columns of `A_U` as rows: the direction on the sphere that speaks for each word."""
        return lambda: map(self._fold, self.columns())

    def direction(self, token_index: Int[Tensor, " words"]) -> Float[Tensor, "words d_model"]:
        """The columns of `A_U` of some words, as rows."""
        return self._fold(self.W_U[:, token_index.to(self.W_U.device)].detach().float().cpu().T)

    def _fold(self, columns: Float[Tensor, "words d_model"]) -> Float[Tensor, "words d_model"]:
        """Columns of `W_U` as the sphere meets them: `P diag(gain)` and the scale applied."""
        return self.norm.project(columns * (self.norm.gain * self.scale))

    def pull_back(
        self, directions: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch d_model"]:
        """What meets columns of `W_U` as directions meet those of `A_U`: `y A_U = y_met W_U`."""
        return self.norm.project(directions) * (self.norm.gain * self.scale)

    def bias(self) -> Float[Tensor, " d_vocab"]:
        """`a_U = scale (bias W_U + b_U)`: the part of every logit that no state decides."""
        if not self.norm.bias.any():
            return self.b_U * self.scale
        bias = torch.cat([chunk @ self.norm.bias for chunk in self.columns()])
        return (bias + self.b_U) * self.scale

    def softcap_logits(self, logits: Tensor) -> Tensor:
        """`softcap * tanh(logits / softcap)` where the model caps its logits."""
        return logits if self.softcap is None else self.softcap * (logits / self.softcap).tanh()

    def logits(self, x: Float[Tensor, "states d_model"]) -> Float[Tensor, "states d_vocab"]:
        """The model's own logits of residual states (head and final norm included)."""
        pull_back = self.pull_back(self.sphere(x))
        raw = torch.cat([pull_back @ chunk.T for chunk in self.columns()], dim=-1)
        return self.softcap_logits(raw + self.bias())
