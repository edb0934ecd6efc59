"""One layer's attention in canonical form: its matrices, its scoring, its way into the stream."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tw_lens.canonical import AttentionOutput, AttentionScores, Block, Gate, Norm
from tw_lens.reading.latent_attention import is_latent, read_latent
from tw_lens.reading.model_access import (
    NATIVE,
    architecture_of,
    attention_of,
    hf_config_value,
    original_attention,
    original_module,
    per_layer_value,
    resolved_module,
    to_float32_cpu,
    unsupported,
)
from tw_lens.reading.norms import read_head_norm, read_norm
from tw_lens.reading.positions import (
    position_kind,
    read_chunk,
    read_rotary,
    read_slopes,
    read_temperature,
    read_window,
)

GATES = ("gate_proj", "g_proj")


def read_block(
    model: Any,
    layer: int,
    norm: Norm,
    *,
    centred_stream: bool,
    stream_norms: tuple[Norm, Norm] | None,
) -> Block:
    """The attention of one layer, float32 on the CPU.

    Raises:
        UnsupportedModelError: the layer does something the canonical form cannot hold.
        ValueError: weights without data, quantised, or with NaN.
    """
    attention = attention_of(model.blocks[layer])
    where = f"blocks.{layer}.attn"
    matrices = read_latent(model, layer) if is_latent(attention) else _matrices(model, layer)
    _refuse_what_does_not_fit(model, layer)
    n_heads, _, d_head = matrices["W_Q"].shape
    if "b_O" not in matrices:
        b_O = None if is_latent(attention) else getattr(attention, "b_O", None)
        blank = torch.zeros(matrices["W_O"].shape[-1])
        matrices["b_O"] = blank if b_O is None else to_float32_cpu(b_O, f"{where}.b_O")
    return Block(
        layer=layer,
        norm=norm,
        **matrices,
        attention_scores=read_attention_scores(
            model, layer, n_heads, matrices["W_K"].shape[0], d_head
        ),
        attention_output=read_attention_output(model, layer, n_heads, matrices["W_O"].shape[1]),
        centred_stream=centred_stream,
        stream_norms=stream_norms,
        stream_scale=float(getattr(original_module(model.blocks[layer]), "layer_scalar", 1.0)),
        v_norm=read_head_norm(
            getattr(original_attention(attention), "v_norm", None),
            model,
            f"{where}.v_norm",
            heads=matrices["W_V"].shape[0],
            d_head=matrices["W_V"].shape[-1],
        ),
    )


def read_attention_scores(
    model: Any, layer: int, n_heads: int, n_kv_heads: int, d_head: int
) -> AttentionScores:
    """Everything a layer does between its queries and keys and its attention pattern."""
    attention = attention_of(model.blocks[layer])
    module = original_attention(attention)
    where = f"blocks.{layer}.attn"
    softcap = getattr(module, "attn_logit_softcapping", None)
    ours = module is None or architecture_of(model) == NATIVE
    if ours and (getattr(model.cfg, "attn_scores_soft_cap", 0) or 0) > 0:
        softcap = model.cfg.attn_scores_soft_cap
    sinks = getattr(module, "sinks", None)
    return AttentionScores(
        scale=attention_scale(model, layer, d_head),
        rotary=read_rotary(model, layer),
        q_norm=read_head_norm(
            _normalised(attention, "q"), model, f"{where}.q_norm", heads=n_heads, d_head=d_head
        ),
        k_norm=read_head_norm(
            _normalised(attention, "k"), model, f"{where}.k_norm", heads=n_kv_heads, d_head=d_head
        ),
        norm_after_rotary=bool(getattr(model.cfg, "qk_norm_after_rope", False)),
        softcap=None if softcap is None else float(softcap),
        slopes=read_slopes(model, layer, n_heads),
        temperature=read_temperature(model, layer),
        sinks=to_float32_cpu(sinks, f"{where}.sinks") if isinstance(sinks, Tensor) else None,
        causal=getattr(model.cfg, "attention_dir", "causal") == "causal",
        window=read_window(model, layer),
        chunk=read_chunk(model, layer),
        dense_up_to=getattr(getattr(module, "indexer", None), "index_topk", None),
    )


def read_attention_output(model: Any, layer: int, n_heads: int, d_value: int) -> AttentionOutput:
    """What a layer does with its heads' values before and after `W_O`."""
    block = model.blocks[layer]
    module = original_attention(attention_of(block))
    where = f"blocks.{layer}"
    post = _post_norm(block)
    return AttentionOutput(
        gate=_gate(model, layer, n_heads, d_value),
        z_norm=read_head_norm(
            getattr(module, "attn_sub_norm", None),
            model,
            f"{where}.attn.attn_sub_norm",
            heads=n_heads,
            d_head=d_value,
        ),
        norm=None if post is None else read_norm(post, model, f"{where}.ln1_post"),
        multiplier=attention_multiplier(block),
    )


