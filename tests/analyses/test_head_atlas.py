"""Head atlas: the rows of `head_spectrum` for every head, in one pass over the vocabulary."""

import pandas as pd
import pytest
import torch

import tw_lens as tw
from tests.models import shared_bridge, tiny_bridge
from tests.zoo import zoo_bridge


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma"])
def test_every_row_is_the_head_spectrums(architecture: str):
    weights = tw.read_weights(shared_bridge(architecture))
    table = tw.head_atlas(weights, n=2, k=3).to_dataframe()
    assert len(table) == weights.n_layers * weights.n_heads * 2 * 2
    for (layer, circuit), rows in table.groupby(["layer", "circuit"], sort=False):
        spectrum = tw.head_spectrum(weights, layer=layer, circuit=circuit, n=2, k=3)
        S = spectrum.singular_values
        assert rows.singular_value.tolist() == pytest.approx(S[:, :2].flatten().tolist())
        assert rows.share.tolist() == pytest.approx((S / S.sum(-1, True))[:, :2].flatten().tolist())
        for lists, column in ((spectrum.left, "left_tokens"), (spectrum.right, "right_tokens")):
            assert rows[column].tolist() == [" ".join(words) for words in lists.token_string]


def test_layers_with_norms_of_their_own_kind_are_kept_apart():
    """Layers with different kinds of norms have different points."""
    weights = tw.read_weights(zoo_bridge("Exaone4ForCausalLM"))
    atlas = tw.head_atlas(weights, layers=[2, 0], n=1, k=2)
    assert [entry[0] for entry in atlas.entries[:: 2 * weights.n_heads]] == [2, 0]
    for layer in (0, 2):
        expected = tw.head_spectrum(weights, layer=layer, circuit="QK", n=1, k=2)
        mine = [i for i, (at, _, c, _) in enumerate(atlas.entries) if (at, c) == (layer, "QK")]
        assert torch.equal(atlas.left.token_index[mine], expected.left.token_index)
        assert torch.allclose(atlas.right.score[mine], expected.right.score)


def test_hybrids_have_only_attention_layers():
    weights = tw.read_weights(zoo_bridge("Qwen3NextForCausalLM"))
    assert {entry[0] for entry in tw.head_atlas(weights, n=1).entries} == set(
        weights.attention_layers
    )


def test_a_token_filter_restricts_the_lists():
    weights = tw.read_weights(shared_bridge("gpt2"))
    token_filter = tw.token_filter(weights, whole_words=False, id_band=(0, 200))
    atlas = tw.head_atlas(weights, layers=[1], n=2, k=3, token_filter=token_filter)
    spectrum = tw.head_spectrum(weights, layer=1, circuit="OV", n=2, k=3, token_filter=token_filter)
    ov = [i for i, (_, _, circuit, _) in enumerate(atlas.entries) if circuit == "OV"]
    assert torch.equal(atlas.right.token_index[ov], spectrum.right.token_index)
    assert token_filter.keep[atlas.left.token_index].all() and "tokens among" in atlas.headline()


def test_only_selects_by_layer_circuit_and_token():
    atlas = tw.head_atlas(tw.read_weights(shared_bridge("gpt2")), n=2)
    whole = atlas.to_dataframe()
    token = atlas.right.token_string[3][0]
    lists = whole.left_tokens + " " + whole.right_tokens
    for options, expected in (
        ({"layers": [2]}, whole[whole.layer == 2]),
        ({"circuit": "OV", "layers": (0, 1)}, whole[(whole.circuit == "OV") & (whole.layer < 2)]),
        ({"word": token.upper()}, whole[lists.str.contains(token)]),
        ({}, whole),
    ):
        subset = atlas.only(**options)
        pd.testing.assert_frame_equal(subset.to_dataframe(), expected.reset_index(drop=True))
        assert len(subset.plot().data) == 2 and "HeadAtlas" in repr(subset)
    with pytest.raises(ValueError, match="no token that contains 'unheard' is listed by the"):
        atlas.only(word="unheard")


def test_one_pass_over_the_vocabulary_per_side(monkeypatch):
    weights = tw.read_weights(shared_bridge("gpt2"))
    tw.head_atlas(weights, n=1)  # null directions are drawn once for a model
    passes = []
    cls = type(weights.vocabulary)
    rows = cls.rows
    monkeypatch.setattr(cls, "rows", lambda self: passes.append(1) or rows(self))
    tw.head_atlas(weights, n=1)
    assert len(passes) == 2  # QK, and the left side of OV; its right side passes over W_U


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"layers": []}, ValueError, "layers is empty"),
        ({"layers": [99]}, IndexError, "layer 99"),
        ({"n": 0}, ValueError, "n must be at least 1, got 0"),
        ({"k": 0}, ValueError, "k must be at least 1, got 0"),
    ],
)
def test_bad_input(options, error, sentence):
    with pytest.raises(error, match=sentence):
        tw.head_atlas(tw.read_weights(shared_bridge("gpt2")), **options)


@pytest.mark.parametrize("projection", ["q_proj", "o_proj"])
def test_a_head_set_to_zero_has_no_share(projection: str):
    model = tiny_bridge("llama")
    module = getattr(model.original_model.model.layers[0].self_attn, projection)
    of_head_1 = slice(8, 16)
    weight = module.original_component.weight.data
    (weight if projection == "q_proj" else weight.T)[of_head_1] = 0
    weights = tw.read_weights(model)
    circuit = "QK" if projection == "q_proj" else "OV"
    atlas = tw.head_atlas(weights, layers=[0], n=2, k=2)
    table = atlas.to_dataframe().query("head == 1 and circuit == @circuit")
    assert table.share.tolist() == table.singular_value.tolist() == [0, 0]
    assert "nan" not in repr(atlas)
    spectrum = tw.head_spectrum(weights, layer=0, circuit=circuit, n=2, k=2)
    assert not spectrum.coverage[1].any() and "nan" not in repr(spectrum)
