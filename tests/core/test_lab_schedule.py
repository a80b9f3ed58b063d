"""What runs where and what waits: charts of schedules and ready queues, exactly."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import ntlab
from ntlab.hooks import Mode
from ntlab.lab.schedule import ReadyView, ScheduleView
from ntlab.lab.timeline import LETTERS, Timeline, draw
from ntlab.lab.watch import Log, Watch
from ntlab.machine import Compute, Machine, Request, RunOn, Sleep, Thread
from ntlab.quantities import MILLISECOND as MS
from ntlab.testing import boot, bursts, exercise, rules
from ntlab_ws2003 import Ws2003

pytestmark = pytest.mark.usefixtures("toy")


@pytest.fixture(autouse=True)
def columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "33")  # 20 columns of time beside "priority 31 "


def three(machine: Machine) -> Machine:
    """Two threads of 10 and 20 ms, and one of higher priority that comes after 5 ms for 5 ms."""
    process = machine.create_process("p")
    machine.create_thread(process, bursts(10 * MS), name="one")
    machine.create_thread(process, bursts(20 * MS), name="two")
    machine.create_thread(process, iter([Sleep(5 * MS), Compute(5 * MS)]), name="high", priority=12)
    machine.run(40 * MS)
    assert machine.engine.now == 40 * MS
    return machine


def test_the_schedule_of_one_processor() -> None:
    text = ScheduleView().text(three(boot(1, [rules(quantum=10 * MS)], trace=True)))
    lines = text.splitlines()
    # one 0..5, high 5..10, one 10..15, two 15..35; of two that ran equally long in a column, the first one
    assert lines[:2] == ["0 ns to 35 ms, 1.75 ms a column", "cpu 0 aaabbbaaaccccccccccc"]
    rows = [line.split() for line in lines]
    for row in (
        ["a", "one", "12", "10", "ms", "5", "ms"],
        ["b", "high", "20", "5", "ms", "0", "ns"],
        ["c", "two", "16", "20", "ms", "15", "ms"],
    ):
        assert row in rows


def test_a_column_has_the_letter_of_whoever_ran_longest_in_it() -> None:
    machine = three(boot(1, [rules(quantum=10 * MS)], trace=True))
    lines, letters = draw(Timeline(machine), 8)
    names = {Timeline(machine).names[thread]: letter for thread, letter in letters.items()}
    assert names == {"one": "a", "high": "b", "two": "c"}
    assert lines == ["0 ns to 40 ms, 5 ms a column", "cpu 0 abacccc."]


def test_interrupt_work_is_not_the_thread_s() -> None:
    machine = boot(2, trace=True)
    machine.create_thread(machine.create_process("p"), bursts(12 * MS), name="one")
    (processor, idle) = machine.processors
    machine.engine.at(2 * MS, lambda _: machine.interrupts.interrupt(processor, 3 * MS))
    machine.engine.at(3 * MS, lambda _: machine.interrupts.queue_dpc(processor, 1 * MS, routine="Dpc"))
    machine.engine.at(8 * MS, lambda _: machine.interrupts.queue_dpc(idle, 4 * MS, routine="Dpc"))
    machine.engine.at(9 * MS, lambda _: machine.interrupts.interrupt(idle, 1 * MS))
    machine.run(20 * MS)
    lines, _ = draw(Timeline(machine), 20)
    assert lines[1:] == ["cpu 0 aa!!!!aaaaaaaaaa....", "cpu 1 ........!!!!!......."]
    lines, _ = draw(Timeline(machine), 5, since=2 * MS, until=12 * MS)
    assert lines == ["2 ms to 12 ms, 2 ms a column", "cpu 0 !!aaa", "cpu 1 ...!!"]


def test_parked_processors() -> None:
    machine = boot(2, [Ws2003(power=True)], trace=True)
    power = machine.power
    assert power is not None
    machine.create_thread(machine.create_process("p"), bursts(5 * MS, 15 * MS), affinity=3, ideal=1)
    machine.engine.at(5 * MS, lambda _: power.park(1))
    machine.engine.at(12 * MS, lambda _: power.park(0))
    machine.run(40 * MS)
    lines, _ = draw(Timeline(machine), 8)
    assert lines[1:] == ["cpu 0 ._......", "cpu 1 aaaa...."]


@pytest.mark.parametrize(("processors", "lines", "first", "last"), [
    (1, 1, "cpu 0", "cpu 0"), (4, 4, "cpu 0", "cpu 3"), (64, 64, "cpu 0", "cpu 63"),
    (65, 33, "cpu 0-1", "cpu 64"), (256, 64, "cpu 0-3", "cpu 252-255"),
])  # fmt: skip
def test_any_number_of_processors(processors: int, lines: int, first: str, last: str) -> None:
    machine = boot(processors, trace=True)
    process = machine.create_process("p")
    for number in range(0, processors, 2):
        machine.create_thread(process, bursts(20 * MS), affinity=1 << number, name=f"t{number}")
    machine.run(40 * MS)
    chart = ScheduleView().text(machine).split("\n\n")[0].splitlines()[1:]
    assert len(chart) == lines
    assert chart[0].startswith(f"{first} ")
    assert chart[-1].startswith(f"{last} ")
    cells = [line[len(line) - 20 :] for line in chart]
    if processors == 4:
        assert cells == ["a" * 20, "." * 20, "b" * 20, "." * 20]
    if processors > 64:
        assert cells[0] == "5" * 20
    assert all(len(line) <= 33 for line in chart)


def test_more_threads_than_letters() -> None:
    machine = boot(1, [rules(quantum=MS)], trace=True)
    process = machine.create_process("p")
    for number in range(70):
        machine.create_thread(process, bursts(MS if number < 5 else 2 * MS), name=f"t{number}")
    machine.run()
    lines, letters = draw(Timeline(machine), 300)
    assert sorted(letters.values()) == sorted([*LETTERS, *"*" * 8])
    assert [letters[thread] for thread in list(letters)[:6]] == [*"*****", "a"]
    assert "* 8 others" in " ".join(ScheduleView().text(machine).split())
    assert lines[1].startswith("cpu 0 " + "*" * 10)
    assert draw(Timeline(machine), 135)[0][1] == "cpu 0 *****" + (LETTERS + "***") * 2


def test_nothing_ran() -> None:
    machine = boot(2, trace=True)
    machine.run(1000)
    assert ScheduleView().text(machine).splitlines() == [
        "0 ns to 1 us, 50 ns a column", "cpu 0 " + "." * 20, "cpu 1 " + "." * 20
    ]  # fmt: skip


# -- ready queues --------------------------------------------------------------------------------------------


def watched(processors: int, *plugins: object) -> tuple[Machine, ReadyView]:
    view = ReadyView()
    return boot(processors, [*plugins, *view.beside], trace=True), view


def test_ready_queues() -> None:
    machine, view = watched(1, rules(quantum=10 * MS))
    text = view.text(three(machine)).splitlines()
    # two waits 0..15, one 5..10
    assert text[0] == "ready threads, 0 ns to 35 ms, 1.75 ms a column"
    assert text[1] == "all 111222111..........."
    words = [line.split() for line in text]
    assert ["8", "4", "2", "5", "ms", "15", "ms"] in words
    assert ["12", "2", "0", "0", "ns", "0", "ns"] in words


def test_ready_queues_of_processors_and_priorities() -> None:
    machine, view = watched(2, rules(quantum=100 * MS, ready_queues="per_processor"))
    process = machine.create_process("p")
    for priority, number in ((8, 1), (8, 2), (9, 4)):
        for _ in range(number):
            machine.create_thread(process, bursts(10 * MS), affinity=1, priority=priority)
    machine.run(80 * MS)
    text = view.text(machine).split("\n\n")
    # Seven threads: four of priority 9 run until 40 ms, one after the other, then three of priority 8.
    first, second = (part.splitlines() for part in text[:2])
    assert first[1:] == ["cpu 0 66655544433222111-..", "cpu 1 " + "." * 20]
    assert second == ["priority 9 333222111...........", "priority 8 33333333333222111-.."]


def test_nobody_waits() -> None:
    machine, view = watched(2)
    machine.create_thread(machine.create_process("p"), bursts(10 * MS))
    machine.run()
    assert view.text(machine) == "0 ns to 10 ms, 500 us a column: no thread had to wait for a processor\n"


# -- the watch -----------------------------------------------------------------------------------------------


def test_who_wakes_whom() -> None:
    log = Log()
    machine = boot(2, [Watch(log=log)])
    process = machine.create_process("p")
    sleeper = machine.create_thread(process, iter([Sleep(50 * MS), Sleep(10 * MS), Sleep(50 * MS)]))

    other: list[Thread] = []

    def waits() -> Iterator[Request]:
        yield _Park(other)
        yield _Park(other)

    def wakes() -> Iterator[Request]:
        yield RunOn(2)
        yield Compute(3 * MS)
        yield _Unpark(other)

    machine.create_thread(process, waits())
    waker = machine.create_thread(process, wakes())
    machine.engine.at(
        20 * MS, lambda _: machine.interrupts.queue_dpc(machine.processors[1], MS, _unpark, other)
    )
    machine.run()
    assert not other
    seen = [(wake.time // MS, wake.waker, wake.processor) for wake in log.wakes if wake.time]
    assert seen == [(3, waker.id, 1), (21, 0, 1), (50, 0, -1), (60, 0, -1), (110, 0, -1)]
    assert [wake.thread for wake in log.wakes if wake.time >= 50 * MS] == [sleeper.id] * 3


class _Park(Request):
    def __init__(self, parked: list[Thread]) -> None:
        self.parked = parked

    def perform(self, thread: Thread) -> None:
        self.parked.append(thread)


class _Unpark(Request):
    def __init__(self, parked: list[Thread]) -> None:
        self.parked = parked

    def perform(self, thread: Thread) -> int:
        _unpark(self.parked)
        return 0


def _unpark(parked: list[Thread]) -> None:
    thread = parked.pop()
    thread.machine.scheduler.wake(thread)


@pytest.mark.once
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("hooks", ["direct", "checked"])
def test_a_run_that_is_watched_is_the_same(seed: int, hooks: Mode) -> None:
    log = Log()
    digests = []
    for watch in ([], [Watch(log=log)]):
        machine = boot(4, [rules(quantum=MS), *watch], seed=seed, trace=True, hooks=hooks)
        exercise(machine, 5 * MS)
        machine.run()
        digests.append(machine.tracer.digest())
    assert digests[0] == digests[1]
    assert log.queues
    assert log.wakes


@pytest.mark.parametrize("name", ["schedule", "ready"])
def test_every_run_has_them(name: str) -> None:
    shown = ntlab.view("toy-turns", name)
    assert set(shown) == {"before", "after"}
    assert all("a column" in text for text in shown.values())
