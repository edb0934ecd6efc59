"""Named points from files and from sparse autoencoders."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tw_lens.arguments import checked
from tw_lens.canonical.points import PointKind, Points

SUFFIXES = (".safetensors", ".npz")
NAMES = "names"


@checked
def load_points(
    path: str | Path,
    *,
    names: Sequence[str] | None = None,
    tensor: str | None = None,
    kind: PointKind = "state",
    label: str = "points",
    divisor: float = 1.0,
) -> Points:
    """Read named vectors from a safetensors or npz file.

    Args:
        path: a file ending in .safetensors or .npz.
        names: a name per vector; by default those in the file: an array `names` (npz), or a JSON
            list under `names` in the metadata (safetensors).
        tensor: the entry that holds the vectors `[points, d_model]`; not needed where one fits.
        kind: how a layer meets them (see `Points`).
        label: what they are, for headlines.
        divisor: of "part" (see `Points`).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another kind of file, a damaged one, no names, or no entry that fits.

    Example:
        >>> load_points("classes.pt")
        Traceback (most recent call last):
        ValueError: classes.pt must end in .safetensors or .npz.

    Source: formats of safetensors and NumPy.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} must end in {' or '.join(SUFFIXES)}.")
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist.")
    tensors, stored = _safetensors(path) if path.suffix == SUFFIXES[0] else _npz(path)
    found = {name: t for name, t in tensors.items() if t.ndim == 2 and t.is_floating_point()}
    if tensor is not None:
        found = {name: t for name, t in found.items() if name == tensor}
    if len(found) != 1:
        raise ValueError(
            f"{path} must hold one table of vectors"
            f"{'' if tensor is None else f' named {tensor!r}'}, and has "
            f"{', '.join(f'{n} {list(t.shape)}' for n, t in tensors.items()) or 'no tensor'}; say "
            "which with tensor=."
        )
    chosen = stored if names is None else names
    if chosen is None:
        raise ValueError(f"{path} holds no names; give names=, one per vector.")
    (vectors,) = found.values()
    return Points(vectors.float(), tuple(chosen), kind, label, divisor)


@checked
def sae_points(sae: Any, *, names: Sequence[str] | None = None, divisor: float = 1.0) -> Points:
    """Return the decoder of a sparse autoencoder as points: one per feature, parts of the stream.

    Args:
        sae: an object with the decoder `W_dec [features, d_model]`, as SAELens holds it.
        names: a name per feature; "feature 0", "feature 1", ... by default.
        divisor: root mean square of the stream that features are a part of; it scales all scores.

    Raises:
        TypeError: the object has no such decoder.

    Example:
        >>> from types import SimpleNamespace
        >>> sae_points(SimpleNamespace(W_dec=torch.eye(3)))
        Points(SAE features: 'feature 0', 'feature 1', 'feature 2', kind 'part')

    Source: the structure of SAELens' SAE.
    """
    W_dec = getattr(sae, "W_dec", None)
    if not isinstance(W_dec, Tensor) or W_dec.ndim != 2:
        raise TypeError(
            "sae must have a decoder W_dec [features, d_model], as an SAE of SAELens has; got "
            f"{type(sae).__name__}."
        )
    numbered = tuple(f"feature {i}" for i in range(len(W_dec))) if names is None else tuple(names)
    return Points(W_dec.detach().float().cpu(), numbered, "part", "SAE features", divisor)


def _safetensors(path: Path) -> tuple[dict[str, Tensor], Sequence[str] | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            stored = (file.metadata() or {}).get(NAMES)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, None if stored is None else json.loads(stored)
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no complete safetensors file: {error}.") from None


def _npz(path: Path) -> tuple[dict[str, Tensor], Sequence[str] | None]:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"{path} is no complete npz file: {error}.") from None
    stored = arrays.pop(NAMES, None)
    numbers = {name: a for name, a in arrays.items() if a.dtype.kind in "fiub"}
    tensors = {name: torch.from_numpy(array) for name, array in numbers.items()}
    return tensors, None if stored is None else [str(name) for name in stored.ravel()]
