"""UMAP cache on disk: each projection is fitted once, for all processes.

1. The key of a projection is a digest of the points, the settings and UMAP's version.
2. One file per projection (see `tensor_files`) in `$TW_LENS_CACHE` (by default
   `~/.cache/tw_lens`): of two processes the later one overwrites it with the same projection.
3. For a damaged file, or one of another key, the projection is refitted and the file replaced.
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
from tw_lens.tensor_files import load_tensors, save_tensors
from tw_lens.torch_settings import unchanged_globals

LAYOUT = "tw_lens umap 2"
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
        with unchanged_globals():
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
    """Return a cached projection; None where the file is missing, damaged or of another key."""
    try:
        tensors, header = load_tensors(path, LAYOUT, "UMAP projection", ValueError)
    except (ValueError, OSError):
        return None
    points = tensors["points"]
    if points.shape != shape or header["key"] != path.stem:
        return None
    return ReducedPoints(points, header["trustworthiness"], (float("nan"),) * shape[1])


def _write(path: Path, result: ReducedPoints) -> None:
    header = {"key": path.stem, "trustworthiness": result.trustworthiness}
    write_to_cache(
        path,
        lambda to: save_tensors(to, LAYOUT, {"points": result.points}, header),
        "the UMAP projection",
    )


def _bytes(points: Tensor) -> bytes:
    return points.detach().cpu().contiguous().numpy().tobytes()
