"""Embedding and readout: how tokens enter the residual stream, and how logits are read from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tw_lens.canonical import Norm, Readout, Vocabulary
from tw_lens.canonical.embedding import ROWS_AT_ONCE
from tw_lens.reading.linear_maps import require_plain_maps
from tw_lens.reading.model_access import (
    find_tensor,
    hf_config_value,
    is_bridged,
    number,
    optional,
    original_model,
    original_module,
    require_numbers,
    resolved_module,
    to_float32_cpu,
    unsupported,
)
from tw_lens.reading.model_exceptions import (
    has_unit_embedding_norm,
    lacks_trained_head,
    masked_head_activation,
)
from tw_lens.reading.model_parts import ModelParts, model_parts
from tw_lens.reading.norms import read_norm, unit_rms_norm
from tw_lens.reading.offloaded import materialised
from tw_lens.reading.stack_scales import embedding_factor, readout_factor
from tw_lens.reading.stacks import Stack

EMBEDDING_FACTORS = ("embedding_multiplier", "scale_emb")
LOGIT_FACTORS = ("logit_scale", "lm_head_multiplier", "output_multiplier")
N_SAMPLED = 64
LOGIT_DIVISORS = ("logits_scaling",)


def read_vocabulary(model: Any) -> Vocabulary:
    """Read the token embeddings and what the model does to them before the first block.

    Raises:
        UnsupportedModelError: tokens enter the residual stream in another way.
        ValueError: the embedding has no data, is quantised, or contains NaN.
    """
    parts = model_parts(model)
    W_E = _matrix(model, parts.embed, "W_E")
    require_numbers(W_E, "the embedding W_E")
    factors = [float(hf_config_value(model, name) or 1.0) for name in EMBEDDING_FACTORS]
    factors.append(number(_original_base(model), "normalizer", 1.0))  # RecurrentGemma
    types = find_tensor(parts.token_types, "weight", "W_token_type")
    return Vocabulary(
        W_E=W_E,
        scale=_measured_scale(model, parts.embed) * math.prod(factors),
        norm=_embedding_norm(model),
        token_type=None if types is None else to_float32_cpu(types, "token types")[0],
    )


def initial_residual(model: Any, vocabulary: Vocabulary, tokens: Tensor) -> Tensor:
    """Return the residual stream before the first block.

    Embeddings plus learned positions, normalised where the model does so.

    Raises:
        UnsupportedModelError: the model adds positions from a table that is not found.
    """
    x = vocabulary.before_norm(tokens)
    parts = model_parts(model)
    with materialised(parts.positions):
        positions = _learned_positions(model, parts, tokens.numel())
    if parts.norm_before_positions is not None:
        x = vocabulary.embed(tokens)
        return x if positions is None else x + positions
    if positions is not None:
        x = x + positions
    return x if vocabulary.norm is None else vocabulary.norm(x)


def read_readout(model: Any, vocabulary: Vocabulary) -> Readout:
    """Read how the model turns a final state into logits.

    Raises:
        UnsupportedModelError: the model has an unembedding without a matrix W_U.
        ValueError: the unembedding has no data, is quantised, or contains NaN.
    """
    d_model = int(model.cfg.d_model)
    parts = model_parts(model)
    final = parts.final_norm
    norm = Norm.none(d_model) if final is None else read_norm(final, model, "ln_final")
    head = _masked_head(model, parts.head)
    prediction_head = original_module(parts.prediction_head)  # ModernBERT's decoder
    if prediction_head is not None:
        head = _prediction_head(prediction_head, norm)
        norm = read_norm(prediction_head.norm, model, "prediction_head.norm")
    if not has_unembedding(model):
        W_U = vocabulary.W_E.T
        return Readout(Norm.none(d_model), W_U, torch.zeros(W_U.shape[1]), is_embedding=True)
    require_plain_maps(resolved_module(parts.unembed), model, "unembed")
    W_U = _matrix(model, parts.unembed, "W_U")
    require_numbers(W_U, "the unembedding W_U")
    return Readout(
        norm=norm,
        W_U=W_U,
        b_U=_logit_bias(model, parts.unembed, W_U.shape[1]),
        scale=_logit_scale(model, norm),
        softcap=_logit_softcap(model),
        head=head,
    )


def _logit_bias(model: Any, unembed: Any, n_outputs: int) -> Tensor:
    """Return the bias of the logits: the unembedding's, and a buffer behind it (Marian, BART)."""
    buffer = optional(original_model(model), "final_logits_bias")
    found = [bias for bias in (optional(unembed, "b_U"), buffer) if isinstance(bias, Tensor)]
    read = [to_float32_cpu(bias, "b_U").flatten() for bias in found]
    return torch.stack([torch.zeros(n_outputs), *read]).sum(0)


