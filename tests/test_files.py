"""Files are written whole or not at all: full disks, signals, two processes, links, modes."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
import torch

from tw_lens import files
from tw_lens.files import require_writable, write_atomically, write_folder_atomically
from tw_lens.tensor_files import load_tensors, save_tensors

LARGE = torch.zeros(100_000)


def write_text(path: Path) -> None:
    write_atomically(path, lambda file: file.write_text("x" * 400_000))


def write_tensors(path: Path) -> None:
    save_tensors(path, "layout", {"x": LARGE}, {})


WRITERS = {"text": write_text, "tensors": write_tensors}


@pytest.fixture
def small_disk():
    """No file may grow beyond 100 kB: the system's own error for a write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, small_disk, writer: str):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OSError, match=r"too large.*file'"):
        WRITERS[writer](path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error: type[BaseException]):
    path = tmp_path / "file"
    path.write_text("old")

    def half(file: Path) -> None:
        file.write_text("half")
        (file.parent / "beside it").write_text("a library's own temporary file")
        raise error

    with pytest.raises(error):
        write_atomically(path, half)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


ALONE = f"""
import runpy, signal, sys, time
from pathlib import Path

write_atomically = runpy.run_path({files.__file__!r})["write_atomically"]  # no slow imports
"""

ENDED = f"""{ALONE}
def slow(file):
    file.write_text("half")
    (file.parent / "beside it").write_text("a library's own temporary file")
    print("writing", flush=True)
    time.sleep(60)

if sys.argv[2] == "own handler":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
write_atomically(Path(sys.argv[1]), slow)
"""


def ended(path: Path, number: int, handler: str = "") -> int:
    """Send a signal to a process that writes a file; return its exit status."""
    command = [sys.executable, "-c", ENDED, str(path), handler]
    heard = partial(signal.signal, number, signal.SIG_DFL)  # under nohup SIGHUP is ignored
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=heard) as process:
        assert process.stdout is not None and process.stdout.readline() == "writing\n"
        process.send_signal(number)
        return process.wait(timeout=300)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_no_half_file(tmp_path, number: signal.Signals):
    path = tmp_path / "file"
    path.write_text("old")
    assert ended(path, number) == -number  # as without the library
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_programs_own_handler_is_called(tmp_path):
    assert ended(tmp_path / "file", signal.SIGTERM, "own handler") == 3
    assert not list(tmp_path.iterdir())


def test_handlers_are_left_as_they_were(tmp_path):
    def own(*_: object) -> None:
        """Do nothing."""

    before = signal.signal(signal.SIGHUP, own)
    try:
        inside = []
        write_atomically(
            tmp_path / "file",
            lambda file: file.write_text("") or inside.append(signal.getsignal(signal.SIGTERM)),
        )
        assert inside != [signal.SIG_DFL]
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        assert signal.getsignal(signal.SIGHUP) is own
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_write_too(tmp_path):
    threads = [
        threading.Thread(target=write_tensors, args=(tmp_path / str(i % 2),)) for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["0", "1"]
    assert load_tensors(tmp_path / "0", "layout", "numbers", ValueError)


TOGETHER = f"""{ALONE}
path, content = Path(sys.argv[1]), sys.argv[2] * 300_000
print("ready", flush=True)
sys.stdin.readline()
for _ in range(60):
    write_atomically(path, lambda file: file.write_text(content))
    found = path.read_text()
    assert len(found) == len(content) and len(set(found)) == 1
"""


def test_two_processes_at_once(tmp_path):
    """Every file that one of them reads is whole, and one of the two."""
    path = tmp_path / "file"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TOGETHER, str(path), number],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in ("1", "2")
    ]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        process.communicate("go\n", timeout=120)
    assert [process.returncode for process in processes] == [0, 0]
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_followed(tmp_path):
    (tmp_path / "a").mkdir()
    real, link = tmp_path / "a" / "real", tmp_path / "link"
    real.write_text("old")
    link.symlink_to(real)
    write_atomically(link, lambda file: file.write_text("new"))
    assert link.is_symlink() and real.read_text() == "new"


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
@pytest.mark.parametrize("writer", WRITERS)
def test_the_mode_is_that_of_any_new_file(tmp_path, mask: int, mode: int, writer: str):
    before = os.umask(mask)
    try:
        WRITERS[writer](tmp_path / "file")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode


def test_what_cannot_be_written_is_named_before_any_work(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist; create it first"):
        require_writable(tmp_path / "none" / "file")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        require_writable(tmp_path)


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "folder"

    def half(made: Path) -> None:
        (made / "file").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_folder_atomically(folder, half)
    assert not list(tmp_path.iterdir())
    write_folder_atomically(folder, lambda made: (made / "file").write_text("whole"))
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "file"]


def test_a_folder_that_is_filled_meanwhile_stays(tmp_path):
    folder = tmp_path / "folder"

    def write(made: Path) -> None:
        (made / "file").write_text("ours")
        folder.mkdir()
        (folder / "file").write_text("another's")

    with pytest.raises(OSError, match=r"not empty: .*folder'"):
        write_folder_atomically(folder, write)
    assert sorted(tmp_path.rglob("*")) == [folder, folder / "file"]
    assert (folder / "file").read_text() == "another's"
