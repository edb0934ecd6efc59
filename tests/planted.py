"""Hand-made weights: tokens in known sets, and heads that map one known set to another."""

from __future__ import annotations

from dataclasses import replace

import torch

from tw_lens.canonical import (
    AttentionOutput,
    AttentionScores,
    Block,
    Norm,
    Readout,
    Vocabulary,
    Weights,
)
from tw_lens.tokens import TokenStrings

D, D_HEAD, V, K = 48, 16, 2000, 5


def planted(
    seed: int, *, strengths: tuple[float, ...] = (8.0, 6.0, 4.5), repaired: bool = False
) -> Weights:
    """Return one layer of two heads: W_QK of head 0 maps token sets to others, head 1 is random.

    Direction i of head 0 has the tokens `10 i ... 10 i + 4` as queries and the next five as keys;
    the two sets share half of their common component. `repaired`: the keys are those of the
    direction before.
    """
    g = torch.Generator().manual_seed(seed)
    n = len(strengths)
    W_E = torch.randn(V, D, generator=g)
    shared, own = _orthogonal(3 * n, g).split([n, 2 * n])
    left, right = shared + own[:n], shared + own[n:]
    for i in range(n):
        for start, centre in ((10 * i, left[i]), (10 * i + 5, right[i])):
            W_E[start : start + K] = 0.35 * W_E[start : start + K] + 5 * centre
    W_E = W_E - W_E.mean(0)
    kernel = right.roll(1, 0) if repaired else right
    W_Q, W_K, W_V = (0.1 * torch.randn(2, D, D_HEAD, generator=g) for _ in range(3))
    W_Q[0, :, :n], W_K[0, :, :n] = left.T * torch.tensor(strengths), kernel.T
    return by_hand(W_E, W_Q, W_K, W_V, 0.1 * torch.randn(2, D_HEAD, D, generator=g))


def equal_pair(seed: int, S: tuple[float, ...] = (9, 5, 5, 3, 2, 1)) -> Weights:
    """Return weights whose W_QK has the singular values S, its factors randomly rotated."""
    g = torch.Generator().manual_seed(seed)
    planes = [torch.linalg.qr(torch.randn(D, len(S), generator=g))[0] for _ in range(2)]
    W_E = torch.randn(1500, D, generator=g)
    rotation = torch.Generator().manual_seed(seed + 1000)
    R = torch.linalg.qr(torch.randn(len(S), len(S), generator=rotation))[0]
    W_Q, W_K = (planes[0] * torch.tensor(S)) @ R, planes[1] @ R
    W_V, W_O = (torch.randn(shape, generator=g) for shape in ((1, D, len(S)), (1, len(S), D)))
    return by_hand(W_E, W_Q[None], W_K[None], W_V, W_O)


def by_hand(W_E, W_Q, W_K, W_V, W_O) -> Weights:
    """Return weights of one layer with these matrices, an RMSNorm without gain, tied embeddings."""
    d, heads, d_head = W_E.shape[1], W_Q.shape[0], W_Q.shape[2]
    norm = Norm(gain=torch.ones(d), bias=torch.zeros(d), eps=1e-6, centred=False)
    zeros = torch.zeros(heads, d_head)
    block = Block(
        layer=0, norm=norm, W_Q=W_Q, W_K=W_K, W_V=W_V, W_O=W_O, b_Q=zeros, b_K=zeros, b_V=zeros,
        b_O=torch.zeros(d), attention_scores=AttentionScores(scale=d_head**-0.5),
        attention_output=AttentionOutput(), centred_stream=False,
    )  # fmt: skip
    return Weights(
        model_name="planted", architecture="by hand", n_layers=1, attention_layers=(0,),
        n_heads=heads, n_kv_heads=heads, d_model=d, d_head=d_head,
        vocabulary=Vocabulary(W_E=W_E, scale=1.0),
        readout=Readout(norm=norm, W_U=W_E.T, b_U=torch.zeros(len(W_E))),
        tokens=TokenStrings(None, len(W_E)), processed=(), caveats=(),
        read_block=lambda layer: block,
    )  # fmt: skip


def _orthogonal(n: int, g: torch.Generator) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(D, n, generator=g))[0].T


def with_router(weights: Weights) -> Weights:
    """Return weights whose MLPs have a random router of four experts."""
    g = torch.Generator().manual_seed(0)
    W_router = torch.randn(4, weights.d_model, generator=g, dtype=torch.float32, device="cpu")
    W_router = W_router.to(weights.device)
    return replace(weights, read_mlp=lambda layer: replace(weights.mlp(layer), W_router=W_router))
