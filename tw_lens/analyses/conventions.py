"""The two conventions, one class each: the model's own arithmetic, and the paper's.

`exact` reads heads in canonical form, with every bias term; `published` computes what the paper's
experiments compute, token for token, on raw weights. Every formula that differs between the two is
a method here, so that the analyses do not branch on the convention.

Source: arXiv 2309.07315, section 4; `Block` for the canonical form.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tw_lens.canonical import Block, Norm, TokenVectorChunks, Weights
from tw_lens.geometry import TopTokens, top_tokens
from tw_lens.results.arguments import CONVENTIONS, Circuit, Convention, require_choice

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
    def points(self, weights: Weights, norm: Norm) -> TokenVectorChunks:
        """Return the tokens' points under a norm: `N(W_E)`, or `n(W_E)` with gain and bias."""

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
        ids: Ids,
        heads: list[int],
        k: int,
        *,
        distance: int = 0,
        keep: TokenMask | None = None,
    ) -> TopTokens:
        """Return the highest-scoring keys of each head and word, heads outermost."""

    @abstractmethod
    def update(self, weights: Weights, block: Block, ids: Ids, heads: list[int]) -> HeadUpdate:
        """Return the vector that each head adds for a word that attends to itself only."""

    @abstractmethod
    def layer_update(
        self, weights: Weights, block: Block, ids: Ids, update: HeadUpdate
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


class ExactConvention(ConventionRules):
    """The canonical form: `N(W_E)`, `A_Q`, `a_Q`, ..., and the model's own readout."""

    name: Convention = "exact"
    has_null = True
    needs_raw_weights = False

    def points(self, weights: Weights, norm: Norm) -> TokenVectorChunks:  # noqa: D102
        return weights.vocabulary.on_sphere(norm)

    def output_tokens(self, weights: Weights) -> TokenTable:  # noqa: D102
        return TokenTable(weights.readout.columns, weights.readout.pull_back, relative=True)

    def qk_factors(self, block: Block, distance: int) -> Factors:  # noqa: D102
        L, R = block.qk_factors(distance)
        return L * block.attention_scores.scale, R

    def ov_factors(self, block: Block) -> Factors:  # noqa: D102
        return block.A_V, block.A_O.mT

    def left_vectors(  # noqa: D102
        self, left: Directions, S: Tensor, circuit: Circuit
    ) -> Directions:
        return left

    def bias_directions(self, block: Block) -> BiasPair:  # noqa: D102
        (L, R), (a_Q, a_K) = block.qk_factors(), block.qk_constants()
        query = torch.einsum("hde,he->hd", L, a_K[block.kv_head])
        return query, torch.einsum("he,hde->hd", a_Q, R[block.kv_head])

    def top_keys(self, weights, block, ids, heads, k, *, distance=0, keep=None):
        """Return the highest-scoring keys of each head and word (see `head_probe`).

        `q a_K^T` is the same for every key and cancels in the softmax: it is left out where scores
        are bilinear, and included where keys are normalised.
        """
        kv = torch.tensor(block.kv_head)[heads]
        q = block.query_at_distance(block.queries(weights.vocabulary.embed(ids)), distance)
        q = q[:, heads].transpose(0, 1)  # heads, words, d_head
        if block.bilinear:
            query = (q @ block.A_K[kv].mT).flatten(0, 1)
            rows = weights.vocabulary.on_sphere(block.norm)
        else:  # whole keys, all key heads in one row: a query is zero for the other key heads
            query = torch.zeros(len(heads), len(ids), block.W_K.shape[0], block.d_head)
            query[torch.arange(len(heads)), :, kv] = q
            query = query.flatten(2).flatten(0, 1)
            rows = _whole_keys(weights, block)
        result = top_tokens(query, rows, k, keep=keep)
        return result._replace(score=block.attention_scores.softcap_scores(result.score))

    def update(  # noqa: D102
        self, weights: Weights, block: Block, ids: Ids, heads: list[int]
    ) -> HeadUpdate:
        values = block.values(weights.vocabulary.embed(ids))
        values = values if block.v_norm is None else block.v_norm(values)
        v = values[:, [block.kv_head[h] for h in heads]].transpose(0, 1)
        return HeadUpdate(v @ block.A_O[heads], block.a_O)

    def layer_update(  # noqa: D102
        self, weights: Weights, block: Block, ids: Ids, update: HeadUpdate
    ) -> Float[Tensor, "words d_model"]:
        x = weights.vocabulary.embed(ids)
        identity = torch.eye(len(ids)).expand(block.n_heads, -1, -1)
        added = block.attn_out(identity, block.values(x), x)
        return added - added.mean(-1, keepdim=True) if block.centred_stream else added

    def top_outputs(self, weights, update, ids, k, *, readout="update", keep=None):  # noqa: D102
        final, state = weights.readout, update.u
        if readout == "residual":
            state = state + weights.vocabulary.embed(ids)
        pulled_back = final.pull_back(final.sphere(state)).flatten(0, 1)
        return top_tokens(pulled_back, final.columns, k, bias=final.bias(), keep=keep)

    def token_norms(  # noqa: D102
        self, weights: Weights, *, scale: bool, bias: bool
    ) -> Float[Tensor, " d_vocab"]:
        readout = weights.readout
        if not scale:
            weights.require_unprocessed("scale=False")
        gain = readout.norm.gain if scale else torch.ones_like(readout.norm.gain)
        lengths = [readout.norm.project(W * gain).norm(dim=-1) for W in readout.columns()]
        score = weights.d_model**0.5 * torch.cat(lengths)
        return score + readout.bias() if bias else score


class PublishedConvention(ConventionRules):
    """The paper's experiments: raw weights, `n(W_E)`, no query or key bias, scores against W_E."""

    name: Convention = "published"
    has_null = False
    needs_raw_weights = True

    def points(self, weights: Weights, norm: Norm) -> TokenVectorChunks:  # noqa: D102
        return weights.vocabulary.on_ellipsoid(norm)

    def output_tokens(self, weights: Weights) -> TokenTable:  # noqa: D102
        return TokenTable(weights.vocabulary.rows, lambda directions: directions, relative=False)

    def qk_factors(self, block: Block, distance: int) -> Factors:  # noqa: D102
        return block.W_Q / block.d_head**0.5, block.W_K

    def ov_factors(self, block: Block) -> Factors:  # noqa: D102
        return block.W_V, block.W_O.mT

    def left_vectors(  # noqa: D102
        self, left: Directions, S: Tensor, circuit: Circuit
    ) -> Directions:
        return left * S.flatten()[:, None] if circuit == "QK" else left

    def bias_directions(self, block: Block) -> BiasPair:  # noqa: D102
        query = torch.einsum("hde,he->hd", block.W_Q, block.b_K[block.kv_head])
        return query, torch.einsum("he,hde->hd", block.b_Q, block.W_K[block.kv_head])

    def top_keys(self, weights, block, ids, heads, k, *, distance=0, keep=None):  # noqa: D102
        n = block.norm(weights.vocabulary.embeddings(ids))
        kv = [block.kv_head[h] for h in heads]
        query = torch.einsum("wd,hde->hwe", n, block.W_Q[heads]) @ block.W_K[kv].mT
        rows = weights.vocabulary.on_ellipsoid(block.norm)
        return top_tokens((query / block.d_head**0.5).flatten(0, 1), rows, k)

    def update(  # noqa: D102
        self, weights: Weights, block: Block, ids: Ids, heads: list[int]
    ) -> HeadUpdate:
        n = block.norm(weights.vocabulary.embeddings(ids))
        kv = [block.kv_head[h] for h in heads]
        v = torch.einsum("wd,hde->hwe", n, block.W_V[kv]) + block.b_V[kv][:, None]
        return HeadUpdate(v @ block.W_O[heads], block.b_O)

    def layer_update(  # noqa: D102
        self, weights: Weights, block: Block, ids: Ids, update: HeadUpdate
    ) -> Float[Tensor, "words d_model"]:
        return update.u.sum(0)

    def top_outputs(self, weights, update, ids, k, *, readout="update", keep=None):  # noqa: D102
        state = weights.vocabulary.embeddings(ids) + update.u + update.b_O
        return top_tokens(weights.readout.norm(state).flatten(0, 1), weights.vocabulary.rows, k)

    def token_norms(  # noqa: D102
        self, weights: Weights, *, scale: bool, bias: bool
    ) -> Float[Tensor, " d_vocab"]:
        norm, scores = weights.readout.norm, []
        for E in weights.vocabulary.rows():
            length = (E * norm.gain if scale else E).norm(dim=-1)
            scores.append(length + E @ norm.bias if bias else length)
        return torch.cat(scores)


EXACT = ExactConvention()
RULES: dict[Convention, ConventionRules] = {"exact": EXACT, "published": PublishedConvention()}


def convention_rules(weights: Weights, convention: Convention) -> ConventionRules:
    """Return the rules of a convention, for weights that it can read.

    Raises:
        ValueError: unknown convention, or `published` on processed weights.
    """
    require_choice("convention", convention, CONVENTIONS)
    rules = RULES[convention]
    if rules.needs_raw_weights:
        weights.require_unprocessed(f'convention="{convention}"')
    return rules


def _whole_keys(weights: Weights, block: Block) -> TokenVectorChunks:
    """Return all tokens' normalised keys, key heads in one row: `[tokens, n_kv_heads * d_head]`."""
    normalised = block.attention_scores.normalised_key
    return lambda: (
        normalised(block.keys(weights.vocabulary.embed_rows(chunk))).flatten(1)
        for chunk in weights.vocabulary.rows()
    )
