"""Agreement of one prompt's predicted scores, values and writes with the real ones, per head.

`x` are the real states, `y` the points put in their place. Positions that are not usable (before
the first position, or with a token that has no point) are neither queries nor keys.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tw_lens.canonical import Block
from tw_lens.studies.token_rows import TokenRows

MIN_KEYS = 4
QUANTITIES = (
    "score", "value", "value_error", "value_size", "write", "write_error", "write_size",
)  # fmt: skip
"""`score`: correlation over keys. `value`: cosine of `v_j W_O`; `write`: cosine of the
attention-weighted sum of values. `_error`, `_size`: squared lengths of real minus predicted, and of
the real one; their means give the explained variance."""


class PromptHeads:
    """Scores, pattern and values of one layer's heads on one prompt, to compare predictions with.

    Values and writes are compared after `W_O` through `W_O W_O^T`, in the width of a head.
    """

    def __init__(
        self,
        block: Block,
        x: Float[Tensor, "position d_model"],
        usable: Bool[Tensor, " position"],
    ) -> None:
        self.block, self.usable = block, usable
        self.pairs = block.attention_scores.mask(len(x)) & usable[:, None] & usable[None, :]
        self.real_scores = block.scores(block.queries(x), block.keys(x))
        self.pattern = block.attention_scores.pattern(self.real_scores) * usable
        self.gram = block.A_O @ block.A_O.mT
        self.real_values = _per_head(block, block.values(x))
        self.real_writes = _centred(self.pattern @ self.real_values, usable)

    def agreement(
        self,
        y: Float[Tensor, "position d_model"],
        usable: Bool[Tensor, " position"] | None = None,
    ) -> Float[Tensor, "quantities heads position"]:
        """Return the quantities of `QUANTITIES` for points in the place of the states.

        Args:
            y: a point per position.
            usable: fewer usable positions than the prompt's own; NaN elsewhere.
        """
        block, pairs = self.block, self.pairs
        usable = self.usable if usable is None else self.usable & usable
        pairs = pairs & usable[:, None] & usable[None, :]
        scores = block.scores(block.queries_of_points(y), block.keys_of_points(y))
        predicted = _per_head(block, block.values_of_points(y))
        values = _centred(predicted, usable), _centred(self.real_values, usable)
        writes = _centred(self.pattern @ predicted, usable), self.real_writes
        rows = torch.stack(
            [
                row_correlation(scores, self.real_scores, pairs),
                *self._compare(*values),
                *self._compare(*writes),
            ]
        )
        rows[1:, :, ~usable] = torch.nan
        return rows

    def _compare(
        self,
        predicted: Float[Tensor, "heads position d_value"],
        real: Float[Tensor, "heads position d_value"],
    ) -> list[Float[Tensor, "heads position"]]:
        """Return cosine, squared error and squared length of `real`, all after `W_O`."""
        real_after, difference = real @ self.gram, real - predicted
        inner, size = (real_after * predicted).sum(-1), (real_after * real).sum(-1)
        predicted_size = ((predicted @ self.gram) * predicted).sum(-1)
        error = ((difference @ self.gram) * difference).sum(-1)
        lengths = (size * predicted_size).clamp_min(0).sqrt()
        return [torch.where(lengths > 0, inner / lengths, torch.nan), error, size]


class EarlierStates:
    """One real state per token and layer, of the last earlier prompt that the token stands in.

    The states of two prompts share the token and nothing else: their agreement shows how much of
    what a head does any function of the token can predict.
    """

    def __init__(self, d_vocab: int, d_model: int, n_layers: int) -> None:
        self._rows = TokenRows(d_vocab, d_model, n_layers)

    def known(self, tokens: Int[Tensor, " position"]) -> Bool[Tensor, " position"]:
        """Return whether each token stands in an earlier prompt."""
        return self._rows.row[tokens] >= 0

    def of_layer(
        self, layer: int, tokens: Int[Tensor, " position"]
    ) -> Float[Tensor, "position d_model"]:
        """Return the states of some tokens at the layer with this index; any row where unknown."""
        states = self._rows.values[layer]
        if not len(states):
            return states.new_zeros(len(tokens), states.shape[1])
        return states[self._rows.row[tokens].clamp_min(0)]

    def add(
        self,
        tokens: Int[Tensor, " position"],
        y: Float[Tensor, "layers position d_model"],
    ) -> None:
        """Keep the states of a prompt; a later position replaces an earlier one."""
        self._rows.add_tokens(tokens)
        last = {int(token): position for position, token in enumerate(tokens)}
        rows = self._rows.row[list(last)]
        self._rows.values[:, rows] = y[:, list(last.values())]


def row_correlation(
    a: Float[Tensor, "heads query key"],
    b: Float[Tensor, "heads query key"],
    pairs: Bool[Tensor, "query key"],
) -> Float[Tensor, "heads query"]:
    """Return the correlation of two rows over the keys of a mask; NaN with fewer than four."""
    n = pairs.sum(-1, keepdim=True)
    a, b = (t.double().masked_fill(~pairs, 0.0) for t in (a, b))
    a, b = (((t - t.sum(-1, keepdim=True) / n) * pairs) for t in (a, b))
    r = (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))
    return r.masked_fill(n[:, 0] < MIN_KEYS, torch.nan).float()


def _centred(
    v: Float[Tensor, "heads position d_value"], usable: Bool[Tensor, " position"]
) -> Float[Tensor, "heads position d_value"]:
    """Return vectors less their mean over the usable positions; NaN with fewer than four."""
    if int(usable.sum()) < MIN_KEYS:
        return torch.full_like(v, torch.nan)
    return v - v[:, usable].mean(1, keepdim=True)


def _per_head(
    block: Block, v: Float[Tensor, "position n_kv_heads d_value"]
) -> Float[Tensor, "n_heads position d_value"]:
    v = v if block.v_norm is None else block.v_norm(v)
    return v[:, block.kv_head].transpose(0, 1)
