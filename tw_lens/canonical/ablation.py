"""Ablation of rank-one pieces of a head's bilinear map; everything else as in the model.

1. A head computes its queries as `N(x) A_Q + a_Q` and its values as `N(x) A_V + a_V`. A rank-one
   piece is a direction `r` that is read and a vector `m` of the head that is sent for it; after
   its ablation the query (or value) lacks `(N(x) r) m`.
2. Of `W_QK` only the part bilinear in `N(x_i)` and `N(x_j)` is ablated: the score of a query at i
   with a key at j loses `s (N(x_i) r) m R(i-j) A_K^T N(x_j)^T`. Query-key norms and bottlenecks
   divide the piece by the divisor of the whole vector. The part of a score that depends on the key
   alone, and the one with the key's constant `a_K`, are kept.
3. With all pieces ablated, only the constants of the map remain.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.canonical.attention_heads import Block


class RankOnePieces(NamedTuple):
    """Sets of rank-one pieces, each set ablated at once; a piece of zeros changes nothing."""

    reads: Float[Tensor, "sets pieces d_model"]
    sends: Float[Tensor, "sets pieces d_inner"]


class AblatedHead(NamedTuple):
    """One head and its layer after the ablation of each set of pieces.

    `pattern` and `written` (the output before bias, post-norm and multiplier) are the head's;
    `change` is what is added to the output of the layer's `W_O`.
    """

    pattern: Float[Tensor, "sets position position"]
    written: Float[Tensor, "sets position d_model"]
    change: Float[Tensor, "sets position d_model"]


def ablate_pieces(
    block: Block,
    x: Float[Tensor, "position d_model"],
    head: int,
    circuit: Literal["QK", "OV"],
    pieces: RankOnePieces,
) -> AblatedHead:
    """Return a head's pattern and output on a residual stream `x` after ablating sets of pieces.

    Raises:
        ValueError: a norm of queries, keys or values centres all heads at once.
    """
    removed = torch.einsum("pd,skd,ske->pse", block.norm.sphere(x), *pieces)
    v = block.values(x)
    patterns = block.attention_pattern(x)
    z = block.weighted_values(patterns, v)
    kv = block.kv_head[head]
    if circuit == "QK":
        pattern = _ablated_pattern(block, x, head, removed)
        normalised = v if block.v_norm is None else block.v_norm(v)
        z_head = pattern @ normalised[:, kv]
    else:
        pattern = patterns[head].expand(removed.shape[1], -1, -1)
        if block.bottleneck_KV is not None:
            removed = replace(block.bottleneck_KV, width=None).normalise(removed, block.norm(x))
        removed = removed if block.v_norm is None else block.v_norm.linear_at(v, kv)(removed)
        z_head = z[:, head] - pattern @ removed.transpose(0, 1)
    z_ablated = z.repeat(len(z_head), 1, 1, 1)
    z_ablated[:, :, head] = z_head
    before, after = block.gated(z, x), block.gated(z_ablated, x)
    change = torch.einsum("sihe,hed->sid", after - before, block.W_O)
    return AblatedHead(pattern, after[:, :, head] @ block.W_O[head], change)


def _ablated_pattern(
    block: Block,
    x: Float[Tensor, "position d_model"],
    head: int,
    removed: Float[Tensor, "position sets d_head"],
) -> Float[Tensor, "sets position position"]:
    """Return the head's pattern after removing parts of its queries from the bilinear scores."""
    attention_scores = block.attention_scores
    key = block.norm.sphere(x) @ block.A_K[block.kv_head[head]]
    q, k = attention_scores.norm_and_rotate(block.queries(x), block.keys(x))
    scores = attention_scores.raw_scores(q, k[:, block.kv_head])[head]
    scores = scores - score_contribution(block, x, head, removed, key)
    sinks = None if attention_scores.sinks is None else attention_scores.sinks[[head]]
    return replace(attention_scores, sinks=sinks).pattern(attention_scores.softcap_scores(scores))


def score_contribution(
    block: Block,
    x: Float[Tensor, "position d_model"],
    head: int,
    q_parts: Float[Tensor, "position parts d_head"],
    k_part: Float[Tensor, "position d_head"],
) -> Float[Tensor, "parts query key"]:
    """Return `s q_i R(i-j) k_j^T` of parts of a head's queries and keys, before any soft-cap.

    Where the model divides queries or keys by their length (query-key norms, latent attention),
    the parts are divided by the length of the whole vectors, so that parts add up to the score.
    """
    kv, attention_scores, n_x = block.kv_head[head], block.attention_scores, block.norm(x)
    k_parts = k_part[:, None]
    if block.bottleneck_Q is not None:
        q_parts = block.bottleneck_Q.normalise(q_parts, n_x)
    if block.bottleneck_KV is not None:
        k_parts = block.bottleneck_KV.normalise(k_parts, n_x)
    q = attention_scores.linearised(q_parts, block.queries(x), head)
    k = attention_scores.linearised(k_parts, block.keys(x), kv, key=True)[:, 0]
    return attention_scores.scale * torch.einsum("ipe,je->pij", q, k)
