"""The command line: its commands, JSON shapes, exit codes and one-line errors, on the toy plugins."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import ntlab
import ntlab_command
from distributions import TOY, environment, write_distribution
from ntlab.cli.main import main
from ntlab.errors import SimulationError
from ntlab.lab.registry import installed

Captured = pytest.CaptureFixture[str]


def ntlab_process(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ntlab", *arguments],
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def printed(capsys: Captured, *arguments: str) -> Any:
    """The JSON that a command prints; its exit code must be 0."""
    assert main(arguments) == 0
    return json.loads(capsys.readouterr().out)


# The commands


@pytest.mark.usefixtures("toy")
class TestCommands:
    def test_claims(self, capsys: Captured) -> None:
        assert main(["claims", "--json", "--jobs", "1"]) == 1
        report = json.loads(capsys.readouterr().out)
        assert (report["holds"], report["fails"]) == (2, 1)
        first = report["claims"][0]
        assert {"id", "ledger", "plugin", "experiment", "metric", "unit", "arms", "expect", "holds"} <= set(
            first
        )
        assert (first["id"], first["ledger"], first["plugin"]) == ("toy-more-switches", "X2", "toy_base")
        before = first["arms"]["before"]
        assert before["n"] == 3
        assert before["ci95"][0] < before["mean"] < before["ci95"][1]
        assert [claim["holds"] for claim in report["claims"]] == [True, True, False]

    def test_claims_in_words(self, capsys: Captured) -> None:
        assert main(["claims", "X2", "--jobs", "1"]) == 0
        out = capsys.readouterr().out
        assert "toy-more-switches" in out
        assert "2 of 2 claims hold." in out
        assert "FAILS" not in out

    def test_run(self, capsys: Captured) -> None:
        result = printed(
            capsys, "run", "toy-turns", "--json", "--jobs", "1", "--seeds", "4", "--hardware", "smp-4"
        )
        assert (result["experiment"], result["hardware"], result["seeds"]) == ("toy-turns", "smp-4", 4)
        metric = result["arms"]["after"]["metrics"]["last_end"]
        assert metric["unit"] == "ns"
        assert metric["ci95"][0] <= metric["mean"] <= metric["ci95"][1]
        assert len(result["arms"]["after"]["digest"]) == 64
        assert [claim["holds"] for claim in result["claims"]] == [True, True]

    def test_run_exits_1_where_a_claim_fails(self, capsys: Captured) -> None:
        assert main(["run", "toy-turns", "--jobs", "1", "--set", "toy_short.quantum=60 ms"]) == 1
        assert "FAILS" in capsys.readouterr().out

    def test_what_fails_is_told_in_its_unit(self, capsys: Captured, tmp_path: Path) -> None:
        file = tmp_path / "mine.toml"
        claims = (
            'claims = [{ id = "c", metric = "first_end", expect = "0 < one < 1e6 and one / two >= 1.5" }]\n'
        )
        file.write_text(
            'name = "mine"\nhardware = "uni"\n'
            + claims
            + 'workload = { use = "toy_base.runners", threads = 1, spread = 0, work = "3 ms" }\n'
            + "arms = { one = {}, two = {} }\n"
        )
        assert main(["run", str(file), "--jobs", "1"]) == 1
        failing = capsys.readouterr().out.partition("what fails")[2].splitlines()
        assert [line.split()[-2:] for line in failing[2:]] == [["+2", "ms"], ["1.5", "-0.5"]]

    def test_claims_that_fail_on_another_machine_were_not_made_for_it(self, capsys: Captured) -> None:
        told = "The claims are made for uni, not for smp-4."
        run = ["run", "toy-turns", "--jobs", "1", "--seeds", "1"]
        assert main([*run, "--hardware", "smp-4"]) == 0
        assert told not in capsys.readouterr().out
        failing = [*run, "--set", "toy_short.quantum=60 ms"]
        assert main([*failing, "--hardware", "smp-4"]) == 1
        assert told in capsys.readouterr().out
        assert main(failing) == 1
        assert "made for" not in capsys.readouterr().out

    def test_rerun_of_a_folder_with_several_results(self, capsys: Captured, tmp_path: Path) -> None:
        assert main(["run", "toy-turns", "--seeds", "1", "--jobs", "1", "--out", str(tmp_path)]) == 0
        assert main(["rerun", str(tmp_path), "--jobs", "1"]) == 0
        (tmp_path / "toy-turns.interrupted.json").write_bytes((tmp_path / "toy-turns.json").read_bytes())
        capsys.readouterr()
        assert main(["rerun", str(tmp_path)]) == 2
        told = "holds 2 result files; expected one of them: toy-turns.interrupted.json, toy-turns.json\n"
        assert capsys.readouterr().err.endswith(told)

    def test_run_in_words_has_units(self, capsys: Captured) -> None:
        assert main(["run", "toy-turns", "--jobs", "1"]) == 0
        out = capsys.readouterr().out
        assert "toy-turns on uni, 3 seeds" in out
        assert re.search(r"\d ± \d+ ms", out)

    def test_run_and_rerun_a_file(self, capsys: Captured, tmp_path: Path) -> None:
        file = tmp_path / "mine.toml"
        file.write_text(
            (TOY / "ntlab_toy/experiments/toy-turns.toml").read_text().replace("toy-turns", "mine")
        )
        out = tmp_path / "deep" / "folder"
        assert (
            main(["run", str(file), "--out", str(out), "--jobs", "1", "--set", "before.workload.threads=2"])
            == 1
        )
        assert [path.name for path in out.iterdir()] == ["mine.json"]
        file.unlink()
        assert main(["rerun", str(out / "mine.json"), "--jobs", "1"]) == 0
        assert "The digests are the same." in capsys.readouterr().out
        content = json.loads((out / "mine.json").read_text())
        content["runs"][1]["digest"] = "0" * 64
        (out / "mine.json").write_text(json.dumps(content))
        assert main(["rerun", str(out), "--jobs", "1", "--json"]) == 1
        assert not json.loads(capsys.readouterr().out)["same"]

    def test_a_trace_for_perfetto(self, capsys: Captured, tmp_path: Path) -> None:
        file = tmp_path / "x.pftrace"
        shown = printed(capsys, "run", "toy-turns", "--perfetto", str(file), "--json")
        files = {arm: str(tmp_path / f"x.{arm}.pftrace") for arm in ("before", "after")}
        assert shown == {"experiment": "toy-turns", "files": files}
        assert main(["run", "toy-turns", "--perfetto", str(file), "--arm", "after"]) == 0
        assert capsys.readouterr().out == f"{file} is written: after, for ui.perfetto.dev.\n"
        assert file.read_bytes() == Path(files["after"]).read_bytes()

    def test_views(self, capsys: Captured) -> None:
        shown = printed(capsys, "run", "toy-turns", "--view", "ends", "--json")["arms"]
        assert list(shown) == ["before", "after"]
        assert main(["run", "toy-turns", "--view", "ends", "--arm", "after"]) == 0
        out = capsys.readouterr().out
        assert shown["after"] in out
        assert shown["before"] not in out
        assert "ends of after" in out

    def test_ablate(self, capsys: Captured, tmp_path: Path) -> None:
        asked = ["ablate", "toy-turns", "--metric", "switches", "--jobs", "1", "--out", str(tmp_path)]
        asked += ["--factor", "toy_short", "--factor", "toy_short.quantum=60 ms,6 ms", "--seeds", "2"]
        found = printed(capsys, *asked, "--set", "workload.threads=2", "--json")
        assert found == json.loads((tmp_path / "toy-turns.ablation.json").read_text())
        ablation = found["ablation"]
        turns, plugin = ablation["factors"][1], ablation["factors"][0]
        assert (turns["name"], turns["needs"]) == ("toy_short.quantum", ["toy_short"])
        assert plugin["alone"]["mean"] == 0  # with turns as long as before it changes nothing
        assert turns["last"] == ablation["whole"]
        assert main(["rerun", str(tmp_path), "--jobs", "1"]) == 0
        capsys.readouterr()
        assert main([*asked, "--hardware", "smp-4", "--runs", "6", "--order", "1"]) == 0
        out = capsys.readouterr().out
        assert "toy-turns on smp-4, 2 seeds, all 3 combinations" in out
        assert "together" not in out

    def test_experiments(self, capsys: Captured) -> None:
        first = printed(capsys, "experiments", "--json")[0]
        assert (first["name"], first["arms"]) == ("toy-turns", ["before", "after"])
        assert main(["experiments"]) == 0
        assert "Shorter turns, more switches" in capsys.readouterr().out

    def test_plugins(self, capsys: Captured) -> None:
        plugins = printed(capsys, "plugins", "--json")
        assert [plugin["name"] for plugin in plugins] == ["toy_base", "toy_raiser", "toy_rival", "toy_short"]
        keys = {"name", "summary", "release", "ledger", "options", "hooks", "requires", "conflicts"}
        assert all(keys <= set(plugin) for plugin in plugins)
        assert all({"name", "type", "default", "help"} <= set(option) for option in plugins[0]["options"])
        assert main(["plugins", "show", "toy_short"]) == 0
        out = capsys.readouterr().out
        assert '"plain" | "fancy"' in out
        assert "toy_base" in out

    def test_hooks(self, capsys: Captured) -> None:
        hooks = {hook["name"]: hook for hook in printed(capsys, "hooks", "--json")}
        policy = hooks["scheduler_policy"]
        keys = {"name", "kind", "domain", "since", "signature", "summary", "text", "file", "line"}
        assert keys <= set(policy)
        assert [one["plugin"] for one in policy["implementations"]] == ["toy_raiser", "toy_short", "toy_base"]
        assert printed(capsys, "hooks", "show", "scheduler_policy", "--json") == policy
        assert main(["hooks"]) == 0
        out = capsys.readouterr().out
        assert "toy_raiser (tryfirst), toy_short, toy_base" in out
        assert policy["summary"] in out
        assert main(["hooks", "show", "scheduler_policy"]) == 0
        out = capsys.readouterr().out
        assert "scheduler_policy(machine: Machine) -> SchedulerPolicy | None" in out
        assert "1. toy_raiser (tryfirst)" in out
        assert "ntlab/hooks/scheduling.py:" in out
        assert "since        ntlab 0.1" in out

    def test_the_order_of_plugins(self, capsys: Captured) -> None:
        first, second = printed(capsys, "plugins", "order", "toy-turns", "--json")["orders"]
        assert (first["arms"], first["plugins"]) == (["before"], ["toy_base"])
        assert (second["arms"], second["plugins"]) == (["after"], ["toy_short", "toy_base"])
        assert second["why"] == ["toy_short requires toy_base"]
        calls = second["hooks"]["scheduler_policy"]["calls"]
        assert [call["plugin"] for call in calls] == ["toy_short", "toy_base"]
        assert main(["plugins", "order", "toy-turns", "--arm", "after"]) == 0
        out = capsys.readouterr().out
        assert "toy_short requires toy_base" in out
        assert "before" not in out.splitlines()[0]

    def test_topology(self, capsys: Captured, tmp_path: Path) -> None:
        keys = {"name", "processors", "cores", "packages", "nodes", "memory_bytes", "distances"}
        for profile in printed(capsys, "topology", "list", "--json"):
            shown = printed(capsys, "topology", "show", profile["name"], "--json")
            assert keys <= set(shown)
            assert shown["processors"] == profile["processors"]
        assert main(["topology", "show", "demo-256"]) == 0
        assert "memory" in capsys.readouterr().out
        file = tmp_path / "copy.toml"
        assert main(["topology", "import", str(ntlab_profile("smp-4")), "-o", str(file)]) == 0
        capsys.readouterr()
        copy, original = (
            printed(capsys, "topology", "show", name, "--json") for name in (str(file), "smp-4")
        )
        assert copy == original


def ntlab_profile(name: str) -> Path:
    from ntlab.topology import profiles

    path = profiles()[name].path
    assert path is not None
    return path


# Mistakes


EXPERIMENT = """
name = "mine"
hardware = "uni"
workload = { use = "toy_base.runners", work = "1 ms" }
plugins = { PLUGINS }
arms = { one = {}, two = {} }
"""

MISTAKES = [
    (
        ["run", "toy-trun"],
        "unknown experiment 'toy-trun'; expected one of 2 known, did you mean 'toy-turns'?",
    ),
    (["run", "absent.toml"], "absent.toml: cannot be read: No such file or directory"),
    (["run", "toy-turns", "--hardware", "opteron-5s"], "--hardware: unknown hardware 'opteron-5s'"),
    (["run", "toy-turns", "--hardware", "absent.xml"], "absent.xml"),
    (["run", "toy-turns", "--set", "toy_shrt.quantum=5 ms"], "unknown plugin 'toy_shrt'"),
    (["run", "toy-turns", "--set", "toy_short.quant=5 ms"], "unknown option 'quant'"),
    (["run", "toy-turns", "--set", "toy_short.quantum=5 KiB"], "'5 KiB' has the unit 'KiB'"),
    (["run", "toy-turns", "--set", "toy_short.quantum"], "expected key=value"),
    (["run", "toy-turns", "--seeds", "0"], "--seeds: 0 seeds; expected 1 to 100000"),
    (["run", "toy-turns", "--seeds", "100000000"], "--seeds: 100000000 seeds; expected 1 to 100000"),
    (["run", "toy-turns", "--seeds", "many"], "argument --seeds: invalid int value: 'many'"),
    (["run", "toy-turns", "--jobs", "0"], "--jobs: 0 jobs; expected at least 1"),
    (["run", "toy-turns", "--hooks", "plane"], "unknown hook mode 'plane'"),
    (["run", "toy-turns", "--out", f"{__file__}/results"], "cannot be written to"),
    (
        ["run", "toy-turns", "--view", "end"],
        "unknown view 'end'; expected one of 6 known, did you mean 'ends'?",
    ),
    (["run", "toy-turns", "--view", "ends", "--arm", "befor"], "unknown arm 'befor'"),
    (["run", "toy-turns", "--arm", "before"], "--arm: has no effect without --view"),
    (["run", "toy-turns", "--view", "ends", "--out", "x"], "--out: has no effect with --view"),
    (["run", "toy-turns", "--view", "ends", "--perfetto", "x"], "--perfetto: has no effect with --view"),
    (["run", "toy-turns", "--perfetto", "x", "--seeds", "2"], "--seeds: has no effect with --perfetto"),
    (["run", "toy-turns", "--perfetto", "x/y/z", "--arm", "after"], "x/y/z: cannot be written: No such file"),
    (["run"], "the following arguments are required"),
    (["ablate", "toy-turns"], "the following arguments are required: --metric"),
    (
        ["ablate", "toy-turns", "--metric", "swiches", "--jobs", "1"],
        "--metric, with nothing on: unknown metric 'swiches'; expected one of",
    ),
    (["ablate", "toy-turns", "--metric", "x", "--base", "befor"], "--base: unknown arm 'befor'"),
    (["ablate", "toy-turns", "--metric", "x", "--full", "before"], "'before' and 'before' do not differ"),
    (["ablate", "toy-turns", "--metric", "x", "--factor", "toy_shot"], "did you mean 'toy_short'?"),
    (["ablate", "toy-turns", "--metric", "x", "--runs", "5"], "--runs: 5 runs are too few"),
    (
        ["ablate", "toy-turns", "--metric", "switches", "--factor", "toy_raiser", "--jobs", "1"],
        "plugin 'toy_raiser', hook 'machine_booted': ZeroDivisionError: raised in boot",
    ),
    (["claims", "toy-more-swiches"], "unknown claim 'toy-more-swiches'"),
    (["plugins", "show", "toy_bass"], "unknown plugin 'toy_bass'"),
    (["plugins", "order", "toy-trun"], "unknown experiment 'toy-trun'"),
    (["plugins", "order", "toy-turns", "--arm", "befor"], "unknown arm 'befor'"),
    (["hooks", "show", "thread_raedy"], "unknown hook 'thread_raedy'; expected one of"),
    (["rerun", "absent.json"], "absent.json: cannot be read"),
    (["topology", "show", "opteron"], "unknown hardware 'opteron'"),
    (["topology", "import", "uni", "-o", f"{__file__}/x.toml"], "cannot be written"),
    (["walk"], "invalid choice: 'walk'"),
    ([], "arguments are required"),
]


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(("arguments", "told"), MISTAKES)
def test_a_mistake_is_one_line_and_exit_2(arguments: Sequence[str], told: str, capsys: Captured) -> None:
    try:
        code: Any = main(arguments)
    except SystemExit as ended:  # argparse
        code = ended.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert captured.err.startswith("ntlab: error: ")
    assert told in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    ("plugins", "told"),
    [
        ("toy_base = {}, toy_short = {}, toy_rival = {}", "the plugins 'toy_rival' and 'toy_short' conflict"),
        ("toy_short = {}", "plugin 'toy_short' requires plugin 'toy_base', which is not used"),
        ("toy_raiser = { where = 'boot' }", "plugin 'toy_raiser', hook 'machine_booted': ZeroDivisionError"),
        ("toy_raiser = { where = 'thread' }", "plugin 'toy_raiser', hook 'thread_exited': ZeroDivisionError"),
    ],
)
def test_mistakes_of_plugins(plugins: str, told: str, capsys: Captured, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(EXPERIMENT.replace("PLUGINS", plugins))
    assert main(["run", str(file), "--jobs", "1"]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_a_cycle_in_the_order(installed_only: Any, tmp_path: Path, capsys: Captured) -> None:
    one = (
        "from ntlab import plugin\n"
        "@plugin(name='{}', summary='', release='ws2008', after=('{}',))\n"
        "class P: ...\n"
    )
    write_distribution(
        tmp_path,
        "ntlab-cycle",
        plugins={"hen": "ntlab_hen:P", "egg": "ntlab_egg:P"},
        modules={"ntlab_hen.py": one.format("hen", "egg"), "ntlab_egg.py": one.format("egg", "hen")},
    )
    installed_only(TOY, tmp_path)
    file = tmp_path / "mine.toml"
    file.write_text(EXPERIMENT.replace("PLUGINS", "hen = {}, egg = {}"))
    assert main(["run", str(file)]) == 2
    assert (
        "mine.toml: arms.one: the order of the plugins is a cycle: egg -> hen -> egg"
        in capsys.readouterr().err
    )


def test_one_broken_plugin_is_named_and_the_others_are_listed(
    installed_only: Any, tmp_path: Path, capsys: Captured
) -> None:
    write_distribution(
        tmp_path,
        "ntlab-broken",
        plugins={"broken": "ntlab_broken:P"},
        modules={"ntlab_broken.py": "import nope"},
    )
    (tmp_path / "ntlab_other/experiments").mkdir(parents=True)
    write_distribution(
        tmp_path,
        "ntlab-other",
        plugins={"other": "ntlab_other:P"},
        modules={"ntlab_other/__init__.py": "1 / 0", "ntlab_other/experiments/x.toml": "name = 'x"},
    )
    installed_only(TOY, tmp_path)
    for command, listed, faults in (
        (["plugins"], "Short turns.", 2),
        (["hooks"], "toy_raiser (tryfirst), toy_short, toy_base", 2),
        (["experiments"], "toy-turns", 1),
    ):
        assert main(command) == 2
        captured = capsys.readouterr()
        assert listed in captured.out
        assert captured.err.count("ntlab: error: ") == captured.err.count("\n") == faults
        assert main([*command, "--json"]) == 2
        captured = capsys.readouterr()
        assert len(json.loads(captured.out)) >= 1
        assert captured.err.count("\n") == faults
    assert main(["hooks", "show", "scheduler_policy"]) == 2
    assert capsys.readouterr().err.count("\n") == 2
    assert main(["run", "toy-turns", "--jobs", "1"]) == 0
    assert main(["plugins", "order", "toy-turns"]) == 0
    assert main(["claims", "X2", "--jobs", "1"]) == 0
    assert main(["claims", "--jobs", "1"]) == 2
    assert "x.toml: is not valid TOML" in capsys.readouterr().err


@pytest.mark.skipif("core_parking" not in installed().names(), reason="it is that plugin which warns")
def test_a_warning_is_one_line_without_its_place_in_the_source() -> None:
    ran = ntlab_process(
        "run", "core-parking-c1", "--arm", "on", "--view", "schedule", "--set", "core_parking.max_cores=0.1",
        "--set", "core_parking.min_cores=0.2", "--set", "duration=1 ms",
    )  # fmt: skip
    assert ran.returncode == 0
    assert ran.stderr == "ntlab: warning: core_parking.max_cores: 10% is raised to min_cores, 20%\n"


@pytest.mark.usefixtures("toy")
def test_where_an_error_came_from_is_shown_on_request(capsys: Captured, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(EXPERIMENT.replace("PLUGINS", "toy_raiser = {}"))
    assert main(["--traceback", "run", str(file), "--jobs", "1"]) == 2
    assert "ntlab_toy/plugin.py" in capsys.readouterr().err


def test_a_defect_shows_its_traceback_and_has_a_code_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def broken() -> None:
        raise SimulationError("a page is on two lists")

    monkeypatch.setattr("ntlab.lab.api.experiments", broken)
    assert main(["experiments"]) == 3
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.endswith("ntlab: a defect of ntlab: SimulationError: a page is on two lists\n")


# The process


def test_digests_are_the_same_in_every_process() -> None:
    runs = [
        ntlab_process("run", "toy-turns", "--json", "--jobs", jobs, PYTHONHASHSEED=seed, NTLAB_HOOKS=hooks)
        for jobs, seed, hooks in [("1", "0", "direct"), ("2", "1", "plain"), ("1", "random", "direct")]
    ]
    digests = [{name: arm["digest"] for name, arm in json.loads(run.stdout)["arms"].items()} for run in runs]
    assert digests[0] == digests[1] == digests[2]


def test_the_version() -> None:
    ran = ntlab_process("--version")
    assert (ran.stdout, ran.returncode) == (f"ntlab {ntlab.__version__}\n", 0)


def test_a_pipe_gets_plain_text() -> None:
    ran = ntlab_process("run", "toy-turns", "--jobs", "1")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "\x1b" not in ran.stdout
    assert "switches" in ran.stdout


def test_a_terminal_gets_colours_and_whole_words() -> None:
    colourful = environment(TERM="xterm-256color", COLUMNS="200")
    colourful.pop("NO_COLOR", None)
    outer, inner = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "ntlab", "run", "toy-turns", "--jobs", "1"],
        env=colourful,
        stdout=inner,
        stderr=inner,
    ) as process:
        os.close(inner)
        shown = b""
        while True:
            try:
                some = os.read(outer, 65536)
            except OSError:  # the other end is closed
                break
            if not some:
                break
            shown += some
    os.close(outer)
    assert process.returncode == 0
    assert b"\x1b[32mholds" in shown
    assert b"toy-more-switches" in shown


def test_a_locale_without_the_character_is_no_error() -> None:
    done = ntlab_process("run", "toy-turns", "--jobs", "1", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "? " in done.stdout


def test_a_reader_who_leaves_is_no_error() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "ntlab", "topology", "show", "demo-256", "--json"],
        env=environment(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        error = process.stderr.read()
    assert (process.returncode, error) == (141, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("command", [["plugins"], ["topology", "show", "demo-256", "--json"]])
def test_a_full_disk_is_told_in_one_line(command: Sequence[str]) -> None:
    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "ntlab", *command],
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    told = "ntlab: error: stdout: cannot be written to: No space left on device\n"
    assert (ran.returncode, ran.stderr) == (2, told)


@pytest.mark.parametrize(
    ("command", "jobs", "name"),
    [
        ("run toy-turns", "1", "toy-turns"),
        ("run toy-turns", "2", "toy-turns"),
        ("ablate toy-turns --metric switches", "2", "toy-turns.ablation"),
    ],
)
def test_an_interrupt_leaves_finished_runs_and_no_traceback(
    command: str, jobs: str, name: str, tmp_path: Path
) -> None:
    arguments = [*command.split(), "--seeds", "200", "--set", "workload.pause=0.1", "--jobs", jobs]
    with subprocess.Popen(
        [sys.executable, "-m", "ntlab", *arguments, "--out", str(tmp_path)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C reaches a whole group of processes
    ) as process:
        journal = tmp_path / f"{name}.runs.jsonl"
        while process.poll() is None and not (journal.exists() and journal.read_text().count("\n") >= 2):
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        out, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in error
    assert error.count("\n") == 1
    assert error.startswith("ntlab: interrupted; ")
    content = json.loads((tmp_path / f"{name}.interrupted.json").read_text())
    assert 2 <= len(content["runs"]) < 400
    assert not content["complete"]


@pytest.mark.parametrize("module", ["ntlab", "ntlab.errors", "argparse", "ntlab.lab.api"])
def test_an_interrupt_while_ntlab_is_imported_is_one_line(module: str) -> None:
    """The console script, with Ctrl-C pressed just when `module` is about to be imported."""
    program = f"""
