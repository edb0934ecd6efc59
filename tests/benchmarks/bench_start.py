"""Benchmark of the first seconds: help on the command line, and importing the package.

Every figure is the shortest of seven new processes, its reference in alternation with it: help and
the version against Python doing nothing, `import tw_lens` against `import torch`, and all public
names against torch and pandas, which results need: `python tests/benchmarks/bench_start.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUNS = 7
COMMAND = "from tw_lens.cli import app; app()"
CASES = (
    ("`tw-lens --help`", [COMMAND, "--help"], "python -c ''", [""]),
    ("`tw-lens --version`", [COMMAND, "--version"], "python -c ''", [""]),
    ("`tw-lens spectrum --help`", [COMMAND, "spectrum", "--help"], "python -c ''", [""]),
    ("`import tw_lens`", ["import tw_lens"], "import torch", ["import torch"]),
    (
        "`from tw_lens import *`", ["from tw_lens import *"],
        "import torch, pandas", ["import torch, pandas"],
    ),
)  # fmt: skip


def seconds(arguments: list[str]) -> float:
    """Return the seconds of a new process that runs the code with these arguments."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", *arguments], capture_output=True, check=True,
                   env=environment)  # fmt: skip
    return time.perf_counter() - start


def main() -> None:
    """Print the differences and the ratios."""
    print("| difference | ratio | what | reference | ours | reference time |")
    print("|--:|--:|:--|:--|--:|--:|")
    for what, code, reference, plain in CASES:
        times = [(seconds(code), seconds(plain)) for _ in range(RUNS)]
        ours, theirs = (min(column) for column in zip(*times, strict=True))
        cells = f"{what} | `{reference}` | {ours:.2f} s | {theirs:.2f} s"
        print(f"| {ours - theirs:+.2f} s | {ours / theirs:.2f} | {cells} |")


if __name__ == "__main__":
    main()
