"""Where to draw a path? A flat map of its states among the words it passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses.umap_cache import cached_umap
from tw_lens.canonical import States, Weights
from tw_lens.errors import Caveat
from tw_lens.geometry import angle, pca, reduce_with, step_rank_correlation
from tw_lens.geometry import top_tokens as top_tokens
from tw_lens.results.arguments import require_choice, require_positive, require_weights
from tw_lens.results.base import Result, figure

if TYPE_CHECKING:
    import plotly.graph_objects as go

Method = Literal["pca", "umap"]
METHODS = ("pca", "umap")
Color = Literal["token", "layer"]


@runtime_checkable
class Path(Protocol):
    """The positions and layers of a prompt's path, by which a projection finds its points."""

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
    """States and words in few dimensions, fitted jointly, with figures for its faithfulness.

    `state_points` holds the positions of all prompts one after the other; `prompt_lengths` are their
    numbers of positions. `trustworthiness`: share of drawn neighbours that are true ones;
    `step_rank_correlation`: rank correlation of drawn step lengths with true step angles.
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
        """How far the drawing can be believed, in words."""
        shares = sum(self.explained)
        variance = "" if shares != shares else f", {100 * shares:.0f} % of variance"
        name = self.method.upper() if self.method in METHODS else self.method
        steps = (
            ""
            if self.step_rank_correlation != self.step_rank_correlation
            else f", steps {self.step_rank_correlation:.2f}"
        )
        return f"{name}, trustworthiness {self.trustworthiness:.2f}{steps}{variance}"

    def headline(self) -> str:
        """Method and faithfulness."""
        n = self.state_points.shape[0] * self.state_points.shape[1]
        return f"{self.model_name}: {n} states among {len(self.words)} words, {self.quality}"

    def points_of(self, path: Path) -> Float[Tensor, "layers_and_end position axes"]:
        """The projected states of one prompt.

        Args:
            path: the prompt's `Trajectory`, or anything with its `token_strings` and `labels`.

        Raises:
            ValueError: the projection was fitted on other states.
        """
        start = 0
        for length in self.prompt_lengths:
            positions = slice(start, start := start + length)
            if (self.token_strings[positions], self.labels) == (path.token_strings, path.labels):
                return self.state_points[:, positions]
        raise ValueError(
            "the projection was fitted on other states than the path: fit it on the same states."
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Columns: kind (state, word), prompt, layer, position, token_string, axis_0, ..."""
        rows = []
        places = [(which, at) for which, n in enumerate(self.prompt_lengths) for at in range(n)]
        for layer, _ in enumerate(self.labels):
            for place, token, point in zip(
                places, self.token_strings, self.state_points[layer].tolist(), strict=True
            ):
                rows.append(_row("state", place[0], layer, place[1], token, point))
        for word, point in zip(self.words, self.word_points.tolist(), strict=True):
            rows.append(_row("word", None, None, None, word, point))
        whole = dict.fromkeys(("prompt", "layer", "position"), "Int64")
        return pd.DataFrame(rows).astype(whole)

    def plot(self, color: Color = "token") -> go.Figure:
        """States and words of the chart; the paths colored by token or by layer."""
        return figure(self, color)


@require_weights
def fit_projection(
    weights: Weights,
    states: States | Sequence[States],
    *,
    method: Method | Any = "pca",
    n_components: int = 3,
    n_words: int = 500,
    seed: int = 0,
) -> Projection:
    """Fit a flat map of the states of one or several prompts and the words around them, at once.

    Points: `N(x_l)` of every state under the final norm, and the words' points `N(W_E)` under the
    same norm: the prompts' tokens and what their states read as (the landmarks, drawn by name),
    plus `n_words` tokens drawn at random with `seed`. Fitted jointly because UMAP's `transform`
    depends on the order of its rows.

    Args:
        weights: from `read_weights`.
        states: from `read_states`, of the same model; several prompts share one chart.
        method: "pca" (linear, instant), "umap" (cosine, PCA start, seeded, kept on disk in
            `$TW_LENS_CACHE` or `~/.cache/tw_lens`), or any object with `fit_transform`, such as
            scikit-learn's `TSNE(n_components=2)`, which then decides the number of axes.
        n_components: 2 or 3 axes.
        n_words: how many random words for context.
        seed: for the random words and UMAP.

    Raises:
        ValueError: unknown method, another number of axes, no states, states of another model.

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
                f"method={method!r} has no fit_transform: 'pca', 'umap' or an object with it fits."
            )
        require_choice("method", method, METHODS)
    held = [states] if isinstance(states, States) else list(states)
    if not held:
        raise ValueError("states is empty: give what read_states returns, once or several times.")
    for one in held:
        weights.require_states(one)
    require_positive("n_words", n_words)
    if n_components not in (2, 3):
        raise ValueError(f"n_components={n_components}: a map has 2 or 3 axes.")
    norm = weights.readout.norm
    y = norm.sphere(torch.cat([one.stream for one in held], dim=1))
    tokens = [token for one in held for token in one.tokens.tolist()]
    landmarks = _landmarks(weights, tokens, y)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(weights.d_vocab, generator=generator)[:n_words].tolist()
    index = landmarks + [i for i in drawn if i not in set(landmarks)]
    embedded = weights.vocabulary.embed(torch.tensor(index))
    points = torch.cat([y.flatten(0, 1), norm.sphere(embedded)])
    if method == "pca":
        flat = pca(points, n_components)
    elif method == "umap":
        flat = cached_umap(points, n_components, seed=seed)
    else:
        flat = reduce_with(points, method)
    state_points = flat.points[: y[..., 0].numel()].unflatten(0, y.shape[:2])
    return Projection(
        model_name=held[0].model_name,
        method=method if isinstance(method, str) else type(method).__name__,
        seed=seed,
        labels=tuple(held[0].labels),
        token_strings=tuple(token for one in held for token in one.token_strings),
        prompt_lengths=tuple(len(one) for one in held),
        state_points=state_points,
        word_points=flat.points[y[..., 0].numel() :],
        word_index=tuple(index),
        words=tuple(weights.tokens.strings(index)),
        landmarks=len(landmarks),
        trustworthiness=flat.trustworthiness,
        step_rank_correlation=step_rank_correlation(state_points, angle(y, y.roll(-1, 0))),
        explained=flat.explained,
        caveats=(Caveat("drawing", "distances in a flat map are not those on the sphere."),),
    )


def _landmarks(weights: Weights, tokens: list[int], y: Tensor) -> list[int]:
    """The prompts' tokens and what their states read as at each layer, each once."""
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
) -> dict[str, object]:
    where = {"kind": kind, "prompt": prompt, "layer": layer, "position": position}
    axes = {f"axis_{axis}": value for axis, value in enumerate(point)}
    return where | {"token_string": token} | axes
