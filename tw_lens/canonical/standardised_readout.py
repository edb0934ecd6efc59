"""Standardised readout: every token's logit over its deviation for the writes of one layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tw_lens.canonical.attention_heads import Block
from tw_lens.canonical.token_points import TokenPoints
from tw_lens.canonical.unembedding import Readout
from tw_lens.canonical.weights import Weights


@dataclass(frozen=True, eq=False)
class StandardisedReadout(Readout):
    """A readout whose columns are `(a_w - mean) / deviation_w`.

    Attributes:
        mean: the mean column of `W_U`.
        deviation: of every token.
    """

    mean: Float[Tensor, " d_model"] = field(default_factory=lambda: torch.zeros(1))
    deviation: Float[Tensor, " d_vocab"] = field(default_factory=lambda: torch.ones(1))

    def columns(self) -> Iterator[Float[Tensor, "words d_model"]]:
        """Yield the standardised columns, a chunk of tokens at a time."""
        start = 0
        for chunk in super().columns():
            yield (chunk - self.mean) / self.deviation[start : start + len(chunk), None]
            start += len(chunk)

    def direction(self, token_index: Int[Tensor, " words"]) -> Float[Tensor, "words d_model"]:
        """Return the standardised readout directions of some tokens, as rows."""
        deviation = self.deviation[token_index.clamp_max(len(self.deviation) - 1), None]
        return self._fold((self._columns_of(token_index) - self.mean) / deviation)


def standardise_readout(weights: Weights, block: Block, points: TokenPoints) -> Weights:
    """Return weights whose readout is standardised for what a layer writes.

    The deviation of token w is that of its logit, relative to the mean token's, over the writes
    `v W_O` of all heads of the layer, with `v` the values of the tokens' points: `sqrt(a_w C a_w)`
    with `C = sum_h A_O^T cov(v) A_O`. Constant parts (`a_U`) are divided likewise.

    Args:
        weights: from `read_weights`.
        block: the layer.
        points: of the layer's tokens.
    """
    readout = weights.token_readout
    factor = _factor_of_writes(block, points)
    total = torch.stack([chunk.sum(0) for chunk in readout.columns()]).sum(0)
    mean = total / readout.W_U.shape[1]
    written = readout.pull_back(factor.T)
    parts = [((chunk - mean) @ written.T).norm(dim=-1) for chunk in readout.columns()]
    deviation = torch.cat(parts)
    deviation = deviation.clamp_min(max(1e-6 * float(deviation.max()), 1e-30))  # heads of zeros
    shared = {f.name: getattr(readout, f.name) for f in fields(Readout)}
    shared["b_U"] = (readout.b_U - readout.b_U.mean()) / deviation
    return replace(weights, readout=StandardisedReadout(**shared, mean=mean, deviation=deviation))


def _factor_of_writes(block: Block, points: TokenPoints) -> Float[Tensor, "d_model columns"]:
    """Return F with `F F^T = sum_h A_O^T cov(v) A_O` over the tokens that have a point."""
    n, first, second, start = 0, 0.0, 0.0, 0
    shift: Tensor | None = None  # values less the first chunk's mean, so that little cancels
    for chunk in points.rows():
        if points.mask is not None:
            chunk = chunk[points.mask[start : (start := start + len(chunk))]]
        v = block.values_of_points(chunk)
        v = (v if block.v_norm is None else block.v_norm(v)).transpose(0, 1)
        if shift is None and len(chunk):
            shift = v.mean(1, keepdim=True)
        v = v if shift is None else v - shift
        n += len(chunk)
        first = first + v.sum(1).double()
        second = second + (v.mT @ v).double()
    average = torch.as_tensor(first) / n
    cov = torch.as_tensor(second) / n - torch.einsum("he,hf->hef", average, average)
    S, U = torch.linalg.eigh(cov)
    root = (U * S.clamp_min(0).sqrt()[:, None]).float()[block.kv_head]
    return torch.einsum("hed,hef->dhf", block.A_O, root).flatten(1)
