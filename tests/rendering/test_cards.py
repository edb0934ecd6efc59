"""The map of heads and the cards in a real browser: click, address, comparison, copy, keyboard."""

import pytest

import tw_lens as tw
from tests.models import golden_bridge
from tests.rendering.reader import CHROMIUM, NO_CHROMIUM, Reader

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)


def cell(name):
    return f"#map a[href='#{name}']"


def test_a_click_on_the_map_opens_the_card_and_names_it_in_the_address(page, browser):
    reader = Reader(browser, page)
    tab = reader.tab
    assert len(reader.cards()) == 1  # one card is open from the start
    tab.click(cell("L2H1"))
    assert reader.cards() == ["L2H1"] and tab.url.endswith("#L2H1")
    assert tab.get_attribute(cell("L2H1"), "aria-current") == "true"
    assert tab.is_visible("#L2H1-QK table") and tab.is_visible("#L2H1-OV table")
    tab.locator("#L2H1 .scores").scroll_into_view_if_needed()
    tab.wait_for_selector("#L2H1 .scores .main-svg")
    tab.click(cell("L0H3"))
    assert reader.cards() == ["L0H3"]
    assert reader.all_of("#layer-2 .card", "e.id") == ["L2H0", "L2H1", "L2H2", "L2H3"]
    tab.go_back()
    tab.wait_for_function("document.querySelector('#stage > #L2H1')")
    assert reader.errors == []


def test_layers_without_cards_are_colored_and_no_links(page, browser):
    reader = Reader(browser, page)
    assert len(reader.all_of("#map tbody td", "1")) == 12
    links = reader.all_of("#map td a", "e.getAttribute('aria-label')")
    assert links == [f"L{layer}H{head}" for layer in (0, 2) for head in range(4)]
    assert "Layers 0, 2 have cards" in reader.tab.inner_text("#heads")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("#L2H3", ["L2H3"]),
        ("#L2H3,L0H1", ["L2H3", "L0H1"]),
        ("#L2H3-OV", ["L2H3"]),
        ("#L0H0,L0H0", ["L0H0"]),
    ],
)
def test_an_address_opens_its_cards(address, expected, page, browser):
    reader = Reader(browser, page, address=address)
    assert reader.cards() == expected and reader.errors == []
    assert reader.all_of("#stage > .card", "e.open") == [True] * len(expected)
    assert abs(reader.tab.evaluate("stage.getBoundingClientRect().top")) < 900


@pytest.mark.parametrize("address", ["#L9H9", "#L1H0", "#%3Cimg%3E", "#L0H0,trajectory", "#a,b'\""])
def test_an_unknown_address_changes_nothing(address, page, browser):
    reader, other = Reader(browser, page, address=address), Reader(browser, page)
    assert reader.cards() == other.cards() and reader.errors == []


def test_two_cards_stand_side_by_side(page, browser):
    reader = Reader(browser, page, viewport={"width": 1440, "height": 900})
    tab = reader.tab
    tab.click(cell("L2H1"))
    tab.click(cell("L0H2"), modifiers=["Shift"])
    assert reader.cards() == ["L2H1", "L0H2"] and tab.url.endswith("#L2H1,L0H2")
    left, right = (tab.locator(f"#{name}").bounding_box() for name in ("L2H1", "L0H2"))
    assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"]
    tab.select_option("#second-card", "L2H3")  # without a mouse
    assert reader.cards() == ["L2H1", "L2H3"]
    tab.select_option("#second-card", "")
    assert reader.cards() == ["L2H1"]
    tab.select_option("#first-card", "L0H0")
    assert reader.cards() == ["L0H0"] and reader.errors == []


def test_the_map_is_colored_by_the_chosen_measure(page, browser):
    reader = Reader(browser, page)
    weights = tw.read_weights(golden_bridge())
    kinds = tw.head_kinds(weights, golden_bridge())
    reader.tab.select_option("#measure", label="copying")
    colored = reader.all_of("#map tbody td", "parseFloat(e.style.getPropertyValue('--v'))")
    row = list(tw.studies.HEAD_KINDS).index("copying")
    expected = (200 * (kinds.from_use[row] - 0.5)).clamp(0, 100)
    assert colored == pytest.approx(expected.tolist(), abs=0.2)
    marked = reader.all_of("#map tbody td", "e.classList.contains('marked')")
    assert marked == kinds.shown_in_use()[row].tolist()
    reader.tab.hover(cell("L0H1"))
    status = reader.tab.inner_text("#map-status")
    assert status.startswith(f"L0H1: copying {float(kinds.from_use[row, 1]):.3g}")
    atlas = tw.head_atlas(weights, n=1, score="standardised")
    reader.tab.select_option("#measure", label="OV: leading singular value")
    values = atlas.to_dataframe().query("circuit == 'OV'").singular_value
    colored = reader.all_of("#map tbody td", "parseFloat(e.style.getPropertyValue('--v'))")
    assert colored == pytest.approx((100 * values / values.max()).tolist(), abs=0.3)


