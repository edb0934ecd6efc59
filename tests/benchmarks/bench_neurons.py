"""Benchmark of neurons: both sides of a layer's neurons as tokens, against the bare products.

A GPT-2-small layer (3,072 plain neurons, width 768, 50,257 tokens, random weights) and a layer of
SmolLM2 (1,536 gated neurons), one thread. The nulls are drawn before, once for a model. Best of
three, in processor time: `python tests/benchmarks/bench_neurons.py`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import tw_lens as tw
from tests.planted import by_hand
from tw_lens.canonical import MLP

D, N, V = 768, 3072, 50257


def gpt2_layer() -> tw.Weights:
    """Return random weights of the shape of a GPT-2-small layer with its MLP."""
    g = torch.Generator().manual_seed(0)
    heads = [torch.randn(1, D, 64, generator=g) / 8 for _ in range(3)]
    weights = by_hand(torch.randn(V, D, generator=g), *heads, heads[0].mT.contiguous())
    mlp = MLP(
        layer=0, norm=weights.block(0).norm, W_in=torch.randn(D, N, generator=g) / 8,
        W_out=torch.randn(N, D, generator=g) / 8, b_in=torch.zeros(N), b_out=torch.zeros(D),
        activation=torch.nn.functional.gelu,
    )  # fmt: skip
    return replace(weights, read_mlp=lambda layer: mlp)


def best_of_three(run: Callable[[], object]) -> float:
    """Return the shortest processor time in seconds."""
    times = []
    for _ in range(3):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    """Print the ratios."""
    torch.set_num_threads(1)
    cases = (
        ("GPT-2-small shape", gpt2_layer(), 0),
        ("SmolLM2", tw.read_weights(tw.load_model()), 15),
    )
    for name, weights, layer in cases:
        mlp = weights.mlp(layer)
        sides = [side for side in (mlp.A_gate, mlp.A_in) if side is not None]
        read, written = torch.cat(sides, dim=1).T, weights.readout.pull_back(mlp.A_out)

        def bare(weights=weights, mlp=mlp, read=read, written=written) -> None:
            for rows in weights.vocabulary.on_sphere(mlp.norm)():
                _ = read @ rows.T
            for columns in weights.readout.columns():
                _ = written @ columns.T

        def table(weights=weights, layer=layer) -> None:
            tw.neuron_table(weights, layer=layer)

        tw.neuron_table(weights, layer=layer, neurons=range(8))  # the nulls
        slow, fast = best_of_three(table), best_of_three(bare)
        print(f"{slow / fast:.2f} {name}: {slow:.1f} s, bare products {fast:.1f} s")


if __name__ == "__main__":
    main()
