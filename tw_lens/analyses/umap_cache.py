"""UMAP's maps on disk: fitted once, then read, however many processes ask.

1. A map's name is a digest of the points, of what is asked for, and of UMAP's version.
2. One safetensors file per map in `$TW_LENS_CACHE` (by default `~/.cache/tw_lens`), written beside
   its place and moved there whole: of two processes the later one puts the same map again.
3. A file that is cut or changed does not match the digest of its points: it is fitted again.
4. Where nothing can be written the map is fitted all the same, and a warning says so.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from importlib.metadata import version
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from tw_lens.files import write_atomically
from tw_lens.geometry import ReducedPoints, umap

CACHE_VERSION = 1  # one more whenever `umap` makes something else of the same points


def cached_umap(
    points: Float[Tensor, "points d"], n_components: int, *, seed: int
) -> ReducedPoints:
    """The map that `umap` fits, from the disk where it was fitted before.

    Args:
        points: everything that is drawn, states and words.
        n_components: axes of the map.
        seed: of the fit.
    """
    path = _place(points, n_components, seed)
    found = _read(path, (len(points), n_components))
    if found is None:
        found = umap(points, n_components, seed=seed)
        _write(path, found)
    return found


def _place(points: Tensor, n_components: int, seed: int) -> Path:
    asked = f"{CACHE_VERSION} {version('umap-learn')} {tuple(points.shape)} {n_components} {seed} "
    name = hashlib.sha256(asked.encode() + _bytes(points)).hexdigest()[:32]
    folder = os.environ.get("TW_LENS_CACHE") or Path.home() / ".cache" / "tw_lens"
    return Path(folder) / f"umap-{name}.safetensors"


def _read(path: Path, shape: tuple[int, int]) -> ReducedPoints | None:
    """A kept map; None where there is none, or no whole one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header, points = file.metadata() or {}, file.get_tensor("points")
    except (SafetensorError, OSError):
        return None
    if points.shape != shape or header.get("digest") != _digest(points):
        return None
    return ReducedPoints(points, float(header["trustworthiness"]), (float("nan"),) * shape[1])


def _write(path: Path, found: ReducedPoints) -> None:
    from safetensors.torch import save_file

    points = found.points.contiguous()
    header = {"digest": _digest(points), "trustworthiness": repr(found.trustworthiness)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda to: save_file({"points": points}, to, metadata=header))
    except OSError as refused:
        warnings.warn(
            f"the map could not be kept in {path.parent} ({refused}) and will be fitted anew each "
            "time: name a folder that can be written to in TW_LENS_CACHE.",
            stacklevel=4,
        )


def _digest(points: Tensor) -> str:
    return hashlib.sha256(_bytes(points)).hexdigest()


def _bytes(points: Tensor) -> bytes:
    return points.detach().cpu().contiguous().numpy().tobytes()
