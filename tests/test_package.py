"""The wheel and the sdist are complete, the wheel works outside the checkout, metadata agree."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "tests" / "data" / "tiny-gpt2"
KINDS = (".ipynb", ".md", ".yml", ".css", ".py", ".png")


def run(*command, **options):
    """Return the output of a command that succeeds."""
    completed = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, **options
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-d", folder, cwd=ROOT)
    return folder


def test_the_wheel_contains_the_package_its_templates_and_its_types(built):
    names = set(zipfile.ZipFile(next(built.glob("*.whl"))).namelist())
    package = ROOT / "tw_lens"
    ours = {
        str(file.relative_to(ROOT))
        for file in package.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert any(name.endswith(".j2") for name in ours) and ours <= names
    assert "tw_lens/py.typed" in names
    assert not any(name.startswith(("tests", "examples")) for name in names)


def test_the_sdist_contains_what_the_tests_need(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    files = ["README.md", "CHANGELOG.md", "CITATION.cff", "Makefile", "constraints.txt",
             "constraints-lowest.txt", "LICENSE", ".ci/run", ".github/CONTRIBUTING.md",
             "tests/conftest.py"]  # fmt: skip
    folders = [ROOT / "examples", ROOT / "examples" / "site"]
    sources = [p for folder in folders for p in folder.rglob("*") if p.suffix in KINDS]
    assert {*files, *(str(path.relative_to(ROOT)) for path in sources)} <= names


def test_the_wheel_writes_the_report_outside_the_checkout(built, tmp_path):
    """In an empty environment that finds the dependencies of this one."""
    python = tmp_path / "empty" / "bin" / "python"
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "empty")
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    run(*pip, "install", "--no-deps", "--no-index", next(built.glob("*.whl")), cwd=tmp_path)
    paths = [path for path in sys.path if not (Path(path) / "tw_lens").exists()]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    outside = {"cwd": tmp_path, "env": environment}
    package = run(python, "-c", "import tw_lens; print(tw_lens.__file__)", **outside)
    assert package.startswith(str(tmp_path / "empty"))
    command = python.parent / "tw-lens"
    assert "bundled SmolLM2" in run(command, "--help", **outside)
    page = tmp_path / "page.html"
    run(command, "report", FOLDER, "--prompt", "w5 w6 w7", "--layers", "0", "-o", page, **outside)
    assert page.stat().st_size > 1e6


def test_the_workflow_tests_every_supported_python():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert set(workflow["jobs"]) == {"lint", "tests", "docs", "wheel"}
    tested = workflow["jobs"]["tests"]["strategy"]["matrix"]["python"]
    classifiers = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    assert tested == classifiers == ["3.10", "3.11", "3.12", "3.13"]


def test_forms_citation_and_hooks_are_valid_yaml():
    for form in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"):
        assert {"name", "description", "body"} <= set(yaml.safe_load(form.read_text()))
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["preferred-citation"]["title"].startswith("Traveling Words")
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    pinned = re.search(r"^ruff==(.+)$", (ROOT / "constraints.txt").read_text(), re.M)[1]
    assert [hook["rev"] for hook in hooks] == [f"v{pinned}"]


def test_the_lowest_versions_are_those_that_pyproject_admits():
    """`make test-latest` runs them; transformers is what TransformerLens itself admits."""
    pyproject = (ROOT / "pyproject.toml").read_text()
    runtime = pyproject[pyproject.index("dependencies = [") : pyproject.index("[project.urls]")]
    bundled = re.search(r"bundled = \[.*\]", pyproject)
    assert bundled
    admitted = dict(re.findall(r'"([\w-]+)>=([\d.]+)', runtime + bundled[0]))
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()
    lowest = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert lowest.pop("transformers") and lowest == admitted
