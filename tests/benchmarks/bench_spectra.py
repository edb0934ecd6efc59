"""Benchmark of the spectra: against the bare matrix products, and against the direct computation.

GPT-2-small's shape with random weights (d 768, 12 heads of 64, 50257 tokens): one block, or all 12
for the atlas. One run prints one markdown table; ratio = ours / reference, lower is faster:
`python tests/benchmarks/bench_spectra.py`. Processor time of all threads, with one thread and with
two, best of five taken in turns, so that other work on the machine weighs on both. Memory is the
increase of the process's peak, each call in a process of its own. The null directions of the token
lists, drawn once for a model, are not part of the ratios.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import tw_lens as tw
from tw_lens.canonical import (
    AttentionOutput,
    AttentionScores,
    Block,
    Norm,
    Readout,
    Vocabulary,
    Weights,
)
from tw_lens.tokens import TokenStrings

D, HEADS, D_HEAD, V, LAYERS = 768, 12, 64, 50257, 12
ROWS_AT_ONCE, TIMES, THREADS = 8192, 5, (1, 2)
DIRECTIONS, K, WORDS, OF_EVERY_HEAD = 20, 5, 100, 3


def random_weights() -> Weights:
    g = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return 0.05 * torch.randn(*shape, generator=g)

    norm = Norm(gain=1 + normal(D), bias=normal(D), eps=1e-5, centred=True)
    block = Block(
        layer=0, norm=norm, b_O=normal(D),
        attention_scores=AttentionScores(scale=D_HEAD**-0.5), attention_output=AttentionOutput(),
        W_Q=normal(HEADS, D, D_HEAD), W_K=normal(HEADS, D, D_HEAD), W_V=normal(HEADS, D, D_HEAD),
        W_O=normal(HEADS, D_HEAD, D), b_Q=normal(HEADS, D_HEAD), b_K=normal(HEADS, D_HEAD),
        b_V=normal(HEADS, D_HEAD), centred_stream=True,
    )  # fmt: skip
    W_E = normal(V, D)
    return Weights(
        model_name="random", architecture="random", n_layers=LAYERS,
        attention_layers=tuple(range(LAYERS)), n_heads=HEADS, n_kv_heads=HEADS,
        d_model=D, d_head=D_HEAD, vocabulary=Vocabulary(W_E=W_E, scale=1.0),
        readout=Readout(norm=norm, W_U=W_E.T, b_U=torch.zeros(V)), tokens=TokenStrings(None, V),
        processed=(), caveats=(), read_block=lambda layer: replace(block, layer=layer),
    )  # fmt: skip


def head_spectra(weights: Weights, head: int | None = None) -> None:
    for circuit in ("QK", "OV"):
        tw.head_spectrum(weights, layer=0, circuit=circuit, n=DIRECTIONS, k=K, head=head)


def bare_products(weights: Weights, queries: int) -> None:
    """Multiply directions with all tokens: the products no method can avoid."""
    directions = torch.ones(queries, D)
    for chunk in weights.vocabulary.W_E.split(ROWS_AT_ONCE):
        directions @ chunk.T


def bare_spectra(weights: Weights) -> None:
    """Multiply both sides of both circuits with all tokens."""
    for _ in range(4):
        bare_products(weights, HEADS * DIRECTIONS)


def bare_one_head(weights: Weights) -> None:
    """Multiply both sides of both circuits of one head with all tokens."""
    for _ in range(4):
        bare_products(weights, DIRECTIONS)


def naive_spectra(weights: Weights) -> None:
    """Decompose one dense matrix and sort the scores of all tokens (one head)."""
    block = weights.block(0)
    points = block.norm.sphere(weights.vocabulary.W_E)
    dense = {
        "QK": (block.A_Q[0] @ block.A_K[0].T * block.attention_scores.scale, points),
        "OV": (block.A_V[0] @ block.A_O[0], weights.vocabulary.W_E * block.norm.gain),
    }
    for W, written in dense.values():
        U, _, Vh = torch.linalg.svd(W)
        for side, words in ((U[:, :DIRECTIONS].T, points), (Vh[:DIRECTIONS], written)):
            torch.argsort(side @ words.T, descending=True)[:, :K]


def head_probe(weights: Weights) -> None:
    tw.head_probe(weights, layer=0, words=range(WORDS), k=K)


def bare_probe(weights: Weights) -> None:
    bare_products(weights, HEADS * WORDS)


def naive_probe(weights: Weights) -> None:
    """Multiply by the dense W_QK of each head and sort the scores of all tokens."""
    block = weights.block(0)
    points = block.norm.sphere(weights.vocabulary.W_E)
    for head in range(HEADS):
        W = block.A_Q[head] @ block.A_K[head].T * block.attention_scores.scale
        torch.argsort(points[:WORDS] @ W @ points.T, descending=True)[:, :K]


def one_head(weights: Weights) -> None:
    head_spectra(weights, head=0)


def atlas(weights: Weights) -> None:
    tw.head_atlas(weights, n=OF_EVERY_HEAD, k=K)


def bare_atlas(weights: Weights) -> None:
    """Multiply both sides of both circuits of every head with all tokens."""
    for _ in range(4):
        bare_products(weights, LAYERS * HEADS * OF_EVERY_HEAD)


CALLS: dict[str, Callable[[Weights], None]] = {
    call.__name__: call
    for call in (
        head_spectra, bare_spectra, one_head, bare_one_head, naive_spectra, head_probe, bare_probe,
        naive_probe, atlas, bare_atlas,
    )
}  # fmt: skip
ROWS = [
    ("head_spectrum QK+OV, 12 heads, against the bare products", "head_spectra", "bare_spectra"),
    ("head_spectrum QK+OV, 1 head, against the bare products", "one_head", "bare_one_head"),
    ("head_spectrum QK+OV, 1 head, against dense SVD + argsort", "one_head", "naive_spectra"),
    ("head_probe QK, 100 words, against the bare product", "head_probe", "bare_probe"),
    ("head_probe QK, 100 words, against dense + argsort", "head_probe", "naive_probe"),
    ("head_atlas, 12 layers of 12 heads, against the bare products", "atlas", "bare_atlas"),
]


def seconds(weights: Weights) -> dict[str, float]:
    """Return the processor time of every call, the best of several taken in turns."""
    taken: dict[str, list[float]] = {name: [] for name in CALLS}
    for _ in range(TIMES):
        for name, call in CALLS.items():
            start = time.process_time()
            call(weights)
            taken[name].append(time.process_time() - start)
    return {name: min(times) for name, times in taken.items()}


def memory(field: str) -> float:
    """Return memory in MiB: VmRSS now, VmHWM the peak since the last reset."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) / 1024


