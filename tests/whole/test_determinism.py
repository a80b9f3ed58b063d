"""One seed, one trace, whoever looks on; and on the Pythons between this and the newest.

In every process, in all hook modes and on the newest Python it is that too: the conformance kit sees to it,
plugin by plugin.
"""

from __future__ import annotations

import json
import os
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
from pythons import newer_pythons

pytestmark = pytest.mark.once

OURS = {plugin.name: plugin for plugin in installed().plugins() if plugin.distribution == "ntlab"}
SHIPPED = {name: plugin for name, (plugin, _) in installed().experiment_files.items() if plugin in OURS}
ONE_OF_EACH = {plugin: name for name, plugin in SHIPPED.items()}
"""One experiment of each plugin."""

RUN_THEM = """
import json, sys
import ntlab
runs = [run for name in json.loads(sys.argv[1]) for run in ntlab.run(name, seeds=1).runs]
print(json.dumps({f"{run.experiment} {run.arm}": run.digest for run in runs}))
"""


@pytest.fixture(scope="module")
def alone() -> dict[str, str]:
    """The digests of one experiment of each plugin in a process of the next Python, where one is here."""
    # Another Python, too, finds here what this one has installed: all that ntlab needs is pure Python.
    places = [sysconfig.get_path("purelib"), Path(ntlab.__file__).parents[1]]
    places += [plugin.folder.parent for plugin in OURS.values() if plugin.folder is not None]
    found = os.pathsep.join(dict.fromkeys(map(str, places)))
    ran = subprocess.run(
        [[*newer_pythons(), sys.executable][0], "-c", RUN_THEM, json.dumps(list(ONE_OF_EACH.values()))],
        env=os.environ | {"PYTHONHASHSEED": "random", "PYTHONPATH": found},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    digests: dict[str, str] = json.loads(ran.stdout)
    return digests


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
def test_who_looks_on_changes_nothing(
    name: str, alone: dict[str, str], tmp_path: Path, installed_only: Callable[..., None]
) -> None:
    """Neither a plugin that looks on, and draws, nor all that is checked when plugins are."""
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
    digests = {f"{run.experiment} {run.arm}": run.digest for run in watched.runs}
    assert digests == {run: digest for run, digest in alone.items() if run in digests}