def attention_multiplier(block: Any) -> float:
    """What a block multiplies its attention's output by before adding it (Granite, Falcon-H1)."""
    inside = float(getattr(original_module(block), "attn_out_multiplier", 1.0))
    return inside * float(getattr(block, "residual_contribution_scale", 1.0))


def attention_scale(model: Any, layer: int, d_head: int) -> float:
    """The factor `s` on the scores: the model's own (GPT-Neo has none), else `d_head ** -0.5`."""
    cfg, attention = model.cfg, attention_of(model.blocks[layer])
    module = original_attention(attention)
    if module is None:  # HookedTransformer divides by attn_scale
        return 1.0 / float(attention.attn_scale)
    if architecture_of(model) == NATIVE:  # and so does its successor
        return 1.0 / float(module.scale)
    configured_scale = float(getattr(cfg, "attn_scale", None) or -1.0)
    neo = getattr(module, "attention_type", None) in ("global", "local")
    scale = 1.0 if neo else None
    for name in ("scaling", "softmax_scale"):
        value = getattr(module, name, None)
        scale = float(value) if scale is None and isinstance(value, (int, float)) else scale
    if scale is None:
        scale = configured_scale if configured_scale > 0 else d_head**-0.5
    if hf_config_value(model, "scale_attn_by_inverse_layer_idx"):
        scale /= layer + 1
    for name in ("key_multiplier", "qk_scale_factor"):  # Falcon-H1, Muse Glimmer
        scale *= float(getattr(module, name, 1.0))
    return scale


def _matrices(model: Any, layer: int) -> dict[str, Tensor]:
    attention = attention_of(model.blocks[layer])
    where = f"blocks.{layer}.attn"
    try:
        held = {name: _key_value(attention, name) for name in ("W_Q", "W_K", "W_V", "W_O")}
    except (AttributeError, NotImplementedError, ValueError):
        matrices = _from_linears(model, layer)
    else:
        for name, W in held.items():
            if not isinstance(W, Tensor) or W.ndim != 3:
                raise unsupported(
                    model, f"layer {layer} has a {name} that cannot be split into heads"
                )
        matrices = {name: to_float32_cpu(W, f"{where}.{name}") for name, W in held.items()}
        for name in ("b_Q", "b_K", "b_V"):
            matrices[name] = _bias(attention, name, matrices[f"W_{name[-1]}"], f"{where}.{name}")
    entering = float(getattr(original_module(model.blocks[layer]), "attention_in_multiplier", 1.0))
    for name in ("W_Q", "W_K", "W_V"):  # Falcon-H1 multiplies what they read
        matrices[name] = matrices[name] * entering
    return matrices


