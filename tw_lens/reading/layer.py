"""One layer of the host model, resolved once: its block, its attention and their settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tw_lens.errors import UnsupportedModelError
from tw_lens.reading.model_access import (
    STILL_POSSIBLE,
    hf_config_value,
    is_bridged,
    optional,
    original_module,
    per_layer_value,
    resolved_module,
    unsupported,
)

UNHOOKED_MIXERS = ("mixer", "temporal_block")  # Nemotron-H, RecurrentGemma


@dataclass(frozen=True)
class HostLayer:
    """One layer of a TransformerLens model.

    Attributes:
        model: the whole model.
        index: the layer's number.
        block: the block as TransformerLens shows it.
        original_block: the Hugging Face module behind the block; None for a HookedTransformer.
        attention: the attention component, or the original mixer where TransformerLens hooks no
            attention; None in a layer without attention.
        original_attention: the Hugging Face module behind the attention; None for a
            HookedTransformer.
    """

    model: Any
    index: int
    block: Any
    original_block: Any
    attention: Any
    original_attention: Any

    @property
    def name(self) -> str:
        """The block's name in hooks and error messages, `blocks.3`."""
        return f"blocks.{self.index}"

    @property
    def attention_name(self) -> str:
        """The attention's name in hooks and error messages, `blocks.3.attn`."""
        return f"{self.name}.attn"

    @property
    def has_unhooked_attention(self) -> bool:
        """Return whether the attention is a bare module, without TransformerLens' hooks."""
        return self.attention is not None and self.attention is not optional(self.block, "attn")

    @property
    def attends_to_source(self) -> bool:
        """Return whether the attention is cross-attention (see `stack`)."""
        return optional(self.model, "stack_name") == "cross"

    @property
    def kind(self) -> str | None:
        """The layer's entry in the configuration's `layer_types`; None without such a list."""
        return self.setting("layer_types")

    def setting(self, *names: str) -> Any:
        """Return this layer's value of an original configuration's setting; None without it."""
        return per_layer_value(hf_config_value(self.model, *names), self.index)

    def part(self, *names: str) -> Any:
        """Return the first of these parts that the original attention module has, else None."""
        return optional(self.original_attention, *names)

    def component(self, *names: str) -> Any:
        """Return the first of these parts of the attention component, else of the original one.

        A bridge's slot without a module behind it does not count.
        """
        for owner in (self.attention, self.original_attention):
            for name in names:
                part = optional(owner, name)
                if part is not None and resolved_module(part) is not None:
                    return part
        return None

    def unsupported(self, problem: str, remedy: str = STILL_POSSIBLE) -> UnsupportedModelError:
        """Return the error for a part of this layer that the canonical form cannot represent."""
        return unsupported(self.model, f"layer {self.index} {problem}", remedy)


def host_layer(model: Any, index: int) -> HostLayer:
    """Resolve one layer of a model."""
    block = model.blocks[index]
    attention = _attention(block)
    return HostLayer(
        model=model,
        index=index,
        block=block,
        original_block=original_module(block),
        attention=attention,
        original_attention=_original_attention(attention),
    )


def host_layers(model: Any) -> list[HostLayer]:
    """Resolve every layer of a model."""
    return [host_layer(model, index) for index in range(len(model.blocks))]


def _attention(block: Any) -> Any:
    """Return a block's attention component, or its unhooked mixer if that is an attention."""
    attention = optional(block, "attn")
    if attention is not None and resolved_module(attention) is not None:
        return attention
    for name in UNHOOKED_MIXERS:
        mixer = resolved_module(optional(original_module(block), name))
        if hasattr(mixer, "q_proj"):
            return mixer
    return None


def _original_attention(attention: Any) -> Any:
    """Return the Hugging Face module behind an attention; None for a HookedTransformer's."""
    if is_bridged(attention):
        return original_module(attention)
    return None if hasattr(attention, "W_Q") else attention
