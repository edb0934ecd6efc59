"""Decisions by an architecture's name: the few that a model's structure does not settle."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from tw_lens.reading.model_access import architecture_of, hf_config_value, original_model
from tw_lens.reading.model_parts import is_hooked_encoder
from tw_lens.reading.stacks import Stack

# TransformerLens shows ln1 and ln2 in these as in every other model, but the two norms act on the
# residual stream itself, after attention and after the MLP; nothing in a block's parts tells this.
POST_NORM = {
    "OpenAIGPTLMHeadModel",
    "BertForMaskedLM",
    "BertLMHeadModel",
    "BertModel",
    "RobertaForMaskedLM",
}

# A HookedTransformer of these normalises what attention and the MLP add, and not what they read;
# its blocks show the two norms as in every other model.
HOOKED_OUTPUT_NORM = {"Olmo2ForCausalLM", "Olmo3ForCausalLM"}

# boot_native, the bridge's successor of HookedTransformer: its configuration has the fields of
# HookedTransformer (attn_scores_soft_cap) and its attention divides by `scale` instead of
# multiplying by it, under names that Hugging Face modules use in the other meaning.
NATIVE = "TransformerLensNative"

# NanoChat normalises its embeddings by a function, which leaves no module to find.
UNIT_NORM_OF_EMBEDDINGS = {"NanoChatForCausalLM"}

# A checkpoint of a bare encoder gets a head of random numbers when it is loaded as a masked
# language model; only the name in its configuration tells that the head was never trained.
WITHOUT_TRAINED_HEAD = {"BertModel", "RobertaModel"}

# RoBERTa's head calls GELU whatever its configuration's hidden_act says; class names contain this.
GELU_HEAD = "Roberta"

# BERT's configuration class serves both kinds: the architecture's name tells a causal checkpoint.
CAUSAL_SUFFIXES = ("ForCausalLM", "LMHeadModel")


def _is_bridge_to(model: Any, architectures: set[str]) -> bool:
    """Return whether a model is a bridge of these architectures.

    A HookedTransformer has one form, whatever the name of the model that it was loaded from.
    """
    return original_model(model) is not None and architecture_of(model) in architectures


def normalises_stream(model: Any) -> bool:
    """Return whether the model's norms act on the residual stream itself (BERT, OpenAI GPT)."""
    if isinstance(model, Stack):
        return model.normalises_stream
    return _is_bridge_to(model, POST_NORM) or is_hooked_encoder(model)


def normalises_output(model: Any) -> bool:
    """Return whether ln1 and ln2 act on the output of attention and MLP (OLMo 2 hooked)."""
    hooked = original_model(model) is None and not is_hooked_encoder(model)
    return hooked and architecture_of(model) in HOOKED_OUTPUT_NORM


def is_native(model: Any) -> bool:
    """Return whether the model is TransformerLens' own small model (`boot_native`)."""
    return _is_bridge_to(model, {NATIVE})


def has_unit_embedding_norm(model: Any) -> bool:
    """Return whether embeddings go through an RMSNorm that has no module (NanoChat)."""
    return _is_bridge_to(model, UNIT_NORM_OF_EMBEDDINGS)


def lacks_trained_head(model: Any) -> bool:
    """Return whether the checkpoint is a bare encoder, whose unembedding was never trained."""
    return not WITHOUT_TRAINED_HEAD.isdisjoint(hf_config_value(model, "architectures") or [])


def masked_head_activation(model: Any) -> Callable[[Tensor], Tensor]:
    """Return the activation between a masked language model's last state and its final norm."""
    from transformers.activations import ACT2FN

    if GELU_HEAD in type(original_model(model)).__name__:
        return torch.nn.functional.gelu
    return ACT2FN[hf_config_value(model, "hidden_act")]


def is_causal_checkpoint(architectures: Iterable[str]) -> bool:
    """Return whether the architectures in a checkpoint's configuration name a causal model."""
    return any(name.endswith(CAUSAL_SUFFIXES) for name in architectures)
