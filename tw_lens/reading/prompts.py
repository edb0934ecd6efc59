"""Prompts to token ids: one, with a refusal where it does not fit; many, cut or left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from tw_lens.tokens import TokenStrings

Prompt = str | Sequence[int] | Tensor
"""A text, or the ids of one prompt."""


def tokenize_prompt(model: Any, prompt: Prompt) -> Int[Tensor, " position"]:
    """The ids that the model itself makes of a prompt.

    Raises:
        ValueError: the prompt is empty, longer than the context, several prompts at once, or text
            for a model without a tokenizer.
        IndexError: an id outside the vocabulary.
    """
    tokens = _ids(model, prompt)
    if tokens.numel() == 0:
        what = "word" if isinstance(prompt, str) else "token id"
        raise ValueError(f"the prompt is empty: give at least one {what}.")
    n_ctx = int(model.cfg.n_ctx)
    if tokens.numel() > n_ctx:
        raise ValueError(
            f"the prompt has {tokens.numel()} tokens and the model's context {n_ctx}: shorten it."
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
    model: Any, prompts: Iterable[Prompt | Mapping[str, Any]]
) -> Iterator[tuple[Int[Tensor, " position"], bool]]:
    """The ids of many prompts, one after the other, and whether the context cut each.

    Every item is a text, the ids of one prompt, or what a tokenizer makes of several: a mapping
    with `input_ids` and `attention_mask`, padded on either side (the padding is taken off). An
    empty prompt gives no ids; one beyond the context is cut at its end.

    Raises:
        TypeError: the prompts are one text, or one batch.
        ValueError: an item is none of these; a text for a model without a tokenizer.
        IndexError: an id outside the vocabulary.
    """
    if isinstance(prompts, str):
        raise TypeError("the prompts are one text: give a list of texts, or another iterable.")
    if isinstance(prompts, Mapping):
        raise TypeError("the prompts are one batch: give a list of batches, such as [batch].")
    if not isinstance(prompts, Iterable):
        raise TypeError(f"prompts={prompts!r} is no list: give a list of texts, or of token ids.")
    n_ctx = int(model.cfg.n_ctx)
    for prompt in prompts:
        for row in _rows(prompt):
            tokens = _ids(model, row)
            yield tokens[:n_ctx], tokens.numel() > n_ctx


def _rows(prompt: Prompt | Mapping[str, Any]) -> list[Prompt]:
    """One prompt as it is; the rows of a padded batch without their padding."""
    if not isinstance(prompt, Mapping):
        return [prompt]
    if not {"input_ids", "attention_mask"} <= set(prompt):
        raise ValueError(
            f"a batch holds {', '.join(map(repr, prompt))}: input_ids and attention_mask are "
            "needed, to tell tokens from padding."
        )
    ids, mask = (torch.as_tensor(prompt[name]) for name in ("input_ids", "attention_mask"))
    if ids.shape != mask.shape:
        raise ValueError(
            f"input_ids are of shape {tuple(ids.shape)} and attention_mask of {tuple(mask.shape)}: "
            "both need one number per token."
        )
    ids, mask = (rows.reshape(-1, rows.shape[-1]) for rows in (ids, mask.bool()))
    return [row[kept] for row, kept in zip(ids, mask, strict=True)]


def _ids(model: Any, prompt: Prompt) -> Tensor:
    """The ids of one prompt, of any length."""
    if isinstance(prompt, str):
        if not prompt.strip():
            return torch.empty(0, dtype=torch.long)
        if getattr(model, "tokenizer", None) is None:
            raise ValueError("the model has no tokenizer: give the prompt as a list of token ids.")
        # One text may hold lone surrogates (raw bytes read as text): no tokenizer takes those.
        text = prompt.encode("utf-8", "replace").decode("utf-8")
        tokens = model.to_tokens(text, truncate=False)[0]
    else:
        tokens = torch.as_tensor(prompt, dtype=torch.long)
        if tokens.ndim == 2 and tokens.shape[0] == 1:
            tokens = tokens[0]
        if tokens.ndim != 1:
            raise ValueError(
                f"one prompt at a time: token ids of shape {tuple(tokens.shape)} were given, "
                "[position] fits."
            )
    d_vocab = int(model.cfg.d_vocab)
    if tokens.numel() and (int(tokens.min()) < 0 or int(tokens.max()) >= d_vocab):
        raise IndexError(f"a token id of the prompt is outside 0 to {d_vocab - 1}.")
    return tokens.cpu()
