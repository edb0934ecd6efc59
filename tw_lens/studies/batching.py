"""Prompts put together by length, so that none is padded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

WINDOW = 512
POSITIONS_AT_ONCE = 1024


class Batch(NamedTuple):
    """Prompts of one length, with their places among all."""

    numbers: tuple[int, ...]
    tokens: Int[Tensor, "prompt position"]


def batches(
    rows: Iterable[tuple[int, Int[Tensor, " position"]]], batch_size: int
) -> Iterator[Batch]:
    """Batches of prompts of one length each, shortest first within windows of 512 prompts.

    A batch holds at most `batch_size` prompts, and no more than 1024 positions unless one prompt
    does: the logits of a large vocabulary are what takes memory.
    """
    rows = iter(rows)
    while window := list(islice(rows, WINDOW)):
        lengths: dict[int, list[tuple[int, Tensor]]] = {}
        for number, tokens in window:
            lengths.setdefault(tokens.numel(), []).append((number, tokens))
        for length, held in sorted(lengths.items()):
            size = max(1, min(batch_size, POSITIONS_AT_ONCE // length))
            for start in range(0, len(held), size):
                numbers, tokens = zip(*held[start : start + size], strict=True)
                yield Batch(numbers, torch.stack(tokens))
