"""Projection: states and tokens in two or three dimensions, fitted jointly by PCA or UMAP."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, runtime_checkable

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses.umap_cache import cached_umap
from tw_lens.argument_kinds import require_choice, shown
from tw_lens.arguments import checked
from tw_lens.canonical import States, Weights
from tw_lens.devices import drawn
from tw_lens.errors import Caveat
from tw_lens.geometry import angle, pca, reduce_with, step_rank_correlation, top_tokens
from tw_lens.results.base import Result, figure

if TYPE_CHECKING:
    import plotly.graph_objects as go

Method = Literal["pca", "umap"]
METHODS: tuple[Method, ...] = get_args(Method)
Color = Literal["token", "layer"]
COLORS: tuple[Color, ...] = get_args(Color)


@runtime_checkable
class PromptPath(Protocol):
    """The labels and tokens by which a projection finds the points of a prompt."""

    @property
    def labels(self) -> tuple[str, ...]:
        """One label per state of the path."""
        ...

    @property
    def token_strings(self) -> tuple[str, ...]:
        """One token per position."""
        ...


@dataclass(frozen=True, repr=False, eq=False)
class Projection(Result):
    """States and tokens in two or three dimensions, fitted jointly, with measures of quality.

    `state_points` holds the positions of all prompts one after the other; `prompt_lengths` are
    their numbers of positions. The first `landmarks` of the `words` are the prompts' tokens and
    the readouts of their states, the others are random. `trustworthiness`: share of projected
    neighbours that are neighbours on the sphere; `step_rank_correlation`: rank correlation of
    projected step lengths with step angles; `explained`: share of the variance per axis (NaN where
    the method has none).
    """

    model_name: str
    method: str
    seed: int
    labels: tuple[str, ...]
    token_strings: tuple[str, ...]
    prompt_lengths: tuple[int, ...]
    state_points: Float[Tensor, "layers_and_end position axes"]
    word_points: Float[Tensor, "words axes"]
    word_index: tuple[int, ...]
    words: tuple[str, ...]
    landmarks: int
    trustworthiness: float
    step_rank_correlation: float
    explained: tuple[float, ...]
    caveats: tuple[Caveat, ...] = ()

    @property
    def quality(self) -> str:
        """Method, trustworthiness, step rank correlation and explained variance, as text."""
        name = self.method.upper() if self.method in METHODS else self.method
        text = f"{name}, trustworthiness {self.trustworthiness:.2f}"
        if not math.isnan(self.step_rank_correlation):
            text += f", steps {self.step_rank_correlation:.2f}"
        explained = sum(self.explained)
        return text if math.isnan(explained) else f"{text}, {100 * explained:.0f} % of variance"

    def headline(self) -> str:
        """Return the numbers of states and tokens, and the quality."""
        n = self.state_points.shape[0] * self.state_points.shape[1]
        return f"{self.model_name}: {n} states among {len(self.words)} tokens, {self.quality}"

    @checked
    def points_of(self, path: PromptPath) -> Float[Tensor, "layers_and_end position axes"]:
        """Return the projected states of one prompt.

        Args:
            path: the prompt's `Trajectory`, or anything with its `token_strings` and `labels`.

        Raises:
            ValueError: the projection was fitted on other states.
        """
        if not isinstance(path, PromptPath):
            raise TypeError(
                "path must be a Trajectory; call trajectory(weights, states) first (got "
                f"{type(path).__name__})."
            )
        start = 0
        for length in self.prompt_lengths:
            positions = slice(start, start := start + length)
            if (self.token_strings[positions], self.labels) == (path.token_strings, path.labels):
                return self.state_points[:, positions]
        raise ValueError(
            "the projection was fitted on other states; call fit_projection on those of this path."
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per state and per token.

        Columns: kind ("state" or "word"), prompt, layer, position (missing for tokens),
        token_string, axis_0, axis_1, ...
        """
        rows = []
        positions = [(prompt, i) for prompt, n in enumerate(self.prompt_lengths) for i in range(n)]
        for layer, points in enumerate(self.state_points.tolist()):
            for (prompt, position), token, point in zip(
                positions, self.token_strings, points, strict=True
            ):
                rows.append(_row("state", prompt, layer, position, token, point))
        for word, point in zip(self.words, self.word_points.tolist(), strict=True):
            rows.append(_row("word", None, None, None, word, point))
        return pd.DataFrame(rows).astype(dict.fromkeys(("prompt", "layer", "position"), "Int64"))

    @checked
    def plot(self, color: Color = "token") -> go.Figure:
        """Return a figure of the states and tokens, the paths colored by token or by layer.

        Raises:
            ValueError: unknown color.
        """
        return figure(self, color)


