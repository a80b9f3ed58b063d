"""A plugin's own order of ready threads, its turns, and who gives way to whom."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntlab.engine import REPORT
from ntlab.errors import PluginError, SimulationError
from ntlab.hooks import hookimpl
from ntlab.machine import Acquire, Compute, Machine, OrderedLevel, Processor, Release, Request, Thread
from ntlab.plugin import option, plugin, state
from ntlab.testing import boot, bursts, rules
from ntlab_ws2003 import Ws2003

NEVER = 1 << 40


def switches(machine: Machine) -> list[tuple[int, str]]:
    """(time, name of the new thread or "") for each context switch."""
    names = {r["tid"]: str(r["name"]) for r in machine.tracer.records("Thread/Start")}
    return [(r.time, names.get(r["new_tid"], "")) for r in machine.tracer.records("Thread/CSwitch")]


def start_at(machine: Machine, time: int, program: Iterator[Request], **what: Any) -> None:
    process = next(iter(machine.processes.values()), None) or machine.create_process("p")

    def start(_: object) -> None:
        machine.create_thread(process, program, **what)

    machine.engine.at(time, start, order=REPORT)  # after what ends at that instant


# -- the order

actions = st.tuples(
    st.sampled_from(["append", "appendleft", "popleft", "remove"]),
    st.sampled_from("abcdefgh"),
    st.integers(0, 3),
)


@given(st.lists(actions))
def test_an_ordered_level_is_a_list_sorted_again_each_time(todo: list[tuple[str, Any, int]]) -> None:
    keys: dict[Any, int] = {}
    level = OrderedLevel(keys.__getitem__)
    oracle: list[tuple[int, Any]] = []
    for what, name, key in todo:
        queued = [name for _, name in oracle]
        keys[name] = key  # for one that is queued this comes too late
        if what == "popleft":
            if oracle:
                assert level.popleft() == oracle.pop(0)[1]
        elif what == "remove":
            if name in queued:
                level.remove(name)
                del oracle[queued.index(name)]
        elif name not in queued:
            getattr(level, what)(name)
            oracle.insert(len(oracle) if what == "append" else 0, (key, name))
            oracle.sort(key=lambda entry: entry[0])
        assert list(level) == [name for _, name in oracle]
        assert len(level) == len(oracle)


@plugin(name="deadlines", summary="Earliest deadline first.", release="ws2003")
class Deadlines:
    """`deadlines` gives each thread's by name. It is global where the policy's ready queue is shared."""

    deadlines: dict[str, int] = option(default=None, help="By name; they differ.")
    processors: list[Processor] = state(list)

    def deadline(self, thread: Thread) -> int:
        return self.deadlines[thread.name]

    @hookimpl
    def machine_booted(self, machine: Machine) -> None:
        self.processors = machine.processors

    @hookimpl
    def ready_level(self) -> OrderedLevel:
        return OrderedLevel(self.deadline)

    @hookimpl
    def turn_length(self) -> int:
        return NEVER

    @hookimpl
    def choose_busy_processor(self, thread: Thread) -> int:
        latest = max(self.processors, key=lambda p: self.deadline(p.thread) if p.thread is not None else -1)
        return latest.index

    @hookimpl
    def preempts(self, thread: Thread, running: Thread) -> bool:
        return self.deadline(thread) < self.deadline(running)


job = st.tuples(st.integers(0, 12), st.integers(1, 9), st.integers(0, 40))


@given(st.integers(1, 3), st.booleans(), st.lists(job, min_size=1, max_size=9))
def test_earliest_deadline_first_against_brute_force(
    processors: int, shared: bool, jobs: list[tuple[int, int, int]]
) -> None:
    """Jobs are (release, work, deadline). The oracle runs the most urgent of them unit by unit."""
    queues: Literal["shared", "per_processor"] = "shared" if shared else "per_processor"
    processors = processors if shared else 1
    urgency = {f"{i}": jobs[i][2] * len(jobs) + i for i in range(len(jobs))}
    machine = boot(
        processors, [rules(quantum=7, ready_queues=queues), Deadlines(deadlines=urgency)], trace=True
    )
    for i, (release, work, _) in enumerate(jobs):
        start_at(machine, release, bursts(work), name=f"{i}")
    machine.run()
    names = {r["tid"]: str(r["name"]) for r in machine.tracer.records("Thread/Start")}
    ended = {names[r["tid"]]: r.time for r in machine.tracer.records("Thread/End")}  # type: ignore[index]

    left = {f"{i}": work for i, (_, work, _) in enumerate(jobs)}
    expected: dict[str, int] = {}
    now = 0
    while len(expected) < len(jobs):
        ready = [name for name in left if left[name] and jobs[int(name)][0] <= now]
        now += 1
        for name in sorted(ready, key=urgency.__getitem__)[:processors]:
            left[name] -= 1
            if not left[name]:
                expected[name] = now
    assert ended == expected


@pytest.mark.parametrize("queues", ["shared", "per_processor"])
@pytest.mark.parametrize(
    ("who", "deadline", "order"),
    [
        ("c", 0, [(0, "a"), (40, "c"), (50, "a"), (110, "b"), (120, "")]),  # the last one becomes urgent
        ("c", 15, [(0, "a"), (100, "c"), (110, "b"), (120, "")]),  # and only more so than b
        ("a", 25, [(0, "a"), (40, "b"), (50, "a"), (110, "c"), (120, "")]),  # the running one's is put off
        ("b", 40, [(0, "a"), (100, "c"), (110, "b"), (120, "")]),
        ("a", 5, [(0, "a"), (100, "b"), (110, "c"), (120, "")]),
    ],
)
def test_a_deadline_that_changes_is_reconsidered(
    queues: Any, who: str, deadline: int, order: list[tuple[int, str]]
) -> None:
    urgency = Deadlines(deadlines={"a": 10, "b": 20, "c": 30})
    machine = boot(1, [rules(ready_queues=queues), urgency], trace=True)
    for name, work in [("a", 100), ("b", 10), ("c", 10)]:
        start_at(machine, 0, bursts(work), name=name)

    def change(_: object) -> None:
        urgency.deadlines[who] = deadline
        thread = next(thread for thread in machine.threads.values() if thread.name == who)
        machine.scheduler.reconsider(thread)

    machine.engine.at(40, change)
    machine.run()
    assert switches(machine) == order


def test_a_thread_reconsidered_goes_where_it_may_run_now() -> None:
    machine = boot(2, [rules(quantum=1000, ready_queues="per_processor")], trace=True)
    process = machine.create_process("p")
    machine.create_thread(process, bursts(100), name="a", affinity=1)
    bound = machine.create_thread(process, bursts(50), name="b", affinity=1)
    assert machine.processors[1].thread is None
    machine.scheduler.set_affinity(bound, 3)
    machine.engine.at(10, machine.scheduler.reconsider, bound)
    machine.run()
    assert switches(machine) == [(0, "a"), (10, "b"), (60, ""), (100, "")]


@plugin(name="levels", summary="Gives what a test says as levels.", release="ws2003")
class Levels:
    give: Callable[[], Any] = option(default=deque, help="Makes one.")

    @hookimpl
    def ready_level(self, processor: int, priority: int) -> Any:
        return self.give() if (processor, priority) >= (1, 30) else None


ONE = OrderedLevel(lambda thread: thread.id)


@pytest.mark.parametrize(
    ("give", "complaint"),
    [
        (object, "processor 1, priority 30, which is no ReadyLevel"),
        (lambda: deque([1]), "processor 1, priority 30, which is not new and empty"),
        (lambda: ONE, "processor 1, priority 31, which is not new and empty"),
    ],
)
def test_a_level_that_is_none_is_refused_at_boot(give: Callable[[], Any], complaint: str) -> None:
    with pytest.raises(SimulationError, match=f"ready_level gave .*{complaint}"):
        boot(2, [rules(ready_queues="per_processor"), Levels(give=give)])


class Forgets(OrderedLevel):
    def append(self, thread: Thread, /) -> None:
        pass


class Keeps(OrderedLevel):
    def popleft(self) -> Thread:
        return next(iter(self))


class GivesTheLast(OrderedLevel):
    def popleft(self) -> Thread:
        thread = list(self)[-1]
        self.remove(thread)
        return thread


class Invents(OrderedLevel):
    def popleft(self) -> Any:
        super().popleft()
        return 3


class SaysItIsEmpty(OrderedLevel):
    def __len__(self) -> int:
        return 0


@plugin(name="orders", summary="An order that is none.", release="ws2003")
class Orders:
    level: type[OrderedLevel] = option(default=OrderedLevel, help="Its class.")

    @hookimpl
    def ready_level(self) -> OrderedLevel:
        return self.level(lambda thread: thread.id)


@pytest.mark.parametrize(
    ("level", "complaint"),
    [
        (Forgets, r"it has \[\] after append\(\); expected \[<Thread 16 b>\]"),
        (Keeps, r"it has \[<Thread 16 b>, <Thread 20 c>\] after popleft\(\); expected \[<Thread 20 c>\]"),
        (GivesTheLast, r"popleft\(\) gave <Thread 20 c>, though <Thread 16 b> was first"),
        (Invents, r"popleft\(\) gave 3, though <Thread 16 b> was first"),
        (SaysItIsEmpty, r"its length is 0 after append\(\), it has 1"),
    ],
)
def test_checked_an_order_keeps_its_threads(level: type[OrderedLevel], complaint: str) -> None:
    def run(level: type[OrderedLevel]) -> None:
        machine = boot(1, [Orders(level=level)], hooks="checked")
        for name in "abc":
            start_at(machine, 0, bursts(10), name=name)
        machine.run()

    run(OrderedLevel)
    with pytest.raises(PluginError, match=complaint) as error:
        run(level)
    assert (error.value.plugin, error.value.hook) == ("orders", "ready_level")
    assert f"the {level.__name__} it gave" in str(error.value)


def test_levels_are_asked_for_once_for_each_queue() -> None:
    made: list[object] = []

    def give() -> object:
        made.append(deque())
        return made[-1]

    boot(3, [rules(ready_queues="per_processor"), Levels(give=give)])
    assert len(made) == 2 + 32
    made.clear()
    boot(3, [rules(ready_queues="shared"), Levels(give=give)])
    assert not made


# -- turns


@plugin(name="turns", summary="Turns as a test wants them, by name.", release="ws2003")
class Turns:
    lengths: Mapping[str, int] = option(default=MappingProxyType({}), help="Of a new turn, ns.")
    asked: list[tuple[str, int]] = state(list)

    @hookimpl
    def turn_length(self, thread: Thread, left: int) -> int | None:
        self.asked.append((thread.name, left))
        return None if left else self.lengths.get(thread.name)


def test_turns_of_different_lengths() -> None:
    turns = Turns(lengths={"a": 10, "b": 30})
    machine = boot(1, [rules(quantum=20), turns], trace=True)
    for name in "abc":
        start_at(machine, 0, bursts(60), name=name)
    start_at(machine, 15, bursts(5), name="high", priority=12)
    machine.run(130)
    # b has 25 of its 30 left when it is preempted, and keeps them; c has the policy's 20.
    assert switches(machine) == [
        (0, "a"), (10, "b"), (15, "high"), (20, "b"), (45, "c"), (65, "a"), (75, "b"), (105, "c"), (125, "a"),
    ]  # fmt: skip
    assert turns.asked[:5] == [("a", 0), ("b", 0), ("high", 0), ("b", 25), ("c", 0)]


def test_a_turn_that_nobody_takes_over_is_followed_by_another() -> None:
    turns = Turns(lengths={"a": 10})
    machine = boot(1, [rules(quantum=1000), turns], trace=True)
    start_at(machine, 0, bursts(100), name="a")
    start_at(machine, 25, bursts(100), name="b")
    machine.run(200)
    assert switches(machine)[:3] == [(0, "a"), (30, "b"), (130, "a")]
    assert turns.asked[:3] == [("a", 0)] * 3


def test_a_turn_that_the_same_thread_has_again_is_asked_for() -> None:
    """In an order that always has it first."""
    turns = Turns(lengths={"a": 10})
    machine = boot(1, [rules(quantum=1000), Deadlines(deadlines={"a": 1, "b": 2}), turns])
    for name in "ab":
        start_at(machine, 0, bursts(35), name=name)
    machine.run(50)
    assert turns.asked == [("a", 0)] * 4 + [("b", 0)]


@pytest.mark.parametrize("when", ["stepping", "interrupted"])
def test_the_turn_changes_of_a_thread_that_makes_no_progress(when: str) -> None:
    machine = boot(1, [rules(quantum=100)], trace=True)
    cpu = machine.processors[0]

    class Cut(Request):
        def perform(self, thread: Thread) -> int:
            machine.scheduler.set_turn(thread, 30)
            return 0

    start_at(
        machine, 0, iter([Compute(50), Cut() if when == "stepping" else Compute(0), Compute(200)]), name="a"
    )
    start_at(machine, 0, bursts(200), name="b")
    if when == "interrupted":
        machine.engine.at(50, lambda _: machine.interrupts.interrupt(cpu, 20))
        machine.engine.at(60, lambda _: machine.scheduler.set_turn(cpu.thread, 10))  # type: ignore[arg-type]
    machine.run(150)
    assert switches(machine) == [(0, "a"), (80, "b")]


@pytest.mark.parametrize(("left", "until"), [(0, 50), (30, 80), (70, 120)])
def test_the_turn_of_a_running_thread_changes(left: int, until: int) -> None:
    machine = boot(1, [rules(quantum=100)], trace=True)
    for name in "ab":
        start_at(machine, 0, bursts(200), name=name)
    running = machine.processors[0]
    machine.engine.at(50, lambda _: machine.scheduler.set_turn(running.thread, left))  # type: ignore[arg-type]
    machine.run(125)
    assert switches(machine) == [(0, "a"), (until, "b")]


def test_the_turn_of_a_waiting_thread_changes() -> None:
    turns = Turns()
    machine = boot(1, [rules(quantum=100), turns], trace=True)
    for name in "ab":
        start_at(machine, 0, bursts(200), name=name)
    cpu = machine.processors[0]
    machine.engine.at(50, lambda _: machine.scheduler.set_turn(next(iter(cpu.queue)), 7))
    machine.run(110)
    assert switches(machine) == [(0, "a"), (100, "b"), (107, "a")]
    assert turns.asked[1] == ("b", 7)


def test_a_turn_of_nothing_is_refused() -> None:
    machine = boot(1, [Turns(lengths={"a": -1})])
    with pytest.raises(SimulationError, match=r"turn_length gave -1 for <Thread .* a>"):
        machine.create_thread(machine.create_process("p"), bursts(1), name="a")


# -- who gives way to its own priority


@plugin(name="urgent", summary="A thread gives way to those that a test calls urgent.", release="ws2003")
class Urgent:
    asked: list[tuple[int, str, str]] = state(list)

    @hookimpl
    def preempts(self, thread: Thread, running: Thread, processor: Processor) -> bool:
        self.asked.append((thread.machine.engine.now, thread.name, running.name))
        return thread.name.startswith("urgent")


def test_an_urgent_thread_runs_at_once_and_the_other_keeps_its_turn_at_the_tail() -> None:
    urgent = Urgent()
    machine = boot(1, [rules(quantum=100), urgent], trace=True)
    for name in "ab":
        start_at(machine, 0, bursts(200), name=name)
    start_at(machine, 130, bursts(10), name="slow")
    start_at(machine, 600, bursts(50), name="c")
    start_at(machine, 620, bursts(10), name="urgent")
    machine.run()
    # c and its level are empty but for the urgent one at 620.
    assert switches(machine) == [
        (0, "a"), (100, "b"), (200, "a"), (300, "slow"), (310, "b"), (410, ""),
        (600, "c"), (620, "urgent"), (630, "c"), (660, ""),
    ]  # fmt: skip
    assert urgent.asked == [(0, "b", "a"), (130, "slow", "b"), (620, "urgent", "c")]


def test_whoever_gives_way_goes_to_the_tail_and_its_levels_first_runs() -> None:
    machine = boot(1, [rules(quantum=100), Urgent()], trace=True)
    for name in "ab":
        start_at(machine, 0, bursts(60), name=name)
    start_at(machine, 30, bursts(10), name="urgent")
    machine.run()
    # First come, first served is the order here, so b is first: a plugin that wants another says so.
    assert switches(machine) == [(0, "a"), (30, "b"), (90, "urgent"), (100, "a"), (130, "")]


def test_interrupt_work_first() -> None:
    machine = boot(1, [rules(quantum=1000), Urgent()], trace=True)
    start_at(machine, 0, bursts(100), name="a")
    cpu = machine.processors[0]
    machine.engine.at(20, lambda _: machine.interrupts.interrupt(cpu, 15))
    start_at(machine, 25, bursts(10), name="urgent")
    machine.run()
    assert switches(machine) == [(0, "a"), (35, "urgent"), (45, "a"), (125, "")]


def test_raised_irql_first() -> None:
    machine = boot(1, [rules(quantum=1000), Urgent()], trace=True)
    lock = machine.create_lock("l")
    start_at(machine, 0, iter([Acquire(lock), Compute(50), Release(lock), Compute(50)]), name="a")
    start_at(machine, 25, bursts(10), name="urgent")
    machine.run()
    assert switches(machine) == [(0, "a"), (50, "urgent"), (60, "a"), (110, "")]


@pytest.mark.parametrize("who", ["urgent", "a"])
def test_a_change_of_priority_makes_them_equals(who: str) -> None:
    """The waiting thread is raised to the running one's priority, or that one falls to its."""
    machine = boot(1, [rules(quantum=1000), Urgent()], trace=True)
    start_at(machine, 0, bursts(100), name="a", priority=10)
    start_at(machine, 0, bursts(10), name="urgent", priority=8)

    def change(_: object) -> None:
        thread = next(thread for thread in machine.threads.values() if thread.name == who)
        machine.scheduler.set_priority(thread, 10 if who == "urgent" else 8)

    machine.engine.at(40, change)
    machine.run()
    assert switches(machine) == [(0, "a"), (40, "urgent"), (50, "a"), (110, "")]


