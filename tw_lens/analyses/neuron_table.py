"""Neuron table: what every neuron of an MLP reads and writes, as tokens with their nulls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses.conventions import EXACT
from tw_lens.analyses.neuron_points import neuron_caveats, neuron_label, require_neurons
from tw_lens.analyses.null_directions import ReadoutKind, compare_with_null
from tw_lens.analyses.token_filter import (
    TokenFilter,
    allowed_mask,
    filter_caveat,
    filter_summary,
)
from tw_lens.arguments import checked
from tw_lens.canonical import (
    MLP,
    LayerVocabulary,
    Points,
    TokenPoints,
    Weights,
    combined_mask,
    token_points,
    weights_of_points,
)
from tw_lens.errors import Caveat
from tw_lens.geometry import (
    Moments,
    TopTokens,
    concat,
    select,
    top_tokens,
    top_tokens_both_signs,
)
from tw_lens.results.base import Result
from tw_lens.results.token_lists import TokenLists, make_token_lists, significance_summary
from tw_lens.results.token_source import TokenSource, token_source
from tw_lens.tokens import visible

AT_ONCE = 1024  # neurons read at a time, to bound the memory of their scores of all tokens


@dataclass(frozen=True, repr=False, eq=False)
class NeuronTable(Result):
    """What neurons read and write: norms, cosines, the shape of the written logits, token lists.

    `gate` (None without gates) and `reads` list the tokens whose points give the largest inputs,
    `writes` those whose logits one unit of activation raises most. Of a gated neuron the signs of
    `reads` and `writes` are chosen together (`sign`), by the rule of singular directions. `moments`
    are the standard deviation, the skewness and the excess kurtosis of the written logits.
    """

    model_name: str
    layer: int
    neurons: tuple[int, ...]
    experts: tuple[str, ...] | None
    norm_gate: Float[Tensor, " neurons"] | None
    norm_in: Float[Tensor, " neurons"]
    norm_out: Float[Tensor, " neurons"]
    cosine_gate_out: Float[Tensor, " neurons"] | None
    cosine_in_out: Float[Tensor, " neurons"]
    moments: Float[Tensor, "3 neurons"]
    sign: Float[Tensor, " neurons"]
    gate: TokenLists | None
    reads: TokenLists
    writes: TokenLists
    token_filter: TokenFilter | None = None
    token_source: TokenSource = field(default_factory=TokenSource)
    caveats: tuple[Caveat, ...] = ()

    @property
    def components(self) -> tuple[str, ...]:
        """The label of each neuron: "L5N123"."""
        return tuple(neuron_label(self.layer, neuron, self.model_name) for neuron in self.neurons)

    @property
    def sides(self) -> dict[str, TokenLists]:
        """The token lists by side: "gate" where there is one, "in" and "out"."""
        gate = {} if self.gate is None else {"gate": self.gate}
        return gate | {"in": self.reads, "out": self.writes}

    def headline(self) -> str:
        """Return the number of neurons, the most peaked one, and the lists above their null."""
        kind = "gated " if self.gate is not None else ""
        best = int(self.moments[2].nan_to_num(-torch.inf).argmax())
        tokens = " ".join(map(visible, self.writes.token_string[best]))
        return (
            f"{self.model_name} layer {self.layer}: {len(self.neurons)} {kind}neurons; the most "
            f"peaked is {self.components[best]} (excess kurtosis "
            f"{float(self.moments[2, best]):.1f}), which writes {tokens}"
            f"{filter_summary(self.token_filter)}{significance_summary(*self.sides.values())}"
            f"{self.token_source.summary([self.layer], [])}"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per neuron.

        Columns: layer, neuron, component, expert (mixtures only), norm_gate, cosine_gate_out
        (gated only), norm_in, norm_out, cosine_in_out, std, skewness, kurtosis (of the written
        logits), and for each side ("gate" where gated, "in", "out") its tokens (best first,
        separated by a space), coherence and exceeds_null (see `NullComparison`).
        """
        columns: dict[str, list] = {
            "layer": [self.layer] * len(self.neurons),
            "neuron": list(self.neurons),
            "component": list(self.components),
        }
        if self.experts is not None:
            columns["expert"] = list(self.experts)
        if self.norm_gate is not None and self.cosine_gate_out is not None:
            columns["norm_gate"] = self.norm_gate.tolist()
            columns["cosine_gate_out"] = self.cosine_gate_out.tolist()
        columns["norm_in"] = self.norm_in.tolist()
        columns["norm_out"] = self.norm_out.tolist()
        columns["cosine_in_out"] = self.cosine_in_out.tolist()
        for name, values in zip(("std", "skewness", "kurtosis"), self.moments, strict=True):
            columns[name] = values.tolist()
        for side, lists in self.sides.items():
            strings = lists.token_string
            columns[f"{side}_tokens"] = [" ".join(map(visible, row)) for row in strings]
            null = [lists.null_columns(i) for i in range(len(strings))]
            for name in ("coherence", "exceeds_null"):
                columns[f"{side}_{name}"] = [row[name] for row in null]
        return pd.DataFrame(columns)


