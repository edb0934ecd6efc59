"""One layer's attention in canonical form: its matrices, its scores and its output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tw_lens.canonical import AttentionOutput, AttentionScores, Block, Gate, Norm
from tw_lens.reading.attention_experts import is_mixture, read_mixture, read_routing
from tw_lens.reading.latent_attention import is_latent, read_latent
from tw_lens.reading.layer import HostLayer
from tw_lens.reading.linear_maps import require_plain_maps
from tw_lens.reading.matrices import AttentionMatrices, read_matrices
from tw_lens.reading.model_access import (
    number,
    optional,
    per_layer_value,
    resolved_module,
    to_float32_cpu,
    unsupported,
)
from tw_lens.reading.model_exceptions import is_native, normalises_output
from tw_lens.reading.norms import read_head_norm, read_norm
from tw_lens.reading.positions import (
    position_kind,
    read_chunk,
    read_rotary,
    read_slopes,
    read_temperature,
    read_window,
)
from tw_lens.reading.relative_bias import read_relative
from tw_lens.reading.stacks import Stack

GATES = ("gate_proj", "g_proj")  # HRM-Text and AFMoE, Laguna
UNCERTIFIED_POSITIONS = ("relative_positional_bias", "shortformer")


def read_block(
    layer: HostLayer,
    norm: Norm,
    *,
    centred_stream: bool,
    stream_norms: tuple[Norm, ...] | None,
    source_norm: Norm | None = None,
) -> Block:
    """Read the attention of one layer, float32 on the CPU.

    Raises:
        UnsupportedModelError: a part of the layer does not fit the canonical form.
        ValueError: weights without data, quantised, or with NaN.
    """
    require_plain_maps(layer.attention, layer.model, layer.attention_name)
    matrices = _matrices(layer)
    _require_supported(layer)
    if len(matrices.W_Q) != len(matrices.W_O):  # Qwen3-Next's gated queries in 3.9
        raise layer.unsupported(
            f"has a W_Q of {len(matrices.W_Q)} heads and a W_O of {len(matrices.W_O)}: this "
            "TransformerLens does not separate the query projection from its gate",
            "A newer TransformerLens does.",
        )
    n_heads, _, d_head = matrices.W_Q.shape
    n_kv_heads, _, d_value = matrices.W_V.shape
    return Block(
        layer=layer.index,
        norm=norm,
        **matrices._asdict(),
        attention_scores=read_attention_scores(layer, n_heads, len(matrices.W_K), d_head),
        attention_output=read_attention_output(layer, n_heads, matrices.W_O.shape[1]),
        centred_stream=centred_stream,
        stream_norms=stream_norms,
        source_norm=source_norm,
        stream_scale=number(layer.original_block, "layer_scalar", 1.0),
        v_norm=read_head_norm(
            layer.part("v_norm"),
            layer.model,
            f"{layer.attention_name}.v_norm",
            heads=n_kv_heads,
            d_head=d_value,
        ),
    )


def _matrices(layer: HostLayer) -> AttentionMatrices:
    """Read the matrices of a layer by the kind of its attention."""
    if is_mixture(layer):
        return read_mixture(layer)
    return read_latent(layer) if is_latent(layer) else read_matrices(layer)


def read_attention_scores(
    layer: HostLayer, n_heads: int, n_kv_heads: int, d_head: int
) -> AttentionScores:
    """Read everything between a layer's queries and keys and its attention pattern."""
    cfg, where = layer.model.cfg, layer.attention_name
    sinks = layer.component("sinks")

    def qk_norm(side: str, heads: int) -> Any:
        module = layer.component(f"{side}_norm", f"{side}_layernorm")
        if module is None:  # one module for both
            module = layer.part("qk_norm")
        return read_head_norm(
            module, layer.model, f"{where}.{side}_norm", heads=heads, d_head=d_head
        )

    return AttentionScores(
        scale=attention_scale(layer, d_head),
        rotary=read_rotary(layer),
        q_norm=qk_norm("q", n_heads),
        k_norm=qk_norm("k", n_kv_heads),
        norm_after_rotary=bool(optional(cfg, "qk_norm_after_rope")),
        softcap=attention_softcap(layer),
        slopes=read_slopes(layer, n_heads),
        relative=read_relative(layer),
        temperature=read_temperature(layer),
        sinks=to_float32_cpu(sinks, f"{where}.sinks") if isinstance(sinks, Tensor) else None,
        causal=_is_causal(layer),
        window=read_window(layer),
        chunk=read_chunk(layer),
        dense_up_to=optional(layer.part("indexer"), "index_topk"),
    )


def read_attention_output(layer: HostLayer, n_heads: int, d_value: int) -> AttentionOutput:
    """Read what a layer does with its heads' values before and after `W_O`."""
    name = "ln1" if normalises_output(layer.model) else "ln1_post"
    post_norm = optional(layer.block, name)
    has_post_norm = post_norm is not None and resolved_module(post_norm) is not None
    return AttentionOutput(
        gate=read_routing(layer) if is_mixture(layer) else _gate(layer, n_heads, d_value),
        z_norm=read_head_norm(
            layer.part("attn_sub_norm"),
            layer.model,
            f"{layer.attention_name}.attn_sub_norm",
            heads=n_heads,
            d_head=d_value,
        ),
        norm=read_norm(post_norm, layer.model, f"{layer.name}.{name}") if has_post_norm else None,
        multiplier=attention_multiplier(layer),
    )


