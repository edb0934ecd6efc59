"""One block's attention, folded: queries, keys and values as maps from the sphere."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.canonical.norm import Norm
from tw_lens.canonical.rotary import Rotary


@dataclass(frozen=True, eq=False)
class Block:
    """The attention of one layer, raw as the model holds it and folded as `N(x)` meets it.

    Raw: `W_Q [n_heads, d_model, d_head]`, `W_K`, `W_V [n_kv_heads, ...]`, `W_O [n_heads, d_head,
    d_model]`, biases as zeros where the model has none. Folded: `A_Q = P diag(gain) W_Q`,
    `a_Q = bias W_Q + b_Q`, the same for K and V, so that `q = N(x) A_Q + a_Q`.
    The score of query i and key j before the mask is `scale * q_i R(i-j) k_j^T`.
    Query head `h` uses key/value head `h // (n_heads / n_kv_heads)`.

    `A_O` is `W_O` with the direction removed that no norm of the model sees (`W_O P` when every
    norm centres, `W_O` otherwise): the same for a raw and a processed model.
    """

    layer: int
    norm: Norm
    W_Q: Float[Tensor, "n_heads d_model d_head"]
    W_K: Float[Tensor, "n_kv_heads d_model d_head"]
    W_V: Float[Tensor, "n_kv_heads d_model d_head"]
    W_O: Float[Tensor, "n_heads d_head d_model"]
    b_Q: Float[Tensor, "n_heads d_head"]
    b_K: Float[Tensor, "n_kv_heads d_head"]
    b_V: Float[Tensor, "n_kv_heads d_head"]
    b_O: Float[Tensor, " d_model"]
    scale: float
    rotary: Rotary | None
    window: int | None
    centred_stream: bool

    @property
    def n_heads(self) -> int:
        """Number of query heads."""
        return self.W_Q.shape[0]

    @property
    def kv_head(self) -> list[int]:
        """For each query head, the key/value head it uses."""
        group = self.n_heads // self.W_K.shape[0]
        return [head // group for head in range(self.n_heads)]

    @cached_property
    def A_Q(self) -> Float[Tensor, "n_heads d_model d_head"]:
        """`P diag(gain) W_Q`: the query map of the sphere."""
        return self.norm.fold(self.W_Q)

    @cached_property
    def A_K(self) -> Float[Tensor, "n_kv_heads d_model d_head"]:
        """`P diag(gain) W_K`: the key map of the sphere."""
        return self.norm.fold(self.W_K)

    @cached_property
    def A_V(self) -> Float[Tensor, "n_kv_heads d_model d_head"]:
        """`P diag(gain) W_V`: the value map of the sphere."""
        return self.norm.fold(self.W_V)

    @cached_property
    def A_O(self) -> Float[Tensor, "n_heads d_head d_model"]:
        """`W_O` without the direction that no norm sees (see the class)."""
        return self.W_O - self.W_O.mean(-1, keepdim=True) if self.centred_stream else self.W_O

    @cached_property
    def a_Q(self) -> Float[Tensor, "n_heads d_head"]:
        """`bias W_Q + b_Q`: the part of every query that no word decides."""
        return self.norm.bias @ self.W_Q + self.b_Q

    @cached_property
    def a_K(self) -> Float[Tensor, "n_kv_heads d_head"]:
        """`bias W_K + b_K`: the part of every key that no word decides."""
        return self.norm.bias @ self.W_K + self.b_K

    @cached_property
    def a_V(self) -> Float[Tensor, "n_kv_heads d_head"]:
        """`bias W_V + b_V`: the part of every value that no word decides."""
        return self.norm.bias @ self.W_V + self.b_V

    def qkv(
        self, x: Float[Tensor, "position d_model"]
    ) -> tuple[
        Float[Tensor, "position n_heads d_head"],
        Float[Tensor, "position n_kv_heads d_head"],
        Float[Tensor, "position n_kv_heads d_head"],
    ]:
        """Queries, keys and values of a residual stream, from the folded form."""
        y = self.norm.sphere(x)
        q = torch.einsum("pd,hde->phe", y, self.A_Q) + self.a_Q
        k = torch.einsum("pd,hde->phe", y, self.A_K) + self.a_K
        v = torch.einsum("pd,hde->phe", y, self.A_V) + self.a_V
        return q, k, v

    def scores(
        self,
        q: Float[Tensor, "position n_heads d_head"],
        k: Float[Tensor, "position n_kv_heads d_head"],
    ) -> Float[Tensor, "n_heads position position"]:
        """Attention scores before the mask, `scale * (q_i R(i)) (k_j R(j))^T`."""
        if self.rotary is not None:
            q, k = self.rotary.rotate(q), self.rotary.rotate(k)
        return self.scale * torch.einsum("ihe,jhe->hij", q, k[:, self.kv_head])

    def visible(self, n_positions: int) -> Tensor:
        """Which key `j` a query `i` may look at: `j <= i`, and `i - j < window` if one is set."""
        i = torch.arange(n_positions)
        distance = i[:, None] - i[None, :]
        seen = distance >= 0
        return seen if self.window is None else seen & (distance < self.window)

    def pattern(
        self, scores: Float[Tensor, "n_heads position position"]
    ) -> Float[Tensor, "n_heads position position"]:
        """The attention pattern: the softmax over the keys each query may look at."""
        masked = scores.masked_fill(~self.visible(scores.shape[-1]), float("-inf"))
        return masked.softmax(-1)

    def attention_output(
        self,
        pattern: Float[Tensor, "n_heads position position"],
        v: Float[Tensor, "position n_kv_heads d_head"],
    ) -> Float[Tensor, "position d_model"]:
        """What the heads write together: `pattern v W_O`, summed, plus `b_O`."""
        z = torch.einsum("hij,jhe->ihe", pattern, v[:, self.kv_head])
        return torch.einsum("ihe,hed->id", z, self.W_O) + self.b_O
