"""Files of the paper's tables: each with what is known about it, and how it is written."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from tw_lens.rendering.export.paper_index import index_text
from tw_lens.rendering.export.paper_lists import LISTS, singular_vector_table, text_lists
from tw_lens.rendering.export.tables import save_table
from tw_lens.results import figure
from tw_lens.studies.paper_parts import PaperFigure, PaperPart
from tw_lens.studies.paper_result import KINDS, PaperFile, PaperTables

INDEX = "README.md"
IN_LATEX = ("embedding_distances", "token_norms")


class PlannedFile(NamedTuple):
    """A file that will be written, and the function that writes it."""

    file: PaperFile
    write: Callable[[PaperTables, Path], Any]


def planned_files(parts: Sequence[PaperPart]) -> tuple[PlannedFile, ...]:
    """Return the files of the parts: tables, lists, LaTeX tables and figures, in this order."""
    kinds = (_tables, _lists, _latex, _figures)
    return tuple(planned for kind in kinds for part in parts for planned in kind(part))


def write_files(result: PaperTables, files: Sequence[PlannedFile], folder: Path) -> None:
    """Write the planned files and the index into an empty folder."""
    from plotly.offline import get_plotlyjs

    for kind in KINDS:
        (folder / kind).mkdir()
    for file, write in files:
        write(result, folder / file.name)
    (folder / "figures" / "plotly.min.js").write_text(get_plotlyjs(), encoding="utf-8")
    (folder / INDEX).write_text(index_text(result), encoding="utf-8")


def _about(part: PaperPart, name: str, rows: int | None = None) -> PaperFile:
    return PaperFile(name, part.question, part.section, part.conventions, rows)


def _tables(part: PaperPart) -> Iterator[PlannedFile]:
    file = _about(part, f"tables/{part.name}.csv", len(part.table))
    yield PlannedFile(file, partial(_save, part.table, None))


def _lists(part: PaperPart) -> Iterator[PlannedFile]:
    if part.name in LISTS:
        file = _about(part, f"lists/{part.name}.txt")
        yield PlannedFile(file, partial(_write_lists, part))


def _latex(part: PaperPart) -> Iterator[PlannedFile]:
    if part.name in IN_LATEX:
        file = _about(part, f"latex/{part.name}.tex", len(part.table))
        yield PlannedFile(file, partial(_save, part.table, part.question))
    if part.name.startswith("singular_vectors"):
        convention = part.conventions[0]
        of_convention = part.table[part.table.convention == convention]
        for layer, rows in of_convention.groupby("layer", sort=False):
            table = singular_vector_table(pd.DataFrame(rows))
            file = _about(part, f"latex/{part.name}_layer_{layer}.tex", len(table))
            caption = f"Layer {layer}, {convention} convention. {part.question}"
            yield PlannedFile(
                file._replace(conventions=(convention,)), partial(_save, table, caption)
            )


def _figures(part: PaperPart) -> Iterator[PlannedFile]:
    for drawn in part.figures:
        file = _about(part, f"figures/{drawn.name}.html")
        if convention := getattr(drawn.result, "convention", None):
            file = file._replace(conventions=(convention,))
        yield PlannedFile(file, partial(_write_figure, drawn))


def _save(table: pd.DataFrame, caption: str | None, result: PaperTables, path: Path) -> None:
    save_table(result, path, table=table, caption=caption)


def _write_lists(part: PaperPart, result: PaperTables, path: Path) -> None:
    path.write_text(text_lists(part), encoding="utf-8")


def _write_figure(drawn: PaperFigure, result: PaperTables, path: Path) -> None:
    """Write a figure as a page that loads plotly from its own folder."""
    fig = figure(drawn.result, *drawn.options)
    title = fig.layout.title.text or ""
    convention = getattr(drawn.result, "convention", None)
    if convention and convention not in title:
        title += f", {convention}"
    fig.update_layout(title_text=f"{html.escape(result.model_name, quote=False)}: {title}")
    fig.write_html(path, include_plotlyjs="directory", auto_play=False, div_id="figure")