@checked
def fit_projection(
    weights: Weights,
    states: States | Sequence[States],
    *,
    method: Method | Any = "pca",
    n_components: int = 3,
    n_words: int = 500,
    seed: int = 0,
) -> Projection:
    """Project the states of one or several prompts and the tokens around them, jointly.

    Points: `N(x_l)` of every state under the final norm, and the tokens' points `N(W_E)` under the
    same norm: the prompts' tokens and the top readouts of their states (the landmarks, which a
    figure labels), plus `n_words` random tokens. Fitted jointly because UMAP's `transform` depends
    on the order of its rows.

    Args:
        weights: from `read_weights`.
        states: from `read_states`, of the same model; several prompts share one projection.
        method: "pca" (linear, instant), "umap" (cosine, PCA start, seeded, cached on disk in
            `$TW_LENS_CACHE` or `~/.cache/tw_lens`), or any object with `fit_transform`, such as
            scikit-learn's `TSNE(n_components=2)`, which then sets the number of axes.
        n_components: number of axes, 2 or 3.
        n_words: number of random tokens for context.
        seed: of the random tokens and of UMAP.

    Raises:
        TypeError: an argument of another type.
        ValueError: unknown method, another number of axes, no states, states of another model, too
            few points or dimensions for UMAP.

    Example:
        >>> fit_projection(weights, states).state_points.shape
        torch.Size([4, 4, 3])
        >>> fit_projection(weights, [states, states]).prompt_lengths
        (4, 4)

    Source: arXiv 2309.07315, section 5; trustworthiness: Venna and Kaski 2001 (scikit-learn).
    """
    if not callable(getattr(method, "fit_transform", None)):
        if not isinstance(method, str):
            raise ValueError(
                "method must be 'pca', 'umap' or an object with fit_transform; "
                f"{shown(method)} has no fit_transform."
            )
        require_choice("method", method, METHODS)
    prompts = _prompts(weights, states)
    if n_components not in (2, 3):
        raise ValueError(f"n_components must be 2 or 3, got {n_components}.")
    norm = weights.token_readout.norm
    y = norm.sphere(torch.cat([prompt.stream for prompt in prompts], dim=1))
    n_states = y[..., 0].numel()
    tokens = [token for prompt in prompts for token in prompt.tokens.tolist()]
    landmarks = _landmarks(weights, tokens, y)
    generator = torch.Generator().manual_seed(seed)
    sample = drawn(torch.randperm, weights.d_vocab, generator=generator)[:n_words].tolist()
    index = landmarks + [i for i in sample if i not in set(landmarks)]
    embedded = weights.vocabulary.embed(torch.tensor(index))
    points, y = torch.cat([y.flatten(0, 1), norm.sphere(embedded)]).cpu(), y.cpu()
    if method == "pca":
        reduced = pca(points, n_components)
    elif method == "umap":
        reduced = cached_umap(points, n_components, seed=seed)
    else:
        reduced = reduce_with(points, method)
    state_points = reduced.points[:n_states].unflatten(0, y.shape[:2])
    return Projection(
        model_name=prompts[0].model_name,
        method=method if isinstance(method, str) else type(method).__name__,
        seed=seed,
        labels=tuple(prompts[0].labels),
        token_strings=tuple(token for prompt in prompts for token in prompt.token_strings),
        prompt_lengths=tuple(len(prompt) for prompt in prompts),
        state_points=state_points,
        word_points=reduced.points[n_states:],
        word_index=tuple(index),
        words=tuple(weights.tokens.strings(index)),
        landmarks=len(landmarks),
        trustworthiness=reduced.trustworthiness,
        step_rank_correlation=step_rank_correlation(state_points, angle(y, y.roll(-1, 0))),
        explained=reduced.explained,
        caveats=(Caveat("projection", "distances in a projection are not those on the sphere."),),
    )


def _prompts(weights: Weights, states: States | Iterable[States]) -> list[States]:
    """Return the states of one or several prompts as a list.

    Raises:
        TypeError: neither `States` nor a list of them.
        ValueError: an empty list, or states of another model.
    """
    if not isinstance(states, States | Iterable):
        weights.require_states(states)  # raises
    prompts = [states] if isinstance(states, States) else list(states)
    if not prompts:
        raise ValueError("states is empty; give one or several results of read_states.")
    for prompt in prompts:
        weights.require_states(prompt)
    return prompts


def _landmarks(weights: Weights, tokens: list[int], y: Tensor) -> list[int]:
    """Return the prompts' tokens and the top readout of every state, each token once."""
    readout = weights.readout
    top = top_tokens(y.flatten(0, 1), readout.directions(), 1, bias=readout.bias())
    return list(dict.fromkeys(tokens + top.token_index[:, 0].tolist()))


def _row(
    kind: str,
    prompt: int | None,
    layer: int | None,
    position: int | None,
    token: str,
    point: list[float],
) -> dict[str, Any]:
    row = {"kind": kind, "prompt": prompt, "layer": layer, "position": position}
    axes = {f"axis_{axis}": value for axis, value in enumerate(point)}
    return row | {"token_string": token} | axes
