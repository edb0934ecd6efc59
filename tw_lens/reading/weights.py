"""Model to canonical weights: any TransformerLens model, read block by block, never changed."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from tw_lens.canonical import Block, Norm, Readout, Vocabulary, Weights
from tw_lens.errors import Caveat, UnsupportedModel
from tw_lens.reading.parts import architecture_of, name_of, plain, read_norm, read_rotary
from tw_lens.tokens import TokenStrings

READABLE = {torch.float64, torch.float32, torch.bfloat16, torch.float16}
STILL_POSSIBLE = "TransformerLens' own hooks and caches still work on it."


def read_weights(model: Any) -> Weights:
    """Read a model's weights in canonical (folded-layernorm) form.

    Every block is read when it is asked for, raised to float32 on the CPU, and folded as
    `A_Q = P diag(gain) W_Q`, `a_Q = bias W_Q + b_Q` (definitions in `Block`), so that the result
    does not depend on how TransformerLens processed the model. The model is not changed.

    Args:
        model: a `HookedTransformer` or a `TransformerBridge`, raw or processed in any way.

    Returns:
        The weights, with the caveats that hold for this model.

    Raises:
        UnsupportedModel: a part of the model does not fit the canonical form.
        ValueError: the embedding or unembedding has no data, is quantised, or holds NaN.

    Example:
        >>> weights = read_weights(model)
        >>> weights.block(0).A_Q.shape
        torch.Size([4, 64, 16])

    Source: arXiv 2309.07315, section 3.
    """
    _refuse_what_does_not_fit(model)
    cfg = model.cfg
    first = model.blocks[0].attn
    norms = [
        read_norm(block.ln1, model, f"blocks.{layer}.ln1")
        for layer, block in enumerate(model.blocks)
    ]
    final = read_norm(model.ln_final, model, "ln_final")
    centred_stream = final.centred and all(norm.centred for norm in norms)
    W_E, W_U = _matrix(model.embed, "W_E", model), _matrix(model.unembed, "W_U", model)
    for what, matrix in (("the embedding W_E", W_E), ("the unembedding W_U", W_U)):
        plain(matrix, what)
    vocabulary = Vocabulary(W_E=W_E, scale=embedding_scale(model))
    b_U = getattr(model.unembed, "b_U", None)
    readout = Readout(
        norm=final, W_U=W_U, b_U=torch.zeros(W_U.shape[1]) if b_U is None else plain(b_U, "b_U")
    )
    processed = _processing(norms, final, vocabulary, centred_stream)
    name = name_of(model)

    @lru_cache(maxsize=1)
    def read_block(layer: int) -> Block:
        return _read_block(model, layer, norms[layer], centred_stream)

    return Weights(
        model_name=name,
        architecture=architecture_of(model),
        n_layers=len(model.blocks),
        n_heads=first.W_Q.shape[0],
        n_kv_heads=_key_value(first, "W_K").shape[0],
        d_model=int(cfg.d_model),
        d_head=first.W_Q.shape[-1],
        vocabulary=vocabulary,
        readout=readout,
        tokens=TokenStrings(getattr(model, "tokenizer", None), W_E.shape[0]),
        processed=processed,
        caveats=_caveats(model, processed),
        read_block=read_block,
    )


def embedding_scale(model: Any) -> float:
    """What the model multiplies an embedding by before the first block (measured, not believed)."""
    if hasattr(model.embed, "W_E") and not hasattr(model.embed, "original_component"):
        return 1.0  # a HookedTransformer's W_E is already scaled
    token = torch.tensor([[1]], device=model.embed.W_E.device)
    with torch.no_grad():
        entering = model.embed(token)[0, 0].float().cpu()
    stored = model.embed.W_E[1].detach().float().cpu()
    ratio = float((entering @ stored) / (stored @ stored))
    if not torch.allclose(entering, ratio * stored, rtol=1e-2, atol=1e-5):
        raise UnsupportedModel(
            architecture_of(model),
            "the embedding is more than a multiple of W_E's rows",
            STILL_POSSIBLE,
        )
    return 1.0 if abs(ratio - 1) < 1e-4 else ratio


def attention_scale(model: Any, layer: int) -> float:
    """The factor `s` on the scores: the model's own (GPT-Neo has none), else `d_head ** -0.5`."""
    cfg, attention = model.cfg, model.blocks[layer].attn
    inner = getattr(attention, "original_component", None)
    if inner is None:  # HookedTransformer divides by attn_scale
        return 1.0 / float(attention.attn_scale)
    configured = float(getattr(cfg, "attn_scale", None) or -1.0)
    scale = 1.0 if hasattr(inner, "attention_type") else getattr(inner, "scaling", None)
    if not isinstance(scale, (int, float)):
        scale = configured if configured > 0 else attention.W_Q.shape[-1] ** -0.5
    return float(scale)


