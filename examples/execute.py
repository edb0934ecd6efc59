"""Execute the notebooks and store their outputs, with a PNG of every figure.

    python examples/execute.py              # all notebooks, as `make notebooks` does
    python examples/execute.py read_one     # notebooks whose name contains the text

1. Execute every notebook in one kernel, which is reset before each; models are loaded once.
2. Keep tables and text; drop progress bars.
3. Render every figure to PNG with the system's Chromium, because web pages that show notebooks
   run no scripts. The plotly figure itself stays for JupyterLab and VS Code.
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
MAX_HTML = 200_000
WIDTH = 860
SETUP = """
get_ipython().run_line_magic("reset", "-f")
import functools, plotly.io, tw_lens
if not hasattr(tw_lens.load_model, "cache_info"):
    tw_lens.load_model = functools.lru_cache(tw_lens.load_model)
plotly.io.renderers.default = "plotly_mimetype"
"""


@contextmanager
def kernel() -> Iterator[Any]:
    """Yield one client with one kernel, shared by all notebooks."""
    import nbformat
    from nbclient import NotebookClient

    empty = nbformat.v4.new_notebook()
    resources = {"metadata": {"path": str(FOLDER)}}
    client = NotebookClient(empty, kernel_name="python3", timeout=900, resources=resources)
    try:
        yield client
    finally:
        client.nb = nbformat.v4.new_notebook()
        client.execute(cleanup_kc=True)


def run_notebook(path: Path, client: Any) -> Any:
    """Return the notebook with fresh outputs.

    Raises:
        CellExecutionError: a cell fails.
    """
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(SETUP))
    client.nb = notebook
    client.execute(cleanup_kc=False)
    del notebook.cells[0]
    return notebook


def outputs(notebook: Any) -> Iterator[Any]:
    """Yield every output of every cell."""
    for cell in notebook.cells:
        yield from cell.get("outputs", [])


def clean_outputs(notebook: Any, browser: Any) -> Any:
    """Drop progress bars and run times, and add a PNG to every figure and large widget."""
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
            data["image/png"] = figure_png(data[PLOTLY], browser)
            data.pop("text/html", None)
        elif len(data.get("text/html", "")) > MAX_HTML:
            data["image/png"] = widget_png(data.pop("text/html"), browser)
    return notebook


def figure_png(figure: dict[str, Any], browser: Any) -> str:
    """Return a plotly figure as PNG in base64."""
    height = figure["layout"].get("height", 450)
    figure["layout"].setdefault("height", height)
    return to_image(figure, WIDTH, height, browser)


def to_image(figure: dict[str, Any], width: int, height: int, browser: Any) -> str:
    """Return a plotly figure of the given size as PNG in base64."""
    url = browser.evaluate(
        "([f, width, height]) => Plotly.toImage(f, {format: 'png', width, height})",
        [figure, width, height],
    )
    return str(url).split(",", 1)[1]


def widget_png(page: str, browser: Any) -> str:
    """Return a screenshot of a widget's frame as PNG in base64."""
    tab = browser.context.new_page()
    tab.set_viewport_size({"width": WIDTH, "height": 600})
    tab.set_content(page)
    tab.wait_for_timeout(3000)
    image = tab.locator("iframe").screenshot()
    tab.close()
    return base64.b64encode(image).decode()


@contextmanager
def chromium() -> Iterator[Any]:
    """Yield an empty page with plotly in the system's Chromium, offline."""
    from playwright.sync_api import sync_playwright
    from plotly.offline import get_plotlyjs

    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        raise SystemExit("figures require Chromium; install it with: apt-get install chromium.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--enable-unsafe-swiftshader"]
        )
        page = browser.new_context(offline=True, device_scale_factor=1).new_page()
        page.set_content(f"<script>{get_plotlyjs()}</script>")
        yield page
        browser.close()


def main(parts: list[str]) -> None:
    """Execute the notebooks whose name contains one of the parts; all notebooks without parts."""
    import nbformat

    paths = [
        path
        for path in sorted(FOLDER.glob("*.ipynb"))
        if not parts or any(part in path.name for part in parts)
    ]
    with kernel() as client, chromium() as browser:
        for path in paths:
            start = time.perf_counter()
            notebook = clean_outputs(run_notebook(path, client), browser)
            nbformat.write(notebook, path)
            seconds = time.perf_counter() - start
            print(f"{path.name}: {seconds:.0f} s, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
