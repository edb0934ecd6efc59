"""Tables made for reading on a terminal, with rich: they fit its width and cut no word.

1. A trajectory is shown as the top tokens of its states, layer by position, and the measures of
   its last position; every other result as its table (see `terminal_columns`).
2. Columns that do not fit beside each other go to a further table below, with the same rows.
3. Tokens are never read as markup.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tw_lens.rendering.export.terminal_columns import (
    TextColumn,
    all_columns,
    number_cells,
    readable_columns,
)
from tw_lens.tokens import visible

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table
    from rich.text import Text

    from tw_lens.analyses import Trajectory

MAX_ROWS = 60
GAP = 2  # spaces between columns
NARROW = 8  # of a text that must wrap
PATH_MEASURES = ("norm", "step_angle", "arc_length", "turning_angle")


class TextTable(NamedTuple):
    """A table of text before it is laid out; without a title it is ""."""

    title: str
    columns: Sequence[TextColumn]


def terminal_tables(
    result: Any, table: pd.DataFrame, *, width: int, wide: bool = False
) -> list[Table | Text]:
    """Return what shows a result on a terminal: rich tables with their titles and notes.

    Args:
        result: any result.
        table: the rows to show.
        width: of the terminal, in characters.
        wide: every row, and every column that has a value, as files have them.
    """
    from tw_lens.analyses import Trajectory

    if wide:
        parts = [TextTable("", all_columns(table))]
    elif isinstance(result, Trajectory):
        parts = [_readouts(result), _last_path(result)]
    else:
        parts = [TextTable("", readable_columns(table))]
    max_rows = None if wide else MAX_ROWS
    return [shown for part in parts for shown in _laid_out(part, width, max_rows)]


def _laid_out(part: TextTable, width: int, max_rows: int | None) -> Iterator[Table | Text]:
    """Yield a table's title, its columns in groups that fit, and what is left out."""
    from rich.text import Text

    if part.title:
        yield Text(part.title, style="bold")
    for columns in _fitting(part.columns, width):
        yield _rich_table(columns, width, max_rows)
    n = max((len(column.cells) for column in part.columns), default=0)
    if max_rows is not None and n > max_rows:
        yield Text(f"First {max_rows} of {n} rows; --wide and files have all.")


def _readouts(path: Trajectory) -> TextTable:
    """The top token of every state's readout: one row per layer, one column per position."""
    n = len(path.token_strings)
    tops = [visible(lists[0]) for lists in path.readouts.token_string]
    positions = [
        TextColumn(visible(token), tuple(tops[position::n]))
        for position, token in enumerate(path.token_strings)
    ]
    layers = TextColumn("layer", path.labels, is_key=True)
    return TextTable("Top token of the readout, by layer and position", [layers, *positions])


def _last_path(path: Trajectory) -> TextTable:
    """The measures along the last position's path: one row per layer."""
    n = len(path.token_strings)
    values = {name: path.values[name][:, -1].tolist() for name in PATH_MEASURES}
    values["logit of top token"] = path.readouts.score[n - 1 :: n, 0].tolist()
    values["rank of final token"] = path.final_rank[:, -1].tolist()
    columns = [
        TextColumn(name.replace("_", " "), tuple(number_cells(numbers)), is_number=True)
        for name, numbers in values.items()
        if any(number == number for number in numbers)
    ]
    layers = TextColumn("layer", path.labels, is_key=True)
    title = f"Measures of the last position, {visible(path.token_strings[-1])} (angles in rad)"
    return TextTable(title, [layers, *columns])


def _fitting(columns: Sequence[TextColumn], width: int) -> Iterator[list[TextColumn]]:
    """Yield the columns in groups that fit a width, the keys at the start of every group.

    Keys that would leave less than a third of the width are columns as the others.
    """
    keys: list[TextColumn] = []
    for column in columns:
        if column.is_key and 3 * _width([*keys, column]) <= 2 * width:
            keys.append(column)
    group = keys
    for column in columns:
        if column in keys:
            continue
        if len(group) > len(keys) and _width([*group, column]) > width:
            yield group
            group = keys
        group = [*group, column]
    yield group


def _width(columns: Sequence[TextColumn]) -> int:
    return sum(column.min_width for column in columns) + GAP * (len(columns) - 1)


def _rich_table(columns: Sequence[TextColumn], width: int, max_rows: int | None) -> Table:
    """Lay columns out; where keys and one column do not fit, texts wrap and numbers do not."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    output = Table(
        header_style="bold", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False,
        collapse_padding=True,
    )  # fmt: skip
    fits = _width(columns) <= width
    for column in columns:
        fixed = column.is_number or (fits and not column.wraps)
        output.add_column(
            Text(column.name),
            justify="right" if column.is_number else "left",
            overflow="fold",
            width=column.min_width if fixed else None,
            min_width=column.min_width if fits else min(column.min_width, NARROW),
        )
    for row in list(zip(*(column.cells for column in columns), strict=True))[:max_rows]:
        output.add_row(*map(Text, row))
    return output
