"""Runs, results and the Python face, on the toy plugins."""

from __future__ import annotations

import itertools
import json
import pickle
import tomllib
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import tomli_w

import ntlab
from distributions import TOY
from ntlab.errors import PluginError, SimulationError, UnknownNameError, UserError
from ntlab.hooks import hookimpl, implementations
from ntlab.lab import api, runner, workers
from ntlab.lab.api import Interrupted
from ntlab.lab.experiment import find_experiment, resolve
from ntlab.lab.registry import installed
from ntlab.lab.results import Result
from ntlab.lab.runner import HOOKS_VARIABLE, Run, hooks_mode, jobs_of
from ntlab.machine import Machine
from ntlab.plugin import Metric, option, plugin, renewed
from ntlab.testing import boot
from ntlab.topology import load

pytestmark = pytest.mark.usefixtures("toy")

RAISES = """
name = "raises"
hardware = "uni"
workload = { use = "toy_base.runners", work = "1 ms" }
plugins = { toy_base = {}, toy_raiser = { where = "WHERE" } }
arms = { only = {} }
"""


def test_arms_share_their_seeds_and_differ_in_their_plugins() -> None:
    result = ntlab.run("toy-turns")
    before, after = result.arms["before"], result.arms["after"]
    assert result.complete
    assert result.holds
    assert before.metrics["last_end"] == after.metrics["last_end"]  # the same work, seed by seed
    assert before.metrics["switches"].mean < after.metrics["switches"].mean
    assert before.digest != after.digest
    assert r"System\Context Switches/sec" in before.counters
    assert [(run.arm, run.seed) for run in result.runs] == [
        ("before", 1), ("before", 2), ("before", 3), ("after", 1), ("after", 2), ("after", 3),
    ]  # fmt: skip


def test_with_the_mechanism_neutralised_the_claim_fails_and_the_arms_are_one() -> None:
    result = ntlab.run("toy-turns", set={"toy_short.quantum": "60 ms"})
    assert not result.holds
    assert result.arms["before"].digest == result.arms["after"].digest


def test_a_muted_plugin_is_built_and_never_asked() -> None:
    def digest(arm: str, *muted: str) -> str:
        experiment = resolve(find_experiment("toy-turns", installed())[0], installed(), source="toy")
        job = next(job for job in jobs_of(experiment, "direct", [arm]))
        return runner.simulate(attrs.evolve(job, muted=muted), load(job.hardware).freeze()).digest

    assert digest("after", "toy_short") == digest("after", "toy_short.scheduler_policy") == digest("before")
    assert digest("after", "toy_base") == digest("after") != digest("before")  # toy_short answers instead
    with pytest.raises(UnknownNameError, match="unknown hook of plugin 'toy_short' 'scheduler_polic'"):
        digest("after", "toy_short.scheduler_polic")


def test_a_muted_plugin_stays_so_in_another_machine_and_can_call_itself() -> None:
    @plugin(name="echo", summary="Answers by its own methods.", release="ws2008")
    class Echo:
        level: int = option(default=7, help="An answer.")

        @hookimpl
        def priority_at_quantum_end(self) -> int:
            return self.level

        @hookimpl(specname="boosted_priority")
        def boost(self) -> int:
            return self.priority_at_quantum_end() + 1

    muted = runner._muted(Echo.ntlab_plugin, ("echo.priority_at_quantum_end",))(level=4)
    again = renewed(muted)
    assert isinstance(again, Echo)
    assert (again.boost(), again.priority_at_quantum_end()) == (5, 4)
    answers = {hook: names for hook, names in implementations(boot(plugins=[again]).manager).items() if names}
    assert answers == {"boosted_priority": ["echo"]}


def test_jobs_and_hook_modes_change_nothing() -> None:
    def digests(**asked: Any) -> list[str]:
        return [run.digest for run in ntlab.run("toy-turns", **asked).runs]

    here = digests(hooks="direct")
    assert len(set(here)) == 6
    assert digests(hooks="plain") == here
    assert digests(hooks="direct", jobs=2) == here
    assert digests(hooks="plain", jobs=2) == here


def test_a_machine_that_has_lived_is_gone() -> None:
    experiment = resolve(find_experiment("toy-turns", installed())[0], installed(), source="toy")
    job = jobs_of(experiment, "direct")[0]
    machine: weakref.ref[Machine] = runner.observe(job, load(job.hardware).freeze(), weakref.ref)
    assert machine() is None


def test_more_seeds_leave_the_first_ones_as_they_were() -> None:
    few, many = ntlab.run("toy-turns", seeds=2), ntlab.run("toy-turns", seeds=4)
    of_many = {(run.arm, run.seed): run.digest for run in many.runs}
    assert all(of_many[run.arm, run.seed] == run.digest for run in few.runs)