def _is_causal(layer: HostLayer) -> bool:
    """Return whether queries see earlier positions only.

    An original module's own flag comes first: a bridge may call every model causal (3.9), or every
    BERT bidirectional.
    """
    if isinstance(layer.model, Stack):
        return layer.model.stack_name == "decoder"
    modules = [] if layer.original_attention is None else layer.original_attention.modules()
    flags = (optional(module, "is_causal") for module in modules)
    configured = (optional(layer.model.cfg, "attention_dir") or "causal") == "causal"
    return next((flag for flag in flags if isinstance(flag, bool)), configured)


def attention_multiplier(layer: HostLayer) -> float:
    """Return the factor on the attention's output before it is added (Falcon-H1, Granite)."""
    inner = number(layer.original_block, "attn_out_multiplier", 1.0)
    return inner * number(layer.block, "residual_contribution_scale", 1.0)


def attention_softcap(layer: HostLayer) -> float | None:
    """Return the soft-cap of the attention scores; None without one."""
    if layer.original_attention is None or is_native(layer.model):
        cap = number(layer.model.cfg, "attn_scores_soft_cap", 0.0)
        if cap > 0:  # TransformerLens writes -1 for no cap
            return cap
    cap = layer.part("attn_logit_softcapping")
    return None if cap is None else float(cap)


def attention_scale(layer: HostLayer, d_head: int) -> float:
    """Return the factor `s` on the scores: the model's own, else `d_head ** -0.5`."""
    if layer.original_attention is None:  # HookedTransformer divides by attn_scale
        return 1.0 / float(layer.attention.attn_scale)
    if is_native(layer.model):  # and so does its successor
        return 1.0 / float(layer.part("scale"))
    scale = _original_scale(layer)
    if scale is None:
        configured = number(layer.model.cfg, "attn_scale", -1.0)
        scale = configured if configured > 0 else d_head**-0.5
    if layer.setting("scale_attn_by_inverse_layer_idx"):
        scale /= layer.index + 1
    for name in ("key_multiplier", "qk_scale_factor"):  # Falcon-H1, Muse Glimmer
        scale *= number(layer.original_attention, name, 1.0)
    return scale


def _original_scale(layer: HostLayer) -> float | None:
    """Return the scale that the original attention module itself stores; None without one."""
    if layer.part("attention_type") in ("global", "local"):  # GPT-Neo does not scale
        return 1.0
    if layer.part("relative_attention_num_buckets") is not None:  # nor does T5
        return 1.0
    values = (layer.part(name) for name in ("scaling", "softmax_scale"))
    return next((float(value) for value in values if isinstance(value, (int, float))), None)


def _gate(layer: HostLayer, n_heads: int, d_value: int) -> Gate | None:
    """Read an output gate: in the query projection (Qwen 3.5) or in a projection of its own."""
    where = f"{layer.attention_name}.gate"
    if optional(layer.model.cfg, "gated_q_proj"):
        weight = layer.attention.q.original_component.weight
        both = to_float32_cpu(weight, where).reshape(n_heads, 2 * d_value, -1)
        return Gate(both[:, d_value:].mT.contiguous(), torch.zeros(n_heads, d_value))
    linear = resolved_module(optional(layer.attention, "gate"))
    if linear is None:
        linear = resolved_module(layer.part(*GATES))
    if linear is None:
        return None
    W = to_float32_cpu(linear.weight, where)
    width = W.shape[0] // n_heads
    b = torch.zeros(n_heads, width)
    bias = optional(linear, "bias")
    if bias is not None:
        b = to_float32_cpu(bias, where).reshape(n_heads, width)
    softplus = layer.part("g_proj") is not None
    return Gate(W.reshape(n_heads, width, -1).mT.contiguous(), b, softplus=softplus)


def _require_supported(layer: HostLayer) -> None:
    """Reject a layer whose attention the canonical form cannot represent.

    Raises:
        UnsupportedModelError: with the part that does not fit.
    """
    cfg = layer.model.cfg
    clip = optional(layer.part("config"), "clip_qkv")
    clip = layer.part("clip_qkv") or clip or optional(cfg, "clip_qkv")
    if clip:
        raise layer.unsupported(f"clips its queries, keys and values (clip_qkv={clip})")
    if optional(cfg, "use_dynamic_ntk_rope"):
        raise layer.unsupported("rotates by the length of the prompt (use_dynamic_ntk_rope)")
    if layer.part("global_relative_attention_bias", "global_input_layer_norm") is not None:
        raise layer.unsupported("attends to summaries of its text too (transient-global attention)")
    kind = position_kind(layer.model)
    if kind in UNCERTIFIED_POSITIONS and not isinstance(layer.model, Stack):
        raise unsupported(layer.model, f"its positions are of the kind {kind}, not certified")
    span = per_layer_value(optional(cfg, "attn_types"), layer.index)
    if span not in (None, "global", "local"):
        raise layer.unsupported(f"has attention of an unknown type ({span})")