@checked
def neuron_table(
    weights: Weights,
    *,
    layer: int,
    neurons: Sequence[int] | None = None,
    k: int = 5,
    token_filter: TokenFilter | None = None,
    vocabulary: LayerVocabulary | None = None,
    points: Points | None = None,
) -> NeuronTable:
    """Read every neuron of an MLP on both sides: which tokens drive it, and which it promotes.

    Neuron n of `m = f(y A_in + a_in) W_out` reads tokens by `y_w A_in[n] + a_in[n]`, with `y_w`
    their points, and writes logits `A_out[n] A_U`, relative to the mean token. A gated neuron,
    `f(y A_gate + a_gate) (y A_in + a_in)`, has a third side; it does not change if the signs of
    `A_in[n]` and `A_out[n]` change together, so these two are signed as singular directions are
    (not in GPT-OSS, which adds a constant beside the gate).

    Args:
        weights: from `read_weights`.
        layer: index of the block.
        neurons: indices of neurons; all by default.
        k: tokens per list.
        token_filter: the tokens that may be listed, from `token_filter`; all by default.
        vocabulary: points of the tokens at this layer, from `layer_vocabulary`; their embeddings
            by default.
        points: named vectors to read in the place of tokens, from `Points` or `position_points`.

    Raises:
        IndexError: the layer or a neuron does not exist.
        UnsupportedModelError: the layer has no MLP of the canonical form.
        ValueError: no neuron, or a vocabulary of another model.

    Example:
        >>> neuron_table(weights, layer=1, neurons=[3, 5]).components
        ('L1N3', 'L1N5')

    Source: Geva et al. 2022 (arXiv 2203.14680) for written tokens; Gurnee et al. 2024 (arXiv
    2401.12181) for moments and cosines; here with norms folded and nulls.
    """
    weights = weights_of_points(weights, points, vocabulary)
    mlp = weights.mlp(layer)
    chosen = require_neurons(neurons, mlp)
    keep = allowed_mask(weights, token_filter, "exact")
    met = token_points(weights, layer, mlp.norm, vocabulary)
    parts = [
        _read(weights, mlp, met, _index(chosen[i : i + AT_ONCE]), k, keep)
        for i in range(0, len(chosen), AT_ONCE)
    ]
    sign, moments = torch.cat([p.sign for p in parts]), torch.cat([p.moments for p in parts], 1)
    source = token_source(vocabulary, points)

    def lists(top: list[TopTokens], kind: ReadoutKind, *, seen: bool) -> TokenLists:
        joined = concat(top)
        null = compare_with_null(weights, joined, kind, met, keep)
        return make_token_lists(joined, weights.tokens, null, source.count if seen else None)

    norms = {side: torch.cat([p.norms[side] for p in parts]) for side in parts[0].norms}
    cosines = {side: torch.cat([p.cosines[side] for p in parts]) for side in parts[0].cosines}
    gates = [p.gate for p in parts if p.gate is not None]
    return NeuronTable(
        model_name=weights.model_name,
        layer=layer,
        neurons=chosen,
        experts=None if mlp.experts is None else tuple(mlp.experts[n] for n in chosen),
        norm_gate=norms.get("gate"),
        norm_in=norms["in"],
        norm_out=norms["out"],
        cosine_gate_out=cosines.get("gate"),
        cosine_in_out=cosines["in"],
        moments=moments,
        sign=sign,
        gate=lists(gates, "points", seen=True) if gates else None,
        reads=lists([p.reads for p in parts], "points", seen=True),
        writes=lists(
            [p.writes for p in parts],
            "readout, signed" if mlp.signs_are_free else "readout",
            seen=False,
        ),
        token_filter=token_filter,
        token_source=source,
        caveats=weights.caveats + filter_caveat(token_filter) + neuron_caveats(mlp, source),
    )


