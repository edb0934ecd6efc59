"""Token lists of the paper's tables as plain text, one line per list; and its table of vectors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd

from tw_lens.studies.paper_parts import PaperPart

N_LATEX = 3
SEPARATOR = ", "


class ListLayout(NamedTuple):
    """How a table becomes lists: columns of the headings, of the lines, and a number per line."""

    heading: tuple[str, ...]
    line: tuple[str, ...]
    number: str | None = None


VECTORS = ListLayout(("component", "direction"), ("side", "convention"), "singular_value")
LISTS = {
    "words_qk": ListLayout(("layer", "word"), ("component", "convention")),
    "words_ov": ListLayout(("layer", "word"), ("component", "convention", "readout"), "norm"),
    "bias_directions": ListLayout(("component",), ("sign", "side", "convention")),
    "singular_vectors_qk": VECTORS,
    "singular_vectors_ov": VECTORS,
}
"""The tables that are also written as lists."""


def text_lists(part: PaperPart) -> str:
    """Return the lists of a table as text, the conventions below each other.

    Best tokens first, as in the table: a heading per word, direction or head, then a line per list.
    """
    layout = LISTS[part.name]
    keys = [*layout.heading, *layout.line]
    in_order = {
        key: pd.Categorical(part.table[key], categories=part.table[key].unique()) for key in keys
    }
    lists = part.table.assign(**in_order).groupby(keys, observed=True)  # sorted by appearance
    lines, last = [part.question], None
    numbers = lists[layout.number].first().tolist() if layout.number else []
    tokens = lists["token_string"].agg(_quoted)
    for i, (key, text) in enumerate(tokens.items()):
        values = key if isinstance(key, tuple) else (key,)
        heading, line = values[: len(layout.heading)], values[len(layout.heading) :]
        if heading != last:
            named = zip(layout.heading, heading, strict=True)
            lines += ["", SEPARATOR.join(f"{name} {_shown(value)}" for name, value in named)]
            last = heading
        number = f" [{layout.number} {numbers[i]:.4g}]" if layout.number else ""
        lines.append(f"  {' '.join(map(str, line))}{number}: {text}")
    return "\n".join(lines) + "\n"


def singular_vector_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the first tokens of the singular vectors of a layer, one row per head and direction.

    Columns: component, direction, singular_value, left, right.
    """
    keys = ["component", "direction", "singular_value"]
    best = rows[rows["rank"] < N_LATEX]
    lists = best.groupby([*keys, "side"], sort=False)["token_string"].agg(SEPARATOR.join)
    return lists.unstack("side").reset_index()[[*keys, "left", "right"]]


def _quoted(tokens: Iterable[str]) -> str:
    return SEPARATOR.join(f"'{token}'" for token in tokens)


def _shown(value: object) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)