import os, signal, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
sys.modules.pop("argparse", None)
sys.argv = ["ntlab", "experiments"]
from ntlab_command import main
sys.exit(main())
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "ntlab: interrupted\n")


def test_the_console_script_is_that_module() -> None:
    (script,) = metadata.entry_points(group="console_scripts", name="ntlab")
    assert script.load() is ntlab_command.main
    assert ntlab_command.main.__module__ == "ntlab_command"  # outside the package: see there


def test_a_process_that_is_killed_leaves_no_worker_behind(tmp_path: Path) -> None:
    arguments = ["run", "toy-turns", "--seeds", "200", "--set", "workload.pause=0.1", "--jobs", "2"]
    with subprocess.Popen(
        [sys.executable, "-m", "ntlab", *arguments, "--out", str(tmp_path)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        journal = tmp_path / "toy-turns.runs.jsonl"
        while process.poll() is None and not (journal.exists() and journal.read_text().count("\n") >= 2):
            time.sleep(0.02)
        process.kill()
        try:
            process.communicate(timeout=30)  # ends when the last process that holds the pipe does
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("code", ["import ntlab", "from ntlab.cli.main import main; main(['--help'])"])
def test_the_start_is_light(code: str) -> None:
    heavy = ["cattrs", "defusedxml", "multiprocessing", "networkx", "pluggy", "rich"]
    program = f"""
import sys
try:
    {code}
except SystemExit:
    pass
print("heavy:", [name for name in {heavy} if name in sys.modules])
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, check=True
    )
    assert "heavy: []" in ran.stdout


def test_a_machine_reads_well_and_gives_columns() -> None:
    machine = ntlab.topology("opteron-4s")
    assert "8 processor" in repr(machine)
    assert "<td>8</td>" in machine._repr_html_()
    assert machine.columns()["node"] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert ntlab.topology.load is sys.modules["ntlab.topology"].load  # type: ignore[attr-defined]


def test_names_are_found_when_they_are_used() -> None:
    assert set(ntlab.__all__) <= {name for name in ntlab.__all__ if getattr(ntlab, name) is not None}
    assert set(dir(ntlab)) == set(ntlab.__all__)
    with pytest.raises(AttributeError, match="no attribute 'rum'"):
        _ = ntlab.rum  # type: ignore[attr-defined]
