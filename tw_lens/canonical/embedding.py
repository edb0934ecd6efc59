"""The token embeddings and how they enter the residual stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from tw_lens.canonical.sphere_projection import Norm

ROWS_AT_ONCE = 8192

TokenVectorChunks = Callable[[], Iterator[Tensor]]
"""A table of token vectors, as chunks `[rows, d]` in the order of the token ids."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The token embeddings `W_E [d_vocab, d_model]` as the model holds them, read in chunks.

    Token `w` enters the residual stream as `n(scale * W_E[w] + token_type)`, without a position.

    Attributes:
        W_E: the table.
        scale: the model's factor on embeddings (Gemma: sqrt(d)).
        norm: the normalisation of the embedding (BLOOM, BERT); None without one.
        token_type: a vector added to every embedding (BERT's first token type); None without one.
    """

    W_E: Tensor
    scale: float
    norm: Norm | None = None
    token_type: Float[Tensor, " d_model"] | None = None

    def __len__(self) -> int:
        return self.W_E.shape[0]

    def rows(self) -> Iterator[Float[Tensor, "rows d_model"]]:
        """Yield the embeddings, unscaled, float32, a chunk at a time."""
        for start in range(0, len(self), ROWS_AT_ONCE):
            yield self.W_E[start : start + ROWS_AT_ONCE].detach().float()

    def embeddings(self, token_index: Int[Tensor, " words"]) -> Float[Tensor, "words d_model"]:
        """Return the embeddings of some tokens, unscaled."""
        return self.W_E[token_index.to(self.W_E.device)].detach().float()

    def embed_rows(self, rows: Float[Tensor, "words d_model"]) -> Float[Tensor, "words d_model"]:
        """Return embeddings as they enter the residual stream (see the class)."""
        x = self._before_norm(rows)
        return x if self.norm is None else self.norm(x)

    def before_norm(self, token_index: Int[Tensor, " words"]) -> Float[Tensor, "words d_model"]:
        """Return some tokens' vectors before the norm of the embedding, if there is one."""
        return self._before_norm(self.embeddings(token_index))

    def _before_norm(self, rows: Float[Tensor, "words d_model"]) -> Float[Tensor, "words d_model"]:
        x = rows if self.scale == 1 else rows * self.scale
        return x if self.token_type is None else x + self.token_type

    def embed(self, token_index: Int[Tensor, " words"]) -> Float[Tensor, "words d_model"]:
        """Return some tokens as they enter the residual stream."""
        return self.embed_rows(self.embeddings(token_index))

    @property
    def is_whole_state(self) -> bool:
        """Return whether a row is a whole residual stream, to which constants are added."""
        return True

    def met(self, token_index: Int[Tensor, " words"], norm: Norm) -> Float[Tensor, "words d_model"]:
        """Return some tokens as a layer with a norm meets their embeddings, `N(embed)`."""
        return norm.sphere(self.embed(token_index))

    def on_sphere(self, norm: Norm) -> TokenVectorChunks:
        """Return `N(embed)` as chunks: the exact convention's points."""
        return lambda: (norm.sphere(self.embed_rows(chunk)) for chunk in self.rows())

    def on_ellipsoid(self, norm: Norm) -> TokenVectorChunks:
        """Return `n(W_E)` as chunks, with gain and bias: the published convention's points."""
        return lambda: (norm(chunk) for chunk in self.rows())
