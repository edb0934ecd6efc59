"""UMAP cache on disk: each projection is fitted once, for all processes.

1. The key of a projection is a digest of the points, the settings and UMAP's version.
2. One safetensors file per projection in `$TW_LENS_CACHE` (by default `~/.cache/tw_lens`), written
   atomically: of two processes the later one overwrites the file with the same projection.
3. A truncated or changed file does not match the digest of its points: the projection is refitted.
4. Where the folder cannot be written, the projection is fitted all the same, with a warning.
"""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from tw_lens.files import cache_folder, write_to_cache
from tw_lens.geometry import ReducedPoints, umap

CACHE_VERSION = 1  # increase it whenever `umap` gives another result for the same points


def cached_umap(
    points: Float[Tensor, "points d"], n_components: int, *, seed: int
) -> ReducedPoints:
    """Return the projection of `umap`, from disk where it was fitted before.

    Args:
        points: all points, states and tokens.
        n_components: number of axes.
        seed: of the fit.
    """
    path = _cache_path(points, n_components, seed)
    result = _read(path, (len(points), n_components))
    if result is None:
        result = umap(points, n_components, seed=seed)
        _write(path, result)
    return result


def _cache_path(points: Tensor, n_components: int, seed: int) -> Path:
    settings = (
        f"{CACHE_VERSION} {version('umap-learn')} {tuple(points.shape)} {n_components} {seed} "
    )
    name = hashlib.sha256(settings.encode() + _bytes(points)).hexdigest()[:32]
    return cache_folder() / f"umap-{name}.safetensors"


def _read(path: Path, shape: tuple[int, int]) -> ReducedPoints | None:
    """Return a cached projection; None where the file is missing or invalid."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header, points = file.metadata() or {}, file.get_tensor("points")
    except (SafetensorError, OSError):
        return None
    if points.shape != shape or header.get("digest") != _digest(points):
        return None
    return ReducedPoints(points, float(header["trustworthiness"]), (float("nan"),) * shape[1])


def _write(path: Path, result: ReducedPoints) -> None:
    from safetensors.torch import save_file

    points = result.points.contiguous()
    header = {"digest": _digest(points), "trustworthiness": repr(result.trustworthiness)}
    write_to_cache(
        path,
        lambda to: save_file({"points": points}, to, metadata=header),
        "the UMAP projection",
    )


def _digest(points: Tensor) -> str:
    return hashlib.sha256(_bytes(points)).hexdigest()


def _bytes(points: Tensor) -> bytes:
    return points.detach().cpu().contiguous().numpy().tobytes()
