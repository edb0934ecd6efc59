"""Render the pictures of the README and the documentation from figures stored in the notebooks.

python examples/pictures.py             # after execute.py; needs Chromium
"""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent))  # also when run as a script from another folder
PICTURES = {  # name: notebook, index of its figure, width, height
    "ellipsoid": ("norms_and_ellipsoid", 2, 760, 400),
    "tokens": ("norms_and_ellipsoid", 1, 560, 300),
    "spectrum": ("read_one_head", 0, 600, 320),
    "trajectory": ("trajectory_of_a_prompt", 1, 700, 440),
}


def for_print(figure: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the figure with small type, narrow margins and no controls."""
    layout = figure["layout"]
    for key in ("height", "sliders", "updatemenus"):
        layout.pop(key, None)
    layout["font"] = {"size": 10}
    layout["title"] |= {"font": {"size": 12}, "x": 0.03}
    layout["margin"] = {"l": 20, "r": 20, "t": 50, "b": 30}
    for scene in (part for part in layout if part.startswith("scene")):
        layout[scene]["camera"] = {"eye": {"x": 1.75, "y": 1.75, "z": 1.1}}
    for axis in ("yaxis", "yaxis2") if name == "tokens" else ():
        layout[axis] |= {"range": [11.5, -0.5], "autorange": False, "dtick": 1}
    return figure


def main() -> None:
    """Render every picture to `examples/pictures/`."""
    import nbformat

    from examples.execute import PLOTLY, chromium, outputs, to_image

    (FOLDER / "pictures").mkdir(exist_ok=True)
    with chromium() as browser:
        for name, (notebook, index, width, height) in PICTURES.items():
            stored = outputs(nbformat.read(FOLDER / f"{notebook}.ipynb", as_version=4))
            figures = [o["data"][PLOTLY] for o in stored if PLOTLY in o.get("data", {})]
            image = to_image(for_print(figures[index], name), width, height, browser)
            path = FOLDER / "pictures" / f"{name}.png"
            path.write_bytes(base64.b64decode(image))
            print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