@pytest.mark.parametrize("allowed", [True, False])
def test_a_card_is_copied_as_a_table(allowed, page, browser):
    """To the clipboard, or, where that is blocked, selected for the reader to copy."""
    permissions = ["clipboard-read", "clipboard-write"] * allowed
    reader = Reader(browser, page, address="#L2H3", permissions=permissions)
    tab = reader.tab
    if not allowed:
        tab.evaluate("void (navigator.clipboard.writeText = () => Promise.reject(new Error('no')))")
    tab.locator("#L2H3 .copy").press("Enter")
    if not allowed:
        tab.wait_for_function("document.querySelector('#L2H3 .copy').textContent.includes('Ctrl')")
        assert "L2H3 QK" in tab.evaluate("getSelection().toString()")
        return
    tab.wait_for_function("document.querySelector('#L2H3 .copy').textContent === 'Copied'")
    lines = [
        line.split("\t") for line in tab.evaluate("navigator.clipboard.readText()").split("\n")
    ]
    assert {line[0] for line in lines} == {"head", "L2H3"}
    weights = tw.read_weights(golden_bridge())
    spectrum = tw.head_spectrum(weights, layer=2, head=3, circuit="OV", n=10, score="standardised")
    rows = [line for line in lines if line[:2] == ["L2H3", "OV directions"]]
    assert len(rows) == 10
    for direction, row in enumerate(rows):
        assert row[3] == f"{float(spectrum.singular_values[0, direction]):.3g}"
        assert row[4] == " ".join(spectrum.left.token_string[direction])
        assert row[6] == " ".join(spectrum.right.token_string[direction])
    assert {"QK directions", "words through this head", "scores of kinds"} < {r[1] for r in lines}


def test_the_attention_of_a_card_is_saved_as_a_picture(page, browser):
    reader = Reader(browser, page, address="#L2H3")
    with reader.tab.expect_download() as download:
        reader.tab.click("#L2H3 .save")
    assert download.value.suggested_filename == "L2H3-attention.svg"


def test_the_map_is_used_by_keyboard(page, browser):
    reader = Reader(browser, page)
    tab = reader.tab
    assert reader.all_of("#map td a", "e.tabIndex").count(0) == 1  # one stop for the whole map
    tab.focus(cell("L0H0"))
    focused = "document.activeElement.getAttribute('aria-label')"
    for key, name in [
        ("ArrowRight", "L0H1"), ("ArrowDown", "L2H1"), ("ArrowDown", "L2H1"),  # layer 1 has no card
        ("ArrowLeft", "L2H0"), ("ArrowLeft", "L2H0"), ("ArrowUp", "L0H0"), ("ArrowRight", "L0H1"),
    ]:  # fmt: skip
        tab.keyboard.press(key)
        assert tab.evaluate(focused) == name
    assert tab.inner_text("#map-status").startswith("L0H1: ")
    tab.keyboard.press("Enter")
    assert reader.cards() == ["L0H1"] and tab.url.endswith("#L0H1")


def test_the_page_is_read_without_scripts(page, browser):
    reader = Reader(browser, page, java_script_enabled=False)
    tab = reader.tab
    assert tab.is_visible("#findings li") and not tab.is_visible("#first-card")
    tab.locator("#layer-2 > summary").click()
    tab.locator("#L2H1 > summary").click()
    assert tab.is_visible("#L2H1-QK table") and tab.is_visible("#L2H1 svg.spectrum")


def test_the_card_and_the_findings_are_printed(page, browser):
    reader = Reader(browser, page, address="#L2H1")
    reader.tab.emulate_media(media="print")
    assert reader.tab.is_visible("#L2H1-OV table") and reader.tab.is_visible("#findings li")
    assert not reader.tab.is_visible("#L2H1 .copy") and not reader.tab.is_visible("#measure")


@pytest.mark.parametrize("width", [390, 1440, 2560])
def test_the_page_fits_its_window(width, page, browser):
    reader = Reader(browser, page, address="#L2H1,L0H2", viewport={"width": width, "height": 900})
    assert reader.tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    edges = reader.all_of("#stage .card, #map, .findings li", "e.getBoundingClientRect().right")
    assert max(edges) <= width
