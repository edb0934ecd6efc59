"""The certificate passes on correct weights and names the quantities that are wrong."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

import tw_lens as tw
from tests.models import BRIDGES, shared_bridge, tiny_bridge
from tw_lens.canonical import Block, Weights
from tw_lens.reading import certify

PROMPT = list(range(3, 15))
QUANTITIES = ["q", "k", "v", "attn_scores", "attn_out", "mlp_pre", "mlp_out", "resid"]


@pytest.mark.parametrize("architecture", BRIDGES)
@pytest.mark.parametrize("processed", [False, True])
def test_passes(architecture: str, processed: bool):
    certificate = tw.check(shared_bridge(architecture, processed), PROMPT)
    assert certificate.passed
    assert certificate.max_rel_error < 1e-5
    table = certificate.to_dataframe()
    assert list(table.columns) == ["layer", "quantity", "max_abs_error", "rel_error"]
    assert table.quantity.tolist() == QUANTITIES * 3 + ["logits"]
    assert table.layer.tolist() == [0] * 8 + [1] * 8 + [2] * 8 + [3]
    assert table.rel_error.max() == certificate.max_rel_error > 0


def test_a_text_and_its_ids_are_certified_alike():
    model = shared_bridge("neox")
    by_text, by_ids = tw.check(model, "w5 w6 w7"), tw.check(model, [5, 6, 7])
    assert by_text.tokens == by_ids.tokens
    assert by_text.comparisons == by_ids.comparisons


def altered(weights: Weights, change: Callable[[Block], Block]) -> Weights:
    """Return the weights with `change` applied to every block."""
    return replace(weights, read_block=lambda layer: change(weights.block(layer)))


def without_norm_bias(block: Block) -> Block:
    return replace(block, norm=replace(block.norm, bias=torch.zeros_like(block.norm.bias)))


def gain_off_by_one(block: Block) -> Block:
    return replace(block, norm=replace(block.norm, gain=block.norm.gain - 1))


def keys_swapped(block: Block) -> Block:
    return replace(block, W_K=block.W_K.flip(0), b_K=block.b_K.flip(0))


def values_swapped(block: Block) -> Block:
    return replace(block, W_V=block.W_V.flip(0), b_V=block.b_V.flip(0))


def rescored(block: Block, **changes: Any) -> Block:
    return replace(block, attention_scores=replace(block.attention_scores, **changes))


def unrotated(block: Block) -> Block:
    assert block.attention_scores.rotary is not None
    return rescored(block, rotary=None)


def pairs_mistaken(block: Block) -> Block:
    rotary = block.attention_scores.rotary
    assert rotary is not None
    return rescored(block, rotary=replace(rotary, interleaved=not rotary.interleaved))


def scale_off(block: Block) -> Block:
    return rescored(block, scale=block.attention_scores.scale * 1.01)


def without_eps(block: Block) -> Block:
    return replace(block, norm=replace(block.norm, eps=0.0))


def centring_mistaken(block: Block) -> Block:
    return replace(block, norm=replace(block.norm, centred=not block.norm.centred))


def without_query_bias(block: Block) -> Block:
    return replace(block, b_Q=torch.zeros_like(block.b_Q))


def without_output_bias(block: Block) -> Block:
    return replace(block, b_O=torch.zeros_like(block.b_O))


def heads_reordered(block: Block) -> Block:
    return replace(block, W_O=block.W_O.flip(0))


def narrow_window(block: Block) -> Block:
    return rescored(block, window=3)


AFTER_QKV = {"attn_scores", "attn_out", "resid"}
BROKEN = [
    ("gpt2", without_norm_bias, {"q", "k", "v"} | AFTER_QKV),
    ("gpt2", without_eps, {"q", "k", "v"} | AFTER_QKV),
    ("gpt2", centring_mistaken, {"q", "k", "v"} | AFTER_QKV),
    ("gpt2", without_output_bias, {"attn_out", "resid"}),
    ("gpt2", heads_reordered, {"attn_out", "resid"}),
    ("gemma", gain_off_by_one, {"q", "k", "v"} | AFTER_QKV),
    ("llama", gain_off_by_one, {"q", "k", "v"} | AFTER_QKV),
    ("llama", centring_mistaken, {"q", "k", "v"} | AFTER_QKV),
    ("llama", keys_swapped, {"k"} | AFTER_QKV),
    ("mistral", values_swapped, {"v", "attn_out", "resid"}),
    ("qwen2", without_query_bias, {"q"} | AFTER_QKV),
    ("neox", unrotated, AFTER_QKV),
    ("qwen2", unrotated, AFTER_QKV),
    ("llama", pairs_mistaken, AFTER_QKV),
    ("mistral", scale_off, AFTER_QKV),
    ("gpt2", scale_off, AFTER_QKV),
    ("llama", narrow_window, {"attn_out", "resid"}),
]


@pytest.mark.parametrize(("architecture", "change", "wrong"), BROKEN)
def test_a_broken_fold_is_named(
    architecture: str, change: Callable[[Block], Block], wrong: set[str]
):
    model = shared_bridge(architecture)
    weights = tw.read_weights(model)
    assert certify(model, weights, PROMPT).max_rel_error < 1e-5
    certificate = certify(model, altered(weights, change), PROMPT)
    assert not certificate.passed
    assert "FAILED" in repr(certificate)
    first = certificate.to_dataframe().query("layer == 0")
    assert set(first[first.rel_error >= certificate.tolerance].quantity) == wrong


def test_a_broken_readout_is_named():
    model = shared_bridge("gpt2")
    weights = tw.read_weights(model)
    norm = replace(weights.readout.norm, bias=torch.zeros(weights.d_model))
    broken = replace(weights, readout=replace(weights.readout, norm=norm))
    table = certify(model, broken, PROMPT).to_dataframe()
    assert table[table.rel_error >= 1e-4].quantity.tolist() == ["logits"]


def test_a_forgotten_embedding_scale_is_named():
    model = shared_bridge("gemma")
    weights = tw.read_weights(model)
    assert weights.vocabulary.scale == pytest.approx(48**0.5, rel=1e-6)
    broken = replace(weights, vocabulary=replace(weights.vocabulary, scale=1.0))
    table = certify(model, broken, PROMPT).to_dataframe()
    assert set(table[table.rel_error >= 1e-4].quantity) == {"resid"}


def test_nan_never_passes():
    model = shared_bridge("gpt2")
    weights = tw.read_weights(model)
    broken = altered(weights, lambda block: replace(block, b_O=block.b_O * float("nan")))
    certificate = certify(model, broken, PROMPT)
    assert certificate.max_rel_error == float("inf")
    assert not certificate.passed
    assert certificate.worst.quantity == "attn_out"


def test_a_stricter_tolerance():
    model = shared_bridge("gpt2")
    certificate = tw.check(model, PROMPT, tolerance=1e-12)
    assert certificate.tolerance == 1e-12
    assert not certificate.passed


WINDOWS = [("mistral-window", [4, 4, 4]), ("qwen2-window", [None, 4, 4]), ("neo", [None, 4])]


@pytest.mark.parametrize(("architecture", "windows"), WINDOWS)
def test_sliding_window(architecture: str, windows: list[int | None]):
    """Positions beyond the window are left out of the recomputed attention."""
    model = shared_bridge(architecture)
    weights = tw.read_weights(model)
    assert [
        weights.block(layer).attention_scores.window for layer in range(weights.n_layers)
    ] == windows
    certificate = certify(model, weights, PROMPT)
    assert certificate.max_rel_error < 1e-5
    unwindowed = altered(weights, lambda block: rescored(block, window=None))
    wrong = certify(model, unwindowed, PROMPT).to_dataframe().query("rel_error > 1e-4")
    attention = wrong[wrong.quantity == "attn_out"].layer.tolist()
    assert attention == [layer for layer, window in enumerate(windows) if window]


@pytest.mark.parametrize("seed", [1, 2])
def test_other_seeds(seed: int):
    assert tw.check(tiny_bridge("mistral", seed), PROMPT).max_rel_error < 1e-5
