"""Build hooks of the documentation site: pages made from notebooks and from the package.

1. The pictures of `examples/pictures/` are copied.
2. Every notebook of `examples/` becomes a page, with its stored outputs; nothing is executed.
3. In the reference, `::: tw_lens.NAME` names a public call, and `<!-- result classes -->` stands
   for every class of results.
"""

from __future__ import annotations

import base64
import re
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
PUBLIC_NAME = re.compile(r"^::: tw_lens\.(\w+)$", re.MULTILINE)


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
            html = html.replace(' border="1" class="dataframe"', "")  # the site styles tables
            yield f'<div class="output">{html}</div>'
        else:
            yield fenced(output.get("text") or data.get("text/plain", ""), "{ .text .output }")


def fenced(text: str, language: str) -> str:
    """Return a fenced code block."""
    return f"````{language}\n{text.rstrip()}\n````"


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Point `::: tw_lens.NAME` to the module of NAME, and list the result classes."""
    listed = "\n\n".join(f"::: {name}" for name in result_classes())
    return PUBLIC_NAME.sub(defining_module, markdown.replace(RESULT_CLASSES, listed))


def defining_module(match: re.Match[str]) -> str:
    """Return an anchor `tw_lens.NAME` and the API entry under its full path.

    Modules and calls share names (`tw_lens.analyses.head_probe`), so short paths are ambiguous.
    """
    import tw_lens

    name = match[1]
    return f"[](){{#tw_lens.{name}}}\n\n::: {getattr(tw_lens, name).__module__}.{name}"


def result_classes() -> list[str]:
    """Return the import path of every result class, in alphabetical order of the class."""
    import tw_lens.rendering  # noqa: F401 - all results are defined for it
    from tw_lens.results import Result

    own = [c for c in Result.__subclasses__() if c.__module__.startswith("tw_lens.")]
    return [f"{c.__module__}.{c.__name__}" for c in sorted(own, key=lambda c: c.__name__)]
