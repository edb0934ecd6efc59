"""Arguments of a wrong type are rejected in one sentence, also without the tests' type checks."""

import subprocess
import sys
from pathlib import Path

import pytest

DIRECTIONS = (
    "directions must be a list of ints or of sets of ints, e.g. [0, 1] or [(0, 1, 2)]; got "
)
CASES = {
    "no head": ("effect(head=None)", "head must be an int, got None."),
    "no head, uses": ("uses(head=None)", "head must be an int, got None."),
    "two heads": ("effect(head=[0, 1])", "head must be an int, got [0, 1]."),
    "no layer": ("uses(layer=None)", "layer must be an int, got None."),
    "a number": ("effect(directions=0)", DIRECTIONS + "0."),
    "a text": ("effect(directions='01')", DIRECTIONS + "'01'."),
    "no prompts": ("uses(prompts=None)", "prompts must be a list of texts or of token ids"),
    "measures": ("alike(measures='embedding')", "measures must be a list of names, e.g. ['emb"),
    "controls": ("alike(nulls='isotropic')", "nulls must be a list of names, e.g. ['isotr"),
}
SCRIPT = """
import sys
import tw_lens as tw
from tests.models import golden_bridge
model = golden_bridge()
weights = tw.read_weights(model)
def study(call, **options):
    arguments = {"prompts": [[5, 6, 7]], "layer": 1, "head": 1} | options
    return call(model, arguments.pop("prompts"), **arguments)
def effect(**options):
    return study(tw.direction_ablation, **{"directions": [0]} | options)
def uses(**options):
    return study(tw.direction_examples, **options)
def alike(**options):
    return tw.direction_coherence(weights, layers=[1], n=1, n_null=9, **options)
for case in sys.argv[1:]:
    try:
        eval(case)
        print("nothing rejected")
    except TypeError as error:
        print(error)
alike(measures=(name for name in ["embedding"]))
"""


@pytest.fixture(scope="module")
def answers() -> dict[str, str]:
    cases = [case for case, _ in CASES.values()]
    command = [sys.executable, "-c", SCRIPT, *cases]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    return dict(zip(CASES, done.stdout.splitlines(), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_one_sentence(answers: dict[str, str], case: str):
    assert answers[case].startswith(CASES[case][1])
