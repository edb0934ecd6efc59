"""The README's pictures, one per idea, drawn small from the figures kept in the notebooks.

python examples/pictures.py             # after execute.py; needs Chromium
"""

from __future__ import annotations

import base64
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent))  # run as a script, from anywhere
PICTURES = {  # name: the notebook, which of its figures, width and height
    "ellipsoid": ("norms_and_the_ellipsoid", 2, 760, 400),
    "words": ("norms_and_the_ellipsoid", 1, 560, 300),
    "head": ("read_one_head", 0, 600, 320),
    "walk": ("walk_of_a_sentence", 1, 700, 520),
}


def main() -> None:
    """Draw every picture of the README."""
    import nbformat

    from examples.execute import PLOTLY, chromium, outputs

    (FOLDER / "pictures").mkdir(exist_ok=True)
    with chromium() as browser:
        for name, (notebook, which, width, height) in PICTURES.items():
            kept = outputs(nbformat.read(FOLDER / f"{notebook}.ipynb", as_version=4))
            figure = [o["data"][PLOTLY] for o in kept if PLOTLY in o.get("data", {})][which]
            figure["layout"].pop("height", None)
            layout = figure["layout"]
            layout["font"] = {"size": 10}
            layout["title"]["font"] = {"size": 12}
            layout["margin"] = {"l": 20, "r": 20, "t": 50, "b": 30}
            for scene in (part for part in layout if part.startswith("scene")):
                layout[scene]["camera"] = {"eye": {"x": 1.5, "y": 1.5, "z": 0.9}}
            for axis in ("yaxis", "yaxis2") if name == "words" else ():
                layout[axis] |= {"range": [11.5, -0.5], "autorange": False, "dtick": 1}
            url = browser.evaluate(
                "([f, width, height]) => Plotly.toImage(f, {format: 'png', width, height})",
                [figure, width, height],
            )
            path = FOLDER / "pictures" / f"{name}.png"
            path.write_bytes(base64.b64decode(url.split(",", 1)[1]))
            print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
