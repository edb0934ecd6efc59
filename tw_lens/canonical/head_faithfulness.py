"""Faithfulness of a layer vocabulary's points, per head and circuit, as it is kept with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

CIRCUIT_ROWS = ("QK", "OV")


@dataclass(frozen=True, eq=False)
class HeadFaithfulness:
    """Agreement of a vocabulary's points with the heads of the running model, on held-out text.

    Attributes:
        heads: layer and head of every column.
        value: QK: correlation of predicted with real scores; OV: cosine of predicted with real
            writes (see `tw_lens.faithfulness`). Rows: QK, OV.
        low: lower end of the 95 % interval over prompts.
        high: upper end.
        floor: the same with the points of permuted tokens.
        n_prompts: held-out prompts measured.
    """

    heads: Int[Tensor, "heads 2"]
    value: Float[Tensor, "2 heads"]
    low: Float[Tensor, "2 heads"]
    high: Float[Tensor, "2 heads"]
    floor: Float[Tensor, "2 heads"]
    n_prompts: int

    def columns(self, layers: Sequence[int], head: int | None = None) -> Int[Tensor, " columns"]:
        """Return the columns of some layers, or of one head of them; empty where unmeasured."""
        chosen = torch.isin(self.heads[:, 0], torch.tensor(list(layers)))
        if head is not None:
            chosen &= self.heads[:, 1] == head
        return chosen.nonzero().flatten()

    def mean(
        self,
        field: Literal["value", "low", "high", "floor"],
        circuit: str,
        layers: Sequence[int],
        head: int | None = None,
    ) -> float:
        """Return a field of one head, or its mean over layers' heads; NaN where unmeasured."""
        row = getattr(self, field)[CIRCUIT_ROWS.index(circuit)]
        return float(row[self.columns(layers, head)].nanmean())
