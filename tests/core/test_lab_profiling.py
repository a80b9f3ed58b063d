"""Profiles: every event and answer is counted once, all time is somewhere, and the trace is the same."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

import ntlab
from ntlab.cli.main import main
from ntlab.errors import UnknownNameError
from ntlab.hooks import Mode, hookimpl
from ntlab.lab.profiling import MEASURING
from ntlab.machine import Compute, Machine, Request, Thread
from ntlab.machine.profile import ProfiledEngine
from ntlab.plugin import plugin
from ntlab.testing import boot, bursts


@plugin(name="answers", summary="Answers by itself, by another hook, and around one.", release=None)
class Answers:
    answered = 0

    @hookimpl
    def ideal_processor(self, thread: Thread) -> int | None:
        self.answered += 1
        return None

    @hookimpl(wrapper=True)
    def choose_processor(self) -> Iterator[None]:
        return (yield)


def lived(hooks: Mode) -> tuple[Machine, Answers]:
    answers = Answers()
    machine = boot(2, [answers], hooks=hooks, trace=True)
    process = machine.create_process("threads")

    def program() -> Iterator[Request]:
        for work in (3_000, 1_000):
            yield Compute(work)

    def ticks() -> Iterator[int]:
        for _ in range(5):
            yield 100

    for _ in range(7):
        machine.create_thread(process, program())
    machine.engine.at(0, ticks().send)
    machine.run()
    machine.stop()
    return machine, answers


def test_all_is_counted_once_and_all_time_is_somewhere() -> None:
    machine, answers = lived("profiled")
    assert isinstance(machine.engine, ProfiledEngine)
    spent = machine.engine.profile
    total = spent.stop()
    assert sum(event.count for event in spent.events.values()) == machine.engine.events
    (process,) = (event for name, event in spent.events.items() if name.startswith("the process "))
    assert process.count == 6
    assert spent.hooks["answers", "ideal_processor"].count == answers.answered == 7
    assert spent.hooks["answers", "choose_processor"].count == 2 * 2  # a wrapper begins, and goes on
    parts = [spent.rest, *spent.events.values(), *spent.hooks.values()]
    assert total == sum(part.time for part in parts)
    assert all(part.time > 0 for part in parts)


def test_the_trace_is_that_of_any_other_run() -> None:
    digests = {lived(mode)[0].tracer.digest() for mode in ("direct", "profiled", "checked")}
    assert len(digests) == 1


def test_children_are_profiled_with_their_host() -> None:
    machine = boot(1, [Answers()], hooks="profiled")
    guest = machine.partitions.create("guest").machine
    guest.create_thread(guest.create_process("in it"), bursts(1_000))
    machine.run(1_000_000)
    assert isinstance(machine.engine, ProfiledEngine)
    asked = machine.engine.profile.hooks["answers", "ideal_processor"]
    assert asked.count == 2  # for the thread in the child, and for the virtual processor


@pytest.mark.usefixtures("toy")
class TestReport:
    def test_a_report_adds_up(self) -> None:
        report = ntlab.profile("toy-turns", arm="after", set={"workload.threads": 2})
        (arm,) = report.arms
        there = ntlab.run("toy-turns", set={"workload.threads": 2}, seeds=1)
        run = next(run for run in there.runs if run.arm == "after")
        assert (arm.events, arm.simulated) == (run.events, run.time)
        assert arm.spent == arm.rest + sum(cost.time for cost in arm.costs)
        assert arm.events_per_second == pytest.approx(run.events / run.time * 1e9)
        assert 10_000 < arm.memory < 10_000_000
        assert list(arm.costs) == sorted(arm.costs, key=lambda cost: -cost.time)
        assert report.columns()["arm"] == ["after"] * len(arm.costs)

    def test_the_command(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["run", "toy-turns", "--profile"]) == 0
        text = capsys.readouterr().out
        assert all(f"toy-turns, {arm}, seed 1" in text for arm in ("before", "after"))
        assert text.count(MEASURING) == 2
        assert main(["run", "toy-turns", "--profile", "--arm", "before", "--json"]) == 0
        content = json.loads(capsys.readouterr().out)
        assert [arm["arm"] for arm in content["arms"]] == ["before"]
        assert content["arms"][0]["events_per_simulated_second"] > 0

    @pytest.mark.parametrize("option", ["--seeds", "--jobs", "--hooks", "--view"])
    def test_what_says_nothing_beside_it_is_refused(
        self, option: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        value = {"--hooks": "plain", "--view": "ends"}.get(option, "2")
        assert main(["run", "toy-turns", "--profile", option, value]) == 2
        assert "has no effect with --" in capsys.readouterr().err

    def test_unknown_arms_are_named(self) -> None:
        with pytest.raises(UnknownNameError, match="did you mean 'after'"):
            ntlab.profile("toy-turns", arm="aftr")
