"""Benchmark of the controls: null distributions of a whole model, and a causal test of a head.

Run with one thread: `python tests/benchmarks/bench_controls.py`. One run of each; ratio = ours /
reference, lower is faster.

1. `direction_coherence` on SmolLM2 (30 layers of 9 heads, W_QK and W_OV, 20 directions, both sides,
   all three null distributions): its time in addition to the spectra, against the spectra alone
   (`head_atlas` without null distributions).
2. `direction_ablation` of 20 directions of a head of SmolLM2 over 50 sentences, with random pieces
   for each, against as many plain passes of the model over the sentences.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import tw_lens as tw
from examples.sentences import english_sentences

DIRECTIONS, SENTENCES = 20, 50


def plain_spectra(weights: tw.Weights, **options: Any) -> None:
    """Run the atlas without null distributions."""
    module = sys.modules["tw_lens.analyses.head_atlas"]
    with mock.patch.object(module, "compare_sides_with_null", lambda *args: (None, None)):
        tw.head_atlas(weights, n=DIRECTIONS, **options)


def main() -> None:
    """Print both ratios as a table."""
    torch.set_num_threads(1)
    model = tw.load_model()
    weights = tw.read_weights(model)
    plain_spectra(weights, layers=[0])  # the first call warms up
    start = time.perf_counter()
    plain_spectra(weights)
    spectra = time.perf_counter() - start
    start = time.perf_counter()
    coherence = tw.direction_coherence(weights, n=DIRECTIONS)
    controls = time.perf_counter() - start - spectra
    print("| ratio | what | ours | reference |")
    print("|--:|:--|--:|--:|")
    print(
        f"| {controls / spectra:.2f} | null distributions {coherence.n_null} of "
        f"{len(coherence.entries):,} directions, both sides, against the spectra | "
        f"{controls:.0f} s | {spectra:.0f} s |"
    )
    sentences = english_sentences(SENTENCES)
    tokens = [model.to_tokens(sentence) for sentence in sentences]
    start = time.perf_counter()
    with torch.no_grad():
        for prompt in tokens:
            model(prompt.repeat(1 + 2 * DIRECTIONS, 1))
    passes = time.perf_counter() - start
    start = time.perf_counter()
    ablation = tw.direction_ablation(model, sentences, layer=5, head=1)
    effect = time.perf_counter() - start
    print(
        f"| {effect / passes:.2f} | causal test of {len(ablation.sets)} directions of a head over "
        f"{SENTENCES} sentences, against plain passes | {effect:.0f} s | {passes:.0f} s |"
    )
    print(f"\n{coherence}\n{ablation}\n{torch.get_num_threads()} thread, torch {torch.__version__}")


if __name__ == "__main__":
    main()
