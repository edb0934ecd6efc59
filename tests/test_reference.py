"""The API reference builds from the docstrings without a warning, and nothing is left out."""

import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

import tw_lens
from tw_lens.results import Result

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    source = ROOT / "examples" / "reference"
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", "-d", folder / "tmp", source,
         folder],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
        capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode == 0 and not built.stderr, built.stderr
    return (folder / "index.html").read_text(encoding="utf-8")


def test_every_call_is_in_it(page):
    assert [name for name in tw_lens.__all__ if f'id="tw_lens.{name}"' not in page] == []


def test_every_result_is_in_it(page):
    results = [c.__name__ for c in Result.__subclasses__() if c.__module__.startswith("tw_lens")]
    places = [f'id="tw_lens.{layer}.' for layer in ("analyses", "studies")]
    missing = [r for r in results if not any(f'{place}{r}"' in page for place in places)]
    assert len(results) > 10 and missing == []


def test_examples_and_formulas_are_in_it(page):
    text = unescape(re.sub(r"<[^>]+>", "", page))
    assert 'head_spectrum(weights, layer=1, circuit="OV")' in text
    assert "sqrt(d) |A_U[:, w]| + a_U[w]" in text
