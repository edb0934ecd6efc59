"""The quiet mark beside words says what the results say."""

from dataclasses import replace

import torch

import tw_lens as tw
from tests.models import golden_bridge
from tests.planted import planted
from tw_lens.rendering.figures.null_markers import hover_text, mark, significance_sentence
from tw_lens.results.token_lists import NullComparison

RING, DISC = "\u25cb", "\u25cf"


def test_marks_are_those_of_the_table():
    made = tw.head_spectrum(planted(0), layer=0, n=4)
    seen = set()
    for (component, direction, side), rows in made.to_dataframe().groupby(
        ["component", "direction", "side"]
    ):
        which = int(component[-1]) * 4 + direction
        escape_token = mark(made.left if side == "left" else made.right, which)
        sign = {"": "", "isotropic": RING, "vocabulary": DISC}[rows.exceeds_null.iloc[0]]
        text = f"{rows.coherence.iloc[0]:.2f}" + (f"\u202f{sign}" if sign else "")
        assert escape_token.text == text and escape_token.description.startswith("p = ")
        seen.add(sign)
    assert seen >= {"", DISC}


def test_a_ring_and_a_disc_by_hand():
    lists = tw.head_spectrum(planted(0), layer=0, n=4).left
    p = torch.tensor([[0.04, 0.2], [0.01, 0.05], [0.2, 0.01], [0.06, 0.06]] * 2)
    lists = replace(lists, null=NullComparison(torch.full((8,), 0.5), p))
    texts = [mark(lists, which).text for which in range(4)]
    assert texts == [f"0.50\u202f{RING}", f"0.50\u202f{DISC}", "0.50", "0.50"]
    assert (
        "0.04 beside isotropic directions, 0.2 beside the vocabulary's"
        in mark(lists, 0).description
    )
    assert hover_text(lists, 3).endswith("<br>coherence 0.50")
    said = significance_sentence("here", lists, lists)
    assert "Of the 16 word lists here" in said
    assert "50 % beside isotropic directions and 50 % beside the vocabulary's" in said


def test_lists_without_a_control_have_no_mark():
    lists = tw.head_spectrum(tw.read_weights(golden_bridge()), layer=1, convention="published").left
    assert mark(lists, 0).text == "" and significance_sentence("here", lists) == ""
    assert "coherence" not in hover_text(lists, 0)
