"""What do the controls of a whole model cost beside its spectra?

SmolLM2 (30 layers of 9 heads, W_QK and W_OV, 20 directions, both sides, all three controls) with
one thread: `python tests/benchmarks/bench_controls.py`. One run of each; the controls are what
`coherence` takes beyond the spectra (`head_atlas`) that it begins with.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import tw_lens as tw

DIRECTIONS = 20


def main() -> None:
    torch.set_num_threads(1)
    weights = tw.read_weights(tw.load_model())
    tw.head_atlas(weights, layers=[0], n=DIRECTIONS)  # the first call warms up
    start = time.perf_counter()
    tw.head_atlas(weights, n=DIRECTIONS)
    spectra = time.perf_counter() - start
    start = time.perf_counter()
    made = tw.coherence(weights, n=DIRECTIONS)
    controls = time.perf_counter() - start - spectra
    print("| ratio | what | controls | spectra alone |")
    print("|--:|:--|--:|--:|")
    print(
        f"| {controls / spectra:.2f} | controls {made.n_controls} of {len(made.entries):,} "
        f"directions, both sides, beside the spectra | {controls:.0f} s | {spectra:.0f} s |"
    )
    print(f"\n{made}\n{torch.get_num_threads()} thread, torch {torch.__version__}")


if __name__ == "__main__":
    main()
