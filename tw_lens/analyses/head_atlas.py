"""Head atlas: the leading singular vectors of every head as tokens, in one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses.leading_directions import (
    Entry,
    LayerDirections,
    leading_directions,
    tokens_of_directions,
)
from tw_lens.analyses.null_directions import Side
from tw_lens.analyses.token_filter import (
    TokenFilter,
    allowed_mask,
    filter_caveat,
    filter_summary,
)
from tw_lens.arguments import checked
from tw_lens.canonical import (
    LayerVocabulary,
    Points,
    Weights,
    weights_of_points,
)
from tw_lens.errors import Caveat
from tw_lens.geometry import NO_TOKEN, concat
from tw_lens.progress import Progress, steps
from tw_lens.results.arguments import CIRCUITS, Circuit, Score
from tw_lens.results.base import Result, component_label, head_columns, plural
from tw_lens.results.token_lists import (
    TokenLists,
    concat_nulls,
    make_token_lists,
    score_summary,
    significance_summary,
)
from tw_lens.results.token_source import TokenSource, token_source
from tw_lens.tokens import named, visible

N_HUBS = 50


@dataclass(frozen=True, repr=False, eq=False)
class HeadAtlas(Result):
    """The leading directions of every head's W_QK and W_OV, with the tokens of both sides.

    All fields are aligned with `entries` `(layer, head, circuit, direction)`, layers outermost.
    QK: left = query, right = key. OV: left = input, right = output. `share` is `S_i / sum(S)`.
    """

    model_name: str
    entries: tuple[Entry, ...]
    singular_value: Float[Tensor, " entries"]
    share: Float[Tensor, " entries"]
    left: TokenLists
    right: TokenLists
    token_filter: TokenFilter | None = None
    token_source: TokenSource = field(default_factory=TokenSource)
    score: Score = "dot"
    caveats: tuple[Caveat, ...] = ()

    def headline(self) -> str:
        """Return the number of heads, those of zeros, and the most concentrated spectrum."""
        heads = {(layer, head) for layer, head, _, _ in self.entries}
        strongest = int(self.share.argmax())
        layer, head, circuit, direction = self.entries[strongest]
        first = torch.tensor([entry[3] == 0 for entry in self.entries])
        zero = int((first & (self.share == 0)).sum())
        of_zeros = f" ({zero} circuits of zeros)" if zero else ""
        return (
            f"{self.model_name}: {score_summary(self.score)}"
            f"{plural(len(heads), 'head')}{of_zeros}; the most concentrated spectrum is that of "
            f"{component_label(layer, head, self.model_name)} {circuit} "
            f"({100 * float(self.share[strongest]):.0f} % in direction {direction})"
            f"{filter_summary(self.token_filter)}"
            f"{significance_summary(self.left, self.right)}"
            f"{self.token_source.summary(sorted({layer for layer, _ in heads}), CIRCUITS)}"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per head, circuit and direction.

        Columns: layer, head, component, circuit, direction, singular_value, share, left_tokens,
        right_tokens (best first, separated by a space, spaces of the tokens marked), and the null
        comparison of each side: left_coherence, left_exceeds_null, right_coherence,
        right_exceeds_null (NaN and "" for lists of one token; see `NullComparison`), and
        faithfulness of the head's circuit (NaN where it was not measured).
        """
        rows = [
            (
                *head_columns(layer, head, self.model_name).values(),
                circuit,
                direction,
                float(self.singular_value[i]),
                float(self.share[i]),
                " ".join(map(visible, self.left.token_string[i])),
                " ".join(map(visible, self.right.token_string[i])),
                *self.left.null_columns(i).values(),
                *self.right.null_columns(i).values(),
                self.token_source.r(layer, head, circuit),
            )
            for i, (layer, head, circuit, direction) in enumerate(self.entries)
        ]
        names = ["layer", "head", "component", "circuit", "direction", "singular_value", "share",
                 "left_tokens", "right_tokens", "left_coherence", "left_exceeds_null",
                 "right_coherence", "right_exceeds_null", "faithfulness"]  # fmt: skip
        return pd.DataFrame(rows, columns=names)

    def _lists(self, index: int, word: str) -> bool:
        """Whether an entry lists a token that contains a text, in any case."""
        tokens = self.left.token_string[index] + self.right.token_string[index]
        of_zeros = int(self.left.token_index[index, 0]) == NO_TOKEN
        return not of_zeros and any(word.lower() in token.lower() for token in tokens)

    def _nothing_left(self, searched: list[int], word: str | None) -> str:
        """Return the sentence for a selection that no entry fits: what was searched, what fits."""
        entries = [self.entries[i] for i in searched or range(len(self.entries))]
        layers = sorted({layer for layer, *_ in entries})
        circuits = " and ".join(sorted({of for _, _, of, _ in entries}))
        where = f"layer{'s'[: len(layers) - 1]} {', '.join(map(str, layers))}; {circuits}"
        if not searched:
            return f"no entry of the atlas has these layers and this circuit; it has {where}."
        listed = [self.left.token_string[i][0] for i in searched if self._lists(i, "")]
        return (
            f"no token that contains {word!r} is listed by the {plural(len(searched), 'direction')}"
            f" searched ({where}; {self.left.token_index.shape[1]} tokens per side), but, for "
            f"instance, {named([*dict.fromkeys(listed)], most=4)}; search for another word, or "
            "more layers, directions (n) or tokens (k)."
        )

    @checked
    def hubness(self, circuit: Circuit, side: Side) -> float:
        """Return the share of all entries of a side's lists that its 50 commonest tokens take.

        Raises:
            ValueError: unknown circuit or side, or no entry of the circuit.
        """
        rows = [i for i, (_, _, of, _) in enumerate(self.entries) if of == circuit]
        if not rows:
            raise ValueError(f"the atlas has no entry of {circuit}.")
        counts = getattr(self, side).token_index[rows].flatten()
        counts = counts[counts != NO_TOKEN].bincount()
        return float(counts.topk(min(N_HUBS, len(counts))).values.sum() / counts.sum().clamp_min(1))

    @checked
    def only(
        self,
        *,
        layers: Sequence[int] | None = None,
        circuit: Circuit | None = None,
        word: str | None = None,
    ) -> HeadAtlas:
        """Return the entries of some layers, of one circuit, or with a token on either side.

        Args:
            layers: indices of blocks; all by default.
            circuit: "QK" or "OV"; both by default.
            word: text that a listed token contains, in any case; `" dog"` for tokens that begin so.

        Raises:
            TypeError: layers is no list of ints, or word is no string.
            ValueError: an unknown circuit, or no entry is left.

        Example:
            >>> len(head_atlas(weights, n=1).only(layers=[2], circuit="OV").entries)
            4
        """
        searched = [
            i
            for i, (layer, _, of, _) in enumerate(self.entries)
            if (layers is None or layer in layers) and circuit in (None, of)
        ]
        selected = [i for i in searched if word is None or self._lists(i, word)]
        if not selected:
            raise ValueError(self._nothing_left(searched, word))
        return replace(
            self,
            entries=tuple(self.entries[i] for i in selected),
            singular_value=self.singular_value[selected],
            share=self.share[selected],
            left=self.left.subset(selected),
            right=self.right.subset(selected),
        )


