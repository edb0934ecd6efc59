"""Prompts to token ids: one prompt, rejected if it does not fit; many, truncated or skipped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from tw_lens.reading.model_access import optional, tokenizer_of
from tw_lens.reading.model_parts import ids_of_text
from tw_lens.tokens import TokenStrings

Prompt = str | Sequence[str] | Sequence[int] | Tensor | Mapping[str, Any] | Any
"""A text or a list of one, the ids of one prompt, or a tokenizer's output for one text.

What is none of these (nested lists, arrays, caches) is looked at where it is tokenized or read.
"""
OTHER_USES = ("bos", "eos", "unk", "cls", "sep", "mask")  # of a token that pads too
EXPECTED = (
    "a prompt must be a text, the token ids of one prompt, e.g. [5, 6], or a tokenizer's output"
)


def tokenize_prompt(model: Any, prompt: Prompt) -> Int[Tensor, " position"]:
    """Return the ids of one prompt, as the model itself tokenizes it.

    Args:
        model: the model.
        prompt: a text or a list of one, token ids `[position]` or `[1, position]`, or a
            tokenizer's output for one text (its padding is removed by its mask; bare ids that begin
            or end in padding are rejected, see `_require_unpadded`).

    Raises:
        TypeError: none of these.
        ValueError: the prompt is empty, longer than the context, padded without a mask, several
            prompts at once, or text for a model without a tokenizer.
        IndexError: an id outside the vocabulary.
    """
    rows = _rows(prompt)
    if len(rows) != 1:
        raise ValueError(f"one prompt at a time, got a batch of {len(rows)}.")
    tokens = _ids(model, rows[0], masked=isinstance(prompt, Mapping))
    if tokens.numel() == 0:
        unit = "word" if isinstance(prompt, str) else "token id"
        raise ValueError(f"the prompt is empty; give at least one {unit}.")
    n_ctx = int(model.cfg.n_ctx)
    if tokens.numel() > n_ctx:
        raise ValueError(
            f"the prompt has {tokens.numel()} tokens and the model's context {n_ctx}; shorten it."
        )
    return tokens


def special_tokens_around(
    model: Any, tokens: TokenStrings
) -> tuple[Int[Tensor, " prefix"], Int[Tensor, " suffix"]]:
    """The ids that the model itself puts before and after a text.

    Found by tokenizing a token that stands for itself; both are empty without a tokenizer.
    """
    empty = torch.empty(0, dtype=torch.long)
    if tokens.tokenizer is None:
        return empty, empty
    no_text = tokens.without_text()
    for index in range(tokens.d_vocab):
        text = tokens.string(index)
        if no_text[index] or not text.strip() or tokens.single(text) != index:
            continue
        ids = tokenize_prompt(model, text)
        places = (ids == index).nonzero().flatten().tolist()
        if len(places) == 1:
            return ids[: places[0]], ids[places[0] + 1 :]
    return empty, empty


def tokenize_prompts(
    model: Any, prompts: Iterable[Prompt]
) -> Iterator[tuple[Int[Tensor, " position"], bool]]:
    """Yield the ids of each prompt, and whether they were truncated to the context.

    Every item is a text, the ids of one prompt, or a tokenizer's batch: a mapping with `input_ids`
    and `attention_mask`, padded on either side (the padding is removed). An empty prompt gives no
    ids; one longer than the context is truncated at its end.

    Raises:
        TypeError: the prompts are one text, or one batch.
        ValueError: an item is none of these; ids padded without a mask; a text for a model without
            a tokenizer.
        IndexError: an id outside the vocabulary.
    """
    if isinstance(prompts, str):
        raise TypeError("prompts must be a list of texts or another iterable, got one text.")
    if isinstance(prompts, Mapping):
        raise TypeError("prompts must be a list of batches, e.g. [batch]; got one batch.")
    if not isinstance(prompts, Iterable):
        raise TypeError(f"prompts must be a list of texts or of token ids, got {prompts!r}.")
    n_ctx = int(model.cfg.n_ctx)
    for prompt in prompts:
        for row in _rows(prompt):
            tokens = _ids(model, row, masked=isinstance(prompt, Mapping))
            yield tokens[:n_ctx], tokens.numel() > n_ctx


def _rows(prompt: Any) -> list[Any]:
    """Return one prompt unchanged, or the rows of a padded batch without their padding."""
    if isinstance(prompt, list | tuple) and prompt and all(isinstance(p, str) for p in prompt):
        if len(prompt) > 1:
            raise ValueError(f"one prompt at a time: a text or its token ids, got {prompt!r}.")
        return list(prompt)
    if not isinstance(prompt, Mapping):
        return [prompt]
    if not {"input_ids", "attention_mask"} <= set(prompt):
        raise ValueError(
            "input_ids and attention_mask are needed to tell tokens from padding, got a batch with "
            f"{', '.join(map(repr, prompt))}."
        )
    ids, mask = (_integers(prompt[name]) for name in ("input_ids", "attention_mask"))
    if ids.shape != mask.shape:
        raise ValueError(
            "input_ids and attention_mask must both have one number per token, got shapes "
            f"{tuple(ids.shape)} and {tuple(mask.shape)}."
        )
    ids, mask = (rows.reshape(-1, rows.shape[-1]) for rows in (ids, mask.bool()))
    return [row[is_token] for row, is_token in zip(ids, mask, strict=True)]


def _ids(model: Any, prompt: Any, *, masked: bool) -> Tensor:
    """Return the ids of one prompt, of any length; `masked`: a mask has removed its padding."""
    if isinstance(prompt, str):
        if not prompt.strip():
            return torch.empty(0, dtype=torch.long)
        if tokenizer_of(model) is None:
            raise ValueError("the model has no tokenizer; give the prompt as a list of token ids.")
        # Text may contain lone surrogates (raw bytes read as text), which no tokenizer accepts.
        text = prompt.encode("utf-8", "replace").decode("utf-8")
        tokens = torch.as_tensor(ids_of_text(model, text), dtype=torch.long)
    else:
        tokens = _integers(prompt)
        if tokens.ndim == 2 and tokens.shape[0] == 1:
            tokens = tokens[0]
        if tokens.ndim != 1:
            raise ValueError(
                f"one prompt at a time: token ids must have shape [position], got "
                f"{tuple(tokens.shape)}."
            )
    d_vocab = int(model.cfg.d_vocab)
    if tokens.numel() and (int(tokens.min()) < 0 or int(tokens.max()) >= d_vocab):
        raise IndexError(
            f"the prompt's token ids must be in the vocabulary; one is outside 0 to {d_vocab - 1}."
        )
    if not masked and not isinstance(prompt, str):
        ids = tokens.tolist()
        starts = optional(model, "side") == "decoder" and ids[:1] == [model.start_token]
        _require_unpadded(tokenizer_of(model), ids[1:] if starts else ids)
    return tokens.cpu()


def _require_unpadded(tokenizer: Any, ids: list[int]) -> None:
    """Reject ids that begin or end in padding, which a run without a mask reads as tokens.

    Padding is the tokenizer's pad token where that has no other use: one of them if its name says
    "pad", else two or more in a row (Qwen pads with `<|endoftext|>`, which may also end a text).
    """
    pad = optional(tokenizer, "pad_token_id")
    others = {optional(tokenizer, f"{name}_token_id") for name in OTHER_USES}
    if pad is None or pad in others:
        return
    fewest = 1 if "pad" in str(optional(tokenizer, "pad_token")).lower() else 2
    for row in (ids, ids[::-1]):
        if len(list(takewhile(lambda index: index == pad, row))) >= fewest:
            raise ValueError(
                f"the token ids begin or end in padding (id {pad}, {tokenizer.pad_token!r}), which "
                "would be read as tokens; leave it out, or give the tokenizer's output with its "
                "attention_mask (1 for every id, if padding is what you study)."
            )


def _integers(values: Any) -> Tensor:
    """Return a tensor, an array or nested lists of ints as a tensor of ids.

    Raises:
        TypeError: it is something else, such as floats (hidden states, logits) or None.
    """
    if isinstance(values, bytes | bytearray):
        raise TypeError(f"{EXPECTED}; got {type(values).__name__}.")
    try:
        ids = values if isinstance(values, Tensor) else torch.as_tensor(values, device="cpu")
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise TypeError(f"{EXPECTED}; got {_described(values)}.") from None
    if ids.numel() and (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool):
        raise TypeError(f"{EXPECTED}; got numbers of type {str(ids.dtype).removeprefix('torch.')}.")
    return ids.long()


def _described(value: Any) -> str:
    """Return the kind of a value, and of what it holds."""
    kind = type(value).__name__
    if isinstance(value, list | tuple) and value:
        kinds = ", ".join(dict.fromkeys(type(item).__name__ for item in value))
        return f"a {kind} of {kinds}"
    return kind
