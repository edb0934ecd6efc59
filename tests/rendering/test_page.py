"""The page: whole or absent, offline, and tokens stay text."""

import json
import re
import shutil
from pathlib import Path

import pytest
from plotly.offline import get_plotlyjs

import tw_lens as tw
from tests.models import golden_bridge, tiny_bridge
from tw_lens.rendering import attention_widget, coloured_tokens
from tw_lens.rendering.widgets import circuitsvis_script

HOSTILE = "</script><img src=x onerror=alert(1)>"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    return tw.report(golden_bridge(), path, prompt="w5 w6 w7 w8", layers=[0, 2])


def test_page_is_self_contained_and_certified(page):
    text = page.read_text(encoding="utf-8")
    outside = re.findall(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(?!data:)[^"]*"', text)
    assert outside == []
    assert "passed, largest relative error" in text
    assert text.count(circuitsvis_script()) == text.count(get_plotlyjs()) == 1
    for anchor in ("certificate", "words", "layer-0", "layer-2", "walk"):
        assert f'id="{anchor}"' in text


def test_only_the_page_is_left(page):
    assert [file.name for file in page.parent.iterdir()] == ["page.html"]


@pytest.mark.parametrize("step", ["Certifying", "Following the prompt", "Writing the page"])
def test_an_interruption_leaves_nothing(step, tmp_path):
    def stop(now):
        if now == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tw.report(golden_bridge(), tmp_path / "p.html", prompt="w5 w6", layers=[0], progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_refused_before_the_model_is_touched(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        tw.report(None, tmp_path / "nowhere" / "p.html", prompt="w5")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        tw.report(None, tmp_path, prompt="w5")
    with pytest.raises(IndexError, match="layer 7 does not exist"):
        tw.report(golden_bridge(), tmp_path / "p.html", prompt="w5", layers=[7])
    assert list(tmp_path.iterdir()) == []


def test_page_of_a_processed_model_without_biases(tmp_path):
    model = tiny_bridge("llama")
    model.enable_compatibility_mode()
    page = tw.report(model, tmp_path / "p.html", prompt=[5, 6, 7], layers=[1], words=["w5", 7])
    text = page.read_text(encoding="utf-8")
    assert "there is no bias direction to read" in text and "norms folded" in text
    assert "as published" not in text


def test_widgets_keep_tokens_inside_their_script():
    weights = tw.read_weights(golden_bridge())
    states = tw.read_states(golden_bridge(), "w5 w6")
    pattern = tw.attention_pattern(weights, states, layer=1)
    widget = coloured_tokens([HOSTILE, "\u2028 \n"], pattern.pattern[0, 0, :2])
    for fragment in (attention_widget(pattern).fragment(), widget.fragment()):
        assert fragment.count("</script>") == 1 and "<img" not in fragment
    inside = re.search(r"ColoredTokens, (.*)\);</script>", widget.fragment()).group(1)
    assert json.loads(inside)["tokens"][0] == HOSTILE


def test_a_place_that_only_looks_writable_is_refused_first():
    with pytest.raises(PermissionError, match="/proc cannot be written to"):
        tw.report(None, "/proc/page.html", prompt="w5")


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory):
    """A page whose prompt holds markup, newlines, emoji, right-to-left text and lone bytes."""
    from tw_lens.rendering.report import report

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


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed and could not be")
@pytest.mark.parametrize("name", ["page", "hostile_page"])
def test_opens_in_a_browser_with_the_network_off(name, request):
    from playwright.sync_api import sync_playwright

    path = Path(request.getfixturevalue(name))
    flags = ["--no-sandbox", "--disable-background-networking", "--enable-unsafe-swiftshader"]
    said, asked = [], []
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=flags)
        context = browser.new_context(offline=True)
        tab = context.new_page()
        tab.on("console", lambda m: said.append(m.text) if m.type == "error" else None)
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("dialog", lambda dialog: said.append(dialog.message))
        tab.on("request", lambda r: asked.append(r.url))
        tab.goto(path.as_uri())
        tab.wait_for_selector(".widget canvas, .widget span, .widget svg")
        tab.wait_for_timeout(1000)
        empty = tab.evaluate(
            "[...document.querySelectorAll('.js-plotly-plot')].filter("
            "e => !e.querySelector('.main-svg')).length"
        )
        widgets = tab.evaluate(
            "[...document.querySelectorAll('.widget')].map(e => e.getBoundingClientRect().height)"
        )
        images = tab.evaluate("document.querySelectorAll('img[src=x]').length")
        text = tab.inner_text("body")
        wide = tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        browser.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert empty == 0 and len(widgets) >= 2 and min(widgets) > 10 and images == 0 and wide
    assert (HOSTILE in text) == (name == "hostile_page")


def test_a_widget_in_a_notebook_has_a_frame_and_a_height():
    widget = coloured_tokens([HOSTILE], tw.token_norms(tw.read_weights(golden_bridge())).score[:1])
    shown = widget._repr_html_()
    assert shown.startswith("<iframe srcdoc=") and 'height="120"' in shown
    assert shown.count("<") == 2 and "google" not in shown.split("CircuitsVis.render(")[-1]