def has_unembedding(model: Any) -> bool:
    """Return whether the model was trained to predict tokens from states."""
    return optional(model, "unembed") is not None and not lacks_trained_head(model)


def _original_base(model: Any) -> Any:
    """Return the body of the original model, without its head; None where it is not apart."""
    return optional(original_model(model), "model")


def _original_embed_norm(model: Any) -> Any:
    """Return the norm inside the original embedding module (Muse Glimmer); None without one."""
    return optional(original_module(model_parts(model).embed), "embed_norm")


def _embedding_norm(model: Any) -> Norm | None:
    """Read the norm between embedding and first block; None without one."""
    parts = model_parts(model)
    if parts.norm_before_positions is not None and parts.norm_after_positions is not None:
        raise unsupported(model, "its embedding is normalised before and after positions are added")
    if parts.norm_after_positions is not None:
        return read_norm(parts.norm_after_positions, model, "embed_ln")
    if parts.norm_before_positions is not None:
        return read_norm(parts.norm_before_positions, model, "embed.ln")
    if has_unit_embedding_norm(model):
        return unit_rms_norm(model)
    inner = _original_embed_norm(model)
    return None if inner is None else read_norm(inner, model, "embed.embed_norm")


def _measured_scale(model: Any, embed: Any) -> float:
    """Measure the factor on the embedding's rows (Gemma) by calling the module."""
    if isinstance(model, Stack):
        positions = _learned_positions(model, model_parts(model), 1)
        if (factor := embedding_factor(model, embed.W_E, positions)) is not None:
            return factor
    if not is_bridged(embed):
        return 1.0  # a HookedTransformer's W_E is already scaled
    if _original_embed_norm(model) is not None:
        return 1.0
    W_E = embed.W_E
    sample = _longest_rows(W_E)
    if not len(sample):
        raise unsupported(model, "every row of its embedding W_E is zero")
    stored = W_E[sample].detach().float().cpu()
    with torch.no_grad():
        embedded = embed(sample[None])[0].float().cpu()
    if embedded.shape != stored.shape:
        raise unsupported(model, "its embedding is projected to another width")
    ratio = float((embedded * stored).sum() / stored.square().sum())
    gap = (embedded - ratio * stored).abs().amax(-1) / (ratio * stored).abs().amax(-1)
    if not float(gap.max()) < max(1e-5, 2 * torch.finfo(W_E.dtype).eps):
        raise unsupported(model, "the embedding is more than a multiple of W_E's rows")
    return 1.0 if abs(ratio - 1) < 1e-4 else ratio


def _longest_rows(W_E: Tensor) -> Tensor:
    """Return the ids of two long rows of an embedding; rows of zeros measure nothing."""
    for start in range(0, len(W_E), ROWS_AT_ONCE):
        lengths = W_E[start : start + ROWS_AT_ONCE].detach().float().norm(dim=-1)
        if lengths.any():
            longest = lengths.topk(min(2, len(lengths)))
            return start + longest.indices[longest.values > 0]
    return torch.empty(0, dtype=torch.long)


def read_positions(model: Any, vocabulary: Vocabulary) -> Tensor | None:
    """Return what the model adds to the stream for every learned position; None without any.

    Where a norm follows the sum (BERT), positions pass it with its gain and the median divisor of a
    sample of tokens and positions.
    """
    parts = model_parts(model)
    with materialised(parts.positions):
        positions = _learned_positions(model, parts, int(model.cfg.n_ctx))
    norm = vocabulary.norm
    if positions is None or norm is None or parts.norm_before_positions is not None:
        return positions
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(len(vocabulary), (N_SAMPLED,), generator=generator)
    x = vocabulary.before_norm(tokens) + positions[torch.arange(N_SAMPLED) % len(positions)]
    divisor = (norm.project(x).square().mean(-1) + norm.eps).sqrt().median()
    return norm.project(positions) / divisor * norm.gain


