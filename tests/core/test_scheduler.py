"""The scheduler's exact behaviour, to the nanosecond (scheduling facts 1.1, 14.5 and 14.9)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntlab.errors import SimulationError, UserError
from ntlab.hooks import hookimpl
from ntlab.machine import (
    NOMINAL,
    Acquire,
    Compute,
    Machine,
    Mailbox,
    Receive,
    Release,
    Request,
    Sleep,
    Thread,
)
from ntlab.plugin import option, plugin
from ntlab.testing import Recorder, boot, bursts, rules

TICK = 15_625_000


def ends(machine: Machine) -> dict[str, int]:
    """When each thread ended, by name."""
    names = {r["tid"]: r["name"] for r in machine.tracer.records("Thread/Start")}
    return {str(names[r["tid"]]): r.time for r in machine.tracer.records("Thread/End")}


def switches(machine: Machine) -> list[tuple[int, int, str]]:
    """(time, processor, name of the new thread or "") for each context switch."""
    names = {r["tid"]: str(r["name"]) for r in machine.tracer.records("Thread/Start")}
    return [
        (r.time, int(r["cpu"]), names.get(r["new_tid"], "")) for r in machine.tracer.records("Thread/CSwitch")
    ]


# -- 14.5: round robin


def round_robin_end(i: int, jobs: int, quanta: int, quantum: int, cost: int) -> int:
    """When job i (1..jobs) of equal jobs that start together ends; the closed form of facts 14.5."""
    cost = cost if jobs > 1 else 0
    return (quanta - 1) * jobs * (quantum + cost) + i * quantum + (i - 1) * cost


def test_round_robin_gold() -> None:
    machine = boot(1, [rules(quantum=10, switch_cost=1)], trace=True)
    process = machine.create_process("jobs")
    for i in range(1, 4):
        machine.create_thread(process, bursts(40), name=f"{i}")
    machine.run()
    assert ends(machine) == {"1": 109, "2": 120, "3": 131}


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 50), st.integers(0, 9), st.booleans())
def test_round_robin_closed_form(jobs: int, quanta: int, quantum: int, cost: int, split: bool) -> None:
    machine = boot(1, [rules(quantum=quantum, switch_cost=cost)], trace=True)
    process = machine.create_process("jobs")
    for i in range(1, jobs + 1):
        work = [quantum] * quanta if split else [quanta * quantum]
        machine.create_thread(process, bursts(*work), name=f"{i}")
    machine.run()
    # A burst that ends with the turn ends no turn early: how the work is divided makes no difference.
    assert ends(machine) == {
        f"{i}": round_robin_end(i, jobs, quanta, quantum, cost) for i in range(1, jobs + 1)
    }


# -- 14.9: what a thread that hides from the clock tick is charged


@pytest.mark.parametrize("accounting", ["tick", "cycle", "exact"])
@pytest.mark.parametrize(("after_tick", "run"), [(0, 1), (0, TICK - 1), (1000, 5_000_000)])
def test_hiding_from_the_tick(accounting: str, after_tick: int, run: int) -> None:
    ticks = 64
    machine = boot(1, [rules(quantum=12 * TICK, tick=TICK, accounting=accounting)])
    process = machine.create_process("p")

    def hider() -> Iterator[Request]:
        yield Sleep(after_tick)
        for _ in range(ticks):
            yield Compute(run)
            yield Sleep(TICK - run)

    a = machine.create_thread(process, hider(), priority=9)
    b = machine.create_thread(process, bursts(1000 * TICK), priority=8)
    machine.run(ticks * TICK)
    machine.scheduler.suspend(machine.processors[0])  # account for the stretch that is under way
    if accounting == "tick":
        assert (a.charged_time, b.charged_time) == (0, ticks * TICK)
    else:
        assert (a.charged_time, b.charged_time) == (ticks * run, ticks * (TICK - run))
    assert (a.run_time, b.run_time) == (ticks * run, ticks * (TICK - run))


@pytest.mark.parametrize(
    ("accounting", "turn"),
    [
        ("exact", 3 * TICK),
        ("tick", 3 * TICK - TICK // 2),  # the tick it began in is charged whole
        (
            "cycle",
            3 * TICK + TICK - TICK // 2,
        ),  # the quantum is over in the middle of a tick: seen at its end
    ],
)
def test_first_turn_that_begins_within_a_tick(accounting: str, turn: int) -> None:
    machine = boot(1, [rules(quantum=3 * TICK, tick=TICK, accounting=accounting)], trace=True)
    process = machine.create_process("p")
    start = TICK // 2
    for name in "ab":
        machine.engine.at(
            start, lambda name: machine.create_thread(process, bursts(100 * TICK), name=name) and None, name
        )
    machine.run(10 * TICK)
    assert switches(machine)[:2] == [(start, 0, "a"), (start + turn, 0, "b")]


def test_interrupts_are_on_the_bill_by_tick_only() -> None:
    for accounting, second_turn in [("tick", 4 * TICK), ("cycle", 5 * TICK), ("exact", 4 * TICK + 1000)]:
        machine = boot(1, [rules(quantum=4 * TICK, tick=TICK, accounting=accounting)], trace=True)
        process = machine.create_process("p")
        for name in "ab":
            machine.create_thread(process, bursts(100 * TICK), name=name)
        machine.engine.at(100, lambda _, m=machine: m.interrupts.interrupt(m.processors[0], 1000))
        machine.run(6 * TICK)
        assert switches(machine)[1] == (second_turn, 0, "b"), accounting


# -- who runs: preemption, turns, affinity


def test_a_preempted_thread_goes_to_the_head_and_keeps_its_turn() -> None:
    machine = boot(1, [rules(quantum=100)], trace=True)
    process = machine.create_process("p")
    for name in "abc":
        machine.create_thread(process, bursts(200), name=name)

    def high() -> Iterator[Request]:
        yield Sleep(130)
        yield Compute(50)

    machine.create_thread(process, high(), name="high", priority=10)
    machine.run()
    # b's turn is 100..200: 30 of it before the interruption, 70 after.
    assert [s for s in switches(machine) if s[0] > 0][:5] == [
        (100, 0, "b"), (130, 0, "high"), (180, 0, "b"), (250, 0, "c"), (350, 0, "a"),
    ]  # fmt: skip


def test_a_preempted_thread_that_may_run_on_an_idle_processor_does() -> None:
    machine = boot(2, [rules(quantum=100)], trace=True)
    process = machine.create_process("p")
    machine.create_thread(process, bursts(100), name="free")
    machine.engine.at(
        10,
        lambda _: machine.create_thread(process, bursts(100), name="bound", priority=9, affinity=1) and None,
    )
    machine.run()
    assert ends(machine) == {"free": 100, "bound": 110}


def test_ready_time_restarts_when_a_thread_loses_its_processor() -> None:
    machine = boot(1, [rules(quantum=100)], trace=True)
    process = machine.create_process("p")
    for name in "ab":
        machine.create_thread(process, bursts(200), name=name)
    machine.run()
    waits = [(r.time, r.time - int(r["new_ready_time"])) for r in machine.tracer.records("Thread/CSwitch")]
    assert waits[:4] == [(0, 0), (100, 100), (200, 100), (300, 100)]


def test_raising_and_lowering_a_running_threads_priority() -> None:
    machine = boot(1, [rules(quantum=1000)], trace=True)
    process = machine.create_process("p")
    a = machine.create_thread(process, bursts(100), name="a")
    machine.create_thread(process, bursts(100), name="b")
    machine.engine.at(30, lambda _: machine.scheduler.set_priority(a, 7))
    machine.engine.at(60, lambda _: machine.scheduler.set_priority(a, 9))
    machine.run()
    assert switches(machine) == [(0, 0, "a"), (30, 0, "b"), (60, 0, "a"), (130, 0, "b"), (200, 0, "")]


def test_nobody_is_preempted_while_raised() -> None:
    machine = boot(1, [rules(quantum=10)], trace=True)
    process = machine.create_process("p")
    lock = machine.create_lock("l")

    def holder() -> Iterator[Request]:
        yield Acquire(lock)
        yield Compute(100)
        yield Release(lock)
        yield Compute(100)

    low = machine.create_thread(process, holder(), name="low")
    machine.engine.at(
        50, lambda _: machine.create_thread(process, bursts(10), name="high", priority=12) and None
    )
    machine.engine.at(60, lambda _: machine.scheduler.set_priority(low, 5))
    machine.run()
    assert switches(machine) == [(0, 0, "low"), (100, 0, "high"), (110, 0, "low"), (210, 0, "")]


def test_what_an_interrupt_wakes_runs_when_the_level_falls() -> None:
    machine = boot(1, [rules(quantum=1000)], trace=True)
    process = machine.create_process("p")

    class Wait(Request):
        def perform(self, thread: Thread) -> None:
            return None

    def sleeper() -> Iterator[Request]:
        yield Wait()
        yield Compute(10)

    high = machine.create_thread(process, sleeper(), name="high", priority=12)
    machine.create_thread(process, bursts(100), name="low")
    cpu = machine.processors[0]

    def isr(_: object) -> None:
        machine.interrupts.queue_dpc(cpu, 5, machine.scheduler.wake, high)
        machine.interrupts.queue_dpc(cpu, 7)

    machine.engine.at(20, lambda _: machine.interrupts.interrupt(cpu, 3, isr))
    machine.run()
    # 3 of service routine, 5 and 7 of DPCs: the switch is at 35, and low ends 25 late.
    assert [s for s in switches(machine) if s[0] > 0] == [(35, 0, "high"), (45, 0, "low"), (125, 0, "")]
    assert (cpu.interrupt_time, cpu.dpc_time, cpu.busy_time) == (3, 12, 125)


def test_a_processor_of_half_the_speed_takes_twice_the_time() -> None:
    machine = boot(1, trace=True)
    cpu = machine.processors[0]
    machine.create_thread(machine.create_process("p"), bursts(1000), name="a")
    machine.engine.at(200, lambda _: machine.scheduler.set_speed(cpu, NOMINAL // 2))
    machine.engine.at(600, lambda _: machine.scheduler.set_speed(cpu, 0))
    machine.engine.at(700, lambda _: machine.scheduler.set_speed(cpu, 2 * NOMINAL))
    machine.run()
    assert ends(machine) == {"a": 200 + 400 + 100 + 300}
    assert cpu.busy_time == 1000


# -- held back


@plugin(name="keeper", summary="Holds threads back.", release="ws2003")
class Keeper:
    """Lets `allowed` name how long a thread may run each time; 0 holds it until it is released."""

    allowed: Callable[[Thread], int | None] = option(default=lambda thread: None, help="The limit.")

    @hookimpl
    def run_limit(self, thread: Thread) -> int | None:
        return self.allowed(thread)


def test_a_limit_of_zero_holds_a_thread_until_it_is_released() -> None:
    open_from: dict[str, int] = {"b": 70}
    keeper = Keeper(
        allowed=lambda thread: 0 if thread.machine.engine.now < open_from.get(thread.name, 0) else None
    )
    machine = boot(1, [rules(quantum=1000), keeper], trace=True)
    process = machine.create_process("p")
    machine.create_thread(process, bursts(50), name="a")
    held = machine.create_thread(process, bursts(50), name="b")
    machine.engine.at(70, lambda _: machine.scheduler.release(held))
    machine.run()
    assert switches(machine) == [(0, 0, "a"), (50, 0, ""), (70, 0, "b"), (120, 0, "")]
    # It was not ready while it was held back: that is no starvation.
    assert [int(r["new_ready_time"]) for r in machine.tracer.records("Thread/CSwitch")] == [0, 50, 70, 120]
    with pytest.raises(SimulationError, match="not held back"):
        machine.scheduler.release(held)


# -- refusals


@pytest.mark.parametrize(
    "mistake",
    [
        lambda m, p: m.create_session(1, weight=0),
        lambda m, p: m.create_session(1, weight=10),
        lambda m, p: m.create_process("q", base_priority=0),
        lambda m, p: m.create_process("q", base_priority=32),
        lambda m, p: m.create_process("q", affinity=0),
        lambda m, p: m.create_process("q", affinity=0b100),
        lambda m, p: m.create_thread(p, bursts(1), priority=32),
        lambda m, p: m.create_thread(p, bursts(1), affinity=0b100),
        lambda m, p: m.create_thread(p, bursts(1), affinity=1, ideal=1),
    ],
)
def test_impossible_wishes_are_the_users_mistake(mistake: Callable[[Machine, Any], object]) -> None:
    machine = boot(2)
    process = machine.create_process("p")
    with pytest.raises(UserError):
        mistake(machine, process)
    assert machine.processors[0].thread is None


@pytest.mark.parametrize("request_", [Compute, Sleep])
@pytest.mark.parametrize("time", [-1, float("nan")])
def test_no_time_is_negative(request_: Callable[[Any], object], time: Any) -> None:
    with pytest.raises(SimulationError, match="expected 0 or more"):
        request_(time)


@pytest.mark.parametrize(
    "policy", [{"quantum": 0}, {"tick": -1}, {"switch_cost": -1}, {"accounting": "guess"}]
)
def test_impossible_rules(policy: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(policy))):
        rules(**policy)


@pytest.mark.parametrize("accounting", ["exact", "cycle"])
def test_a_sleep_at_once_after_another_keeps_its_increment(accounting: str) -> None:
    machine = boot(1, [rules(accounting=accounting)], trace=True)
    sleeps = [Sleep(1), Sleep(1, increment=2), Sleep(1), Sleep(1, increment=1)]
    machine.create_thread(machine.create_process("p"), iter(sleeps))
    machine.run()
    assert [r["increment"] for r in machine.tracer.records("Dispatcher/ReadyThread")] == [0, 2, 0, 1]


def test_a_program_that_is_no_generator_goes_on_without_results() -> None:
    machine = boot(1, trace=True)
    box = Mailbox(machine.engine)
    machine.create_thread(machine.create_process("p"), iter([Receive(box), Compute(10)]), name="a")
    machine.engine.at(5, box.put, "a message")
    machine.run()
    assert switches(machine) == [(0, 0, "a"), (0, 0, ""), (5, 0, "a"), (15, 0, "")]


def test_a_program_that_never_uses_time_is_found_out() -> None:
    machine = boot(1)

    def endless() -> Iterator[Request]:
        while True:
            yield Compute(0)

    machine.create_thread(machine.create_process("p"), endless(), name="busy")
    with pytest.raises(SimulationError, match="busy"):
        machine.run(1)


def test_turns_of_a_nanosecond_progress_at_a_quarter_of_the_speed() -> None:
    machine = boot(1, [rules(quantum=1)], trace=True)
    machine.processors[0].speed = NOMINAL // 4
    process = machine.create_process("p")
    for name in "ab":
        machine.create_thread(process, bursts(2), name=name)
    machine.run()
    # 16 ns of processor time for 4 ns of work: whatever the slices, none of it is lost.
    assert ends(machine) == {"a": 15, "b": 16}


def test_a_change_of_speed_does_not_cut_a_switch_short() -> None:
    machine = boot(1, [rules(quantum=10, switch_cost=6)], trace=True)
    process = machine.create_process("p")
    for name in "ab":
        machine.create_thread(process, bursts(10), name=name)
    cpu = machine.processors[0]
    machine.engine.at(12, lambda _: machine.scheduler.set_speed(cpu, NOMINAL // 2))
    machine.run()
    assert ends(machine) == {"a": 10, "b": 36}


def test_by_tick_a_turn_that_is_no_whole_number_of_ticks_ends_with_the_tick_that_uses_it_up() -> None:
    # 15 is used up by the second tick of 10, which is charged whole.
    machine = boot(plugins=[rules(quantum=15, tick=10, accounting="tick")], trace=True)
    process = machine.create_process("p")
    for name in ("one", "two"):
        machine.create_thread(process, bursts(50), name=name)
    machine.run(89)
    stretches = [(stretch.thread, stretch.start, stretch.end) for stretch in Recorder(machine).stretches()]
    assert stretches == [("one", 0, 20), ("two", 20, 40), ("one", 40, 60), ("two", 60, 80), ("one", 80, 89)]


def test_a_spinning_thread_finds_the_lock_free_though_its_processor_wakes_up_in_an_interrupt() -> None:
    machine = boot(2, trace=True)
    process = machine.create_process("p")
    lock = machine.create_lock("lock", "test_and_set")
    machine.create_thread(process, iter([Acquire(lock), Compute(100), Release(lock)]), name="first")
    second = iter([Compute(5), Acquire(lock), Compute(10), Release(lock)])
    machine.create_thread(process, second, name="second", affinity=0b10)
    stopped = machine.processors[1]
    machine.engine.at(10, lambda _: machine.scheduler.set_speed(stopped, 0))
    machine.engine.at(20, lambda _: machine.interrupts.interrupt(stopped, 7))
    machine.engine.at(110, lambda _: machine.scheduler.set_speed(stopped, NOMINAL))
    machine.run(1_000)
    assert ends(machine) == {"first": 100, "second": 110 + 7 + 10}