@checked
def head_atlas(
    weights: Weights,
    *,
    layers: Sequence[int] | None = None,
    n: int = 3,
    k: int = 5,
    token_filter: TokenFilter | None = None,
    vocabulary: LayerVocabulary | None = None,
    points: Points | None = None,
    score: Score = "dot",
    progress: Progress = False,
) -> HeadAtlas:
    """Return the leading directions of every head of the model as tokens.

    The leading directions of `head_spectrum` (exact convention, distance 0) for all heads: of
    `W_QK = s A_Q A_K^T` and `W_OV = A_V A_O`. Blocks are read one at a time; one pass over the
    vocabulary per circuit serves all heads.

    Args:
        weights: from `read_weights`.
        layers: indices of blocks; all attention layers by default.
        n: number of leading directions per head and circuit, at most d_head.
        k: tokens per side.
        token_filter: the tokens that may be listed, from `token_filter`; all by default.
        vocabulary: points of the tokens, from `layer_vocabulary`; their embeddings by default.
        points: named vectors to read in the place of tokens, from `Points` or `position_points`.
        score: of the written tokens (OV, right): "dot" or "standardised" (see `head_spectrum`).
        progress: True shows a bar; a function is called with a sentence at each step.

    Returns:
        One entry per head, circuit and direction; `share` is `S_i / sum(S)`.

    Raises:
        IndexError: a layer does not exist.
        TypeError: an argument of another type.
        UnsupportedModelError: a layer is no attention layer.
        ValueError: n or k below 1, no layer, or a filter of another vocabulary.

    Example:
        >>> head_atlas(weights, n=1).to_dataframe().shape
        (24, 14)

    Source: arXiv 2309.07315, section 4.5.
    """
    weights = weights_of_points(weights, points, vocabulary, "exact", score)
    chosen = weights.require_layers(weights.attention_layers if layers is None else layers)
    k = min(k, weights.d_vocab, weights.readout.W_U.shape[1])  # lists of one length
    keep = allowed_mask(weights, token_filter)
    parts: list[LayerDirections] = []
    with steps(progress, total=len(chosen), unit="layer") as step:
        for layer in chosen:
            step(f"Decomposing the heads of layer {layer}")
            parts += leading_directions(weights, layer, n, vocabulary, score)
        step("Ranking the tokens of their directions", 0)
    groups = [
        [part for part in parts if part.sphere == sphere]
        for sphere in dict.fromkeys(part.sphere for part in parts)
    ]
    parts = [part for group in groups for part in group]
    found = [tokens_of_directions(weights, group, k, keep) for group in groups]
    lengths = {part.token_index.shape[1] for lists, _ in found for part in lists}
    if len(lengths) > 1:  # a vocabulary may have fewer tokens than the model has outputs
        found = [tokens_of_directions(weights, group, min(lengths), keep) for group in groups]
    entries = [entry for part in parts for entry in part.entries]
    places = [(chosen.index(layer), head) for layer, head, *_ in entries]  # circuits are in order
    order = sorted(range(len(entries)), key=places.__getitem__)
    left, right = (
        make_token_lists(
            concat([lists[side] for lists, _ in found]),
            weights.tokens,
            concat_nulls([nulls[side] for _, nulls in found]),
        ).subset(order)
        for side in (0, 1)
    )
    source = token_source(vocabulary, points)
    return HeadAtlas(
        model_name=weights.model_name,
        entries=tuple(entries[i] for i in order),
        singular_value=torch.cat([part.S for part in parts])[order],
        share=torch.cat([part.share for part in parts])[order],
        left=left,
        right=right,
        token_filter=token_filter,
        token_source=source,
        score=score,
        caveats=weights.caveats + filter_caveat(token_filter) + source.caveats(chosen),
    )
