"""Screenshots of page parts, compared coarsely: another font passes, an empty panel does not.

1. Take a screenshot of a part of the page, in grey levels, at a third of its size.
2. Cut it and its reference into overlapping tiles; measure darkness and contrast of each tile.
3. A tile differs when no nearby tile is as dark and has as much contrast; few tiles may differ.

    python -m tests.rendering.pictures    # renews the reference screenshots (needs Chromium)
"""

from __future__ import annotations

import base64
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent.parent / "data" / "pictures"
FIGURES, TEXTS = 0.035, 0.15  # tiles that may differ: text wraps differently in another font
PARTS = {  # without 3-D scenes, which differ between machines
    "title": ("header", TEXTS),
    "findings": ("#findings", TEXTS),
    "map": (".map-panel", FIGURES),
    "circuit": ("#L0H1-QK", TEXTS),
    "attention": ("#stage .scores .map", FIGURES),
    "atlas-table": ("#atlas .scrolled", TEXTS),
    "distances": ("#tokens .deferred >> nth=0", FIGURES),
    "token-norms": ("#tokens .deferred >> nth=1", FIGURES),
    "trajectory": ("#trajectory .deferred >> nth=0", FIGURES),
    "attribution": ("#trajectory .deferred >> nth=1", FIGURES),
    "certificate": ("#certificate .deferred", FIGURES),
}
SCREENS = {"screen-390": 390, "screen-1440": 1440, "screen-2560": 2560}  # first screens, by width
LIMITS = {part: limit for part, (_, limit) in PARTS.items()} | dict.fromkeys(SCREENS, TEXTS)
SCHEMES = ("light", "dark")
VIEW = {"width": 1280, "height": 900}
SHRINK = 3
TILE, STRIDE, NEAR = 12, 6, 4  # in pixels of the small screenshot
DARKNESS, CONTRAST = 30, 3  # of 255, differences that are ignored
HEIGHT = 0.2  # the relative difference in height that other line wraps may cause
TO_GREY = """async ([data, width, height, shrink]) => {
  const image = new Image();
  image.src = "data:image/png;base64," + data;
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = width || Math.round(image.width / shrink);
  canvas.height = height || Math.round(image.height / shrink);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.filter = "grayscale(1)";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  const grey = Array.from(pixels.filter((_, i) => i % 4 === 0));
  return { grey, width: canvas.width, png: canvas.toDataURL().split(",")[1] };
}"""


def open_page(browser: Any, page: Path, scheme: str) -> Any:
    """Open the page in an offline tab, with the card of one head."""
    context = browser.new_context(offline=True, color_scheme=scheme, viewport=VIEW)
    tab = context.new_page()
    tab.goto(page.as_uri() + "#L0H1")
    tab.wait_for_selector("#stage .scores .main-svg")
    return tab


def screenshot(tab: Any, part: str) -> bytes:
    """Return a part of the page, or the first screen of a width, as a PNG with its figures."""
    if part in SCREENS:
        tab.set_viewport_size({"width": SCREENS[part], "height": VIEW["height"]})
        tab.evaluate("scrollTo(0, 0)")
        tab.wait_for_timeout(300)
        return tab.screenshot(animations="disabled")
    element = tab.locator(PARTS[part][0])
    element.scroll_into_view_if_needed()
    tab.wait_for_function(
        "part => !part.matches('.deferred:has(> script)')", arg=element.element_handle()
    )
    tab.wait_for_timeout(300)
    return element.screenshot(animations="disabled")


def to_grey(
    tab: Any, image: bytes, *, width: int = 0, height: int = 0, shrink: int = SHRINK
) -> tuple[Any, bytes]:
    """Return an image as grey levels and as a PNG, at a given size or reduced by a factor."""
    data = base64.b64encode(image).decode()
    result = tab.evaluate(TO_GREY, [data, width, height, shrink])
    grey = np.array(result["grey"], dtype=np.float64).reshape(-1, result["width"])
    return grey, base64.b64decode(result["png"])


def compare(tab: Any, scheme: str, part: str) -> tuple[float, float]:
    """Compare a part with its reference: the share of differing tiles, and the relative height.

    A screenshot of another height is scaled to the reference, so that rows coincide.
    """
    reference = (FOLDER / f"{scheme}-{part}.png").read_bytes()
    expected, _ = to_grey(tab, reference, shrink=1)
    image = screenshot(tab, part)
    height, width = expected.shape
    actual, _ = to_grey(tab, image, width=width, height=height)
    return differing_tiles(expected, actual), abs(to_grey(tab, image)[0].shape[0] / height - 1)


def tiles(grey: Any) -> Any:
    """Return darkness and contrast of the tile at every pixel: [2, rows, columns]."""
    contrast = np.zeros_like(grey)
    contrast[:, 1:] += np.abs(np.diff(grey, axis=1))
    contrast[1:] += np.abs(np.diff(grey, axis=0))
    return np.stack([tile_means(grey), tile_means(contrast)])


def tile_means(values: Any) -> Any:
    """Return the mean over the tile that begins at each pixel."""
    total = np.pad(values, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    corners = total[TILE:, TILE:] - total[:-TILE, TILE:] - total[TILE:, :-TILE]
    return (corners + total[:-TILE, :-TILE]) / TILE**2


def differing_tiles(expected: Any, actual: Any) -> float:
    """Return the share of tiles of either image that the other has nowhere near."""
    one, other = tiles(expected), tiles(actual)
    return max(_unmatched(one, other), _unmatched(other, one))


def _unmatched(one: Any, other: Any) -> float:
    shifts = [(down, right) for down in (-NEAR, 0, NEAR) for right in (-NEAR, 0, NEAR)]
    near = [np.roll(other, shift, axis=(1, 2)) for shift in shifts]
    dark = np.min([np.abs(one[0] - shifted[0]) for shifted in near], axis=0) > DARKNESS
    contrast = np.min(
        [np.abs(one[1] - s[1]) - np.maximum(one[1], s[1]) / 2 for s in near], axis=0
    ) > CONTRAST  # fmt: skip
    return float((dark | contrast)[::STRIDE, ::STRIDE].mean())


def main() -> None:
    """Renew the reference screenshots."""
    from tests.rendering.reader import chromium, page_of_the_tiny_model

    FOLDER.mkdir(exist_ok=True)
    with TemporaryDirectory() as folder, chromium() as browser:
        page = page_of_the_tiny_model(Path(folder))
        for scheme in SCHEMES:
            tab = open_page(browser, page, scheme)
            for part in LIMITS:
                path = FOLDER / f"{scheme}-{part}.png"
                path.write_bytes(to_grey(tab, screenshot(tab, part))[1])
                print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
