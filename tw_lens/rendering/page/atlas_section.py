"""The section of the page with the leading directions of all heads, as a table to search."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tw_lens.analyses import HeadAtlas
from tw_lens.rendering.figures.null_markers import KEY, null_marker, significance_sentence
from tw_lens.rendering.page.faithfulness_text import DEFINITION
from tw_lens.rendering.page.panels import Panel, Section, Table
from tw_lens.results.arguments import CIRCUITS, SIDE_NAMES

if TYPE_CHECKING:
    import pandas as pd

STANDARDISED = (
    "Scores of written tokens are standardised: logits over their deviation for what the layer "
    "writes, so that tokens with long readout directions do not lead every list."
)
LEFT, RIGHT = (
    " / ".join(SIDE_NAMES[circuit, side] for circuit in CIRCUITS) for side in ("left", "right")
)
R_NOTE = f"{DEFINITION} \u2013: not measured."
ATLAS_COLUMNS = (
    "head", "circuit", "share (%)", "singular value", LEFT, "coherence", RIGHT, "coherence", "r",
    "floor",
)  # fmt: skip


MAPS = "W_QK maps queries to keys; W_OV maps what is read to what is written."


def atlas_section(atlas: HeadAtlas, layers: tuple[int, ...]) -> Section:
    """Return the section on all heads, with links to the cards of the layers on this page."""
    title = "Top tokens of each head's leading direction"
    return Section("atlas", "Head atlas", (atlas_panel(atlas, layers, title, MAPS),))


def atlas_panel(atlas: HeadAtlas, layers: tuple[int, ...], title: str, maps: str) -> Panel:
    """Return the table of all heads.

    Args:
        atlas: the heads.
        layers: those whose heads have cards on the page.
        title: of the panel.
        maps: what the two circuits map, in a sentence.
    """
    rows, anchors = [], []
    table = atlas.to_dataframe()
    for i, row in enumerate(table.to_dict("records")):
        component, circuit = str(row["component"]), str(row["circuit"])
        share, value = round(100 * row["share"], 1), float(f"{row['singular_value']:.3g}")
        left, right = null_marker(atlas.left, i).text, null_marker(atlas.right, i).text
        tokens = (row["left_tokens"], left, row["right_tokens"], right)
        place = row["layer"], row["head"], row["circuit"]
        faithful = (of(*place) for of in (atlas.token_source.r, atlas.token_source.floor))
        rows.append((component, circuit, share, value, *tokens, *map(_rounded, faithful)))
        anchors.append(f"{component}-{circuit}" if row["layer"] in layers else None)
    linked = "; a linked head leads to its card" if any(anchors) else ""
    return Panel(
        title,
        f"{maps} Search for a token or a head, filter by layer or circuit, or sort by a column"
        f"{linked}. {STANDARDISED} Their 50 commonest tokens take "
        f"{100 * atlas.hubness('OV', 'right'):.0f} % of the entries.",
        note=f"{KEY} {significance_sentence('here', atlas.left, atlas.right)} {R_NOTE}",
        table=Table(
            f"all heads of {atlas.model_name}", ATLAS_COLUMNS, tuple(rows), tuple(anchors),
            _atlas_filters(table),
        ),
        caveats=atlas.caveats,
    )  # fmt: skip


def _rounded(value: float) -> str | float:
    return "\u2013" if value != value else round(value, 2) + 0


def _atlas_filters(atlas: pd.DataFrame) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple(
        (name, tuple(map(str, atlas[column])))
        for name, column in (("Layer", "layer"), ("Circuit", "circuit"))
    )
