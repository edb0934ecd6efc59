"""Hybrids: readings and the page use the real numbers of the layers with attention."""

from pathlib import Path

import pytest

import tw_lens as tw
from tests.zoo import zoo_bridge
from tw_lens.reading.layer import host_layers


@pytest.fixture(scope="module")
def hybrid():
    return zoo_bridge("Qwen3NextForCausalLM")


def test_layers_keep_their_numbers(hybrid):
    weights = tw.read_weights(hybrid)
    assert weights.attention_layers and 0 not in weights.attention_layers
    layer = weights.attention_layers[0]
    assert weights.block(layer).layer == layer
    assert tw.head_spectrum(weights, layer=layer, n=1).to_dataframe().component[0] == f"L{layer}H0"
    with pytest.raises(
        tw.UnsupportedModelError, match=r"layer 0 has no attention\. The layers with"
    ):
        weights.block(0)


def test_readings_without_a_layer_use_the_first_with_attention(hybrid, tmp_path: Path):
    assert len(tw.embedding_distances(tw.read_weights(hybrid)).settings) == 4
    page = tw.report(hybrid, tmp_path / "page.html", prompt=list(range(3, 11)))
    assert "Layer 1" in page.read_text() and "Layer 0:" not in page.read_text()


def test_attention_without_hooks():
    layers = host_layers(zoo_bridge("NemotronHForCausalLM"))
    unhooked = [layer for layer in layers if layer.has_unhooked_attention]
    assert unhooked and all(layer.attention is layer.original_attention for layer in unhooked)