def attention_window(model: Any, layer: int) -> int | None:
    """How many positions back a layer looks, itself included; None for all of them."""
    attention = model.blocks[layer].attn
    inner = getattr(attention, "original_component", None)
    if inner is None:  # HookedTransformer says so per layer
        local = getattr(attention, "attn_type", "global") == "local"
        return int(model.cfg.window_size) if local else None
    if getattr(inner, "attention_type", None) == "local":  # GPT-Neo
        return int(inner.config.window_size)
    window, kinds = _configured(model, "sliding_window"), _configured(model, "layer_types")
    slides = kinds is None or kinds[layer] == "sliding_attention"
    return int(window) if isinstance(window, int) and slides else None


def _read_block(model: Any, layer: int, norm: Norm, centred_stream: bool) -> Block:
    attention = model.blocks[layer].attn
    where = f"blocks.{layer}.attn"
    W = {
        name: plain(_key_value(attention, name), f"{where}.{name}")
        for name in ("W_Q", "W_K", "W_V", "W_O")
    }
    b = {
        name: _bias(attention, name, W[f"W_{name[-1]}"], f"{where}.{name}")
        for name in ("b_Q", "b_K", "b_V")
    }
    b_O = getattr(attention, "b_O", None)
    return Block(
        layer=layer,
        norm=norm,
        **W,
        **b,
        b_O=torch.zeros(W["W_O"].shape[-1]) if b_O is None else plain(b_O, f"{where}.b_O"),
        scale=attention_scale(model, layer),
        rotary=read_rotary(model, attention),
        window=attention_window(model, layer),
        centred_stream=centred_stream,
    )


def _key_value(attention: Any, name: str) -> Tensor:
    """A weight with as many key/value heads as the model has (HookedTransformer repeats them)."""
    unrepeated = getattr(attention, f"_{name}", None)
    return unrepeated if isinstance(unrepeated, Tensor) else getattr(attention, name)


def _bias(attention: Any, name: str, weight: Tensor, where: str) -> Tensor:
    value = getattr(attention, f"_{name}", None)
    if not isinstance(value, Tensor):
        value = getattr(attention, name, None)
    return torch.zeros(weight.shape[0], weight.shape[2]) if value is None else plain(value, where)


def _matrix(module: Any, name: str, model: Any) -> Tensor:
    value = getattr(module, name, None)
    if not isinstance(value, Tensor):
        raise UnsupportedModel(architecture_of(model), f"it has no {name}", STILL_POSSIBLE)
    return value


