"""The documentation site builds without warnings and is complete; README and CHANGELOG fit."""

import importlib.util
import os
import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

import tw_lens
import tw_lens.rendering  # all results are defined for it
from tests.calls import bad_calls
from tw_lens.results import Result

ROOT = Path(__file__).parent.parent
SITE = ROOT / "examples" / "site"
PAGES = sorted(SITE.rglob("*.md"))
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


class Anchors(HTMLParser):
    """Collects the link targets, the ids and the loaded resources of a page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.ids: set[str] = set()
        self.loaded: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids |= {values.get("id"), values.get("name")} - {None}
        if tag == "a" and values.get("href"):
            self.links.add(values["href"])
        if tag in ("img", "script", "iframe") and values.get("src"):
            self.loaded.add(values["src"])
        if tag == "link" and values.get("rel") in ("stylesheet", "preload", "icon"):
            self.loaded.add(values["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = ["-m", "mkdocs", "build", "--strict", "-q", "-f", SITE / "mkdocs.yml", "-d", folder]
    built = subprocess.run(
        [sys.executable, *map(str, command)],
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert built.returncode == 0 and not built.stderr, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return {page: Anchors(page) for page in site.rglob("*.html")}


def test_every_public_name_is_in_the_reference(site, pages):
    ids = pages[site / "reference" / "calls.html"].ids | pages[site / "reference/classes.html"].ids
    assert [name for name in tw_lens.__all__ if f"tw_lens.{name}" not in ids] == []


def test_every_result_class_is_in_the_reference(site, pages):
    results = [c for c in Result.__subclasses__() if c.__module__.startswith("tw_lens.")]
    ids = pages[site / "reference" / "classes.html"].ids
    missing = [c.__name__ for c in results if f"{c.__module__}.{c.__name__}" not in ids]
    assert len(results) > 10 and missing == []


def test_every_public_call_is_in_the_guide():
    guide = (SITE / "pages" / "guide.md").read_text(encoding="utf-8")
    calls = [name for name in tw_lens.__all__ if name[0].islower()]
    assert [name for name in calls if f"| [`{name}`]" not in guide] == []


def test_examples_and_formulas_are_in_the_reference(site):
    page = (site / "reference" / "calls.html").read_text(encoding="utf-8")
    text = unescape(re.sub(r"<[^>]+>", "", page))
    assert 'head_spectrum(weights, layer=1, circuit="OV")' in text
    assert "sqrt(d) |A_U[:, w]| + a_U[w]" in text
    calls = [name for name in tw_lens.__all__ if name[0].islower()]
    assert text.count("Examples:") >= len(calls)


def test_internal_links_lead_somewhere(pages):
    broken = []
    for page, anchors in pages.items():
        for link in anchors.links:
            address, anchor = urldefrag(unquote(link))
            if re.match(r"[a-z]+:", address) or page.name == "404.html":
                continue
            target = (page.parent / address).resolve() if address else page
            known = target in pages or target.exists()
            if not known or (anchor and target in pages and anchor not in pages[target].ids):
                broken.append((page.name, link))
    assert broken == []


def test_the_site_loads_nothing_from_outside(pages):
    loaded = {link for anchors in pages.values() for link in anchors.loaded}
    assert loaded and not [link for link in loaded if re.match(r"(https?:)?//", link)]


def test_every_notebook_is_a_page_with_its_figures(site):
    for notebook in (ROOT / "examples").glob("*.ipynb"):
        page = Anchors(site / "notebooks" / f"{notebook.stem}.html")
        assert any(link.startswith(notebook.stem) for link in page.loaded), notebook


def test_the_sources_of_the_site_are_small():
    files = [f for f in SITE.rglob("*") if f.is_file() and "__pycache__" not in f.parts]
    assert sum(file.stat().st_size for file in files) < 100_000


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.stem)
def test_code_in_the_documentation_uses_the_public_calls(page):
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert [bad for block in blocks for bad in bad_calls(block)] == []


def test_the_readme_is_read_in_five_minutes():
    assert len(README.split()) <= 1200
    assert len(re.findall(r"!\[", README)) == 1
    assert README.index("![") < README.index("## ")


def test_the_two_commands_of_the_readme_are_those_of_the_makefile():
    block = README.split("## Two commands")[1].split("```bash\n")[1].split("```")[0]
    commands = [line.split("#")[0].strip() for line in block.strip().splitlines()]
    assert commands == ["make demo", "make test"]
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^demo:", makefile, re.M) and re.search(r"^test: lint ", makefile, re.M)
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.M)[1]
    assert all(tool in lint for tool in ("ruff check", "ruff format --check", "pyright"))
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [line for line in ci if line.startswith("make")] == ["make test"]


@pytest.mark.parametrize("file", ["README.md", *(str(p.relative_to(ROOT)) for p in PAGES)])
def test_relative_links_lead_to_files(file):
    """On the web pages of a repository; pages made by the build are looked up by their source."""
    text = (ROOT / file).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(((?!https?:|#)[^)#]+)", text):
        target = (ROOT / file).parent / link
        notebook = ROOT / "examples" / f"{target.stem}.ipynb"
        picture = ROOT / "examples" / "pictures" / target.name
        assert target.exists() or notebook.exists() or picture.exists(), link


def test_items_of_the_changelog_are_short():
    items = [line[2:] for line in CHANGELOG.splitlines() if line.startswith("- ")]
    assert len(items) > 40
    assert [item for item in items if len(item.split()) > 20] == []


def test_the_changelog_begins_with_this_version_and_its_date():
    version, date = re.search(r"^## \[([\d.]+)\] - (\d{4}-\d\d-\d\d)$", CHANGELOG, re.M).groups()
    assert version == tw_lens.__version__
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {version}\n" in citation and f'date-released: "{date}"' in citation


def renamed(title: str) -> list[tuple[str, str]]:
    """Return the rows of one table of new names."""
    table = CHANGELOG.split(f"{title}\n\n| 0.1.0 | 0.2.0 |\n|---|---|\n")[1].split("\n\n")[0]
    return [tuple(row.strip("| ").split(" | ")) for row in table.splitlines()]


def test_the_new_names_in_the_changelog_exist():
    homes = [tw_lens, tw_lens.analyses, tw_lens.studies, tw_lens.results, tw_lens.reading,
             tw_lens.rendering]  # fmt: skip
    homes += [sys.modules["tw_lens.reading.loading"], sys.modules["tw_lens.reading.states_io"]]
    homes += [sys.modules["tw_lens.rendering.export.figure_files"]]
    names = [n for _, new in renamed("Calls and classes:") for n in re.findall(r"`(\w+)`", new)]
    assert len(names) > 30
    assert [n for n in names if not any(hasattr(home, n) for home in homes)] == []


def test_the_new_modules_in_the_changelog_exist():
    rows = renamed("Modules, below `tw_lens`:")
    modules = [m for _, new in rows for m in re.findall(r"`([\w.]+)`", new)]
    assert len(modules) > 50
    assert [m for m in modules if importlib.util.find_spec(f"tw_lens.{m}") is None] == []
    gone = [m for old, _ in rows for m in re.findall(r"`([\w.]+)`", old) if m not in modules]
    assert [m for m in gone if not_a_package(m)] == []


def not_a_package(module: str) -> bool:
    """Return whether a module of that name exists as a file."""
    spec = importlib.util.find_spec(f"tw_lens.{module}")
    return spec is not None and not spec.submodule_search_locations
