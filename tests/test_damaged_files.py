"""Damaged files of every kind that is read again: refused in one sentence, or computed again.

Every kind of file in every kind of damage: cut, flipped, overwritten, mixed up, of another kind.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import sys
import zipfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

import tw_lens as tw
from tests.models import shared_bridge
from tw_lens.analyses.umap_cache import cached_umap
from tw_lens.geometry import ReducedPoints
from tw_lens.studies.checkpoint import (
    CheckpointState,
    PartialResults,
    load_checkpoint,
    save_checkpoint,
)
from tw_lens.tensor_files import load_tensors, save_tensors

SETTINGS = {"study": "trajectories", "seed": 0}
KINDS = ("states", "vocabulary", "checkpoint", "projection")
POINTS = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
FITTED = ReducedPoints(POINTS[:, :2].contiguous(), 0.75, (float("nan"),) * 2)

Damage = Callable[[bytes, np.random.Generator], bytes]


def write(kind: str, path: Path) -> None:
    """Write an intact file of a kind; a projection is written by its cache."""
    model = shared_bridge("gpt2")
    if kind == "states":
        tw.save_states(tw.read_states(model, [5, 6, 7]), path)
    elif kind == "vocabulary":
        prompts = [[5, 6, 7], [6, 5, 7]]
        tw.layer_vocabulary(model, layers=[1, 2], prompts=prompts, min_count=2).save(path)
    elif kind == "checkpoint":
        tensors = {"totals": torch.randn(3, 4), "counts": torch.ones(3, 4)}
        save_checkpoint(
            path, CheckpointState(PartialResults(tensors, {"n": 2}), 7, "ab" * 32), SETTINGS
        )
    else:
        header = {"key": path.stem, "trustworthiness": FITTED.trustworthiness}
        save_tensors(path, "tw_lens umap 2", {"points": FITTED.points}, header)


def read(kind: str, path: Path):
    if kind == "states":
        return tw.load_states(path)
    return tw.load_vocabulary(path) if kind == "vocabulary" else load_checkpoint(path, SETTINGS)


@lru_cache(maxsize=4)
def intact(kind: str) -> bytes:
    with TemporaryDirectory() as folder:
        write(kind, Path(folder) / "file")
        return (Path(folder) / "file").read_bytes()


def in_header(content: bytes) -> tuple[int, int]:
    return 8, 8 + int.from_bytes(content[:8], "little")


def cut(share: float) -> Damage:
    return lambda content, _: content[: int(share * len(content))]


def flipped(part: str, bits: int) -> Damage:
    """Flip bits of one byte: of the header's text, or of the tensors."""

    def damage(content: bytes, generator: np.random.Generator) -> bytes:
        start, end = in_header(content)
        span = (start, len(content[:end].rstrip())) if part == "header" else (end, len(content))
        place = int(generator.integers(*span))
        return content[:place] + bytes([content[place] ^ bits]) + content[place + 1 :]

    return damage


def overwritten(size: int, byte: bytes) -> Damage:
    """Overwrite a stretch, as a lost disk block does."""

    def damage(content: bytes, generator: np.random.Generator) -> bytes:
        place = int(generator.integers(8, len(content) - size))
        return content[:place] + byte * size + content[place + size :]

    return damage


def saved_otherwise(change: Callable[[dict, dict], None]) -> Damage:
    """Save the same file again with other tensors or another header."""

    def damage(content: bytes, _: np.random.Generator) -> bytes:
        start, end = in_header(content)
        tensors, header = load(content), json.loads(content[start:end])["__metadata__"]
        change(tensors, header)
        return save(tensors, metadata=header)

    return damage


def first(tensors: dict) -> str:
    return max(tensors, key=lambda name: tensors[name].numel())


def swap_tensors(tensors: dict, _: dict) -> None:
    """Swap two tensors of one shape, or the rows of the largest."""
    name = first(tensors)
    alike = [n for n in tensors if n != name and tensors[n].shape == tensors[name].shape]
    if alike:
        tensors[name], tensors[alike[0]] = tensors[alike[0]], tensors[name]
    else:
        tensors[name] = tensors[name].flip(0).contiguous()


