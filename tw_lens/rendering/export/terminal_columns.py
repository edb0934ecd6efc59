"""Columns of a table as text for the terminal: what is shown, how numbers round, what may wrap.

1. A token list is one row: its tokens stand side by side, and its best score beside them.
2. An estimate and its interval are one column: "0.77 [0.76, 0.78]".
3. Left out: ids, columns without a value, and columns that are the same in every row. Columns that
   name a row are keys.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tw_lens.rendering.export.latex import missing, numeric
from tw_lens.tokens import escaped_controls, visible

if TYPE_CHECKING:
    import pandas as pd

OF_A_TOKEN = ("rank", "token_index", "token_string", "score", "count")
OF_A_LIST = ("norm", "coherence", "exceeds_null", "faithfulness")
KEYS = (
    "model", "component", "layer", "label", "circuit", "direction", "directions", "side", "word",
    "measure", "source", "target", "place", "quantity", "rank", "prompt", "position", "neuron",
    "setting",
)  # fmt: skip
ALWAYS = ("component", "layer", "label", "word")
ESTIMATES = ("value", "mean", "correlation", "angle")
NAMES = {"token_string": "token"}
MAX_WIDTH = 20  # of a text that stays on one line
MIN_WIDTH = 16  # of a column that may wrap


@dataclass(frozen=True)
class TextColumn:
    """One column: its cells as text, and how it is laid out."""

    name: str
    cells: tuple[str, ...]
    is_number: bool = False
    is_key: bool = False

    @property
    def wraps(self) -> bool:
        """Whether the cells are long texts, which take the width that others leave."""
        return not self.is_number and max(map(len, self.cells), default=0) > MAX_WIDTH

    @property
    def min_width(self) -> int:
        """The width for a header on two lines, its words whole, and for cells that do not wrap."""
        from rich.cells import cell_len

        words = [cell_len(word) for word in self.name.split()]
        header = min(max([*words, math.ceil(cell_len(self.name) / 2)]), MAX_WIDTH)
        cells = MIN_WIDTH if self.wraps else max(map(cell_len, self.cells), default=0)
        return max(header, cells, 1)


def all_columns(table: pd.DataFrame) -> list[TextColumn]:
    """Return every column of a table that has a value."""
    columns = [_column(table, name) for name in table.columns]
    return [column for column in columns if any(column.cells)]


def readable_columns(table: pd.DataFrame) -> list[TextColumn]:
    """Return the columns of a table that are made for reading (see the module)."""
    table, intervals = lists_as_rows(table), _intervals(table)
    in_intervals = {name for ends in intervals.values() for name in ends}
    columns = [
        _estimates(table, name, *intervals[name]) if name in intervals else _column(table, name)
        for name in table.columns
        if not (name in in_intervals or _is_for_files(name, table))
    ]
    return [column for column in columns if _says_something(column)] or columns


def lists_as_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of token lists with one row per list; another table as it is.

    `tokens` holds a list's tokens, best first, two spaces between them; `best_score` its first
    score.
    """
    keys = [name for name in table.columns if name not in OF_A_TOKEN]
    if not keys or not set(OF_A_TOKEN[:-1]) <= set(table.columns):
        return table
    first = table["rank"] == 0
    lists = first.cumsum()
    tokens = table["token_string"].map(visible).groupby(lists).agg("  ".join)
    at = next((i for i, name in enumerate(keys) if name in OF_A_LIST), len(keys))
    rows = table.loc[first, keys].copy()
    rows.insert(at, "tokens", tokens.to_numpy())
    rows.insert(at + 1, "best_score", table.loc[first, "score"].to_numpy())
    return rows


def _is_for_files(name: str, table: pd.DataFrame) -> bool:
    """Whether a column is an id, or repeats another one."""
    repeated = {"layer": ("component", "label"), "head": ("component",)}.get(name, ())
    return (
        name.split("_")[-1] == "index"
        or name == "fingerprint"
        or bool({*repeated} & {*table.columns})
    )


def _says_something(column: TextColumn) -> bool:
    """Whether a column has a value, and more than one unless it names its rows."""
    different = set(column.cells)
    if different <= {""}:
        return False
    return len(column.cells) == 1 or len(different) > 1 or column.name in ALWAYS


def _intervals(table: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Return the columns of estimates with those of their interval's ends."""
    names = set(table.columns)
    own = {n: (f"{n}_low", f"{n}_high") for n in names if {f"{n}_low", f"{n}_high"} <= names}
    plain = [name for name in ESTIMATES if name in names and {"low", "high"} <= names]
    return own | dict.fromkeys(plain[:1], ("low", "high"))


def _column(table: pd.DataFrame, name: str) -> TextColumn:
    series = table[name]
    is_number = numeric(series)
    if is_number:
        cells = number_cells(series.tolist())
    else:
        cells = [_text(name, value) for value in series.tolist()]
    return TextColumn(_header(name), tuple(cells), is_number, name in KEYS)


def _estimates(table: pd.DataFrame, name: str, low: str, high: str) -> TextColumn:
    """Return estimates with their intervals; without one where it is missing."""
    parts = [table[part].tolist() for part in (name, low, high)]
    decimals = _decimals(value for part in parts for value in part)
    cells = (
        "" if missing(value) else _number(value, decimals) + _interval(ends, decimals)
        for value, *ends in zip(*parts, strict=True)
    )
    return TextColumn(f"{_header(name)} [95 % interval]", tuple(cells), is_number=True)


def _interval(ends: Sequence[Any], decimals: int | None) -> str:
    if any(map(missing, ends)):
        return ""
    return f" [{', '.join(_number(end, decimals) for end in ends)}]"


def _header(name: str) -> str:
    return NAMES.get(name, str(name)).replace("_", " ")


def _text(name: str, value: Any) -> str:
    """A value as text: outer spaces of tokens are visible."""
    if missing(value) or value == "":
        return visible("") if name == "token_string" and value == "" else ""
    if name == "measure":
        return str(value).replace("_", " ")
    is_token = name in ("token_string", "word", "reads_as") or name.split("_")[-1] == "token"
    return visible(str(value)) if is_token else escaped_controls(str(value))


def number_cells(values: Sequence[Any]) -> list[str]:
    """Return numbers of one column as text: equally many decimals, four digits of the largest.

    A number that these decimals would make 0, and columns of very small or very large numbers, are
    written with a power of ten; a missing one is "".
    """
    decimals = _decimals(values)
    return ["" if missing(value) else _number(value, decimals) for value in values]


def _decimals(values: Iterable[Any]) -> int | None:
    """Return the decimals of a column of numbers; None where powers of ten are needed."""
    numbers = [float(value) for value in values if not missing(value)]
    sizes = [abs(number) for number in numbers if math.isfinite(number) and number]
    exponent = math.floor(math.log10(max(sizes))) if sizes else 0
    if not -3 <= exponent < 6:
        return None
    if all(size == int(size) for size in sizes):
        return 0
    return max(0, 3 - exponent) if exponent >= 0 else 2 - exponent


def _number(value: Any, decimals: int | None) -> str:
    if isinstance(value, (bool, int)):
        return str(value)
    if decimals is None:
        return f"{value:.2e}" if value else "0"
    if value and abs(value) < 0.5 * 10**-decimals:
        return f"{value:.0e}"
    return f"{value:.{decimals}f}"
