"""Names, numbers and tensors of a TransformerLens model, wherever it keeps them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tw_lens.errors import UnsupportedModelError


def architecture_of(model: Any) -> str:
    """The architecture's name, as the configuration has it."""
    cfg = model.cfg
    named = getattr(cfg, "architecture", None) or getattr(cfg, "original_architecture", None)
    return str(named or type(model).__name__)


def name_of(model: Any) -> str:
    """The model's name, as the configuration has it."""
    return str(getattr(model.cfg, "model_name", None) or architecture_of(model))


def to_float32_cpu(tensor: Tensor, what: str) -> Tensor:
    """A detached float32 copy on the CPU.

    Raises:
        ValueError: the tensor is empty of data, quantised, or holds NaN or infinity.
    """
    if tensor.is_meta:
        raise ValueError(
            f"{what} is on the meta device: it has no data. Load the model's weights first."
        )
    if not tensor.is_floating_point():
        raise ValueError(
            f"{what} is quantised ({tensor.dtype}): its numbers are not the model's weights. Load "
            "the model in float32, bfloat16 or float16."
        )
    copy = tensor.detach().to("cpu", torch.float32, copy=True)
    if not torch.isfinite(copy).all():
        raise ValueError(
            f"{what} holds NaN or infinity: every result would be meaningless. Check the "
            "checkpoint it was loaded from."
        )
    return copy


# Their two norms per block act on the stream itself, after attention and after the MLP.
POST_NORM = {
    "OpenAIGPTLMHeadModel",
    "BertForMaskedLM",
    "BertLMHeadModel",
    "BertModel",
    "RobertaForMaskedLM",
}
NATIVE = "TransformerLensNative"  # boot_native: the bridge's own successor of HookedTransformer
STILL_POSSIBLE = "TransformerLens' own hooks and caches still work on it."


def unsupported(model: Any, part: str, remedy: str = STILL_POSSIBLE) -> UnsupportedModelError:
    """The refusal of a part that the canonical form cannot hold, ready to be raised."""
    return UnsupportedModelError(architecture_of(model), part, remedy)


def hf_config(model: Any) -> Any:
    """The configuration of the original model's text part; None for a HookedTransformer."""
    config = getattr(getattr(model, "original_model", None), "config", None)
    if config is None:
        return None
    text = getattr(config, "get_text_config", None)
    return config if text is None else text()


def hf_config_value(model: Any, *names: str) -> Any:
    """The first of some numbers that the original model's own configuration has, else None."""
    config = hf_config(model)
    found = (getattr(config, name, None) for name in names)
    return next((value for value in found if value is not None), None)


def original_module(component: Any) -> Any:
    """The original module behind a bridge's component; None for a HookedTransformer's."""
    return getattr(component, "original_component", None)


def resolved_module(component: Any) -> Any:
    """The module a component stands for: itself in a HookedTransformer, None for an empty slot."""
    return original_module(component) if hasattr(component, "original_component") else component


def attention_of(block: Any) -> Any:
    """A block's attention: its own component, or an unhooked mixer that attends (Nemotron-H)."""
    attention = getattr(block, "attn", None)
    if attention is not None and resolved_module(attention) is not None:
        return attention
    for name in ("mixer", "temporal_block"):  # Nemotron-H, RecurrentGemma
        mixer = resolved_module(getattr(original_module(block), name, None))
        if hasattr(mixer, "q_proj"):
            return mixer
    return None


def original_attention(attention: Any) -> Any:
    """The original module behind an attention component; None for a HookedTransformer's."""
    if hasattr(attention, "original_component"):
        return original_module(attention)
    return None if hasattr(attention, "W_Q") else attention


def per_layer_value(values: Any, layer: int) -> Any:
    """One layer's entry of a per-layer setting; a setting for all layers as it is."""
    return values[layer] if isinstance(values, (list, tuple)) else values


def find_tensor(module: Any, *names: str) -> Tensor | None:
    """The first tensor of that name on a component or on the module behind it.

    A bridge's names may still refer to what was there before offloaded weights were brought in:
    a tensor with data comes first.
    """
    owners = [owner for owner in (module, original_module(module)) if owner is not None]
    values = [getattr(owner, name, None) for name in names for owner in owners]
    found = [value for value in values if isinstance(value, Tensor)]
    return next((value for value in found if not value.is_meta), found[0] if found else None)
