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

PARTS_AROUND = ("embed", "pos_embed", "embed_ln", "ln_final", "rotary_emb")
QKV, SCORES = ("hook_q", "hook_k", "hook_v"), ("hook_attn_scores", "hook_pattern")
ROUNDED = 2e-2  # of a pattern's row in half precision, from a sum of 1


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
    return Stack(model, name, None if source is None else tokenize_prompt(model, source))


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
        own = optional(model, f"{side}_{name}")
        if own is not None or name == "ln_final":
            return own
        shared = optional(model, name)
        if name == "pos_embed" and optional(model.cfg, "positional_embedding_type") != "standard":
            return None  # T5's table of relative positions
        return shared

    def to_tokens(self, text: str, *, truncate: bool = False) -> Tensor:
        """Return the ids of a text: the source's, or the decoder's input for a target.

        The decoder reads a target shifted by one position, behind its start token.

        Raises:
            ValueError: the model names no start token.
        """
        if self.is_encoder:
            return self.whole_model.to_tokens(text, truncate=truncate)
        start = self.start_token
        ids = tokenizer_of(self.whole_model)(text_target=text)["input_ids"]
        return torch.tensor([[start, *ids[:-1]]])

    @property
    def start_token(self) -> int:
        """The token that the decoder starts with.

        Raises:
            ValueError: the model names none.
        """
        config = original_model(self.whole_model).config
        generation = optional(original_model(self.whole_model), "generation_config")
        for owner in (config, generation, optional(config, "decoder")):
            for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id"):
                if isinstance(found := optional(owner, name), int):
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
        elif self.source is None:
            raise ValueError(
                f"the decoder of {name_of(self.whole_model)} reads a source; give it: "
                f'stack(model, "{self.stack_name}", source="...").'
            )
        else:
            source, target = self.source.to(tokens.device).expand(len(tokens), -1), tokens
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
        if self.is_encoder or SOURCE_HOOK in shown:
            shown |= {
                name: self._of_source(name, value, source.shape[1])
                for name, value in shown.items()
                if self.is_encoder or name == SOURCE_HOOK
            }
        return logits, {
            name: value
            for name, value in shown.items()
            if not name.endswith(SCORES) or _has_pattern(shown, name, tokens.shape[1])
        }

    def _of_source(self, name: str, value: Tensor, n: int) -> Tensor:
        """Return a value at the source's own positions, behind the axis of prompts.

        LED pads its source to a multiple of its window, and has positions before prompts in
        queries, keys and values.
        """
        attention = original_module(self.whole_model.encoder_blocks[0].attn)
        if hasattr(attention, "longformer_self_attn") and name.endswith(QKV):
            value = value.transpose(0, 1)
        return value[:, :n] if value.shape[1] > n and not name.endswith(SCORES) else value


def _has_pattern(shown: dict[str, Tensor], name: str, n_queries: int) -> bool:
    """Return whether a block's hook of the pattern holds one, of queries by keys.

    What TransformerLens takes for the pattern may be the bias of relative positions (Switch) or a
    band of it (LED), and the hook of the scores holds the same then.
    """
    pattern = shown.get(name.rpartition(".")[0] + ".hook_pattern")
    if pattern is None:
        return True
    sums = pattern.float().sum(-1)
    return pattern.shape[-2] == n_queries and float((sums - 1).abs().max()) < ROUNDED
