"""What does a UMAP chart of a walk cost beside the paper's route, and what when it is on disk?

SmolLM2, 10,000 random words and the walk of a proverb (31 states of every token): ours is one joint
fit with its figures of faith (`fit_projection`); beside it scikit-learn's Laplacian eigenmap of the words
as a start, UMAP's fit of the words, and `transform` of one layer after the other. One run of each,
compiled before on a few points: `python tests/benchmarks/bench_maps.py`. The model is loaded
before the clock starts; a chart from the disk is asked for in a process that has fitted none.
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
    """Weights and states, the words' points, and the states' by layer."""
    model = tw.load_model()
    weights, states = tw.read_weights(model), tw.read_states(model, PROMPT)
    norm = weights.readout.norm
    drawn = torch.randperm(weights.d_vocab, generator=torch.Generator().manual_seed(0))[:n_words]
    words = norm.sphere(weights.vocabulary.embed(drawn))
    return weights, states, words, norm.sphere(states.stream)


def papers_route(words: torch.Tensor, layers: torch.Tensor) -> list[float]:
    """Seconds of its three parts."""
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
    made = tw.fit_projection(weights, states, method="umap", n_words=n_words)
    return made, time.perf_counter() - start


def from_disk() -> None:
    """The seconds of a chart that another process fitted, the first and the second time."""
    weights, states, _, _ = points(1)
    print(*(projection(weights, states, WORDS)[1] for _ in range(2)))


def row(ratio: float, *cells: str) -> None:
    print(f"| {ratio:.2f} | {' | '.join(cells)} |")


def main() -> None:
    warnings.simplefilter("ignore")
    os.environ["TW_LENS_CACHE"] = tempfile.mkdtemp()
    weights, states, words, layers = points(WORDS)
    papers_route(words[:300], layers[:2])
    projection(weights, states, 300)  # both are compiled now
    made, ours = projection(weights, states, WORDS)
    parts = papers_route(words, layers)
    theirs = sum(parts)
    run = [sys.executable, "-W", "ignore", __file__, "from disk"]
    cold, warm = map(float, subprocess.check_output(run, text=True).split()[-2:])
    what = f"`fit_projection` with UMAP, {WORDS:,} words and {layers[..., 0].numel()} states"
    print("| ratio | what | ours | beside it |")
    print("|--:|:--|--:|--:|")
    row(ours / theirs, f"{what}, beside the paper's route", f"{ours:.0f} s", f"{theirs:.0f} s")
    row(cold / ours, f"{what}, from the disk beside fitted", f"{cold:.1f} s", f"{ours:.0f} s")
    print(f"\nfrom the disk once more, in the same process: {warm:.2f} s")
    print("the paper's route: start {:.0f} s, fit {:.0f} s, transform {:.0f} s".format(*parts))
    print(f"{made}\n{torch.get_num_threads()} threads, torch {torch.__version__}")


if __name__ == "__main__":
    from_disk() if sys.argv[1:] == ["from disk"] else main()
