"""The quiet mark beside words says what the table of the controls says."""

from dataclasses import replace

import torch

import tw_lens as tw
from tests.models import golden_bridge
from tests.planted import planted
from tw_lens.rendering.marks import listed_words, marks, said_above


def test_marks_are_those_of_the_table():
    made = tw.coherence(planted(0), n=4, controls=["isotropic", "vocabulary"])
    marked = marks(made)
    seen = set()
    for keys, rows in made.to_dataframe().groupby(
        ["layer", "head", "circuit", "direction", "side"]
    ):
        p = rows.set_index("control").p
        mark = "" if p.isotropic > 0.05 else "\u25cf" if p.vocabulary <= 0.05 else "\u25cb"
        text = f"{rows.coherence.iloc[0]:.2f}" + (f"\u202f{mark}" if mark else "")
        assert marked[keys].text == text and f"{p.isotropic:.2g}" in marked[keys].said
        seen.add(mark)
    assert seen >= {"", "\u25cf"} and len(marked) == 2 * len(made.entries)


def test_the_sentence_counts_a_layers_lists():
    made = listed_words(tw.read_weights(golden_bridge()), None, 2)
    of_layer = torch.tensor([entry[0] == 1 for entry in made.entries])
    p = torch.where(of_layer, torch.tensor([[[0.01]], [[0.9]]]), 0.5).expand(2, 2, -1)[None]
    made = replace(made, p=p)
    assert "32 word lists of layer 1" in said_above(made, 1)
    assert "100 % beside 'isotropic' and 0 % beside 'vocabulary'" in said_above(made, 1)
    assert "0 % beside 'isotropic'" in said_above(made, 0)