def test_a_plugin_that_does_nothing_leaves_the_digest(tmp_path: Path) -> None:
    definition = ntlab.run("toy-turns", seeds=1).experiment.document()
    file = tmp_path / "more.toml"
    file.write_text(
        'name = "more"\nhardware = "uni"\n[workload]\nuse = "toy_base.runners"\nthreads = 3\n'
        "[plugins.toy_base]\n[arms.without]\n[arms.with.plugins.toy_rival]\n".replace("with.", "including.")
    )
    arms = ntlab.run(file, seeds=1).arms
    assert arms["without"].digest == arms["including"].digest
    assert definition["arms"]["before"]["plugins"] == {"toy_base": {"quantum": "60 ms"}}


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize(
    ("where", "hook"),
    [("policy", "scheduler_policy"), ("boot", "machine_booted"), ("thread", "thread_exited")],
)
def test_a_plugin_that_raises_is_named_with_its_hook(
    where: str, hook: str, jobs: int, tmp_path: Path
) -> None:
    file = tmp_path / "raises.toml"
    file.write_text(RAISES.replace("WHERE", where))
    with pytest.raises(PluginError) as caught:
        ntlab.run(file, seeds=2, jobs=jobs)
    assert (caught.value.plugin, caught.value.hook) == ("toy_raiser", hook)
    assert f"ZeroDivisionError: raised in {where} (plugin.py, line " in str(caught.value)


def test_a_workload_that_measures_nonsense_is_named() -> None:
    with pytest.raises(PluginError, match=r"'toy_base': .*toy_base.runners' measured 'switches' as nan"):
        ntlab.run("toy-turns", set={"workload.nonsense": True})


@plugin(name="meter", summary="Measures as well as the workload.", release=None)
class Meter:
    measured: str = option(default="threads", help="Under which name; under none, it is no metric.")

    def measure(self, machine: Machine) -> Iterator[Metric | None]:
        yield Metric(self.measured, len(machine.threads)) if self.measured else None


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("threads", None),
        ("last_end", "plugin 'meter': it measures 'last_end', as others do"),
        ("", "plugin 'meter': 'meter' measured None; expected a Metric"),
    ],
)
def test_a_plugin_may_measure_beside_the_workload(
    name: str, told: str | None, tmp_path: Path, installed_only: Callable[..., None]
) -> None:
    installed_only(TOY, Meter)
    file = tmp_path / "measured.toml"
    meter = f'{{ measured = "{name}" }}'
    file.write_text(RAISES.replace('toy_raiser = { where = "WHERE" }', f"meter = {meter}"))
    if told is None:
        (run,) = ntlab.run(file).runs
        assert (run.metrics["threads"], run.units["threads"]) == (0, "1")
        assert "last_end" in run.metrics
    else:
        with pytest.raises(PluginError, match=told):
            ntlab.run(file)


def test_a_claim_of_an_unknown_metric_is_told_after_the_first_run(tmp_path: Path) -> None:
    file = tmp_path / "wrong.toml"
    shipped = installed().experiment_files["toy-wrong"][1].read_text()
    file.write_text(shipped.replace('"switches"', '"swiches"'))
    seen: list[int] = []
    with pytest.raises(UnknownNameError, match=r"claim 'toy-fewer-switches': unknown metric 'swiches'"):
        ntlab.run(file, progress=lambda done, of, last: seen.append(done))
    assert seen == []


def test_a_control_is_told_as_such(tmp_path: Path) -> None:
    document, _, _ = find_experiment("toy-turns", installed())
    document["claims"][0]["control"] = True
    file = tmp_path / "toy-turns.toml"
    file.write_text(tomli_w.dumps(document))
    result = ntlab.run(file, seeds=1)
    assert f"{result.claims[0].claim.id} (control)" in str(result)
    assert [claim["control"] for claim in result.to_json()["claims"]][:1] == [True]
    assert result.experiment.document()["claims"][0]["control"]


def test_a_counter_can_be_claimed(tmp_path: Path) -> None:
    file = tmp_path / "counter.toml"
    shipped = installed().experiment_files["toy-wrong"][1].read_text()
    file.write_text(
        shipped.replace('"switches"', r"'System\Context Switches/sec'").replace(
            "after < before", "after > before"
        )
    )
    (claim,) = ntlab.run(file, seeds=4).claims
    assert claim.holds
    assert claim.unit == "1"


