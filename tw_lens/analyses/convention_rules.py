"""The interface of a convention: every formula of the analyses that depends on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

from tw_lens.canonical import (
    Block,
    LayerVocabulary,
    Points,
    TokenPoints,
    TokenVectorChunks,
    Weights,
)
from tw_lens.geometry import TopTokens
from tw_lens.results.arguments import Circuit, Convention
from tw_lens.results.token_source import TokenSource

ReadoutTarget = Literal["update", "residual"]
READOUT_TARGETS: tuple[ReadoutTarget, ...] = ("update", "residual")
Ids = Int[Tensor, " words"]
TokenMask = Bool[Tensor, " d_vocab"]
Directions = Float[Tensor, "directions d_model"]
Factors = tuple[Float[Tensor, "heads m r"], Float[Tensor, "groups n r"]]
BiasPair = tuple[Float[Tensor, "n_heads d_model"], Float[Tensor, "n_heads d_model"]]


class HeadUpdate(NamedTuple):
    """The vector that each component adds for each word, and the layer's bias, added once."""

    u: Float[Tensor, "components words d_model"]
    b_O: Float[Tensor, " d_model"]


class TokenTable(NamedTuple):
    """Token vectors in chunks, and the map that takes directions to the space of these vectors.

    `relative`: scores are taken relative to the mean token's.
    """

    rows: TokenVectorChunks
    pull_back: Callable[[Tensor], Tensor]
    relative: bool


class ConventionRules(ABC):
    """Every formula of the analyses that depends on the convention.

    The docstrings here hold for both classes below, and so do the types of unannotated parameters.
    """

    name: Convention
    has_null: bool
    needs_raw_weights: bool

    @abstractmethod
    def points(
        self, weights: Weights, block: Block, vocabulary: LayerVocabulary | None = None
    ) -> TokenPoints:
        """Return the tokens' points: of a vocabulary, `N(W_E)`, or `n(W_E)` with gain and bias.

        Raises:
            ValueError: the vocabulary does not fit the weights, the layer or the convention.
        """

    @abstractmethod
    def token_source(
        self, vocabulary: LayerVocabulary | None, points: Points | None = None
    ) -> TokenSource:
        """Return the source that results state: of the vocabulary, or none (published)."""

    @abstractmethod
    def output_tokens(self, weights: Weights) -> TokenTable:
        """Return the token vectors for output directions (the right side of W_OV)."""

    @abstractmethod
    def qk_factors(self, block: Block, distance: int) -> Factors:
        """Return `L, R` with `W_QK = L R^T`, the attention scale included."""

    @abstractmethod
    def ov_factors(self, block: Block) -> Factors:
        """Return `V, O` with `W_OV = V O^T`: one V per key/value head, one O per head."""

    @abstractmethod
    def left_vectors(self, left: Directions, S: Tensor, circuit: Circuit) -> Directions:
        """Return left singular vectors, scaled as they are compared with tokens."""

    @abstractmethod
    def bias_directions(self, block: Block) -> BiasPair:
        """Return the direction that the key bias favours in queries, and the query bias in keys."""

    @abstractmethod
    def top_keys(
        self,
        weights: Weights,
        block: Block,
        points: TokenPoints,
        ids: Ids,
        heads: list[int],
        k: int,
        *,
        distance: int = 0,
        keep: TokenMask | None = None,
    ) -> TopTokens:
        """Return the highest-scoring keys of each head and word, heads outermost."""

    @abstractmethod
    def update(
        self, weights: Weights, block: Block, points: TokenPoints, ids: Ids, heads: list[int]
    ) -> HeadUpdate:
        """Return the vector that each head adds for a word that attends to itself only."""

    @abstractmethod
    def layer_update(
        self, weights: Weights, block: Block, points: TokenPoints, ids: Ids, update: HeadUpdate
    ) -> Float[Tensor, "words d_model"]:
        """Return the vector that the layer adds for such a word, given those of its heads."""

    @abstractmethod
    def top_outputs(
        self,
        weights: Weights,
        update: HeadUpdate,
        ids: Ids,
        k: int,
        *,
        readout: ReadoutTarget = "update",
        keep: TokenMask | None = None,
    ) -> TopTokens:
        """Return the highest-scoring tokens of each update's readout, components outermost."""

    @abstractmethod
    def token_norms(
        self, weights: Weights, *, scale: bool, bias: bool
    ) -> Float[Tensor, " d_vocab"]:
        """Return a score per token under the final norm (see `token_norms`)."""
