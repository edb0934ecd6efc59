"""Style of all figures: a color-blind palette, one layout, and escaped tokens."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.tokens import visible

if TYPE_CHECKING:
    import plotly.graph_objects as go

# Okabe and Ito's palette: distinguishable under the common kinds of color blindness.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8A7D00")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
MUTED = "#8A8F98"
HIDDEN_LINE = {"color": MUTED, "dash": "dot"}  # of a position that only the legend shows
INK = "#16202C"
# The inner part of RdBu: dark text is legible on all of it.
LIGHT_RED_TO_BLUE = ("#D6604D", "#F4A582", "#FDDBC7", "#F7F7F7", "#D1E5F0", "#92C5DE", "#4393C3")
MUCH = "#08519C"  # the strong end of the scale from little to much
EYE = {"x": 1.5, "y": 1.5, "z": 0.9}  # the camera of every scene
NAME_IN_SCENE = {"width": 0.2, "height": 0.06}  # of the cube's side
NAME_ON_PLANE = {"width": 0.1, "height": 0.035}  # of the figure's width and height
MEASURE_LABELS = {
    "norm": "norm |x| (log)",
    "step_angle": "step angle (rad)",
    "arc_length": "arc length (rad)",
    "turning_angle": "turning angle (rad)",
    "chord": "chord (rad)",
    "tortuosity": "tortuosity (log)",
    "radial_share": "radial share",
    "tangential_share": "tangential share",
    "angle_to_embedding": "angle to own embedding (rad)",
    "angle_to_next_readout": "angle to next readout (rad)",
    "angle_to_last": "angle to last state (rad)",
    "angle_to_next": "angle to next state (rad)",
}
"""A label for each of `TRAJECTORY_MEASURES`."""
LOGARITHMIC = ("norm", "tortuosity")
UNSAFE = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})
TABLE_LETTERS = 135  # across 1100 pixels, less than fits because words wrap early


def json_in_script(value: Any) -> str:
    """Return JSON that cannot close its script element or break its lines."""
    return in_script(json.dumps(value, ensure_ascii=True, separators=(",", ":")))


def in_script(text: str) -> str:
    """Escape JSON text (`<`, `>` and `&` occur in strings only) for use in a script element."""
    return text.translate(UNSAFE)


def escape_token(token: str) -> str:
    """Return a token as plotly text: outer spaces visible, HTML escaped."""
    return html.escape(visible(token), quote=False)


def truncate(token: str, length: int = 13) -> str:
    """Shorten a token to a length, with an ellipsis; show the full token on hover."""
    return token if len(token) <= length else token[: length - 1] + "\u2026"


def non_overlapping(
    points: Float[Tensor, "points 2"], *, width: float, height: float
) -> list[bool]:
    """Return for each point whether its label fits without overlapping an earlier label.

    Args:
        points: positions on the screen (`to_screen`).
        width: the width of a label, in the same unit.
        height: its height.
    """
    labelled: list[int] = []
    for i, point in enumerate(points):
        gaps = (points[labelled] - point).abs()
        if not bool(((gaps[:, 0] < width) & (gaps[:, 1] < height)).any()):
            labelled.append(i)
    return [i in set(labelled) for i in range(len(points))]


def to_screen(
    points: Float[Tensor, "points 3"], low: Float[Tensor, " 3"], high: Float[Tensor, " 3"]
) -> Float[Tensor, "points 2"]:
    """Project points of the cube from `low` to `high` onto the screen of the camera `EYE`."""
    eye = torch.tensor([EYE["x"], EYE["y"], EYE["z"]])
    right = torch.tensor([-EYE["y"], EYE["x"], 0.0])
    axes = torch.stack([right, torch.linalg.cross(eye, right)])
    axes = axes / axes.norm(dim=-1, keepdim=True)
    return ((points - low) / (high - low).clamp_min(1e-12)).float() @ axes.T


def to_lists(values: Tensor, digits: int = 4) -> Any:
    """Return nested lists of rounded numbers (None for NaN), to keep pages small."""
    return [_round(value, digits) for value in values.tolist()]


def _round(value: Any, digits: int) -> Any:
    if isinstance(value, list):
        return [_round(inner, digits) for inner in value]
    return None if value != value else float(f"{value:.{digits}g}")


def apply_layout(fig: go.Figure, title: str, *, height: int = 420) -> go.Figure:
    """Apply the common layout to a figure: white background, light grid, title at the left."""
    fig.update_layout(
        template="plotly_white",
        title={"text": title, "x": 0, "xanchor": "left", "font": {"size": 15}},
        font={"family": "Inter, Helvetica, Arial, sans-serif", "size": 12},
        colorway=list(COLORS),
        height=height,
        margin={"l": 60, "r": 24, "t": 64, "b": 52},
    )
    return fig


def line_of(index: int) -> dict[str, str]:
    """Return color and dash of one of many lines; no two of the first 40 are alike."""
    return {
        "color": COLORS[index % len(COLORS)],
        "dash": DASHES[index // len(COLORS) % len(DASHES)],
    }


def layer_ticks(last: int) -> dict[str, Any]:
    """Return axis options that label whole layers only, about six of them."""
    return {"tickformat": "d", "dtick": max(1, last // 6)}


def traces_of(fig: go.Figure) -> list[Any]:
    """Return a figure's traces; their attributes are made at run time and have no static type."""
    return list(fig.select_traces())


def token_table(title: str, columns: Mapping[str, Iterable[Any]]) -> go.Figure:
    """Return a table as a figure, high enough for wrapped cells; the first column is narrow."""
    import plotly.graph_objects as go

    cells = [list(column) for column in columns.values()]
    table = go.Table(
        columnwidth=[1] + [3] * (len(cells) - 1),
        header={"values": list(columns), "align": "left", "fill_color": "#E8EDF3"},
        cells={"values": cells, "align": "left", "fill_color": "white", "height": 24},
    )
    letters = TABLE_LETTERS * 3 // max(1, 3 * len(cells) - 2)
    lines = [max(-(-len(str(cell)) // letters) for cell in row) for row in zip(*cells, strict=True)]
    height = min(2000, 110 + sum(12 + 17 * n for n in lines))
    fig = apply_layout(go.Figure(table), title, height=height)
    return fig.update_layout(margin={"l": 0, "r": 0, "b": 16})
