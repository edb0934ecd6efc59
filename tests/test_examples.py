"""Every notebook runs from top to bottom, is stored with its outputs, and stays small."""

import re
import warnings

import nbformat
import pytest

from examples.execute import FOLDER, PLOTLY, kernel, outputs, run_notebook
from examples.pictures import PICTURES
from tests.calls import bad_calls

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
COLAB = "https://colab.research.google.com/github/tw-lens/tw-lens/blob/main/examples/"


def named(path):
    return path.stem


@pytest.fixture(scope="module")
def client():
    with warnings.catch_warnings():  # the kernel's client warns about its own transport
        warnings.simplefilter("ignore")
        with kernel() as started:
            yield started


def test_there_are_notebooks():
    assert {path.stem for path in NOTEBOOKS} >= {
        "compare_two_models",
        "direction_coherence",
        "head_atlas",
        "neurons_of_a_prompt",
        "norms_and_ellipsoid",
        "read_one_head",
        "reproduce_the_paper",
        "trajectory_alignment",
        "trajectory_of_a_prompt",
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=named)
def test_notebook_runs(notebook, client):
    fresh = list(outputs(run_notebook(notebook, client)))
    assert any(PLOTLY in output.get("data", {}) for output in fresh)


@pytest.mark.filterwarnings("ignore")
def test_a_broken_cell_fails(client, tmp_path):
    from nbclient.exceptions import CellExecutionError

    broken = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("tw.no_such_call()")])
    nbformat.write(broken, tmp_path / "broken.ipynb")
    with pytest.raises(CellExecutionError, match="name 'tw' is not defined"):
        run_notebook(tmp_path / "broken.ipynb", client)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=named)
def test_outputs_are_stored_small_and_offline(notebook):
    text = notebook.read_text(encoding="utf-8")
    assert len(text) < 1_500_000
    stored = list(outputs(nbformat.reads(text, as_version=4)))
    images = [output for output in stored if "image/png" in output.get("data", {})]
    assert images  # pages that show notebooks run no scripts
    assert all("image/png" in o["data"] for o in stored if PLOTLY in o.get("data", {}))
    html = "".join(output.get("data", {}).get("text/html", "") for output in stored)
    assert "<script" not in html and "src=" not in html
    assert not any(output.output_type == "error" for output in stored)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=named)
def test_the_first_cells_name_it_open_it_in_colab_and_install_what_is_missing(notebook):
    cells = nbformat.read(notebook, as_version=4).cells
    assert cells[0].source.startswith("# ") and f"({COLAB}{notebook.name})" in cells[0].source
    first = next(cell for cell in cells if cell.cell_type == "code")
    assert 'find_spec("tw_lens") is None' in first.source and "%pip install" in first.source
    assert "git clone --quiet --depth 1 https://github.com/tw-lens/tw-lens" in first.source


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=named)
def test_cells_use_the_public_calls(notebook):
    cells = nbformat.read(notebook, as_version=4).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    assert [bad for source in code for bad in bad_calls(source)] == []


def test_bad_calls_are_found():
    code = "tw.walk(x)\nif y:\n    %cd y\ntw.cite(x, columns=2)\ntw.cite(y).plot(k=1)"
    assert set(bad_calls(code)) == {"tw.walk does not exist", "cite takes no columns="}


def test_the_pictures_are_small_and_all_there():
    pages = [FOLDER.parent / "README.md", *(FOLDER / "site" / "pages").glob("*.md")]
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    assert set(re.findall(r"!\[[^\]]+\]\((?:examples/)?pictures/([a-z]+)\.png\)", text)) == set(
        PICTURES
    )
    for picture in PICTURES:
        data = (FOLDER / "pictures" / f"{picture}.png").read_bytes()
        assert data.startswith(b"\x89PNG") and len(data) < 110_000


def test_the_sentences_are_english_and_each_of_another_speech():
    from examples.sentences import english_sentences

    sentences = english_sentences(500)
    assert len(sentences) == 500 and len(set(sentences)) > 490
    assert all(8 <= len(sentence.split()) <= 30 for sentence in sentences)
    assert sum(" the " in sentence.lower() for sentence in sentences) > 250
    with pytest.raises(ValueError, match=r"n must be at most \d+, got 5000\."):
        english_sentences(5000)
