"""The page in a real browser without a network, as a reader uses it."""

import copy

import pytest

import tw_lens as tw
from tests.models import golden_bridge
from tests.rendering.reader import CHROMIUM, NO_CHROMIUM, SCROLL_THROUGH, Reader

HOSTILE = "</script><img src=x onerror=alert(1)>"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory):
    """A page whose prompt holds markup, newlines, emoji, right-to-left text and lone bytes."""
    from tw_lens.rendering.page.report import report

    model = golden_bridge()
    strings = [HOSTILE, "\n", "\U0001f426", "\u05d0\u05d1", "\udcff"]
    path = tmp_path_factory.mktemp("hostile") / "page.html"
    patch = pytest.MonkeyPatch()
    patch.setattr(model, "tokenizer", copy.deepcopy(model.tokenizer))  # strings are cached
    original = type(model.tokenizer).decode

    def decode(self, ids, **options):
        token = next(iter(ids)) if isinstance(ids, list) else int(ids)
        return strings[token - 5] if 5 <= token < 10 else original(self, ids, **options)

    patch.setattr(type(model.tokenizer), "decode", decode)
    try:
        return report(model, path, prompt=[5, 6, 7, 8, 9], layers=[0], words=[5, 6, 7, 8, 9])
    finally:
        patch.undo()


@pytest.mark.parametrize("name", ["page", "hostile_page"])
def test_every_figure_is_rendered_without_errors(name, request, browser):
    reader = Reader(browser, request.getfixturevalue(name))
    reader.tab.evaluate("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
    reader.tab.evaluate(SCROLL_THROUGH)
    reader.tab.wait_for_selector(".circuitsvis canvas, .circuitsvis span, .circuitsvis svg")
    reader.tab.wait_for_timeout(500)
    visible = "e.checkVisibility() && "
    figures = reader.all_of(
        "[data-kind=plotly]", visible + "e.querySelectorAll('.main-svg').length"
    )
    figures = [n for n in figures if n is not False]
    widgets = reader.all_of("[data-kind=circuitsvis]", "e.firstElementChild?.clientHeight || 0")
    text = reader.tab.inner_text("body")
    assert reader.errors == []
    assert [u for u in reader.requests if not u.startswith(("file:", "data:", "blob:"))] == []
    assert len(figures) > 10 and min(figures) > 0
    assert len(widgets) >= 2 and min(widgets) > 10
    assert reader.all_of("img[src=x]", "1") == []
    assert reader.tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert (HOSTILE in text) == (name == "hostile_page")


def test_figures_are_rendered_only_when_they_come_into_view(page, browser):
    reader = Reader(browser, page)
    reader.tab.locator("#tokens .deferred").first.scroll_into_view_if_needed()
    reader.tab.wait_for_selector("#tokens .main-svg")
    rendered = reader.all_of("[data-kind=plotly]", "e.querySelectorAll('.main-svg').length > 0")
    assert any(rendered) and not all(rendered)


def test_the_atlas_is_searched_sorted_and_links_to_its_heads(page, browser):
    reader = Reader(browser, page)
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
    assert reader.cards() != ["L2H3"]
    tab.click("#atlas a[href='#L2H3-OV']")
    tab.wait_for_function("document.querySelector('#stage > #L2H3')?.open")
    assert reader.cards() == ["L2H3"] and tab.is_visible("#L2H3-OV table")
    top = tab.evaluate("document.getElementById('L2H3-OV').getBoundingClientRect().top")
    assert -1 < top < 300 and reader.errors == []


def test_the_atlas_is_filtered_by_layer_and_by_circuit(page, browser):
    reader = Reader(browser, page)
    tab, rows = reader.tab, "#atlas tbody tr:not([hidden])"
    layer, circuit = tab.locator("#atlas select").all()
    layer.select_option("2")
    circuit.select_option("OV")
    heads = reader.all_of(rows, "e.cells[0].textContent + e.cells[1].textContent")
    assert heads == [f"L2H{head}OV" for head in range(4)]
    assert tab.inner_text("#atlas .count") == "4 of 24 rows"
    layer.select_option("all")
    assert len(reader.all_of(rows, "1")) == 12


@pytest.mark.parametrize("allowed", [True, False])
def test_tables_are_copied_by_keyboard(allowed, page, browser):
    """Rows go to the clipboard, or, where that is blocked, are selected for the reader to copy."""
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
        assert lines[0].startswith("head\tcircuit\t") and lines[1].startswith("L2H3\tOV\t")
        assert len(lines) == 2
    else:
        tab.wait_for_function("document.querySelector('#atlas .copy').textContent.includes('Ctrl')")
        assert "L2H3" in tab.evaluate("getSelection().toString()")
    assert reader.errors == []


def test_a_click_on_a_cell_shows_the_parts_of_its_score(page, browser):
    reader = Reader(browser, page, address="#L2H3")
    tab, place = reader.tab, "#L2H3 .scores"
    tab.locator(place).scroll_into_view_if_needed()
    tab.wait_for_selector(f"{place} table")
    model = golden_bridge()
    weights, states = tw.read_weights(model), tw.read_states(model, "w5 w6 w7 w8")
    cells = tab.locator(f"{place} .map .nsewdrag")
    cells.scroll_into_view_if_needed()
    box, n = cells.bounding_box(), len(states)
    cell = box["x"] + 1.5 * box["width"] / n, box["y"] + 3.5 * box["height"] / n
    tab.mouse.move(*cell)
    tab.wait_for_selector(f"{place} .map .hoverlayer text")
    tab.mouse.click(*cell)
    chosen = f"[...document.querySelectorAll('{place} select')].map(e => e.value).join()"
    tab.wait_for_function(f"{chosen} === '3,1'")
    expected = tw.score_attribution(weights, states, layer=2, head=3, query=3, key=1)
    sentence = tab.inner_text(f"{place} p")
    assert sentence.startswith("L2H3: the score of") and f"{expected.total:+.4g} above" in sentence
    for table, axis in ((0, 1), (1, 0)):
        sums = expected.matrix.sum(axis)
        first = int(sums.abs().argmax())
        row = tab.locator(f"{place} table").nth(table).locator("tbody tr").first.inner_text()
        assert row.split("\t") == [expected.parts[first], f"{float(sums[first]):+.3g}"]
    tab.locator(f"{place} select").nth(1).select_option("0")  # by keyboard, without the map
    assert "(0) is" in tab.inner_text(f"{place} p")
    tab.locator(f"{place} select").nth(0).select_option("0")  # sees the first position only
    assert reader.errors == []


def test_printed_figures_fit_the_page_in_dark_text(page, browser):
    reader = Reader(browser, page, color_scheme="dark", viewport={"width": 1500, "height": 900})
    tab = reader.tab
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    tab.wait_for_selector("#trajectory .main-svg")
    tab.emulate_media(media="print", color_scheme="dark")
    tab.set_viewport_size({"width": 703, "height": 1000})  # A4 between its margins
    edges = reader.all_of(".deferred", "e.getBoundingClientRect().right")
    edges += reader.all_of("#stage table, #map", "e.getBoundingClientRect().right")
    assert len(edges) > 10 and max(edges) <= 703
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not tab.is_visible("nav") and not tab.is_visible("#atlas .tools")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 320)])
def test_accessible_in_light_and_dark(scheme, width, page, browser):
    from axe_playwright_python.sync_playwright import Axe

    view = {"width": width, "height": 900}
    reader = Reader(browser, page, color_scheme=scheme, viewport=view)
    reader.tab.evaluate(SCROLL_THROUGH)
    reader.tab.wait_for_selector("#trajectory .circuitsvis .colored-tokens")
    reader.tab.wait_for_timeout(500)
    violations = Axe().run(reader.tab).response["violations"]
    assert [v["id"] for v in violations if v["impact"] != "minor"] == []
    buttons = reader.all_of("#trajectory .circuitsvis [role=button]", "e.tabIndex")
    assert len(buttons) > 3 and set(buttons) == {0}  # layers of one widget, neurons of the other
    background = reader.tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")


