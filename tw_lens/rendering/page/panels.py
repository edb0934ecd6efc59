"""Parts of the page: sections, panels, tables, and the token lists of heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tw_lens.errors import Caveat
from tw_lens.rendering.figures.null_markers import NullMarker

if TYPE_CHECKING:
    from markupsafe import Markup


@dataclass(frozen=True)
class Panel:
    """One panel: a title, two sentences, and a figure, widget or table.

    `note` is small print below the text; `body` is HTML made by this package; `table` can be
    searched and sorted; `heads` are token lists, one folded table per head.
    """

    title: str
    text: str
    body: Markup | None = None
    note: str = ""
    table: Table | None = None
    heads: tuple[HeadTokens, ...] = ()
    caveats: tuple[Caveat, ...] = ()


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


@dataclass(frozen=True)
class HeadTokens:
    """The token lists of one head: per direction its name, value, left tokens and right tokens.

    A direction in a near-degenerate subspace names it: "3 in 3-5". `markers` hold the coherence of
    the left and the right list of every row. `note` says where tokens are read and how faithful
    that is for this head. `more` are the same directions read otherwise, each with its name: by
    dot products, where `rows` has standardised scores, and at learned positions. `above_chance`:
    whether more lists exceed the covariance null than chance explains; None without a null.
    """

    anchor: str
    name: str
    sides: tuple[str, str]
    rows: tuple[tuple[str, float, tuple[str, ...], tuple[str, ...]], ...]
    markers: tuple[tuple[NullMarker, NullMarker], ...]
    note: str
    more: tuple[tuple[str, HeadTokens], ...] = ()
    above_chance: bool | None = None


@dataclass(frozen=True)
class Section:
    """A heading with its panels; folded where the page has many sections of its kind."""

    anchor: str
    title: str
    panels: tuple[Panel, ...]
    folded: bool = False


def refusal_panel(title: str, refusal: ValueError) -> Panel:
    """Return a panel with the reason why an analysis does not apply to the model."""
    reason = str(refusal)
    return Panel(title, reason[:1].upper() + reason[1:])
