"""Benchmark of UMAP projections: against the paper's procedure, and read from the cache.

SmolLM2, 10,000 random tokens and the trajectory of a proverb (31 states of every token). Ours is a
joint fit with its quality scores (`fit_projection`). The reference is the paper's procedure:
scikit-learn's Laplacian eigenmap of the tokens as initialisation, UMAP's fit of the tokens, and
`transform` of one layer after the other. One run of each, after a warm-up on a few points (JIT):
`python tests/benchmarks/bench_maps.py`. The model is loaded before the clock starts; the cached
projection is read in a process that has fitted none.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import warnings
from itertools import pairwise
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import tw_lens as tw

PROMPT = "To kill two birds with one stone"
WORDS = 10_000
AXES = 3


def points(n_words: int) -> tuple[tw.Weights, tw.States, torch.Tensor, torch.Tensor]:
    """Return weights, states, the points of tokens, and the points of states by layer."""
    model = tw.load_model()
    weights, states = tw.read_weights(model), tw.read_states(model, PROMPT)
    norm = weights.readout.norm
    sample = torch.randperm(weights.d_vocab, generator=torch.Generator().manual_seed(0))[:n_words]
    words = norm.sphere(weights.vocabulary.embed(sample))
    return weights, states, words, norm.sphere(states.stream)


def papers_procedure(words: torch.Tensor, layers: torch.Tensor) -> list[float]:
    """Return the seconds of the three parts of the paper's procedure."""
    from sklearn.manifold import SpectralEmbedding
    from umap import UMAP

    ends = [time.perf_counter()]
    start = SpectralEmbedding(n_components=AXES).fit_transform(words.numpy())
    ends.append(time.perf_counter())
    fitted = UMAP(n_components=AXES, init=start).fit(words.numpy())
    ends.append(time.perf_counter())
    for states in layers:
        fitted.transform(states.numpy())
    ends.append(time.perf_counter())
    return [after - before for before, after in pairwise(ends)]


def projection(weights: tw.Weights, states: tw.States, n_words: int) -> tuple[tw.Projection, float]:
    start = time.perf_counter()
    result = tw.fit_projection(weights, states, method="umap", n_words=n_words)
    return result, time.perf_counter() - start


def from_cache() -> None:
    """Print the seconds of reading a cached projection, the first and the second time."""
    weights, states, _, _ = points(1)
    print(*(projection(weights, states, WORDS)[1] for _ in range(2)))


def row(ratio: float, *cells: str) -> None:
    print(f"| {ratio:.2f} | {' | '.join(cells)} |")


def main() -> None:
    warnings.simplefilter("ignore")
    os.environ["TW_LENS_CACHE"] = tempfile.mkdtemp()
    weights, states, words, layers = points(WORDS)
    papers_procedure(words[:300], layers[:2])
    projection(weights, states, 300)  # JIT warm-up of both
    fitted, ours = projection(weights, states, WORDS)
    parts = papers_procedure(words, layers)
    theirs = sum(parts)
    run = [sys.executable, "-W", "ignore", __file__, "from cache"]
    cold, warm = map(float, subprocess.check_output(run, text=True).split()[-2:])
    what = f"`fit_projection` with UMAP, {WORDS:,} tokens and {layers[..., 0].numel()} states"
    print("| ratio | what | ours | reference |")
    print("|--:|:--|--:|--:|")
    row(ours / theirs, f"{what}, against the paper's procedure", f"{ours:.0f} s", f"{theirs:.0f} s")
    row(cold / ours, f"{what}, from the cache against fitted", f"{cold:.1f} s", f"{ours:.0f} s")
    print(f"\nfrom the cache again, in the same process: {warm:.2f} s")
    print(
        "the paper's procedure: initialisation {:.0f} s, fit {:.0f} s, transform {:.0f} s".format(
            *parts
        )
    )
    print(f"{fitted}\n{torch.get_num_threads()} threads, torch {torch.__version__}")


if __name__ == "__main__":
    from_cache() if sys.argv[1:] == ["from cache"] else main()
