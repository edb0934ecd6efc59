"""Parts of the page as pictures, compared coarsely: another font passes, an empty panel does not.

1. A part of the page is photographed, made grey and a third as large.
2. Both pictures are cut into overlapping tiles; of each, how dark and how busy it is.
3. A tile differs when no place close by is as dark and as busy; few tiles may differ.

    python -m tests.rendering.pictures    # takes the reference pictures anew (needs Chromium)
"""

from __future__ import annotations

import base64
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent.parent / "data" / "pictures"
FIGURES, TEXTS = 0.035, 0.15  # of the tiles may differ: text runs on elsewhere in another font
PARTS = {  # without 3-D, which other machines draw otherwise
    "title": ("header", TEXTS),
    "certificate": ("#certificate .deferred", FIGURES),
    "distances": ("#words .deferred >> nth=0", FIGURES),
    "loudest": ("#words .deferred >> nth=1", FIGURES),
    "atlas": ("#atlas .deferred", FIGURES),
    "heads": ("#atlas .scrolled", TEXTS),
    "probe": ("#layer-0 .deferred >> nth=0", FIGURES),
    "spectrum": ("#layer-0 .deferred >> nth=2", FIGURES),
    "words": ("#L0H1-QK", TEXTS),
    "walk": ("#walk .deferred >> nth=0", FIGURES),
    "movers": ("#walk .deferred >> nth=1", FIGURES),
}
SCHEMES = ("light", "dark")
VIEW = {"width": 1280, "height": 900}
SMALLER = 3
TILE, STRIDE, NEAR = 12, 6, 4  # in pixels of the small picture
DARKER, BUSIER = 30, 3  # of 255, what is not seen as a difference
TALLER = 0.2  # fonts wrap lines elsewhere
SMALL = """async ([data, width, height, smaller]) => {
  const picture = new Image();
  picture.src = "data:image/png;base64," + data;
  await picture.decode();
  const drawn = document.createElement("canvas");
  drawn.width = width || Math.round(picture.width / smaller);
  drawn.height = height || Math.round(picture.height / smaller);
  const pen = drawn.getContext("2d", { willReadFrequently: true });
  pen.imageSmoothingQuality = "high";
  pen.filter = "grayscale(1)";
  pen.drawImage(picture, 0, 0, drawn.width, drawn.height);
  const pixels = pen.getImageData(0, 0, drawn.width, drawn.height).data;
  const grey = Array.from(pixels.filter((_, at) => at % 4 === 0));
  return { grey, width: drawn.width, png: drawn.toDataURL().split(",")[1] };
}"""


def opened(browser: Any, page: Path, scheme: str) -> Any:
    """The page in a tab without a network, one head's words open."""
    context = browser.new_context(offline=True, color_scheme=scheme, viewport=VIEW)
    tab = context.new_page()
    tab.goto(page.as_uri())
    tab.wait_for_selector(".deferred .main-svg")
    tab.evaluate("document.querySelector('#L0H1-QK').open = true")
    return tab


def photographed(tab: Any, part: str) -> bytes:
    """A part of the page as it is shown, its picture drawn, as a PNG."""
    place = tab.locator(PARTS[part][0])
    place.scroll_into_view_if_needed()
    tab.wait_for_function(
        "part => !part.querySelector(':scope > script')", arg=place.element_handle()
    )
    tab.wait_for_timeout(300)
    return place.screenshot(animations="disabled")


def small(
    tab: Any, picture: bytes, *, width: int = 0, height: int = 0, smaller: int = SMALLER
) -> tuple[Any, bytes]:
    """A picture as grey levels and as a PNG: of a size, or so many times smaller."""
    data = base64.b64encode(picture).decode()
    made = tab.evaluate(SMALL, [data, width, height, smaller])
    grey = np.array(made["grey"], dtype=np.float64).reshape(-1, made["width"])
    return grey, base64.b64decode(made["png"])


def compared(tab: Any, scheme: str, part: str) -> tuple[float, float]:
    """How a part differs from its reference: in which share of its tiles, and how much in height.

    A taller picture is pressed to the other's height, so that its rows lie over each other.
    """
    kept = (FOLDER / f"{scheme}-{part}.png").read_bytes()
    expected, _ = small(tab, kept, smaller=1)
    taken = photographed(tab, part)
    high, wide = expected.shape
    found, _ = small(tab, taken, width=wide, height=high)
    return differing(expected, found), abs(small(tab, taken)[0].shape[0] / high - 1)


def tiles(grey: Any) -> Any:
    """How dark and how busy every tile is: [2, rows, columns], a tile at every pixel."""
    busy = np.zeros_like(grey)
    busy[:, 1:] += np.abs(np.diff(grey, axis=1))
    busy[1:] += np.abs(np.diff(grey, axis=0))
    return np.stack([boxed(grey), boxed(busy)])


def boxed(values: Any) -> Any:
    """The mean over the tile that begins at each pixel."""
    total = np.pad(values, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    high, wide = TILE, TILE
    corners = total[high:, wide:] - total[:-high, wide:] - total[high:, :-wide]
    return (corners + total[:-high, :-wide]) / (high * wide)


def differing(expected: Any, found: Any) -> float:
    """The share of tiles of one grey picture that the other has nowhere near, either way round."""
    one, other = tiles(expected), tiles(found)
    return max(_missing(one, other), _missing(other, one))


def _missing(one: Any, other: Any) -> float:
    shifts = [(down, right) for down in (-NEAR, 0, NEAR) for right in (-NEAR, 0, NEAR)]
    near = [np.roll(other, shift, axis=(1, 2)) for shift in shifts]
    dark = np.min([np.abs(one[0] - shifted[0]) for shifted in near], axis=0) > DARKER
    busy = np.min(
        [np.abs(one[1] - s[1]) - np.maximum(one[1], s[1]) / 2 for s in near], axis=0
    ) > BUSIER  # fmt: skip
    return float((dark | busy)[::STRIDE, ::STRIDE].mean())


def main() -> None:
    """Take the reference pictures anew."""
    from tests.rendering.test_pictures import chromium, page_of_the_tiny_model

    FOLDER.mkdir(exist_ok=True)
    with TemporaryDirectory() as folder, chromium() as browser:
        page = page_of_the_tiny_model(Path(folder))
        for scheme in SCHEMES:
            tab = opened(browser, page, scheme)
            for part in PARTS:
                path = FOLDER / f"{scheme}-{part}.png"
                path.write_bytes(small(tab, photographed(tab, part))[1])
                print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
