"""A head without some pieces of its bilinear map, everything else as the model has it.

1. A head reads its queries as `N(x) A_Q + a_Q` and its values as `N(x) A_V + a_V`. A piece of
   rank one is a direction `r` that is read and a vector `m` of the head that is sent for it: taken
   out, the query (or value) loses `(N(x) r) m`.
2. Of `W_QK` only what meets `N(x_j)` is taken out: the score of a query at i with a key at j loses
   `s (N(x_i) r) m R(i-j) A_K^T N(x_j)^T`, with whatever stands between (query-key norms and
   bottlenecks divide the piece by what they divide the whole by). The part of a score that depends
   on the key alone, and the one with the key's constant `a_K`, stay.
3. With all pieces out, what is left of the map is its constants.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.canonical.block import Block


class RankOnePieces(NamedTuple):
    """Sets of pieces, each to be taken out at once; a piece of zeros takes nothing out."""

    reads: Float[Tensor, "sets pieces d_model"]
    sends: Float[Tensor, "sets pieces d_inner"]


class AblatedHead(NamedTuple):
    """One head and its layer without every set of pieces.

    `pattern` and `written` (before bias, post-norm and multiplier) are the head's, `change` is
    what the output of the layer's `W_O` gains.
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
    """What a head attends to and writes on a stream `x` without sets of pieces of its map.

    Raises:
        ValueError: a norm of queries, keys or values centres all heads at once.
    """
    lost = torch.einsum("pd,skd,ske->pse", block.norm.sphere(x), *pieces)
    v = block.values(x)
    everyone = block.attention_pattern(x)
    z = block.weighted_values(everyone, v)
    group = block.kv_head[head]
    if circuit == "QK":
        pattern = _pattern(block, x, head, lost)
        normed = v if block.v_norm is None else block.v_norm(v)
        own = pattern @ normed[:, group]
    else:
        pattern = everyone[head].expand(lost.shape[1], -1, -1)
        if block.bottleneck_KV is not None:
            lost = replace(block.bottleneck_KV, width=None).normalise(lost, block.norm(x))
        lost = lost if block.v_norm is None else block.v_norm.linear_at(v, group)(lost)
        own = z[:, head] - pattern @ lost.transpose(0, 1)
    mixed = z.repeat(len(own), 1, 1, 1)
    mixed[:, :, head] = own
    before, after = block.gated(z, x), block.gated(mixed, x)
    change = torch.einsum("sihe,hed->sid", after - before, block.W_O)
    return AblatedHead(pattern, after[:, :, head] @ block.W_O[head], change)


def _pattern(
    block: Block,
    x: Float[Tensor, "position d_model"],
    head: int,
    lost: Float[Tensor, "position sets d_head"],
) -> Float[Tensor, "sets position position"]:
    """The head's attention where its queries have lost something to the keys' bilinear part."""
    attention_scores = block.attention_scores
    key = block.norm.sphere(x) @ block.A_K[block.kv_head[head]]
    q, k = attention_scores.norm_and_rotate(block.queries(x), block.keys(x))
    scores = attention_scores.raw_scores(q, k[:, block.kv_head])[head]
    scores = scores - score_contribution(block, x, head, lost, key)
    sinks = None if attention_scores.sinks is None else attention_scores.sinks[[head]]
    return replace(attention_scores, sinks=sinks).pattern(attention_scores.softcap_scores(scores))


def score_contribution(
    block: Block,
    x: Float[Tensor, "position d_model"],
    head: int,
    q_parts: Float[Tensor, "position parts d_head"],
    k_part: Float[Tensor, "position d_head"],
) -> Float[Tensor, "parts query key"]:
    """`s q_i R(i-j) k_j^T` of parts of a head's queries and keys on a stream, before any cap.

    Where the model divides queries or keys by their length (query-key norms, latent attention),
    the parts are divided by the length of the whole ones, so that parts add up to the score.
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
