"""The page in a real browser with the network cut, as a reader uses it."""

import shutil
import sys

import pytest

import tw_lens as tw
from tests.models import golden_bridge

HOSTILE = "</script><img src=x onerror=alert(1)>"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-background-networking", "--enable-unsafe-swiftshader"]
THROUGH = """async () => {
  for (let y = 0; y < document.body.scrollHeight; y += 500) {
    window.scrollTo(0, y);
    await new Promise((wake) => setTimeout(wake, 60));
  }
}"""

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed and could not be"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    return tw.report(golden_bridge(), path, prompt="w5 w6 w7 w8", layers=[0, 2])


@pytest.fixture(scope="module")
def folded_page(tmp_path_factory):
    """A page with so many layers that each is folded."""
    path = tmp_path_factory.mktemp("folded") / "page.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["tw_lens.rendering.page.report"], "LAYERS_OPEN", 1)
        return tw.report(golden_bridge(), path, prompt="w5 w6 w7 w8", layers=[0, 2])


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory):
    """A page whose prompt holds markup, newlines, emoji, right-to-left text and lone bytes."""
    from tw_lens.rendering.page.report import report

    model = golden_bridge()
    strings = [HOSTILE, "\n", "\U0001f426", "\u05d0\u05d1", "\udcff"]
    path = tmp_path_factory.mktemp("hostile") / "page.html"
    patch = pytest.MonkeyPatch()
    original = type(model.tokenizer).decode

    def decode(self, ids, **options):
        chosen = next(iter(ids)) if isinstance(ids, list) else int(ids)
        return strings[chosen % len(strings)] if chosen < 50 else original(self, ids, **options)

    patch.setattr(type(model.tokenizer), "decode", decode)
    try:
        return report(model, path, prompt=[5, 6, 7, 8, 9], layers=[0], words=[5, 6, 7, 8, 9])
    finally:
        patch.undo()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


class Reader:
    """A tab without a network that remembers what went wrong and what was asked for."""

    def __init__(self, browser, path, **options):
        self.complaints, self.asked = [], []
        self.tab = browser.new_context(offline=True, **options).new_page()
        self.tab.on("console", lambda m: self.complaints.append(m.text) if m.type == "error" else 0)
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.tab.on("request", lambda request: self.asked.append(request.url))
        self.tab.goto(path.as_uri())
        self.tab.wait_for_selector(".deferred .main-svg")

    def all_of(self, selector, of):
        return self.tab.evaluate(f"[...document.querySelectorAll({selector!r})].map(e => {of})")


@pytest.mark.parametrize("name", ["page", "hostile_page"])
def test_every_picture_is_drawn_and_nothing_complains(name, request, browser):
    reader = Reader(browser, request.getfixturevalue(name))
    reader.tab.evaluate(THROUGH)
    reader.tab.wait_for_selector(".circuitsvis canvas, .circuitsvis span, .circuitsvis svg")
    reader.tab.wait_for_timeout(500)
    drawn = reader.all_of("[data-kind=plotly]", "e.querySelectorAll('.main-svg').length")
    widgets = reader.all_of("[data-kind=circuitsvis]", "e.firstElementChild?.clientHeight || 0")
    text = reader.tab.inner_text("body")
    assert reader.complaints == []
    assert [u for u in reader.asked if not u.startswith(("file:", "data:", "blob:"))] == []
    assert len(drawn) > 10 and min(drawn) > 0
    assert len(widgets) >= 2 and min(widgets) > 10
    assert reader.all_of("img[src=x]", "1") == []
    assert reader.tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert (HOSTILE in text) == (name == "hostile_page")


def test_pictures_wait_until_they_are_wanted(page, browser):
    reader = Reader(browser, page)
    drawn = reader.all_of("[data-kind=plotly]", "e.querySelectorAll('.main-svg').length > 0")
    assert drawn[0] and not all(drawn)


def test_the_atlas_is_searched_sorted_and_leads_to_its_heads(folded_page, browser):
    reader = Reader(browser, folded_page)
    tab, rows = reader.tab, "#atlas tbody tr:not([hidden])"
    assert len(reader.all_of(rows, "1")) == 3 * 4 * 2
    tab.fill("#atlas input", "l2h3 OV")
    assert reader.all_of(rows, "e.cells[0].textContent + e.cells[1].textContent") == ["L2H3OV"]
    assert tab.inner_text("#atlas .count") == "1 of 24 rows"
    tab.fill("#atlas input", "")
    tab.click("#atlas th:nth-child(3) button")
    shares = reader.all_of(rows, "Number(e.cells[2].textContent)")
    assert shares == sorted(shares, reverse=True) and shares[0] > shares[-1]
    tab.click("#atlas th:nth-child(3) button")
    assert reader.all_of(rows, "Number(e.cells[2].textContent)") == sorted(shares)
    assert not tab.evaluate("document.getElementById('layer-2').open")
    tab.click("#atlas a[href='#L2H3-OV']")
    tab.wait_for_function("document.getElementById('L2H3-OV').open")
    assert tab.evaluate("document.getElementById('layer-2').open")
    assert tab.is_visible("#L2H3-OV table") and reader.complaints == []


