"""The page: whole or absent, offline, and tokens stay text."""

import json
import re
from dataclasses import replace

import pytest
import torch
from plotly.offline import get_plotlyjs

import tw_lens as tw
from tests.models import golden_bridge, tiny_bridge
from tw_lens.rendering import attention_widget, token_widget
from tw_lens.rendering.widgets.circuitsvis import circuitsvis_script

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
    assert "needs a query or key bias" in text and "norms folded" in text
    assert "as published" not in text


def test_widgets_keep_tokens_inside_their_script():
    weights = tw.read_weights(golden_bridge())
    states = tw.read_states(golden_bridge(), "w5 w6")
    pattern = tw.attention_pattern(weights, states, layer=1)
    path = tw.trajectory(weights, states)
    widget = token_widget(replace(path, token_strings=(HOSTILE, "\u2028 \n")))
    for fragment in (attention_widget(pattern).fragment(), widget.fragment()):
        assert fragment.count("</script>") == 1 and "<img" not in fragment
    inside = re.search(r"ColoredTokensMulti, (.*)\);</script>", widget.fragment()).group(1)
    read = json.loads(inside)["tokens"][0]
    assert "<\u200b" in read and read.replace("\u200b", "") == HOSTILE


def test_a_place_that_only_looks_writable_is_refused_first():
    with pytest.raises(PermissionError, match="/proc cannot be written to"):
        tw.report(None, "/proc/page.html", prompt="w5")


def test_a_widget_in_a_notebook_has_a_frame_and_a_height():
    model = golden_bridge()
    path = tw.trajectory(tw.read_weights(model), tw.read_states(model, [5, 6]))
    widget = token_widget(replace(path, token_strings=(HOSTILE, "b")))
    escape_token = widget._repr_html_()
    assert (
        escape_token.startswith("<iframe srcdoc=") and 'height="232"' in escape_token
    )  # 24 for each of 3 layers
    assert (
        escape_token.count("<") == 2
        and "google" not in escape_token.split("CircuitsVis.render(")[-1]
    )


def test_sentences_get_a_section_that_claims_what_the_intervals_say(tmp_path):
    sentences = [[5, 6, 7, 8, 9], [8, 9, 10, 11], [3, 2, 1, 0, 4, 5]]
    model = golden_bridge()
    path = tw.report(model, tmp_path / "p.html", prompt="w5 w6", layers=[0], prompts=sentences)
    text = path.read_text(encoding="utf-8")
    assert 'id="sentences"' in text and "Many sentences travelling" in text
    found = tw.trajectory_alignment(model, sentences)
    for place in ("middle", "end"):
        for target in ("last state", "next state", "next readout"):
            _, low, high = found.fall_of(target, place)
            assert f"{low:.3f} to {high:.3f}" in text
            assert found.verdict(target, place) in text


def test_tokens_are_coloured_by_the_step_or_by_who_moved_them():
    model = golden_bridge()
    weights, states = tw.read_weights(model), tw.read_states(model, [5, 6, 7])
    path, movers = tw.trajectory(weights, states), tw.trajectory_attribution(weights, states)
    drawn = token_widget(path).properties
    assert drawn["labels"] == ["layer 0", "layer 1", "layer 2"] and len(drawn["tokens"]) == 3
    steps = path.values["step_angle"][:-1].T
    assert torch.allclose(torch.tensor(drawn["values"]), steps, rtol=1e-3)
    heads = torch.tensor(token_widget(movers, "heads").properties["values"])
    which = [name.startswith("H") for name in movers.components]
    assert torch.allclose(heads, movers.share[:, which].nansum(1).T, rtol=1e-3, atol=1e-4)
    mlp = torch.tensor(token_widget(movers).properties["values"])
    assert not torch.allclose(mlp, heads)
    with pytest.raises(ValueError, match="component='H99' is none of H0"):
        token_widget(movers, "H99")


def test_an_encoder_shows_what_it_sees_behind_a_word():
    from tests.zoo import zoo_bridge

    for model, causal in ((zoo_bridge("BertForMaskedLM"), False), (golden_bridge(), True)):
        weights, states = tw.read_weights(model), tw.read_states(model, [5, 6, 7])
        pattern = tw.attention_pattern(weights, states, layer=1)
        with torch.no_grad():
            _, cache = model.run_with_cache(torch.tensor([[5, 6, 7]]))
        expected = cache["blocks.1.attn.hook_pattern"][0]
        table = pattern.to_dataframe()
        assert len(table) == len(expected) * (6 if causal else 9)
        for row in table.itertuples():
            head = int(row.component.removeprefix("L1H"))
            assert row.attention == pytest.approx(
                float(expected[head, row.query, row.key]), abs=1e-5
            )
        sums = table.groupby(["component", "query"]).attention.sum()
        assert ((sums - 1).abs() < 1e-5).all()
        assert attention_widget(pattern).properties["maskUpperTri"] is causal


def test_directions_that_are_only_known_together_say_so():
    """Two equal planted singular values: on the page as one block."""
    from tests.planted import equal_pair
    from tw_lens.analyses import head_spectrum
    from tw_lens.rendering.page.head_sections import _spectrum_panel

    weights = equal_pair(0)
    panel = _spectrum_panel(weights, head_spectrum(weights, layer=0, n=4))
    assert [row[0] for row in panel.heads[0].rows] == ["0", "1 in 1-2", "2 in 1-2", "3"]
