"""Head ellipsoid: the image of the unit sphere of a head's three leading singular vectors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses.head_directions import head_svd
from tw_lens.analyses.token_filter import look_up_words
from tw_lens.arguments import checked
from tw_lens.canonical import LayerVocabulary, Weights, token_points
from tw_lens.errors import Caveat
from tw_lens.geometry import unit
from tw_lens.results.arguments import Circuit
from tw_lens.results.base import Result, component_label, dropped_summary, head_columns
from tw_lens.results.token_source import TokenSource, token_source

AXES = ("left_0", "left_1", "left_2"), ("right_0", "right_1", "right_2")


@dataclass(frozen=True, repr=False, eq=False)
class HeadEllipsoid(Result):
    """The unit sphere of a head's three leading left singular vectors, and its image.

    `before` holds each word's direction within the three vectors (a point of the unit sphere),
    `after = before * semi_axes` its image on the ellipsoid; `share` is the share of the word's
    squared length that lies in the three vectors. `dropped` are the words that are not a single
    token.
    """

    model_name: str
    layer: int
    head: int
    circuit: Circuit
    semi_axes: Float[Tensor, " 3"]
    words: tuple[str, ...]
    word_index: tuple[int, ...]
    before: Float[Tensor, "words 3"]
    after: Float[Tensor, "words 3"]
    share: Float[Tensor, " words"]
    dropped: tuple[str, ...] = ()
    token_source: TokenSource = field(default_factory=TokenSource)
    caveats: tuple[Caveat, ...] = ()

    def headline(self) -> str:
        """Return the semi-axes, and the words dropped."""
        axes = ", ".join(f"{axis:.2f}" for axis in self.semi_axes.tolist())
        label = component_label(self.layer, self.head, self.model_name)
        return (
            f"{self.model_name} {label} {self.circuit}: semi-axes {axes}"
            f"{dropped_summary(self.dropped)}"
            f"{self.token_source.summary([self.layer], [self.circuit], self.head)}"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per word.

        Columns: layer, head, component, word, word_index, share, left_0, left_1, left_2 (before),
        right_0, right_1, right_2 (after).
        """
        before = pd.DataFrame(self.before.tolist(), columns=list(AXES[0]))
        after = pd.DataFrame(self.after.tolist(), columns=list(AXES[1]))
        words = pd.DataFrame(
            {
                **head_columns(self.layer, self.head, self.model_name),
                "word": self.words,
                "word_index": self.word_index,
                "share": self.share.tolist(),
            }
        )
        return pd.concat([words, before, after], axis=1)


@checked
def head_ellipsoid(
    weights: Weights,
    *,
    layer: int,
    head: int,
    words: Iterable[str | int],
    circuit: Circuit = "QK",
    vocabulary: LayerVocabulary | None = None,
) -> HeadEllipsoid:
    """Return the ellipsoid onto which a head maps the sphere, with words on both.

    With `W = U S V^T` (W_QK or W_OV), the unit sphere spanned by the first three columns of U is
    mapped onto the ellipsoid with semi-axes `S_0, S_1, S_2` along the columns of V. A word's point
    is the direction of `N(w)`, or of its point in `vocabulary`, in the coordinates of U.

    Args:
        weights: from `read_weights`.
        layer: index of the block.
        head: one head.
        words: single tokens or token ids; other strings are dropped and listed in the result.
        circuit: "QK" or "OV".
        vocabulary: points of the tokens at this layer, from `layer_vocabulary`; their embeddings
            by default.

    Raises:
        IndexError: the layer, head or a token id does not exist.
        TypeError: an argument of another type.
        ValueError: unknown circuit, no word left, or a head of fewer than three dimensions.

    Example:
        >>> head_ellipsoid(weights, layer=1, head=2, words=["w5", "w6"]).semi_axes.shape
        torch.Size([3])

    Source: arXiv 2309.07315, figure 1.
    """
    if weights.d_head < 3:
        raise ValueError(
            f"head_ellipsoid needs heads of at least 3 dimensions, and d_head is {weights.d_head}."
        )
    block = weights.block(layer)
    points = token_points(weights, layer, block.norm, vocabulary)
    index, dropped = look_up_words(weights, words, points)
    svd = head_svd(block, block.heads(head), circuit)
    if svd.vanishing[0, :3].any():
        raise ValueError(
            f"W_{circuit} of L{layer}H{head} has fewer than 3 singular values above 0: the image "
            "of the sphere is no ellipsoid."
        )
    projected = unit(points.at(torch.tensor(index))) @ svd.left[0, :, :3]
    before = unit(projected)
    semi_axes = svd.S[0, :3]
    source = token_source(vocabulary)
    return HeadEllipsoid(
        model_name=weights.model_name,
        layer=layer,
        head=head,
        circuit=circuit,
        semi_axes=semi_axes,
        words=tuple(weights.tokens.strings(index)),
        word_index=tuple(index),
        before=before,
        after=before * semi_axes,
        share=projected.square().sum(-1),
        dropped=tuple(dropped),
        token_source=source,
        caveats=weights.caveats + source.caveats([layer]),
    )
