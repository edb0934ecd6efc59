"""Offloaded models (accelerate, to disk or host memory) are read like models in memory."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch

import tw_lens as tw
from tests.models import as_bridge, shared_bridge, tiny_hf
from tw_lens.reading.offloaded import materialised

pytestmark = pytest.mark.skipif(
    version("transformer_lens").startswith("3."),
    reason="TransformerLens 3.9 refuses such models itself, or loses their weights in its forward",
)
HOUSE = Path(__file__).parents[2]
PROMPT = list(range(3, 15))
ARCHITECTURES = ("gpt2", "llama", "gemma", "qwen3", "neo")


def offloaded(architecture: str, where: str, folder: Path) -> Any:
    """Return a tiny bridge with all weights offloaded to disk or to the host's memory."""
    model, here = tiny_hf(architecture), torch.device("cpu")
    if where == "cpu":
        accelerate.cpu_offload(model, execution_device=here)
    else:
        accelerate.disk_offload(model, str(folder), execution_device=here)
    assert all(p.is_meta for p in model.parameters())
    return as_bridge(model, f"tiny-{architecture}")


def away(model: Any) -> list[str]:
    """Return the parameters without data; a bridge keeps the ones it has split itself."""
    return [name for name, p in model.original_model.named_parameters() if p.is_meta]


@pytest.mark.parametrize("where", ["cpu", "disk"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_weights_are_those_of_the_plain_model(architecture: str, where: str, tmp_path: Path):
    model = offloaded(architecture, where, tmp_path)
    before = away(model)
    assert len(before) > 20
    plain, read = tw.read_weights(shared_bridge(architecture)), tw.read_weights(model)
    for layer in range(plain.n_layers):
        for name in ("A_Q", "A_K", "A_V", "A_O", "a_Q", "a_K", "a_V", "a_O"):
            assert torch.equal(getattr(read.block(layer), name), getattr(plain.block(layer), name))
    assert torch.equal(read.vocabulary.W_E, plain.vocabulary.W_E)
    assert torch.equal(read.readout.W_U, plain.readout.W_U)
    assert repr(read) == repr(plain)
    assert away(model) == before


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_certified_with_every_weight_on_disk(architecture: str, tmp_path: Path):
    model, plain = offloaded(architecture, "disk", tmp_path), shared_bridge(architecture)
    before = away(model)
    certificate = tw.check(model, PROMPT)
    assert certificate.passed and certificate.max_rel_error < 1e-5
    assert certificate.comparisons == tw.check(plain, PROMPT).comparisons
    states, expected = (tw.read_states(m, PROMPT) for m in (model, plain))
    for name in ("stream", "attn_out", "mlp_out"):
        assert torch.equal(getattr(states, name), getattr(expected, name))
    path = tw.trajectory(tw.read_weights(model), states)
    assert path.readout(2, 2) == tw.trajectory(tw.read_weights(plain), expected).readout(2, 2)
    assert away(model) == before


def test_a_device_map_of_transformers(tmp_path: Path):
    """A `device_map=` of `from_pretrained` with some blocks and the head on disk."""
    from transformers import AutoModelForCausalLM

    saved = tiny_hf("mistral")
    saved.save_pretrained(tmp_path / "model")
    device_map = {
        "model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.layers.0": "cpu",
        "model.layers.1": "disk", "model.layers.2": "disk", "model.norm": "disk",
        "lm_head": "disk",
    }  # fmt: skip
    hf_model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", device_map=device_map, offload_folder=str(tmp_path / "away"),
        dtype=torch.float32, attn_implementation="eager",
    )  # fmt: skip
    model = as_bridge(hf_model, "tiny-mistral")
    certificate = tw.check(model, PROMPT)
    assert certificate.comparisons == tw.check(shared_bridge("mistral"), PROMPT).comparisons
    assert len(away(model)) == 20


def test_only_the_requested_weights_are_loaded(tmp_path: Path):
    model = offloaded("llama", "disk", tmp_path)
    block = model.blocks[1]
    with materialised(block, exclude=block.mlp):
        assert not block.attn.q.original_component.weight.is_meta
        assert not block.ln1.original_component.weight.is_meta
        assert all(p.is_meta for p in block.mlp.parameters())
        assert all(p.is_meta for p in model.blocks[0].parameters())
        with materialised(block.attn):
            pass
        assert not block.attn.q.original_component.weight.is_meta
    assert all(p.is_meta for p in block.parameters())


def test_meta_weights_without_a_hook_are_rejected(tmp_path: Path):
    model = offloaded("llama", "disk", tmp_path)
    norm = model.blocks[2].ln1.original_component
    accelerate.hooks.remove_hook_from_module(norm)
    norm.to("meta")
    for call in (tw.read_weights, lambda m: tw.check(m, PROMPT)):
        with pytest.raises(ValueError, match="meta device, without data"):
            call(model)


def test_nan_on_disk_is_named(tmp_path: Path):
    hf_model = tiny_hf("llama")
    hf_model.model.layers[1].self_attn.k_proj.weight.data[0, 0] = float("nan")
    accelerate.disk_offload(hf_model, str(tmp_path), execution_device=torch.device("cpu"))
    weights = tw.read_weights(as_bridge(hf_model, "tiny-llama"))
    with pytest.raises(ValueError, match=r"blocks\.1\.attn\.W_K contains NaN"):
        weights.block(1)


def in_a_process_of_its_own(*arguments: str) -> str:
    command = [sys.executable, "-W", "ignore", "-m", "tests.reading.big_model", *arguments]
    done = subprocess.run(command, cwd=HOUSE, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_memory_stays_far_below_the_model(tmp_path: Path):
    folder = str(tmp_path / "big")
    in_a_process_of_its_own("make", folder, "20", "512")
    sizes = json.loads(in_a_process_of_its_own("read", folder).splitlines()[-1])
    assert sizes["model"] > 3e8
    assert sizes["max_rel_error"] < 1e-5
    assert sizes["readout"] <= sizes["certifying"] < 0.5 * sizes["model"]