def test_hovering_a_head_shows_its_words(page, browser):
    reader = Reader(browser, page)
    place = reader.tab.locator("#atlas [data-kind=plotly]")
    place.scroll_into_view_if_needed()
    reader.tab.wait_for_selector("#atlas .main-svg")
    box = reader.tab.locator("#atlas .nsewdrag").first.bounding_box()
    reader.tab.mouse.move(box["x"] + 20, box["y"] + 10)
    reader.tab.wait_for_selector("#atlas .hovertext")
    assert "w" in reader.tab.locator("#atlas .hovertext").first.text_content()


def test_the_atlas_is_narrowed_by_layer_and_by_map(page, browser):
    reader = Reader(browser, page)
    tab, rows = reader.tab, "#atlas tbody tr:not([hidden])"
    layer, kind = tab.locator("#atlas select").all()
    layer.select_option("2")
    kind.select_option("OV")
    heads = reader.all_of(rows, "e.cells[0].textContent + e.cells[1].textContent")
    assert heads == [f"L2H{head}OV" for head in range(4)]
    assert tab.inner_text("#atlas .count") == "4 of 24 rows"
    layer.select_option("all")
    assert len(reader.all_of(rows, "1")) == 12


@pytest.mark.parametrize("allowed", [True, False])
def test_tables_are_copied_by_keyboard(allowed, page, browser):
    """To the clipboard, or, where a browser refuses that, selected for the reader to copy."""
    reader = Reader(browser, page, permissions=["clipboard-read", "clipboard-write"] * allowed)
    tab = reader.tab
    if not allowed:
        tab.evaluate("void (navigator.clipboard.writeText = () => Promise.reject(new Error('no')))")
    tab.fill("#atlas input", "l2h3 OV")
    tab.focus("#atlas .copy")
    tab.keyboard.press("Enter")
    if allowed:
        tab.wait_for_function("document.querySelector('#atlas .copy').textContent === 'Copied'")
        lines = tab.evaluate("navigator.clipboard.readText()").split("\n")
        assert lines[0].startswith("head\tmap\t") and lines[1].startswith("L2H3\tOV\t")
        assert len(lines) == 2
    else:
        tab.wait_for_function("document.querySelector('#atlas .copy').textContent.includes('Ctrl')")
        assert "L2H3" in tab.evaluate("getSelection().toString()")
    tab.locator("#L2H3-OV summary").focus()
    tab.keyboard.press("Enter")
    tab.locator("#L2H3-OV .copy").press("Enter")
    tab.wait_for_function("!document.querySelector('#L2H3-OV .copy').textContent.includes('rows')")
    assert reader.complaints == []


def test_on_paper_pictures_fit_the_width_in_dark_letters(page, browser):
    reader = Reader(browser, page, color_scheme="dark", viewport={"width": 1500, "height": 900})
    tab = reader.tab
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    tab.wait_for_selector("#walk .main-svg")
    tab.emulate_media(media="print", color_scheme="dark")
    tab.set_viewport_size({"width": 703, "height": 1000})  # A4 between its margins
    wide = reader.all_of(".deferred", "e.getBoundingClientRect().right")
    assert len(wide) > 10 and max(wide) <= 703
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not tab.is_visible("nav") and not tab.is_visible("#atlas .tools")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible_in_light_and_dark(scheme, page, browser):
    from axe_playwright_python.sync_playwright import Axe

    reader = Reader(browser, page, color_scheme=scheme)
    reader.tab.evaluate(THROUGH)
    reader.tab.wait_for_selector("#walk .circuitsvis .colored-tokens")
    reader.tab.wait_for_timeout(500)
    found = Axe().run(reader.tab).response["violations"]
    serious = [v["id"] for v in found if v["impact"] in ("serious", "critical")]
    assert serious == []
    assert reader.all_of("#walk .circuitsvis [role=button]", "e.tabIndex") == [0] * 3
    back = reader.tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (back == "rgb(255, 255, 255)") == (scheme == "light")


def test_a_keyboard_reaches_the_contents_and_the_table(page, browser):
    tab = Reader(browser, page).tab
    reached = set()
    for _ in range(400):  # plotly's own buttons are reached too
        tab.keyboard.press("Tab")
        at = "[document.activeElement.className, document.activeElement.tagName]"
        reached |= set(tab.evaluate(at))
        if {"skip", "A", "INPUT", "copy", "scrolled"} <= reached:
            return
    raise AssertionError(reached)


def test_the_walk_is_played_layer_by_layer(browser, page):
    """The slider moves the words to a layer, and the player to the last one."""
    reader = Reader(browser, page)
    place = ".deferred.plotly:has(.slider-container)"
    reader.tab.evaluate(f"document.querySelector('#walk').scrollIntoView(); {THROUGH};")
    reader.tab.evaluate(THROUGH)
    reader.tab.wait_for_selector(".slider-container")
    at = f"document.querySelector({place!r}).data.find(t => t.name === 'the words at this layer')"
    where = f"() => Array.from({at}.x)"
    frames = reader.tab.evaluate(
        f"() => document.querySelector({place!r})._transitionData._frames.map(f => f.data[0].x)"
    )
    assert len(frames) == 4 and reader.tab.evaluate(where) == frames[0]
    reader.tab.evaluate(
        f"Plotly.animate(document.querySelector({place!r}), ['2'], "
        "{mode: 'immediate', frame: {duration: 0, redraw: true}})"
    )
    reader.tab.wait_for_timeout(300)
    assert reader.tab.evaluate(where) == frames[2]
    reader.tab.locator(f"{place} .updatemenu-button").first.click()
    reader.tab.wait_for_timeout(2500)
    assert reader.tab.evaluate(where) == frames[3] and reader.complaints == []
