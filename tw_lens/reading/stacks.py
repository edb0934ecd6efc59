"""One stack of an encoder-decoder, shown as a model of one stack of blocks.

`stack(model, "encoder")`, `"decoder"` and `"cross"` have the parts, settings and hooks of a model
with one stack, under the names that every such model has: `blocks.3.attn.hook_q` is the encoder's,
the decoder's or the cross-attention's. Every call that takes a model takes them. Nothing is copied:
they show the model's own modules, and run the whole model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from tw_lens.argument_kinds import require_choice
from tw_lens.arguments import checked
from tw_lens.reading.model_access import (
    name_of,
    optional,
    original_model,
    original_module,
    require_model,
    tokenizer_of,
    unsupported,
)
from tw_lens.reading.prompts import Prompt, tokenize_prompt
from tw_lens.reading.stack_names import (
    NOT_IN_CROSS,
    PARTS,
    SOURCE_HOOK,
    STACKS,
    StackName,
    shown_names,
    side_of,
)
from tw_lens.reading.stack_parts import StackBlock, StackOriginal
from tw_lens.reading.stack_values import SCORES, has_pattern, of_source

PARTS_AROUND = ("embed", "pos_embed", "embed_ln", "ln_final", "rotary_emb")


def is_encoder_decoder(model: Any) -> bool:
    """Return whether a model has an encoder and a decoder, and no single stack."""
    return (
        optional(model, "blocks") is None
        and optional(model, "encoder_blocks") is not None
        and optional(model, "decoder_blocks") is not None
    )


@checked
def stack(model: Any, name: StackName, *, source: Prompt | None = None) -> Stack:
    """Show one stack of an encoder-decoder as a model of one stack of blocks.

    Every call that takes a model takes the result: `read_weights(stack(model, "encoder"))`,
    `read_states(stack(model, "decoder", source="..."), target)`.

    Args:
        model: a `TransformerBridge` of an encoder-decoder (T5, BART, Marian, ...).
        name: "encoder": its self-attention; "decoder": the decoder's self-attention; "cross": the
            decoder's cross-attention, whose keys and values read the encoder's final state.
        source: what the encoder reads, a text or token ids. To run the decoder it is needed; to
            read weights it is not.

    Raises:
        TypeError: what is no TransformerLens model.
        UnsupportedModelError: the model has no encoder and decoder.
        ValueError: another name, or a source beside the encoder, whose prompts are the source.

    Example:
        >>> stack(encoder_decoder, "decoder").cfg.n_layers
        2
    """
    require_model(model)
    require_choice("name", name, STACKS)
    if not is_encoder_decoder(model):
        raise unsupported(model, "it has no encoder and decoder", "Give the model itself.")
    if optional(model.decoder_blocks[0], "cross_attn") is None:
        raise unsupported(model, "its decoder attends to itself and to the encoder in one softmax")
    if name == "encoder" and source is not None:
        raise ValueError('the prompts of stack(model, "encoder") are the source; leave source out.')
    encoder = Stack(model, "encoder", None)
    return Stack(model, name, None if source is None else tokenize_prompt(encoder, source).clone())


class Stack:
    """One stack of an encoder-decoder (see `stack`).

    Attributes:
        whole_model: the encoder-decoder.
        stack_name: "encoder", "decoder" or "cross".
        source: the ids that the encoder reads when the decoder runs; None without any.
    """

    def __init__(self, model: Any, name: StackName, source: Tensor | None) -> None:
        self.whole_model = model
        self.stack_name: StackName = name
        self.source = source

    def __repr__(self) -> str:
        source = "" if self.source is None else f", source of {len(self.source)} tokens"
        return f'stack({name_of(self.whole_model)}, "{self.stack_name}"{source})'

    def __getattr__(self, name: str) -> Any:
        """Return the stack's own part of a name, else the whole model's."""
        model = self.__dict__.get("whole_model")
        if model is None:  # a copy that is being made
            raise AttributeError(name)
        if name == "blocks":
            return self.stack_blocks
        if name in PARTS_AROUND:
            return self._around(name)
        if name == "unembed" and self.is_encoder:
            raise AttributeError(name)
        return getattr(model, name)

    @property
    def encoder(self) -> Stack:
        """The encoder of the same model."""
        return Stack(self.whole_model, "encoder", None)

    @property
    def decoder(self) -> Stack:
        """The decoder of the same model."""
        return Stack(self.whole_model, "decoder", self.source)

    @property
    def cross(self) -> Stack:
        """The cross-attention of the same model."""
        return Stack(self.whole_model, "cross", self.source)

    @property
    def is_encoder(self) -> bool:
        """Whether this is the encoder."""
        return self.stack_name == "encoder"

    @property
    def side(self) -> str:
        """The side that the blocks are on, "encoder" or "decoder"."""
        return side_of(self.stack_name)

    @property
    def cfg(self) -> Any:
        """The model's settings, with those of this stack."""
        cfg = copy.copy(self.whole_model.cfg)
        cfg.n_layers = len(self.stack_blocks)
        cfg.attention_dir = "causal" if self.stack_name == "decoder" else "bidirectional"
        cfg.model_name = f"{name_of(self.whole_model)} ({self.stack_name})"
        cfg.d_vocab, cfg.d_model = self._around("embed").W_E.shape
        positions = self._around("pos_embed")
        if positions is not None:
            cfg.n_ctx = min(cfg.n_ctx, len(positions.W_pos))
        return cfg

    @property
    def original_model(self) -> Any:
        """The original model, with the settings of this stack's side where it has its own."""
        return StackOriginal(original_model(self.whole_model), self.side)

    @cached_property
    def stack_blocks(self) -> list[StackBlock]:
        """The blocks, under the names of a model with one stack."""
        without = NOT_IN_CROSS if self.stack_name == "cross" else ()
        blocks = getattr(self.whole_model, f"{self.side}_blocks")
        return [StackBlock(block, PARTS[self.stack_name], without) for block in blocks]

    @property
    def normalises_stream(self) -> bool:
        """Whether the norms act on the residual stream itself: no norm follows the last block."""
        return self._around("ln_final") is None

    def _around(self, name: str) -> Any:
        """Return a part around the blocks, None where the stack has none."""
        model, side = self.whole_model, self.side
        if name == "pos_embed" and optional(model.cfg, "positional_embedding_type") != "standard":
            return None  # T5's table of relative positions
        own = optional(model, f"{side}_{name}")
        return own if own is not None or name == "ln_final" else optional(model, name)

    def to_tokens(self, text: str, *, truncate: bool = False) -> Tensor:
        """Return the ids of a text: the source's, or the decoder's input for a target.

        The decoder reads a target shifted by one position, behind its start token.

        Raises:
            ValueError: the model names no start token.
        """
        if self.is_encoder:
            return self.whole_model.to_tokens(text, truncate=truncate)
        tokenizer = tokenizer_of(self.whole_model)
        ids = list(tokenizer(text_target=text)["input_ids"])
        if ids[-1:] == [optional(tokenizer, "eos_token_id")]:
            ids = ids[:-1]
        start = self.start_token
        return torch.tensor([ids if ids[:1] == [start] else [start, *ids]])

    @property
    def start_token(self) -> int:
        """The token that the decoder starts with.

        Raises:
            ValueError: the model names none.
        """
        original = original_model(self.whole_model)
        config, of_decoder = original.config, optional(original.config, "decoder")
        named = [
            optional(owner, "decoder_start_token_id")
            for owner in (config, optional(original, "generation_config"), of_decoder)
        ]
        named.append(optional(of_decoder, "bos_token_id"))  # T5Gemma
        if hasattr(original, "model_dim"):  # T5
            named.append(optional(config, "pad_token_id"))
        for found in named:
            if isinstance(found, int):
                return found
        raise ValueError(
            f"{name_of(self.whole_model)} names no token that its decoder starts with; give the "
            "target as token ids that begin with it."
        )

    def run_with_cache(
        self, tokens: Tensor, names_filter: Callable[[str], bool]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Run the whole model; return its logits and the values at this stack's hooks.

        The encoder's tokens are the source; beside it the decoder reads one token, which changes
        nothing in the encoder, and the logits are zeros: it predicts no token. The decoder's are
        the target, beside the stack's source.

        Raises:
            ValueError: the decoder has no source.
        """
        if self.is_encoder:
            source, target = tokens, torch.zeros_like(tokens[:, :1])
            self._require_no_padding(source)
        elif self.source is None:
            raise ValueError(
                f"the decoder of {name_of(self.whole_model)} reads a source; give it: "
                f'stack(model, "{self.stack_name}", source="...").'
            )
        else:
            source, target = self.source.to(tokens.device).expand(len(tokens), -1), tokens
            self._require_no_padding(source, target)
        shown_as = partial(
            shown_names,
            stack=self.stack_name,
            n_source_layers=len(self.whole_model.encoder_blocks),
            post_norm=self.normalises_stream,
        )
        logits, cache = self.whole_model.run_with_cache(
            source,
            decoder_input=target,
            names_filter=lambda name: any(map(names_filter, shown_as(name))),
        )
        shown = {
            name: cache[real] for real in cache for name in shown_as(real) if names_filter(name)
        }
        if self.is_encoder:
            logits = logits.new_zeros(*tokens.shape, 1)
        attention = original_module(self.whole_model.encoder_blocks[0].attn)
        if self.is_encoder or SOURCE_HOOK in shown:
            shown |= {
                name: of_source(attention, name, value, source.shape[1])
                for name, value in shown.items()
                if self.is_encoder or name == SOURCE_HOOK
            }
        return logits, {
            name: value
            for name, value in shown.items()
            if not name.endswith(SCORES) or has_pattern(shown, name, tokens.shape[1])
        }

    def _require_no_padding(self, *prompts: Tensor) -> None:
        """Reject padding inside prompts of a model that masks or skips it by its id.

        Raises:
            ValueError: a prompt holds the model's padding token.
        """
        positions = original_module(self._around("pos_embed"))
        skips = hasattr(positions, "create_position_ids_from_input_ids")  # M2M100
        masks = hasattr(original_model(self.whole_model).config, "encoder")  # T5Gemma
        pad = optional(self.original_model.config, "pad_token_id")
        if not (skips or masks) or not isinstance(pad, int):
            return
        if any(pad in ids for ids in prompts):
            raise ValueError(
                f"a prompt holds token {pad}, which {name_of(self.whole_model)} takes for padding "
                "wherever it stands; leave it out."
            )
