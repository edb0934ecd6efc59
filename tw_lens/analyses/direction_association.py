"""Do the two sides of a direction belong together, or would any other pairing do as well?"""

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
from tw_lens.analyses.token_filter import TokenFilter
from tw_lens.canonical import Weights
from tw_lens.errors import Caveat
from tw_lens.geometry import unit, upper_p_values
from tw_lens.progress import Progress
from tw_lens.results.arguments import Circuit, require_positive, require_weights
from tw_lens.results.base import Result, head_columns
from tw_lens.results.token_lists import SIGNIFICANCE
from tw_lens.tokens import visible


@dataclass(frozen=True, repr=False, eq=False)
class DirectionAssociation(Result):
    """How alike the words of a direction's two sides are, beside re-paired sides.

    `association`, `p_same_head`, `p_other_heads` are aligned with the atlas' entries; `p_head` with
    `heads` (layer, head, circuit): all directions of a head together.
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
        """How many heads pair their sides better than chance."""
        found = int((self.q_head <= SIGNIFICANCE).sum())
        return (
            f"{self.model_name}: in {found} of {len(self.heads)} heads' circuits the two sides "
            "belong together more than re-paired ones do (5 % of these may be chance)"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """One row per direction.

        Columns: layer, head, component, circuit, direction, left_tokens, right_tokens, association,
        repaired (the mean over re-paired sides of the head), p_same_head, p_other_heads, and for
        the whole head p_head, q_head.
        """
        of_head = dict(zip(self.heads, zip(self.p_head, self.q_head, strict=True), strict=True))
        rows = [
            (
                *head_columns(layer, head).values(),
                circuit,
                direction,
                " ".join(map(visible, self.atlas.left.token_string[at])),
                " ".join(map(visible, self.atlas.right.token_string[at])),
                float(self.association[at]),
                float(self.null_association[at]),
                float(self.p_same_head[at]),
                float(self.p_other_heads[at]),
                *map(float, of_head[layer, head, circuit]),
            )
            for at, (layer, head, circuit, direction) in enumerate(self.atlas.entries)
        ]
        names = ["layer", "head", "component", "circuit", "direction", "left_tokens", "right_tokens",
                 "association", "null_association", "p_same_head", "p_other_heads", "p_head",
                 "q_head"]  # fmt: skip
        return pd.DataFrame(rows, columns=names)


@require_weights
def direction_association(
    weights: Weights,
    *,
    layers: Sequence[int] | None = None,
    n: int = 20,
    k: int = 5,
    n_permutations: int = 999,
    token_filter: TokenFilter | None = None,
    seed: int = 0,
    progress: Progress = False,
) -> DirectionAssociation:
    """Does what a direction reads go with what it attends to, or writes?

    The association of a left with a right word list is the mean cosine over the k^2 pairs of a
    word of one and a word of the other, embeddings with the vocabulary's mean taken off; a head
    that copies words has 1 on the diagonal. Beside it, the same left list with other right lists:
    of the same head (`p_same_head`, `n - 1` of them: at least `1 / n`) and of the other heads of
    the layer and circuit (`p_other_heads`). `p_head` asks of all n directions at once: the mean
    association against the means of random re-pairings within the head. All are
    `(1 + #{re-paired >= paired}) / (1 + number)`. Association is not meaning: the words of two
    opposite poles, or of a country and its language, may be related in ways no cosine shows.

    Args:
        weights: from `read_weights`.
        layers: which blocks; all that attend by default.
        n: leading directions per head and circuit.
        k: words per side.
        n_permutations: random re-pairings per head.
        token_filter: which words may be listed, from `token_filter`.
        seed: of the re-pairings.
        progress: True shows a bar; a function is called with a sentence at each step.

    Raises:
        IndexError: a layer does not exist.
        UnsupportedModelError: a layer does not attend.
        ValueError: counts below one.

    Example:
        >>> direction_association(weights, layers=[1], n=4).p_head.shape  # 4 heads, 2 circuits
        torch.Size([8])

    Source: permutation of pairs, Fisher 1935; p-values by rank, Phipson and Smyth 2010.
    """
    require_positive("n_permutations", n_permutations)
    atlas = head_atlas(
        weights, layers=layers, n=n, k=k, token_filter=token_filter, progress=progress
    )
    vectors = centred_embeddings(weights)
    means = [
        torch.cat([unit(vectors(some)).mean(1) for some in side.token_index.split(4096)])
        for side in (atlas.left, atlas.right)
    ]
    groups: dict[tuple[int, Circuit], dict[int, list[int]]] = {}
    for at, (layer, head, circuit, _) in enumerate(atlas.entries):
        groups.setdefault((layer, circuit), {}).setdefault(head, []).append(at)
    association, null_association, p_same, p_other = torch.empty(4, len(atlas.entries)).unbind()
    generator = torch.Generator().manual_seed(seed)
    heads, p_head = [], []
    for (layer, circuit), of_heads in groups.items():
        everyone = [at for members in of_heads.values() for at in members]
        for head, at in of_heads.items():
            own = means[0][at] @ means[1][at].T
            others = means[0][at] @ means[1][[j for j in everyone if j not in set(at)]].T
            off = ~torch.eye(len(at), dtype=torch.bool)
            for row, i in enumerate(at):
                association[i] = own[row, row]
                re = own[row][off[row]]
                null_association[i] = re.mean() if len(re) else torch.nan
                p_same[i] = upper_p_values(association[i, None], re)[0]
                p_other[i] = upper_p_values(association[i, None], others[row])[0]
            orders = torch.stack(
                [torch.randperm(len(at), generator=generator) for _ in range(n_permutations)]
            )
            random = own[torch.arange(len(at)), orders].mean(-1)
            heads.append((layer, head, circuit))
            p_head.append(upper_p_values(own.diagonal().mean()[None] - 1e-6, random))
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
