"""The words: where they enter the stream, and how the model reads a state as words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from tw_lens.canonical.norm import Norm

ROWS_AT_ONCE = 8192

TokenVectorChunks = Callable[[], Iterator[Tensor]]
"""A table of word vectors, handed out as chunks `[rows, d]` in the order of the token ids."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The word embeddings `W_E [d_vocab, d_embed]` as the model holds them, read in chunks.

    A word enters the stream as `n(scale * W_E[w] W_in + token_type)`, without a position.

    Attributes:
        W_E: the table.
        scale: what the model multiplies an embedding by (Gemma: sqrt(d)).
        norm: the normalisation of the embedding (BLOOM, BERT); None without one.
        added: what is added to every word alike (BERT's first token type); None for nothing.
    """

    W_E: Tensor
    scale: float
    norm: Norm | None = None
    token_type: Float[Tensor, " d_model"] | None = None

    def __len__(self) -> int:
        return self.W_E.shape[0]

    def rows(self) -> Iterator[Float[Tensor, "rows d_model"]]:
        """The embeddings, unscaled, float32, a chunk at a time."""
        for start in range(0, len(self), ROWS_AT_ONCE):
            yield self.W_E[start : start + ROWS_AT_ONCE].detach().float().cpu()

    def embeddings(self, token_index: Int[Tensor, " words"]) -> Float[Tensor, "words d_model"]:
        """The embeddings of some tokens, unscaled."""
        return self.W_E[token_index.to(self.W_E.device)].detach().float().cpu()

    def embed_rows(self, rows: Float[Tensor, "words d_model"]) -> Float[Tensor, "words d_model"]:
        """Embeddings as they enter the stream (see the class)."""
        entered = rows if self.scale == 1 else rows * self.scale
        if self.token_type is not None:
            entered = entered + self.token_type
        return entered if self.norm is None else self.norm(entered)

    def embed(self, token_index: Int[Tensor, " words"]) -> Float[Tensor, "words d_model"]:
        """Some tokens as they enter the stream."""
        return self.embed_rows(self.embeddings(token_index))

    def on_sphere(self, norm: Norm) -> TokenVectorChunks:
        """`N(embed)` as chunks: the vocabulary points of the exact convention."""
        return lambda: (norm.sphere(self.embed_rows(chunk)) for chunk in self.rows())

    def on_ellipsoid(self, norm: Norm) -> TokenVectorChunks:
        """`n(W_E)` with the norm's own gain and bias: the points of the published convention."""
        return lambda: (norm(chunk) for chunk in self.rows())
