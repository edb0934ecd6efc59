"""Figures of attention heads: probes, spectra, biases, patterns and the ellipsoid."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses import (
    AttentionPattern,
    BiasDirections,
    HeadEllipsoid,
    HeadProbe,
    HeadSpectrum,
)
from tw_lens.analyses.bias_directions import CELLS
from tw_lens.rendering.figures.null_markers import hover_text, null_marker
from tw_lens.rendering.figures.style import (
    COLORS,
    EYE,
    INK,
    LIGHT_RED_TO_BLUE,
    MUTED,
    apply_layout,
    escape_token,
    non_overlapping,
    to_lists,
    to_screen,
    token_table,
    truncate,
)
from tw_lens.results import figure

if TYPE_CHECKING:
    import plotly.graph_objects as go

MAX_ROWS = 40
LETTERS_IN_TABLE = 24
NAME_IN_HALF = {"width": 0.3, "height": 0.07}  # of the cube's side, two scenes in a row


@figure.register(HeadProbe)
def draw_head_probe(result: HeadProbe) -> go.Figure:
    """Draw the top token of every list, colored by its score; hover for the others."""
    import plotly.graph_objects as go

    n = len(result.words)
    first_of = {index: w for w, index in reversed(list(enumerate(result.word_index)))}
    rows = sorted(first_of.values())[:MAX_ROWS]  # a word given twice gets one row
    lists = [[c * n + w for c in range(len(result.components))] for w in rows]
    tokens = result.lists.token_string
    score = result.lists.score[:, 0].unflatten(0, (len(result.components), n))[:, rows].T
    heat = go.Heatmap(
        z=to_lists(score),
        x=list(result.components),
        y=[f"{escape_token(result.words[w])} ({result.word_index[w]})" for w in rows],
        text=[[escape_token(truncate(tokens[i][0])) for i in row] for row in lists],
        customdata=[[hover_text(result.lists, i) for i in row] for row in lists],
        texttemplate="%{text}",
        textfont={"size": 11, "color": INK},
        hovertemplate="%{y} through %{x}<br>%{customdata}<br>top score %{z}<extra></extra>",
        colorscale=LIGHT_RED_TO_BLUE,
        zmid=0,
        colorbar={"title": "score"},
    )
    title = f"Layer {result.layer} {result.circuit}: top token of each list"
    title += f" (first {len(rows)} of {len(first_of)} rows)" if len(rows) < len(first_of) else ""
    fig = apply_layout(go.Figure(heat), title, height=150 + 30 * len(rows))
    return fig.update_yaxes(autorange="reversed", automargin=True)


@figure.register(HeadSpectrum)
def draw_head_spectrum(result: HeadSpectrum) -> go.Figure:
    """Draw a panel per head: singular values as bars, coverage as a line with its 99 % point."""
    from plotly.subplots import make_subplots

    n = len(result.heads)
    columns = min(n, 5)
    rows = math.ceil(n / columns)
    grid = make_subplots(
        rows,
        columns,
        subplot_titles=result.components,
        specs=[[{"secondary_y": True}] * columns] * rows,
        vertical_spacing=min(0.12, 0.35 / rows),
        horizontal_spacing=0.05,
    )
    coverage, rank = result.coverage, result.singular_values.shape[-1]
    share = [100 * (i + 1) / rank for i in range(rank)]
    for h in range(n):
        row, column = h // columns + 1, h % columns + 1
        cell = {"row": row, "col": column}
        bars = {"x": share, "y": to_lists(result.singular_values[h]), "marker_color": COLORS[0]}
        grid.add_bar(**bars, name="singular value", showlegend=h == 0, **cell)
        line = {"x": share, "y": to_lists(coverage[h]), "line_color": COLORS[1], "mode": "lines"}
        grid.add_scatter(
            **line, name="cumulative share (%)", showlegend=h == 0, secondary_y=True, **cell
        )
        point = {"x": [float(result.directions_for_99[h])], "y": [99], "mode": "markers"}
        grid.add_scatter(
            **point, marker_color=COLORS[1], name="99 % reached", showlegend=h == 0,
            secondary_y=True, **cell,
        )  # fmt: skip
    grid.update_yaxes(
        range=[0, 105], tickvals=[50, 99], tickmode="array", showgrid=False, secondary_y=True
    )
    grid.update_xaxes(tickvals=[0, 50, 100])
    grid.update_yaxes(rangemode="tozero", secondary_y=False)
    title = f"Layer {result.layer} {result.circuit}: singular values (bars) and cumulative "
    title += "share (line) against % of directions"
    fig = apply_layout(grid, title, height=130 + 210 * rows)
    return fig.update_layout(legend={"orientation": "h", "y": -0.08 / rows, "yanchor": "top"})


@figure.register(BiasDirections)
def draw_bias_directions(result: BiasDirections) -> go.Figure:
    """Draw a table of each head's top tokens along the four bias directions."""
    cells = []
    for i, tokens in enumerate(result.lists.token_string):
        text = ", ".join(escape_token(truncate(token, LETTERS_IN_TABLE)) for token in tokens)
        marker = null_marker(result.lists, i).text
        cells.append(f"{text} ({marker})" if marker else text)
    columns = {"head": list(result.components)}
    for i, (side, sign) in enumerate(CELLS):
        columns[f"{sign}{side}"] = cells[i :: len(CELLS)]
    return token_table(f"Layer {result.layer}: top tokens along the bias directions", columns)


