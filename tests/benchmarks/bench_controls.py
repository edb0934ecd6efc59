"""What do the controls of a whole model cost beside its spectra, and a causal test of a head?

With one thread: `python tests/benchmarks/bench_controls.py`. One run of each.

1. SmolLM2 (30 layers of 9 heads, W_QK and W_OV, 20 directions, both sides, all three controls):
   what `direction_coherence` takes beyond the bare spectra, `head_atlas` without a control beside its lists.
2. `direction_ablation`: 20 directions of a head of SmolLM2 over 50 sentences, random pieces beside
   each, beside as many bare passes of the model over the sentences.
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


def bare(weights: tw.Weights, **options: Any) -> None:
    """The atlas without the controls beside its lists."""
    module = sys.modules["tw_lens.analyses.head_atlas"]
    with mock.patch.object(module, "compare_sides_with_null", lambda *given: (None, None)):
        tw.head_atlas(weights, n=DIRECTIONS, **options)


def main() -> None:
    """Both figures as a table."""
    torch.set_num_threads(1)
    model = tw.load_model()
    weights = tw.read_weights(model)
    bare(weights, layers=[0])  # the first call warms up
    start = time.perf_counter()
    bare(weights)
    spectra = time.perf_counter() - start
    start = time.perf_counter()
    made = tw.direction_coherence(weights, n=DIRECTIONS)
    controls = time.perf_counter() - start - spectra
    print("| ratio | what | ours | beside it |")
    print("|--:|:--|--:|--:|")
    print(
        f"| {controls / spectra:.2f} | controls {made.n_null} of {len(made.entries):,} "
        f"directions, both sides, beside the spectra | {controls:.0f} s | {spectra:.0f} s |"
    )
    sentences = english_sentences(SENTENCES)
    tokens = [model.to_tokens(sentence) for sentence in sentences]
    start = time.perf_counter()
    with torch.no_grad():
        for prompt in tokens:
            model(prompt.repeat(1 + 2 * DIRECTIONS, 1))
    passes = time.perf_counter() - start
    start = time.perf_counter()
    found = tw.direction_ablation(model, sentences, layer=5, head=1)
    effect = time.perf_counter() - start
    print(
        f"| {effect / passes:.2f} | causal test of {len(found.sets)} directions of a head over "
        f"{SENTENCES} sentences, beside bare passes | {effect:.0f} s | {passes:.0f} s |"
    )
    print(f"\n{made}\n{found}\n{torch.get_num_threads()} thread, torch {torch.__version__}")


if __name__ == "__main__":
    main()
