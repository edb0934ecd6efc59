"""The two ends of the stream: how words enter it, and how the model reads words from it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tw_lens.canonical import Norm, Readout, Vocabulary
from tw_lens.reading.model_access import (
    architecture_of,
    hf_config_value,
    original_module,
    to_float32_cpu,
    unsupported,
)
from tw_lens.reading.norms import read_norm, unit_rms_norm
from tw_lens.reading.offloaded import materialised

EMBEDDING_FACTORS = ("embedding_multiplier", "scale_emb")
LOGIT_FACTORS = ("logit_scale", "lm_head_multiplier", "output_multiplier")
LOGIT_DIVISORS = ("logits_scaling",)
ENDS = (
    "embed",
    "token_type_embed",
    "embed_ln",
    "ln_final",
    "mlm_head",
    "prediction_head",
    "unembed",
)


def end_modules(model: Any) -> list[Any]:
    """The components outside the blocks that read and write words, where a model has them."""
    return [getattr(model, name, None) for name in ENDS]


def read_vocabulary(model: Any) -> Vocabulary:
    """The word embeddings and what the model does to them before the first block.

    Raises:
        UnsupportedModelError: words enter the stream in another way.
        ValueError: the embedding has no data, is quantised, or holds NaN.
    """
    W_E = _matrix(model, model.embed, "W_E")
    to_float32_cpu(W_E, "the embedding W_E")
    factors = [float(hf_config_value(model, name) or 1.0) for name in EMBEDDING_FACTORS]
    base = getattr(getattr(model, "original_model", None), "model", None)
    factors.append(float(getattr(base, "normalizer", 1.0)))  # RecurrentGemma
    token_types = getattr(model, "token_type_embed", None)
    return Vocabulary(
        W_E=W_E,
        scale=_measured_scale(model) * math.prod(factors),
        norm=_embedding_norm(model),
        token_type=None
        if token_types is None
        else to_float32_cpu(token_types.weight, "token types")[0],
    )


def initial_residual(model: Any, vocabulary: Vocabulary, tokens: Tensor) -> Tensor:
    """The stream before the first block: words and learned positions, normalised if the model does.

    Raises:
        UnsupportedModelError: the model adds positions from a table that is not found.
    """
    x = vocabulary.embeddings(tokens) * vocabulary.scale
    if vocabulary.token_type is not None:
        x = x + vocabulary.token_type
    with materialised(getattr(model, "pos_embed", None)):
        positions = _learned_positions(model, tokens.numel())
    if positions is not None:
        x = x + positions
    return x if vocabulary.norm is None else vocabulary.norm(x)


def read_readout(model: Any, vocabulary: Vocabulary) -> Readout:
    """How the model turns a final state into logits.

    Raises:
        UnsupportedModelError: there is no unembedding and nothing to read words with.
        ValueError: the unembedding has no data, is quantised, or holds NaN.
    """
    d_model = int(model.cfg.d_model)
    final = getattr(model, "ln_final", None)
    norm = Norm.none(d_model) if final is None else read_norm(final, model, "ln_final")
    head = _masked_head(model)
    original_attention = original_module(
        getattr(model, "prediction_head", None)
    )  # ModernBERT's decoder
    if original_attention is not None:
        head = _prediction_head(original_attention, norm)
        norm = read_norm(original_attention.norm, model, "prediction_head.norm")
    if not has_unembedding(model):
        W_U = vocabulary.W_E.T
        return Readout(Norm.none(d_model), W_U, torch.zeros(W_U.shape[1]), is_embedding=True)
    W_U = _matrix(model, model.unembed, "W_U")
    to_float32_cpu(W_U, "the unembedding W_U")
    b_U = getattr(model.unembed, "b_U", None)
    return Readout(
        norm=norm,
        W_U=W_U,
        b_U=torch.zeros(W_U.shape[1]) if b_U is None else to_float32_cpu(b_U, "b_U"),
        scale=_logit_scale(model),
        softcap=_logit_softcap(model),
        head=head,
    )


def has_unembedding(model: Any) -> bool:
    """Whether the model was trained to turn states into words.

    A checkpoint of a bare encoder (`BertModel`) gets a head of random numbers when it is loaded
    as a masked language model; its own configuration still says what it is.
    """
    if getattr(model, "unembed", None) is None:
        return False
    named = hf_config_value(model, "architectures") or []
    return not any(name in ("BertModel", "RobertaModel") for name in named)


def _embedding_norm(model: Any) -> Norm | None:
    """The norm between embedding and first block; NanoChat has one that is no module."""
    norm = getattr(model, "embed_ln", None)
    if norm is not None:
        return read_norm(norm, model, "embed_ln")
    if architecture_of(model) == "NanoChatForCausalLM":
        return unit_rms_norm(model)
    inside = getattr(original_module(model.embed), "embed_norm", None)  # Muse Glimmer
    return None if inside is None else read_norm(inside, model, "embed.embed_norm")


def _measured_scale(model: Any) -> float:
    """What the embedding multiplies its rows by (Gemma), asked of the module itself."""
    if not hasattr(model.embed, "original_component"):
        return 1.0  # a HookedTransformer's W_E is already scaled
    if getattr(original_module(model.embed), "embed_norm", None) is not None:
        return 1.0
    some = torch.tensor([[1, 2]], device=model.embed.W_E.device)
    stored = model.embed.W_E[some[0]].detach().float().cpu()
    with torch.no_grad():
        entering = model.embed(some)[0].float().cpu()
    if entering.shape != stored.shape:
        raise unsupported(model, "its embedding is projected to another width")
    ratio = float((entering * stored).sum() / stored.square().sum())
    if not torch.allclose(entering, ratio * stored, rtol=1e-2, atol=1e-5):
        raise unsupported(model, "the embedding is more than a multiple of W_E's rows")
    return 1.0 if abs(ratio - 1) < 1e-4 else ratio


def _learned_positions(model: Any, n: int) -> Tensor | None:
    """The vectors added for positions 0 to n-1; None where positions are not added.

    Tables may keep rows in front of position 0: OPT two of them, RoBERTa one after its padding.
    """
    if getattr(model.cfg, "positional_embedding_type", None) != "standard":
        return None
    table = getattr(getattr(model, "pos_embed", None), "W_pos", None)
    if not isinstance(table, Tensor):  # XGLM computes its sines when the model is built
        base = getattr(getattr(model, "original_model", None), "model", None)
        module = getattr(base, "embed_positions", None)
        table = getattr(module, "weights", None)
        if not isinstance(table, Tensor):
            raise unsupported(model, "its positions are added from a table that is not found")
        first = int(getattr(module, "offset", 0))
    else:
        padding = getattr(original_module(model.pos_embed), "padding_idx", None)
        first = 0 if padding is None else int(padding) + 1
        first = max(first, int(getattr(original_module(model.pos_embed), "offset", 0)))
    return table[first : first + n].detach().float().cpu()


def _logit_scale(model: Any) -> float:
    """The factor on the logits, unless it was folded into the unembedding before."""
    if getattr(getattr(model, "adapter", None), "_logit_scale_already_folded", False):
        return 1.0
    scale = 1.0
    for name in LOGIT_FACTORS:
        scale *= float(hf_config_value(model, name) or 1.0)
    for name in LOGIT_DIVISORS:
        scale /= float(hf_config_value(model, name) or 1.0)
    return scale


def _logit_softcap(model: Any) -> float | None:
    held = getattr(model.cfg, "output_logits_soft_cap", 0) or 0
    cap = hf_config_value(model, "final_logit_softcapping", "logits_soft_cap") or (
        held if held > 0 else None
    )
    return None if cap is None else float(cap)


def _prediction_head(module: Any, final: Norm) -> Any:
    W = to_float32_cpu(module.dense.weight, "prediction_head.dense")
    bias = module.dense.bias
    b = torch.zeros(len(W)) if bias is None else to_float32_cpu(bias, "prediction_head.dense.bias")
    return lambda x: module.act(final(x) @ W.T + b)


def _masked_head(model: Any) -> Any:
    """The layer a masked language model puts between a state and the final norm."""
    dense = getattr(model, "mlm_head", None)
    if dense is None:
        return None
    module = original_module(dense) or dense
    W, b = (
        to_float32_cpu(module.weight, "mlm_head.weight"),
        to_float32_cpu(module.bias, "mlm_head.bias"),
    )
    from transformers.activations import ACT2FN

    roberta = "Roberta" in type(model.original_model).__name__
    act = torch.nn.functional.gelu if roberta else ACT2FN[hf_config_value(model, "hidden_act")]
    return lambda x: act(x @ W.T + b)


def _matrix(model: Any, module: Any, name: str) -> Tensor:
    value = getattr(module, name, None)
    if not isinstance(value, Tensor):
        raise unsupported(model, f"it has no {name}")
    return value
