"""The findings: every sentence against the result that it came from, and degenerate results."""

from dataclasses import replace

import pytest
import torch

import tw_lens as tw
from tests.models import golden_bridge
from tw_lens.canonical import HeadFaithfulness
from tw_lens.rendering.page import findings
from tw_lens.rendering.page.faithfulness_text import of_head
from tw_lens.rendering.page.head_map import head_map
from tw_lens.rendering.page.kinds_section import kinds_section
from tw_lens.results.token_lists import NullComparison
from tw_lens.results.token_source import TokenSource
from tw_lens.studies import HEAD_KINDS
from tw_lens.studies.bootstrap import Estimate


@pytest.fixture(scope="module")
def weights():
    return tw.read_weights(golden_bridge())


@pytest.fixture(scope="module")
def states():
    return tw.read_states(golden_bridge(), "w5 w6 w7 w8")


@pytest.fixture(scope="module")
def certificate():
    return tw.check(golden_bridge(), "w5 w6 w7 w8")


@pytest.fixture(scope="module")
def kinds(weights):
    return tw.head_kinds(weights, golden_bridge())


@pytest.fixture(scope="module")
def atlas(weights):
    return tw.head_atlas(weights, n=1)


def test_the_certificate_names_attention_and_mlp(certificate):
    finding = findings.exactness(certificate)
    for name in ("Queries", "attention outputs", "MLP inputs", "MLP outputs", "residual stream"):
        assert name in finding.text
    assert f"{certificate.max_rel_error:.0e}" in finding.text and "5 tokens" in finding.text
    assert not finding.failed and finding.anchor == "certificate"


def test_quantities_of_some_layers_only_are_named_with_their_number(certificate):
    some = tuple(c for c in certificate.comparisons if (c.layer, c.quantity) != (1, "mlp_out"))
    text = findings.compared_quantities(replace(certificate, comparisons=some))
    assert "MLP outputs (of 2 of 3 layers)" in text and "MLP inputs," in text
    without = tuple(c for c in some if not c.quantity.startswith("mlp"))
    assert "MLP" not in findings.compared_quantities(replace(certificate, comparisons=without))


@pytest.mark.parametrize("error", [0.5, float("nan")])
def test_a_failed_certificate_warns(error, certificate):
    first, *others = certificate.comparisons
    failed = replace(certificate, comparisons=(replace(first, rel_error=error), *others))
    finding = findings.exactness(failed)
    assert finding.failed and "Do not rely" in finding.text and "not the model's" in finding.topic


def measured(value, low, floor):
    heads = torch.tensor([[0, 0], [0, 1], [3, 0], [3, 1]])
    return HeadFaithfulness(heads, value, low, value + 0.1, floor, n_prompts=40)


def test_faithfulness_gives_means_and_extreme_layers():
    value = torch.tensor([[0.9, 0.7, 0.2, 0.4], [1.0, 0.8, 0.5, 0.3]])
    found = measured(value, value - 0.1, torch.full((2, 4), 0.25))
    text = findings.faithfulness(TokenSource(name="text", faithfulness=found)).text
    assert "QK r = 0.55 (floor 0.25), from 0.30 in layer 3 to 0.80 in layer 0" in text
    assert "OV r = 0.65 (floor 0.25), from 0.40 in layer 3 to 0.90 in layer 0" in text
    assert "over all 4 heads, on 40 held-out prompts" in text
    assert "3 of 4 heads (QK) and 3 of 4 heads (OV)" in text


def test_faithfulness_that_is_not_defined_is_not_stated():
    nan = torch.full((2, 4), torch.nan)
    for source in (TokenSource(), TokenSource(name="text", faithfulness=measured(nan, nan, nan))):
        text = findings.faithfulness(source).text
        assert text.startswith("Not measured") and "nan" not in text
    value = torch.tensor([[0.9, 0.7, torch.nan, torch.nan], [torch.nan] * 4])
    text = findings.faithfulness(
        TokenSource(name="text", faithfulness=measured(value, value - 0.1, torch.zeros(2, 4)))
    ).text
    assert "QK r = 0.80 (floor 0.00); OV r not defined" in text and "nan" not in text
    assert "2 of 2 heads (QK) and 0 of 0 heads (OV)" in text


