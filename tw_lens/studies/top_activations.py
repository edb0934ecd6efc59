"""The highest places of a text that passes by once: peaks, no token over and over."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

PER_TOKEN = 2


class Activation(NamedTuple):
    """A position of a prompt with its value; of equal values the earlier place is the higher.

    `token` is the token it is compared by.
    """

    value: float
    minus_prompt: int
    minus_position: int
    token: int

    @property
    def at(self) -> tuple[int, int]:
        """The prompt's number and the position."""
        return -self.minus_prompt, -self.minus_position


def peaks(
    along: Float[Tensor, "position pairs"], *, reach: int, first_position: int
) -> Bool[Tensor, "position pairs"]:
    """Where a value above 0 is the highest within `reach` positions on either side."""
    along = along.clone()
    along[:first_position] = -torch.inf
    around = torch.nn.functional.max_pool1d(along.T, 2 * reach + 1, stride=1, padding=reach).T
    return (along == around) & (along > 0)


class TopActivations:
    """The k highest places of those offered, two of a token at most, behind different tokens.

    The outcome does not depend on the order in which the prompts pass by: who is too many leaves
    the smallest crowd that is full, and the crowds (the pair, the token, all) lie in one another.
    """

    def __init__(self, k: int) -> None:
        self.k, self.threshold = k, 0.0  # what is below the bar cannot enter
        self._held: dict[tuple[int, int], Activation] = {}

    def push(self, place: Activation, pair: tuple[int, int]) -> None:
        """Let a place with its (token before, token) in, if it is high enough."""
        same_token = [other for other in self._held if other[1] == pair[1]]
        crowds = (
            ([pair] if pair in self._held else [], 1),
            (same_token, PER_TOKEN),
            (list(self._held), self.k),
        )
        crowd = next((members for members, most in crowds if len(members) >= most), None)
        if crowd is not None:
            lowest = min(crowd, key=self._held.__getitem__)
            if self._held[lowest] >= place:
                return
            del self._held[lowest]
        self._held[pair] = place
        if len(self._held) == self.k:
            self.threshold = min(self._held.values()).value

    def places(self) -> list[Activation]:
        """What is held, highest first."""
        return sorted(self._held.values(), reverse=True)


def push_all(
    highest: list[TopActivations],
    along: Float[Tensor, "position pairs"],
    peak: Bool[Tensor, "position pairs"],
    tokens: Int[Tensor, " position"],
    labels: Int[Tensor, " position"],
    *,
    prompt: int,
) -> None:
    """Let the peaks of a prompt in, each into the list of its pair of directions."""
    bars = torch.tensor([kept.threshold for kept in highest])
    ids, label_ids = [-1, *tokens.tolist()], labels.tolist()
    for at, which in (peak & (along >= bars)).nonzero().tolist():
        place = Activation(float(along[at, which]), -prompt, -at, label_ids[at])
        highest[which].push(place, (ids[at], ids[at + 1]))
