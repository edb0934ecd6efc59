"""States files: exact round trip; truncated and wrong files are rejected in one sentence."""

from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import tw_lens as tw
from tests.models import shared_bridge

PROMPT = [5, 6, 7]


@pytest.fixture
def states():
    return tw.read_states(shared_bridge("gpt2"), PROMPT)


def test_round_trip(states, tmp_path):
    states = replace(
        states, token_strings=(" é\n", "\udce9".encode("utf-8", "replace").decode(), "")
    )
    path = tw.save_states(states, tmp_path / "states.safetensors")
    again = tw.load_states(str(path))
    for name in ("tokens", "stream", "attn_out", "mlp_out"):
        assert torch.equal(getattr(again, name), getattr(states, name))
    assert again.model_name == states.model_name and again.token_strings == states.token_strings
    assert [file.name for file in tmp_path.iterdir()] == ["states.safetensors"]
    weights = tw.read_weights(shared_bridge("gpt2"))
    one, other = (tw.trajectory(weights, s).to_dataframe() for s in (states, again))
    assert one.equals(other)


def test_truncated_files_of_every_length(states, tmp_path):
    whole = tw.save_states(states, tmp_path / "whole").read_bytes()
    truncated = tmp_path / "truncated"
    for length in (0, 4, 8, 100, len(whole) // 2, len(whole) - 1):
        truncated.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="truncated or no safetensors file"):
            tw.load_states(truncated)


def test_files_of_another_kind(states, tmp_path):
    other = tmp_path / "other"
    save_file({"W": torch.zeros(2)}, other)
    with pytest.raises(ValueError, match="without states"):
        tw.load_states(other)
    other.write_text("id,word\n1,a\n" * 9)
    with pytest.raises(ValueError, match="no safetensors file"):
        tw.load_states(other)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        tw.load_states(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="folder"):
        tw.save_states(states, tmp_path / "none" / "states")


def test_tensors_that_do_not_fit_together(states, tmp_path):
    path = tw.save_states(states, tmp_path / "states")
    with safe_open(path, framework="pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name in tensors:
        save_file(tensors | {name: tensors[name][:2].contiguous()}, path, metadata=header)
        with pytest.raises(ValueError, match="do not fit together"):
            tw.load_states(path)


def test_a_failed_save_leaves_the_old_file(states, tmp_path, monkeypatch):
    path = tw.save_states(states, tmp_path / "states")
    before = path.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(OSError, match="full"):
        tw.save_states(states, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