def test_the_first_that_may_run_there_is_asked_about() -> None:
    """One queue for all: the first waiting thread is bound to the other processor."""
    urgent = Urgent()
    machine = boot(2, [rules(quantum=1000), urgent], trace=True)
    lock = machine.create_lock("l")
    process = machine.create_process("p")
    machine.create_thread(
        process, iter([Acquire(lock), Compute(50), Release(lock), Compute(50)]), name="a", affinity=1
    )
    machine.create_thread(process, bursts(1000), name="b", affinity=2)
    start_at(machine, 10, bursts(500), name="bound", affinity=2)
    start_at(machine, 20, bursts(10), name="urgent", affinity=1)
    machine.run(200)
    assert (50, "urgent", "a") in urgent.asked
    assert (50, "urgent") in switches(machine)


def test_a_thread_is_compared_with_what_runs_where_it_may_run() -> None:
    """One queue for all, and nobody says which busy processor a thread goes to."""
    machine = boot(2, [rules(quantum=1000), Urgent()], trace=True)
    for index, name in enumerate("ab"):
        start_at(machine, 0, bursts(100), name=name, affinity=1 << index)
    start_at(machine, 10, bursts(10), name="urgent", affinity=2)
    machine.run()
    assert switches(machine) == [(0, "a"), (0, "b"), (10, "urgent"), (20, "b"), (100, ""), (110, "")]


# -- nothing, and nobody else is asked


@plugin(name="stay", summary="An idle processor stays so.", release="ws2003", before=("ws2003",))
class Stay:
    answer: Literal[False] | None = option(default=False, help="What it says.")

    @hookimpl
    def choose_thread(self) -> Literal[False] | None:
        return self.answer


@pytest.mark.parametrize(("answer", "end"), [(False, 200), (None, 101)])
def test_a_plugin_may_keep_a_processor_idle(answer: Literal[False] | None, end: int) -> None:
    machine = boot(2, [Ws2003(accounting="exact", starvation_scan=False), Stay(answer=answer)])
    process = machine.create_process("p")
    machine.create_thread(process, bursts(1), ideal=1)
    for _ in range(2):
        machine.create_thread(process, bursts(100), ideal=0, affinity=3)
    assert machine.run() == end
