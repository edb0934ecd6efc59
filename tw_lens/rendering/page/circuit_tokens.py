"""One circuit of a head as tokens: its spectrum, and the token lists of its leading directions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tw_lens.analyses import HeadSpectrum
from tw_lens.analyses.degenerate_subspaces import DegenerateSubspaces, find_degenerate_subspaces
from tw_lens.canonical import Weights
from tw_lens.devices import CPU, moved
from tw_lens.rendering.figures.null_markers import null_marker
from tw_lens.rendering.page.faithfulness_text import of_head
from tw_lens.rendering.page.kinds_section import attends_by_position
from tw_lens.rendering.page.panels import TokenTable
from tw_lens.rendering.page.spectrum_picture import spectrum_picture
from tw_lens.results.arguments import SIDE_NAMES
from tw_lens.studies import HeadKinds
from tw_lens.torch_settings import default_settings

if TYPE_CHECKING:
    from markupsafe import Markup

N_DIRECTIONS, N_OPEN = 10, 5


@dataclass(frozen=True)
class CircuitTokens:
    """One circuit of one head.

    A direction in a near-degenerate subspace names it: "3 in 3-5". `note` says where tokens are
    read and how faithful that is for this head. `more` are further directions, and the same ones
    read otherwise, each with a name: by dot products, where `table` has standardised scores, and at
    learned positions.
    `above_chance`: whether more lists exceed the covariance null than chance explains; None without
    a null.
    """

    anchor: str
    name: str
    picture: Markup
    caption: str
    note: str
    table: TokenTable
    more: tuple[tuple[str, TokenTable], ...]
    above_chance: bool | None


def circuit_tokens(
    weights: Weights, spectrum: HeadSpectrum, more: dict[str, HeadSpectrum], kinds: HeadKinds
) -> list[CircuitTokens]:
    """Return one circuit of every head of a layer.

    Args:
        weights: from `read_weights`.
        spectrum: of one circuit and all heads of a layer.
        more: the same directions read otherwise, by name.
        kinds: the kinds of all heads.
    """
    block, circuit = weights.block(spectrum.layer), spectrum.circuit
    with default_settings(weights.device):
        found = find_degenerate_subspaces(block, list(spectrum.heads), circuit, n=N_DIRECTIONS)
    subspaces = moved(found, CPU)
    coverage, needed = spectrum.coverage, spectrum.directions_for_99
    circuits = []
    for h, component in enumerate(spectrum.components):
        name = f"{component} {circuit}"
        readings = [_above_chance(one, h) for one in (spectrum, *more.values())]
        unread = "" if attends_by_position(kinds, *_place(spectrum, h)) else _unread(readings)
        faithful = of_head(spectrum.token_source, *_place(spectrum, h), circuit)
        values = spectrum.singular_values[h]
        caption = f"largest singular value {float(values[0]):.3g}"
        if needed[h] == needed[h]:
            n = round(float(needed[h]) * len(values) / 100)
            caption += f"; {n} of all {len(values)} are needed to reach 99 % of their sum"
        table = _table(spectrum, h, subspaces, f"{circuit} directions", N_DIRECTIONS)
        others = [
            (other, _table(one, h, subspaces, f"{circuit} directions {other}", N_OPEN))
            for other, one in more.items()
        ]
        rest = []
        if len(table.rows) > N_OPEN:
            rest = [("more directions", replace(table, rows=table.rows[N_OPEN:]))]
        circuits.append(
            CircuitTokens(
                anchor=f"{component}-{circuit}",
                name=name,
                picture=spectrum_picture(values, coverage[h], f"spectrum of {name}: {caption}"),
                caption=f"{caption[0].upper()}{caption[1:]}.",
                note=f"{unread}{faithful}",
                table=replace(table, rows=table.rows[:N_OPEN]),
                more=(*rest, *others),
                above_chance=readings[0],
            )
        )
    return circuits


def _place(spectrum: HeadSpectrum, h: int) -> tuple[int, int]:
    return spectrum.layer, spectrum.heads[h]


def _above_chance(spectrum: HeadSpectrum, h: int) -> bool | None:
    """Return whether either side's lists exceed the covariance null more often than by chance."""
    lists = range(h * spectrum.n, (h + 1) * spectrum.n)
    counts = [side.count_above(lists) for side in (spectrum.left, spectrum.right)]
    known = [count.above_chance for count in counts if count is not None]
    return any(known) if known else None


def _unread(readings: list[bool | None]) -> str:
    """Return that nothing which is listed reads a head, where that is so; "" otherwise."""
    if any(one is not False for one in readings):
        return ""
    return (
        "No word and no position reads this: its lists exceed the covariance-matched null no more "
        "often than by chance, and it is of no kind that attends by position. "
    )


def _table(
    spectrum: HeadSpectrum, h: int, subspaces: DegenerateSubspaces, label: str, n: int
) -> TokenTable:
    rows = []
    for direction in range(min(spectrum.n, n)):
        index = h * spectrum.n + direction
        subspace = subspaces.label(h, direction)
        cells = []
        for lists in (spectrum.left, spectrum.right):
            cells += [lists.token_string[index], null_marker(lists, index)]
        where = subspace if subspace == str(direction) else f"{direction} in {subspace}"
        rows.append((where, f"{float(spectrum.singular_values[h, direction]):.3g}", *cells))
    left, right = (SIDE_NAMES[spectrum.circuit, side] for side in ("left", "right"))
    columns = ("direction", "value", left, "coherence", right, "coherence")
    return TokenTable(label, columns, tuple(rows))