@figure.register(AttentionPattern)
def draw_attention_pattern(result: AttentionPattern) -> go.Figure:
    """Draw a heat map per head: rows are query positions, columns key positions."""
    from plotly.subplots import make_subplots

    n = result.pattern.shape[0]
    columns = min(n, 4)
    rows = math.ceil(n / columns)
    names = result.components
    grid = make_subplots(rows, columns, subplot_titles=names, horizontal_spacing=0.04)
    sides = (result.token_strings, result.key_strings)
    queries, keys = ([f"{i} {escape_token(t)}" for i, t in enumerate(side)] for side in sides)
    for head in range(n):
        grid.add_heatmap(
            z=to_lists(result.pattern[head], 3), x=keys, y=queries, zmin=0, zmax=1,
            colorscale="Blues", showscale=head == 0, row=head // columns + 1,
            col=head % columns + 1,
        )  # fmt: skip
    grid.update_yaxes(autorange="reversed", showticklabels=False)
    grid.update_xaxes(showticklabels=False)
    return apply_layout(grid, f"Layer {result.layer}: attention pattern", height=120 + 240 * rows)


@figure.register(HeadEllipsoid)
def draw_head_ellipsoid(result: HeadEllipsoid) -> go.Figure:
    """Draw the unit sphere of the leading directions, and the ellipsoid that is its image."""
    from plotly.subplots import make_subplots

    titles = ("before: unit sphere", "after: ellipsoid")
    scenes = make_subplots(1, 2, specs=[[{"type": "scene"}] * 2], subplot_titles=titles)
    unit = torch.ones(3)
    longest = unit * float(result.semi_axes.max())
    before = non_overlapping(to_screen(result.before, -unit, unit), **NAME_IN_HALF)
    after = non_overlapping(to_screen(result.after, -longest, longest), **NAME_IN_HALF)
    named = [fits and fits_after for fits, fits_after in zip(before, after, strict=True)]
    for column, (axes, points) in enumerate(
        ((unit, result.before), (result.semi_axes, result.after)), start=1
    ):
        _add_surface(scenes, axes, column)
        _add_axes(scenes, axes, column)
        scenes.add_scatter3d(
            x=to_lists(points[:, 0]), y=to_lists(points[:, 1]), z=to_lists(points[:, 2]),
            mode="markers", hovertext=[escape_token(w) for w in result.words],
            marker={"size": 4, "color": COLORS[1]}, showlegend=False,
            hovertemplate="%{hovertext}<extra></extra>", row=1, col=column,
        )  # fmt: skip
    labels = [escape_token(word) if n else "" for word, n in zip(result.words, named, strict=True)]
    scenes.update_layout(
        scene=_scene("left", unit.tolist(), _labels(labels, result.before)),
        scene2=_scene("right", result.semi_axes.tolist(), _labels(labels, result.after)),
    )
    title = f"L{result.layer}H{result.head} {result.circuit}: image of the unit sphere"
    axes = " by ".join(f"{axis:.2f}" for axis in result.semi_axes.tolist())
    return apply_layout(scenes, f"{title} (semi-axes {axes})", height=560)


def _labels(labels: list[str], points: Float[Tensor, "points 3"]) -> list[dict[str, Any]]:
    """Return annotations above the points: the surface does not hide them, as it hides text."""
    return [
        {"text": label, "x": x, "y": y, "z": z, "showarrow": False, "yshift": 12,
         "font": {"size": 11}}
        for label, (x, y, z) in zip(labels, points.tolist(), strict=True) if label
    ]  # fmt: skip


def _scene(side: str, axes: list[float], annotations: list[dict[str, Any]]) -> dict[str, Any]:
    """Scale the axes to the solid, in one unit, so that a long semi-axis stays inside its panel."""
    longest = max(axes)
    scene: dict[str, Any] = {
        "aspectmode": "manual",
        "aspectratio": {
            a: max(length / longest, 0.05) for a, length in zip("xyz", axes, strict=True)
        },
        "camera": {"eye": EYE},
        "annotations": annotations,
    }
    for i, (a, length) in enumerate(zip("xyz", axes, strict=True)):
        ticks = [0, length] if length > longest / 3 else []  # ticks of short axes would overlap
        scene[f"{a}axis"] = {
            "title": f"{side} {i}", "range": [-1.05 * length, 1.05 * length], "tickvals": ticks,
            "tickformat": ".2~f",
        }  # fmt: skip
    return scene


def _add_surface(scenes: go.Figure, axes: Float[Tensor, " 3"], column: int) -> None:
    theta = torch.linspace(0, math.pi, 19)[:, None]
    phi = torch.linspace(0, 2 * math.pi, 37)[None, :]
    x, y = axes[0] * theta.sin() * phi.cos(), axes[1] * theta.sin() * phi.sin()
    z = axes[2] * theta.cos().expand(-1, phi.shape[1])
    surface = {"opacity": 0.18, "showscale": False, "hoverinfo": "skip"}
    colors = [[0, COLORS[0]], [1, COLORS[0]]]
    scenes.add_surface(
        x=to_lists(x, 3), y=to_lists(y, 3), z=to_lists(z, 3), colorscale=colors, **surface, row=1,
        col=column,
    )  # fmt: skip


def _add_axes(scenes: go.Figure, axes: Float[Tensor, " 3"], column: int) -> None:
    for i, length in enumerate(axes.tolist()):
        ends = [[-length if j == i else 0, length if j == i else 0] for j in range(3)]
        scenes.add_scatter3d(
            x=ends[0], y=ends[1], z=ends[2], mode="lines", line={"color": MUTED, "width": 3},
            hoverinfo="skip", showlegend=False, row=1, col=column,
        )  # fmt: skip
