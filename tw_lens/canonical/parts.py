"""What a part of the queries and a part of the keys make of a head's scores."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.canonical.block import Block


def part_of_scores(
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
    kv, scoring, n_x = block.kv_head[head], block.scoring, block.norm.affine(x)
    k_parts = k_part[:, None]
    if block.latent_Q is not None:
        q_parts = block.latent_Q.divided(q_parts, n_x)
    if block.latent_KV is not None:
        k_parts = block.latent_KV.divided(k_parts, n_x)
    q = scoring.met(q_parts, block.queries(x), head)
    k = scoring.met(k_parts, block.keys(x), kv, key=True)[:, 0]
    return scoring.scale * torch.einsum("ipe,je->pij", q, k)
