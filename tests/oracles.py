"""Oracles: slow direct versions in float64 with dense matrices, loops, full SVD and argsort.

Nothing here uses tw_lens. The weights are taken directly from the Hugging Face parameters of each
architecture; definitions as in the paper (arXiv 2309.07315).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class RawNorm:
    """`gain * N(x) + bias`."""

    gain: Tensor
    bias: Tensor
    eps: float
    centred: bool

    def N(self, x: Tensor) -> Tensor:
        rows = []
        for row in x.reshape(-1, x.shape[-1]):
            d = len(row)
            y = row - row.sum() / d if self.centred else row
            rows.append(math.sqrt(d) * y / math.sqrt(float((y * y).sum()) + d * self.eps))
        return torch.stack(rows).reshape(x.shape)

    def P(self) -> Tensor:
        d = len(self.gain)
        eye = torch.eye(d, dtype=torch.float64)
        return eye - torch.ones(d, d, dtype=torch.float64) / d if self.centred else eye

    def fold(self, W: Tensor) -> Tensor:
        """`P diag(gain) W` with dense matrices."""
        return self.P() @ torch.diag(self.gain) @ W


@dataclass
class RawLayer:
    """Attention weights, one entry per query head (key/value heads repeated)."""

    norm: RawNorm
    W_Q: list[Tensor]
    W_K: list[Tensor]
    W_V: list[Tensor]
    W_O: list[Tensor]
    b_Q: list[Tensor]
    b_K: list[Tensor]
    b_V: list[Tensor]
    b_O: Tensor


@dataclass
class RawModel:
    """All weights that the definitions need, float64."""

    E: Tensor
    scale: float
    U: Tensor
    final: RawNorm
    layers: list[RawLayer]
    d_head: int

    def embed(self) -> Tensor:
        """Return every token as it enters the residual stream."""
        return self.scale * self.E

    def W_QK(self, layer: int, head: int) -> Tensor:
        """Return the dense `d x d` matrix."""
        L = self.layers[layer]
        left, right = L.norm.fold(L.W_Q[head]), L.norm.fold(L.W_K[head])
        return left @ right.T / math.sqrt(self.d_head)

    def W_OV(self, layer: int, head: int) -> Tensor:
        """Return the dense `d x d` matrix, off the direction that every norm removes."""
        L = self.layers[layer]
        return L.norm.fold(L.W_V[head]) @ L.W_O[head] @ self.final.P()

    def directions_of_readout(self) -> Tensor:
        """Return `A_U`, one column per token."""
        return self.final.fold(self.U)

    def bias_of_readout(self) -> Tensor:
        return self.final.bias @ self.U

    def logits(self, x: Tensor) -> Tensor:
        return self.final.N(x) @ self.directions_of_readout() + self.bias_of_readout()

    def qk_probe(self, layer: int, head: int, word: int) -> Tensor:
        """Return the score of every token as a key for `word` as a query, at rotary distance 0."""
        L = self.layers[layer]
        a_Q = L.norm.bias @ L.W_Q[head] + L.b_Q[head]
        points = L.norm.N(self.embed())
        query = points[word] @ L.norm.fold(L.W_Q[head]) + a_Q
        keys = points @ L.norm.fold(L.W_K[head])
        return keys @ query / math.sqrt(self.d_head)

    def update(self, layer: int, head: int, word: int) -> Tensor:
        """Return a head's output for a token."""
        L = self.layers[layer]
        point = L.norm.N(self.embed()[word])
        value = point @ L.norm.fold(L.W_V[head]) + L.norm.bias @ L.W_V[head] + L.b_V[head]
        return value @ L.W_O[head] @ self.final.P()

    def layer_update(self, layer: int, word: int) -> Tensor:
        """Return the layer's output for a token that attends to itself alone."""
        L = self.layers[layer]
        heads = sum(self.update(layer, head, word) for head in range(len(L.W_Q)))
        return heads + L.b_O @ self.final.P()

    def bias_direction(self, layer: int, head: int, side: str) -> Tensor:
        L = self.layers[layer]
        A_Q, A_K = L.norm.fold(L.W_Q[head]), L.norm.fold(L.W_K[head])
        if side == "query":
            return A_Q @ (L.norm.bias @ L.W_K[head] + L.b_K[head])
        return A_K @ (L.norm.bias @ L.W_Q[head] + L.b_Q[head])

    def token_norms(self, scale: bool, bias: bool) -> list[float]:
        scores = []
        for word in range(self.U.shape[1]):
            column = self.U[:, word] * self.final.gain if scale else self.U[:, word]
            column = self.final.P() @ column
            score = math.sqrt(len(column)) * math.sqrt(float(column @ column))
            scores.append(score + float(self.final.bias @ self.U[:, word]) if bias else score)
        return scores

    def embedding_distances(self) -> dict[str, tuple[float, float, float, float]]:
        E, d = self.E, self.E.shape[1]
        mean = sum(E) / len(E)
        length = sum(math.sqrt(float(e @ e)) for e in E) / len(E)
        factor = math.sqrt(d) / length
        settings = {
            "original": E,
            "centered": E - mean,
            "scaled": E * factor,
            "centered_scaled": (E - mean) * factor,
        }
        on_sphere = self.layers[0].norm.N(E)
        return {
            name: _moments([_distances(a, b) for a, b in zip(on_sphere, points, strict=True)])
            for name, points in settings.items()
        }