def _learned_positions(model: Any, parts: ModelParts, n: int) -> Tensor | None:
    """Return the vectors added for positions 0 to n-1; None where positions are not added.

    Tables may have rows before the one of position 0: OPT two, RoBERTa one after its padding.
    """
    if not parts.adds_positions:
        return None
    table, module = optional(parts.positions, "W_pos"), original_module(parts.positions)
    if isinstance(table, Tensor):
        padding = optional(module, "padding_idx")
        first = 0 if padding is None else int(padding) + 1
        if not hasattr(module, "create_position_ids_from_input_ids"):  # M2M100
            first = max(first, int(optional(module, "offset") or 0))
    else:  # XGLM computes its sines when the model is built
        module = optional(_original_base(model), "embed_positions")
        table = optional(module, "weights")
        first = int(optional(module, "offset") or 0)
    if not isinstance(table, Tensor):
        raise unsupported(model, "its positions are added from a table that is not found")
    return table[first : first + n].detach().float().cpu()


def _logit_scale(model: Any, norm: Norm) -> float:
    """Return the factor on the logits, 1 where it was already folded into the unembedding."""
    scale = 1.0
    for name in LOGIT_FACTORS:
        scale *= _own_or_configured(model, name)
    for name in LOGIT_DIVISORS:
        scale /= _own_or_configured(model, name)
    return scale * readout_factor(model, norm) if isinstance(model, Stack) else scale


def _own_or_configured(model: Any, name: str) -> float:
    """Return a factor that the original model itself holds, else its configuration's, else 1.

    Folding a factor into the unembedding changes the model's own and leaves the configuration.
    """
    own = optional(original_model(model), name)
    return float((hf_config_value(model, name) if own is None else own) or 1.0)


def _logit_softcap(model: Any) -> float | None:
    """Return the soft-cap of the logits; None without one."""
    cap = hf_config_value(model, "final_logit_softcapping", "logits_soft_cap")
    if not cap and model_parts(model).caps_logits:
        cap = number(model.cfg, "output_logits_soft_cap", 0.0)
    return float(cap) if cap and cap > 0 else None


def _prediction_head(module: Any, final: Norm) -> Callable[[Tensor], Tensor]:
    """Return ModernBERT's head: final norm, linear layer and activation."""
    W = to_float32_cpu(module.dense.weight, "prediction_head.dense")
    bias = module.dense.bias
    b = torch.zeros(len(W)) if bias is None else to_float32_cpu(bias, "prediction_head.dense.bias")
    return partial(_masked_head_output, W, b, module.act, final)


def _masked_head(model: Any, dense: Any) -> Callable[[Tensor], Tensor] | None:
    """Return the layer of a masked language model between a state and the final norm."""
    if dense is None:
        return None
    module = resolved_module(dense)
    activation = optional(module, "act_fn") or masked_head_activation(model)
    is_linear = optional(module, "weight") is not None  # a HookedEncoder keeps its W and b apart
    W = to_float32_cpu(module.weight if is_linear else module.W.T, "mlm_head.weight")
    b = to_float32_cpu(module.bias if is_linear else module.b, "mlm_head.bias")
    return partial(_masked_head_output, W, b, activation, None)


def _masked_head_output(
    W: Tensor, b: Tensor, activation: Callable[[Tensor], Tensor], norm: Norm | None, x: Tensor
) -> Tensor:
    """Return `activation(n(x) W^T + b)`, as a function that can be pickled."""
    return activation((x if norm is None else norm(x)) @ W.T + b)


def _matrix(model: Any, module: Any, name: str) -> Tensor:
    matrix = optional(module, name)
    if not isinstance(matrix, Tensor):
        raise unsupported(model, f"it has no {name}")
    return matrix.detach()