def change_largest(how: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict, dict], None]:
    return lambda tensors, _: tensors.update({first(tensors): how(tensors[first(tensors)])})


def change_header(how: Callable[[dict], object]) -> Callable[[dict, dict], None]:
    return lambda _, header: how(header) and None


def longest(header: dict) -> str:
    return max(header.keys() - {"digest", "layout"}, key=lambda name: len(header[name]))


def archive(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as held:
        held.writestr("states", content)
    return file.getvalue()


def npz(content: bytes) -> bytes:
    file = io.BytesIO()
    np.savez(file, stream=np.zeros(3))
    return file.getvalue()


DAMAGES: dict[str, Damage] = {
    **{f"cut to {share:.0%}": cut(share) for share in (0.0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9)},
    **{f"without its last {n} bytes": (lambda c, _, n=n: c[:-n]) for n in (1, 2, 4, 8, 64)},
    **{f"without its first {n} bytes": (lambda c, _, n=n: c[n:]) for n in (1, 8, 64)},
    **{f"header flip {b}": flipped("header", b) for b in (1, 2, 4, 8, 16, 32, 64, 128)},
    **{f"tensor flip {b}": flipped("tensors", b) for b in (1, 2, 4, 8, 16, 32, 64, 128)},
    **{f"{n} zeros": overwritten(n, b"\xa5") for n in (8, 32, 128)},
    "header length": lambda c, _: (
        (int.from_bytes(c[:8], "little") + 8).to_bytes(8, "little") + c[8:]
    ),
    "huge header": lambda c, _: (2**40).to_bytes(8, "little") + c[8:],
    "bytes behind it": lambda c, _: c + b"\0" * 8,
    "twice": lambda c, _: c + c,
    "reversed": lambda c, _: c[::-1],
    "read as text": lambda c, _: c.decode("utf-8", "replace").encode(),
    "line ends of Windows": lambda c, _: c.replace(b"\n", b"\r\n") + b"\r\n",
    "compressed": lambda c, _: gzip.compress(c),
    "in a zip": lambda c, _: archive(c),
    "a pickle": lambda c, _: pickle.dumps({"stream": c}),
    "npz": lambda c, _: npz(c),
    "json": lambda c, _: json.dumps({"layout": "tw_lens states 2"}).encode(),
    "a web page": lambda c, _: b"<!doctype html><title>404</title>" * 9,
    "tensors swapped": saved_otherwise(swap_tensors),
    "one number changed": saved_otherwise(
        change_largest(lambda t: torch.cat([t.flatten()[:1] + 1, t.flatten()[1:]]).view_as(t))
    ),
    "NaN": saved_otherwise(change_largest(lambda t: t * float("nan"))),
    "half precision": saved_otherwise(change_largest(lambda t: t.bfloat16())),
    "another shape": saved_otherwise(change_largest(lambda t: t.flatten())),
    "a tensor missing": saved_otherwise(lambda t, _: t.__delitem__(first(t))),
    "a tensor more": saved_otherwise(lambda t, _: t.update(more=torch.zeros(2))),
    "a tensor renamed": saved_otherwise(lambda t, _: t.update(other=t.pop(first(t)))),
    "no header": saved_otherwise(change_header(dict.clear)),
    "no digest": saved_otherwise(change_header(lambda h: h.pop("digest"))),
    "no layout": saved_otherwise(change_header(lambda h: h.pop("layout"))),
    "an earlier layout": saved_otherwise(change_header(lambda h: h.update(layout="tw_lens 1"))),
    "a value missing": saved_otherwise(change_header(lambda h: h.pop(longest(h)))),
    "a value of wrong JSON": saved_otherwise(change_header(lambda h: h.update({longest(h): "["}))),
    "another value": saved_otherwise(change_header(lambda h: h.update({longest(h): "[]"}))),
}


def test_there_are_enough():
    assert len(KINDS) * len(DAMAGES) >= 200


def damaged(kind: str, name: str) -> bytes:
    content = DAMAGES[name](intact(kind), np.random.default_rng(len(name)))
    assert content != intact(kind)
    return content


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize("kind", KINDS[:3])
def test_damaged_files_are_refused_by_name(tmp_path, kind: str, name: str):
    path = tmp_path / "the file"
    path.write_bytes(damaged(kind, name))
    with pytest.raises(ValueError, match=r"the file' (is (truncated|damaged)|holds no )") as caught:
        read(kind, path)
    assert type(caught.value) is not ValueError and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_projection_is_fitted_again(tmp_path, monkeypatch, name: str):
    monkeypatch.setenv("TW_LENS_CACHE", str(tmp_path))
    fits = []
    monkeypatch.setattr(
        sys.modules["tw_lens.analyses.umap_cache"],
        "umap",
        lambda *_, **__: fits.append(1) or FITTED,
    )
    cached_umap(POINTS, 2, seed=0)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    cached_umap(POINTS, 2, seed=0)
    assert len(fits) == 1
    path.write_bytes(DAMAGES[name](whole, np.random.default_rng(len(name))))
    assert path.read_bytes() != whole
    again = cached_umap(POINTS, 2, seed=0)
    assert len(fits) == 2 and torch.equal(again.points, FITTED.points)
    assert load_tensors(path, "tw_lens umap 2", "projection", ValueError)[1]["trustworthiness"]


def test_a_cached_projection_of_other_points_is_fitted_again(tmp_path, monkeypatch):
    monkeypatch.setenv("TW_LENS_CACHE", str(tmp_path))
    results = iter([FITTED, FITTED._replace(points=-FITTED.points), FITTED])
    monkeypatch.setattr(
        sys.modules["tw_lens.analyses.umap_cache"], "umap", lambda *_, **__: next(results)
    )
    cached_umap(POINTS, 2, seed=0)
    (path,) = tmp_path.iterdir()
    cached_umap(-POINTS, 2, seed=0)
    (other,) = set(tmp_path.iterdir()) - {path}
    path.write_bytes(other.read_bytes())
    assert torch.equal(cached_umap(POINTS, 2, seed=0).points, FITTED.points)


@pytest.mark.parametrize("kind", KINDS[:3])
@pytest.mark.parametrize("other", KINDS)
def test_files_of_the_other_kinds_are_refused(tmp_path, kind: str, other: str):
    path = tmp_path / "the file"
    path.write_bytes(intact(other))
    if kind == other:
        assert read(kind, path) is not None
        return
    with pytest.raises(ValueError, match=r"the file' holds no .*its layout is 'tw_lens"):
        read(kind, path)


@pytest.mark.parametrize("kind", KINDS[:3])
def test_what_is_no_file_is_refused(tmp_path, kind: str):
    with pytest.raises(ValueError, match="is a folder or a device"):
        read(kind, tmp_path)
    if kind != "checkpoint":  # a new study starts there
        with pytest.raises(FileNotFoundError, match="there is no file"):
            read(kind, tmp_path / "none")


def test_a_file_is_read_completely(tmp_path):
    """Nothing of a loaded tensor stays on the disk."""
    path = save_tensors(tmp_path / "file", "layout", {"x": torch.arange(4096.0)}, {})
    tensors, _ = load_tensors(path, "layout", "numbers", ValueError)
    with path.open("rb+") as file:
        file.write(b"\0" * path.stat().st_size)
    assert torch.equal(tensors["x"], torch.arange(4096.0))


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]
)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)])
def test_every_type_and_shape_comes_back(tmp_path, dtype: torch.dtype, shape: tuple[int, ...]):
    tensor = torch.ones(shape).to(dtype)
    turned = tensor.T if len(shape) == 2 else tensor
    path = save_tensors(tmp_path / "file", "layout", {"x": tensor, "y": turned}, {"a": [1]})
    tensors, values = load_tensors(path, "layout", "numbers", ValueError)
    assert torch.equal(tensors["x"], tensor) and tensors["x"].dtype == dtype
    assert torch.equal(tensors["y"], turned)
    assert values == {"a": [1]}
