"""Result of `faithfulness`: agreement of token points with the running model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tw_lens.arguments import checked
from tw_lens.canonical import HeadFaithfulness, LayerVocabulary
from tw_lens.errors import Caveat
from tw_lens.results.arguments import CIRCUITS
from tw_lens.results.base import Result, correlation_text, head_columns, plural
from tw_lens.studies.bootstrap import Estimate

OV_COLUMNS = ("explained_variance", "write_correlation", "write_explained_variance")


class Agreement(NamedTuple):
    """Agreement of predictions with the running model; axes sources, circuits (QK, OV), cells.

    `difference` is correlation less floor, resample by resample. `ceiling` estimates what any
    function of the tokens reaches: the square root of the agreement of two real states of one
    token; it is the same for all sources.
    """

    correlation: Estimate
    floor: Estimate
    difference: Estimate
    ceiling: Estimate

    def row(self, source: int, circuit: int, cell: int) -> dict[str, float]:
        """Return the columns of one cell."""
        at = (source, circuit, cell)
        return {
            "correlation": float(self.correlation.value[at]),
            "low": float(self.correlation.low[at]),
            "high": float(self.correlation.high[at]),
            "floor": float(self.floor.value[at]),
            "difference": float(self.difference.value[at]),
            "difference_low": float(self.difference.low[at]),
            "difference_high": float(self.difference.high[at]),
            "ceiling": float(self.ceiling.value[(0, *at[1:])]),
        }


@dataclass(frozen=True, repr=False, eq=False)
class Faithfulness(Result):
    """Agreement of token points with real scores and writes, per head, circuit and source.

    `heads` are (layer, head), the last axis of `of_heads`; `layers` that of `of_layers`, the means
    over a layer's heads. `explained` and `write_explained` are shares of the variance of the real
    `v_j W_O` and of the attention-weighted sum, `write` the cosine of the latter (axes: sources,
    heads). `n` counts the queries (QK) and positions (OV). `n_tokens` counts the tokens that have a
    point in each source; `n_seen` the prompts left out because a source was made from them.
    """

    model_name: str
    sources: tuple[str, ...]
    n_tokens: tuple[int, ...]
    heads: tuple[tuple[int, int], ...]
    layers: tuple[int, ...]
    of_heads: Agreement
    of_layers: Agreement
    explained: Float[Tensor, "sources heads"]
    write: Float[Tensor, "sources heads"]
    write_explained: Float[Tensor, "sources heads"]
    n: Int[Tensor, "circuits heads"]
    n_prompts: int
    n_seen: int
    caveats: tuple[Caveat, ...] = ()

    def headline(self) -> str:
        """Return the mean correlation over layers, per source and circuit."""
        value, floor = self.of_layers.correlation.value, self.of_layers.floor.value
        parts = [
            f"{source} {circuit} "
            + correlation_text(float(value[s, c].nanmean()), float(floor[s, c].nanmean()))
            for s, source in enumerate(self.sources)
            for c, circuit in enumerate(CIRCUITS)
        ]
        return (
            f"{self.model_name}, {self.n_prompts} held-out prompts, means over "
            f"{plural(len(self.heads), 'head')}: {', '.join(parts)}"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per head, circuit and source.

        Columns: layer, head, component, circuit, source, correlation, low, high (95 % interval over
        prompts), floor, difference (correlation less floor), difference_low, difference_high,
        ceiling, explained_variance, write_correlation, write_explained_variance (NaN for QK), n.
        """
        rows = []
        for h, (layer, head) in enumerate(self.heads):
            for c, circuit in enumerate(CIRCUITS):
                for s, source in enumerate(self.sources):
                    shares = [self.explained, self.write, self.write_explained]
                    ov = [float(share[s, h]) if circuit == "OV" else torch.nan for share in shares]
                    rows.append(
                        head_columns(layer, head, self.model_name)
                        | {"circuit": circuit, "source": source}
                        | self.of_heads.row(s, c, h)
                        | dict(zip(OV_COLUMNS, ov, strict=True))
                        | {"n": int(self.n[c, h])}
                    )
        return pd.DataFrame(rows)

    def by_layer(self) -> pd.DataFrame:
        """Return one row per layer, circuit and source: means over the layer's heads.

        Columns: layer, circuit, source, correlation, low, high, floor, difference, difference_low,
        difference_high, ceiling.
        """
        return pd.DataFrame(
            {"layer": layer, "circuit": circuit, "source": source} | self.of_layers.row(s, c, i)
            for i, layer in enumerate(self.layers)
            for c, circuit in enumerate(CIRCUITS)
            for s, source in enumerate(self.sources)
        )

    @checked
    def attach_to(self, vocabulary: LayerVocabulary) -> LayerVocabulary:
        """Return the vocabulary with its measured faithfulness, for the lists made with it.

        Raises:
            ValueError: the vocabulary is not exactly one of those that were measured.
        """
        measured = list(zip(self.sources, self.n_tokens, strict=True))
        if measured.count(key := (vocabulary.source, len(vocabulary))) != 1:
            raise ValueError(
                f"vocabulary must be one of those measured ({', '.join(self.sources)}), got "
                f"{vocabulary!r}."
            )
        s = measured.index(key)
        correlation = self.of_heads.correlation
        return replace(
            vocabulary,
            faithfulness=HeadFaithfulness(
                heads=torch.tensor(self.heads),
                value=correlation.value[s].float(),
                low=correlation.low[s].float(),
                high=correlation.high[s].float(),
                floor=self.of_heads.floor.value[s].float(),
                n_prompts=self.n_prompts,
            ),
        )
