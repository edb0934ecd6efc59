"""Every notebook runs from top to bottom, is kept with its outputs, and stays small."""

import re
import warnings

import nbformat
import pytest

from examples.execute import FOLDER, PLOTLY, executed, kernel, outputs

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def named(path):
    return path.stem


@pytest.fixture(scope="module")
def started():
    with warnings.catch_warnings():  # the kernel's client warns of its own transport
        warnings.simplefilter("ignore")
        with kernel() as client:
            yield client


def test_there_are_notebooks():
    assert {path.stem for path in NOTEBOOKS} >= {
        "does_a_word_approach_the_next",
        "every_head",
        "norms_and_the_ellipsoid",
        "read_one_head",
        "the_paper",
        "two_models_side_by_side",
        "walk_of_a_sentence",
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=named)
def test_notebook_runs(notebook, started):
    made = list(outputs(executed(notebook, started)))
    assert any(PLOTLY in output.get("data", {}) for output in made)


@pytest.mark.filterwarnings("ignore")
def test_a_broken_cell_fails(started, tmp_path):
    from nbclient.exceptions import CellExecutionError

    broken = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("tw.no_such_call()")])
    nbformat.write(broken, tmp_path / "broken.ipynb")
    with pytest.raises(CellExecutionError, match="name 'tw' is not defined"):
        executed(tmp_path / "broken.ipynb", started)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=named)
def test_outputs_are_kept_small_and_offline(notebook):
    text = notebook.read_text(encoding="utf-8")
    assert len(text) < 1_500_000
    kept = list(outputs(nbformat.reads(text, as_version=4)))
    pictures = [output for output in kept if "image/png" in output.get("data", {})]
    assert pictures  # pages that show notebooks run no scripts
    assert all("image/png" in o["data"] for o in kept if PLOTLY in o.get("data", {}))
    shown = "".join(output.get("data", {}).get("text/html", "") for output in kept)
    assert "<script" not in shown and "src=" not in shown
    assert not any(output.output_type == "error" for output in kept)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=named)
def test_the_first_cell_installs_what_is_missing(notebook):
    first = next(c for c in nbformat.read(notebook, as_version=4).cells if c.cell_type == "code")
    assert 'find_spec("tw_lens") is None' in first.source and "%pip install" in first.source


def test_the_pictures_of_the_readme_are_small_and_all_there():
    readme = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    pictures = re.findall(r"!\[[^\]]+\]\((examples/pictures/[a-z]+\.png)\)", readme)
    assert len(pictures) == 4
    for picture in pictures:
        data = (FOLDER.parent / picture).read_bytes()
        assert data.startswith(b"\x89PNG") and len(data) < 110_000


def test_the_links_of_the_readme_lead_somewhere():
    readme = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    for place in re.findall(r"\]\(((?!https?:|#)[^)]+)\)", readme):
        assert (FOLDER.parent / place).exists(), place


def test_the_sentences_are_english_and_each_of_another_speech():
    from examples.sentences import english_sentences

    found = english_sentences(500)
    assert len(found) == 500 and len(set(found)) > 490
    assert all(8 <= len(sentence.split()) <= 30 for sentence in found)
    assert sum(" the " in sentence.lower() for sentence in found) > 250
    with pytest.raises(ValueError, match="5000 sentences were asked for"):
        english_sentences(5000)
