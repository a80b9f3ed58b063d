"""`ntlab new`: what it writes works as it is written, and what it refuses it refuses in one line."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

import ntlab
from distributions import TOY, write_distribution
from ntlab.cli.main import main
from ntlab.errors import UserError
from ntlab.lab.experiment import resolve
from ntlab.lab.registry import installed
from ntlab.lab.scaffold import LONGEST_NAME, new_experiment, new_hardware, new_plugin
from ntlab.topology import load, profiles

pytestmark = pytest.mark.once

USES = [f"{plugin.name}.{name}" for plugin in installed().plugins() for name in plugin.workloads]

# A plugin


class Begun:
    """A plugin that was just written, and an environment in which it is installed."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.project = tomllib.loads((place / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        write_distribution(
            place.parent / "site",
            self.project["name"],
            plugins=self.project["entry-points"]["ntlab.plugins"],
            modules={},
            readme=(place / "README.md").read_text(encoding="utf-8"),
        )
        folders = [place.parent / "site", place, Path(ntlab.__file__).parents[1]]
        self.path = os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")])

    def python(self, *arguments: str) -> str:
        """What a module prints that is run in the plugin's folder. It must exit with 0."""
        ran = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=self.place,
            env={**os.environ, "PYTHONPATH": self.path},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Begun:
    return Begun(new_plugin("nimble", tmp_path_factory.mktemp("begun")))


# That its own tests pass and its claim holds, README.md and the guide show.
def test_a_new_plugin_is_listed(begun: Begun) -> None:
    listed = {plugin["name"]: plugin for plugin in json.loads(begun.python("ntlab", "plugins", "--json"))}
    assert listed["nimble"]["experiments"] == ["nimble"]
    assert listed["nimble"]["distribution"] == "ntlab-nimble"


# Names of several lengths: lines grow with them. "thread" and "none" would be names that are taken in Python.
@pytest.mark.parametrize("name", ["q", "thread", "none", "a_plugin_of_" + "m" * (LONGEST_NAME - 12)])
def test_what_is_written_is_linted_and_formatted(name: str, tmp_path: Path) -> None:
    pytest.importorskip("ruff", reason="ruff is not installed")
    begun = Begun(new_plugin(name, tmp_path))
    begun.python("ruff", "check", "--no-cache")
    begun.python("ruff", "format", "--check", "--no-cache")
    for file in begun.place.rglob("*.py"):
        compile(file.read_text(encoding="utf-8"), file, "exec")


def test_what_is_written_is_typed(begun: Begun) -> None:
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed")
    begun.python("mypy")