def test_the_faithfulness_of_a_head_stands_beside_its_floor():
    value = torch.tensor([[0.91, 0.7, 0.2, torch.nan], [1.0, 0.8, 0.5, 0.3]])
    found = measured(value, value - 0.02, torch.tensor([[0.82, 0.75, -0.001, 0.1]] * 2))
    source = TokenSource(name="text", faithfulness=found)
    said = [of_head(source, layer, head, "QK") for layer in (0, 3) for head in (0, 1)]
    assert said[0] == "Faithfulness r = 0.91 [0.89, 1.01] (floor 0.82)."
    assert said[1] == "Faithfulness r = 0.70 [0.68, 0.80] (floor 0.75), not above its floor."
    assert "(floor 0.00)." in said[2] and "not defined" in said[3]
    assert of_head(source, 1, 0, "QK") == of_head(TokenSource(), 0, 0, "QK")
    assert source.agreement([0], ["QK"]) == (
        "QK r = 0.81 (floor 0.78) on held-out text, mean over the 2 heads of layer 0"
    )
    assert source.agreement([0], ["QK"], head=0) == "QK r = 0.91 (floor 0.82) on held-out text"
    assert source.sentence([0, 3], ["OV"]).endswith("on held-out text, mean over the 4 heads")


@pytest.mark.parametrize("kind", findings.KINDS)
def test_no_head_of_a_kind_is_said(kind, kinds):
    row = HEAD_KINDS.index(kind)
    assert not kinds.shown_in_use()[row].any()
    finding = findings.kind_in_use(kinds, kind)
    layer, head = kinds.heads[int(kinds.from_use[row].nan_to_num(-1).argmax())]
    largest = float(kinds.from_use[row].nan_to_num(-1).max())
    assert finding.text.startswith("No head ")
    assert f"L{layer}H{head} ({largest:.2f}) comes closest" in finding.text


@pytest.mark.parametrize("kind", findings.KINDS)
@pytest.mark.parametrize("n", [1, 3, 6])
def test_heads_of_a_kind_are_counted_and_the_first_are_named(n, kind, kinds):
    row = HEAD_KINDS.index(kind)
    use, own = kinds.from_use.clone(), kinds.from_weights.clone()
    use[row], own[row] = 0.1, 0.1
    use[row, :n] = torch.linspace(0.8, 0.99, n)
    own[row, : n - 1], p = 0.95, torch.zeros_like(kinds.p)
    changed = replace(kinds, from_use=use, from_weights=own, p=p)
    text = findings.kind_in_use(changed, kind).text
    several, one, least = findings.KINDS[kind]
    assert text.startswith(
        f"{n} of 12 heads {one if n == 1 else several} with a score of {least:g}"
    )
    layer, head = kinds.heads[n - 1]
    assert f"L{layer}H{head} ({float(use[row, n - 1]):.2f})" in text
    assert ("and 2 more" in text) == (n == 6)
    claim = {1: "claim none", 3: "claim 2, of which 2 show", 6: "claim 5, of which 5 show"}[n]
    assert claim in text


def test_a_kind_that_was_not_measured_is_left_out(weights, kinds):
    assert findings.kind_in_use(tw.head_kinds(weights), "copying") is None
    nothing = replace(kinds, from_use=torch.full_like(kinds.from_use, torch.nan))
    assert findings.kind_in_use(nothing, "induction") is None


def test_the_layer_that_turns_most_is_named_with_its_cause(weights, states):
    path, attribution = tw.trajectory(weights, states), tw.trajectory_attribution(weights, states)
    text = findings.movement(path, attribution).text
    angle = path.values["step_angle"][:-1, 1:]
    layer = int(angle.mean(1).argmax())
    low, high = angle[layer].aminmax()
    assert f"layer {layer} turns the states most: by {float(angle[layer].mean()):.2f} rad" in text
    assert f"{float(low):.2f} to {float(high):.2f} over 4 tokens" in text
    table = attribution.to_dataframe().query("position > 0")
    table["group"] = [
        "attention" if head == head else name.split(" ")[1]
        for head, name in zip(table["head"].astype(float), table["component"], strict=True)
    ]
    shares = table.groupby(["layer", "group", "position"]).share.sum()
    shares = shares.groupby(["layer", "group"]).mean()
    name, share = shares[layer].idxmax(), shares[layer].max()
    assert f"{100 * share:.0f} % of it by {'' if name == 'attention' else 'the '}{name}" in text
    larger = sum(shares[layer, "MLP"] > shares[layer, "attention"] for layer in range(3))
    assert f"exceeds that of attention in {larger} of 3 layers" in text


def test_movement_of_one_position_without_attribution_or_without_angles(weights):
    path = tw.trajectory(weights, tw.read_states(golden_bridge(), [5]))
    text = findings.movement(path, None).text
    assert "over" not in text and "%" not in text and "nan" not in text
    nothing = {name: torch.full_like(values, torch.nan) for name, values in path.values.items()}
    assert findings.movement(replace(path, values=nothing), None) is None


