"""The page: written whole or not at all, offline, with tokens as text."""

import json
import re
from dataclasses import replace

import pytest
import torch
from plotly.offline import get_plotlyjs

import tw_lens as tw
from tests.models import golden_bridge, shared_bridge, tiny_bridge
from tw_lens.rendering import attention_widget, token_widget
from tw_lens.rendering.page.head_scores import PAIRS, positions_shown
from tw_lens.rendering.widgets.circuitsvis import circuitsvis_script

HOSTILE = "</script><img src=x onerror=alert(1)>"


def test_page_is_self_contained_and_certified(page):
    text = page.read_text(encoding="utf-8")
    outside = re.findall(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(?!data:)[^"]*"', text)
    assert outside == []
    assert "passed, largest relative error" in text
    assert text.count(circuitsvis_script()) == text.count(get_plotlyjs()) == 1
    for anchor in (
        "findings",
        "heads",
        "layer-0",
        "layer-2",
        "atlas",
        "tokens",
        "trajectory",
        "certificate",
    ):
        assert f'id="{anchor}"' in text
    assert 'id="L2H3-OV"' in text
    assert "Token norms, published convention" in text


def test_cards_are_small(page):
    """So that a page of 30 layers with 9 heads each, and 6.6 MB of scripts, stays under 15 MB."""
    text = page.read_text(encoding="utf-8")
    cards = text[text.index('id="layer-0"') : text.index('<section id="atlas"')]
    sizes = [len(card) for card in cards.split('<details class="card"')[1:]]
    assert len(sizes) == 8
    assert sorted(sizes)[5] < 26_000 and max(sizes) < 60_000  # one per layer has an ellipsoid


def test_only_the_page_is_left(page):
    assert [file.name for file in page.parent.iterdir()] == ["page.html"]


STEPS = (
    "Reading the weights",
    "Certifying the model",
    "Reading tokens where the layers meet them",
    "Reading the token embeddings",
    "Reading all heads of the model",
    "Looking for known kinds of heads",
    "Reading the heads of layer 0",
    "Measuring the trajectories of the prompt",
    "Writing the page",
)


def test_each_step_is_reported_in_order(tmp_path):
    steps = []
    path = tmp_path / "p.html"
    tw.report(golden_bridge(), path, prompt="w5 w6", layers=[0], progress=steps.append)
    assert tuple(steps) == STEPS


@pytest.mark.parametrize("step", [STEPS[1], STEPS[6], STEPS[7]])
def test_an_interruption_leaves_nothing(step, tmp_path):
    def stop(sentence):
        if sentence == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tw.report(golden_bridge(), tmp_path / "p.html", prompt="w5 w6", layers=[0], progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_path_is_rejected_before_the_model_is_read(tmp_path):
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
    assert "Layer 1 of " in text and "has no bias on queries or keys" in text
    assert "norms folded" in text
    assert "Token norms, published convention" not in text


def test_widgets_keep_tokens_inside_their_script():
    weights = tw.read_weights(golden_bridge())
    states = tw.read_states(golden_bridge(), "w5 w6")
    pattern = tw.attention_pattern(weights, states, layer=1)
    path = tw.trajectory(weights, states)
    widget = token_widget(replace(path, token_strings=(HOSTILE, "\u2028 \n")))
    for fragment in (attention_widget(pattern).fragment(), widget.fragment()):
        assert fragment.count("</script>") == 1 and "<img" not in fragment
    call = re.search(r"ColoredTokensMulti, (.*)\);</script>", widget.fragment())
    assert call is not None
    token = json.loads(call.group(1))["tokens"][0]
    assert "<\u200b" in token and token.replace("\u200b", "") == HOSTILE


def test_a_folder_that_only_looks_writable_is_rejected_first():
    with pytest.raises(PermissionError, match="/proc cannot be written to"):
        tw.report(None, "/proc/page.html", prompt="w5")


def test_a_widget_in_a_notebook_has_a_frame_and_a_height():
    model = golden_bridge()
    path = tw.trajectory(tw.read_weights(model), tw.read_states(model, [5, 6]))
    widget = token_widget(replace(path, token_strings=(HOSTILE, "b")))
    html = widget._repr_html_()
    assert html.startswith("<iframe srcdoc=")
    assert 'height="232"' in html  # 160, and 24 for each of 3 layers
    assert html.count("<") == 2 and "google" not in html.split("CircuitsVis.render(")[-1]


def test_prompts_get_a_section_whose_claims_follow_from_the_intervals(tmp_path):
    prompts = [[5, 6, 7, 8, 9], [8, 9, 10, 11], [3, 2, 1, 0, 4, 5]]
    model, steps = golden_bridge(), []
    path = tw.report(
        model, tmp_path / "p.html", prompt="w5 w6", layers=[0], prompts=prompts,
        progress=steps.append,
    )  # fmt: skip
    text = path.read_text(encoding="utf-8")
    assert "Running the prompts and their controls" in steps
    assert 'id="prompts"' in text and "Trajectories of many prompts" in text
    alignment = tw.trajectory_alignment(model, prompts)
    for place in ("middle", "end"):
        for target in ("last state", "next state", "next readout"):
            _, low, high = alignment.fall_of(target, place)
            assert f"{low:.3f} to {high:.3f}" in text
            assert alignment.verdict(target, place) in text


def test_tokens_are_colored_by_the_step_or_by_a_components_share():
    model = golden_bridge()
    weights, states = tw.read_weights(model), tw.read_states(model, [5, 6, 7])
    path, attribution = tw.trajectory(weights, states), tw.trajectory_attribution(weights, states)
    properties = token_widget(path).properties
    assert properties["labels"] == ["layer 0", "layer 1", "layer 2"]
    assert len(properties["tokens"]) == 3
    steps = path.values["step_angle"][:-1].T
    assert torch.allclose(torch.tensor(properties["values"]), steps, rtol=1e-3)
    heads = torch.tensor(token_widget(attribution, "heads").properties["values"])
    is_head = [name.startswith("H") for name in attribution.components]
    assert torch.allclose(heads, attribution.share[:, is_head].nansum(1).T, rtol=1e-3, atol=1e-4)
    mlp = torch.tensor(token_widget(attribution).properties["values"])
    assert not torch.allclose(mlp, heads)
    for unknown in ("H99", "L99H0", "L9 MLP", ""):
        with pytest.raises(
            ValueError, match=f"unknown component '{unknown}'; expected one of 'H0'"
        ):
            token_widget(attribution, unknown)


def test_the_token_widget_shows_the_shares_of_single_neurons():
    model = shared_bridge("llama")
    weights, states = tw.read_weights(model), tw.read_states(model, [5, 6, 7, 8])
    neurons = tw.trajectory_attribution(weights, states, neurons=500).neurons
    assert neurons is not None
    widget = token_widget(neurons).properties
    table = neurons.to_dataframe().dropna(subset="neuron").set_index(["component", "position"])
    for column, name in enumerate(widget["labels"]):
        for position, values in enumerate(widget["values"]):
            assert values[column] == pytest.approx(table.share[name, position], abs=1e-4)
    with pytest.raises(ValueError, match="leave it out"):
        token_widget(neurons, "MLP")


def test_the_token_widget_takes_every_component_that_its_table_prints():
    model = golden_bridge()
    attribution = tw.trajectory_attribution(
        tw.read_weights(model), tw.read_states(model, [5, 6, 7])
    )
    table = attribution.to_dataframe()
    assert {"L1H2", "L2 MLP"} <= set(table.component)
    for component, rows in table.groupby("component"):
        properties = token_widget(attribution, str(component)).properties
        assert properties["labels"] == [f"layer {rows.layer.iloc[0]}"]
        assert [row[0] for row in properties["values"]] == pytest.approx(
            rows.share.tolist(), rel=1e-3, abs=1e-6
        )
    for component in attribution.components:
        assert len(token_widget(attribution, component).properties["labels"]) == 3


def test_an_encoder_shows_the_attention_to_later_positions():
    from tests.zoo import zoo_bridge

    for model, causal in ((zoo_bridge("BertForMaskedLM"), False), (golden_bridge(), True)):
        weights, states = tw.read_weights(model), tw.read_states(model, [5, 6, 7])
        pattern = tw.attention_pattern(weights, states, layer=1)
        with torch.no_grad():
            _, cache = model.run_with_cache(torch.tensor([[5, 6, 7]]))
        expected = cache["blocks.1.attn.hook_pattern"][0]
        table = pattern.to_dataframe()
        assert len(table) == len(expected) * (6 if causal else 9)
        for row in table.to_dict("records"):
            head = int(row["component"].removeprefix("L1H"))
            assert row["attention"] == pytest.approx(
                float(expected[head, row["query"], row["key"]]), abs=1e-5
            )
        sums = table.groupby(["component", "query"]).attention.sum()
        assert ((sums - 1).abs() < 1e-5).all()
        assert attention_widget(pattern).properties["maskUpperTri"] is causal


def test_near_degenerate_directions_name_their_subspace():
    """Two equal planted singular values: on the page as one subspace."""
    from tests.planted import equal_pair
    from tw_lens.analyses import head_spectrum
    from tw_lens.rendering.page.circuit_tokens import circuit_tokens

    weights = equal_pair(0)
    spectrum, kinds = head_spectrum(weights, layer=0, n=4), tw.head_kinds(weights)
    (circuit,) = circuit_tokens(weights, spectrum, {}, kinds)
    assert [row[0] for row in circuit.table.rows] == ["0", "1 in 1-2", "2 in 1-2", "3"]


def test_words_and_positions_stand_side_by_side_and_what_neither_reads_is_said(page):
    """Of a random model no list means anything: most heads are read by nothing."""
    text = page.read_text(encoding="utf-8")
    assert text.count("<summary>L2H1 QK: at learned positions</summary>") == 1
    assert "OV: at learned positions" not in text
    said = text.count("No word and no position reads this: its lists exceed the covariance")
    assert 8 < said <= 16  # heads and circuits of two layers
    weights = tw.read_weights(golden_bridge())
    kinds = tw.head_kinds(weights, golden_bridge())
    table = kinds.to_dataframe()
    by_position = table[
        table.kind.isin(["previous token", "attention sink"]) & (table.claimed | table.in_use)
    ]
    for head in by_position[by_position.layer.isin([0, 2])].component.unique():
        for circuit in ("QK", "OV"):
            own = text[text.index(f'id="{head}-{circuit}"') :]
            assert "No word and no position" not in own[: own.index("<table")]


def test_the_page_names_the_neurons_that_move_the_prompt(page):
    text = page.read_text(encoding="utf-8")
    weights = tw.read_weights(golden_bridge())
    states = tw.read_states(golden_bridge(), "w5 w6 w7 w8")
    largest = tw.trajectory_attribution(weights, states, neurons=5).neurons.largest
    table = text[text.index('aria-label="leading neurons of the prompt"') :]
    table = table[: table.index("</table>")]
    assert table.count("<tr>") == 11 and "gate" not in table
    for layer, neuron, share in largest[:10]:
        row = table[table.index(f"<td>L{layer}N{neuron}</td>") :]
        assert f'<td class="number">{round(100 * share, 1)}</td>' in row[: row.index("</tr>")]


def test_a_hybrid_has_a_page_with_a_vocabulary_of_its_attention_layers(tmp_path):
    from tests.zoo import zoo_bridge

    model = zoo_bridge("Qwen3NextForCausalLM")
    vocabulary = tw.layer_vocabulary(model, source="embedding")
    path = tmp_path / "p.html"
    tw.report(model, path, prompt=[5, 6, 7], words=[5, 6], vocabulary=vocabulary, layers=[1])
    assert "leading neurons of the prompt" in path.read_text(encoding="utf-8")


def test_a_model_whose_mlps_are_not_read_has_a_page_that_says_so(tmp_path):
    from tests.zoo import zoo_bridge

    model = zoo_bridge("GptOssForCausalLM")
    for block in model.blocks:  # experts of a form that nothing else has
        experts = block.mlp.original_component.experts
        experts.forward = lambda *args, forward=experts.forward: forward(*args).tanh()
    path = tmp_path / "p.html"
    tw.report(model, path, prompt=[5, 6, 7], layers=[0], words=[5], vocabulary="embedding")
    assert "has a mixture of experts of an unknown layout" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("n_cards", [1, 9, 27, 36, 144, 270, 5120])
def test_many_cards_hold_fewer_positions(n_cards: int):
    n = positions_shown(n_cards)
    assert 4 <= n <= 32
    assert n == 4 or n_cards * n * (n + 1) / 2 <= PAIRS
    assert n == 32 or n_cards * (n + 1) * (n + 2) / 2 > PAIRS