def test_a_result_holds_all_that_it_takes_to_run_it_again(tmp_path: Path) -> None:
    result = ntlab.run("toy-turns", set={"toy_short.quantum": "7 ms"}, seeds=2, out=tmp_path)
    (file,) = tmp_path.iterdir()
    content = json.loads(file.read_text())
    assert content == json.loads(json.dumps(result.to_json()))
    assert content["definition"]["arms"]["after"]["plugins"]["toy_short"] == {
        "quantum": "7 ms",
        "style": "plain",
    }
    assert tomllib.loads(content["profiles"]["uni"])
    assert content["versions"]["plugins"]["toy_base"] == {"distribution": "ntlab-toy", "version": "1.0"}
    assert content["versions"]["ntlab"] == ntlab.__version__
    again = ntlab.rerun(tmp_path)
    assert again.same
    assert len(again.digests) == 4
    assert again.versions == {}
    content["runs"][0]["digest"] = "0" * 64
    content["versions"]["plugins"]["toy_base"]["version"] = "0.9"
    file.write_text(json.dumps(content))
    changed = ntlab.rerun(file)
    assert not changed.same
    assert changed.versions == {"plugins.toy_base.version": ("0.9", "1.0")}


def test_a_result_with_a_hardware_file_runs_again_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("mine")
    folder.mkdir()
    hardware = folder / "machine.toml"
    hardware.write_text(ntlab.topology.profiles()["uni"].path.read_text())  # type: ignore[attr-defined]
    shipped = installed().experiment_files["toy-wrong"][1].read_text()
    (folder / "mine.toml").write_text(shipped.replace('"uni"', '"machine.toml"'))
    ntlab.run("mine/mine.toml", out="out")
    hardware.unlink()
    assert ntlab.rerun("out").same


def test_an_interrupt_keeps_what_is_finished(tmp_path: Path) -> None:
    def interrupt(done: int, of: int, last: str) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        ntlab.run("toy-turns", out=tmp_path, progress=interrupt)
    assert caught.value.file == tmp_path / "toy-turns.interrupted.json"
    content = json.loads(caught.value.file.read_text())
    assert len(content["runs"]) == len(caught.value.result.runs) == 2
    assert not content["complete"]
    assert content["claims"] == []
    assert "interrupted" in repr(caught.value.result)
    assert ntlab.rerun(tmp_path).same


@pytest.mark.parametrize("finished", [0, 2])
def test_an_interrupt_leaves_an_earlier_complete_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: int
) -> None:
    def interrupted_after(count: int) -> Any:
        def execute(*asked: Any) -> Iterator[Run]:
            yield from itertools.islice(workers.execute(*asked), count)
            raise KeyboardInterrupt

        return execute

    ntlab.run("toy-turns", seeds=2, out=tmp_path)
    earlier = (tmp_path / "toy-turns.json").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(api, "execute", interrupted_after(finished))
        with pytest.raises(Interrupted) as caught:
            ntlab.run("toy-turns", out=tmp_path)
    assert (tmp_path / "toy-turns.json").read_bytes() == earlier
    beside = {file.name for file in tmp_path.iterdir()} - {"toy-turns.json"}
    assert beside == ({"toy-turns.interrupted.json"} if finished else set())
    assert (caught.value.file is None) == (not finished)
    ntlab.run("toy-turns", out=tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["toy-turns.json"]


def test_finished_runs_are_on_disk_before_the_next_begins(tmp_path: Path) -> None:
    counts: list[int] = []

    def count(done: int, of: int, last: str) -> None:
        counts.append(len((tmp_path / "toy-turns.runs.jsonl").read_text().splitlines()))

    ntlab.run("toy-turns", out=tmp_path, progress=count)
    assert counts == [1, 2, 3, 4, 5, 6]
    assert [file.name for file in tmp_path.iterdir()] == ["toy-turns.json"]


def test_an_output_folder_that_cannot_be_is_told_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: cannot be written to"):
        ntlab.run("toy-turns", out=tmp_path / "file", progress=lambda *_: pytest.fail("something ran"))


@pytest.mark.parametrize("taken", ["toy-turns.json", "toy-turns.runs.jsonl"])
def test_a_result_file_that_cannot_be_is_told(tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).mkdir()
    with pytest.raises(UserError, match="cannot be written to: Is a directory"):
        ntlab.run("toy-turns", seeds=1, out=tmp_path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ("[]", "is not a result of ntlab"),
        ("[" * 100_000, "is not JSON: maximum recursion"),
        ('{"format": "ntlab-result-1"}', "the key 'definition' is missing"),
    ],
)
def test_what_is_no_result_is_told(tmp_path: Path, content: str | None, told: str) -> None:
    file = tmp_path / "result.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=rf"result.json: {told}"):
        ntlab.rerun(file)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("runs", "abc", "runs: 'abc' is not a list"),
        ("runs", [], "runs: holds no finished run"),
        ("runs", [5], r"runs.\[0\]: 5 is not a table"),
        ("profiles", {"uni": 5}, "profiles.uni: 5 is of the wrong kind; expected text"),
        ("hooks", "plane", "unknown hook mode 'plane'"),
    ],
)
def test_a_result_that_was_changed_is_told(tmp_path: Path, key: str, value: object, told: str) -> None:
    ntlab.run("toy-turns", seeds=1, out=tmp_path)
    file = tmp_path / "toy-turns.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(UserError, match=told):
        ntlab.rerun(file)


