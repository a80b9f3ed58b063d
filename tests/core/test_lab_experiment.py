"""Experiment files: what they mean, and what is refused before anything runs."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from ntlab.errors import UnknownNameError, UserError
from ntlab.lab.experiment import Experiment, find_experiment, resolve
from ntlab.lab.registry import installed

pytestmark = pytest.mark.usefixtures("toy")

GOOD = """
name = "mine"
hardware = "uni"
duration = "2 s"
ledger = ["X1", "X2"]
seeds = 4
[workload]
use = "toy_base.runners"
threads = 3
[plugins.toy_base]
quantum = "30 ms"
[arms.before]
[arms.after]
hardware = "smp-4"
[arms.after.plugins.toy_short]
quantum = "6 ms"
[arms.after.plugins.toy_base]
quantum = "40 ms"
[arms.after.workload]
threads = 8
[[claims]]
id = "c1"
ledger = "X1"
metric = "switches"
expect = "after < before"
"""


def read(text: str = GOOD, **asked: Any) -> Experiment:
    return resolve(tomllib.loads(text), installed(), source="mine.toml", **asked)


def test_each_arm_is_resolved_whole() -> None:
    experiment = read()
    before, after = experiment.arms.values()
    assert (experiment.duration, experiment.seeds, experiment.use) == (2 * 10**9, 4, "toy_base.runners")
    assert before.plugins == {"toy_base": {"quantum": "30 ms"}}
    assert after.plugins == {
        "toy_short": {"quantum": "6 ms", "style": "plain"},
        "toy_base": {"quantum": "40 ms"},
    }
    assert list(after.plugins) == ["toy_short", "toy_base"]  # in the order in which they are asked
    assert (before.workload["threads"], after.workload["threads"]) == (3, 8)
    assert before.workload["work"] == "100 ms"
    assert (before.hardware, after.hardware) == ("uni", "smp-4")


def test_the_resolved_document_is_the_same_experiment() -> None:
    experiment = read()
    document = experiment.document()
    assert document == json.loads(json.dumps(document))
    again = resolve(tomllib.loads(tomli_w.dumps(document)), installed(), source="mine.toml")
    assert again == experiment
    assert again.document() == document


def test_presets_and_without() -> None:
    text = """
    name = "m"
    hardware = "uni"
    release = "ws2003"
    workload = { use = "toy_base.runners" }
    [arms.old]
    [arms.new]
    release = "ws2008"
    [arms.plain]
    release = "ws2008"
    without = ["toy_short"]
    """
    arms = read(text).arms
    assert [list(arm.plugins) for arm in arms.values()] == [
        ["toy_base"],
        ["toy_short", "toy_base"],
        ["toy_base"],
    ]


def test_settings_win_over_the_file_in_every_arm_that_has_them() -> None:
    experiment = read(
        settings={
            "duration": "1 s",
            "workload.threads": 5,
            "toy_base.quantum": "10 ms",
            "toy_short.quantum": "7 ms",
            "after.workload.threads": 6,
        }
    )
    before, after = experiment.arms.values()
    assert experiment.duration == 10**9
    assert (before.workload["threads"], after.workload["threads"]) == (5, 6)
    assert before.plugins == {"toy_base": {"quantum": "10 ms"}}
    assert after.plugins["toy_short"]["quantum"] == "7 ms"
    assert after.plugins["toy_base"]["quantum"] == "10 ms"


def test_hardware_and_seeds_replace_the_experiment_s_own() -> None:
    experiment = read(hardware="demo-256", seeds=2)
    assert [arm.hardware for arm in experiment.arms.values()] == ["demo-256", "smp-4"]
    assert experiment.seeds == 2


def test_hardware_files_are_found_beside_the_experiment(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(GOOD.replace('"uni"', '"machine.xml"'))
    document, source, plugin = find_experiment(str(file), installed())
    assert plugin is None
    experiment = resolve(document, installed(), source=source, folder=tmp_path)
    assert experiment.hardware == str(tmp_path / "machine.xml")
    assert experiment.arms["after"].hardware == "smp-4"


CHANGES = [
    ("seeds = 4", "sedes = 4", "mine.toml: unknown key 'sedes'; expected one of 11 known"),
    ("seeds = 4", "seeds = 0", "mine.toml: seeds: 0 seeds; expected 1 to 100000"),
    ("seeds = 4", "seeds = '4'", "mine.toml: seeds: '4' is of the wrong kind; expected a whole number"),
    ('name = "mine"', "name = 'a/b'", "mine.toml: name: 'a/b' is no name; expected letters"),
    ('name = "mine"', "", "mine.toml: the key 'name' is missing"),
    ('duration = "2 s"', "duration = 2", "mine.toml: duration: 2 is not a duration; expected"),
    ('duration = "2 s"', 'duration = "-2 s"', "mine.toml: duration: -2 s is no time to run; expected 0 s"),
    ('duration = "2 s"', 'duration = "2 kg"', "mine.toml: duration: '2 kg' has the unit 'kg'"),
    ('use = "toy_base.runners"', "", "mine.toml: workload: the key 'use' is missing"),
    ("toy_base.runners", "toy_base.walkers", "mine.toml: workload.use: unknown workload 'walkers'"),
    ("toy_base.runners", "toy_bass.runners", "mine.toml: workload.use: unknown plugin 'toy_bass'"),
    ("threads = 3", "thread = 3", "mine.toml: workload.thread: unknown option 'thread'"),
    ("threads = 8", "threads = 80", "mine.toml: arms.after.workload.threads: 80 is out of range"),
    ("[plugins.toy_base]", "[plugins.toybase]", "mine.toml: plugins: unknown plugin 'toybase'"),
    ('quantum = "6 ms"', 'quantum = "6"', "mine.toml: arms.after.plugins.toy_short.quantum: '6' has no unit"),
    ('quantum = "6 ms"', 'quant = "6 ms"', "mine.toml: arms.after.plugins.toy_short.quant: unknown option"),
    ("[arms.before]", "[arms.min]", "mine.toml: arms: 'min' is no name for an arm"),
    ("[arms.before]", "[arms.before]\nplugin = 1", "mine.toml: arms.before: unknown key 'plugin'"),
    ("[arms.before]", "[arms.before]\nwithout = ['toy_short']", "without: unknown plugin of this arm"),
    ("[arms.before]", "[arms.before]\nrelease = 'ws2009'", "mine.toml: arms.before.release: unknown release"),
    ("[arms.before]", "[arms.before.plugins.toy_rival]\n[arms.before.plugins.toy_short]", "conflict"),
    ("after < before", "after < befor", "mine.toml: claims[0].expect: unknown arm 'befor'"),
    ('ledger = "X1"', 'ledger = "X3"', "mine.toml: claims[0].ledger: unknown ledger row 'X3'"),
    ('metric = "switches"', "", "mine.toml: claims.[0]: the key 'metric' is missing"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "told"), CHANGES)
def test_a_mistake_is_told_with_file_and_key(old: str, new: str, told: str) -> None:
    assert old in GOOD
    with pytest.raises(UserError) as caught:
        read(GOOD.replace(old, new))
    assert told in str(caught.value)


def test_claims_have_their_own_ids() -> None:
    again = '[[claims]]\nid = "c1"\nmetric = "x"\nexpect = "after == 1"\n'
    with pytest.raises(UserError, match=r"claims\[1\].id: two claims are called 'c1'"):
        read(GOOD + again)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"toy_short.quantum": 5}, "--set: toy_short.quantum: 5 is not a duration"),
        ({"toy_short.quant": "5 ms"}, "--set: toy_short.quant: unknown option 'quant'"),
        ({"toy_shirt.quantum": "5 ms"}, "unknown plugin 'toy_shirt'; expected one of"),
        ({"toy_rival.x": 1}, "--set: toy_rival.x: has no effect: no arm uses the plugin 'toy_rival'"),
        ({"before.toy_short.quantum": "5 ms"}, "the arm 'before' does not use the plugin 'toy_short'"),
        ({"befor.workload.threads": 5}, "unknown arm 'befor'"),
        ({"threads": 5}, "--set: 'threads' sets nothing; expected duration"),
        ({"duration": "soon"}, "--set: duration: 'soon' is not a duration"),
        ({"duration": "-1 s"}, "--set: duration: -1 s is no time to run"),
        ({"a.b.c.d": 1}, "sets nothing"),
    ],
)  # fmt: skip
def test_a_setting_that_does_nothing_is_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as caught:
        read(settings=settings)
    assert told in str(caught.value)


def test_hardware_that_would_do_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="--hardware: has no effect"):
        read(GOOD.replace("[arms.before]", "[arms.before]\nhardware = 'uni'"), hardware="smp-4")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"name = ", "is not valid TOML"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"seeds = " + b"9" * 5000, "is not valid TOML: Exceeds the limit"),
        (b"seeds = " + b"[" * 5000, "is not valid TOML: maximum recursion"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None, told: str) -> None:
    file = tmp_path / "mine.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=rf"mine.toml: {told}"):
        find_experiment(file, installed())


def test_an_unknown_experiment_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'toy-turns'"):
        find_experiment("toy-turn", installed())
