"""Table of `examples/site/pages/findings.md` on compiled programs (`make benchmark`, a minute).

Easy track: precision and recall of pairs and families, and empty heads. Hard track: the area under
the curve of the true pairs over noise, by probes at named points and by plain SVD with top-k, and
how often the program's head stands out among three random ones.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch

import tw_lens as tw
from tests.compiled import (
    PROGRAMS,
    Compiled,
    Head,
    area_under_curve,
    compiled,
    coordinates,
    families_of_pairs,
    hidden,
    read_pairs,
    score_matrix,
    svd_scores,
    true_pairs,
)

OUT = Path("out")
NOISE = (0.0, 0.1, 0.3, 1.0)
N_SEEDS = 10


def main() -> None:
    """Measure, write and print."""
    OUT.mkdir(exist_ok=True)
    programs = [compiled(name) for name in PROGRAMS]
    easy = pd.concat([_easy(program) for program in programs])
    hard = pd.concat(
        [_hard(p, head) for p in programs for head in p.heads if head.truth is not None]
    )
    easy.to_csv(OUT / "compiled-easy.csv", index=False)
    hard.to_csv(OUT / "compiled-hard.csv", index=False)
    print(easy.to_string(index=False))
    print(hard.groupby("noise")[["points", "svd", "found"]].mean().round(3).to_string())


def _easy(program: Compiled) -> pd.DataFrame:
    """Return precision and recall of every head of a program as compiled."""
    weights, points, rows = tw.read_weights(program.model), coordinates(program), []
    for head in program.heads:
        keys, written = (
            score_matrix(weights, points, head.layer, head.head, circuit)
            for circuit in ("QK", "OV")
        )
        found = read_pairs(keys, program.labels)
        row = {"program": program.name, "layer": head.layer, "head": head.head}
        if head.truth is None:
            silent = not keys.any() and not written.any()
            rows.append(row | {"empty": True, "silent": bool(silent)})
            continue
        truth = true_pairs(program, head.truth)
        both = families_of_pairs(found) + families_of_pairs(read_pairs(written, program.labels))
        names = [{head.truth[side]} for side in ("queries", "keys", "reads", "writes")]
        rows.append(
            row
            | {
                "empty": False,
                "precision": len(found & truth) / max(1, len(found)),
                "recall": len(found & truth) / len(truth),
                "families": all(a == b for a, b in zip(both, names, strict=True)),
            }
        )
    return pd.DataFrame(rows)


def _hard(program: Compiled, head: Head) -> pd.DataFrame:
    """Return the areas under the curve of one head over noise and seeds."""
    assert head.truth is not None
    pairs, rows = true_pairs(program, head.truth), []
    for noise in NOISE:
        for seed in range(N_SEEDS):
            weights, points = hidden(program, head, noise, seed)
            scores = [score_matrix(weights, points, 0, h) for h in range(weights.n_heads)]
            peaks = torch.stack([s.max() / s.std() for s in scores])
            rows.append(
                {
                    "program": program.name,
                    "layer": head.layer,
                    "noise": noise,
                    "points": area_under_curve(scores[0], program.labels, pairs),
                    "svd": area_under_curve(svd_scores(weights, points, 0), program.labels, pairs),
                    "found": bool(peaks.argmax() == 0),
                }
            )
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
