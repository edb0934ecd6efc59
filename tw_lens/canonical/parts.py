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
    q_part: Float[Tensor, "position d_head"],
    k_part: Float[Tensor, "position d_head"],
) -> Float[Tensor, "query key"]:
    """`s q_i R(i-j) k_j^T` of parts of a head's queries and keys on a stream, before any cap.

    Where the model divides queries or keys by their length (query-key norms, latent attention),
    the parts are divided by the length of the whole ones, so that parts add up to the score.
    """
    kv, n_x = block.kv_head[head], block.norm.affine(x)
    q, k = block.queries(x), block.keys(x)
    q_all, k_all = torch.zeros_like(q), torch.zeros_like(k)
    q_all[:, head], k_all[:, kv] = q_part, k_part
    if block.latent_Q is not None:
        q_all = block.latent_Q.divided(q_all, n_x)
    if block.latent_KV is not None:
        k_all = block.latent_KV.divided(k_all, n_x)
    q_met, k_met = block.scoring.placed_parts(q, k, q_all, k_all)
    return block.scoring.scale * (q_met[:, head] @ k_met[:, kv].T)
