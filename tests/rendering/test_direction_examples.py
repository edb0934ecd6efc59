"""The places where a direction is used, as a table and as a widget; tokens stay text."""

import shutil
from dataclasses import replace

import pytest

import tw_lens as tw
from tests.models import golden_bridge
from tw_lens.rendering import Widget, attention_widget, examples_widget, token_widget
from tw_lens.rendering.widgets.circuitsvis import circuitsvis_script

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-background-networking", "--enable-unsafe-swiftshader"]
HOSTILE = "<img/src='x'/onerror=alert(1)>"  # no space: CircuitsVis would break the tag at one
PROMPTS = ["w5 w6 w7 w8 w9", "w8 w9 w10 w11", "w12 w5 w30 w31 w32 w33 w34"]


@pytest.fixture(scope="module")
def found():
    return tw.direction_examples(golden_bridge(), PROMPTS, layer=1, head=2, k=4, context=2)


@pytest.fixture(scope="module")
def hostile(found):
    examples = (u._replace(token_string=HOSTILE, before=(HOSTILE, "&lt;"), counterpart_token=HOSTILE)
            for u in found.examples)  # fmt: skip
    examples = (u._replace(values=(0.1,) * (len(u.after) + 3)) for u in examples)
    return replace(found, examples=tuple(examples))


def test_the_table_shows_every_place_between_its_neighbours(found):
    drawn = found.plot()
    assert "L1H2 QK direction 0" in drawn.layout.title.text and len(drawn.data) == 2
    for side, table, note in zip(
        ("left", "right"), drawn.data, drawn.layout.annotations, strict=True
    ):
        places = found.of_side(side)
        assert [f"<b>{use.token_string}</b>" for use in places] == list(table.cells.values[1])
        assert found.words(side).token_string[0][0] in note.text
        assert found.description(side).removeprefix(f"{side}: ") in note.text


def test_tokens_in_the_table_are_no_markup(hostile):
    cells = str(hostile.plot().to_dict())
    assert "<img" not in cells and "&lt;img" in cells


def test_a_side_without_places_is_drawn(found):
    empty = replace(found, examples=found.of_side("left"))
    assert "right: no place" in empty.headline()
    assert len(empty.plot().data) == 2
    tokens = examples_widget(empty).properties["tokens"]
    assert len(tokens[0][0]) == len(tokens[1][0])  # what CircuitsVis asks for
    assert examples_widget(replace(found, examples=())).properties["tokens"] == [[[[""]]]] * 2


def test_the_widget_holds_every_place_with_its_values(found):
    given = examples_widget(found).properties
    assert given["firstDimensionLabels"] == ["L1H2 QK 0"]
    for side, tokens, values in zip(
        ("left", "right"), given["tokens"], given["activations"], strict=True
    ):
        for use, row, numbers in zip(found.of_side(side), tokens[0], values[0], strict=False):
            assert row == [*use.before, f"\u25b8{use.token_string}", *use.after]
            assert numbers == pytest.approx(use.values, rel=1e-3)


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed and could not be")
def test_widgets_show_hostile_tokens_as_text_without_a_network(hostile, tmp_path):
    from playwright.sync_api import sync_playwright

    weights, states = tw.read_weights(golden_bridge()), tw.read_states(golden_bridge(), [5, 6])
    states = replace(states, token_strings=(HOSTILE, "&lt;"))
    widgets: list[Widget] = [
        examples_widget(hostile),
        token_widget(tw.trajectory(weights, states)),
        attention_widget(tw.attention_pattern(weights, states, layer=1)),
    ]
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for number, widget in enumerate(widgets):
            page = tmp_path / f"{number}.html"
            start = f'<!doctype html><meta charset="utf-8"><script>{circuitsvis_script()}</script>'
            page.write_text(start + widget.fragment(), encoding="utf-8")
            tab = browser.new_context(offline=True).new_page()
            happened: list[str] = []
            tab.on("console", lambda m, to=happened: to.append(m.text) if m.type == "error" else 0)
            tab.on("pageerror", lambda error, to=happened: to.append(str(error)))
            tab.on("dialog", lambda d, to=happened: (to.append(d.message), d.dismiss()))
            tab.on("request", lambda request, to=happened: to.append(request.url))
            tab.goto(page.as_uri())
            tab.wait_for_selector(".widget canvas, .widget span")
            tab.wait_for_timeout(300)
            escape_token = tab.inner_text("body").replace("\u200b", "")
            assert happened == [page.as_uri()]
            drawn = widget.component == "AttentionHeads"  # on a canvas, without text to look for
            assert drawn or (HOSTILE in escape_token and "&lt;" in escape_token)
            assert tab.evaluate("document.querySelectorAll('img').length") == 0
        browser.close()
