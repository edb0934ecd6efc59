"""Where to draw a path? A flat map of its states among the words it passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses.result import Result, require_choice, require_positive
from tw_lens.canonical import States, Weights
from tw_lens.errors import Caveat
from tw_lens.geometry import nearest, pca, umap

Method = Literal["pca", "umap"]


@dataclass(frozen=True, repr=False, eq=False)
class Chart(Result):
    """States and words in few dimensions, fitted jointly, with a figure for its faithfulness."""

    model_name: str
    method: Method
    seed: int
    labels: tuple[str, ...]
    token_strings: tuple[str, ...]
    state_points: Float[Tensor, "layers_and_end position axes"]
    word_points: Float[Tensor, "words axes"]
    word_index: tuple[int, ...]
    words: tuple[str, ...]
    landmarks: int
    trustworthiness: float
    explained: tuple[float, ...]
    caveats: tuple[Caveat, ...] = ()

    @property
    def faithfulness(self) -> str:
        """How far the drawing can be believed, in words."""
        kept = "" if self.method == "umap" else f", {100 * sum(self.explained):.0f} % of variance"
        return f"{self.method.upper()}, trustworthiness {self.trustworthiness:.2f}{kept}"

    def headline(self) -> str:
        """Method and faithfulness."""
        n = self.state_points.shape[0] * self.state_points.shape[1]
        return f"{self.model_name}: {n} states among {len(self.words)} words, {self.faithfulness}"

    def to_dataframe(self) -> pd.DataFrame:
        """Columns: kind (state, word), layer, position, token_string, axis_0, axis_1, ..."""
        rows = []
        for layer, _ in enumerate(self.labels):
            for position, token in enumerate(self.token_strings):
                point = self.state_points[layer, position].tolist()
                rows.append(_row("state", layer, position, token, point))
        for word, point in zip(self.words, self.word_points.tolist(), strict=True):
            rows.append(_row("word", None, None, word, point))
        return pd.DataFrame(rows).astype({"layer": "Int64", "position": "Int64"})


def fit_map(
    weights: Weights,
    states: States,
    *,
    method: Method = "pca",
    n_components: int = 3,
    n_words: int = 500,
    seed: int = 0,
) -> Chart:
    """Fit a flat map of a prompt's states and the words around them, all at once.

    Points: `N(x_l)` of every state under the final norm, and the words' points `N(W_E)` under the
    same norm: the prompt's tokens and what its states read as (the landmarks, always drawn by
    name), plus `n_words` tokens drawn at random with `seed`. Fitted jointly because UMAP's
    `transform` depends on the order of its rows.

    Args:
        weights: from `read_weights`.
        states: from `read_states`, of the same model.
        method: "pca" (linear, instant) or "umap" (cosine, PCA start, seeded, kept on disk in
            `$TW_LENS_CACHE` or `~/.cache/tw_lens`).
        n_components: 2 or 3 axes.
        n_words: how many random words for context.
        seed: for the random words and UMAP.

    Raises:
        ValueError: unknown method, another number of axes, states of another model.

    Example:
        >>> fit_map(weights, states).state_points.shape
        torch.Size([4, 4, 3])

    Source: arXiv 2309.07315, section 5; trustworthiness: Venna and Kaski 2001 (scikit-learn).
    """
    require_choice("method", method, ("pca", "umap"))
    weights.require_states(states)
    require_positive("n_words", n_words)
    if n_components not in (2, 3):
        raise ValueError(f"n_components={n_components}: a map has 2 or 3 axes.")
    norm = weights.readout.norm
    y = norm.sphere(states.stream)
    landmarks = _landmarks(weights, states, y)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(weights.d_vocab, generator=generator)[:n_words].tolist()
    index = landmarks + [i for i in drawn if i not in set(landmarks)]
    embedded = weights.vocabulary.entering(torch.tensor(index))
    points = torch.cat([y.flatten(0, 1), norm.sphere(embedded)])
    flat = pca(points, n_components) if method == "pca" else umap(points, n_components, seed=seed)
    n_states = y.shape[0] * y.shape[1]
    return Chart(
        model_name=states.model_name,
        method=method,
        seed=seed,
        labels=tuple(states.labels),
        token_strings=states.token_strings,
        state_points=flat.points[:n_states].unflatten(0, y.shape[:2]),
        word_points=flat.points[n_states:],
        word_index=tuple(index),
        words=tuple(weights.tokens.strings(index)),
        landmarks=len(landmarks),
        trustworthiness=flat.trustworthiness,
        explained=flat.explained,
        caveats=(Caveat("drawing", "distances in a flat map are not those on the sphere."),),
    )


def _landmarks(weights: Weights, states: States, y: Tensor) -> list[int]:
    """The prompt's tokens and what its states read as at each layer, each once."""
    readout = weights.readout
    top = nearest(y.flatten(0, 1), readout.directions(), 1, offset=readout.offset())
    return list(dict.fromkeys(states.tokens.tolist() + top.token_index[:, 0].tolist()))


def _row(
    kind: str, layer: int | None, position: int | None, token: str, point: list[float]
) -> dict[str, object]:
    where = {"kind": kind, "layer": layer, "position": position, "token_string": token}
    return where | {f"axis_{axis}": value for axis, value in enumerate(point)}
