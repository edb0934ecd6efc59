"""The paper's tables in a folder: the golden values, whole folders or none, refusals in words."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

import tw_lens as tw
from tests.golden import COLUMNS, SCHEMES, SETTINGS, assert_ids, cells
from tests.models import GOLDEN, golden_bridge, golden_expected, shared_bridge
from tests.rendering.reader import CHROMIUM, NO_CHROMIUM
from tests.rendering.test_page_interrupted import status_of_child
from tw_lens import files
from tw_lens.cli import app
from tw_lens.studies import PaperTables

SMALL = {"prompt": "w5 w6", "words": [5], "layers": [0], "n": 2, "methods": ["pca"]}
REL = 1e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Written by the command, with the words and lengths of the golden file."""
    folder, gold = tmp_path_factory.mktemp("golden") / "paper", golden_expected()
    words = [part for word in gold["tokens"] for part in ("-w", f"w{word}")]
    options = ["-o", str(folder), "-p", "w5 w6 w7", "-k", str(gold["k"]), *words]
    done = CliRunner().invoke(app, ["paper", str(GOLDEN), *options])
    assert done.exit_code == 0, done.output
    assert "layers 0, 1, 2" in done.output and str(folder / "README.md") in done.output
    return folder


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> PaperTables:
    folder = tmp_path_factory.mktemp("small") / "paper"
    return tw.paper_tables(golden_bridge(), folder, **SMALL)


def read(folder: Path, name: str) -> pd.DataFrame:
    """Return the published rows of a table; all of one that conventions share."""
    table = pd.read_csv(folder / "tables" / f"{name}.csv", keep_default_na=False, na_values=[""])
    return table[table.convention == "published"] if "convention" in table else table


def test_golden_embedding_distances(folder: Path):
    table, expected = read(folder, "embedding_distances"), golden_expected()["embedding_distances"]
    assert len(table) == len(expected)
    for row in table.to_dict("records"):
        for column, key in COLUMNS.items():
            value = expected[SETTINGS[row["setting"]]][key]
            assert row[column] == pytest.approx(value, rel=REL)


def test_golden_token_scores(folder: Path):
    tables, expected = cells(read(folder, "token_norms"), "scheme", "end"), golden_expected()
    assert len(tables) == 2 * len(SCHEMES)
    for scheme in SCHEMES:
        for end in ("top", "bottom"):
            ids, scores = zip(*expected["token_scores"][scheme][end], strict=True)
            assert tables[scheme, end].token_index.tolist() == list(ids)
            assert tables[scheme, end].score.tolist() == pytest.approx(list(scores), rel=REL)


def test_golden_words(folder: Path):
    gold = golden_expected()
    qk = cells(read(folder, "words_qk"), "component", "word_index")
    ov = cells(read(folder, "words_ov"), "component", "word_index")
    assert len(qk) == 3 * 4 * len(gold["tokens"]) and len(ov) == 3 * 5 * len(gold["tokens"])
    for layer in range(3):
        for i, word in enumerate(gold["tokens"]):
            at = str(layer), str(word)
            for head in range(4):
                key = f"L{layer}H{head}", word
                assert_ids(qk[key], gold["qk"][at[0]][at[1]][head])
                assert_ids(ov[key], gold["vo"][at[0]][at[1]][head])
                assert_norm(ov[key], gold["value_norms"][at[0]][head][i])
            assert_ids(ov[f"L{layer}", word], gold["vo_layer_sum"][at[0]][at[1]])
            assert_norm(ov[f"L{layer}", word], gold["value_norms_layer_sum"][at[0]][i])


def assert_norm(cell: pd.DataFrame, norm: float) -> None:
    assert cell["norm"].tolist() == pytest.approx([norm] * len(cell), rel=REL)