def _distances(a: Tensor, b: Tensor) -> tuple[float, float]:
    gap = a - b
    cosine = float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))
    return math.sqrt(float(gap @ gap)), 1 - cosine


def _moments(pairs: list[tuple[float, float]]) -> tuple[float, float, float, float]:
    out = []
    for values in zip(*pairs, strict=True):
        mean = sum(values) / len(values)
        out += [mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))]
    return tuple(out)


def signed_pair(W: Tensor, direction: int, M: Tensor) -> tuple[Tensor, Tensor, float]:
    """Return singular vectors and value of a dense matrix, signed by the rule.

    `v` stays when `max_w v.M_w >= max_w -v.M_w`, else both are flipped; `M [words, d]`.
    """
    U, S, Vh = torch.linalg.svd(W)
    u, v = U[:, direction], Vh[direction]
    along = M @ v
    flip = -1.0 if along.max() < (-along).max() else 1.0
    return flip * u, flip * v, float(S[direction])


def arccos_angle(a: Tensor, b: Tensor) -> float:
    cosine = float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))
    return math.acos(max(-1.0, min(1.0, cosine)))


def turning_angle(before: Tensor, here: Tensor, after: Tensor) -> float:
    """Return the exterior angle of the spherical triangle at `here`, by the law of cosines."""
    a, b = arccos_angle(before, here), arccos_angle(here, after)
    c = arccos_angle(before, after)
    inner = (math.cos(c) - math.cos(a) * math.cos(b)) / (math.sin(a) * math.sin(b))
    return math.pi - math.acos(max(-1.0, min(1.0, inner)))


def raw_model(hf_model: Any) -> RawModel:
    """Return float64 weights of a tiny Hugging Face model, for each architecture separately."""
    kind = hf_model.config.model_type
    body = getattr(hf_model, "transformer", None)
    if kind == "gpt2":
        layers = [_gpt2_layer(block, hf_model.config) for block in body.h]
        final = _norm(body.ln_f, hf_model.config.layer_norm_epsilon, centred=True)
        E, U = body.wte.weight, hf_model.lm_head.weight
    elif kind == "gpt_neox":
        body = hf_model.gpt_neox
        layers = [_neox_layer(block, hf_model.config) for block in body.layers]
        final = _norm(body.final_layer_norm, hf_model.config.layer_norm_eps, centred=True)
        E, U = body.embed_in.weight, hf_model.get_output_embeddings().weight
    else:
        body = hf_model.model
        layers = [_llama_layer(block, hf_model.config) for block in body.layers]
        final = _rms(body.norm, hf_model.config)
        E, U = body.embed_tokens.weight, hf_model.lm_head.weight
    scale = math.sqrt(E.shape[1]) if kind == "gemma" else 1.0
    return RawModel(_d(E), scale, _d(U).T, final, layers, layers[0].W_Q[0].shape[1])


