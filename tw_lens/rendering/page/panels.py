"""What the page is made of: sections, panels, tables, the words of heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tw_lens.errors import Caveat
from tw_lens.rendering.figures.null_markers import NullMarker

if TYPE_CHECKING:
    from markupsafe import Markup


@dataclass(frozen=True)
class Panel:
    """One thing to look at: what it shows, how to read it, and the thing itself.

    `note` is what else there is to know; `body` is HTML made by this package; `table` can be
    searched and sorted; `heads` are word tables, folded until wanted.
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
    """Rows to search and sort; the first cell of a row leads to `anchors`, where there is one.

    `kinds` are what rows can be chosen by, each a name with one value for every row.
    """

    label: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float, ...], ...]
    anchors: tuple[str | None, ...]
    kinds: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True)
class HeadTokens:
    """The words of one head: a row per direction (its name, value, left words, right words).

    A direction that is only known together with others names them: "3 in 3-5".

    `markers` say for every row how alike the words of the two sides are, as `NullMarker`.
    """

    anchor: str
    name: str
    sides: tuple[str, str]
    rows: tuple[tuple[str, float, tuple[str, ...], tuple[str, ...]], ...]
    markers: tuple[tuple[NullMarker, NullMarker], ...]


@dataclass(frozen=True)
class Section:
    """A heading with its panels, folded until wanted where there are many of its kind."""

    anchor: str
    title: str
    panels: tuple[Panel, ...]
    folded: bool = False


def refusal_panel(title: str, refusal: ValueError) -> Panel:
    """What stands in a panel's place when its question has no answer here: the reason."""
    reason = str(refusal)
    return Panel(title, reason[:1].upper() + reason[1:])
