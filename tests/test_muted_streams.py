"""What other libraries print while the command line loads a model, and their settings after it."""

import io
import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from tqdm import tqdm

from tw_lens.cli.muted_streams import muted_libraries
from tw_lens.cli.terminal import load

FOLDER = str(Path(__file__).parent / "data" / "tiny-gpt2")


def make_noise(logger: logging.Logger) -> None:
    print("a print")
    print("an error", file=sys.stderr)
    sys.stderr.writelines(["lines\n"])
    list(tqdm(range(3), desc="a bar"))
    logger.critical("a message")


def settings() -> tuple:
    from transformers.utils import logging as transformers_logging

    return (
        sys.stdout,
        sys.stderr,
        warnings.filters[:],
        warnings.showwarning,
        logging.root.manager.disable,
        logging.root.handlers[:],
        transformers_logging.get_verbosity(),
        transformers_logging.is_progress_bar_enabled(),
    )


def test_prints_bars_warnings_and_messages_are_dropped(capfd):
    logger = logging.Logger("another library")
    logger.addHandler(logging.StreamHandler(sys.stderr))
    before = settings()
    with muted_libraries():
        make_noise(logger)
    assert settings() == before and capfd.readouterr() == ("", "")


def test_warnings_are_dropped_and_filters_of_libraries_kept():
    code = (
        "import warnings\nfrom tw_lens.cli.muted_streams import muted_libraries\n"
        "with muted_libraries():\n    warnings.warn('dropped')\n"
        "    warnings.filterwarnings('ignore', 'known')\n"
        "warnings.warn('known')\nwarnings.warn('shown')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert [line.split(": ")[-1] for line in done.stderr.splitlines()] == ["shown"]


def test_a_stream_that_a_library_keeps_works_afterwards(capfd):
    logger = logging.Logger("another library")
    with muted_libraries():
        handler = logging.StreamHandler(sys.stderr)
        assert sys.stderr.isatty() is False and sys.stdout.encoding
    logger.addHandler(handler)
    logger.warning("heard")
    assert capfd.readouterr().err == "heard\n"


def test_settings_are_restored_after_an_error(capfd):
    before = settings()
    with pytest.raises(OSError, match="does not exist"):
        load("./nowhere", lambda step: None)
    assert settings() == before
    assert capfd.readouterr().err == "loading ./nowhere\u2026\n"


def test_loading_leaves_all_settings():
    """The first loading imports libraries, which set filters of warnings for themselves."""
    load(FOLDER, lambda step: None)
    before, steps = settings(), []
    load(FOLDER, steps.append)
    assert settings() == before and steps == [f"loading {FOLDER}\u2026"]


def test_on_a_terminal_the_line_is_the_current_step(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    steps = []
    load(FOLDER, steps.append)
    assert steps == [f"loading {FOLDER}\u2026"] and terminal.getvalue() == ""


@pytest.mark.parametrize(("model", "name"), [([FOLDER], FOLDER), ([], "the bundled SmolLM2")])
def test_a_command_prints_one_line_while_it_loads(model, name):
    """The bundled model is a GGUF file, which transformers reads with a bar of its own."""
    code = "from tw_lens.cli import app; app()"
    done = subprocess.run(
        [sys.executable, "-c", code, "norms", *model, "-k", "1"], capture_output=True, text=True,
        encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"loading {name}\u2026\n"
    assert "norms from" in done.stdout
