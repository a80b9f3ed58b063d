"""cli -> lab -> machine -> {topology, engine, hooks, tracing}; and plugins use the public face only."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from configparser import RawConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE, PLUGINS = ROOT / "core", ROOT / "plugins"

GROUND = {"errors", "quantities"}
"""What everything may use; `topology` and `engine` use nothing else."""
ROOMS = {
    "errors": set(),
    "quantities": {"errors"},
    "_version": set(),
    "plugin": GROUND,
    "engine": GROUND,
    "topology": GROUND,
    "tracing": GROUND,
    "hooks": GROUND,
    "formats": GROUND,
    "machine": {*GROUND, "plugin", "engine", "topology", "tracing", "hooks", "formats"},
    "lab": {*GROUND, "_version", "plugin", "engine", "topology", "tracing", "hooks", "machine", "formats"},
    "cli": {*GROUND, "_version", "topology", "lab"},
    "testing": {*GROUND, "plugin", "topology", "tracing", "hooks", "machine", "lab"},
    "__init__": {*GROUND, "_version", "plugin"},
    "__main__": {"cli"},
}
"""Each room of the core, and the rooms it may import from besides itself."""
PUBLIC = {"engine", "errors", "formats", "hooks", "machine", "plugin", "quantities", "topology", "tracing"}
"""The subpackages that plugins may use besides `ntlab` itself."""

SOURCES = {
    str(file.relative_to(ROOT)): file
    for file in sorted([*(CORE / "ntlab").rglob("*.py"), *PLUGINS.rglob("*.py")])
}
OF_CORE = [name for name in SOURCES if name.startswith("core")]
OF_PLUGINS = [name for name in SOURCES if name.startswith("plugins")]


def imports(file: Path, *, types: bool) -> Iterator[str]:
    """The modules a file imports, at its top or inside functions; with `types` also those for annotations."""

    def walk(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not types:
            return
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield str(node.module)
            if node.module == "ntlab":
                yield from (
                    f"ntlab.{alias.name}" for alias in node.names if (CORE / "ntlab" / alias.name).is_dir()
                )
        for child in ast.iter_child_nodes(node):
            yield from walk(child)

    return walk(ast.parse(file.read_text(encoding="utf-8")))


@pytest.mark.once
@pytest.mark.parametrize("name", OF_CORE)
def test_arrows_run_one_way(name: str) -> None:
    # The hooks' specifications and `ntlab` itself name types of the rooms above them, in annotations only.
    room = SOURCES[name].relative_to(CORE / "ntlab").parts[0].removesuffix(".py")
    for module in imports(SOURCES[name], types=room not in ("__init__", "hooks")):
        top, _, rest = module.partition(".")
        if top == "ntlab":
            assert rest.partition(".")[0] in {"", room, *ROOMS[room]}, f"{name} imports {module}"
        assert not top.startswith("ntlab_"), f"{name} imports {module}"


@pytest.mark.once
@pytest.mark.parametrize("name", OF_PLUGINS)
def test_a_plugin_uses_the_public_face_and_no_other_plugin(name: str) -> None:
    package = SOURCES[name].relative_to(PLUGINS).parts[0]
    for module in imports(SOURCES[name], types=True):
        top, _, rest = module.partition(".")
        if top == "ntlab":
            assert rest.partition(".")[0] in {"", *PUBLIC}, f"{name} imports {module}"
            assert not any(part.startswith("_") for part in rest.split(".")), f"{name} imports {module}"
        elif top.startswith("ntlab_"):
            assert top == package, f"{name} imports {module}"


@pytest.mark.once
def test_the_core_knows_no_plugin_by_name() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    plugins = set(project["entry-points"]["ntlab.plugins"])
    for name in OF_CORE:
        tree = ast.parse(SOURCES[name].read_text(encoding="utf-8"))
        docstrings = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                # "ws2003" is also the name of a release.
                assert node.value.partition(".")[0] not in plugins - {"ws2003"}, f"{name} says {node.value!r}"


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        (
            "import ntlab",
            ["cattrs", "defusedxml", "multiprocessing", "networkx", "pluggy", "rich", "tomli_w"],
        ),
        ("import ntlab.machine", ["cattrs", "defusedxml", "networkx", "ntlab.lab", "ntlab.cli", "rich"]),
        ("import ntlab.cli.main", ["cattrs", "networkx", "ntlab.lab", "ntlab.machine", "pluggy", "rich"]),
        ("import ntlab.engine", ["ntlab.machine", "ntlab.hooks", "ntlab.topology", "pluggy", "networkx"]),
    ],
)
def test_what_is_heavy_is_imported_when_it_is_needed(statement: str, absent: list[str]) -> None:
    code = f"import sys; {statement}; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(ran.stdout.split()) & set(absent)


def test_every_plugin_of_the_source_is_registered() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    registered = {value.partition(":")[0] for value in project["entry-points"]["ntlab.plugins"].values()}
    assert registered == {file.parent.name for file in PLUGINS.glob("*/__init__.py")}


def test_tox_tests_the_lowest_versions_that_are_supported_and_each_plugin_alone() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    tox = (ROOT / "tox.ini").read_text(encoding="utf-8")
    pinned = tox.partition("\nversions =")[2].split()
    assert [pin.replace("==", ">=") for pin in pinned] == project["dependencies"]
    plugins = {
        name
        for name in project["entry-points"]["ntlab.plugins"]
        if list((ROOT / "tests" / "plugins").glob(f"test_{name}*.py"))
    }
    lists = re.findall(r"^    (?:part|matrix) = (.*)$|^\[testenv:(py\S+-{[a-z].*)\]$", tox, re.MULTILINE)
    assert len(lists) == 3
    for places in lists:
        names = set(re.findall(r"\b[a-z]\w+", " ".join(places)))
        assert {name for name in names if not re.fullmatch(r"py\d*", name)} == {*plugins, "lowest", "newest"}


def test_tox_builds_and_tests_each_example_and_mypy_checks_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    tox = RawConfigParser()
    tox.read(ROOT / "tox.ini", encoding="utf-8")
    environment = tox["testenv:examples"]
    judged = environment["commands"].partition("ntlab claims ")[2].split()
    for file in sorted((ROOT / "examples").glob("*/pyproject.toml")):
        name = file.parent.name
        assert f" ./examples/{name}[test]" in environment["commands_pre"]
        assert f"{{[testenv]pytest}} examples/{name}" in environment["commands"].splitlines()
        assert f"examples/{name}/src" in project["tool"]["mypy"]["mypy_path"].split(":")
        example = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        assert set(example["entry-points"]["ntlab.plugins"]) <= set(judged)
    assert "examples" in tox["tox"]["env_list"].split(", ")