def test_a_keyboard_reaches_the_contents_and_the_table(page, browser):
    tab = Reader(browser, page).tab
    reached = set()
    for _ in range(400):  # plotly's own buttons take the focus too
        tab.keyboard.press("Tab")
        focus = "[document.activeElement.className, document.activeElement.tagName]"
        reached |= set(tab.evaluate(focus))
        if {"skip", "A", "INPUT", "copy", "scrolled", "scrolled-map"} <= reached:
            return
    raise AssertionError(reached)


def test_the_trajectories_are_played_layer_by_layer(browser, page):
    """The slider moves the states to a layer, and the play button to the last one."""
    reader = Reader(browser, page)
    figure = ".deferred.plotly:has(.slider-container)"
    reader.tab.evaluate("document.querySelector('#trajectory').scrollIntoView()")
    reader.tab.evaluate(SCROLL_THROUGH)
    reader.tab.wait_for_selector(".slider-container")
    trace = f"document.querySelector({figure!r}).data.find(t => t.name === 'states at this layer')"
    points = f"() => Array.from({trace}.x)"
    frames = reader.tab.evaluate(
        f"() => document.querySelector({figure!r})._transitionData._frames.map(f => f.data[0].x)"
    )
    assert len(frames) == 4 and reader.tab.evaluate(points) == frames[0]
    reader.tab.evaluate(
        f"Plotly.animate(document.querySelector({figure!r}), ['2'], "
        "{mode: 'immediate', frame: {duration: 0, redraw: true}})"
    )
    reader.tab.wait_for_timeout(300)
    assert reader.tab.evaluate(points) == frames[2]
    reader.tab.locator(f"{figure} .updatemenu-button").first.click()
    reader.tab.wait_for_timeout(2500)
    assert reader.tab.evaluate(points) == frames[3] and reader.errors == []
