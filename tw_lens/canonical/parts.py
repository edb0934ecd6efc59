"""What a part of the queries and a part of the keys make of a head's scores."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from tw_lens.canonical.block import Block


def part_of_scores(
    block: Block,
    x: Float[Tensor, "position d_model"],
    head: int,
    q_part: Float[Tensor, "position d_head"],
    k_part: Float[Tensor, "position d_head"],
) -> Float[Tensor, "query key"]:
    """`s q_i R(i-j) k_j^T` of parts of a head's queries and keys on a stream, before any cap.

    Where the model divides queries or keys by their length (query-key norms, latent attention),
    the parts are divided by the length of the whole ones, so that parts add up to the score.
    """
    kv, scoring, n_x = block.kv_head[head], block.scoring, block.norm.affine(x)
    q_part, k_part = q_part[:, None], k_part[:, None]
    if block.latent_Q is not None:
        q_part = block.latent_Q.divided(q_part, n_x)
    if block.latent_KV is not None:
        k_part = block.latent_KV.divided(k_part, n_x)
    q = scoring.met(q_part, block.queries(x), head)[:, 0]
    k = scoring.met(k_part, block.keys(x), kv, key=True)[:, 0]
    return scoring.scale * (q @ k.T)
