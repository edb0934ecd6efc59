"""Pictures in text of what commands print, at three widths: the reference of `test_terminal.py`.

    python -m tests.terminal_pictures    # renews them after a change that is meant

Errors of rounding, which differ between machines, are masked.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory

from typer.testing import CliRunner

from tw_lens.cli import app

DATA = Path(__file__).parent / "data"
FOLDER = DATA / "terminal"
MODEL = "./tiny-gpt2"
WIDTHS = (60, 80, 120)
PROMPTS = "w5 w6 w7 w8 w9\nw10 w11 w12 w13\nw14 w15 w16 w17 w18 w19 w20\n"
COMMANDS = {
    "norms": "norms MODEL -k 3",
    "probe": "probe MODEL --layer 1 -w w5 -w w6 --circuit ov",
    "probe-qk": "probe MODEL --head L1H2 -w w5 --vocabulary embedding",
    "spectrum": "spectrum MODEL --layer -1 --head 1 -n 3 --vocabulary embedding",
    "spectrum-wide": "spectrum MODEL --head L2H1 -n 1 -k 2 --vocabulary embedding --wide",
    "atlas": "atlas MODEL --layers 1-2 -k 4 --vocabulary embedding",
    "check": "check MODEL -p w5",
    "trajectory": "trajectory MODEL -p w5_w6_w7_w8_w9_w10_w11_w12",
    "trajectory-statistics": "trajectory-statistics MODEL --prompts PROMPTS",
    "trajectory-alignment": "trajectory-alignment MODEL --prompts PROMPTS",
    "direction-ablation": "direction-ablation MODEL --prompts PROMPTS --head L1H2 -n 3",
    "direction-examples": "direction-examples MODEL --prompts PROMPTS --head L1H2 -n 3",
    "faithfulness": "faithfulness MODEL --prompts PROMPTS --vocabulary embedding",
    "sweep": "sweep MODEL --measures spectra,travel --prompts PROMPTS",
}
ROUNDING = re.compile(r"\d(\.\d+)?e-\d\d")
WORST = re.compile(r"(at\s+layer) \d+ \w+")


def arguments(command: str, prompts: Path) -> list[str]:
    """Return a command as a list, with the model and a file of prompts."""
    values = {"MODEL": MODEL, "PROMPTS": str(prompts)}
    return [values.get(part, part.replace("_", " ")) for part in command.split()]


def picture(command: str, width: int, prompts: Path) -> str:
    """Return what a command prints on a pipe of a width, without the spaces that end lines."""
    surroundings = {"COLUMNS": str(width), "NO_COLOR": "1"}
    before = os.getcwd()
    os.chdir(DATA)  # the name of a swept model is its path
    try:
        done = CliRunner().invoke(app, arguments(command, prompts), env=surroundings)
    finally:
        os.chdir(before)
    assert done.exit_code == 0, done.output
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    text = "\n".join(lines) + "\n"
    return WORST.sub(r"\1 # #", ROUNDING.sub(lambda m: "#" * len(m[0]), text))


def file_of(name: str, width: int) -> Path:
    """Return the file of a reference picture."""
    return FOLDER / f"{name}-{width}.txt"


def main() -> None:
    """Write all reference pictures."""
    FOLDER.mkdir(exist_ok=True)
    with TemporaryDirectory() as folder:
        prompts = Path(folder) / "prompts.txt"
        prompts.write_text(PROMPTS)
        for name, command in COMMANDS.items():
            for width in WIDTHS:
                file_of(name, width).write_text(picture(command, width, prompts), encoding="utf-8")


if __name__ == "__main__":
    main()
