"""The package as others get it: a wheel and an sdist, and the wheel works outside the checkout."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "tests" / "data" / "tiny-gpt2"


def done(*command, **options):
    finished = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, **options
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    done(sys.executable, "-m", "hatchling", "build", "-d", folder, cwd=ROOT)
    return folder


def test_the_wheel_holds_the_package_and_its_templates(built):
    names = set(zipfile.ZipFile(next(built.glob("*.whl"))).namelist())
    package = ROOT / "tw_lens"
    ours = {
        str(file.relative_to(ROOT))
        for file in package.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert any(name.endswith(".j2") for name in ours) and ours <= names
    assert not any(name.startswith(("tests", "examples")) for name in names)


def test_the_sdist_holds_what_the_tests_need(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    wanted = ["README.md", "Makefile", "constraints.txt", "LICENSE", "tests/conftest.py"]
    notebooks = [str(file.relative_to(ROOT)) for file in ROOT.glob("examples/*.ipynb")]
    assert {*wanted, *notebooks} <= names


def test_the_wheel_makes_the_page_outside_the_checkout(built, tmp_path):
    """In an empty environment, with the dependencies of this one beside it."""
    python = tmp_path / "empty" / "bin" / "python"
    done(sys.executable, "-m", "venv", "--without-pip", tmp_path / "empty")
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    done(*pip, "install", "--no-deps", "--no-index", next(built.glob("*.whl")), cwd=tmp_path)
    beside = [place for place in sys.path if not (Path(place) / "tw_lens").exists()]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(beside)}
    run = {"cwd": tmp_path, "env": environment}
    where = done(python, "-c", "import tw_lens; print(tw_lens.__file__)", **run)
    assert where.startswith(str(tmp_path / "empty"))
    command = python.parent / "tw-lens"
    assert "bundled SmolLM2" in done(command, "--help", **run)
    page = tmp_path / "page.html"
    done(command, "report", FOLDER, "--prompt", "w5 w6 w7", "--layers", "0", "-o", page, **run)
    assert page.stat().st_size > 1e6
