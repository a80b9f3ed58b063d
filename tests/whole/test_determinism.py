"""One seed, one trace: with any number of jobs, on every Python, and whoever looks on.

In every process, and in all hook modes, it is that too: the conformance kit sees to it, plugin by plugin.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Collection
from importlib import metadata
from pathlib import Path

import pytest
import tomli_w

import ntlab
from distributions import write_distribution
from ntlab.lab.api import prepare
from ntlab.lab.experiment import find_experiment
from ntlab.lab.registry import installed
from ntlab.lab.runner import Job, jobs_of
from ntlab.lab.workers import execute
from ntlab.topology import Topology

OURS = {plugin.name: plugin for plugin in installed().plugins() if plugin.distribution == "ntlab"}
SHIPPED = {name: plugin for name, (plugin, _) in installed().experiment_files.items() if plugin in OURS}
ONE_OF_EACH = {plugin: name for name, plugin in SHIPPED.items()}
"""One experiment of each plugin."""

RUN_THEM = """
import json, sys
import ntlab
runs = [run for name in json.loads(sys.argv[1]) for run in ntlab.run(name, seeds=1).runs]
print(json.dumps([sys.version_info[1], {f"{run.experiment} {run.arm}": run.digest for run in runs}]))
"""


def start(python: str, names: Collection[str]) -> subprocess.Popen[str]:
    """A process that runs experiments, one seed each, and prints its Python's minor version and digests."""
    # Another Python, too, finds here what this one has installed: all that ntlab needs is pure Python.
    places = [sysconfig.get_path("purelib"), Path(ntlab.__file__).parents[1]]
    places += [plugin.folder.parent for plugin in OURS.values() if plugin.folder is not None]
    found = os.pathsep.join(dict.fromkeys(map(str, places)))
    return subprocess.Popen(
        [python, "-c", RUN_THEM, json.dumps(list(names))],
        env=os.environ | {"PYTHONHASHSEED": "random", "PYTHONPATH": found},
        stdout=subprocess.PIPE,
        text=True,
    )


def outcome(process: subprocess.Popen[str]) -> tuple[int, dict[str, str]]:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    minor, digests = json.loads(output)
    return minor, digests


def shared_by_processes(names: Collection[str], processes: int) -> dict[str, str]:
    """The digests of the same runs, shared by so many processes of this Python."""
    work: list[Job] = []
    hardware: dict[str, Topology] = {}
    for name in names:
        experiment, found = prepare(name, None, None, 1)
        work += jobs_of(experiment, "direct")
        hardware |= found
    tables = {name: topology.freeze() for name, topology in hardware.items()}
    return {f"{run.experiment} {run.arm}": run.digest for run in execute(work, tables, processes)}


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
def test_pythons_and_processes() -> None:
    """All on this Python, by two processes, and on the newest that is here, by one; on others one of each."""
    others = newer_pythons() or {sys.version_info.minor: sys.executable}
    asked = {minor: SHIPPED if minor == max(others) else ONE_OF_EACH.values() for minor in others}
    processes = [start(python, asked[minor]) for minor, python in others.items()]
    here = shared_by_processes(SHIPPED, 2)
    assert len(here) >= 2 * len(SHIPPED)
    for minor, process in zip(others, processes, strict=True):
        digests = {name: digest for name, digest in here.items() if name.split()[0] in asked[minor]}
        assert outcome(process) == (minor, digests)


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
def test_who_looks_on_changes_nothing(name: str, tmp_path: Path, installed_only: Callable[..., None]) -> None:
    """Neither a plugin that looks on, and draws, nor all that is checked when plugins are."""
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
    watched = ntlab.run(file, seeds=1, hooks="checked")
    assert sys.modules["ntlab_bystander"].Bystander.looked
    assert [run.digest for run in watched.runs] == [run.digest for run in alone.runs]
