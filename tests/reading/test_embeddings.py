"""Embeddings with rows of zeros, and vocabularies of different size in and out."""

import pytest
import torch

import tw_lens as tw
from tests.models import tiny_bridge
from tests.zoo import native

PROMPT = [5, 6, 7, 8, 5]


@pytest.mark.parametrize("rows", [slice(0, 3), slice(1, 2), slice(300, 997), slice(3, 996)])
@pytest.mark.parametrize("architecture", ["llama", "gemma"])
def test_rows_of_zeros_lie_anywhere(architecture: str, rows: slice):
    model = tiny_bridge(architecture)
    weight = model.original_model.get_input_embeddings().weight
    weight.data[rows] = 0
    prompt = weight.abs().amax(-1).nonzero().flatten()[:3]
    assert tw.check(model, prompt).passed
    scale = tw.read_weights(model).vocabulary.scale
    assert scale == pytest.approx(48**0.5 if architecture == "gemma" else 1.0, rel=1e-5)


def test_an_embedding_of_zeros_is_rejected():
    model = tiny_bridge("llama")
    model.original_model.get_input_embeddings().weight.data.zero_()
    with pytest.raises(tw.UnsupportedModelError, match="every row of its embedding W_E is zero"):
        tw.read_weights(model)


def wide(d_vocab_out: int):
    return native(d_vocab=12, d_vocab_out=d_vocab_out, n_layers=2)


def test_a_few_words_without_an_output():
    d_vocab_out = 11
    model = wide(d_vocab_out)
    assert tw.check(model, PROMPT).passed
    weights = tw.read_weights(model)
    assert "words in and out" in {caveat.name for caveat in weights.caveats}
    path = tw.trajectory(weights, tw.read_states(model, PROMPT))
    table = path.to_dataframe()
    assert table.reads_as_index.max() < d_vocab_out
    following = [next_id < d_vocab_out for next_id in PROMPT[1:]]
    angles = table.query("layer == 1").angle_to_next_readout
    assert angles.notna().tolist() == [*following, False]
    assert table.query("position < 4").angle_to_next.notna().all()
    for circuit in ("QK", "OV"):
        tw.head_spectrum(weights, layer=0, circuit=circuit, n=2, k=5)
        tw.head_probe(weights, layer=0, words=[3, 11], circuit=circuit, k=5)
    assert "nan" not in repr(tw.head_atlas(weights, n=2, k=5))
    tw.trajectory_alignment(model, [PROMPT, PROMPT[::-1]], controls=[])


def test_the_readout_of_words_that_are_only_read_is_missing():
    readout = tw.read_weights(wide(7)).readout
    rows = readout.direction(torch.tensor([6, 7, 0, 11]))
    assert rows.isnan().all(-1).tolist() == [False, True, False, True]


def test_words_in_and_out_of_one_size_have_no_caveat():
    assert "words in and out" not in repr(tw.read_weights(wide(12)))
