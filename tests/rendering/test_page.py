"""The page: whole or absent, offline, and tokens stay text."""

import json
import re
from io import StringIO

import pandas as pd
import pytest
from plotly.offline import get_plotlyjs

import tw_lens as tw
from tests.models import golden_bridge, tiny_bridge
from tw_lens.rendering import attention_widget, coloured_tokens
from tw_lens.rendering.tables import rich_table, save_table
from tw_lens.rendering.widgets import circuitsvis_script

HOSTILE = "</script><img src=x onerror=alert(1)>"


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
    for anchor in ("certificate", "words", "atlas", "layer-0", "layer-2", "walk", "L2H3-OV"):
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


def test_a_failing_write_leaves_nothing(tmp_path):
    table = tw.token_norms(tw.read_weights(golden_bridge())).top(3)
    table["object"] = [object(), 1, "mixed"]
    with pytest.raises(Exception, match="object"):
        save_table(table, tmp_path / "t.parquet")
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


def test_latex_escapes_every_special_character(tmp_path):
    table = pd.DataFrame({"token_string": ['\\{}$&#_%~^<>|"', "plain"], "score": [1.5, 2.0]})
    text = save_table(table, tmp_path / "t.tex", caption="50 % & more").read_text()
    row = next(line for line in text.splitlines() if line.endswith(r"& 1.5 \\"))
    bare = re.sub(r"\\text[a-z]+\{\}|\\[{}$&#_%]", "", row.removesuffix(r" & 1.5 \\"))
    assert bare == "" and r"50 \% \& more" in text


def test_latex_keeps_a_token_out_of_the_row_end_and_its_spaces_visible(tmp_path):
    # Row ends take arguments: `\\\\[red]` is a length and `\\\\*` is a starred row end.
    table = pd.DataFrame({"token_string": ["[red]", "*", " dog ", "a\nb"], "id": [1, 2, 3, 4]})
    text = save_table(table, tmp_path / "t.latex").read_text()
    starts = [line.split(" & ")[0] for line in text.splitlines() if line.endswith(r"\\")][1:]
    space = r"\textvisiblespace{}"
    assert starts == ["{[}red]", "{*}", f"{space}dog{space}", r"a\textbackslash{}nb"]
    assert r"\begin{tabular}{lr}" in text


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
def test_tables_come_back_as_they_were(suffix, tmp_path):
    table = pd.DataFrame({"token_string": [HOSTILE, " a,b\n", "\u05d0"], "score": [0.5, 2.0, -1.0]})
    path = save_table(table, tmp_path / f"t.{suffix}")
    pd.testing.assert_frame_equal(getattr(pd, f"read_{suffix}")(path), table)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_terminal_tables_keep_ids_whole_and_tokens_plain():
    from rich.console import Console

    def printed(table):
        console = Console(width=80, record=True, file=StringIO())
        console.print(rich_table(table, "[bold]T"))
        return console.export_text()

    assert "49151" in printed(pd.DataFrame({"token_index": [49151], "score": [0.123456]}))
    text = printed(pd.DataFrame({"token_string": ["[red]x", " dog"], "score": [1.0, 2.0]}))
    assert "[red]x" in text and "\u2423dog" in text and "[bold]T" in text


def test_a_place_that_only_looks_writable_is_refused_first():
    with pytest.raises(PermissionError, match="/proc cannot be written to"):
        tw.report(None, "/proc/page.html", prompt="w5")