@pytest.mark.parametrize(("circuit", "name"), [("QK", "qk"), ("OV", "vo")])
def test_golden_spectra(folder: Path, circuit: str, name: str):
    gold = golden_expected()
    vectors = read(folder, f"singular_vectors_{circuit.lower()}")
    lists = cells(vectors, "component", "side", "direction")
    values = cells(read(folder, "singular_values"), "circuit", "component")
    for layer in range(3):
        for head in range(4):
            component, at = f"L{layer}H{head}", (str(layer), head)
            expected = gold[f"singular_values_{name}"][at[0]][head]
            found = values[circuit, component].singular_value.tolist()
            assert found == pytest.approx(expected, rel=REL)
            for side, of_side in gold[f"svd_{name}"][at[0]][head].items():
                assert len(of_side) >= 2
                for direction, ids in enumerate(of_side):
                    assert_ids(lists[component, side, direction], ids)


def test_golden_bias_directions(folder: Path):
    lists = cells(read(folder, "bias_directions"), "component", "sign", "side")
    assert len(lists) == 3 * 4 * 4
    for layer, heads in golden_expected()["bias_tokens"].items():
        for head, of_head in enumerate(heads):
            for key, ids in of_head.items():
                assert_ids(lists[f"L{layer}H{head}", key[0], key[1:]], ids)


def test_the_golden_file_holds_nothing_else():
    assert set(golden_expected()) == {
        "config", "tokens", "k", "embedding_distances", "token_scores", "qk", "vo", "vo_layer_sum",
        "value_norms", "value_norms_layer_sum", "svd_qk", "svd_vo", "singular_values_qk",
        "singular_values_vo", "bias_tokens",
    }  # fmt: skip


def test_the_folder_holds_the_files_that_the_index_names(folder: Path):
    held = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    links = re.findall(r"\]\(([^)]+)\)", (folder / "README.md").read_text(encoding="utf-8"))
    assert held == {*links, "README.md", "figures/plotly.min.js"} and len(links) == len(set(links))
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_the_exact_convention_is_beside_the_published_one(folder: Path):
    weights = tw.read_weights(golden_bridge())
    table = pd.read_csv(folder / "tables" / "words_ov.csv")
    probe = tw.head_probe(
        weights, layer=1, words=[5], circuit="OV", readout="update", convention="exact"
    )
    at = (table.convention == "exact") & (table.readout == "update")
    ours = table[at & (table.layer == 1) & (table.word_index == 5)]
    assert ours.token_index.tolist() == probe.to_dataframe().token_index.tolist()
    lines = (folder / "lists" / "words_qk.txt").read_text(encoding="utf-8").splitlines()
    at = lines.index("layer 1, word 'w5'")
    assert [line.split(":")[0] for line in lines[at + 1 : at + 4]] == [
        "  L1H0 published", "  L1H0 exact", "  L1H1 published",
    ]  # fmt: skip
    first = golden_expected()["qk"]["1"]["5"][0]
    assert lines[at + 1].endswith(": " + ", ".join(f"'w{index}'" for index in first))


def test_the_result_holds_the_tables_of_the_folder(result: PaperTables):
    for file in result.files:
        assert (result.folder / file.name).is_file()
        if file.kind == "tables":
            name = Path(file.name).stem
            written = pd.read_csv(result.folder / file.name)
            assert len(written) == len(result.table(name)) == file.rows
            assert list(written.columns) == [*result.table(name).columns, "cite"]
    with pytest.raises(ValueError, match=r"unknown table 'norms'; expected one of 'embedding_dis"):
        result.table("norms")
    assert result.layers == (0,) and result.words == ("w5",)


@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
def test_figures_open_without_a_network(result: PaperTables, browser: Any):
    names = [file.name for file in result.files if file.kind == "figures"]
    errors: list[str] = []
    tab = browser.new_context(offline=True).new_page()
    tab.on("pageerror", lambda error: errors.append(str(error)))
    for name in names:
        tab.goto((result.folder / name).as_uri())
        tab.wait_for_selector(".main-svg")
        assert "golden-gpt2: " in tab.locator(".gtitle").text_content()
    assert len(names) > 10 and errors == []


def test_folded_weights_have_the_exact_convention_only(tmp_path: Path):
    model = shared_bridge("gpt2", processed=True)
    result = tw.paper_tables(model, tmp_path / "paper", **SMALL)
    assert result.conventions == ("exact",)
    assert set(result.table("words_qk").convention) == {"exact"}
    index = (tmp_path / "paper" / "README.md").read_text(encoding="utf-8")
    assert "needs the raw weights" in index and "**published**" not in index
    assert any("scale" in sentence or "gain" in sentence for sentence in result.refused)