@pytest.mark.parametrize("author", ["", 'Ada "the first" \\ Löwe'])
@pytest.mark.parametrize("license", ["MIT", "Apache-2.0", "BSD-3-Clause", "none"])
def test_licence_and_author(license: str, author: str, tmp_path: Path) -> None:
    place = new_plugin("nimble", tmp_path, license=license, author=author)
    project = tomllib.loads((place / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["authors"] == [{"name": author or "The authors of ntlab-nimble"}]
    assert project.get("license", "none") == license
    assert (place / "LICENSE").exists() == (license != "none")
    assert ("Private :: Do Not Upload" in project["classifiers"]) == (license == "none")
    if license in ("MIT", "BSD-3-Clause"):
        assert f"Copyright (c) {author}" in (place / "LICENSE").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("my-plugin", "such as 'my_plugin'"),
        ("FairTurns", "such as 'fair_turns'"),
        ("ntlab_mine", "such as 'mine'"),
        ("2nd", "such as 'nd'"),
        ("two__bars", "such as 'two_bars'"),
        ("../away", "such as 'away'"),
        ("naïve", "such as 'na_ve'"),
        ("-", "is no name for a plugin"),
        ("", "is no name for a plugin"),
        ("m" * (LONGEST_NAME + 1), "too long"),
        ("workload", "no plugin may be called 'workload'"),
        ("numa_home", "is installed, by 'ntlab'"),
        ("numa_moved", "plugin 'numa_home' ships an experiment 'numa-moved'"),
    ],
)
def test_names_that_no_plugin_can_have(name: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        new_plugin(name, tmp_path)
    assert told in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_package_of_that_name_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ntlab_known").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match="there is a package 'ntlab_known'"):
        new_plugin("known", tmp_path)


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind, name in [
        ("plugin", "nimble"),
        ("experiment", "mine"),
        ("hardware", "box"),
    ]:
        asked = ["new", kind, name, "--dir", str(tmp_path / "deep")]
        asked += ["--plugin", "numa_home"] if kind == "experiment" else []
        assert main(asked) == 0
        assert "is written" in capsys.readouterr().out
        before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
        assert main(asked) == 2
        told = capsys.readouterr().err
        assert "is there already" in told
        assert told.count("\n") == 1
        assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_a_place_that_cannot_be_written_is_told_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for new in (new_plugin, new_hardware):
        with pytest.raises(UserError, match="cannot be written"):
            new("nimble", tmp_path / "file")
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["plugin", "nimble", "--license", "apache"], "did you mean 'Apache-2.0'?"),
        (["plugin", "nimble", "--author", "two\nlines"], "--author"),
        (["experiment", "mine"], "--plugin: what is it about?; expected one of: completion_ports"),
        (["experiment", "mine", "--plugin", "numa_hone"], "did you mean 'numa_home'?"),
        (["experiment", "mine", "--workload", "numa_home"], "expected PLUGIN.WORKLOAD"),
        (["experiment", "../mine", "--plugin", "numa_home"], "--dir says in which folder"),
        (["hardware", "uni"], "there is a machine 'uni'"),
        (["hardware", "host"], "there is a machine 'host'"),
        (["hardware", "box", "--from", "smp-5"], "did you mean 'smp-4'?"),
        (["hardware", "box", "--from", "no.toml"], "no.toml: cannot be read"),
    ],
)
def test_mistakes_are_told_in_one_line(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new", *arguments, "--dir", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


# An experiment


def resolved(text: str) -> dict[str, Any]:
    arms = resolve(tomllib.loads(text), installed(), source="new").arms
    return {name: attrs.asdict(arm) for name, arm in arms.items()}


def check_experiment(file: Path, subject: str) -> None:
    """It runs; and its comments are the options that it has, with their defaults."""
    text = file.read_text(encoding="utf-8")
    ran = ntlab.run(file, seeds=1)
    arms = ran.experiment.arms
    assert list(arms) == ["before", "after"]
    assert subject in arms["after"].plugins
    assert set(arms["before"].plugins) | {subject} == set(arms["after"].plugins)
    head, tables = text.split("[workload]")
    tables, claim = tables.split("\n# A claim")
    assert "# [[claims]]" in claim
    uncommented = re.sub(r"^# (?=\w+ = )", "", tables, flags=re.MULTILINE)
    assert uncommented != tables
    assert resolved(f"{head}[workload]{uncommented}") == resolved(text)


@pytest.mark.parametrize("plugin", installed().names())
def test_a_new_experiment_for_a_plugin_runs(plugin: str, tmp_path: Path) -> None:
    check_experiment(new_experiment("mine", tmp_path, plugin=plugin), plugin)


@pytest.mark.parametrize("use", USES)
def test_a_new_experiment_for_a_workload_runs(use: str, tmp_path: Path) -> None:
    file = new_experiment("mine.toml", tmp_path, workload=use)
    assert file == tmp_path / "mine.toml"
    assert f'use = "{use}"' in file.read_text(encoding="utf-8")
    check_experiment(file, use.partition(".")[0])


def test_a_plugin_and_a_workload_that_no_experiment_joins(tmp_path: Path) -> None:
    file = new_experiment("mine", tmp_path, plugin="numa_home", workload="fair_share.sessions")
    check_experiment(file, "numa_home")


def test_what_a_plugin_requires_is_in_every_arm_and_what_it_replaces_in_one(
    installed_only: Callable[..., None], tmp_path: Path
) -> None:
    modules = {
        "ntlab_others.py": """
from ntlab import plugin

@plugin(name="deep", summary="Is required.", release="ws2008")
class Deep: ...

@plugin(name="middle", summary="Is required, too.", release="ws2008", requires=("deep",))
class Middle: ...

@plugin(
    name="top", summary='Replaces "all".', release="ws2008", requires=("middle",), conflicts=("toy_base",)
)
class Top: ...
"""
    }
    plugins = {name: f"ntlab_others:{name.capitalize()}" for name in ("broken", "deep", "middle", "top")}
    write_distribution(tmp_path / "site", "others", plugins=plugins, modules=modules)
    installed_only(TOY, tmp_path / "site")
    with pytest.raises(UserError, match="plugin 'top' brings no workload, and no experiment uses it"):
        new_experiment("mine", tmp_path, plugin="top")
    file = new_experiment("mine", tmp_path, plugin="top", workload="toy_base.runners")
    arms = resolved(file.read_text(encoding="utf-8"))
    assert set(arms["before"]["plugins"]) == {"deep", "middle", "toy_base"}
    assert set(arms["after"]["plugins"]) == {"deep", "middle", "top"}
    assert ntlab.run(file).holds


# A machine


def test_a_new_machine_freezes_and_its_comments_are_keys(tmp_path: Path) -> None:
    file = new_hardware("box", tmp_path)
    tables = load(file).freeze()
    assert (tables.name, tables.processors, tables.nodes) == ("box", 16, 2)
    text = file.read_text(encoding="utf-8")
    uncommented = re.sub(r"^# (?=\w+ = |\[)", "", text, flags=re.MULTILINE)
    file.write_text(uncommented, encoding="utf-8")
    other = load(file).freeze()
    assert other.latency == tables.latency
    assert other.latency_basis == "stated"


@pytest.mark.parametrize("profile", profiles())
def test_a_machine_like_another(profile: str, tmp_path: Path) -> None:
    file = new_hardware("box", tmp_path, origin=profile)
    assert load(file).name == "box"
    assert dataclasses.replace(load(file).freeze(), name=profile) == load(profile).freeze()
    again = new_hardware("again", tmp_path, origin=str(file))
    assert dataclasses.replace(load(again).freeze(), name="box") == load(file).freeze()


def test_a_machine_like_this_one(tmp_path: Path) -> None:
    try:
        here = load("host").freeze()
    except UserError as error:
        pytest.skip(str(error))
    file = new_hardware("box", tmp_path, origin="host")
    assert load(file).freeze().processors == here.processors
