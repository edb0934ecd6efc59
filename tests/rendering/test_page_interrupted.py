"""A page that is ended while it is made: no half page, nothing else, an earlier page unchanged."""

from __future__ import annotations

import os
import signal
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import tw_lens as tw
from tests.models import golden_bridge
from tw_lens import files

STEPS = (1, 4)


def end_itself() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def ended_at_a_step(number: int) -> Callable[[pytest.MonkeyPatch], Callable[[str], None]]:
    def prepare(_: pytest.MonkeyPatch) -> Callable[[str], None]:
        steps: list[str] = []
        return lambda step: steps.append(step) or (len(steps) == number and end_itself()) or None

    return prepare


def ended_while_writing(patch: pytest.MonkeyPatch) -> Callable[[str], None]:
    patch.setattr(files.os, "fsync", lambda _: end_itself())  # written, and not yet in its place
    return lambda step: None


def status_of_child(run: Callable[[], object]) -> int:
    """Run a call in a fork and return how it ended."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks, from Python 3.12
        child = os.fork()
    if not child:
        try:
            run()
        finally:
            os._exit(7)
    return os.waitpid(child, 0)[1]


@pytest.mark.parametrize(
    "prepare",
    [*map(ended_at_a_step, STEPS), ended_while_writing],
    ids=[*(f"step {n}" for n in STEPS), "writing"],
)
def test_sigterm_leaves_nothing(tmp_path, monkeypatch, prepare):
    model, path = golden_bridge(), tmp_path / "folder" / "page.html"
    path.parent.mkdir()
    path.write_text("old")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    progress = prepare(monkeypatch)
    status = status_of_child(
        lambda: tw.report(
            model, path, prompt="w5 w6 w7", layers=[0], vocabulary="embedding", progress=progress
        )
    )
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM
    assert path.read_text() == "old"
    assert sorted(tmp_path.rglob("*")) == [path.parent, path]


@pytest.mark.parametrize("limit", [10_000])
def test_a_full_disk_is_named(tmp_path, limit: int):
    resource = pytest.importorskip("resource", reason="Windows has no limit on the size of files")
    path: Path = tmp_path / "page.html"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(OSError, match=r"too large.*page\.html"):
            tw.report(golden_bridge(), path, prompt="w5 w6", layers=[0], vocabulary="embedding")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())
