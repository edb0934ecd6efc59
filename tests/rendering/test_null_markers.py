"""Null markers agree with the tables, and with hand-made p-values."""

from dataclasses import replace

import torch

import tw_lens as tw
from tests.models import golden_bridge
from tests.planted import planted
from tw_lens.rendering.figures.null_markers import hover_text, null_marker, significance_sentence
from tw_lens.results.token_lists import NullComparison

RING, DISC = "\u25cb", "\u25cf"


def test_markers_are_those_of_the_table():
    spectrum = tw.head_spectrum(planted(0), layer=0, n=4)
    table = spectrum.to_dataframe()
    seen = set()
    keys = ["component", "direction", "side"]
    for component, direction, side in table[keys].drop_duplicates().itertuples(index=False):
        of_list = (table.component == component) & (table.direction == direction)
        rows = table[of_list & (table.side == side)]
        index = int(component[-1]) * 4 + direction
        marker = null_marker(spectrum.left if side == "left" else spectrum.right, index)
        symbol = {"": "", "isotropic": RING, "vocabulary": DISC}[rows.exceeds_null.iloc[0]]
        text = f"{rows.coherence.iloc[0]:.2f}" + (f"\u202f{symbol}" if symbol else "")
        assert marker.text == text and len(marker.p_values.split()) == 2
        seen.add(symbol)
    assert seen >= {"", DISC}


def test_a_ring_and_a_disc_by_hand():
    lists = tw.head_spectrum(planted(0), layer=0, n=4).left
    p = torch.tensor([[0.04, 0.2], [0.01, 0.05], [0.2, 0.01], [0.06, 0.06]] * 2)
    lists = replace(lists, null=NullComparison(torch.full((8,), 0.5), p))
    texts = [null_marker(lists, index).text for index in range(4)]
    assert texts == [f"0.50\u202f{RING}", f"0.50\u202f{DISC}", "0.50", "0.50"]
    assert null_marker(lists, 0).p_values == "0.04 0.2"
    assert hover_text(lists, 3).endswith("<br>coherence 0.50")
    sentence = significance_sentence("here", lists, lists)
    assert "Of the 16 token lists here" in sentence
    assert "50 % exceed the isotropic null, and 25 % the covariance-matched null too" in sentence


def test_lists_without_a_null_comparison_have_no_marker():
    lists = tw.head_spectrum(tw.read_weights(golden_bridge()), layer=1, convention="published").left
    assert null_marker(lists, 0).text == "" and significance_sentence("here", lists) == ""
    assert "coherence" not in hover_text(lists, 0)
