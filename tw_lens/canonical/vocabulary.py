"""The words: where they enter the stream, and how the model reads a state as words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tw_lens.canonical.norm import Norm

ROWS_AT_ONCE = 8192

Rows = Callable[[], Iterator[Tensor]]
"""A table of word vectors, handed out as chunks `[rows, d]` in the order of the token ids."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The word embeddings `W_E [d_vocab, d_model]` as the model holds them, read in chunks.

    `scale` is what the model multiplies an embedding by before the first block (Gemma: sqrt(d)).
    """

    W_E: Tensor
    scale: float

    def __len__(self) -> int:
        return self.W_E.shape[0]

    def rows(self) -> Iterator[Float[Tensor, "rows d_model"]]:
        """The embeddings, unscaled, float32, a chunk at a time."""
        for start in range(0, len(self), ROWS_AT_ONCE):
            yield self.W_E[start : start + ROWS_AT_ONCE].detach().float().cpu()

    def embeddings(self, token_index: Int[Tensor, " words"]) -> Float[Tensor, "words d_model"]:
        """The embeddings of some tokens, unscaled."""
        return self.W_E[token_index.to(self.W_E.device)].detach().float().cpu()

    def on_sphere(self, norm: Norm) -> Rows:
        """`N(scale * W_E)` as chunks: the vocabulary points of the exact convention."""
        return lambda: (norm.sphere(chunk * self.scale) for chunk in self.rows())

    def on_ellipsoid(self, norm: Norm) -> Rows:
        """`n(W_E)` with the norm's own gain and bias: the points of the published convention."""
        return lambda: (norm.affine(chunk) for chunk in self.rows())


@dataclass(frozen=True, eq=False)
class Readout:
    """How the model turns a final state into logits: `N(x) A_U + a_U`.

    `A_U = P diag(gain) W_U`, `a_U = bias W_U + b_U`. `W_U [d_model, d_vocab]` stays where the
    model holds it and is read in chunks of columns.
    """

    norm: Norm
    W_U: Tensor
    b_U: Float[Tensor, " d_vocab"]

    def columns(self) -> Iterator[Float[Tensor, "words d_model"]]:
        """`W_U` transposed, float32, a chunk of words at a time."""
        for start in range(0, self.W_U.shape[1], ROWS_AT_ONCE):
            yield self.W_U[:, start : start + ROWS_AT_ONCE].detach().float().cpu().T

    def directions(self) -> Rows:
        """The columns of `A_U` as rows: the direction on the sphere that speaks for each word."""
        return lambda: (self.norm.project(chunk * self.norm.gain) for chunk in self.columns())

    def offset(self) -> Float[Tensor, " d_vocab"]:
        """`a_U = bias W_U + b_U`: the part of every logit that no state decides."""
        if not self.norm.bias.any():
            return self.b_U
        return torch.cat([chunk @ self.norm.bias for chunk in self.columns()]) + self.b_U

    def logits(self, x: Float[Tensor, "states d_model"]) -> Float[Tensor, "states d_vocab"]:
        """The model's own logits of residual states (final norm included)."""
        y = self.norm.sphere(x)
        return torch.cat([y @ chunk.T for chunk in self.directions()()], dim=-1) + self.offset()
