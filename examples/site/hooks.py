"""Build hooks of the documentation site: pages made from notebooks and from the package.

1. The pictures of `examples/pictures/` are copied.
2. Every notebook of `examples/` becomes a page, with its stored outputs; nothing is executed.
3. `<!-- result classes -->` is replaced by an API entry for every class of results.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
BADGE = "![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)"
sys.path.insert(0, str(ROOT))
RESULT_CLASSES = "<!-- result classes -->"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pictures, and a page with images for every notebook."""
    import nbformat

    for path in sorted((EXAMPLES / "pictures").glob("*.png")):
        files.append(File.generated(config, f"pictures/{path.name}", content=path.read_bytes()))
    for path in sorted(EXAMPLES.glob("*.ipynb")):
        images: dict[str, bytes] = {}
        notebook = nbformat.read(path, as_version=4)
        parts = [part for cell in notebook.cells for part in cell_parts(cell, path.stem, images)]
        page = f"notebooks/{path.stem}.md"
        files.append(File.generated(config, page, content="\n\n".join(parts)))
        for name, data in images.items():
            files.append(File.generated(config, f"notebooks/{name}", content=data))
    return files


def cell_parts(cell: Any, stem: str, images: dict[str, bytes]) -> Iterator[str]:
    """Yield the Markdown of a cell and of its outputs; collect images by file name."""
    if cell.cell_type == "markdown":
        yield cell.source.replace(BADGE, "Open in Colab")  # the site loads nothing from outside
        return
    yield fenced(cell.source, "python")
    for output in cell.outputs:
        data = output.get("data", {})
        if "image/png" in data:
            name = f"{stem}_{len(images)}.png"
            images[name] = base64.b64decode(data["image/png"])
            yield f"![Figure {len(images)} of this notebook]({name})"
        elif "text/html" in data:
            html = "".join(line.strip() for line in data["text/html"].splitlines())
            yield f'<div class="output">{html}</div>'
        else:
            yield fenced(output.get("text") or data.get("text/plain", ""), "text")


def fenced(text: str, language: str) -> str:
    """Return a fenced code block."""
    return f"````{language}\n{text.rstrip()}\n````"


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Replace the mark for result classes by one API entry per class."""
    if RESULT_CLASSES not in markdown:
        return markdown
    return markdown.replace(RESULT_CLASSES, "\n\n".join(f"::: {name}" for name in result_classes()))


def result_classes() -> list[str]:
    """Return the import path of every result class, in alphabetical order of the class."""
    import tw_lens  # noqa: F401 - defines the classes
    from tw_lens.results import Result

    own = [c for c in Result.__subclasses__() if c.__module__.startswith("tw_lens.")]
    return [f"{c.__module__}.{c.__name__}" for c in sorted(own, key=lambda c: c.__name__)]
