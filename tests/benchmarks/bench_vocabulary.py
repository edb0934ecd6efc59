"""Benchmark of layer vocabularies: the points of every layer against bare forward passes.

SmolLM2, all 30 layers. `alone`: 4,096 tokens in batches of 256 prompts of prefix and token, as
`layer_vocabulary(source="alone")` runs them. `text`: 64 sentences, with sums by token. The
reference runs the same batches through the model and keeps nothing. Best of three:
`python tests/benchmarks/bench_vocabulary.py`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import tw_lens as tw
from tw_lens.studies import batching, layer_vocabulary

N_TOKENS, N_SENTENCES = 4096, 64


def best_of_three(run: Callable[[], object]) -> float:
    """Return the shortest time in seconds."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Print the ratios."""
    model = tw.load_model()
    weights = tw.read_weights(model)
    layers, norms = weights.attention_layers, [weights.block(i).norm for i in range(30)]
    prefix = model.to_tokens("the")[:, :1]
    ids = torch.arange(N_TOKENS)
    study = sys.modules["tw_lens.studies.layer_vocabulary"]

    def bare_alone() -> None:
        with torch.no_grad():
            for part in ids.split(study.TOKENS_AT_ONCE):
                model(torch.cat([prefix.expand(len(part), 1), part[:, None]], dim=1))

    def alone() -> None:
        with mock.patch.object(type(weights), "d_vocab", N_TOKENS, create=True):
            study._alone_points(model, weights, layers, norms, False)

    sentences = [model.to_tokens(text)[0] for text in tw.reference_prompts(N_SENTENCES)]

    def bare_text() -> None:
        with torch.no_grad():
            for batch in batching.batches(enumerate(sentences), 16):
                model(batch.tokens)

    def text() -> None:
        layer_vocabulary(model, prompts=sentences, unseen="omitted")

    for name, ours, reference in (("alone", alone, bare_alone), ("text", text, bare_text)):
        slow, fast = best_of_three(ours), best_of_three(reference)
        print(f"{slow / fast:.2f} {name}: {slow:.1f} s, bare forward passes {fast:.1f} s")


if __name__ == "__main__":
    main()
