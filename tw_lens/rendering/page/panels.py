"""Parts of the page: sections, panels and tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from tw_lens.errors import Caveat
from tw_lens.rendering.figures.null_markers import NullMarker

if TYPE_CHECKING:
    from markupsafe import Markup


@dataclass(frozen=True)
class Panel:
    """One panel: a title, two sentences, and a figure, widget or table.

    `note` is small print below the text; `body` is HTML made by this package; `table` can be
    searched and sorted. `folded` panels open on a click on their title.
    """

    title: str
    text: str
    body: Markup | None = None
    note: str = ""
    table: Table | None = None
    caveats: tuple[Caveat, ...] = ()
    folded: bool = False


@dataclass(frozen=True)
class Table:
    """A table to search and sort; a row's first cell links to its anchor, where it has one.

    `filters` are the columns of choices above the table: each a name with one value per row.
    """

    label: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float, ...], ...]
    anchors: tuple[str | None, ...]
    filters: tuple[tuple[str, tuple[str, ...]], ...] = ()


Cell: TypeAlias = "str | float | tuple[str, ...] | NullMarker"


@dataclass(frozen=True)
class TokenTable:
    """A small table whose cells are texts, numbers, lists of tokens, or coherences of such lists.

    `label` names it where it is copied.
    """

    label: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Section:
    """A heading with its panels."""

    anchor: str
    title: str
    panels: tuple[Panel, ...]


def refusal_panel(title: str, refusal: ValueError) -> Panel:
    """Return a panel with the reason why an analysis does not apply to the model."""
    reason = str(refusal)
    return Panel(title, reason[:1].upper() + reason[1:])
