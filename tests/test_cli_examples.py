"""Every command of the documentation and of `--help` runs, on a small model of SmolLM2's shape."""

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from tw_lens.cli import app

ROOT = Path(__file__).parent.parent
TOKENIZER = ROOT / "tests" / "data" / "tiny-gpt2"
PAGES = [ROOT / "README.md", *sorted((ROOT / "examples" / "site" / "pages").glob("*.md"))]
TEXTS = {page.stem: page.read_text(encoding="utf-8") for page in PAGES}
COMMANDS = set(getattr(get_command(app), "commands", ()))
WORDS = [
    "w0",
    "To",
    "kill",
    "two",
    "birds",
    "with",
    "one",
    "stone",
    "bird",
    "my",
    "myself",
    "our",
    "your",
    "house",
    "water",
    "day",
    "man",
    "light",
    "hand",
    "world",
    "city",
    "tree",
    "road",
    "book",
    "child",
    "night",
    "door",
    "voice",
    "river",
    "field",
    "summer",
    "winter",
]
N_LAYERS, N_HEADS = 30, 9  # of SmolLM2


def in_blocks(text: str) -> list[str]:
    """Return the commands in the shell blocks of a page, without their comments."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith("tw-lens ")]


def in_help() -> list[str]:
    """Return the example that ends the help of each command."""
    epilogs = [command.epilog or "" for command in app.registered_commands]
    return [epilog.removeprefix("Example: ") for epilog in epilogs]


EXAMPLES = list(dict.fromkeys([line for text in TEXTS.values() for line in in_blocks(text)]))


def saved_model(folder: Path, seed: int) -> str:
    """Save a random GPT-2 with the layers and heads of SmolLM2, whose tokens are a few words."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        n_embd=36, n_layer=N_LAYERS, n_head=N_HEADS, n_positions=64, vocab_size=len(WORDS),
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer = json.loads((TOKENIZER / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = {word: index for index, word in enumerate(WORDS)}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = (TOKENIZER / "tokenizer_config.json").read_text()
    (folder / "tokenizer_config.json").write_text(settings)
    return str(folder)


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """A function that stands for `load_model`: any name, and none, gives a small model."""
    from tw_lens.reading import load_model

    models = {}

    def stand_in(name=None, **model_format):
        if name not in models:
            folder = tmp_path_factory.mktemp("model")
            models[name] = load_model(saved_model(folder, len(models)), **model_format)
        return models[name]

    return stand_in


@pytest.fixture
def workplace(load, tmp_path, monkeypatch):
    """A folder with the files that the examples name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tw_lens.reading.load_model", load)
    monkeypatch.setattr("tw_lens.studies.sweep_models.load_model", load)
    for name, step in (("prompts.txt", 1), ("held_out.txt", -1)):
        lines = [" ".join(WORDS[1 + i : 8 + i][::step]) for i in range(12)]
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def run(line: str, folder: Path) -> None:
    program, *arguments = shlex.split(line, comments=True)
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "80"})
    assert program == "tw-lens" and done.exit_code == 0, done.output
    for option in ("-o", "--output", "--csv", "--checkpoint"):
        if option in arguments and arguments[arguments.index(option) + 1] != "-":
            assert (folder / arguments[arguments.index(option) + 1]).exists()


@pytest.mark.parametrize("line", EXAMPLES)
def test_examples_of_the_documentation_run(line, workplace):
    run(line, workplace)


@pytest.mark.parametrize("line", [line for line in in_help() if line not in EXAMPLES])
def test_examples_of_the_help_run(line, workplace):
    run(line, workplace)


def test_every_command_has_an_example_in_its_help():
    names = [line.split()[1] for line in in_help()]
    assert sorted(names) == sorted(COMMANDS)


def test_readme_and_quickstart_have_examples():
    assert len(in_blocks(TEXTS["README"])) >= 5 and len(in_blocks(TEXTS["quickstart"])) >= 10


@pytest.mark.parametrize("page", TEXTS)
def test_commands_named_in_the_text_exist(page):
    named = re.findall(r"`tw-lens ([a-z][a-z-]*)", TEXTS[page])
    assert set(named) <= COMMANDS
