"""Benchmark of calls on all tokens, against reading the embedding once: time and memory.

SmolLM2, one thread, processor time, shortest of ten in alternation with the reference:
`for rows in weights.vocabulary.rows(): rows.square().sum()`. Memory is how far the process grows at
its peak while the call runs (Linux): `python tests/benchmarks/bench_tokens.py`.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import tw_lens as tw

RUNS = 10
CALLS: dict[str, Callable[[tw.Weights], object]] = {
    "embedding_distances": tw.embedding_distances,
    "token_norms": tw.token_norms,
    "token_norms, published": lambda weights: tw.token_norms(weights, convention="published"),
}


def read_once(weights: tw.Weights) -> None:
    """Read every row of the embedding."""
    for rows in weights.vocabulary.rows():
        rows.square().sum()


def seconds(call: Callable[[tw.Weights], object], weights: tw.Weights) -> float:
    """Return the processor time of a call."""
    start = time.process_time()
    call(weights)
    return time.process_time() - start


def memory(field: str) -> int:
    """Return a size of this process in MiB: VmRSS now, VmHWM the largest since the last reset."""
    line = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(line[1]) >> 10 if line else 0


def growth(call: Callable[[tw.Weights], object], weights: tw.Weights) -> int:
    """Return by how many MiB the process grows at most while a call runs."""
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = memory("VmRSS")
    call(weights)
    return memory("VmHWM") - before


def main() -> None:
    """Print the ratios."""
    torch.set_num_threads(1)
    weights = tw.read_weights(tw.load_model())
    print("| ratio | call | ours | reading once | memory |\n|--:|:--|--:|--:|--:|")
    for name, call in CALLS.items():
        grown = growth(call, weights)
        times = [(seconds(call, weights), seconds(read_once, weights)) for _ in range(RUNS)]
        ours, theirs = (min(column) for column in zip(*times, strict=True))
        cells = f"`{name}` | {ours * 1e3:.0f} ms | {theirs * 1e3:.0f} ms | {grown} MiB"
        print(f"| {ours / theirs:.1f} | {cells} |")


if __name__ == "__main__":
    main()
