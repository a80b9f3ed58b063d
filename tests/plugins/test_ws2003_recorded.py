"""Recorded programs on other machines: they compute what was recorded, and causes come before effects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlab.errors import UserError
from ntlab.formats.schedules import read_schedule
from ntlab.lab.watch import Log, Watch
from ntlab.machine import Compute, Machine, Request, Sleep, Thread
from ntlab.quantities import MICROSECOND as US
from ntlab.quantities import MILLISECOND as MS
from ntlab.testing import Recorder, boot, rules, small_tables
from ntlab_ws2003 import Ws2003
from ntlab_ws2003.recorded import RECORDINGS, Recorded, windows_priority
from schedules import Event, of_machine, perf_script

NAMES = {8: "first", 9: "second"}
TWO: list[Event] = [
    ("switch", 1000 * US, 0, 0, "R", 8),
    ("wake", 1100 * US, 0, 8, 9),
    ("switch", 1100 * US, 1, 0, "R", 9),
    ("switch", 1200 * US, 1, 9, "S", 0),
    ("wake", 1500 * US, 0, 8, 9),
    ("switch", 1550 * US, 0, 8, "S", 0),
    ("switch", 1600 * US, 1, 0, "R", 9),
    ("wake", 1700 * US, 1, 9, 8),
    ("switch", 1800 * US, 0, 0, "R", 8),
    ("switch", 1900 * US, 1, 9, "S", 0),
    ("switch", 2000 * US, 0, 8, "S", 0),
    ("wake", 2500 * US, 0, 0, 9),
    ("switch", 2600 * US, 1, 0, "R", 9),
    ("switch", 2700 * US, 1, 9, "Z", 0),
]


def replayed(machine: Machine, text: str, folder: Path, **options: Any) -> dict[str, float]:
    file = folder / "recording.txt"
    file.write_text(text)
    workload = Recorded(file=str(file), **options)
    workload.start(machine)
    machine.run()
    return {metric.name: metric.value for metric in workload.measure(machine)}


def stretches(machine: Machine) -> list[tuple[str, int, int]]:
    return [(each.thread, each.start // US, each.end // US) for each in Recorder(machine).stretches()]


def test_on_two_processors_it_is_as_it_was_but_for_delays(tmp_path: Path) -> None:
    machine = boot(2, trace=True)
    seen = replayed(machine, perf_script(TWO, NAMES), tmp_path)
    assert stretches(machine) == [
        ("first", 0, 550),  # and creates the second one after 100
        ("second", 100, 200),
        ("second", 500, 800),  # woken by the first one after 500
        ("first", 600, 800),  # woken by the second one 100 later
        ("second", 1400, 1500),  # time ended that wait: 600 after it began
    ]
    assert (seen["time"], seen["recorded_time"]) == (1500 * US, 1700 * US)
    assert seen["run_time"] == seen["recorded_run_time"] == 1250 * US
    assert (seen["unaccounted"], seen["finished"], seen["signalled"]) == (0, 1, 3)
    assert (seen["delay"], seen["recorded_delay"]) == (0, (0 + 100 + 100 + 100) * US / 4)


def test_on_one_processor_who_was_woken_before_it_waited_does_not_wait(tmp_path: Path) -> None:
    machine = boot(1, [rules(quantum=MS)], trace=True)
    seen = replayed(machine, perf_script(TWO, NAMES), tmp_path)
    assert stretches(machine) == [
        ("first", 0, 550),
        ("second", 550, 950),  # the wake-up after 500 has come; it wakes the first one after 750
        ("first", 950, 1150),
        ("second", 1550, 1650),
    ]
    assert seen["unaccounted"] == 0
    assert seen["delay"] == (200 + 0) * US / 2


def test_only_some_threads(tmp_path: Path) -> None:
    machine = boot(2, trace=True)
    seen = replayed(machine, perf_script(TWO, NAMES), tmp_path, only=("sec*",))
    # Nobody of those here wakes it: it begins, and waits, as it was recorded.
    assert stretches(machine) == [("second", 100, 200), ("second", 500, 800), ("second", 1400, 1500)]
    assert seen["recorded_run_time"] == seen["run_time"] == 500 * US
    with pytest.raises(UserError) as error:
        replayed(boot(1), perf_script(TWO, NAMES), tmp_path, only=("thrid",))
    assert str(error.value) == (
        "workload.only: no recorded thread is called 'thrid'; expected such as first, second"
    )


def test_waits_by_the_clock(tmp_path: Path) -> None:
    machine = boot(2, [Ws2003(starvation_scan=False, boosts=False)], trace=True)
    seen = replayed(machine, perf_script(TWO, NAMES), tmp_path, waits="clock")
    (*_, last) = stretches(machine)
    assert last[0] == "second"
    assert 15_625 <= last[1] <= 15_700  # the first tick
    assert seen["unaccounted"] == 0


def test_copies_and_rivals(tmp_path: Path) -> None:
    machine = boot(2, [rules(quantum=MS)], trace=True)
    machine.create_session(3)
    seen = replayed(machine, perf_script(TWO, NAMES), tmp_path, copies=3, rivals=2)
    assert seen["run_time"] == 3 * 1250 * US
    assert (seen["finished"], seen["signalled"]) == (1, 9)
    assert sorted(machine.sessions) == [3, 4, 5, 6, 7]
    assert not machine.threads
    assert Recorder(machine).run_time("rivals.0") > MS


def test_a_part_of_a_recording(tmp_path: Path) -> None:
    seen = replayed(boot(2), perf_script(TWO, NAMES), tmp_path, until=600 * US)
    assert (seen["run_time"], seen["finished"]) == (650 * US, 1)


def test_priorities(tmp_path: Path) -> None:
    assert [windows_priority(linux) for linux in (None, 0, 98, 99, 100, 110, 120, 130, 139)] == [
        8, 31, 17, 16, 13, 10, 8, 6, 4
    ]  # fmt: skip
    text = perf_script(TWO, NAMES).replace(
        "prev_comm=first prev_pid=8 prev_prio=120", "prev_comm=first prev_pid=8 prev_prio=139"
    )
    for priorities, expected in ((True, [4, 8]), (False, [8, 8])):
        machine = boot(2, trace=True)
        replayed(machine, text, tmp_path, priorities=priorities)
        switches = [*Recorder(machine)("Thread/CSwitch", new_tid=lambda tid: tid > 0)]
        assert [switch["new_priority"] for switch in switches[:2]] == expected


def test_a_recording_that_is_not_there() -> None:
    with pytest.raises(UserError) as error:
        Recorded(file="nowhere").start(boot(1))
    assert str(error.value) == (
        "workload.file: there is no recording 'nowhere'; expected a file, or one of: pipeline"
    )


def test_operations_on_events_take_the_dispatcher_s_time(tmp_path: Path) -> None:
    machine = boot(2, [Ws2003(object_hold=2 * US, boosts=False, starvation_scan=False)], trace=True)
    seen = replayed(machine, perf_script(TWO, NAMES), tmp_path)
    assert seen["finished"] == 1
    assert seen["unaccounted"] == (3 + 2) * 2 * US  # three wake-ups are signalled, two of them are waited for


# -- the one that is shipped ---------------------------------------------------------------------------------


def test_the_recording_that_is_shipped_runs_as_long_as_its_recorder_said() -> None:
    recording = read_schedule(RECORDINGS / "pipeline.txt.gz")
    lines = (RECORDINGS / "pipeline.summary.txt").read_text().splitlines()[1:]
    said = {int(tid): (name, int(bursts), ran) for tid, name, bursts, ran in map(str.split, lines)}
    found = {
        each.tid: (each.name, each.bursts, f"{each.ran // 10**6}.{each.ran // 1000 % 1000:03}")
        for each in recording.threads
    }
    assert found == said
    assert len(said) == 37


@pytest.mark.parametrize("processors", [1, 2, 16])
@pytest.mark.parametrize("hooks", ["direct", "checked"])
def test_it_ends_on_any_machine(processors: int, hooks: Any) -> None:
    tables = small_tables(processors, nodes=2 if processors > 1 else 1)
    machine = boot(plugins=[Ws2003()], tables=tables, hooks=hooks)
    workload = Recorded(copies=2)
    workload.start(machine)
    machine.run()
    seen = {metric.name: metric.value for metric in workload.measure(machine)}
    assert (seen["finished"], seen["unaccounted"]) == (1, 0)


def test_bounds_of_brent() -> None:
    """On one processor it never waits; on four it is at most four times as fast; and copies fill gaps."""

    def time(processors: int, **options: Any) -> float:
        machine = boot(plugins=[Ws2003()], tables=small_tables(processors))
        workload = Recorded(**options)
        workload.start(machine)
        machine.run()
        return {metric.name: metric.value for metric in workload.measure(machine)}["time"]

    recording = read_schedule(RECORDINGS / "pipeline.txt.gz")
    one, four = time(1), time(4)
    assert one == sum(thread.ran for thread in recording.threads)
    assert one / 4 <= four < one
    assert time(16) <= four
    assert 10 * one / 4 <= time(4, copies=10) < 10 * four


# -- a recording of a replay ---------------------------------------------------------------------------------


class _Signal(Request):
    def __init__(self, counts: list[int], waiting: dict[int, Thread], number: int) -> None:
        self.counts, self.waiting, self.number = counts, waiting, number

    def perform(self, thread: Thread) -> int:
        if self.number in self.waiting:
            thread.machine.scheduler.wake(self.waiting.pop(self.number))
        else:
            self.counts[self.number] += 1
        return 0


class _Wait(_Signal):
    def perform(self, thread: Thread) -> int | None:  # type: ignore[override]
        if self.counts[self.number]:
            self.counts[self.number] -= 1
            return 0
        self.waiting[self.number] = thread
        return None


@pytest.mark.parametrize("processors", [1, 2, 4])
def test_a_recording_of_a_replay_is_the_recording(processors: int, tmp_path: Path) -> None:
    """On the same machine, to the nanosecond; where two things happen at once, their order might differ."""
    plugins = [Ws2003(boosts=False, starvation_scan=False)]
    log = Log()
    first = boot(processors, [*plugins, Watch(log=log)], trace=True)
    Recorded().start(first)
    first.run()
    again = boot(processors, plugins, trace=True)
    seen = replayed(again, perf_script(*of_machine(first, log)), tmp_path)
    assert seen["finished"] == 1
    assert Recorder(again).stretches() == Recorder(first).stretches()


@settings(max_examples=25, deadline=None)
@given(
    programs=st.lists(
        st.lists(st.tuples(st.sampled_from("csw"), st.integers(1, 400)), min_size=1, max_size=12),
        min_size=1,
        max_size=6,
    ),
    processors=st.integers(1, 4),
    other=st.integers(1, 4),
)
def test_a_recorded_machine_is_replayed(
    programs: list[list[tuple[str, int]]],
    processors: int,
    other: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """What a simulated machine did is recorded and run again on others: nothing is lost, nobody hangs."""
    log = Log()
    machine = boot(processors, [rules(quantum=50 * US), Watch(log=log)], trace=True)
    counts, waiting = [0] * len(programs), dict[int, Thread]()
    process = machine.create_process("p")

    def program(number: int, steps: list[tuple[str, int]]) -> Any:
        yield Compute(number + 1)
        for kind, value in steps:
            yield Compute(value * US)
            if kind == "s":
                yield Sleep(value * 1000 + number)
            elif kind == "w" and value % 3:
                yield _Wait(counts, waiting, number)
            elif kind == "w":
                yield _Signal(counts, waiting, value % len(programs))

    for number, steps in enumerate(programs):
        machine.create_thread(process, program(number, steps), name=f"t{number}")
    machine.run()
    events, names = of_machine(machine, log)
    ran = sum(Recorder(machine).run_time(name) for name in names.values())
    folder = tmp_path_factory.mktemp("x")
    for count in (processors, other):
        again = boot(count, [rules(quantum=50 * US)], trace=True)
        seen = replayed(again, perf_script(events, names), folder)
        assert (seen["run_time"], seen["unaccounted"], seen["finished"]) == (ran, 0, 1)
