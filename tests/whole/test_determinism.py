"""One seed, one trace: with any number of jobs, and on every Python.

In every process, and in all hook modes, it is that too: the conformance kit sees to it, plugin by plugin.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
import tomli_w

import ntlab
from distributions import write_distribution
from ntlab.lab.experiment import find_experiment
from ntlab.lab.registry import installed
from ntlab.lab.results import Result

OURS = {plugin.name: plugin for plugin in installed().plugins() if plugin.distribution == "ntlab"}
SHIPPED = {name: plugin for name, (plugin, _) in installed().experiment_files.items() if plugin in OURS}
ONE_OF_EACH = {plugin: name for name, plugin in SHIPPED.items()}
"""One experiment of each plugin."""

RUN_THEM = """
import json, sys
import ntlab
digests = {}
for name in json.loads(sys.argv[1]):
    result = ntlab.run(name, seeds=1)
    digests |= {f"{name} {arm}": one.digest for arm, one in result.arms.items()}
print(json.dumps([sys.version_info[1], digests]))
"""


def start(python: str = sys.executable) -> subprocess.Popen[str]:
    """A process that runs all experiments, and prints its Python's minor version and each arm's digest."""
    # Another Python, too, finds here what this one has installed: all that ntlab needs is pure Python.
    places = [sysconfig.get_path("purelib"), Path(ntlab.__file__).parents[1]]
    places += [plugin.folder.parent for plugin in OURS.values() if plugin.folder is not None]
    found = os.pathsep.join(dict.fromkeys(map(str, places)))
    return subprocess.Popen(
        [python, "-c", RUN_THEM, json.dumps(list(SHIPPED))],
        env=os.environ | {"PYTHONHASHSEED": "random", "PYTHONPATH": found},
        stdout=subprocess.PIPE,
        text=True,
    )


def outcome(process: subprocess.Popen[str]) -> tuple[int, dict[str, str]]:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    minor, digests = json.loads(output)
    return minor, digests


def digests_of(result: Result) -> dict[str, str]:
    return {name: arm.digest for name, arm in result.arms.items()}


def newer_pythons() -> dict[int, str]:
    """Newer Pythons than this one, by minor version: those on PATH, and those that pyenv keeps."""
    kept = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = {}
    for minor in range(sys.version_info.minor + 1, 14):
        name = f"python3.{minor}"
        candidates = [shutil.which(name), *map(str, sorted(kept.glob(f"3.{minor}.*/bin/{name}")))]
        for python in filter(None, candidates):
            if subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0:
                found[minor] = python
    return found


@pytest.mark.once
def test_pythons() -> None:
    others = newer_pythons()
    if not others:
        pytest.skip("no newer Python is here")
    processes = [start(), *(start(python) for python in others.values())]
    outcomes = [outcome(process) for process in processes]
    assert [minor for minor, _ in outcomes] == [sys.version_info.minor, *others]
    first = outcomes[0][1]
    assert len(first) >= 2 * len(SHIPPED)
    for _, digests in outcomes:
        assert digests == first


@pytest.mark.parametrize("name", ONE_OF_EACH.values())
def test_jobs(name: str) -> None:
    alone, shared = (ntlab.run(name, seeds=1, jobs=jobs) for jobs in (1, 2))
    assert digests_of(shared) == digests_of(alone)


@pytest.mark.parametrize("name", ONE_OF_EACH.values())
def test_checks(name: str) -> None:
    plainly, checked = (ntlab.run(name, seeds=1, hooks=hooks) for hooks in ("direct", "checked"))
    assert digests_of(checked) == digests_of(plainly)


BYSTANDER = """
from ntlab import hookimpl, plugin

@plugin(name="bystander", summary="Looks on, and draws.", release="ws2003")
class Bystander:
    looked = False

    @hookimpl
    def machine_booted(self, machine):
        Bystander.looked = True
        self.draws = machine.streams.stream("bystander")

    @hookimpl
    def context_switched(self):
        self.draws.random()

    @hookimpl
    def scheduler_policy(self):
        return None
"""


@pytest.mark.parametrize("name", ONE_OF_EACH.values())
def test_a_plugin_that_looks_on_changes_nothing(
    name: str, tmp_path: Path, installed_only: Callable[..., None]
) -> None:
    alone = ntlab.run(name, seeds=1)
    write_distribution(
        tmp_path,
        "ntlab-bystander",
        plugins={"bystander": "ntlab_bystander:Bystander"},
        modules={"ntlab_bystander.py": BYSTANDER},
    )
    installed_only(Path(str(metadata.distribution("ntlab").locate_file(""))), tmp_path)
    document, _, _ = find_experiment(name, installed())
    document.setdefault("plugins", {})["bystander"] = {}
    file = tmp_path / f"{name}.toml"
    file.write_text(tomli_w.dumps(document))
    watched = ntlab.run(file, seeds=1)
    assert sys.modules["ntlab_bystander"].Bystander.looked
    assert digests_of(watched) == digests_of(alone)
