"""One row per layer for every token that has occurred; memory grows with these tokens."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


class TokenRows:
    """A table of rows, zero at first, and the row of every token (-1: none).

    Attributes:
        row: the row of every token of the vocabulary.
        n_rows: number of tokens with a row.
    """

    def __init__(self, d_vocab: int, d_model: int, n_layers: int) -> None:
        self.row = torch.full((d_vocab,), -1)
        self.n_rows = 0
        self._table = torch.zeros(n_layers, 0, d_model)

    @property
    def values(self) -> Float[Tensor, "layers rows d_model"]:
        """The rows in use, not copied."""
        return self._table[:, : self.n_rows]

    def add_tokens(self, tokens: Int[Tensor, " tokens"]) -> None:
        """Give every token among these a row; the table doubles when it is full."""
        new = tokens.unique()
        new = new[self.row[new] < 0]
        self.row[new] = torch.arange(self.n_rows, self.n_rows + len(new))
        self.n_rows += len(new)
        if self.n_rows > self._table.shape[1]:
            more = max(self.n_rows, 2 * self._table.shape[1]) - self._table.shape[1]
            blank = self._table.new_zeros(len(self._table), more, self._table.shape[2])
            self._table = torch.cat([self._table, blank], dim=1)

    def restore(
        self, row: Int[Tensor, " d_vocab"], values: Float[Tensor, "layers rows d_model"]
    ) -> None:
        """Continue from saved rows."""
        self.row, self._table, self.n_rows = row.clone(), values.clone(), values.shape[1]
