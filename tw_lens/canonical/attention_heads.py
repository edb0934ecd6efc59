"""One block's attention in folded form: queries, keys and values as maps of the sphere."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.argument_kinds import require_int
from tw_lens.canonical.attention_output import AttentionOutput
from tw_lens.canonical.attention_scores import AttentionScores
from tw_lens.canonical.latent_attention import Bottleneck
from tw_lens.canonical.residual_sum import add_parts
from tw_lens.canonical.sphere_projection import HeadNorm, Norm
from tw_lens.torch_settings import default_settings


@dataclass(frozen=True, eq=False)
class Block:
    """The attention of one layer, raw as in the model and folded to read `N(x)`.

    Raw: `W_Q [n_heads, d_model, d_head]`, `W_K`, `W_V [n_kv_heads, ...]`, `W_O [n_heads, d_head,
    d_model]`, biases as zeros where the model has none. Folded: `A_Q = P diag(gain) W_Q`,
    `a_Q = bias W_Q + b_Q`, the same for K and V, so that `q = N(x) A_Q + a_Q`.
    Query head `h` uses key/value head `h // (n_heads / n_kv_heads)`. `attention_scores` leads from
    q and k to the attention pattern, `attention_output` is the part around `W_O`. `bottleneck_Q`
    and `bottleneck_KV` are the bottlenecks of latent attention, None elsewhere. `stream_norms` are
    the norms of a post-norm model (BERT), which normalise the residual stream itself after every
    part of the block: attention, cross-attention (in a decoder that has it), MLP; None elsewhere.
    `v_norm` normalises the values and `stream_scale` multiplies the residual stream after the block
    (Gemma 4); None and 1 elsewhere. In cross-attention keys and values read the encoder's final
    state through `source_norm`, and `A_K`, `a_K`, `A_V`, `a_V` are folded with it; None elsewhere.

    `A_O` is `W_O` times the gains of the norms around it (if there are any) and the multiplier of
    the output, projected off the direction that every norm of the model removes (the mean, if
    every norm centres): the same for a raw and a processed model.
    """

    layer: int
    norm: Norm
    W_Q: Float[Tensor, "n_heads d_model d_head"]
    W_K: Float[Tensor, "n_kv_heads d_source d_head"]
    W_V: Float[Tensor, "n_kv_heads d_source d_value"]
    W_O: Float[Tensor, "n_heads d_value d_model"]
    b_Q: Float[Tensor, "n_heads d_head"]
    b_K: Float[Tensor, "n_kv_heads d_head"]
    b_V: Float[Tensor, "n_kv_heads d_value"]
    b_O: Float[Tensor, " d_model"]
    attention_scores: AttentionScores
    attention_output: AttentionOutput
    centred_stream: bool
    bottleneck_Q: Bottleneck | None = None
    bottleneck_KV: Bottleneck | None = None
    stream_norms: tuple[Norm, ...] | None = None
    v_norm: HeadNorm | None = None
    stream_scale: float = 1.0
    source_norm: Norm | None = None

    @property
    def key_norm(self) -> Norm:
        """The norm that keys and values read: the queries' own, or in cross-attention another."""
        return self.norm if self.source_norm is None else self.source_norm

    @property
    def n_heads(self) -> int:
        """Number of query heads."""
        return self.W_Q.shape[0]

    @property
    def d_head(self) -> int:
        """Width of a query or key: the largest rank of W_QK."""
        return self.W_Q.shape[-1]

    @property
    def kv_head(self) -> list[int]:
        """The key/value head of each query head."""
        return [head * len(self.W_K) // self.n_heads for head in range(self.n_heads)]

    def heads(self, head: int | None) -> list[int]:
        """Return the heads that `head=` selects: all of them for None.

        Raises:
            IndexError: the head does not exist.
            TypeError: the head is not an int.
        """
        if head is None:
            return list(range(self.n_heads))
        if not 0 <= require_int("head", head) < self.n_heads:
            raise IndexError(
                f"head {head} does not exist: layer {self.layer} has heads 0 to {self.n_heads - 1}."
            )
        return [require_int("head", head)]

    @cached_property
    def A_Q(self) -> Float[Tensor, "n_heads d_model d_head"]:
        """`P diag(gain) W_Q`: the query map of the sphere."""
        return self.norm.fold(self.W_Q)

    @cached_property
    def A_K(self) -> Float[Tensor, "n_kv_heads d_source d_head"]:
        """`P diag(gain) W_K`: the key map of the sphere."""
        return self.key_norm.fold(self.W_K)

    @cached_property
    def A_V(self) -> Float[Tensor, "n_kv_heads d_source d_value"]:
        """`P diag(gain) W_V`: the value map of the sphere."""
        return self.key_norm.fold(self.W_V)

    @cached_property
    def A_O(self) -> Float[Tensor, "n_heads d_value d_model"]:
        """`m W_O diag(post gain)` off the direction that every norm removes (see the class)."""
        if (z_norm := self.attention_output.z_norm) is None:
            return self._remove_unseen_mean(self.W_O)
        return self._remove_unseen_mean(self.W_O * z_norm.gains(*self.W_O.shape[:2])[..., None])

    @cached_property
    def a_O(self) -> Float[Tensor, " d_model"]:
        """`b_O` in the same form: what the layer adds once, independent of its heads' input."""
        return self._remove_unseen_mean(self.b_O)

    @cached_property
    @default_settings()
    def a_Q(self) -> Float[Tensor, "n_heads d_head"]:
        """`bias W_Q + b_Q`: the constant part of every query."""
        return self.norm.bias @ self.W_Q + self.b_Q

    @cached_property
    @default_settings()
    def a_K(self) -> Float[Tensor, "n_kv_heads d_head"]:
        """`bias W_K + b_K`: the constant part of every key."""
        return self.key_norm.bias @ self.W_K + self.b_K

    @cached_property
    @default_settings()
    def a_V(self) -> Float[Tensor, "n_kv_heads d_value"]:
        """`bias W_V + b_V`: the constant part of every value."""
        return self.key_norm.bias @ self.W_V + self.b_V

    @property
    def bilinear(self) -> bool:
        """Return whether scores are `q A k` up to the cap (no query-key norm, no bottleneck)."""
        attention_scores = self.attention_scores
        return (
            attention_scores.q_norm is None
            and attention_scores.k_norm is None
            and self.bottleneck_KV is None
        )

    def qk_factors(
        self, distance: int = 0
    ) -> tuple[Float[Tensor, "n_heads d_model d_head"], Float[Tensor, "n_kv_heads d_model d_head"]]:
        """Return `L = A_Q P diag(g_q) R(distance)`, `R = A_K P diag(g_k)`: `W_QK = s L_h R_h^T`.

        `g` and `P` are the query-key norms' gains and centring (ones and identity without them).

        Raises:
            ValueError: the layer cannot be read at this distance (see `AttentionScores`).
        """
        self.attention_scores.require_distance(distance, self.layer)
        return self.attention_scores.fold(self.A_Q, self.A_K, distance)

    def qk_constants(
        self,
    ) -> tuple[Float[Tensor, "n_heads d_head"], Float[Tensor, "n_kv_heads d_head"]]:
        """Return `a_Q` and `a_K` at distance 0, with the same factors as `qk_factors`."""
        q, k = self.attention_scores.fold(self.a_Q[:, None], self.a_K[:, None], 0)
        return q[:, 0], k[:, 0]

    def query_at_distance(
        self, q: Float[Tensor, "words n_heads d_head"], distance: int
    ) -> Float[Tensor, "words n_heads d_head"]:
        """Return normalised queries, rotated by the distance back to the key, times `s`.

        Raises:
            ValueError: the layer cannot be read at this distance (see `AttentionScores`).
        """
        self.attention_scores.require_distance(distance, self.layer)
        return self.attention_scores.query_at_distance(q, distance)

    def _remove_unseen_mean(self, written: Tensor) -> Tensor:
        """Apply post-norm gain and multiplier, and remove the mean if every norm removes it."""
        post = self.attention_output.norm
        if post is not None:
            written = post.project(written) * post.gain
        written = written * self.attention_output.multiplier
        return written - written.mean(-1, keepdim=True) if self.centred_stream else written

    def queries(
        self, x: Float[Tensor, "position d_model"]
    ) -> Float[Tensor, "position n_heads d_head"]:
        """Return the queries of a residual stream (before any query-key norm)."""
        return self.queries_of_points(self.norm.sphere(x))

    def keys(
        self, x: Float[Tensor, "position d_model"]
    ) -> Float[Tensor, "position n_kv_heads d_head"]:
        """Return the keys of a residual stream (before any query-key norm)."""
        return self.keys_of_points(self.key_norm.sphere(x))

    def values(
        self, x: Float[Tensor, "position d_model"]
    ) -> Float[Tensor, "position n_kv_heads d_value"]:
        """Return the values of a residual stream (before any norm of values)."""
        return self.values_of_points(self.key_norm.sphere(x))

    def queries_of_points(
        self, y: Float[Tensor, "points d_model"], *, constant: bool = True
    ) -> Float[Tensor, "points n_heads d_head"]:
        """Return the queries of points of the sphere, `y A_Q + a_Q`; `y A_Q` without constant."""
        q = torch.einsum("pd,hde->phe", y, self.A_Q)
        q = q + self.a_Q if constant else q
        bottleneck = self.bottleneck_Q
        return q if bottleneck is None else bottleneck.normalise(q, self.norm.affine(y))

    def keys_of_points(
        self, y: Float[Tensor, "points d_model"]
    ) -> Float[Tensor, "points n_kv_heads d_head"]:
        """Return the keys of points of the sphere, `y A_K + a_K`."""
        k = torch.einsum("pd,hde->phe", y, self.A_K) + self.a_K
        bottleneck = self.bottleneck_KV
        return k if bottleneck is None else bottleneck.normalise(k, self.key_norm.affine(y))

    def values_of_points(
        self, y: Float[Tensor, "points d_model"], *, constant: bool = True
    ) -> Float[Tensor, "points n_kv_heads d_value"]:
        """Return the values of points of the sphere, `y A_V + a_V`; `y A_V` without constant."""
        v = torch.einsum("pd,hde->phe", y, self.A_V)
        v = v + self.a_V if constant else v
        if self.bottleneck_KV is None:
            return v
        return replace(self.bottleneck_KV, width=None).normalise(v, self.key_norm.affine(y))

    def scores(
        self,
        q: Float[Tensor, "query n_heads d_head"],
        k: Float[Tensor, "key n_kv_heads d_head"],
    ) -> Float[Tensor, "n_heads query key"]:
        """Return the attention scores before the mask (see `AttentionScores`)."""
        q, k = self.attention_scores.norm_and_rotate(q, k)
        return self.attention_scores.scores(q, k[:, self.kv_head])

    def attention_pattern(
        self,
        x: Float[Tensor, "query d_model"],
        source: Float[Tensor, "key d_model"] | None = None,
    ) -> Float[Tensor, "n_heads query key"]:
        """Return the attention pattern on a stream; keys read the source if there is one."""
        k = self.keys(x if source is None else source)
        return self.attention_scores.pattern(self.scores(self.queries(x), k))

    def weighted_values(
        self,
        pattern: Float[Tensor, "n_heads position key"],
        v: Float[Tensor, "key n_kv_heads d_value"],
    ) -> Float[Tensor, "position n_heads d_value"]:
        """Return `z = pattern n_v(v)` of every head."""
        v = v if self.v_norm is None else self.v_norm(v)
        return torch.einsum("hij,jhe->ihe", pattern, v[:, self.kv_head])

    def gated(
        self, z: Float[Tensor, "*batch position n_heads d_value"], x: Float[Tensor, "position d"]
    ) -> Float[Tensor, "*batch position n_heads d_value"]:
        """Return `gate * n_z(z)`, the input of `W_O`."""
        if self.attention_output.gate is not None:
            z = z * self.attention_output.gate(self.norm(x))
        return z if self.attention_output.z_norm is None else self.attention_output.z_norm(z)

    def head_outputs(
        self,
        pattern: Float[Tensor, "n_heads position key"],
        v: Float[Tensor, "key n_kv_heads d_value"],
        x: Float[Tensor, "position d_model"],
    ) -> Float[Tensor, "n_heads position d_model"]:
        """Return each head's `gate * n_z(pattern v) W_O`, before bias, post-norm and multiplier."""
        return torch.einsum(
            "ihe,hed->hid", self.gated(self.weighted_values(pattern, v), x), self.W_O
        )

    def attn_out(
        self,
        pattern: Float[Tensor, "n_heads position key"],
        v: Float[Tensor, "key n_kv_heads d_value"],
        x: Float[Tensor, "position d_model"],
    ) -> Float[Tensor, "position d_model"]:
        """Return what attention adds to the residual stream `x`, after post-norm and multiplier."""
        return self.attention_output.written(self.head_outputs(pattern, v, x).sum(0) + self.b_O)

    def resid_mid(self, x: Tensor, attn_out: Tensor) -> Float[Tensor, "*batch position d_model"]:
        """Return the residual stream behind attention, which cross-attention reads."""
        return add_parts(x, [attn_out], (self.stream_norms or ())[:1])

    def resid_post(
        self, x: Tensor, attn_out: Tensor, mlp_out: Tensor, cross_out: Tensor | None = None
    ) -> Float[Tensor, "*batch position d_model"]:
        """Return the residual stream after the block, from its input and what its parts add."""
        return self.stream_scale * add_parts(x, [attn_out, cross_out, mlp_out], self.stream_norms)