def _d(tensor: Tensor) -> Tensor:
    return tensor.detach().double().clone()


def _norm(module: Any, eps: float, *, centred: bool) -> RawNorm:
    return RawNorm(_d(module.weight), _d(module.bias), eps, centred)


def _rms(module: Any, config: Any) -> RawNorm:
    gain = _d(module.weight) + (1.0 if config.model_type == "gemma" else 0.0)
    return RawNorm(gain, torch.zeros_like(gain), config.rms_norm_eps, centred=False)


def _gpt2_layer(block: Any, config: Any) -> RawLayer:
    d, n, h = config.n_embd, config.n_head, config.n_embd // config.n_head
    W, b = _d(block.attn.c_attn.weight), _d(block.attn.c_attn.bias)
    O = _d(block.attn.c_proj.weight)  # noqa: E741
    cut = [slice(i * h, (i + 1) * h) for i in range(n)]
    third = [slice(i * d, (i + 1) * d) for i in range(3)]
    Ws = [[W[:, part][:, c] for c in cut] for part in third]
    bs = [[b[part][c] for c in cut] for part in third]
    norm = _norm(block.ln_1, config.layer_norm_epsilon, centred=True)
    return RawLayer(norm, *Ws, [O[c] for c in cut], *bs, _d(block.attn.c_proj.bias))


def _neox_layer(block: Any, config: Any) -> RawLayer:
    n, d = config.num_attention_heads, config.hidden_size
    h = d // n
    W, b = _d(block.attention.query_key_value.weight), _d(block.attention.query_key_value.bias)
    O = _d(block.attention.dense.weight).T  # noqa: E741
    start = [[(3 * head + part) * h for head in range(n)] for part in range(3)]
    Ws = [[W[i : i + h].T for i in row] for row in start]
    bs = [[b[i : i + h] for i in row] for row in start]
    norm = _norm(block.input_layernorm, config.layer_norm_eps, centred=True)
    W_O = [O[head * h : (head + 1) * h] for head in range(n)]
    return RawLayer(norm, *Ws, W_O, *bs, _d(block.attention.dense.bias))


def _llama_layer(block: Any, config: Any) -> RawLayer:
    attention, n = block.self_attn, config.num_attention_heads
    d, kv = config.hidden_size, config.num_key_value_heads
    h = attention.q_proj.weight.shape[0] // n

    def heads(linear: Any, shared: int) -> tuple[list[Tensor], list[Tensor]]:
        starts = [head // shared * h for head in range(n)]
        W = _d(linear.weight)
        b = torch.zeros(len(W), dtype=torch.float64) if linear.bias is None else _d(linear.bias)
        return [W[i : i + h].T for i in starts], [b[i : i + h] for i in starts]

    (W_Q, b_Q), (W_K, b_K), (W_V, b_V) = (
        heads(attention.q_proj, 1),
        heads(attention.k_proj, n // kv),
        heads(attention.v_proj, n // kv),
    )
    O = _d(attention.o_proj.weight).T  # noqa: E741
    W_O = [O[head * h : (head + 1) * h] for head in range(n)]
    norm = _rms(block.input_layernorm, config)
    b_O = torch.zeros(d, dtype=torch.float64)
    return RawLayer(norm, W_Q, W_K, W_V, W_O, b_Q, b_K, b_V, b_O)


def assert_ranking(
    token_index: list[int], score: list[float], all_scores: Tensor, tolerance: float = 1e-5
) -> None:
    """Assert that each rank of a top-k list has the score that argsort puts there.

    Two tokens may swap only when their scores differ by less than the tolerance.
    """
    assert len(set(token_index)) == len(token_index) > 0
    size = float(all_scores.abs().max())
    order = torch.argsort(all_scores, descending=True).tolist()
    for rank, (index, value) in enumerate(zip(token_index, score, strict=True)):
        assert abs(float(all_scores[index]) - value) < tolerance * size
        assert abs(float(all_scores[index]) - float(all_scores[order[rank]])) < tolerance * size
