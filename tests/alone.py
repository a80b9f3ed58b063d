"""Runs the tests of one plugin where no other is installed: `python tests/alone.py ENVIRONMENT`, from tox.

The plugin's name is a part of the tox environment's, as in `py311-numa_home-lowest`. Every other built-in
plugin is taken out of the installed distribution, its code and its entry point: absent, not merely unused.
What stays besides is what the plugin requires, and the baseline, to which its experiments compare it.
Experiments that show it together with what is absent go too; tests that need them skip then.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Collection
from configparser import RawConfigParser
from importlib import metadata
from pathlib import Path

from ntlab.lab.registry import GROUP, installed

TESTS = Path(__file__).parent / "plugins"
BASELINE = "ws2003"
LISTED = "from ntlab.lab.registry import installed; print(*installed().names())"


def remove_all_but(kept: Collection[str]) -> None:
    """Take the other plugins out of the installed distribution `ntlab`."""
    distribution = metadata.distribution("ntlab")
    files = {file.as_posix(): Path(str(file.locate())) for file in distribution.files or ()}
    if "ntlab/__init__.py" not in files:
        sys.exit("ntlab is installed from its source folder here, which must stay whole: run this by tox")
    (listing,) = (path for name, path in files.items() if name.endswith("/entry_points.txt"))
    groups = RawConfigParser(delimiters=("=",))
    groups.optionxform = str  # type: ignore[assignment,method-assign]  # as they are written
    groups.read(listing, encoding="utf-8")
    for entry in distribution.entry_points.select(group=GROUP):
        if entry.name not in kept:
            groups.remove_option(GROUP, entry.name)
            package = entry.module.partition(".")[0]
            # The folder, too: an empty one can still be imported.
            shutil.rmtree(str(distribution.locate_file(package)))
    with listing.open("w", encoding="utf-8") as file:
        groups.write(file)
    shipped = [path for name, path in files.items() if "/experiments/" in name and path.suffix == ".toml"]
    for path in shipped:
        if path.exists() and not used(path) <= set(kept):
            path.unlink()


def used(experiment: Path) -> set[str]:
    """The plugins that an experiment uses in any of its arms."""
    content = tomllib.loads(experiment.read_text(encoding="utf-8"))
    tables = [content, *content["arms"].values()]
    return {content["workload"]["use"].partition(".")[0]}.union(*(each.get("plugins", {}) for each in tables))


def main(environment: str, *arguments: str) -> int:
    registry = installed()
    named = set(environment.split("-")) & set(registry.names())
    if len(named) != 1:
        sys.exit(f"{environment!r} names {len(named)} plugins; expected one of {', '.join(registry.names())}")
    (plugin,) = named
    kept = {plugin, BASELINE, *registry.required(plugin), *registry.required(BASELINE)}
    remove_all_but(kept)
    listed = subprocess.run([sys.executable, "-c", LISTED], capture_output=True, text=True, check=True)
    assert set(listed.stdout.split()) == kept, listed.stdout
    tests = sorted(TESTS.glob(f"test_{plugin}*.py"))
    assert tests, f"{plugin} has no tests"
    return subprocess.run([sys.executable, "-m", "pytest", *tests, *arguments], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
