"""Named vectors in the place of tokens: learned positions, features, class means, labels.

1. `Points` holds the vectors, their names, and what kind of vector they are.
2. `in_place_of_tokens` returns weights whose tokens are the points: what reads tokens reads points.
3. A head meets a point as its kind says (`met_by`); what a head writes is read along unit points.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tw_lens.argument_kinds import require_choice, require_names, require_number, require_text
from tw_lens.arguments import checked
from tw_lens.canonical.embedding import TokenVectorChunks, Vocabulary
from tw_lens.canonical.layer_vocabulary import LayerVocabulary
from tw_lens.canonical.sphere_projection import Norm
from tw_lens.canonical.unembedding import Readout
from tw_lens.canonical.weights import Weights
from tw_lens.devices import drawn
from tw_lens.errors import UnsupportedModelError
from tw_lens.tokens import TokenStrings, named

PointKind = Literal["state", "part", "direction"]
POINT_KINDS: tuple[PointKind, ...] = get_args(PointKind)
N_SAMPLED = 256


@dataclass(frozen=True, eq=False)
class Points:
    """Named vectors that analyses read in the place of tokens (`points=`).

    A layer with the norm `N(x) = sqrt(d) Px / |Px|` meets a vector v as

    - "state": `N(v)`, as a whole residual stream (class means, states);
    - "part": `P v / divisor`, as a part of a sum that has this divisor (learned positions), because
      `N(a + b)` is not `N(a) + N(b)`;
    - "direction": `v`, in the coordinates behind the norm (features of the normalised stream).

    Parts and directions are met without the constants of queries and values, which belong to whole
    states. What a head writes is read along `v / |v|`.

    Attributes:
        vectors: the vectors, `[points, d_model]`.
        names: a name per vector, each different; kept as a tuple.
        kind: "state", "part" or "direction".
        label: what the points are, for headlines ("learned positions").
        divisor: of "part": the root mean square of the stream that the vectors are a part of.

    Raises:
        TypeError: vectors or names of another type.
        ValueError: vectors of another shape, NaN, no or repeated names, an unknown kind, a divisor
            that is not positive.
    """

    vectors: Tensor
    names: Sequence[str]
    kind: PointKind = "state"
    label: str = "points"
    divisor: float = 1.0

    def __post_init__(self) -> None:
        require_choice("kind", self.kind, POINT_KINDS)
        vectors, names = self.vectors, self.names
        if not isinstance(vectors, Tensor) or vectors.ndim != 2 or not len(vectors):
            shape = tuple(vectors.shape) if isinstance(vectors, Tensor) else type(vectors).__name__
            raise ValueError(f"vectors must be a tensor [points, d_model], got {shape}.")
        if not vectors.is_floating_point() or not bool(torch.isfinite(vectors).all()):
            raise ValueError("vectors must be finite floating-point numbers.")
        names = require_names("names", names, "position 0")
        require_text("label", self.label)
        if len(names) != len(vectors):
            raise ValueError(
                f"every point needs a name: {len(vectors)} vectors, {len(names)} names."
            )
        repeated = [name for name, n in Counter(names).items() if n > 1]
        if repeated:
            raise ValueError(f"names must differ; {named(repeated)} stands more than once.")
        if not require_number("divisor", self.divisor) > 0:
            raise ValueError(f"divisor must be a positive number, got {self.divisor}.")
        object.__setattr__(self, "names", names)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"Points({self.label}: {named(self.names)}, kind {self.kind!r})"

    @property
    def summary(self) -> str:
        """Return what the points are, how many, and how they are met."""
        divisor = f" over {self.divisor:.3g}" if self.kind == "part" else ""
        return f"read at {len(self):,} {self.label} ({self.kind}s{divisor})"

    @checked
    def in_place_of_tokens(self, weights: Weights) -> Weights:
        """Return weights whose tokens are the points.

        Raises:
            ValueError: points of another width.
        """
        width = self.vectors.shape[1]
        if width != weights.d_model:
            raise ValueError(
                f"the points have width {width}, and the residual stream of {weights.model_name} "
                f"has width {weights.d_model}."
            )
        vectors = self.vectors.detach().float().to(weights.device)
        norm = weights.readout.norm
        directions = norm.project(vectors)
        lengths = directions.norm(dim=-1, keepdim=True)
        directions = torch.where(lengths > 0, directions / lengths, 0.0)
        return replace(
            weights,
            vocabulary=PointTable(W_E=vectors, scale=1.0, points=self),
            readout=Readout(Norm.none(width), directions.T, torch.zeros(len(self)), relative=False),
            tokens=PointNames(None, len(self), self.names),
            read_fingerprint=lambda: "",
        )


def met_by(
    norm: Norm, points: Points, vectors: Float[Tensor, "points d_model"]
) -> Float[Tensor, "points d_model"]:
    """Return vectors as a layer with a norm meets points of a kind (see `Points`)."""
    if points.kind == "direction" or not norm.normalises:
        return vectors
    if points.kind == "part":
        return norm.project(vectors) / points.divisor
    return norm.sphere(vectors)


@dataclass(frozen=True, eq=False)
class PointTable(Vocabulary):
    """Points as a table of embeddings, met by a layer as their kind says."""

    points: Points = field(kw_only=True)

    @property
    def is_whole_state(self) -> bool:
        """Return whether a row is a whole residual stream, to which constants are added."""
        return self.points.kind == "state"

    def met(self, token_index: Int[Tensor, " words"], norm: Norm) -> Float[Tensor, "words d_model"]:
        """Return some points as a layer with a norm meets them."""
        return met_by(norm, self.points, self.embeddings(token_index))

    def on_sphere(self, norm: Norm) -> TokenVectorChunks:
        """Return all points as a layer with a norm meets them, as chunks."""
        return lambda: (met_by(norm, self.points, chunk) for chunk in self.rows())


@dataclass(frozen=True, eq=False)
class PointNames(TokenStrings):
    """Names of points, looked up as tokens are: by name or by number."""

    names: Sequence[str] = ()

    def strings(self, token_indices: Iterable[int]) -> list[str]:
        """Return the names of many points."""
        return [self.names[index] for index in token_indices]

    def texts(self) -> tuple[str, ...]:
        """Return all names."""
        return tuple(self.names)

    def printed(self, string: str) -> int | None:
        """Return the number of the point with a name; None where no point has it."""
        return self.names.index(string) if string in self.names else None

    def single(self, word: str) -> int | None:
        """Return the number of the point with a name; None where no point has it."""
        return self.printed(word)

    def _no_word_is_known(self, words: str) -> str:
        return (
            f"none of the words is the name of a point, got {words}; points: {named(self.names)}."
        )


def weights_of_points(
    weights: Weights,
    points: Points | None,
    vocabulary: LayerVocabulary | None,
    convention: str = "exact",
    score: str = "dot",
) -> Weights:
    """Return the weights to read: those of a call with `points=` read points as their tokens.

    Raises:
        ValueError: points and a vocabulary at once, the published convention, or scores that are
            standardised over the model's tokens.
    """
    if points is None:
        return weights
    if vocabulary is not None:
        raise ValueError(
            "points= and vocabulary= both say what is read as words; give one of them."
        )
    if convention != "exact" or score != "dot":
        raise ValueError(
            'points= needs convention="exact" and score="dot", got '
            f"convention={convention!r}, score={score!r}."
        )
    return points.in_place_of_tokens(weights)


@checked
def position_points(weights: Weights, *, positions: Sequence[int] | None = None) -> Points:
    """Return a model's learned positions, to read a head by positions instead of tokens.

    The points are the rows of `W_pos` as parts of the stream that enters the first block. Their
    divisor is the median root mean square of `P(W_E[w] + W_pos[i])` over a sample of tokens and
    positions. Deeper layers also meet what earlier ones made of a position; these are direct paths.

    Args:
        weights: from `read_weights`.
        positions: which ones; all by default.

    Raises:
        IndexError: a position that the model does not have.
        UnsupportedModelError: the model has no learned positions.

    Example:
        >>> position_points(weights, positions=[0, 1]).names
        ('position 0', 'position 1')

    Source: arXiv 2309.07315, section 3 (embeddings); positions as points by definition.
    """
    W_pos = weights.positions
    if W_pos is None:
        raise UnsupportedModelError(
            weights.architecture,
            "it adds no learned positions to the residual stream",
            "For rotary positions use head_score_by_distance.",
        )
    chosen = list(range(len(W_pos)) if positions is None else positions)
    outside = [i for i in chosen if not 0 <= i < len(W_pos)]
    if outside:
        raise IndexError(
            f"position {outside[0]} does not exist: {weights.model_name} has positions 0 to "
            f"{len(W_pos) - 1}."
        )
    generator = torch.Generator().manual_seed(0)
    tokens = drawn(torch.randint, weights.d_vocab, (N_SAMPLED,), generator=generator)
    at = drawn(torch.randint, len(W_pos), (N_SAMPLED,), generator=generator)
    norm = weights.block(weights.attention_layers[0]).norm
    x = norm.project(weights.vocabulary.embed(tokens) + W_pos[at])
    return Points(
        vectors=W_pos[chosen],
        names=tuple(f"position {i}" for i in chosen),
        kind="part",
        label="learned positions",
        divisor=float(x.square().mean(-1).sqrt().median()),
    )
