"""The shape of the house: one direction, one place that knows TransformerLens, small files."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import tw_lens

ROOT = Path(tw_lens.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
GROUND = {
    "_version", "argument_kinds", "arguments", "devices", "errors", "files", "progress",
    "tensor_files", "tokens", "torch_settings",
}  # fmt: skip
READ = GROUND | {"canonical", "geometry", "results", "reading", "analyses", "studies"}
MAY_IMPORT = {
    "_version": set(),
    "argument_kinds": set(),
    "arguments": {"argument_kinds", "devices", "torch_settings"},
    "devices": set(),
    "errors": set(),
    "files": set(),
    "progress": {"argument_kinds"},
    "tensor_files": {"files"},
    "tokens": {"errors"},
    "torch_settings": set(),
    "canonical": GROUND | {"canonical"},
    "geometry": {"devices", "geometry"},
    "results": GROUND | {"canonical", "geometry", "results"},
    "reading": GROUND | {"canonical", "results", "reading"},
    "analyses": GROUND | {"canonical", "geometry", "results", "analyses"},
    "studies": READ,
    "rendering/figures": READ | {"rendering/figures"},
    "rendering/widgets": READ | {"rendering/figures", "rendering/widgets"},
    "rendering/export": READ | {"rendering/export"},
    "rendering/page": READ | {"rendering/figures", "rendering/widgets", "rendering/page"},
    "rendering": {f"rendering/{room}" for room in ("export", "figures", "page", "widgets")},
    "cli": READ | {"rendering", "cli"},
    "__init__": READ | {"rendering"},
}


def room_of(parts: tuple[str, ...]) -> str:
    """The layer of a module, and inside `rendering` its room."""
    room = "/".join(parts[:2])
    return room if room in MAY_IMPORT else parts[0]


def layer_of(file: Path) -> str:
    return room_of(file.relative_to(ROOT).with_suffix("").parts)


def imports_of(file: Path) -> list[str]:
    """Dotted names of everything a file imports, inside functions and TYPE_CHECKING too."""
    names = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names += [str(arg.value) for arg in node.args if isinstance(arg, ast.Constant)]
    return names


def inner_layers(file: Path) -> set[str]:
    inner = [name.split(".") for name in imports_of(file) if name.split(".")[0] == "tw_lens"]
    return {room_of(tuple(parts[1:])) for parts in inner if len(parts) > 1}


def named(file: Path) -> str:
    return str(file.relative_to(ROOT))


def test_the_layers_are_all_known():
    assert {layer_of(file) for file in FILES} == set(MAY_IMPORT)
    assert len(FILES) > 30


@pytest.mark.parametrize("file", FILES, ids=named)
def test_imports_go_one_way(file: Path):
    assert inner_layers(file) <= MAY_IMPORT[layer_of(file)]


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_no_file_imports_itself_in_a_circle():
    """Imports inside functions and under TYPE_CHECKING are counted."""
    modules = {module_of(file): file for file in FILES}
    graph = {}
    for module, file in modules.items():
        named = imports_of(file)
        graph[module] = {
            name
            if name in modules and modules[name].name != "__init__.py"
            else name.rpartition(".")[0]
            for name in named
            if name.startswith("tw_lens.")
        } & set(modules)
    order = list(TopologicalSorter(graph).static_order())
    assert len(order) == len(modules)


def test_the_imports_were_really_seen():
    assert inner_layers(ROOT / "analyses" / "head_probe.py") == {
        "analyses", "arguments", "canonical", "errors", "geometry", "results",
    }  # fmt: skip
    assert "transformer_lens" in " ".join(
        name for file in FILES if layer_of(file) == "reading" for name in imports_of(file)
    )


@pytest.mark.parametrize("file", FILES, ids=named)
def test_only_reading_knows_transformer_lens(file: Path):
    if layer_of(file) == "reading":
        return
    outer = {name.split(".")[0] for name in imports_of(file)}
    assert not outer & {"transformer_lens", "transformers"}
    if layer_of(file) != "cli":
        assert "transformer_lens" not in file.read_text()


@pytest.mark.parametrize("file", FILES, ids=named)
def test_pictures_stay_in_rendering(file: Path):
    if layer_of(file).startswith("rendering") or layer_of(file) == "cli":
        return
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):  # a type under TYPE_CHECKING is no picture
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    left = ast.unparse(ast.fix_missing_locations(tree))
    assert "import plotly" not in left and "import circuitsvis" not in left


@pytest.mark.parametrize("file", FILES, ids=named)
def test_files_are_small_and_say_what_they_are(file: Path):
    text = file.read_text()
    assert len(text.splitlines()) < 300
    assert ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("file", FILES, ids=named)
def test_every_dataclass_is_frozen(file: Path):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ClassDef):
            own = [ast.unparse(d) for d in node.decorator_list if "dataclass" in ast.unparse(d)]
            assert all("frozen=True" in text for text in own), node.name


SLOW = (
    "torch", "numpy", "pandas", "scipy", "jaxtyping", "tqdm", "rich", "typer", "safetensors",
    "transformer_lens", "transformers", "umap", "sklearn", "plotly", "circuitsvis", "numba",
)  # fmt: skip
NEEDED_BY_RESULTS = ("torch", "numpy", "pandas", "jaxtyping", "tqdm", "safetensors")


@pytest.mark.parametrize(
    ("statement", "loaded"),
    [
        ("import tw_lens", ()),
        ("from tw_lens import *", NEEDED_BY_RESULTS),
        ("from tw_lens.cli import app", ("rich", "typer")),
    ],
)
def test_importing_is_light(statement: str, loaded: tuple[str, ...]):
    """Nothing slow is imported until it is needed."""
    code = f"import sys; {statement}; print([m for m in {SLOW!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent
    )
    assert set(ast.literal_eval(done.stdout)) <= set(loaded)


def test_names_are_imported_when_they_are_used():
    assert set(tw_lens.__all__) <= set(dir(tw_lens))
    homes = {name: getattr(tw_lens, name).__module__ for name in tw_lens.__all__}
    assert [name for name, home in homes.items() if not home.startswith("tw_lens.")] == []
    assert tw_lens.geometry.__name__ == "tw_lens.geometry"
    with pytest.raises(AttributeError, match="module 'tw_lens' has no attribute 'head_prob'"):
        tw_lens.head_prob  # noqa: B018


def test_a_figure_needs_no_other_import():
    """A result of a module that was imported alone is drawn."""
    code = (
        "from tw_lens.analyses import embedding_distances\nfrom tw_lens.reading import *\n"
        f"model = load_model({str(ROOT.parent / 'tests' / 'data' / 'tiny-gpt2')!r})\n"
        "print(len(embedding_distances(read_weights(model)).plot().data))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and int(done.stdout) > 0, done.stderr


def test_type_checkers_see_every_public_name():
    """The imports under TYPE_CHECKING are those that the names stand for at run time."""
    tree = ast.parse((ROOT / "__init__.py").read_text())
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(seen) == set(tw_lens.__all__)
    for name, module in seen.items():
        assert getattr(sys.modules[str(module)], name) is getattr(tw_lens, name)
