"""States files: exact round trip; truncated and wrong files are rejected in one sentence."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

import tw_lens as tw
from tests.models import shared_bridge
from tw_lens.reading.states_io import LAYOUT, TENSORS
from tw_lens.tensor_files import save_tensors

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


def test_files_of_another_kind(states, tmp_path):
    other = tmp_path / "other"
    save_file({"W": torch.zeros(2)}, other)
    with pytest.raises(ValueError, match=r"other' holds no states \(its layout is None"):
        tw.load_states(other)
    save_file({"W": torch.zeros(2)}, other, metadata={"layout": "tw_lens states 1"})
    with pytest.raises(ValueError, match="'tw_lens states 1', expected 'tw_lens states 2'"):
        tw.load_states(other)
    other.write_text("id,word\n1,a\n" * 9)
    with pytest.raises(ValueError, match="no safetensors file"):
        tw.load_states(other)
    with pytest.raises(ValueError, match="is a folder"):
        tw.load_states(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        tw.load_states(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="folder"):
        tw.save_states(states, tmp_path / "none" / "states")


@pytest.mark.parametrize("name", ["tokens", "stream", "attn_out", "mlp_out"])
def test_tensors_that_do_not_fit_together(states, tmp_path, name: str):
    tensors = {name: getattr(states, name) for name in TENSORS} | {name: getattr(states, name)[:2]}
    values = {"model_name": "tiny", "token_strings": states.token_strings}
    path = save_tensors(tmp_path / "states", LAYOUT, tensors, values)
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
