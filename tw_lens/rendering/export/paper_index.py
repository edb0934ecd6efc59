"""The index of the paper's tables, in Markdown: the model, the conventions, files and caveats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from tw_lens._version import versions
from tw_lens.rendering.export.tables import cite, markdown_text
from tw_lens.results.base import plural
from tw_lens.studies.paper_result import PaperFile, PaperTables

CONVENTIONS = {
    "published": "what the paper's experiments compute: raw weights, tokens with the layer's own "
    "gain and bias, no query or key bias, scores against the raw embedding.",
    "exact": "what the model computes: the canonical form of its weights, every bias, its own "
    "readout. `coherence` and `exceeds_null` compare a list with those of random directions.",
}
READING = (
    "Read a table with `pandas.read_csv(file, keep_default_na=False, na_values=[''])`: some "
    "tokens are spelled like missing values. The column `cite` holds the line to cite it by. Ranks "
    "and directions count from 0. Figures are interactive pages and need `plotly.min.js` beside "
    "them."
)
NOT_HERE = (
    "Projections are fitted jointly to the states and tokens under the final norm, in the exact "
    "convention only: the published map is UMAP of the first 10,000 embeddings, whose coordinates "
    "cannot be reproduced. States over many prompts: `trajectory_alignment`."
)


def index_text(result: PaperTables) -> str:
    """Return the index of a folder."""
    return "\n\n".join(_paragraphs(result)) + "\n"


def _paragraphs(result: PaperTables) -> Iterator[str]:
    yield f"# Tables of the paper: {markdown_text(result.model_name)}"
    yield (
        "The tables, lists and figures of *Traveling Words: A Geometric Interpretation of "
        "Transformers* (arXiv 2309.07315), computed for this model."
    )
    yield _items(
        {
            "model": markdown_text(f"{result.model_name} ({result.architecture})"),
            "fingerprint of the parameters": result.fingerprint,
            "versions": versions(),
            "layers": ", ".join(map(str, result.layers)),
            "prompt": markdown_text(" ".join(f"'{token}'" for token in result.prompt)),
            "probed": f"{plural(len(result.words), 'word')}, listed in `tables/words_qk.csv`",
            "to cite": markdown_text(cite(result)),
        }.items()
    )
    yield "## Conventions"
    yield _items((name, CONVENTIONS[name]) for name in result.conventions)
    yield f"{READING} {NOT_HERE}"
    yield "## Files"
    for (section, question), files in groupby(_by_question(result.files), key=_question_of):
        yield f"**Section {section}. {markdown_text(question)}**"
        yield "\n".join(f"- {_link(file)}" for file in files)
    if result.refused:
        yield "## Not defined for this model"
        yield "\n".join(f"- {markdown_text(sentence)}" for sentence in result.refused)
    if result.caveats:
        yield "## Caveats"
        yield _items((caveat.name, markdown_text(caveat.sentence)) for caveat in result.caveats)


def _items(pairs: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"- **{name}**: {text}" for name, text in pairs)


def _question_of(file: PaperFile) -> tuple[str, str]:
    return file.section, file.question


def _by_question(files: Sequence[PaperFile]) -> list[PaperFile]:
    """Return the files of a question together; sections in the paper's order."""
    first = {_question_of(file): i for i, file in reversed(list(enumerate(files)))}
    return sorted(files, key=lambda file: (file.section, first[_question_of(file)]))


def _link(file: PaperFile) -> str:
    rows = "" if file.rows is None else f", {file.rows:,} rows"
    return f"[{file.name}]({file.name}) ({' and '.join(file.conventions)}{rows})"
