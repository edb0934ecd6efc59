"""How pictures look: colors for color-blind readers, one layout, tokens that cannot be markup."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.tokens import visible

if TYPE_CHECKING:
    import plotly.graph_objects as go

# Okabe and Ito's palette: told apart by readers with any common color blindness.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8A7D00")
MUTED = "#8A8F98"
INK = "#16202C"
# The inner part of RdBu: red and blue on which dark letters can be read.
LIGHT_RED_TO_BLUE = ("#D6604D", "#F4A582", "#FDDBC7", "#F7F7F7", "#D1E5F0", "#92C5DE", "#4393C3")
EYE = {"x": 1.5, "y": 1.5, "z": 0.9}  # the camera of every scene
NAME_IN_SCENE = {"wide": 0.2, "high": 0.06}  # of the cube's side
NAME_ON_PLANE = {"wide": 0.1, "high": 0.035}  # of the picture's
MEASURE_LABELS = {
    "norm": "norm |x| (log)",
    "step_angle": "step angle (rad)",
    "arc_length": "arc length (rad)",
    "turning_angle": "turning angle (rad)",
    "chord": "chord (rad)",
    "tortuosity": "tortuosity (log)",
    "tangential_share": "tangential share",
    "angle_to_embedding": "angle to own embedding (rad)",
    "angle_to_next_readout": "angle to next readout (rad)",
    "angle_to_last": "angle to last state (rad)",
    "angle_to_next": "angle to next state (rad)",
}
LOGARITHMIC = ("norm", "tortuosity")
UNSAFE = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})
TABLE_LETTERS = 135  # across a page of 1100 pixels, with words that wrap early


def json_in_script(value: Any) -> str:
    """JSON that cannot end the script element it stands in, nor break its lines."""
    return in_script(json.dumps(value, ensure_ascii=True, separators=(",", ":")))


def in_script(text: str) -> str:
    """JSON text (in which `<`, `>` and `&` stand in strings only) that cannot end its script."""
    return text.translate(UNSAFE)


def escape_token(token: str) -> str:
    """A token as plotly text: spaces visible, HTML escaped."""
    return html.escape(visible(token), quote=False)


def shown_in_3d(token: str) -> str:
    """A token as text in a 3-D scene, which reads tags but no HTML entities: `<` opens nothing."""
    return visible(token).replace("<", "<\u200b")


def truncate(token: str, most: int = 13) -> str:
    """A token that fits a small place; its whole belongs into the hover text."""
    return token if len(token) <= most else token[: most - 1] + "\u2026"


def non_overlapping(seen: Float[Tensor, "points 2"], *, wide: float, high: float) -> list[bool]:
    """Which points can be named without a name lying over one before.

    Args:
        seen: where the points are in the picture (`to_screen`).
        wide: the width of a name, in the same unit.
        high: its height.
    """
    named: list[int] = []
    for i, point in enumerate(seen):
        gaps = (seen[named] - point).abs()
        if not bool(((gaps[:, 0] < wide) & (gaps[:, 1] < high)).any()):
            named.append(i)
    return [i in set(named) for i in range(len(seen))]


def to_screen(
    points: Float[Tensor, "points 3"], low: Float[Tensor, " 3"], high: Float[Tensor, " 3"]
) -> Float[Tensor, "points 2"]:
    """Where points of a cube from `low` to `high` are on the screen, seen with the camera `EYE`."""
    eye = torch.tensor([EYE["x"], EYE["y"], EYE["z"]])
    right = torch.tensor([-EYE["y"], EYE["x"], 0.0])
    axes = torch.stack([right, torch.linalg.cross(eye, right)])
    axes = axes / axes.norm(dim=-1, keepdim=True)
    return ((points - low) / (high - low).clamp_min(1e-12)).float() @ axes.T


def to_lists(values: Tensor, digits: int = 4) -> Any:
    """Nested lists with few digits: pages stay small."""
    return [_round(value, digits) for value in values.tolist()]


def _round(value: Any, digits: int) -> Any:
    if isinstance(value, list):
        return [_round(inner, digits) for inner in value]
    return None if value != value else float(f"{value:.{digits}g}")


def apply_layout(figure: go.Figure, title: str, *, height: int = 420) -> go.Figure:
    """The house layout: white, quiet grid, a title that wraps at the left."""
    figure.update_layout(
        template="plotly_white",
        title={"text": title, "x": 0, "xanchor": "left", "font": {"size": 15}},
        font={"family": "Inter, Helvetica, Arial, sans-serif", "size": 12},
        colorway=list(COLORS),
        height=height,
        margin={"l": 60, "r": 24, "t": 64, "b": 52},
    )
    return figure


def word_table(title: str, columns: dict[str, Iterable[Any]]) -> go.Figure:
    """A table drawn as a figure, high enough for cells that wrap; the first column is narrow."""
    import plotly.graph_objects as go

    cells = [list(column) for column in columns.values()]
    table = go.Table(
        columnwidth=[1] + [3] * (len(cells) - 1),
        header={"values": list(columns), "align": "left", "fill_color": "#E8EDF3"},
        cells={"values": cells, "align": "left", "fill_color": "white", "height": 24},
    )
    letters = TABLE_LETTERS * 3 // max(1, 3 * len(cells) - 2)
    lines = [max(-(-len(str(cell)) // letters) for cell in row) for row in zip(*cells, strict=True)]
    drawn = apply_layout(
        go.Figure(table), title, height=min(2000, 110 + sum(12 + 17 * n for n in lines))
    )
    return drawn.update_layout(margin={"l": 0, "r": 0, "b": 16})