def _index(neurons: Sequence[int]) -> Tensor | slice:
    """Return an index of neurons: a slice, which copies nothing, for consecutive ones."""
    first, last = neurons[0], neurons[-1]
    if list(neurons) == list(range(first, last + 1)):
        return slice(first, last + 1)
    return torch.tensor(neurons)


class _Reading(NamedTuple):
    """The token lists of some neurons, their signs, and the moments of what they write.

    `norms` and `cosines` (with what is written) are by side, as in `NeuronTable.sides`.
    """

    norms: dict[str, Tensor]
    cosines: dict[str, Tensor]
    gate: TopTokens | None
    reads: TopTokens
    writes: TopTokens
    sign: Float[Tensor, " neurons"]
    moments: Float[Tensor, "3 neurons"]


def _read(
    weights: Weights,
    mlp: MLP,
    points: TokenPoints,
    index: Tensor | slice,
    k: int,
    keep: Tensor | None,
) -> _Reading:
    """Read some neurons on all sides, with one pass over the points and one over the readout."""
    table, known = EXACT.output_tokens(weights), combined_mask(keep, points)
    gates, inputs, written = mlp.sides(index)
    queries, n = table.pull_back(written), len(inputs)
    moments, rows = Moments(n), {"in": inputs, "out": written}
    if gates is not None:
        rows["gate"] = gates
    norms = {side: of_side.norm(dim=-1) for side, of_side in rows.items()}
    unit = {side: of_side / norms[side][:, None] for side, of_side in rows.items()}
    written_unit = unit.pop("out")
    cosines = {  # 0 for a neuron of zeros
        side: (of_side * written_unit).sum(-1).nan_to_num(0.0) for side, of_side in unit.items()
    }
    whole = float(weights.vocabulary.is_whole_state)  # parts are read without constants
    if gates is None or mlp.a_gate is None:
        writes = top_tokens(queries, table.rows, k, keep=keep, observe=moments.observe)
        if table.relative:
            writes = writes._replace(score=writes.score - moments.mean()[:, None])
        reads = top_tokens(inputs, points.rows, k, keep=known)
        reads = reads._replace(score=reads.score + whole * mlp.a_in[index, None])
        return _Reading(norms, cosines, None, reads, writes, torch.ones(n), moments.shape())
    both = top_tokens_both_signs(
        queries, table.rows, k, relative=table.relative, keep=keep, observe=moments.observe
    )
    positive = both.positive if mlp.signs_are_free else torch.ones_like(both.positive)
    sign = torch.where(positive, 1.0, -1.0)
    joint = top_tokens(
        torch.cat([gates, sign[:, None] * inputs]), points.rows, k, keep=known,
    )  # fmt: skip
    gate, reads = joint.of(slice(n)), joint.of(slice(n, None))
    shape = moments.shape()
    shape[1] *= sign
    return _Reading(
        norms,
        cosines,
        gate._replace(score=gate.score + whole * mlp.a_gate[index, None]),
        reads._replace(score=reads.score + whole * (sign * mlp.a_in[index])[:, None]),
        select(positive, both.along, both.against),
        sign,
        shape,
    )
