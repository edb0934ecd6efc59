"""From queries and keys to attention: everything a model does between `q`, `k` and the pattern."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tw_lens.canonical.norm import HeadNorm
from tw_lens.canonical.rotary import Rotary


@dataclass(frozen=True, eq=False)
class Scoring:
    """The scores of one layer, `cap(s * n_q(q_i) R(i-j) n_k(k_j)^T + bias(i, j))`, and its mask.

    Attributes:
        scale: `s`, the factor on the product.
        rotary: `R`; None where positions do not rotate (in this layer).
        q_norm, k_norm: `n_q`, `n_k`, the normalisation of queries and keys, None without one.
        norm_after_rotary: whether it comes after the rotation instead of before.
        softcap: `cap(t) = softcap * tanh(t / softcap)`; None for no cap.
        slopes: ALiBi's slope per head: the bias is `slopes * (j - i)`.
        temperature: a factor on the query at each position, `n -> [n]` (Llama 4, Ministral 3).
        sinks: one more logit per head in every softmax, which takes weight and gives no value.
        causal: whether a query sees earlier positions only.
        window: how many positions a query sees, itself included (both ways without `causal`).
        chunk: a query sees its own chunk of this many positions only (Llama 4).
        dense_up_to: beyond this many positions an indexer chooses which keys are seen, and the
            pattern cannot be recomputed (GLM's sparse attention).
    """

    scale: float
    rotary: Rotary | None = None
    q_norm: HeadNorm | None = None
    k_norm: HeadNorm | None = None
    norm_after_rotary: bool = False
    softcap: float | None = None
    slopes: Float[Tensor, " n_heads"] | None = None
    temperature: Callable[[int], Tensor] | None = None
    sinks: Float[Tensor, " n_heads"] | None = None
    causal: bool = True
    window: int | None = None
    chunk: int | None = None
    dense_up_to: int | None = None

    def normed(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """`n_q(q), n_k(k)`: `[..., heads, d_head]`, unchanged where the model has no such norm."""
        q = q if self.q_norm is None else self.q_norm(q)
        return q, (k if self.k_norm is None else self.k_norm(k))

    def placed(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys as they meet: normalised and rotated, `[position, heads, d_head]`."""
        if not self.norm_after_rotary:
            q, k = self.normed(q, k)
        if self.rotary is not None:
            q, k = self.rotary.rotate(q), self.rotary.rotate(k)
        if self.norm_after_rotary:
            q, k = self.normed(q, k)
        if self.temperature is not None:
            q = q * self.temperature(len(q))[:, None, None]
        return q, k

    def met(
        self,
        part: Float[Tensor, "position parts d_head"],
        of: Float[Tensor, "position heads d_head"],
        head: int,
        *,
        key: bool = False,
    ) -> Float[Tensor, "position parts d_head"]:
        """Parts of one head's queries (or keys), as `placed` would have them in their sum.

        Linear in the part: a query-key norm divides it by what it divides the whole, `of`, by.
        """
        norm = self.k_norm if key else self.q_norm
        if self.rotary is not None and (norm is None or self.norm_after_rotary):
            part, of = self.rotary.rotate(part), self.rotary.rotate(of)
        if norm is not None:
            part = norm.linear_at(of, head)(part)
            if self.rotary is not None and not self.norm_after_rotary:
                part = self.rotary.rotate(part)
        if self.temperature is not None and not key:
            part = part * self.temperature(len(part))[:, None, None]
        return part

    def uncapped(
        self,
        q: Float[Tensor, "position n_heads d_head"],
        k: Float[Tensor, "position n_heads d_head"],
    ) -> Float[Tensor, "n_heads position position"]:
        """Scores before the cap and the mask of `placed` queries and keys."""
        n = len(q)
        scores = self.scale * torch.einsum("ihe,jhe->hij", q, k)
        if self.slopes is not None:
            position = torch.arange(n).float()
            scores = scores + self.slopes[:, None, None] * (position[None, :] - position[:, None])
        return scores

    def scores(
        self,
        q: Float[Tensor, "position n_heads d_head"],
        k: Float[Tensor, "position n_heads d_head"],
    ) -> Float[Tensor, "n_heads position position"]:
        """Scores before the mask of `placed` queries and keys, one key head per query head."""
        return self.capped(self.uncapped(q, k))

    def capped(self, scores: Tensor) -> Tensor:
        """`softcap * tanh(scores / softcap)` where the model caps its scores."""
        return scores if self.softcap is None else self.softcap * (scores / self.softcap).tanh()

    def visible(self, n_positions: int) -> Bool[Tensor, "query key"]:
        """Which key `j` a query `i` may look at.

        Raises:
            ValueError: the model itself chooses the keys at this length.
        """
        if self.dense_up_to is not None and n_positions > self.dense_up_to:
            raise ValueError(
                f"the prompt has {n_positions} positions, and beyond {self.dense_up_to} this model "
                "attends to keys that an indexer chooses: shorten the prompt."
            )
        i = torch.arange(n_positions)
        distance = i[:, None] - i[None, :]
        seen = distance >= 0 if self.causal else torch.ones_like(distance, dtype=torch.bool)
        if self.window is not None:
            seen = seen & (distance.abs() < self.window)
        if self.chunk is not None:
            seen = seen & (i[:, None] // self.chunk == i[None, :] // self.chunk)
        return seen

    def pattern(
        self, scores: Float[Tensor, "n_heads position position"]
    ) -> Float[Tensor, "n_heads position position"]:
        """The softmax over the keys each query may look at, the sink (if any) left out after."""
        masked = scores.masked_fill(~self.visible(scores.shape[-1]), float("-inf"))
        if self.sinks is None:
            return masked.softmax(-1)
        sink = self.sinks[:, None, None].expand(*masked.shape[:2], 1)
        return torch.cat([masked, sink], dim=-1).softmax(-1)[..., :-1]
