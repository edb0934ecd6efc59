"""Batches of prompts of equal length, without padding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

WINDOW = 512
MAX_POSITIONS = 1024


class Batch(NamedTuple):
    """Prompts of one length, with their numbers among all prompts."""

    numbers: tuple[int, ...]
    tokens: Int[Tensor, "prompt position"]


def batches(
    prompts: Iterable[tuple[int, Int[Tensor, " position"]]], batch_size: int
) -> Iterator[Batch]:
    """Yield batches of prompts of one length each, shortest first within windows of 512 prompts.

    A batch holds at most `batch_size` prompts and at most 1024 positions, unless a single prompt is
    longer: the logits over a large vocabulary take most of the memory.
    """
    remaining = iter(prompts)
    while window := list(islice(remaining, WINDOW)):
        by_length: dict[int, list[tuple[int, Tensor]]] = {}
        for number, tokens in window:
            by_length.setdefault(tokens.numel(), []).append((number, tokens))
        for length, items in sorted(by_length.items()):
            size = max(1, min(batch_size, MAX_POSITIONS // length))
            for start in range(0, len(items), size):
                numbers, tokens = zip(*items[start : start + size], strict=True)
                yield Batch(numbers, torch.stack(tokens))
