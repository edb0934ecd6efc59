"""What hands type: layers, heads, words, pipes; and what a command prints where."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

import tw_lens as tw
from tests.test_cli import spelled_model
from tw_lens.cli import app
from tw_lens.cli.selections import (
    nth_layer,
    parse_head,
    parse_layers,
    parse_layers_or_all,
    parse_one_head,
    with_leading_spaces,
)

FOLDER = str(Path(__file__).parent / "data" / "tiny-gpt2")
START = "import sys; sys.argv[0] = 'tw-lens'; from tw_lens.cli import app; app()"
COMMAND = [sys.executable, "-c", START]


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("0,5,11", [0, 5, 11]), ("3-5", [3, 4, 5]), ("-1", [11]), ("all", list(range(12))),
        ("0,3-5,-1", [0, 3, 4, 5, 11]), ("-3--1", [9, 10, 11]), ("9--1", [9, 10, 11]),
        (" 2 , 1 ", [2, 1]), ("1,1,0-1", [1, 0]), ("ALL", list(range(12))),
    ],
)  # fmt: skip
def test_layers_are_numbers_and_ranges(text, layers):
    selection = parse_layers(text)
    assert selection is not None and selection.among(12) == layers


@pytest.mark.parametrize("text", ["a,b", "1-", "1,,2", "1 2", "--1", "1.5", "all,1"])
def test_other_layers_are_rejected(text):
    with pytest.raises(ValueError, match="numbers with commas between them, ranges such as 3-5"):
        parse_layers(text)


@pytest.mark.parametrize(("text", "missing"), [("12", 12), ("0-12", 12), ("-13", -13)])
def test_layers_that_do_not_exist_are_named(text, missing):
    selection = parse_layers(text)
    assert selection is not None
    with pytest.raises(IndexError, match=rf"layer {missing} does not exist.*layers 0 to 11"):
        selection.among(12)


def test_a_range_backwards_and_no_layers():
    selection = parse_layers("5-3")
    assert selection is not None
    with pytest.raises(ValueError, match="runs backwards"):
        selection.among(12)
    assert parse_layers("") is None and parse_layers_or_all("all") is None
    assert nth_layer(-1, 12) == 11


@pytest.mark.parametrize(
    ("head", "layer", "expected"),
    [
        (None, None, (None, None)), (None, 3, (3, None)), ("1", None, (None, 1)),
        ("1", 3, (3, 1)), ("L5H1", None, (5, 1)), ("l5h1", 5, (5, 1)), (" 2 ", -1, (-1, 2)),
    ],
)  # fmt: skip
def test_a_head_may_name_its_layer(head, layer, expected):
    assert parse_head(head, layer) == expected


def test_heads_that_contradict_or_say_nothing():
    with pytest.raises(ValueError, match="--head L5H1 is in layer 5, but --layer is 3"):
        parse_head("L5H1", 3)
    for text in ("H1", "L5", "one", "-1", "5.1"):
        with pytest.raises(ValueError, match="an index such as 1, or a label such as L5H1"):
            parse_head(text, None)
    assert parse_one_head("L5H1", None) == (5, 1) and parse_one_head("1", -1) == (-1, 1)
    with pytest.raises(ValueError, match="--head 1 needs a layer: add --layer 5, or give"):
        parse_one_head("1", None)


@pytest.mark.parametrize(
    "typed",
    [["--head", "L2H1"], ["--head", "1", "--layer", "-1"], ["--layer", "2", "--head", "l2h1"]],
)
def test_the_same_head_however_it_is_typed(typed):
    done = run("spectrum", FOLDER, *typed, "-n", "1", "--circuit", "ov", "--csv", "-", "-q")
    assert done.exit_code == 0, done.output
    table = pd.read_csv(io.StringIO(done.stdout))
    expected = tw.head_spectrum(
        tw.read_weights(tw.load_model(FOLDER)), layer=2, head=1, circuit="OV", n=1
    ).to_dataframe()
    assert table.token_string.tolist() == expected.token_string.tolist()
    assert set(table.component) == {"L2H1"}


class Words:
    """Token strings of a vocabulary with ` bird`, `stone` and both forms of `two`."""

    tokenizer = object()
    single = staticmethod({" bird": 1, "stone": 2, "two": 3, " two": 4}.get)
    printed = single


def test_words_get_the_space_that_they_need_and_it_is_said():
    notes = []
    words = with_leading_spaces(["bird", "stone", "two", "none", " bird"], Words(), notes.append)
    assert words == [" bird", "stone", "two", "none", " bird"]
    assert notes == ["'bird' is no single token; taken with a leading space: ' bird'."]
    assert with_leading_spaces(["stone"], Words(), notes.append) == ["stone"] and len(notes) == 1


@pytest.mark.parametrize("path", ["-", "/dev/stdout"])
@pytest.mark.parametrize("kind", ["csv", "json", "parquet", "markdown"])
def test_a_pipe_gets_the_table_and_nothing_else(kind, path, tmp_path):
    command = [*COMMAND, "norms", FOLDER, "-k", "2", f"--{kind}", path]
    done = subprocess.run(command, capture_output=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.decode() == f"loading {FOLDER}\u2026\n" and list(tmp_path.iterdir()) == []
    table = {
        "csv": lambda: pd.read_csv(io.BytesIO(done.stdout)),
        "json": lambda: json.loads(done.stdout),
        "parquet": lambda: pd.read_parquet(io.BytesIO(done.stdout)),
        "markdown": lambda: done.stdout.decode().split("| --: |\n")[1].split("\n\n")[0].split("\n"),
    }[kind]()
    assert len(table) == 4


def test_one_table_per_pipe_and_files_beside_it(tmp_path):
    file = tmp_path / "t.json"
    done = run("norms", FOLDER, "-k", "2", "--csv", "-", "--json", file)
    assert done.exit_code == 0 and len(json.loads(file.read_text())) == 4
    assert done.stdout.startswith("rank,") and f"Written: {file}" in done.stderr
    done = run("norms", FOLDER, "--csv", "-", "--json", "/dev/stdout")
    assert done.exit_code == 2 and "--csv and --json would both write" in done.stderr


def test_bytes_are_not_written_to_a_terminal(monkeypatch):
    from tw_lens.cli.output import require_outputs

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    with pytest.raises(ValueError, match="--parquet is binary and standard output is a terminal"):
        require_outputs({"parquet": Path("-")})


def test_files_that_cannot_be_written_are_rejected_before_any_work():
    done = run("norms", FOLDER, "--csv", "/no/such/folder/t.csv")
    assert done.exit_code == 2 and "loading" not in done.output


def test_quiet_leaves_the_answer_alone(tmp_path):
    done = run("norms", FOLDER, "-k", "1", "--quiet")
    assert done.exit_code == 0 and done.stderr == "" and "norms from" in done.stdout
    done = run("norms", FOLDER, "-q", "--csv", tmp_path / "t.csv")
    assert done.exit_code == 0 and done.output == ""
    done = run("norms", "./nowhere", "-q")
    assert done.exit_code == 2 and "does not exist" in done.stderr


def test_models_are_loaded_in_a_number_format_and_on_a_device():
    done = run("check", FOLDER, "-p", "w5 w6", "--dtype", "bfloat16")
    assert (done.exit_code == 0 and "8e-02" in done.output) or "6e-02" in done.output, done.output
    done = run("norms", FOLDER, "--device", "nowhere")
    assert done.exit_code == 2 and "device 'nowhere' cannot be used here" in done.stderr
    with pytest.raises(ValueError, match="unknown dtype 'int8'"):
        tw.load_model(FOLDER, dtype="int8")
    model = tw.load_model(FOLDER, dtype="float16", device="cpu")
    assert {str(p.dtype) for p in model.parameters()} == {"torch.float16"}


def test_an_atlas_without_the_word_says_what_was_searched():
    done = run("atlas", FOLDER, "--layers", "1-2", "--circuit", "qk", "--word", "dog", "-q")
    sentence = " ".join(done.stderr.split())
    assert done.exit_code == 2 and done.stdout == ""
    assert "no token that contains 'dog' is listed by the 8 directions searched" in sentence
    assert "(layers 1, 2; QK; 5 tokens per side), but, for instance, 'w" in sentence


def test_a_closed_pipe_is_silent():
    """Output that is longer than the buffer of a pipe, of which one line is read."""
    command = [*COMMAND, "norms", FOLDER, "-k", "900", "--csv", "-"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stdout and running.stderr
    assert running.stdout.readline().startswith(b"rank,")
    running.stdout.close()
    with running.stderr as errors:
        assert errors.read().decode() == f"loading {FOLDER}\u2026\n"
    assert running.wait() == 141


def test_ctrl_c_leaves_nothing_and_says_one_line(tmp_path):
    file = tmp_path / "t.csv"
    command = [*COMMAND, "norms", FOLDER, "--csv", str(file)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stderr and running.stderr.readline().startswith(b"loading")
    time.sleep(0.2)
    os.kill(running.pid, signal.SIGINT)
    output, errors = running.communicate()
    assert running.returncode == 130 and output == b"" and list(tmp_path.iterdir()) == []
    assert errors.decode() == "tw-lens: interrupted\n"


@pytest.mark.parametrize(
    ("variables", "printed"),
    [
        ({"_TW_LENS_COMPLETE": "source_bash"}, "complete -o default -F _tw_lens_completion"),
        (
            {"_TW_LENS_COMPLETE": "complete_bash", "COMP_WORDS": "tw-lens at", "COMP_CWORD": "1"},
            "atlas",
        ),
    ],
)
def test_the_shell_completes_commands(variables, printed):
    done = subprocess.run(COMMAND, capture_output=True, text=True, env={**os.environ, **variables})
    assert done.returncode == 0 and printed in done.stdout, done.stderr


def test_completion_can_be_installed():
    help_text = run("--help").output
    assert "--install-completion" in help_text and "--show-completion" in help_text


def test_a_sweep_prints_one_line_and_its_table(tmp_path):
    other = spelled_model(tmp_path)
    import torch
    from safetensors.torch import load_file, save_file

    weights = Path(other) / "model.safetensors"
    changed = {name: value + 0.01 * torch.ones(()) for name, value in load_file(weights).items()}
    save_file(changed, weights, metadata={"format": "pt"})
    for jobs in ([], ["--n-jobs", "2"]):
        command = [*COMMAND, "sweep", FOLDER, other, "--measures", "spectra", *jobs]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr
        assert done.stderr == "measuring 2 models\u2026\n" and "over layers" in done.stdout