def extra_memory(name: str) -> float:
    """Return the MiB by which the peak rises during one call, in a fresh process."""
    done = subprocess.run(
        [sys.executable, __file__, "--memory", name], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def main() -> None:
    if sys.argv[1:2] == ["--memory"]:
        weights = random_weights()
        torch.ones(8, 8) @ torch.ones(8, 8)  # start the thread pool before the measurement
        before = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of making the weights
        CALLS[sys.argv[2]](weights)
        print(memory("VmHWM") - before)
        return
    weights = random_weights()
    memory_of = {name: extra_memory(name) for name in CALLS}
    time_of = {}
    for threads in THREADS:
        torch.set_num_threads(threads)
        time_of[threads] = seconds(weights)
    titles = [f"ratio, {threads} thread{'s' * (threads > 1)}" for threads in THREADS]
    print(f"| {' | '.join(titles)} | what | ours | reference | ours | reference |")
    print(f"{'|--:' * len(titles)}|:--|--:|--:|--:|--:|")
    for what, ours, other in ROWS:
        ratios = " | ".join(f"{of[ours] / of[other]:.2f}" for of in time_of.values())
        of = time_of[THREADS[0]]
        print(
            f"| {ratios} | {what} | {of[ours]:.2f} s | {of[other]:.2f} s | "
            f"{memory_of[ours]:.0f} MiB | {memory_of[other]:.0f} MiB |"
        )
    print(f"\nSeconds with one thread; torch {torch.__version__}")


if __name__ == "__main__":
    main()
