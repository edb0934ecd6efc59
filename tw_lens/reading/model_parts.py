"""Where a model keeps the parts around its blocks, and the hooks of its residual stream.

A `HookedEncoder` (BERT in TransformerLens 3) has them in other places than every other model: its
embedding is a module of five parts, its head holds the final norm, and its blocks end in a norm.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tw_lens.reading.model_access import is_bridged, optional, tokenizer_of, unsupported

NORMALISED_END = "hook_normalized_resid_post"  # of the blocks of a HookedEncoder alone


class ModelParts(NamedTuple):
    """The parts around a model's blocks; None for those that it does not have.

    Attributes:
        embed: the token embedding, with `W_E`.
        positions: the embedding of positions, with `W_pos`.
        adds_positions: whether vectors of positions are added to embeddings.
        token_types: the embedding of token types.
        norm_before_positions: the norm of an embedding alone.
        norm_after_positions: the norm of the sum of embedding, position and token type.
        head: the layer of a masked language model between a state and the final norm.
        prediction_head: such a layer that normalises first.
        final_norm: the norm before the unembedding.
        unembed: the unembedding, with `W_U`.
        caps_logits: whether a soft-cap in the model's settings acts on its logits.
    """

    embed: Any
    positions: Any
    adds_positions: bool
    token_types: Any
    norm_before_positions: Any
    norm_after_positions: Any
    head: Any
    prediction_head: Any
    final_norm: Any
    unembed: Any
    caps_logits: bool

    def modules(self) -> list[Any]:
        """Return the modules of embedding and readout that are read at once: not the positions."""
        return [part for part in self if hasattr(part, "modules") and part is not self.positions]


def is_hooked_encoder(model: Any) -> bool:
    """Return whether the model is a HookedEncoder, which no other model's blocks look like."""
    blocks = optional(model, "blocks")
    return bool(blocks) and not is_bridged(blocks[0]) and hasattr(blocks[0], NORMALISED_END)


def model_parts(model: Any) -> ModelParts:
    """Find the parts around a model's blocks."""
    embed, head = optional(model, "embed"), optional(model, "mlm_head")
    if is_hooked_encoder(model):
        return ModelParts(
            embed=embed.embed,
            positions=embed.pos_embed,
            adds_positions=True,
            token_types=embed.token_type_embed,
            norm_before_positions=optional(embed.embed, "ln"),
            norm_after_positions=embed.ln,
            head=head,
            prediction_head=None,
            final_norm=head.ln,
            unembed=model.unembed,
            caps_logits=False,
        )
    return ModelParts(
        embed=embed,
        positions=optional(model, "pos_embed"),
        adds_positions=optional(model.cfg, "positional_embedding_type") == "standard",
        token_types=optional(model, "token_type_embed"),
        norm_before_positions=None if is_bridged(embed) else optional(embed, "ln"),
        norm_after_positions=optional(model, "embed_ln"),
        head=head,
        prediction_head=optional(model, "prediction_head"),
        final_norm=optional(model, "ln_final"),
        unembed=optional(model, "unembed"),
        caps_logits=True,
    )


def residual_hooks(model: Any) -> list[str]:
    """Return the hooks of the residual stream: every block's input and the last one's output.

    Raises:
        UnsupportedModelError: the model is the cross-attention of a decoder, which is a part of it.
    """
    if optional(model, "stack_name") == "cross":
        raise unsupported(
            model,
            "cross-attention has no residual stream of its own",
            'Run the decoder, which has both: stack(model, "decoder", source="...").',
        )
    n_layers = len(model.blocks)
    end = NORMALISED_END if is_hooked_encoder(model) else "hook_resid_post"
    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(n_layers)]
    return [*names, f"blocks.{n_layers - 1}.{end}"]


def plain_attn_out_hook(model: Any) -> str:
    """Return the hook, in a block that normalises the stream, of the attention's own output.

    In a bridge `hook_attn_out` holds the stream after its norm.
    """
    return "hook_attn_out" if is_hooked_encoder(model) else "attn.o.hook_out"


def ids_of_text(model: Any, text: str) -> Any:
    """Return the ids of a text as the model tokenizes it; a model has a tokenizer here."""
    if is_hooked_encoder(model):  # its to_tokens returns token types and a mask beside the ids
        return tokenizer_of(model)(text)["input_ids"]
    return model.to_tokens(text, truncate=False)[0]
