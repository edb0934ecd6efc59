"""Direction association: a permutation test of the pairing of a direction's two sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses.direction_coherence import benjamini_hochberg
from tw_lens.analyses.head_atlas import HeadAtlas, head_atlas
from tw_lens.analyses.similarity import centred_embeddings
from tw_lens.analyses.token_filter import TokenFilter, filter_summary
from tw_lens.arguments import checked
from tw_lens.canonical import LayerVocabulary, Weights
from tw_lens.devices import drawn
from tw_lens.errors import Caveat
from tw_lens.geometry import NO_TOKEN, unit, upper_p_values
from tw_lens.progress import Progress
from tw_lens.results.arguments import Circuit
from tw_lens.results.base import Result, head_columns
from tw_lens.results.token_lists import SIGNIFICANCE
from tw_lens.tokens import visible

LISTS_AT_ONCE = 4096
ROUNDING = 1e-6  # the identity permutation counts as a tie with the pairing itself


@dataclass(frozen=True, repr=False, eq=False)
class DirectionAssociation(Result):
    """Token similarity of each direction's two sides, compared with re-paired sides.

    `association`, `null_association` (the mean over re-paired sides of the head), `p_same_head` and
    `p_other_heads` are aligned with the atlas' entries; `p_head`, the test of all directions of a
    head jointly, with `heads` (layer, head, circuit).
    """

    model_name: str
    atlas: HeadAtlas
    association: Float[Tensor, " entries"]
    null_association: Float[Tensor, " entries"]
    p_same_head: Float[Tensor, " entries"]
    p_other_heads: Float[Tensor, " entries"]
    heads: tuple[tuple[int, int, Circuit], ...]
    p_head: Float[Tensor, " heads"]
    caveats: tuple[Caveat, ...] = ()

    @property
    def q_head(self) -> Float[Tensor, " heads"]:
        """`p_head` corrected over all heads and circuits (Benjamini-Hochberg)."""
        return benjamini_hochberg(self.p_head)

    def headline(self) -> str:
        """Return how many heads' circuits have a significant association."""
        significant = int((self.q_head <= SIGNIFICANCE).sum())
        return (
            f"{self.model_name}: in {significant} of {len(self.heads)} heads' circuits the two "
            "sides are more associated than re-paired sides (at a false discovery rate of 5 %)"
            f"{filter_summary(self.atlas.token_filter)}"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per direction.

        Columns: layer, head, component, circuit, direction, left_tokens, right_tokens, association,
        null_association (the mean over re-paired sides of the head), p_same_head, p_other_heads,
        and for the whole head p_head, q_head.
        """
        of_head = dict(zip(self.heads, zip(self.p_head, self.q_head, strict=True), strict=True))
        rows = [
            (
                *head_columns(layer, head, self.model_name).values(),
                circuit,
                direction,
                " ".join(map(visible, self.atlas.left.token_string[i])),
                " ".join(map(visible, self.atlas.right.token_string[i])),
                float(self.association[i]),
                float(self.null_association[i]),
                float(self.p_same_head[i]),
                float(self.p_other_heads[i]),
                *map(float, of_head[layer, head, circuit]),
            )
            for i, (layer, head, circuit, direction) in enumerate(self.atlas.entries)
        ]
        names = ["layer", "head", "component", "circuit", "direction", "left_tokens",
                 "right_tokens", "association", "null_association", "p_same_head",
                 "p_other_heads", "p_head", "q_head"]  # fmt: skip
        return pd.DataFrame(rows, columns=names)


@checked
def direction_association(
    weights: Weights,
    *,
    layers: Sequence[int] | None = None,
    n: int = 20,
    k: int = 5,
    n_permutations: int = 999,
    token_filter: TokenFilter | None = None,
    vocabulary: LayerVocabulary | None = None,
    seed: int = 0,
    progress: Progress = False,
) -> DirectionAssociation:
    """Test whether the two sides of a direction are more associated than re-paired sides.

    The association of a left with a right token list is the mean cosine over the k^2 pairs of a
    token of one and a token of the other, embeddings with the vocabulary's mean subtracted (where
    a head copies tokens, the pairs of a token with itself have cosine 1). It is compared with that
    of the same left list and other right lists: of the same head (`p_same_head`, `n - 1` of them:
    at least `1 / n`) and of the other heads of the layer and circuit (`p_other_heads`). `p_head`
    tests all n directions jointly: the mean association against the means of random re-pairings
    within the head. All p-values are `(1 + #{re-paired >= paired}) / (1 + number)`. A low
    association does not exclude a relation: the tokens of two opposite poles, or of a country and
    its language, may be related in ways that no cosine shows.

    Args:
        weights: from `read_weights`.
        layers: indices of blocks; all attention layers by default.
        n: number of leading directions per head and circuit, at most d_head.
        k: tokens per side.
        n_permutations: random re-pairings per head.
        token_filter: the tokens that may be listed, from `token_filter`; all by default.
        vocabulary: points of the tokens at each layer, from `layer_vocabulary`; embeddings by
            default.
        seed: of the re-pairings.
        progress: True shows a bar; a function is called with a sentence at each step.

    Raises:
        IndexError: a layer does not exist.
        TypeError: an argument of another type.
        UnsupportedModelError: a layer is no attention layer.
        ValueError: a count below one.

    Example:
        >>> direction_association(weights, layers=[1], n=4).p_head.shape  # 4 heads, 2 circuits
        torch.Size([8])

    Source: permutation of pairs, Fisher 1935; p-values by rank, Phipson and Smyth 2010.
    """
    atlas = head_atlas(
        weights,
        layers=layers,
        n=n,
        k=k,
        token_filter=token_filter,
        vocabulary=vocabulary,
        progress=progress,
    )
    vectors = centred_embeddings(weights)
    left, right = (
        torch.cat([unit(vectors(chunk)).mean(1) for chunk in side.split(LISTS_AT_ONCE)])
        for side in (atlas.left.token_index.clamp_min(0), atlas.right.token_index.clamp_min(0))
    )
    listed = atlas.left.token_index[:, 0] != NO_TOKEN
    groups: dict[tuple[int, Circuit], dict[int, list[int]]] = {}
    for i, (layer, head, circuit, _) in enumerate(atlas.entries):
        group = groups.setdefault((layer, circuit), {}).setdefault(head, [])
        group += [i] if listed[i] else []
    association, null_association, p_same, p_other = torch.full(
        (4, len(atlas.entries)), torch.nan
    ).unbind()
    generator = torch.Generator().manual_seed(seed)
    heads, p_head = [], []
    for (layer, circuit), entries_of_head in groups.items():
        for head, index in entries_of_head.items():
            heads.append((layer, head, circuit))
            if not index:  # a head of zeros
                p_head.append(torch.full((1,), torch.nan))
                continue
            others = [
                i for other, entries in entries_of_head.items() if other != head for i in entries
            ]
            own, across = left[index] @ right[index].T, left[index] @ right[others].T
            for row, i in enumerate(index):
                association[i] = own[row, row]
                repaired = torch.cat([own[row, :row], own[row, row + 1 :]])
                null_association[i] = repaired.mean() if len(repaired) else torch.nan
                p_same[i] = upper_p_values(association[i, None], repaired)[0]
                p_other[i] = upper_p_values(association[i, None], across[row])[0]
            orders = torch.stack(
                [
                    drawn(torch.randperm, len(index), generator=generator)
                    for _ in range(n_permutations)
                ]
            )
            permuted = own[torch.arange(len(index)), orders].mean(-1)
            p_head.append(upper_p_values(own.diagonal().mean()[None] - ROUNDING, permuted))
    return DirectionAssociation(
        model_name=weights.model_name,
        atlas=atlas,
        association=association,
        null_association=null_association,
        p_same_head=p_same,
        p_other_heads=p_other,
        heads=tuple(heads),
        p_head=torch.cat(p_head),
        caveats=atlas.caveats,
    )
