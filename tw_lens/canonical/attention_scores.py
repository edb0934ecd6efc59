"""Attention scores: from queries and keys to the attention pattern."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tw_lens.canonical.relative_positions import RelativePositions
from tw_lens.canonical.rotary import Rotary
from tw_lens.canonical.sphere_projection import HeadNorm


@dataclass(frozen=True, eq=False)
class AttentionScores:
    """The scores of one layer, `cap(s * n_q(q_i) R(i-j) n_k(k_j)^T + bias(i, j))`, and its mask.

    Attributes:
        scale: `s`, the factor on the product.
        rotary: `R`; None where positions do not rotate queries and keys (in this layer).
        q_norm, k_norm: `n_q`, `n_k`, the normalisation of queries and keys, None without one.
        norm_after_rotary: whether it follows the rotation instead of preceding it.
        softcap: `cap(t) = softcap * tanh(t / softcap)`; None for no soft-cap.
        slopes: ALiBi's slope per head: the bias is `slopes * min(j - i, 0)`.
        relative: T5's bias per head and range of distances; None without one.
        temperature: a factor on the query at each position, `n -> [n]` (Llama 4, Ministral 3).
        sinks: one more logit per head in every softmax, with a weight and without a value.
        causal: whether a query sees earlier positions only; in cross-attention it sees all keys.
        window: how many positions a query sees, itself included (both ways without `causal`).
        chunk: a query sees its own chunk of this many positions only (Llama 4).
        dense_up_to: beyond this many positions an indexer selects the keys, and the pattern
            cannot be recomputed (GLM's sparse attention).
    """

    scale: float
    rotary: Rotary | None = None
    q_norm: HeadNorm | None = None
    k_norm: HeadNorm | None = None
    norm_after_rotary: bool = False
    softcap: float | None = None
    slopes: Float[Tensor, " n_heads"] | None = None
    relative: RelativePositions | None = None
    temperature: Callable[[int], Tensor] | None = None
    sinks: Float[Tensor, " n_heads"] | None = None
    causal: bool = True
    window: int | None = None
    chunk: int | None = None
    dense_up_to: int | None = None

    def qk_norm(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Return `n_q(q), n_k(k)` `[..., heads, d_head]`, unchanged without such norms."""
        q = q if self.q_norm is None else self.q_norm(q)
        return q, (k if self.k_norm is None else self.k_norm(k))

    def norm_and_rotate(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Return normalised and rotated queries and keys, `[position, heads, d_head]`."""
        if not self.norm_after_rotary:
            q, k = self.qk_norm(q, k)
        if self.rotary is not None:
            q, k = self.rotary.rotate(q), self.rotary.rotate(k)
        if self.norm_after_rotary:
            q, k = self.qk_norm(q, k)
        if self.temperature is not None:
            q = q * self.temperature(len(q))[:, None, None]
        return q, k

    def linearised(
        self,
        part: Float[Tensor, "position parts d_head"],
        of: Float[Tensor, "position heads d_head"],
        head: int,
        *,
        key: bool = False,
    ) -> Float[Tensor, "position parts d_head"]:
        """Normalise and rotate summands of one head's queries (or keys), linearly in the summand.

        A query-key norm divides every summand by the divisor of the whole vectors `of`.
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

    def require_distance(self, distance: int, layer: int) -> None:
        """Reject a distance at which a layer cannot be read.

        Raises:
            ValueError: the layer has no rotary positions, a causal query would look ahead, or the
                distance exceeds the model's context.
        """
        n_ctx = None if self.rotary is None else self.rotary.n_ctx
        if n_ctx is not None and abs(distance) >= n_ctx:
            raise ValueError(
                f"distance={distance} is beyond the {n_ctx} positions of the model's context; give "
                "a smaller distance."
            )
        if distance != 0 and self.rotary is None:
            raise ValueError(
                f"distance must be 0 because layer {layer} does not rotate its queries and keys, "
                f"got {distance}."
            )
        if distance < 0 and self.causal:
            raise ValueError(
                "distance must be 0 or more because a causal query cannot look ahead, got "
                f"{distance}."
            )

    def fold(self, q: Tensor, k: Tensor, distance: int) -> tuple[Tensor, Tensor]:
        """Fold the query-key norms' gains into maps of queries and keys, and rotate the queries.

        The norms' divisors are left out because they depend on the vector.
        """
        if self.norm_after_rotary and self.rotary is not None:
            q = self.rotary.turn(q, distance)
        if self.q_norm is not None:
            q = self.q_norm.fold(q)
        if self.k_norm is not None:
            k = self.k_norm.fold(k)
        if not self.norm_after_rotary and self.rotary is not None:
            q = self.rotary.turn(q, distance)
        return q, k

    def query_at_distance(
        self, q: Float[Tensor, "words n_heads d_head"], distance: int
    ) -> Float[Tensor, "words n_heads d_head"]:
        """Return normalised queries, rotated by the distance back to the key, times `s`."""
        if not self.norm_after_rotary and self.q_norm is not None:
            q = self.q_norm(q)
        if self.rotary is not None:
            q = self.rotary.turn(q, distance)
        if self.norm_after_rotary and self.q_norm is not None:
            q = self.q_norm(q)
        return self.scale * q

    def normalised_key(
        self, k: Float[Tensor, "words n_kv_heads d_head"]
    ) -> Float[Tensor, "words n_kv_heads d_head"]:
        """Return normalised keys; the rotation is applied to the query."""
        return k if self.k_norm is None else self.k_norm(k)

    def distance_bias(self, offset: Int[Tensor, ...]) -> Float[Tensor, "n_heads ..."] | None:
        """Return what is added to every head's scores at some offsets, key minus query position.

        None where scores have no such bias.
        """
        if self.slopes is not None:
            return self.slopes.reshape(-1, *[1] * offset.ndim) * offset.clamp_max(0).float()
        return None if self.relative is None else self.relative.bias(offset)

    def raw_scores(
        self,
        q: Float[Tensor, "query n_heads d_head"],
        k: Float[Tensor, "key n_heads d_head"],
    ) -> Float[Tensor, "n_heads query key"]:
        """Return the scores of normalised and rotated queries and keys before soft-cap and mask."""
        scores = self.scale * torch.einsum("ihe,jhe->hij", q, k)
        bias = self.distance_bias(torch.arange(len(k))[None] - torch.arange(len(q))[:, None])
        return scores if bias is None else scores + bias

    def scores(
        self,
        q: Float[Tensor, "query n_heads d_head"],
        k: Float[Tensor, "key n_heads d_head"],
    ) -> Float[Tensor, "n_heads query key"]:
        """Return the scores of normalised and rotated queries and keys before the mask.

        Keys are given once per query head.
        """
        return self.softcap_scores(self.raw_scores(q, k))

    def softcap_scores(self, scores: Tensor) -> Tensor:
        """Return `softcap * tanh(scores / softcap)`; the scores unchanged without a soft-cap."""
        return scores if self.softcap is None else self.softcap * (scores / self.softcap).tanh()

    def mask(self, n_queries: int, n_keys: int | None = None) -> Bool[Tensor, "query key"]:
        """Return the mask that is True where query `i` sees key `j`.

        Args:
            n_queries: number of queries.
            n_keys: number of keys, as many as queries by default.

        Raises:
            ValueError: the model itself selects the keys at this length.
        """
        if self.dense_up_to is not None and n_queries > self.dense_up_to:
            raise ValueError(
                f"the prompt has {n_queries} positions, and beyond {self.dense_up_to} this model "
                "attends to keys that an indexer selects; shorten the prompt."
            )
        i, j = torch.arange(n_queries)[:, None], torch.arange(n_keys or n_queries)[None]
        distance = i - j
        seen = distance >= 0 if self.causal else torch.ones_like(distance, dtype=torch.bool)
        if self.window is not None:
            seen = seen & (distance.abs() < self.window)
        if self.chunk is not None:
            seen = seen & (i // self.chunk == j // self.chunk)
        return seen

    def pattern(
        self, scores: Float[Tensor, "n_heads query key"]
    ) -> Float[Tensor, "n_heads query key"]:
        """Return the softmax over the keys that each query sees, without the sink's weight."""
        masked = scores.masked_fill(~self.mask(*scores.shape[-2:]), float("-inf"))
        if self.sinks is None:
            return masked.softmax(-1)
        sink = self.sinks[:, None, None].expand(*masked.shape[:2], 1)
        return torch.cat([masked, sink], dim=-1).softmax(-1)[..., :-1]