def _refuse_what_does_not_fit(model: Any) -> None:
    """Name the parts that the canonical form does not know."""
    if not hasattr(model, "cfg") or not hasattr(model, "blocks"):
        raise TypeError(
            f"read_weights takes a TransformerLens model (HookedTransformer or TransformerBridge), "
            f"not {type(model).__name__}: wrap it with TransformerBridge.boot_transformers."
        )
    for part in ("embed", "unembed", "ln_final"):
        if getattr(model, part, None) is None:
            raise UnsupportedModel(architecture_of(model), f"it has no {part}", STILL_POSSIBLE)
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError(
            f"weights of {name_of(model)} are on the meta device, without data. Load them first."
        )
    packed = {p.dtype for p in model.parameters()} - READABLE
    if packed:
        raise ValueError(
            f"weights of {name_of(model)} are quantised ({', '.join(map(str, packed))}): their "
            "numbers are not the model's weights. Load it in float32, bfloat16 or float16."
        )
    for layer, block in enumerate(model.blocks):
        missing = _misfit(block)
        if missing:
            raise UnsupportedModel(
                architecture_of(model), f"layer {layer} {missing}", STILL_POSSIBLE
            )
    cfg = model.cfg
    unknown = {
        "an attention soft-cap": any(_inner(b.attn, "attn_logit_softcapping") for b in model.blocks)
        or (getattr(cfg, "attn_scores_soft_cap", 0) or 0) > 0,
        "a logit soft-cap": (getattr(cfg, "output_logits_soft_cap", 0) or 0) > 0,
        "ALiBi positions": getattr(cfg, "positional_embedding_type", None) == "alibi",
        "relative position biases": getattr(cfg, "positional_embedding_type", None)
        in ("relative_positional_bias", "shortformer"),
        "a multiplier on its logits or on what its blocks add": any(
            _configured(model, name) not in (None, 1, 1.0)
            for name in ("logits_scaling", "logit_scale", "residual_multiplier")
        ),
        "bidirectional attention": getattr(cfg, "attention_dir", "causal") != "causal",
    }
    for part, present in unknown.items():
        if present:
            raise UnsupportedModel(
                architecture_of(model), f"it has {part}, not certified yet", STILL_POSSIBLE
            )


def _misfit(block: Any) -> str | None:
    attention = getattr(block, "attn", None)
    if attention is None:
        return "has no attention"
    try:
        W_Q = attention.W_Q
    except (AttributeError, NotImplementedError, ValueError):
        return "has attention without a W_Q"
    if not isinstance(W_Q, Tensor) or W_Q.ndim != 3:
        return "has a W_Q that cannot be split into heads"
    if getattr(block, "ln1", None) is None:
        return "has no norm before attention"
    for name, sentence in {
        "ln1_post": "normalises after attention, not certified yet",
        "ln2_post": "normalises after the MLP, not certified yet",
    }.items():
        if getattr(block, name, None) is not None:
            return sentence
    if any(getattr(attention, name, None) is not None for name in ("q_norm", "k_norm")):
        return "normalises queries and keys, not certified yet"
    if _inner(attention, "sinks") is not None:
        return "has attention sinks, not certified yet"
    return None


def _configured(model: Any, name: str) -> Any:
    """A number of the original model's own configuration."""
    original = getattr(model, "original_model", None)
    return getattr(getattr(original, "config", None), name, None)


def _inner(attention: Any, name: str) -> Any:
    return getattr(getattr(attention, "original_component", None), name, None)


def _processing(
    norms: list[Norm], final: Norm, vocabulary: Vocabulary, centred_stream: bool
) -> tuple[str, ...]:
    """What TransformerLens has done to the weights, seen on the weights themselves."""
    done = []
    if final.folded and all(norm.folded for norm in norms):
        done.append("folded")
    if centred_stream:
        rows = vocabulary.embeddings(torch.arange(min(64, len(vocabulary))))
        if float(rows.mean(-1).abs().max()) < 1e-6 * float(rows.abs().max()):
            done.append("centred")
    return tuple(done)


def _caveats(model: Any, processed: tuple[str, ...]) -> tuple[Caveat, ...]:
    caveats = []
    if getattr(model.cfg, "positional_embedding_type", None) == "rotary":
        caveats.append(
            Caveat("rotary offset 0", "W_QK is read for a query and a key at the same position.")
        )
    else:
        caveats.append(
            Caveat("no position", "vocabulary points are embeddings without a position added.")
        )
    if "folded" in processed:
        caveats.append(
            Caveat(
                "norms folded",
                "the norms' own gain and bias are gone (or were never trained); value biases may "
                "have moved into b_O.",
            )
        )
    if "centred" in processed:
        caveats.append(
            Caveat("centred", "embeddings have lost their mean, which no norm of the model sees.")
        )
    return tuple(caveats)
