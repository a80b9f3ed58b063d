"""Spinlocks that threads and DPCs want: by hand, by Lindley, Pollaczek and Khinchine, and by Little."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlab.errors import SimulationError
from ntlab.lab.statistics import t_quantile
from ntlab.machine import NOMINAL, Acquire, Compute, Machine, Release, Request, Sleep, SpinLock
from ntlab.testing import Recorder, boot, rules, small_tables


def hold(lock: SpinLock, time: int, before: int = 0, after: int = 0) -> Iterator[Request]:
    yield Compute(before)
    yield Acquire(lock)
    yield Compute(time)
    yield Release(lock)
    yield Compute(after)


def start(machine: Machine, processor: int, program: Iterator[Request], **options: Any) -> None:
    process = next(iter(machine.processes.values()), None) or machine.create_process("p")
    machine.create_thread(process, program, affinity=1 << processor, **options)


def dpc(machine: Machine, at: int, processor: int, time: int, lock: SpinLock | None = None) -> list[int]:
    """A DPC to come. The list gets the time at which it is done."""
    done: list[int] = []
    cpu = machine.processors[processor]
    machine.engine.at(
        at,
        lambda _: machine.interrupts.queue_dpc(
            cpu, time, lambda _: done.append(machine.engine.now), lock=lock
        ),
    )
    return done


def interrupt(machine: Machine, at: int, processor: int, time: int) -> None:
    machine.engine.at(at, lambda _: machine.interrupts.interrupt(machine.processors[processor], time))


def ends(machine: Machine) -> list[int]:
    return Recorder(machine)("Thread/End").times


# -- by hand -------------------------------------------------------------------------------------------


def test_a_dpc_spins_for_its_lock_and_holds_it() -> None:
    machine = boot(2, trace=True)
    lock = machine.create_lock("l")
    start(machine, 0, hold(lock, 10))
    start(machine, 1, hold(lock, 5, before=8, after=2))
    done = dpc(machine, 4, 1, 3, lock)
    machine.run()
    # It spins from 4 to 10 and works to 13. The thread below has computed for 4, goes on, and takes it at 17.
    assert done == [13]
    assert ends(machine) == [10, 24]
    cpu = machine.processors[1]
    assert (cpu.dpc_time, cpu.busy_time) == (9, 24)
    assert (lock.wait_time, lock.spin_time, lock.hold_time, lock.contentions) == (6, 6, 18, 1)
    (record,) = Recorder(machine)("PerfInfo/DPC")
    assert (record.time, record["initial_time"]) == (13, 4)
    assert [r["tid"] for r in machine.tracer.records("Contend")] == [0]


def test_acquisitions_and_contentions_are_counted() -> None:
    machine = boot(2)
    assert not any(name.startswith("Synchronization") for name in machine.counters())
    lock = machine.create_lock("l")
    start(machine, 0, hold(lock, 10))
    start(machine, 1, hold(lock, 5, before=8))
    machine.run(1000)
    per_second = {name: value for name, value in machine.counters().items() if "Spinlock" in name}
    assert per_second == {
        r"Synchronization(_Total)\Spinlock Acquires/sec": 2e6,
        r"Synchronization(_Total)\Spinlock Contentions/sec": 1e6,
    }


def test_a_thread_waits_for_a_dpc() -> None:
    machine = boot(2, trace=True)
    lock = machine.create_lock("l")
    start(machine, 0, hold(lock, 10, before=2))
    done = dpc(machine, 0, 1, 7, lock)
    machine.run()
    assert (done, ends(machine), lock.spin_time) == ([7], [17], 5)


def test_dpcs_wait_while_the_thread_of_their_processor_is_at_dispatch_level() -> None:
    machine = boot(2, trace=True)
    lock = machine.create_lock("l")
    start(machine, 0, hold(lock, 10, after=4))
    start(machine, 1, hold(lock, 5, after=4))
    on_holder, on_waiter = dpc(machine, 3, 0, 2), dpc(machine, 3, 1, 2, lock)
    interrupt(machine, 5, 0, 1)
    machine.run()
    # The interrupt makes the hold 11 long; then the DPC. The waiter has the lock till 16, and then its DPC.
    assert (on_holder, on_waiter) == ([13], [18])
    assert ends(machine) == [17, 22]


def test_a_processor_may_be_looked_at_before_it_begins_a_dpc_that_waited() -> None:
    machine = boot(1, hooks="checked", check_every=1)
    lock = machine.create_lock("l")
    start(machine, 0, hold(lock, 10))
    done = dpc(machine, 3, 0, 2)
    machine.run()
    assert done == [12]


def test_a_dpc_does_not_spin_while_it_is_interrupted() -> None:
    machine = boot(2, trace=True)
    lock = machine.create_lock("l")
    start(machine, 0, hold(lock, 10))
    done = dpc(machine, 2, 1, 3, lock)
    interrupt(machine, 4, 1, 9)
    machine.run()
    # It has the lock from 10 on, but goes on when the interrupt is over, at 13.
    assert (done, lock.wait_time, lock.spin_time, lock.hold_time) == ([16], 8, 2, 16)
    assert machine.processors[1].dpc_time == 5


def test_who_tests_and_sets_must_run_to_get_it() -> None:
    machine = boot(3, trace=True)
    lock = machine.create_lock("l", "test_and_set")
    start(machine, 0, hold(lock, 10))
    interrupted, other = dpc(machine, 2, 1, 3, lock), dpc(machine, 3, 2, 4, lock)
    interrupt(machine, 4, 1, 9)
    machine.run()
    assert (interrupted, other) == ([17], [14])
    assert lock.spin_time == 2 + 7 + 1  # before the interrupt, the other, and after it


def test_a_lock_that_nobody_took_is_taken_by_whoever_runs_again() -> None:
    machine = boot(2, trace=True)
    lock = machine.create_lock("l", "test_and_set")
    start(machine, 0, hold(lock, 10))
    done = dpc(machine, 2, 1, 3, lock)
    interrupt(machine, 4, 1, 9)
    machine.run()
    assert (done, lock.hold_time) == ([16], 13)


def test_spinning_takes_its_time_at_any_speed() -> None:
    machine = boot(2, trace=True)
    lock = machine.create_lock("l")
    start(machine, 0, hold(lock, 10))
    done = dpc(machine, 2, 1, 3, lock)
    machine.engine.at(4, lambda _: machine.scheduler.set_speed(machine.processors[1], NOMINAL // 2))
    machine.run()
    assert (done, lock.spin_time) == ([16], 8)


@pytest.mark.parametrize(
    ("discipline", "expected"), [("fifo", [10, 21, 32, 52]), ("test_and_set", [10, 22, 33, 53])]
)
def test_a_locks_line_takes_time_to_come(
    discipline: Literal["fifo", "test_and_set"], expected: list[int]
) -> None:
    machine = boot(1, [rules(lock_transfer=1)], tables=small_tables(4), trace=True)
    lock = machine.create_lock("l", discipline)
    for processor in range(3):
        start(machine, processor, hold(lock, 10))
    start(machine, 2, hold(lock, 10, before=10))
    machine.run()
    # Two wait for the first hold, so a line that both test comes in 1 + 1; then one does. The last takes it
    # where it is, after its 10 of computing.
    assert ends(machine) == expected


def test_a_locks_line_takes_longer_from_another_node() -> None:
    tables = small_tables(4, nodes=2)
    near, far = tables.latency[0]
    machine = boot(1, [rules(lock_transfer=1000)], tables=tables, trace=True)
    lock = machine.create_lock("l")
    start(machine, 0, hold(lock, 10))
    start(machine, 3, hold(lock, 10, before=100))
    machine.run()
    assert far > near
    assert ends(machine) == [10, 110 + round(1000 * far / near)]


# -- mistakes ------------------------------------------------------------------------------------------


def nested(*locks: SpinLock) -> Iterator[Request]:
    for lock in locks:
        yield Acquire(lock)
        yield Compute(1)
    for lock in reversed(locks):
        yield Release(lock)


def test_locks_taken_in_a_cycle_are_refused_though_nobody_waits_yet() -> None:
    machine = boot(1)
    a, b, c = (machine.create_lock(name) for name in "abc")
    for order in ((a, b), (b, c), (a, c), (a, b, c)):
        start(machine, 0, nested(*order))
    machine.run()
    start(machine, 0, nested(c, a))
    with pytest.raises(
        SimulationError, match=r"holds <SpinLock c> and acquires <SpinLock a>.*opposite order"
    ):
        machine.run()


def test_holding_and_spinning_count_while_they_last() -> None:
    machine = boot(2)
    lock = machine.create_lock("l")
    start(machine, 0, hold(lock, 10))
    start(machine, 1, hold(lock, 5, before=2))
    seen = []
    for time in (0, 2, 6, 10, 13, 15, 20):
        machine.run(time)
        seen.append((lock.held_so_far, lock.spun_so_far))
    assert seen == [(0, 0), (2, 0), (6, 4), (10, 8), (13, 8), (15, 8), (15, 8)]
    assert (lock.hold_time, lock.spin_time) == (15, 8)


def test_nobody_waits_while_holding_a_lock() -> None:
    """Windows stops with IRQL_NOT_LESS_OR_EQUAL there."""
    machine = boot(1, hooks="checked", check_every=1)
    lock = machine.create_lock("l")
    start(machine, 0, iter([Acquire(lock), Sleep(5), Release(lock)]))
    with pytest.raises(SimulationError, match=r"is held by .*, which waits: its IRQL is too high for that"):
        machine.run()


def test_a_lock_is_not_taken_twice_nor_freed_by_others() -> None:
    machine = boot(1)
    lock = machine.create_lock("l")
    start(machine, 0, nested(lock, lock))
    with pytest.raises(SimulationError, match="not recursive"):
        machine.run()
    machine = boot(1)
    lock = machine.create_lock("l")
    start(machine, 0, iter([Release(lock)]))
    with pytest.raises(SimulationError, match="holds"):
        machine.run()


# -- closed forms --------------------------------------------------------------------------------------


def lock_waits(machine: Machine, lock: SpinLock) -> list[int]:
    return [int(r["waited"]) for r in machine.tracer.records("Acquire") if r["lock"] == lock.id]


@pytest.mark.once
@pytest.mark.parametrize(
    ("holds", "name"),
    [((1000,), "M/D/1"), ((200, 200, 200, 3400), "M/G/1")],
    ids=["one hold", "batches of holds"],
)
def test_pollaczek_khinchine(holds: tuple[int, ...], name: str) -> None:
    """Poisson arrivals of load 0.8 at a lock, each on another of many processors."""
    rho, mean = 0.8, sum(holds) / len(holds)
    expected = rho / mean * sum(s * s for s in holds) / len(holds) / (2 * (1 - rho))
    if name == "M/D/1":
        assert math.isclose(expected, 2.0 * mean)
    means = []
    for seed in range(5):
        machine = boot(64, seed=seed, trace=True)
        lock = machine.create_lock("l")
        random = machine.streams.stream("test", name)
        arrivals, time = [], 0
        for number in range(4000):
            time += round(random.expovariate(rho / mean))
            hold_time = random.choice(holds)
            arrivals.append((time, hold_time))
            dpc(machine, time, number % 64, hold_time, lock)
        machine.run()
        waits = lock_waits(machine, lock)
        # The path is Lindley's, to the nanosecond.
        free, lindley = 0, []
        for at, hold_time in arrivals:
            lindley.append(max(0, free - at))
            free = max(free, at) + hold_time
        assert waits == lindley
        means.append(sum(waits[400:]) / len(waits[400:]))
    average = sum(means) / len(means)
    deviation = math.sqrt(sum((m - average) ** 2 for m in means) / (len(means) - 1))
    assert abs(average - expected) < t_quantile(len(means) - 1, 0.99) * deviation / math.sqrt(len(means))
    assert deviation / math.sqrt(len(means)) < 0.1 * expected


# -- whatever happens ----------------------------------------------------------------------------------

Step = tuple[Literal["compute", "sleep", "hold"], int]
STEPS = st.lists(st.tuples(st.sampled_from(["compute", "sleep", "hold"]), st.integers(0, 30)), max_size=6)
THREADS = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 15), STEPS), min_size=1, max_size=5)
WORKS = st.lists(
    st.tuples(
        st.integers(0, 100),
        st.integers(0, 2),
        st.sampled_from(["isr", "dpc", "locked", "speed"]),
        st.integers(0, 20),
    ),
    max_size=10,
)


@pytest.mark.once
@given(
    threads=THREADS,
    works=WORKS,
    discipline=st.sampled_from(["fifo", "test_and_set"]),
    transfer=st.sampled_from([0, 0, 3]),
)
@settings(max_examples=80)
def test_nothing_is_lost_and_littles_law_holds(
    threads: list[tuple[int, int, list[Step]]],
    works: list[tuple[int, int, str, int]],
    discipline: Literal["fifo", "test_and_set"],
    transfer: int,
) -> None:
    machine = boot(3, [rules(quantum=25, lock_transfer=transfer)], trace=True, hooks="checked")
    lock = machine.create_lock("l", discipline)

    def program(steps: list[Step]) -> Iterator[Request]:
        for kind, time in steps:
            if kind == "hold":
                yield Acquire(lock)
                yield Compute(time)
                yield Release(lock)
            else:
                yield Compute(time) if kind == "compute" else Sleep(time)

    for processor, priority, steps in threads:
        start(machine, processor, program(steps), priority=priority)
    done: list[list[int]] = []
    for at, processor, kind, amount in works:
        if kind == "isr":
            interrupt(machine, at, processor, amount)
        elif kind == "speed":
            cpu = machine.processors[processor]
            machine.engine.at(at, lambda _, cpu=cpu: machine.scheduler.set_speed(cpu, 0))
            machine.engine.at(at + amount, lambda _, cpu=cpu: machine.scheduler.set_speed(cpu, NOMINAL // 2))
        else:
            done.append(dpc(machine, at, processor, amount, lock if kind == "locked" else None))
    queue = 0
    machine.run(0)
    while (then := machine.engine.next_time()) is not None:
        queue += len(lock.waiters) * (then - machine.engine.now)
        machine.run(then)
        machine.check()
    assert not machine.threads
    assert all(len(each) == 1 for each in done)
    assert lock.holder is None
    assert not lock.waiters
    assert lock.acquisitions == sum(kind == "hold" for *_, steps in threads for kind, _ in steps) + sum(
        kind == "locked" for _, _, kind, _ in works
    )
    assert queue == lock.wait_time == sum(lock_waits(machine, lock))
    assert lock.spin_time <= lock.wait_time
