"""Top activations: the k highest positions of many prompts in one pass, each token at most twice.

1. Candidates are local maxima above 0: positions with no larger value within `reach` positions.
2. A list has three limits: one entry per pair (token before, token), two per token, k in total.
3. A new candidate enters while no limit is reached. Otherwise it replaces the lowest entry of the
   narrowest limit that is reached, if it is higher; if it is not, it is dropped.
4. The limits are nested (pair in token in total) and entries are totally ordered, so the list does
   not depend on the order of the prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

MAX_PER_TOKEN = 2

TokenPair = tuple[int, int]


class Activation(NamedTuple):
    """A position of a prompt with its value; among equal values the earlier position is higher.

    `token` is the token whose rank is reported.
    """

    value: float
    minus_prompt: int
    minus_position: int
    token: int

    @property
    def location(self) -> tuple[int, int]:
        """The number of the prompt and the position."""
        return -self.minus_prompt, -self.minus_position


def local_maxima(
    projections: Float[Tensor, "position pairs"], *, reach: int, first_position: int
) -> Bool[Tensor, "position pairs"]:
    """Return where a value is above 0 and the highest within `reach` positions on either side."""
    values, reach = projections.clone(), min(reach, len(projections))
    values[:first_position] = -torch.inf
    highest = torch.nn.functional.max_pool1d(values.T, 2 * reach + 1, stride=1, padding=reach).T
    return (values == highest) & (values > 0)


class TopActivations:
    """The k highest activations pushed: one per (token before, token), two per token at most."""

    def __init__(self, k: int) -> None:
        self.k, self.threshold = k, 0.0  # no activation below the threshold can enter
        self._entries: dict[TokenPair, Activation] = {}

    def push(self, activation: Activation, pair: TokenPair) -> None:
        """Add an activation with its (token before, token) if it is high enough."""
        same_token = [other for other in self._entries if other[1] == pair[1]]
        limits = (
            ([pair] if pair in self._entries else [], 1),
            (same_token, MAX_PER_TOKEN),
            (list(self._entries), self.k),
        )
        full = next((members for members, limit in limits if len(members) >= limit), None)
        if full is not None:
            lowest = min(full, key=self._entries.__getitem__)
            if self._entries[lowest] >= activation:
                return
            del self._entries[lowest]
        self._entries[pair] = activation
        if len(self._entries) == self.k:
            self.threshold = min(self._entries.values()).value

    def activations(self) -> list[Activation]:
        """Return the activations, highest first."""
        return sorted(self._entries.values(), reverse=True)

    def entries(self) -> list[tuple[Activation, TokenPair]]:
        """Return the activations with their (token before, token), in no particular order."""
        return [(activation, pair) for pair, activation in self._entries.items()]


def push_local_maxima(
    top: Sequence[TopActivations],
    projections: Float[Tensor, "position pairs"],
    maxima: Bool[Tensor, "position pairs"],
    tokens: Int[Tensor, " position"],
    labels: Int[Tensor, " position"],
    *,
    prompt: int,
) -> None:
    """Push the local maxima of a prompt, each into the list of its pair of directions."""
    thresholds = torch.tensor([one.threshold for one in top])
    ids, label_ids = [-1, *tokens.tolist()], labels.tolist()
    for position, pair in (maxima & (projections >= thresholds)).nonzero().tolist():
        value = float(projections[position, pair])
        activation = Activation(value, -prompt, -position, label_ids[position])
        top[pair].push(activation, (ids[position], ids[position + 1]))


def to_tensors(lists: Sequence[TopActivations]) -> dict[str, Tensor]:
    """Return all entries of several lists as two tensors, for a checkpoint.

    `values` holds the values (float64), `entries` one row per value: index of the list, minus
    prompt, minus position, token, token before, token at the position.
    """
    items = [(i, *entry) for i, one in enumerate(lists) for entry in one.entries()]
    rows = [[i, *activation[1:], *pair] for i, activation, pair in items]
    return {
        "values": torch.tensor([activation.value for _, activation, _ in items]).double(),
        "entries": torch.tensor(rows, dtype=torch.int64).reshape(len(rows), 6),
    }


def from_tensors(tensors: dict[str, Tensor], lists: Sequence[TopActivations]) -> None:
    """Fill empty lists with the entries of `to_tensors`."""
    rows = zip(tensors["values"].tolist(), tensors["entries"].tolist(), strict=True)
    for value, (i, minus_prompt, minus_position, token, before, here) in rows:
        lists[i].push(Activation(value, minus_prompt, minus_position, token), (before, here))