def test_a_model_without_biases_says_so(tmp_path: Path):
    result = tw.paper_tables(shared_bridge("llama"), tmp_path / "paper", **SMALL)
    assert "bias_directions" not in result.tables
    assert len(result.refused) == 1 and "no bias on queries or keys" in result.refused[0]
    assert "1 not defined" in repr(result)


def test_layers_and_words_by_default(tmp_path: Path):
    result = tw.paper_tables(golden_bridge(), tmp_path / "paper", prompt="w5 w6", methods=["pca"])
    assert result.layers == (0, 1, 2) and result.words == ("w0", "w5", "w6")
    assert "No common noun is a single token" in (result.folder / "README.md").read_text()


def test_each_step_is_reported(tmp_path: Path):
    steps: list[str] = []
    tw.paper_tables(golden_bridge(), tmp_path / "paper", **SMALL, progress=steps.append)
    assert steps[0] == "Reading the weights" and steps[-1] == "Writing the folder"
    assert "Fitting the projection (pca)" in steps


def test_a_folder_with_files_is_not_overwritten(tmp_path: Path):
    file = tmp_path / "paper" / "mine.txt"
    file.parent.mkdir()
    file.write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds 'mine\.txt', and nothing is overwritten"):
        tw.paper_tables(None, file.parent)
    with pytest.raises(NotADirectoryError, match="is a file; give the name of a folder"):
        tw.paper_tables(None, file)
    with pytest.raises(FileNotFoundError, match="does not exist; create it first"):
        tw.paper_tables(None, tmp_path / "none" / "paper")
    done = CliRunner().invoke(app, ["paper", "./nowhere", "-o", str(file.parent)])
    assert done.exit_code == 2 and "nothing is overwritten" in done.output
    assert file.read_text() == "mine" and list(tmp_path.rglob("*")) == [file.parent, file]


def test_an_empty_folder_is_used_and_the_current_one_is_not(tmp_path: Path, monkeypatch):
    empty = tmp_path / "paper"
    empty.mkdir()
    assert tw.paper_tables(golden_bridge(), empty, **SMALL).folder == empty
    assert (empty / "README.md").is_file()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(FileExistsError, match="name a new folder in it"):
        tw.paper_tables(None, ".")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"layers": [7]}, "layer 7 does not exist"),
        ({"words": ["no such word"]}, "none of the words is a single token"),
        ({"methods": []}, "methods is empty"),
        ({"methods": ["tsne"]}, "unknown method 'tsne'"),
        ({"n": 0}, "n must be at least 1"),
        ({"prompt": " "}, "the prompt is empty"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(tmp_path: Path, options, sentence: str):
    with pytest.raises((ValueError, IndexError), match=sentence):
        tw.paper_tables(golden_bridge(), tmp_path / "paper", **{**SMALL, **options})
    assert list(tmp_path.iterdir()) == []


def interrupt(_: object) -> None:
    raise KeyboardInterrupt


def test_ctrl_c_leaves_nothing(tmp_path: Path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        tw.paper_tables(golden_bridge(), tmp_path / "paper", **SMALL, progress=interrupt)
    monkeypatch.setattr(files.os, "rename", lambda *_: interrupt(_))  # written, not in its place
    with pytest.raises(KeyboardInterrupt):
        tw.paper_tables(golden_bridge(), tmp_path / "paper", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_sigterm_leaves_nothing(tmp_path: Path, monkeypatch):
    model = golden_bridge()
    end: Callable[..., None] = lambda *_: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
    monkeypatch.setattr(files.os, "rename", end)
    status = status_of_child(lambda: tw.paper_tables(model, tmp_path / "paper", **SMALL))
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named(tmp_path: Path):
    resource = pytest.importorskip("resource", reason="Windows has no limit on the size of files")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    model = golden_bridge()
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"too large.*paper'"):
            tw.paper_tables(model, tmp_path / "paper", **SMALL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