def test_sides_above_and_at_chance_are_told_apart(atlas):
    rows = [i for i, entry in enumerate(atlas.entries) if entry[2] == "OV"]
    p = torch.full((len(atlas.entries), 2), 0.5)
    p[rows[:6]] = 0.01
    coherence = torch.full((len(atlas.entries),), 0.1)
    changed = replace(atlas, right=replace(atlas.right, null=NullComparison(coherence, p)))
    text = findings.above_null(changed).text
    assert "by chance at most 1 of 12 (5 %). There are more (one-sided binomial test" in text
    assert "0.05) for OV tokens written (6 of 12, p = 1.1e-05), not for QK queries (0 of" in text
    p = torch.full_like(p, 0.01)
    lists = {
        s: replace(getattr(atlas, s), null=NullComparison(coherence, p)) for s in ("left", "right")
    }
    assert "not for" not in findings.above_null(replace(atlas, **lists)).text
    assert "There are not more (one-sided binomial test" in findings.above_null(atlas).text


def test_lists_without_a_null_give_no_sentence(atlas):
    lists = {side: replace(getattr(atlas, side), null=None) for side in ("left", "right")}
    assert findings.above_null(replace(atlas, **lists)) is None


def test_the_successor_is_stated_with_its_interval():
    alignment = tw.trajectory_alignment(golden_bridge(), [[5, 6, 7, 8, 9], [8, 9, 10, 11]])
    text = findings.successor(alignment).text
    assert alignment.claim("next state", "middle") in text and "Over 2 prompts" in text
    value = torch.full_like(alignment.fall.value, torch.nan)
    text = findings.successor(replace(alignment, fall=Estimate(value, value, value))).text
    assert "is not measured" in text


def test_the_page_has_five_to_eight_findings_and_links_heads_to_cards(tmp_path):
    page = tw.report(golden_bridge(), tmp_path / "p.html", prompt="w5 w6 w7 w8", layers=[2])
    text = page.read_text(encoding="utf-8")
    part = text[text.index('id="findings"') : text.index('id="heads"')]
    assert 5 <= part.count("<li>") <= 8 and "nan" not in part
    assert '<a href="#L2H0">L2H0</a>' in part and 'href="#L0H' not in part
    for anchor in ("certificate", "heads", "kinds", "trajectory", "atlas"):
        assert f'href="#{anchor}"' in part and f'id="{anchor}"' in text


def test_the_map_marks_as_many_lists_as_the_finding_counts(atlas, kinds):
    p = torch.rand(len(atlas.entries), 2, generator=torch.Generator().manual_seed(0)) / 5
    null = NullComparison(torch.full((len(p),), 0.1), p)
    changed = replace(atlas, left=replace(atlas.left, null=null))
    text = findings.above_null(changed).text
    for measure in head_map(kinds, changed, [0]).measures:
        if measure.name in ("QK queries", "OV tokens read"):
            assert f"{measure.name} ({int(measure.marked.sum())} of 12, p = " in text
            assert int(measure.marked.sum()) > 0


def test_the_map_shows_a_faithfulness_beside_its_floor(atlas, kinds):
    heads, value = torch.tensor(kinds.heads), torch.linspace(0.4, 0.9, 24).reshape(2, 12)
    found = HeadFaithfulness(heads, value, value, value, value - 0.3, n_prompts=40)
    source = TokenSource(name="text", faithfulness=found)
    shown = head_map(kinds, replace(atlas, token_source=source), [0]).measures
    r, less = [one for one in shown if one.group == "Faithfulness" and "QK" in one.name]
    assert torch.equal(r.values, value[0]) and torch.allclose(r.floor, value[0] - 0.3)
    assert torch.allclose(less.values, torch.full((12,), 0.3))


def test_the_table_of_kinds_tells_claims_from_use(kinds):
    use, own = torch.zeros_like(kinds.from_use), torch.zeros_like(kinds.from_weights)
    row, tested = HEAD_KINDS.index("previous token"), HEAD_KINDS.index("copying")
    own[row, :2], use[row, 1:3], own[tested, 0] = 0.5, 0.5, 0.8
    p = torch.full_like(kinds.p, torch.nan)
    p[tested] = 0.005
    panel = kinds_section(replace(kinds, from_use=use, from_weights=own, p=p), (0,)).panels[1]
    rows = {(row[0], row[1]): row[2:] for row in panel.table.rows}
    assert rows["L0H0", "previous token"] == ("claimed only", 0.5, "\u2013", 0.0)
    assert rows["L0H1", "previous token"][0] == "both"
    assert rows["L0H2", "previous token"][0] == "in use only"
    assert rows["L0H0", "copying"] == ("claimed only", 0.8, 0.005, 0.0)
    assert "\u2013 for previous token, same token, attention sink" in panel.note
