"""Files of named tensors: one safetensors file with a layout, a header and a digest of both.

1. The header holds the name of the layout, JSON values, and a digest of everything else: names,
   types, shapes and bytes of the tensors, and the header itself.
2. A file is written atomically and read completely; a changed byte does not match the digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from operator import index
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tw_lens.files import write_atomically

LAYOUT, DIGEST = "layout", "digest"


def save_tensors(
    path: Path, layout: str, tensors: Mapping[str, Tensor], values: Mapping[str, Any]
) -> Path:
    """Write tensors and JSON values to one file, atomically.

    Raises:
        FileNotFoundError, PermissionError: the file cannot be written there.
        OSError: the disk is full; nothing is left behind.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    held = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    header = {name: json.dumps(value, default=index) for name, value in values.items()}
    header[LAYOUT] = layout
    header[DIGEST] = _digest(held, header)

    def write(target: Path) -> None:
        try:
            save_file(held, target, metadata=header)
        except SafetensorError as error:
            raise OSError(str(error)) from error

    return write_atomically(path, write)


def load_tensors(
    path: Path, layout: str, kind: str, refusal: type[ValueError]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the JSON values of a file that `save_tensors` wrote.

    Args:
        path: the file.
        layout: the layout it must have.
        kind: what the file should hold, for the message.
        refusal: the error for a file that is damaged, of another kind or of another layout.

    Raises:
        FileNotFoundError: there is no such file.
        PermissionError: it cannot be read.
        ValueError: the refusal.
    """
    name = repr(str(path))
    if not path.exists():
        raise FileNotFoundError(f"there is no file {name}.")
    if not path.is_file():
        raise refusal(f"{name} is a folder or a device and holds no {kind}; give a file.")
    path.open("rb").close()
    content = _content(path)
    if content is None:
        raise refusal(
            f"{name} is truncated, damaged or no safetensors file, and holds no complete {kind}: "
            "copy or save it again, or name another file."
        )
    tensors, header = content
    if header.get(LAYOUT) != layout:
        raise refusal(
            f"{name} holds no {kind} (its layout is {header.get(LAYOUT)!r}, expected {layout!r}): "
            "save it with this version of tw_lens, or name another file."
        )
    if header.pop(DIGEST, None) != _digest(tensors, header):
        raise refusal(
            f"{name} is damaged, it does not hold the {kind} that was saved: copy or save it "
            "again, or name another file."
        )
    return tensors, {key: json.loads(value) for key, value in header.items() if key != LAYOUT}


def _content(path: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Return a file's tensors and header, copied from disk; None for no safetensors file."""
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name).clone() for name in names}, file.metadata() or {}
    except Exception:  # errors of safetensors, of torch (an unknown type), of the file system
        return None


def _digest(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(sorted(header.items())).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
