"""Benchmark of growth: how processor time grows with width, heads, layers, vocabulary and text.

Random models of Llama's architecture. One size at a time is doubled twice, the others stay; the
exponent is the slope of log time over log size (1: in proportion). Each call is timed alone, with
one thread, the shortest of three, after a first call that draws what is drawn once for a model:
`python tests/benchmarks/bench_scaling.py`. Costs that do not depend on the size lower an exponent.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import tw_lens as tw
from tests.models import as_bridge

D_HEAD, TIMES = 64, 3
SHAPE = {"d_model": 256, "heads": 4, "layers": 2, "vocabulary": 8192}
TEXT = {"length": 32, "prompts": 4}
DOUBLED = {
    "d_model": (512, 1024, 2048), "heads": (8, 16, 32), "layers": (4, 8, 16),
    "vocabulary": (32768, 65536, 131072), "length": (128, 256, 512), "prompts": (8, 16, 32),
}  # fmt: skip


@lru_cache(maxsize=1)
def model_of(d_model: int, heads: int, layers: int, vocabulary: int) -> Any:
    """Return a random model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=d_model, num_attention_heads=heads, num_key_value_heads=heads,
        head_dim=D_HEAD, num_hidden_layers=layers, vocab_size=vocabulary,
        intermediate_size=2 * d_model, max_position_embeddings=1024,
    )  # fmt: skip
    return as_bridge(LlamaForCausalLM(config), "llama-scaled")


def text(vocabulary: int, length: int, prompts: int) -> list[list[int]]:
    """Return random prompts."""
    g = torch.Generator().manual_seed(1)
    return torch.randint(0, vocabulary, (prompts, length), generator=g).tolist()


Run = Callable[[Any, list[list[int]]], Callable[[], object]]


def of_weights(call: Callable[..., object], **options: Any) -> Run:
    """Return how to run a call of weights."""

    def prepare(model: Any, _prompts: list[list[int]]) -> Callable[[], object]:
        weights = tw.read_weights(model)
        return lambda: call(weights, **options)

    return prepare


def of_states(call: Callable[..., object], **options: Any) -> Run:
    """Return how to run a call of weights and the states of the first prompt."""

    def prepare(model: Any, prompts: list[list[int]]) -> Callable[[], object]:
        weights, states = tw.read_weights(model), tw.read_states(model, prompts[0])
        return lambda: call(weights, states, **options)

    return prepare


def of_prompts(call: Callable[..., object], **options: Any) -> Run:
    """Return how to run a call of a model and prompts."""
    return lambda model, prompts: lambda: call(model, prompts=prompts, **options)


def all_blocks(model: Any, _prompts: list[list[int]]) -> Callable[[], object]:
    """Return how to read the weights and every block."""
    return lambda: [*map(tw.read_weights(model).block, range(len(model.blocks)))]


CALLS: dict[str, tuple[Run, dict[str, float]]] = {
    "head_spectrum": (
        of_weights(tw.head_spectrum, layer=1), {"d_model": 1, "heads": 1, "vocabulary": 1},
    ),
    "head_probe": (
        of_weights(tw.head_probe, layer=1, words=range(50)),
        {"d_model": 1, "heads": 1, "vocabulary": 1},
    ),
    "head_atlas": (of_weights(tw.head_atlas), {"layers": 1, "heads": 1, "vocabulary": 1}),
    "neuron_table": (of_weights(tw.neuron_table, layer=1), {"vocabulary": 1}),
    "token_norms": (of_weights(tw.token_norms), {"d_model": 1, "vocabulary": 1}),
    "embedding_distances": (of_weights(tw.embedding_distances), {"d_model": 1, "vocabulary": 1}),
    "read_weights": (all_blocks, {"d_model": 1, "heads": 1, "layers": 1}),
    "trajectory": (of_states(tw.trajectory), {"layers": 1, "vocabulary": 1, "length": 1}),
    "attention_pattern": (of_states(tw.attention_pattern, layer=1), {"heads": 1, "length": 2}),
    "trajectory_attribution": (
        of_states(tw.trajectory_attribution), {"heads": 1, "layers": 1, "length": 2},
    ),
    "score_attribution": (
        of_states(tw.score_attribution, layer=1, head=0, query=7), {"length": 1},
    ),
    "check": (
        lambda model, prompts: lambda: tw.check(model, prompts[0]),
        {"layers": 1, "vocabulary": 1, "length": 2},
    ),
    "layer_vocabulary": (
        of_prompts(tw.layer_vocabulary, layers=[1], min_count=1), {"length": 1, "prompts": 1},
    ),
    "trajectory_statistics": (
        of_prompts(tw.trajectory_statistics), {"layers": 1, "length": 1, "prompts": 1},
    ),
}  # fmt: skip


def seconds(run: Callable[[], object]) -> float:
    """Return the shortest processor time, after a first call."""
    run()
    taken = []
    for _ in range(TIMES):
        start = time.process_time()
        run()
        taken.append(time.process_time() - start)
    return min(taken)


def slope(sizes: tuple[int, ...], times: list[float]) -> float:
    """Return the least squares slope of log time over log size."""
    x, y = ([math.log(value) for value in values] for values in (sizes, times))
    x_mean, y_mean = sum(x) / len(x), sum(y) / len(y)
    over = sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True))
    return over / sum((a - x_mean) ** 2 for a in x)


def main() -> None:
    """Print the exponents."""
    torch.set_num_threads(1)
    chosen = sys.argv[1:] or list(CALLS)
    print("| call | size | at | seconds | exponent | expected |\n|:--|:--|--:|--:|--:|--:|")
    for size, sizes in DOUBLED.items():
        for name in chosen:
            prepare, expected = CALLS[name]
            if size not in expected:
                continue
            times = []
            for value in sizes:
                given = SHAPE | TEXT | {size: value}
                model = model_of(*(given[part] for part in SHAPE))
                prompts = text(given["vocabulary"], given["length"], given["prompts"])
                times.append(seconds(prepare(model, prompts)))
            cells = f"{sizes[0]:,} to {sizes[-1]:,} | {times[0]:.2g} to {times[-1]:.2g}"
            exponent = slope(sizes, times)
            print(
                f"| `{name}` | {size} | {cells} | {exponent:.2f} | {expected[size]} |", flush=True
            )
    print(f"\n1 thread, torch {torch.__version__}")


if __name__ == "__main__":
    main()
