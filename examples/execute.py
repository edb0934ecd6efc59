"""Run the notebooks from top to bottom and keep their outputs, figures as small pictures too.

    python examples/execute.py              # all of them, as `make notebooks` does
    python examples/execute.py read_one     # those whose name holds this

1. Run every notebook in one kernel, emptied before each; a model is loaded once for all of them.
2. Keep tables and text as they are; leave progress bars out.
3. Draw every figure with the system's Chromium, because web pages that show notebooks run no
   scripts; beside it stays the figure itself, for JupyterLab and VS Code.
4. Write the notebook back.
"""

from __future__ import annotations

import base64
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
PLOTLY = "application/vnd.plotly.v1+json"
LARGEST_HTML = 200_000
WIDTH = 860
BEFORE = """
get_ipython().run_line_magic("reset", "-f")
import functools, plotly.io, tw_lens
if not hasattr(tw_lens.load_model, "cache_info"):
    tw_lens.load_model = functools.lru_cache(tw_lens.load_model)
plotly.io.renderers.default = "plotly_mimetype"
"""


@contextmanager
def kernel() -> Iterator[Any]:
    """One client with one kernel for all notebooks."""
    import nbformat
    from nbclient import NotebookClient

    empty = nbformat.v4.new_notebook()
    where = {"metadata": {"path": str(FOLDER)}}
    client = NotebookClient(empty, kernel_name="python3", timeout=900, resources=where)
    try:
        yield client
    finally:
        client.nb = nbformat.v4.new_notebook()
        client.execute(cleanup_kc=True)


def executed(notebook: Path, client: Any) -> Any:
    """The notebook with the outputs of a run; a cell that fails raises `CellExecutionError`."""
    import nbformat

    read = nbformat.read(notebook, as_version=4)
    read.cells.insert(0, nbformat.v4.new_code_cell(BEFORE))
    client.nb = read
    client.execute(cleanup_kc=False)
    del read.cells[0]
    return read


def outputs(notebook: Any) -> Iterator[Any]:
    """Every output of every cell."""
    for cell in notebook.cells:
        yield from cell.get("outputs", [])


def tidied(notebook: Any, browser: Any) -> Any:
    """Outputs as they are kept: no progress bars, no moments of time, pictures of figures."""
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
            cell.execution_count = None
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = None
    for output in outputs(notebook):
        data = output.get("data", {})
        if PLOTLY in data:
            data["image/png"] = drawn(data[PLOTLY], browser)
            data.pop("text/html", None)
        elif len(data.get("text/html", "")) > LARGEST_HTML:
            data["image/png"] = photographed(data.pop("text/html"), browser)
    return notebook


def drawn(figure: dict[str, Any], browser: Any) -> str:
    """A plotly figure as a PNG, in base64."""
    height = figure["layout"].get("height", 450)
    figure["layout"].setdefault("height", height)
    url = browser.evaluate(
        "([f, width, height]) => Plotly.toImage(f, {format: 'png', width, height})",
        [figure, WIDTH, height],
    )
    return str(url).split(",", 1)[1]


def photographed(page: str, browser: Any) -> str:
    """What a widget shows, as a PNG in base64."""
    tab = browser.context.new_page()
    tab.set_viewport_size({"width": WIDTH, "height": 600})
    tab.set_content(page)
    tab.wait_for_timeout(3000)
    picture = tab.locator("iframe").screenshot()
    tab.close()
    return base64.b64encode(picture).decode()


@contextmanager
def chromium() -> Iterator[Any]:
    """An empty page with plotly in the system's Chromium, offline."""
    from playwright.sync_api import sync_playwright
    from plotly.offline import get_plotlyjs

    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        raise SystemExit("the pictures need Chromium: apt-get install chromium.")
    with sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--enable-unsafe-swiftshader"]
        )
        page = browser.new_context(offline=True, device_scale_factor=1).new_page()
        page.set_content(f"<script>{get_plotlyjs()}</script>")
        yield page
        browser.close()


def main(wanted: list[str]) -> None:
    """Run the notebooks whose name holds one of the words (all of them without words)."""
    import nbformat

    chosen = [
        path
        for path in sorted(FOLDER.glob("*.ipynb"))
        if not wanted or any(word in path.name for word in wanted)
    ]
    with kernel() as client, chromium() as browser:
        for path in chosen:
            start = time.perf_counter()
            notebook = tidied(executed(path, client), browser)
            nbformat.write(notebook, path)
            took = time.perf_counter() - start
            print(f"{path.name}: {took:.0f} s, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