def _from_linears(model: Any, layer: int) -> dict[str, Tensor]:
    """Heads cut by the layer's own width, where layers differ or no bridge shows them (Gemma 4)."""
    module = original_attention(attention_of(model.blocks[layer]))
    if getattr(module, "is_kv_shared_layer", False):
        raise unsupported(model, f"layer {layer} reads the keys and values of an earlier layer")
    linears = {name: getattr(module, f"{name}_proj", None) for name in "qkvo"}
    width = getattr(module, "head_dim", None)
    if linears["v"] is None:  # Gemma 4's full attention takes its keys for values
        linears["v"] = linears["k"]
    if width is None or None in linears.values():
        raise unsupported(model, f"layer {layer} has attention without a W_Q, W_K, W_V and W_O")
    matrices = {}
    for name in "qkv":
        W = to_float32_cpu(linears[name].weight, f"blocks.{layer}.attn.{name}_proj")
        bias = linears[name].bias
        b = (
            torch.zeros(len(W))
            if bias is None
            else to_float32_cpu(bias, f"blocks.{layer}.attn.{name}_proj")
        )
        matrices[f"W_{name.upper()}"] = W.reshape(-1, width, W.shape[-1]).mT.contiguous()
        matrices[f"b_{name.upper()}"] = b.reshape(-1, width)
    W_O = to_float32_cpu(linears["o"].weight, f"blocks.{layer}.attn.o_proj")
    matrices["W_O"] = W_O.T.reshape(-1, width, len(W_O)).contiguous()
    if linears["o"].bias is not None:
        matrices["b_O"] = to_float32_cpu(linears["o"].bias, f"blocks.{layer}.attn.o_proj")
    return matrices


def _key_value(attention: Any, name: str) -> Tensor:
    """A weight with as many key/value heads as the model has (HookedTransformer repeats them)."""
    unrepeated = getattr(attention, f"_{name}", None)
    return unrepeated if isinstance(unrepeated, Tensor) else getattr(attention, name)


def _bias(attention: Any, name: str, weight: Tensor, where: str) -> Tensor:
    value = getattr(attention, f"_{name}", None)
    if not isinstance(value, Tensor):
        value = getattr(attention, name, None)
    blank = torch.zeros(weight.shape[0], weight.shape[2])
    return blank if value is None else to_float32_cpu(value, where).reshape(blank.shape)


def _normalised(attention: Any, which: str) -> Any:
    """The norm of queries or keys: a bridge's component, or the module's own."""
    names = (f"{which}_norm", f"{which}_layernorm")
    for owner in (attention, original_attention(attention)):
        for name in names:
            found = getattr(owner, name, None)
            if found is not None and resolved_module(found) is not None:
                return found
    return getattr(original_attention(attention), "qk_norm", None)


def _post_norm(block: Any) -> Any:
    post = getattr(block, "ln1_post", None)
    return post if post is not None and resolved_module(post) is not None else None


def _gate(model: Any, layer: int, n_heads: int, d_value: int) -> Gate | None:
    """An output gate: in the query projection (Qwen 3.5) or of its own (HRM-Text, AFMoE)."""
    attention = attention_of(model.blocks[layer])
    where = f"blocks.{layer}.attn.gate"
    if getattr(model.cfg, "gated_q_proj", False):
        weight = attention.q.original_component.weight
        both = to_float32_cpu(weight, where).reshape(n_heads, 2 * d_value, -1)
        return Gate(both[:, d_value:].mT.contiguous(), torch.zeros(n_heads, d_value))
    inside = original_attention(attention)
    places = (getattr(attention, "gate", None), *(getattr(inside, n, None) for n in GATES))
    found = [resolved_module(place) for place in places if place is not None]
    linear = next((module for module in found if module is not None), None)
    if linear is None:
        return None
    W = to_float32_cpu(linear.weight, where)
    width = W.shape[0] // n_heads
    W = W.reshape(n_heads, width, -1).mT.contiguous()
    bias = getattr(linear, "bias", None)
    b = (
        torch.zeros(n_heads, width)
        if bias is None
        else to_float32_cpu(bias, where).reshape(n_heads, width)
    )
    return Gate(W, b, softplus=hasattr(inside, "g_proj"))


def _refuse_what_does_not_fit(model: Any, layer: int) -> None:
    attention = attention_of(model.blocks[layer])
    module = original_attention(attention)
    clip = getattr(module, "clip_qkv", None) or getattr(
        getattr(module, "config", None), "clip_qkv", None
    )
    if clip:
        raise unsupported(
            model, f"layer {layer} clips its queries, keys and values (clip_qkv={clip})"
        )
    kind = position_kind(model)
    if kind in ("relative_positional_bias", "shortformer"):
        raise unsupported(model, f"its positions are of the kind {kind}, not certified")
    if per_layer_value(getattr(model.cfg, "attn_types", None), layer) not in (
        None,
        "global",
        "local",
    ):
        raise unsupported(model, f"layer {layer} attends in a way of its own")
