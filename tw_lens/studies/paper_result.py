"""The result of `paper_tables`: the files of a folder, and its tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from tw_lens.argument_kinds import require_choice
from tw_lens.arguments import checked
from tw_lens.errors import Caveat
from tw_lens.results.arguments import Convention
from tw_lens.results.base import Result

KINDS = {"tables": "tables", "lists": "lists", "latex": "LaTeX tables", "figures": "figures"}
"""The folders of the files, with what they hold."""


class PaperFile(NamedTuple):
    """A file: its name, the question it answers, the paper's section, conventions and rows.

    `rows` is the number of rows of a table, None for other files.
    """

    name: str
    question: str
    section: str
    conventions: tuple[Convention, ...]
    rows: int | None = None

    @property
    def kind(self) -> str:
        """The folder of the file, one of `KINDS`."""
        return self.name.partition("/")[0]


@dataclass(frozen=True, repr=False, eq=False)
class PaperTables(Result):
    """The tables and figures of the paper for a model, as written into a folder.

    `tables` holds every table by its name, with the column `convention` where conventions differ.
    `prompt` are the tokens of the trajectory, `words` the probed tokens, `refused` says what cannot
    be computed for this model and why.
    """

    model_name: str
    architecture: str
    fingerprint: str
    folder: Path
    layers: tuple[int, ...]
    conventions: tuple[Convention, ...]
    words: tuple[str, ...]
    prompt: tuple[str, ...]
    files: tuple[PaperFile, ...]
    tables: Mapping[str, pd.DataFrame]
    refused: tuple[str, ...] = ()
    caveats: tuple[Caveat, ...] = ()

    def headline(self) -> str:
        """Return the conventions, the layers, the numbers of files, and the folder's name."""
        count = {kind: sum(file.kind == kind for file in self.files) for kind in KINDS}
        refused = f", {len(self.refused)} not defined" if self.refused else ""
        return (
            f"{self.model_name}, {' and '.join(self.conventions)}, layers "
            f"{', '.join(map(str, self.layers[:12]))}{', ...' if self.layers[12:] else ''}: "
            f"{', '.join(f'{n} {KINDS[kind]}' for kind, n in count.items() if n)} in "
            f"{self.folder.name}{refused}"
        )

    @checked
    def table(self, name: str) -> pd.DataFrame:
        """Return a table by its name, such as "token_norms".

        Raises:
            ValueError: there is no table of this name.
        """
        return self.tables[require_choice("table", name, tuple(self.tables))]

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per file: file, question, section, conventions, rows (of tables)."""
        rows = [
            {
                "file": file.name,
                "question": file.question,
                "section": file.section,
                "conventions": ", ".join(file.conventions),
                "rows": file.rows,
            }
            for file in self.files
        ]
        return pd.DataFrame(rows).astype({"rows": "Int64"})