def test_a_recorded_run_that_the_experiment_has_not_is_told(tmp_path: Path) -> None:
    ntlab.run("toy-turns", seeds=1, out=tmp_path)
    file = tmp_path / "toy-turns.json"
    content = json.loads(file.read_text())
    content["runs"][0]["seed"] = 77
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="'before' with seed 77 is no run of its experiment"):
        ntlab.rerun(file)


def test_claims_of_some_ids_run_only_what_they_need() -> None:
    seen: list[str] = []
    report = ntlab.claims(["toy-more-switches"], progress=lambda done, of, last: seen.append(last))
    assert [claim.claim.id for claim in report.claims] == ["toy-more-switches"]
    assert len(seen) == 6
    assert report.holds
    assert [claim.claim.id for claim in ntlab.claims(["X2"]).claims] == ["toy-more-switches", "toy-same-work"]
    assert [claim.holds for claim in ntlab.claims().claims] == [True, True, False]
    with pytest.raises(UnknownNameError, match=r"unknown claim 'X3'.*'X2'"):
        ntlab.claims(["X3"])


def test_claims_judge_the_same_runs_as_run_does() -> None:
    report, result = ntlab.claims(["toy-turns"], jobs=2), ntlab.run("toy-turns")
    assert [claim.to_json() for claim in report.claims] == [claim.to_json() for claim in result.claims]


def test_reports_read_well_and_give_columns() -> None:
    result = ntlab.run("toy-turns")
    assert "toy-turns on uni, 3 seeds" in repr(result)
    assert "<table>" in result._repr_html_()
    columns = result.columns()
    assert columns["arm"] == ["before"] * 3 + ["after"] * 3
    assert columns["switches"] == [run.metrics["switches"] for run in result.runs]
    for report in (result, ntlab.claims(["X2"]), ntlab.plugins(), ntlab.experiments()):
        assert len({len(column) for column in report.columns().values()}) == 1
        assert json.loads(json.dumps(report.to_json())) is not None


def test_plugins_are_described() -> None:
    (described,) = ntlab.plugins("toy_short").to_json()
    assert described["requires"] == ["toy_base"]
    assert described["hooks"] == ["scheduler_policy"]
    assert described["neutral"] == {"quantum": "60 ms"}
    assert described["options"][0] == {
        "name": "quantum",
        "type": "Duration",
        "default": "5 ms",
        "help": "A thread's turn.",
        "minimum": 1_000_000,
        "maximum": None,
    }


def test_workloads_are_described_with_their_views() -> None:
    (described,) = ntlab.plugins("toy_base").to_json()
    (runners,) = described["workloads"]
    assert (runners["name"], runners["views"]) == ("runners", ["ends"])
    assert [option["name"] for option in runners["options"]][:2] == ["threads", "work"]


def test_the_hook_mode_is_asked_for_or_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(HOOKS_VARIABLE, raising=False)
    assert hooks_mode() == "direct"
    monkeypatch.setenv(HOOKS_VARIABLE, "plain")
    assert hooks_mode() == "plain"
    assert hooks_mode("direct") == "direct"
    monkeypatch.setenv(HOOKS_VARIABLE, "plane")
    with pytest.raises(UnknownNameError, match=r"NTLAB_HOOKS: unknown hook mode 'plane'.*'plain'"):
        hooks_mode()


@pytest.mark.parametrize(
    "error",
    [
        UserError("wrong", where="here", expected="right"),
        UnknownNameError("plugin", "x", ["y"], where="here"),
        PluginError("broke", plugin="p", hook="h"),
        SimulationError("must not be"),
    ],
)
def test_errors_come_back_whole_from_another_process(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_a_result_is_data_only() -> None:
    result = ntlab.run("toy-wrong", seeds=1)
    assert isinstance(result, Result)
    assert result.to_json()["arms"]["before"]["metrics"]["switches"] == {
        "mean": result.runs[0].metrics["switches"],
        "ci95": [result.runs[0].metrics["switches"]] * 2,
        "n": 1,
        "unit": "1",
    }
