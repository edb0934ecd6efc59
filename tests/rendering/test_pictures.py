"""Page parts against their reference screenshots (see `pictures.py`)."""

import pytest

from tests.rendering.pictures import (
    FOLDER,
    HEIGHT,
    LIMITS,
    PARTS,
    SCHEMES,
    SCREENS,
    compare,
    open_page,
)
from tests.rendering.reader import CHROMIUM, NO_CHROMIUM

MISTAKES = {  # a style that a mistake could cause, and the parts in which it must be detected
    "no labels": (
        "text { display: none !important }",
        ["attention", "trajectory", "token-norms"],
    ),
    "no figure": (".main-svg { visibility: hidden !important }", ["certificate", "attribution"]),
    "no bars": (".bars, .heatmaplayer { display: none !important }", ["distances", "attention"]),
    "no tokens": (
        "td.tokens, td.tokens-cell { color: transparent }",
        ["atlas-table", "circuit"],
    ),
    "overlapping": ("header p { margin-top: -60px }", ["title"]),
    "one column": (".page { display: block }", ["screen-1440", "screen-2560"]),
    "no map": ("#map { display: none }", ["map"]),
    "dark text on dark": ("td { color: #14181e !important }", ["atlas-table"]),
}  # fmt: skip
ANOTHER_FONT = (
    "body, text, td, td.tokens span { font-family: 'Liberation Serif', serif !important }"
)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)


def looks_alike(tab, scheme, part):
    share, height = compare(tab, scheme, part)
    return share <= LIMITS[part] and height <= HEIGHT


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_page_matches_its_references(scheme, page, browser):
    tab = open_page(browser, page, scheme)
    assert [part for part in PARTS if not looks_alike(tab, scheme, part)] == []


@pytest.mark.parametrize("part", SCREENS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_first_screens_match_their_references(scheme, part, page, browser):
    assert looks_alike(open_page(browser, page, scheme), scheme, part)


def test_another_font_is_accepted(page, browser):
    tab = open_page(browser, page, "light")
    tab.add_style_tag(content=ANOTHER_FONT)
    assert [part for part in PARTS if not looks_alike(tab, "light", part)] == []


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_detected(mistake, page, browser):
    style, parts = MISTAKES[mistake]
    scheme = "dark" if "dark" in mistake else "light"
    tab = open_page(browser, page, scheme)
    tab.add_style_tag(content=style)
    assert [part for part in parts if looks_alike(tab, scheme, part)] == []


@pytest.mark.parametrize("width", [900, 1280])
def test_nothing_on_the_page_overlaps(width, page, browser):
    tab = open_page(browser, page, "light")
    tab.set_viewport_size({"width": width, "height": 900})
    overlaps = tab.evaluate(
        """() => [...document.querySelectorAll("main, section, header, .panel, .tools"
          + ", .heads-layout, .card-body, .columns")]
          .flatMap((whole) => {
            const boxes = [...whole.children]
              .filter((part) => part.checkVisibility()
                && getComputedStyle(part).display !== "inline")
              .map((part) => [part, part.getBoundingClientRect()]);
            return boxes.flatMap(([part, box], i) => boxes.slice(i + 1)
              .filter(([, other]) => box.left < other.right - 1 && other.left < box.right - 1
                && box.top < other.bottom - 1 && other.top < box.bottom - 1)
              .map(([other]) => part.className + " " + part.tagName + " " + other.tagName));
          })"""
    )
    assert overlaps == []
    assert tab.evaluate(
        "[...document.querySelectorAll('div.panel')].every(p => p.offsetHeight > 60)"
    )


def test_the_reference_screenshots_are_small_and_complete():
    sizes = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert set(sizes) == {f"{scheme}-{part}.png" for scheme in SCHEMES for part in LIMITS}
    assert sum(sizes.values()) < 800_000
