"""The two conventions, one class each: the model's own arithmetic, and the paper's.

`exact` reads heads in canonical form, with every bias term; `published` computes what the paper's
experiments compute, token for token, on raw weights. Every formula that differs between the two is
a method here, so that the analyses do not branch on the convention.

Source: arXiv 2309.07315, section 4; `Block` for the canonical form.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses.convention_rules import (
    BiasPair,
    ConventionRules,
    Directions,
    Factors,
    HeadUpdate,
    Ids,
    TokenTable,
)
from tw_lens.argument_kinds import require_choice
from tw_lens.canonical import (
    Block,
    LayerVocabulary,
    Points,
    TokenPoints,
    TokenVectorChunks,
    Weights,
    combined_mask,
    token_points,
)
from tw_lens.geometry import top_tokens
from tw_lens.results.arguments import CONVENTIONS, Circuit, Convention
from tw_lens.results.token_source import PUBLISHED_SOURCE, TokenSource, token_source


class ExactConvention(ConventionRules):
    """The canonical form: `N(W_E)`, `A_Q`, `a_Q`, ..., and the model's own readout."""

    name: Convention = "exact"
    has_null = True
    needs_raw_weights = False

    def points(  # noqa: D102
        self, weights: Weights, block: Block, vocabulary: LayerVocabulary | None = None
    ) -> TokenPoints:
        return token_points(weights, block.layer, block.norm, vocabulary, block.source_norm)

    def token_source(  # noqa: D102
        self, vocabulary: LayerVocabulary | None, points: Points | None = None
    ) -> TokenSource:
        return token_source(vocabulary, points)

    def output_tokens(self, weights: Weights) -> TokenTable:  # noqa: D102
        readout = weights.token_readout
        return TokenTable(readout.columns, readout.pull_back, relative=readout.relative)

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

    def top_keys(self, weights, block, points, ids, heads, k, *, distance=0, keep=None):
        """Return the highest-scoring keys of each head and word (see `head_probe`).

        `q a_K^T` is the same for every key and cancels in the softmax: it is left out where scores
        are bilinear, and included where keys are normalised.
        """
        kv = torch.tensor(block.kv_head)[heads]
        constant = weights.vocabulary.is_whole_state
        q = block.queries_of_points(points.at(ids), constant=constant)
        q = block.query_at_distance(q, distance)
        q = q[:, heads].transpose(0, 1)  # heads, words, d_head
        if block.bilinear:
            query = (q @ block.A_K[kv].mT).flatten(0, 1)
            rows = points.keys.rows
        elif not constant:
            raise ValueError(
                "parts and directions have no scores of their own where queries and keys are "
                'normalised: probe kind="state", or call head_spectrum.'
            )
        else:  # whole keys, all key heads in one row: a query is zero for the other key heads
            query = torch.zeros(len(heads), len(ids), block.W_K.shape[0], block.d_head)
            query[torch.arange(len(heads)), :, kv] = q
            query = query.flatten(2).flatten(0, 1)
            rows = _whole_keys(points.keys, block)
        result = top_tokens(query, rows, k, keep=combined_mask(keep, points.keys))
        result = result.without(~query.any(-1))
        return result._replace(score=block.attention_scores.softcap_scores(result.score))

    def update(  # noqa: D102
        self, weights: Weights, block: Block, points: TokenPoints, ids: Ids, heads: list[int]
    ) -> HeadUpdate:
        constant = weights.vocabulary.is_whole_state
        values = block.values_of_points(points.keys.at(ids), constant=constant)
        values = values if block.v_norm is None else block.v_norm(values)
        v = values[:, [block.kv_head[h] for h in heads]].transpose(0, 1)
        return HeadUpdate(v @ block.A_O[heads], block.a_O)

    def layer_update(  # noqa: D102
        self, weights: Weights, block: Block, points: TokenPoints, ids: Ids, update: HeadUpdate
    ) -> Float[Tensor, "words d_model"]:
        added = _self_attention_output(block, points.keys.at(ids))
        return added - added.mean(-1, keepdim=True) if block.centred_stream else added

    def top_outputs(self, weights, update, ids, k, *, readout="update", keep=None):  # noqa: D102
        final, state = weights.token_readout, update.u
        if readout == "residual":
            state = state + weights.vocabulary.embed(ids)
        pulled_back = final.pull_back(final.sphere(state)).flatten(0, 1)
        result = top_tokens(pulled_back, final.columns, k, bias=final.bias(), keep=keep)
        return result if readout == "residual" else result.without(~state.flatten(0, 1).any(-1))

    def token_norms(  # noqa: D102
        self, weights: Weights, *, scale: bool, bias: bool
    ) -> Float[Tensor, " d_vocab"]:
        readout = weights.token_readout
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

    def points(  # noqa: D102
        self, weights: Weights, block: Block, vocabulary: LayerVocabulary | None = None
    ) -> TokenPoints:
        if vocabulary is not None:
            raise ValueError(
                'vocabulary= needs convention="exact": the published experiments read tokens at '
                "their embeddings."
            )
        if block.source_norm is not None:
            raise ValueError(
                'cross-attention needs convention="exact": the published experiments are of models '
                "with one stack."
            )
        embedding, norm = weights.vocabulary, block.norm
        return TokenPoints(
            rows=embedding.on_ellipsoid(norm),
            gather=lambda ids: norm(embedding.embeddings(ids)),
            mask=None,
            key=("published", block.layer),
        )

    def token_source(  # noqa: D102
        self, vocabulary: LayerVocabulary | None, points: Points | None = None
    ) -> TokenSource:
        return PUBLISHED_SOURCE

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

    def top_keys(self, weights, block, points, ids, heads, k, *, distance=0, keep=None):  # noqa: D102
        n = points.at(ids)
        kv = [block.kv_head[h] for h in heads]
        query = torch.einsum("wd,hde->hwe", n, block.W_Q[heads]) @ block.W_K[kv].mT
        query = (query / block.d_head**0.5).flatten(0, 1)
        return top_tokens(query, points.rows, k).without(~query.any(-1))

    def update(  # noqa: D102
        self, weights: Weights, block: Block, points: TokenPoints, ids: Ids, heads: list[int]
    ) -> HeadUpdate:
        n = points.at(ids)
        kv = [block.kv_head[h] for h in heads]
        v = torch.einsum("wd,hde->hwe", n, block.W_V[kv]) + block.b_V[kv][:, None]
        return HeadUpdate(v @ block.W_O[heads], block.b_O)

    def layer_update(  # noqa: D102
        self, weights: Weights, block: Block, points: TokenPoints, ids: Ids, update: HeadUpdate
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


def _whole_keys(points: TokenPoints, block: Block) -> TokenVectorChunks:
    """Return all tokens' normalised keys, key heads in one row: `[tokens, n_kv_heads * d_head]`."""
    normalised = block.attention_scores.normalised_key
    return lambda: (normalised(block.keys_of_points(chunk)).flatten(1) for chunk in points.rows())


def _self_attention_output(
    block: Block, y: Float[Tensor, "words d_model"]
) -> Float[Tensor, "words d_model"]:
    """Return what attention adds for points of the sphere that attend to themselves only."""
    values, output = block.values_of_points(y), block.attention_output
    z = (values if block.v_norm is None else block.v_norm(values))[:, block.kv_head]
    z = z if output.gate is None else z * output.gate(block.norm.affine(y))
    z = z if output.z_norm is None else output.z_norm(z)
    return output.written(torch.einsum("phe,hed->pd", z, block.W_O) + block.b_O)
