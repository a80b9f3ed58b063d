"""V3: what a guest that notifies gains, by hand, by invariants, and against mechanisms that do nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ntlab
from distributions import write_distribution
from ntlab.errors import UserError
from ntlab.hooks import Mode
from ntlab.machine import NEVER_NOTIFY, Acquire, Compute, Machine, Partition, Release, Request
from ntlab.quantities import MIB, MICROSECOND, MILLISECOND
from ntlab.testing import boot, conformance, rules
from ntlab_enlightened_spinlocks import EnlightenedSpinlocks
from ntlab_enlightened_spinlocks.workloads import Contention

MS, US = MILLISECOND, MICROSECOND

# -- by hand ------------------------------------------------------------------------------------------


def holder_and_waiter(*plugins: object) -> tuple[Machine, Partition, dict[str, int]]:
    """Two virtual processors on one logical one; the first loses it while its thread holds a lock."""
    host = boot(1, [rules(quantum=10 * MS), *plugins])
    partition = host.partitions.create("vm", processors=2, memory=MIB)
    guest = partition.machine
    lock = guest.create_lock("lock", "test_and_set")
    seen: dict[str, int] = {}

    def program(name: str, before: int, inside: int) -> Iterator[Request]:
        yield Compute(before)
        yield Acquire(lock)
        yield Compute(inside)
        yield Release(lock)
        seen[name] = host.engine.now

    process = guest.create_process("work")
    guest.create_thread(process, program("holder", 9 * MS, 2 * MS), affinity=1)
    guest.create_thread(process, program("waiter", 1 * MS, 0), affinity=2)
    host.run(100 * MS)
    seen["spun"] = lock.spin_time
    return host, partition, seen


def test_without_it_the_waiter_burns_the_rest_of_its_turn() -> None:
    _, _, seen = holder_and_waiter()
    assert seen == {"holder": 21 * MS, "waiter": 21 * MS, "spun": 9 * MS}


@pytest.mark.parametrize("response", ["yield", "directed_yield"])
def test_with_it_the_waiter_spins_to_its_limit_and_calls(response: Any) -> None:
    host, partition, seen = holder_and_waiter(
        EnlightenedSpinlocks(attempts=100, iteration=20, response=response)
    )
    # The waiter computes to 11 ms, spins 100 times 20 ns and calls for 1 us; then the holder needs 1 ms more.
    assert seen == {"holder": 12 * MS + 3 * US, "waiter": 12 * MS + 3 * US, "spun": 2 * US}
    assert [vp.long_spin_waits for vp in partition.processors] == [0, 1]
    assert host.processors[0].busy_time == 12 * MS + 3 * US


def test_a_hypervisor_that_does_nothing_only_costs_the_hypercalls() -> None:
    ignored = EnlightenedSpinlocks(attempts=50_000, iteration=20, response="none")
    _, partition, seen = holder_and_waiter(ignored)
    # Spins of 1 ms, each followed by a call of 1 us: eight of them, and 0.992 ms, in the 9 ms that are left.
    assert seen == {"holder": 21 * MS, "waiter": 21 * MS, "spun": 9 * MS - 8 * US}
    assert partition.processors[1].hypercalls == 8


def test_the_caller_may_go_on_where_nobody_waits_for_its_processor() -> None:
    host = boot(2, [EnlightenedSpinlocks(attempts=100, iteration=20)])
    guest = host.partitions.create("vm", processors=2, memory=MIB).machine
    lock = guest.create_lock("lock", "test_and_set")
    process = guest.create_process("work")
    guest.create_thread(process, iter([Acquire(lock), Compute(10 * US), Release(lock)]), affinity=1)
    guest.create_thread(process, iter([Acquire(lock), Release(lock)]), affinity=2)
    host.run(MS)
    # 2 us of spinning and 1 us of calling, in turn.
    assert (lock.spin_time, lock.wait_time) == (7 * US, 10 * US)
    assert host.processors[1].busy_time == 10 * US


@pytest.mark.parametrize(("response", "held"), [("yield", 13_003 * US), ("directed_yield", 3_003 * US)])
def test_a_directed_yield_passes_other_guests_in_the_queue(response: Any, held: int) -> None:
    host = boot(
        1, [rules(quantum=10 * MS), EnlightenedSpinlocks(attempts=100, iteration=20, response=response)]
    )
    guest = host.partitions.create("vm", processors=2, memory=MIB).machine
    other = host.partitions.create("other", processors=1, memory=MIB).machine
    lock = guest.create_lock("lock", "test_and_set")
    process = guest.create_process("work")
    guest.create_thread(
        process, iter([Compute(9 * MS), Acquire(lock), Compute(2 * MS), Release(lock)]), affinity=1
    )
    guest.create_thread(process, iter([Compute(1 * MS), Acquire(lock), Release(lock)]), affinity=2)
    other.create_thread(other.create_process("busy"), iter([Compute(30 * MS)]))
    host.run(100 * MS)
    # Held from 9 ms on. The waiter gives up at 11.003 ms; the other guest's turn of 10 ms comes before the
    # holder's, or not.
    assert lock.hold_time == held


# -- who is concerned ---------------------------------------------------------------------------------


def contention(
    *plugins: object, logical: int = 2, until: int = 20 * MS, hooks: Mode = "direct", **options: Any
) -> tuple[Machine, Contention, dict[str, float]]:
    host = boot(logical, [rules(quantum=2 * MS), *plugins], seed=3, trace=True, hooks=hooks)
    workload = Contention(**{"memory": MIB, "stagger": 2 * MS, "think": 30 * US, **options})
    workload.start(host)
    host.run(until)
    host.stop()
    return host, workload, {metric.name: metric.value for metric in workload.measure(host)}


def digest(*plugins: object, **options: Any) -> str:
    return contention(*plugins, **options)[0].tracer.digest()


@pytest.mark.parametrize(
    ("partitions", "processors", "logical"),
    [
        pytest.param(1, 4, 4, id="a processor for each"),
        pytest.param(6, 1, 2, id="guests of one processor"),
    ],
)
def test_nobody_else_is_concerned(partitions: int, processors: int, logical: int) -> None:
    shape = {"partitions": partitions, "processors": processors, "logical": logical}
    assert digest(**shape) == digest(EnlightenedSpinlocks(), **shape)


def test_the_host_itself_spins_as_it_always_did() -> None:
    host = boot(2, [EnlightenedSpinlocks(attempts=1)])
    lock = host.create_lock("lock", "test_and_set")
    process = host.create_process("root")
    host.create_thread(process, iter([Acquire(lock), Compute(MS), Release(lock)]))
    host.create_thread(process, iter([Acquire(lock), Release(lock)]))
    host.run()
    assert lock.spin_time == MS


# -- whatever the options -----------------------------------------------------------------------------


@given(
    attempts=st.sampled_from([1, 30, 1000, 4095]),
    response=st.sampled_from(["yield", "directed_yield", "none"]),
    discipline=st.sampled_from(["test_and_set", "fifo"]),
    partitions=st.integers(1, 3),
    hypercall=st.integers(0, 3 * US),
    hold=st.integers(1, 10 * US),
)
@settings(max_examples=15, deadline=None)
def test_spinning_is_bounded_by_what_was_notified(
    attempts: int, response: Any, discipline: Any, partitions: int, hypercall: int, hold: int
) -> None:
    host, workload, measured = contention(
        EnlightenedSpinlocks(attempts=attempts, response=response),
        until=5 * MS,
        discipline=discipline,
        partitions=partitions,
        hypercall=hypercall,
        hold=hold,
    )
    vps = [vp for partition, _ in workload.guests for vp in partition.processors]
    calls = sum(vp.hypercalls for vp in vps)
    run = sum(vp.run_time for vp in vps)
    limit = attempts * 20
    # Each call follows so much spinning, and each wait may end before the next call.
    waits = sum(lock.contentions for _, lock in workload.guests)
    assert calls * limit <= round(measured["spinning_share"] * run) <= (calls + waits) * limit
    # One hypercall a processor may be under way.
    assert calls - len(vps) <= sum(vp.long_spin_waits for vp in vps) <= calls
    # Every hold is noted when it ends, with all the time since the lock was given away.
    locks = [lock for _, lock in workload.guests]
    assert sum(workload.holds) == sum(lock.hold_time for lock in locks)
    assert len(workload.holds) == sum(lock.acquisitions - (lock.holder is not None) for lock in locks)
    assert min(workload.holds, default=hold) >= hold
    busy = sum(p.busy_time + (host.engine.now - p.busy_since if p.thread else 0) for p in host.processors)
    assert run == busy <= 2 * 5 * MS


# -- what every plugin keeps --------------------------------------------------------------------------

test_conformance = conformance("enlightened_spinlocks")


# -- mistakes -----------------------------------------------------------------------------------------


@pytest.fixture
def shipped(installed_only: Callable[..., None], tmp_path: Path) -> None:
    """Only this plugin and the baseline are installed."""
    plugins = {
        "ws2003": "ntlab_ws2003:Ws2003",
        "enlightened_spinlocks": "ntlab_enlightened_spinlocks:EnlightenedSpinlocks",
    }
    write_distribution(tmp_path, "two-of-ntlab", plugins=plugins, modules={})
    installed_only(tmp_path)


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("enlightened_spinlocks.attempts", 0, "attempts"),
        ("enlightened_spinlocks.attempts", NEVER_NOTIFY + 1, "attempts"),
        ("enlightened_spinlocks.iteration", "0 ns", "iteration"),
        ("enlightened_spinlocks.response", "sleep", "response"),
        ("workload.processors", 5, "processors"),
        ("workload.memory", "64 GiB", "bytes of memory for partition"),
        ("workload.hold", "0 ns", "hold"),
    ],
)
def test_options_out_of_range_are_refused(option: str, value: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ntlab.run("spinlock-attempts", set={option: value, "duration": "1 ms"}, seeds=1)
