"""The locks of the scheduler's database: who holds which, for how long, and what expires under them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ntlab.hooks import hookimpl
from ntlab.machine import (
    Compute,
    Dpc,
    Machine,
    Processor,
    Request,
    SchedulerPolicy,
    SpinLock,
    TimerPolicy,
    WaitForTimer,
)
from ntlab.plugin import option, plugin
from ntlab.quantities import MILLISECOND
from ntlab.testing import Recorder, boot, exercise
from ntlab_ws2003 import Ws2003

TICK = 15_625_000


@plugin(name="locking", summary="Each timer has the lock that its number says, objects that of theirs.")
class Locking:
    """Timer and object n take lock n // `each`; odd ones of them none."""

    object_hold: int = option(default=7, help="Hold of an object's lock.")
    timer_time: int = option(default=10, help="Hold of a timer's lock.")
    expiration_time: int = option(default=0, help="The DPC's own time.")
    timers_per_hold: int = option(default=0, help="DPCs in a hold.")
    each: int = option(default=10, help="How many numbers have one lock.")
    asked: list[tuple[Any, ...]] = option(default=None, help="What was asked.")

    @hookimpl
    def scheduler_policy(self) -> SchedulerPolicy:
        return SchedulerPolicy(object_hold=self.object_hold)

    @hookimpl
    def timer_policy(self) -> TimerPolicy:
        return TimerPolicy(
            expiration_time=self.expiration_time,
            timer_time=self.timer_time,
            timers_per_hold=self.timers_per_hold,
        )

    @hookimpl
    def dispatcher_lock(
        self, machine: Machine, operation: str, number: int, waited_for: bool, processor: Processor
    ) -> SpinLock | None:
        if self.asked is not None:
            self.asked.append((operation, number, waited_for, processor.index))
        locks = {lock.name: lock for lock in machine.locks}
        name = str(number // self.each)
        return locks.get(name) or machine.create_lock(name)


def holds(machine: Machine) -> list[tuple[int, int, int]]:
    """For each hold of a lock: when it ended, which lock, how long."""
    return [(r.time, int(r["lock"]), int(r["held"])) for r in machine.tracer.records("Release")]


def expire(machine: Machine, timers: int, *, work: int = 0) -> list[int]:
    """That many timers expire at the first tick. The list gets when."""
    seen: list[int] = []
    for _ in range(timers):
        timer = machine.timers.create(Dpc("Seen", lambda _: seen.append(machine.engine.now - TICK), work))
        machine.timers.set(timer, MILLISECOND)
    machine.run()
    return seen


# -- objects -----------------------------------------------------------------------------------------


def test_an_operation_holds_the_lock_of_its_object_for_the_policys_time() -> None:
    locking = Locking(asked=[])
    machine = boot(2, [locking], trace=True)

    def program(processor: Processor, number: int) -> Iterator[Request]:
        yield from machine.dispatcher.operate(number, processor)
        yield from machine.dispatcher.operate(3, processor, hold=5, expires=True, waited_for=True)

    process = machine.create_process("p")
    for processor, number in zip(machine.processors, (12, 14), strict=True):
        machine.create_thread(process, program(processor, number), affinity=processor.bit)
    machine.run()
    assert holds(machine) == [(7, 1, 7), (12, 2, 5), (14, 1, 7), (19, 2, 5)]
    assert locking.asked == [
        ("object", 12, False, 0),
        ("object", 14, False, 1),
        ("timer", 3, True, 0),
        ("timer", 3, True, 1),
    ]


def test_without_an_answer_an_operation_takes_its_time_and_no_lock() -> None:
    machine = boot(1)
    process = machine.create_process("p")
    requests = machine.dispatcher.operate(1, machine.processors[0], hold=9)
    machine.create_thread(process, requests)
    assert machine.run() == 9
    assert not list(machine.locks)


def test_without_a_time_there_is_no_operation_and_nobody_is_asked() -> None:
    locking = Locking(object_hold=0, asked=[])
    machine = boot(1, [locking], trace=True)
    assert list(machine.dispatcher.operate(1, machine.processors[0])) == []
    assert expire(machine, 3) == [30, 30, 30]
    assert locking.asked == []
    assert holds(machine) == []


# -- timers ------------------------------------------------------------------------------------------


def test_what_expires_together_under_one_lock_is_one_hold() -> None:
    machine = boot(1, [Locking(expiration_time=4)], trace=True)
    # Timers 1 to 9 have one lock, 10 to 12 another.
    assert expire(machine, 12) == [4 + 90] * 9 + [4 + 120] * 3
    assert [(time - TICK, lock, held) for time, lock, held in holds(machine)] == [(94, 1, 90), (124, 2, 30)]


def test_a_hold_ends_after_so_many_timers_with_dpcs() -> None:
    machine = boot(1, [Locking(each=100, timers_per_hold=4)], trace=True)
    process = machine.create_process("p")
    for _ in range(3):
        timer = machine.timers.create()
        machine.create_thread(process, (request for request in [WaitForTimer(timer)]))
        machine.timers.set(timer, MILLISECOND)
    expire(machine, 9)
    assert [held for _, _, held in holds(machine)] == [70, 40, 10]


def test_the_timers_own_dpcs_run_without_the_lock() -> None:
    machine = boot(1, [Locking(each=100)], trace=True)
    assert expire(machine, 3, work=100) == [330] * 3
    assert [held for _, _, held in holds(machine)] == [30]


def test_expirations_wait_for_the_lock_that_a_thread_holds() -> None:
    machine = boot(2, [Locking(each=100)], trace=True)
    process = machine.create_process("p")

    def program() -> Iterator[Request]:
        yield Compute(TICK - 1000)
        yield from machine.dispatcher.operate(5, machine.processors[1], hold=3000)

    machine.create_thread(process, program(), affinity=2)
    assert expire(machine, 2) == [2020, 2020]
    (lock,) = machine.locks
    assert (lock.spin_time, lock.contentions) == (2000, 1)
    assert machine.processors[0].dpc_time == 2020


def test_a_timer_cancelled_while_its_dpc_spins_does_not_expire() -> None:
    machine = boot(2, [Locking(each=100)], trace=True)
    process = machine.create_process("p")
    operate = machine.dispatcher.operate(5, machine.processors[1], hold=TICK + 3000)
    machine.create_thread(process, operate, affinity=2)
    seen: list[int] = []
    timers = [machine.timers.create(Dpc("Seen", lambda t: seen.append(t.number))) for _ in range(3)]
    for timer in timers:
        machine.timers.set(timer, MILLISECOND)
    machine.engine.at(TICK + 1000, lambda _: machine.timers.cancel(timers[1]) and None)
    machine.run()
    machine.check()
    assert seen == [1, 3]


# -- the baseline ------------------------------------------------------------------------------------


def test_2003_has_one_lock_for_everything() -> None:
    machine = boot(
        2, [Ws2003(object_hold=4000, timer_time=8000, expiration_time=0, clock_time=0)], trace=True
    )
    process = machine.create_process("p")

    def program() -> Iterator[Request]:
        for number in range(3):
            yield from machine.dispatcher.operate(number, machine.processors[0])

    machine.create_thread(process, program())
    expire(machine, 40)
    assert [lock.name for lock in machine.locks] == ["dispatcher"]
    assert [held for _, _, held in holds(machine)] == [4000] * 3 + [16 * 8000, 16 * 8000, 8 * 8000]


@pytest.mark.parametrize("trait", [{}, {"dispatcher_queue": "test_and_set", "timers_per_hold": 1}])
def test_where_operations_take_no_time_nothing_changes(trait: dict[str, Any]) -> None:
    def digest(**options: Any) -> str:
        machine = boot(4, [Ws2003(**options)], seed=5, trace=True)
        exercise(machine, 1_000_000)
        for number in range(20):
            machine.timers.set(machine.timers.create(Dpc("D", lambda _: None)), number * MILLISECOND)
        machine.run()
        assert "dispatcher" not in {lock.name for lock in machine.locks}
        assert len(Recorder(machine)("Lab-Timer/Expire").times) == 20
        return machine.tracer.digest()

    assert digest(**trait) == digest()
