"""Max-activating examples as a figure and as a widget; tokens stay text."""

from dataclasses import replace

import pytest

import tw_lens as tw
from tests.models import golden_bridge
from tests.rendering.reader import CHROMIUM, NO_CHROMIUM
from tw_lens.rendering import Widget, attention_widget, examples_widget, token_widget
from tw_lens.rendering.export.print_layout import layout_of
from tw_lens.rendering.widgets.circuitsvis import circuitsvis_script

HOSTILE = "<img/src='x'/onerror=alert(1)>"  # no space: CircuitsVis would break the tag at one
PROMPTS = ["w5 w6 w7 w8 w9", "w8 w9 w10 w11", "w12 w5 w30 w31 w32 w33 w34"]


@pytest.fixture(scope="module")
def examples():
    return tw.direction_examples(golden_bridge(), PROMPTS, layer=1, head=2, n_examples=4, context=2)


@pytest.fixture(scope="module")
def hostile(examples):
    changed = []
    for example in examples.examples:
        example = example._replace(token_string=HOSTILE, before=(HOSTILE, "&lt;"))
        values = (0.1,) * (len(example.after) + 3)
        changed.append(example._replace(counterpart_token=HOSTILE, values=values))
    return replace(examples, examples=tuple(changed))


def test_the_table_shows_every_example_in_context(examples):
    fig = examples.plot()
    layout = layout_of(fig)
    assert "L1H2 QK direction 0" in layout.title.text and len(fig.data) == 2
    for side, table, note in zip(("left", "right"), fig.data, layout.annotations, strict=True):
        of_side = examples.of_side(side)
        assert [f"<b>{one.token_string}</b>" for one in of_side] == list(table.cells.values[1])
        assert examples.words(side).token_string[0][0] in note.text
        assert examples.description(side).removeprefix(f"{side}: ") in note.text


def test_tokens_in_the_table_are_not_markup(hostile):
    cells = str(hostile.plot().to_dict())
    assert "<img" not in cells and "&lt;img" in cells


def test_a_side_without_examples_is_drawn(examples):
    one_sided = replace(examples, examples=examples.of_side("left"))
    assert one_sided.description("right").startswith("right: no")
    assert one_sided.description("right") in one_sided.headline()
    assert len(one_sided.plot().data) == 2
    tokens = examples_widget(one_sided).properties["tokens"]
    assert len(tokens[0][0]) == len(tokens[1][0])  # CircuitsVis needs equal numbers
    assert examples_widget(replace(examples, examples=())).properties["tokens"] == [[[[""]]]] * 2


def test_the_widget_holds_every_example_with_its_values(examples):
    properties = examples_widget(examples).properties
    assert properties["firstDimensionLabels"] == ["L1H2 QK 0"]
    for side, tokens, values in zip(
        ("left", "right"), properties["tokens"], properties["activations"], strict=True
    ):
        for one, row, numbers in zip(examples.of_side(side), tokens[0], values[0], strict=False):
            assert row == [*one.before, f"\u25b8{one.token_string}", *one.after]
            assert numbers == pytest.approx(one.values, rel=1e-3)


def record_events(tab) -> list[str]:
    """Record a tab's errors, dialogs and requests."""
    events: list[str] = []

    def console(message) -> None:
        if message.type == "error":
            events.append(message.text)

    def dialog(opened) -> None:
        events.append(opened.message)
        opened.dismiss()

    tab.on("console", console)
    tab.on("dialog", dialog)
    tab.on("pageerror", lambda error: events.append(str(error)))
    tab.on("request", lambda request: events.append(request.url))
    return events


@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
def test_widgets_show_hostile_tokens_as_text_without_a_network(hostile, tmp_path, browser):
    weights, states = tw.read_weights(golden_bridge()), tw.read_states(golden_bridge(), [5, 6])
    states = replace(states, token_strings=(HOSTILE, "&lt;"))
    widgets: list[Widget] = [
        examples_widget(hostile),
        token_widget(tw.trajectory(weights, states)),
        attention_widget(tw.attention_pattern(weights, states, layer=1)),
    ]
    for number, widget in enumerate(widgets):
        page = tmp_path / f"{number}.html"
        start = f'<!doctype html><meta charset="utf-8"><script>{circuitsvis_script()}</script>'
        page.write_text(start + widget.fragment(), encoding="utf-8")
        tab = browser.new_context(offline=True).new_page()
        events = record_events(tab)
        tab.goto(page.as_uri())
        tab.wait_for_selector(".widget canvas, .widget span")
        tab.wait_for_timeout(300)
        text = tab.inner_text("body").replace("\u200b", "")
        assert events == [page.as_uri()]
        on_canvas = widget.component == "AttentionHeads"  # without text to look for
        assert on_canvas or (HOSTILE in text and "&lt;" in text)
        assert tab.evaluate("document.querySelectorAll('img').length") == 0
