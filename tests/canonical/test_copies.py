"""Copies for workers: weights, states, vocabularies and results by deepcopy, pickle and joblib."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import joblib
import pytest
import torch

import tw_lens as tw
from tests.models import BRIDGES, shared_bridge, tiny_bridge
from tests.zoo import at_hand, zoo_bridge
from tw_lens import UnsupportedModelError, Weights


def through_joblib(value: Any) -> Any:
    file = io.BytesIO()
    joblib.dump(value, file)
    file.seek(0)
    return joblib.load(file)


def through_torch(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "joblib": through_joblib,
    "torch.save": through_torch,
}
# Positions stored, computed, complex and scaled; heads of masked models; hybrids; latent attention.
SPECIAL = (
    "GPTJForCausalLM", "BertForMaskedLM", "DeepseekV2ForCausalLM",
    "Llama4ForCausalLM", "Gemma3ForCausalLM", "BloomForCausalLM", "FalconH1ForCausalLM",
)  # fmt: skip


def same_weights(one: Weights, other: Weights) -> None:
    x = torch.randn(6, one.d_model, generator=torch.Generator().manual_seed(0))
    for layer in one.attention_layers:
        ours, theirs = one.block(layer), other.block(layer)
        assert torch.equal(ours.attention_pattern(x), theirs.attention_pattern(x))
        assert torch.equal(ours.A_O, theirs.A_O) and torch.equal(ours.values(x), theirs.values(x))
    assert torch.equal(one.readout.logits(x), other.readout.logits(x))
    ids = torch.arange(9)
    assert torch.equal(one.vocabulary.embed(ids), other.vocabulary.embed(ids))
    assert one.tokens.strings(range(9)) == other.tokens.strings(range(9))
    assert (one.fingerprint, repr(one)) == (other.fingerprint, repr(other))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("architecture", BRIDGES)
def test_weights(architecture: str, way: str):
    weights = tw.read_weights(shared_bridge(architecture))
    same_weights(weights, WAYS[way](weights))


@pytest.mark.parametrize("architecture", SPECIAL)
def test_weights_of_special_architectures(architecture: str):
    assert at_hand(architecture)
    weights = tw.read_weights(zoo_bridge(architecture))
    same_weights(weights, WAYS["pickle"](weights))
    same_weights(weights, WAYS["deepcopy"](weights))


def test_a_copy_holds_its_blocks_and_no_model():
    model = tiny_bridge("llama")
    weights = tw.read_weights(model)
    copied, before = copy.deepcopy(weights), weights.block(1).A_Q.clone()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(copied.block(1).A_Q, before)
    assert not weights.block(0).A_Q.any()
    assert len(pickle.dumps(weights)) < 2 * sum(4 * p.numel() for p in model.parameters())


def test_a_copy_names_layers_as_the_original_does():
    weights = tw.read_weights(zoo_bridge("JambaForCausalLM"))
    without = next(n for n in range(weights.n_layers) if n not in weights.attention_layers)
    for one in (weights, copy.deepcopy(weights)):
        with pytest.raises(UnsupportedModelError, match=f"layer {without} has no attention"):
            one.block(without)
        with pytest.raises(IndexError, match="does not exist"):
            one.block(weights.n_layers)


def test_weights_of_a_model_that_is_trained_or_was_loaded_in_inference_mode():
    with torch.inference_mode():
        frozen = tiny_bridge("gpt2")
    training = tiny_bridge("gpt2")
    for model in (frozen, training):
        weights = tw.read_weights(model)
        assert not weights.vocabulary.W_E.requires_grad and not weights.readout.W_U.requires_grad
        same_weights(weights, copy.deepcopy(weights))


@pytest.mark.parametrize("way", WAYS)
def test_states_and_vocabularies(way: str):
    model = shared_bridge("gpt2")
    weights, states = tw.read_weights(model), tw.read_states(model, [5, 6, 7])
    copied = WAYS[way](states)
    assert torch.equal(copied.stream, states.stream) and repr(copied) == repr(states)
    made = tw.layer_vocabulary(model, source="embedding")
    made.require_model(WAYS[way](weights))
    options = {"layer": 1, "words": [5, 6], "k": 3}
    one = tw.head_probe(weights, vocabulary=made, **options)
    other = tw.head_probe(WAYS[way](weights), vocabulary=WAYS[way](made), **options)
    assert one.to_dataframe().equals(other.to_dataframe())


WORKER = """
import pickle, sys
import tw_lens as tw

weights, states = pickle.load(open(sys.argv[1], "rb"))
table = tw.trajectory_attribution(weights, states).to_dataframe()
pickle.dump(table, open(sys.argv[2], "wb"))
assert "transformer_lens" not in sys.modules
"""


def test_a_worker_in_another_process(tmp_path):
    model = shared_bridge("llama")
    weights, states = tw.read_weights(model), tw.read_states(model, [5, 6, 7])
    (tmp_path / "in").write_bytes(pickle.dumps((weights, states)))
    command = [sys.executable, "-c", WORKER, str(tmp_path / "in"), str(tmp_path / "out")]
    subprocess.run(command, check=True)
    table = pickle.loads((tmp_path / "out").read_bytes())
    assert table.equals(tw.trajectory_attribution(weights, states).to_dataframe())
