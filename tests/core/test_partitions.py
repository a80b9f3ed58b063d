"""Child partitions: virtual processors against hand calculation, bare machines and conservation of time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlab.errors import SimulationError, UserError
from ntlab.hooks import Mode, hookimpl
from ntlab.machine import (
    NEVER_NOTIFY,
    NOMINAL,
    NOTIFY_LONG_SPIN_WAIT,
    Acquire,
    Compute,
    Machine,
    Partition,
    Release,
    Request,
    Sleep,
    SpinLock,
    Thread,
    VirtualProcessor,
    Yield,
)
from ntlab.plugin import option, plugin, state
from ntlab.quantities import GIB, MIB, MILLISECOND, Duration
from ntlab.testing import Faults, boot, bursts, rules, small_tables

MS = MILLISECOND


def ends(machine: Machine, log: dict[str, int], name: str, program: Iterator[Request]) -> Iterator[Request]:
    """The program, and a note of when it ended."""
    yield from program
    log[name] = machine.engine.now


def create(host: Machine, name: str = "vm", processors: int = 1, **more: Any) -> Partition:
    return host.partitions.create(name, processors=processors, memory=64 * MIB, **more)


def thread_on(machine: Machine, index: int, program: Iterator[Request]) -> Thread:
    process = next(iter(machine.processes.values()), None) or machine.create_process("work")
    return machine.create_thread(process, program, affinity=1 << index)


def guest_thread(partition: Partition, index: int, log: dict[str, int], *work: int) -> Thread:
    name = f"{partition.name}.{index}"
    return thread_on(partition.machine, index, ends(partition.machine, log, name, bursts(*work)))


# -- by hand ---------------------------------------------------------------------------------------------


def test_turns_of_the_host_are_turns_of_the_guests() -> None:
    host = boot(1, [rules(quantum=10 * MS)])
    log: dict[str, int] = {}
    for name, work in (("a", 15 * MS), ("b", 25 * MS)):
        guest_thread(create(host, name), 0, log, work)
    host.run()
    # a 0-10, b 10-20, a 20-25, b 25-40
    assert log == {"a.0": 25 * MS, "b.0": 40 * MS}


def test_a_waiter_burns_its_turn_when_the_holder_has_lost_its_processor() -> None:
    host = boot(1, [rules(quantum=10 * MS)])
    guest = create(host, processors=2).machine
    lock = guest.create_lock("lock", "test_and_set")
    thread_on(guest, 0, iter([Compute(9 * MS), Acquire(lock), Compute(2 * MS), Release(lock)]))
    log: dict[str, int] = {}
    thread_on(guest, 1, ends(guest, log, "waiter", iter([Compute(1 * MS), Acquire(lock), Release(lock)])))
    host.run()
    # 0-10 the holder, 10-20 the waiter: 1 ms of work and 9 ms of spinning; 20-21 the holder, then the waiter.
    assert log == {"waiter": 21 * MS}
    assert (lock.spin_time, lock.wait_time, lock.hold_time) == (9 * MS, 10 * MS, 12 * MS)


def test_a_fifo_lock_goes_to_a_waiter_that_does_not_run() -> None:
    host = boot(1, [rules(quantum=10 * MS)])
    partition = create(host, processors=3)
    guest = partition.machine
    lock = guest.create_lock("lock", "fifo")
    log: dict[str, int] = {}
    first = [Compute(8 * MS), Acquire(lock), Compute(3 * MS), Release(lock), Compute(20 * MS)]
    third = [Compute(12 * MS), Acquire(lock), Compute(1), Release(lock)]
    thread_on(guest, 0, iter(first))
    thread_on(guest, 1, iter([Compute(1 * MS), Acquire(lock), Release(lock)]))
    thread_on(guest, 2, ends(guest, log, "third", iter(third)))
    host.run()
    # 0-10 first has it; 10-20 second waits for it; 20-30 third computes; 31 first releases: now the second,
    # which runs from 40 on, has it for an instant and ends; third computes 40-42 and takes it.
    assert log["third"] == 42 * MS + 1


def test_a_switch_on_the_logical_processor_costs_the_guest_its_time() -> None:
    host = boot(1, [rules(quantum=10 * MS, switch_cost=1 * MS)])
    log: dict[str, int] = {}
    for name in "ab":
        guest_thread(create(host, name, plugins=[rules()]), 0, log, 12 * MS)
    host.run()
    # The turns: a 0-10, switch, b 11-21, switch, a 22-24, switch, b 25-27.
    assert log == {"a.0": 24 * MS, "b.0": 27 * MS}


def test_an_idle_virtual_processor_costs_nothing() -> None:
    host = boot(1, [rules(quantum=10 * MS)])
    log: dict[str, int] = {}
    idle, busy = create(host, "idle", 4), create(host, "busy")
    thread_on(idle.machine, 2, iter([Sleep(7 * MS), Compute(1 * MS), Sleep(50 * MS)]))
    guest_thread(busy, 0, log, 30 * MS)
    host.run()
    assert log == {"busy.0": 31 * MS}
    assert [vp.run_time for vp in idle.processors] == [0, 0, 1 * MS, 0]


def test_interrupts_and_speed_of_the_host_are_felt_by_the_guest() -> None:
    host = boot(1)
    log: dict[str, int] = {}
    guest_thread(create(host), 0, log, 10 * MS)
    processor = host.processors[0]
    host.engine.at(2 * MS, lambda _: host.interrupts.interrupt(processor, 3 * MS))
    host.engine.at(6 * MS, lambda _: host.scheduler.set_speed(processor, NOMINAL // 2))
    host.run()
    # 2 ms of work, 3 of the interrupt, 1 of work, and 7 at half speed.
    assert log == {"vm.0": 20 * MS}


def test_an_interrupt_in_the_guest_wakes_an_idle_virtual_processor() -> None:
    host = boot(1)
    partition = create(host)
    guest = partition.machine
    seen: list[int] = []

    def interrupt(_: object) -> None:
        guest.interrupts.interrupt(guest.processors[0], 2 * MS, lambda _: seen.append(host.engine.now))

    host.engine.at(5 * MS, interrupt)
    host.run()
    assert seen == [7 * MS]
    assert partition.processors[0].run_time == 2 * MS
    assert host.processors[0].thread is None


# -- the bare machine is the oracle ----------------------------------------------------------------------

WORK = st.lists(st.integers(0, 3).map(lambda n: 10 * n + 1), min_size=1, max_size=5)
"""Sums that are no multiple of 10, so that no work ends at the very end of a turn."""


@given(st.lists(WORK, min_size=1, max_size=5), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_guests_of_one_processor_are_scheduled_like_threads(works: list[list[int]], turns: int) -> None:
    host, bare = (boot(1, [rules(quantum=10 * turns)]) for _ in range(2))
    of_guests: dict[str, int] = {}
    of_threads: dict[str, int] = {}
    process = bare.create_process("bare")
    for i, work in enumerate(works):
        guest_thread(create(host, f"vm{i}"), 0, of_guests, *work)
        bare.create_thread(process, ends(bare, of_threads, f"vm{i}.0", bursts(*work)))
    host.run()
    bare.run()
    assert of_guests == of_threads


@given(st.lists(WORK, min_size=1, max_size=6), st.integers(1, 4), st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_a_guest_with_all_processors_to_itself_is_a_machine(
    works: list[list[int]], processors: int, quantum: int
) -> None:
    bare = boot(processors, [rules(quantum=quantum)])
    guest = create(boot(processors), processors=processors, plugins=[rules(quantum=quantum)]).machine
    # One thread a processor: with more, a turn that ends just when a thread wakes is a tie, and a virtual
    # processor wakes by an event of its own.
    works = works[:processors]
    logs: list[dict[str, int]] = []
    for machine in (bare, guest):
        log: dict[str, int] = {}
        logs.append(log)
        process = machine.create_process("work")
        for i, work in enumerate(works):
            steps = [step for ns in work for step in (Compute(ns), Sleep(ns % 7))]
            machine.create_thread(process, ends(machine, log, str(i), iter(steps)))
        machine.run()
    assert logs[0] == logs[1]


# -- whatever the guests do ------------------------------------------------------------------------------


@plugin(name="notifier", summary="Notifies after so many ns, and yields.", release="ws2008")
class Notifier:
    limit: int = option(default=3, help="ns")
    response: str = option(default="yield", help="yield, sibling or none")
    asked: list[tuple[VirtualProcessor, int]] = state(list)

    @hookimpl
    def spin_limit(self, lock: SpinLock) -> int | None:
        return self.limit if lock.machine.partition is not None else None

    @hookimpl
    def spun_long(self, lock: SpinLock, thread: Thread) -> None:
        assert lock.machine.partition is not None
        assert thread.processor is not None
        lock.machine.partition.hypercall(NOTIFY_LONG_SPIN_WAIT, thread.processor.virtual, lock.spun(thread))

    @hookimpl
    def long_spin_wait(self, vp: VirtualProcessor, spins: int) -> Yield | None:
        self.asked.append((vp, spins))
        if self.response == "sibling":
            # The one that has waited longest, lest two that spin pass the processor to and fro for ever.
            waiting = [other for other in vp.partition.processors if other.preempted]
            return Yield(to=min(waiting, key=lambda other: other.preempted_at, default=None))
        return Yield() if self.response == "yield" else None


STEP = st.tuples(st.sampled_from(["compute", "sleep", "locked"]), st.integers(1, 40))
GUESTS = st.lists(
    st.lists(st.tuples(st.integers(0, 2), st.lists(STEP, max_size=6)), min_size=1, max_size=5),
    min_size=1,
    max_size=3,
)


def steps(lock: SpinLock, program: list[tuple[str, int]]) -> Iterator[Request]:
    for kind, ns in program:
        if kind == "locked":
            yield from (Acquire(lock), Compute(ns), Release(lock))
        else:
            yield Sleep(ns) if kind == "sleep" else Compute(ns)


@pytest.mark.once
@given(
    guests=GUESTS,
    processors=st.integers(1, 3),
    quantum=st.integers(1, 30),
    discipline=st.sampled_from(["fifo", "test_and_set"]),
    response=st.sampled_from(["yield", "sibling", "none"]),
    hypercall=st.integers(0, 5),
    interrupts=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 2), st.integers(1, 9)), max_size=5),
)
@settings(max_examples=150, deadline=None)
def test_no_time_is_lost_or_made(
    guests: list[list[tuple[int, list[tuple[str, int]]]]],
    processors: int,
    quantum: int,
    discipline: Any,
    response: str,
    hypercall: int,
    interrupts: list[tuple[int, int, int]],
) -> None:
    host = boot(processors, [rules(quantum=quantum), Notifier(response=response)])
    host.partitions.hypercall_cost = hypercall
    threads: list[tuple[Thread, SpinLock, list[tuple[str, int]]]] = []
    for number, programs in enumerate(guests):
        guest = create(host, f"vm{number}", 3).machine
        lock = guest.create_lock("lock", discipline)
        for index, program in programs:
            threads.append((thread_on(guest, index, steps(lock, program)), lock, program))
    for time, index, duration in interrupts:
        processor = host.processors[index % processors]
        host.engine.at(time, lambda p, d=duration: host.interrupts.interrupt(p, d), processor)
    host.run(100_000)
    vps = [vp for child in host.partitions.children for vp in child.processors]
    # Everything ends, every processor is idle in the end, and all locks are free.
    assert all(not machine.threads for machine in (child.machine for child in host.partitions.children))
    assert all(p.thread is None for p in host.processors)
    assert all(lock.holder is None and not lock.waiters for _, lock, _ in threads)
    # A virtual processor's time is its guest's, or the hypervisor's; a guest's is work and spinning.
    run = sum(vp.run_time for vp in vps)
    assert sum(thread.run_time for thread, _, _ in threads) == run - sum(vp.hypervisor_time for vp in vps)
    work = sum(ns for _, _, program in threads for kind, ns in program if kind != "sleep")
    spun = sum(child_lock.spin_time for child_lock in {id(lock): lock for _, lock, _ in threads}.values())
    assert sum(thread.run_time for thread, _, _ in threads) == work + spun
    assert sum(vp.hypervisor_time for vp in vps) == hypercall * sum(vp.hypercalls for vp in vps)
    # A logical processor is busy with virtual processors and interrupts only.
    busy = sum(p.busy_time for p in host.processors)
    assert run <= busy <= run + sum(p.interrupt_time for p in host.processors)


def test_conservation_would_notice_a_guest_that_runs_without_its_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The property above must be able to fail: here a preempted guest is not stopped."""
    host = boot(1, [rules(quantum=10)])
    monkeypatch.setattr(VirtualProcessor, "stop", lambda self: None)
    threads = [guest_thread(create(host, name), 0, {}, 100) for name in "ab"]
    host.run(1000)
    vps = [vp for child in host.partitions.children for vp in child.processors]
    assert sum(thread.run_time for thread in threads) > sum(vp.run_time for vp in vps)


# -- records, random numbers, plugins --------------------------------------------------------------------


def contended(hooks: Mode) -> Machine:
    host = boot(2, [rules(quantum=20), Notifier(response="sibling")], trace=True, hooks=hooks)
    for number in range(2):
        guest = create(host, f"vm{number}", 3).machine
        lock = guest.create_lock("lock", "test_and_set")
        for index in range(3):
            thread_on(guest, index, steps(lock, [("compute", 5 + index), ("locked", 13)] * 10))
    host.run(10_000_000)
    assert not any(child.machine.threads for child in host.partitions.children)
    return host


def test_records_tell_the_machines_apart_and_are_the_same_in_both_hook_modes() -> None:
    host, plain = contended("direct"), contended("plain")
    assert host.tracer.digest() == plain.tracer.digest()
    providers = {record.provider for record in host.tracer.records()}
    assert {"NT Kernel Logger", "vm0/NT Kernel Logger", "vm1/NT Kernel Logger", "vm0/Lab-Lock"} <= providers
    assert "Lab-Lock" not in providers
    called = [record for record in host.tracer.records() if record.name == "Hypercall"]
    answered = [record for record in host.tracer.records() if record.name == "LongSpinWait"]
    assert len(called) == len(answered) > 0
    assert {record["code"] for record in called} == {8}


def test_a_subscriber_of_a_guest_sees_that_guest_only() -> None:
    from ntlab.machine.locks import ACQUIRE
    from ntlab.tracing import Tracer

    tracer = Tracer(enabled=False)
    seen: list[str] = []
    for name in ("vm0", "vm1"):
        tracer.of_partition(name).subscribe(ACQUIRE, lambda _, name=name: seen.append(name))
    host = Machine(small_tables(1), tracer=tracer).boot()
    for name in ("vm0", "vm1", "vm2"):
        guest = create(host, name).machine
        lock = guest.create_lock("lock")
        thread_on(guest, 0, iter([Acquire(lock), Release(lock)] * (1 + (name == "vm1"))))
    host.run()
    assert seen == ["vm0", "vm1", "vm1"]


def test_each_partition_has_random_numbers_of_its_own() -> None:
    def draws(*names: str) -> dict[str, float]:
        host = boot(1, seed=5)
        return {name: create(host, name).machine.streams.stream("x").random() for name in names}

    both = draws("a", "b")
    assert both["a"] != both["b"]
    assert draws("b")["b"] == both["b"]
    assert boot(1, seed=5).streams.stream("x").random() not in both.values()


def test_a_child_gets_plugins_of_its_own_with_the_hosts_options() -> None:
    mine = Notifier(limit=7)
    host = boot(1, [mine])
    (theirs,) = create(host).machine.plugins
    assert isinstance(theirs, Notifier)
    assert theirs is not mine
    assert theirs.limit == 7
    other = Notifier(limit=9)
    assert create(host, "other", plugins=[other]).machine.plugins == (other,)


def test_stopping_the_host_stops_its_children() -> None:
    stopped: list[str] = []

    @plugin(name="watcher", summary="Notes.", release="ws2003")
    class Watcher:
        @hookimpl
        def machine_stopped(self, machine: Machine) -> None:
            stopped.append(machine.name)

    host = boot(1, [Watcher()])
    create(host)
    host.stop()
    assert stopped == ["vm", "machine"]


# -- hypercalls and counters -----------------------------------------------------------------------------


def test_hypercalls_are_counted_and_cost_the_caller_its_time() -> None:
    host = boot(2, [Notifier(limit=10, response="none")])
    host.partitions.hypercall_cost = 5
    partition = create(host, processors=2)
    lock = partition.machine.create_lock("lock", "test_and_set")
    thread_on(partition.machine, 0, iter([Acquire(lock), Compute(100), Release(lock)]))
    thread_on(partition.machine, 1, iter([Acquire(lock), Release(lock)]))
    host.run(1000)
    # It spins 10 and calls 5, six times; then it has spun another 10 when the lock is free at 100.
    waiter = partition.processors[1]
    assert (waiter.run_time, waiter.hypervisor_time, lock.spin_time) == (100, 30, 70)
    (notifier,) = host.plugins
    assert isinstance(notifier, Notifier)
    assert notifier.asked == [(waiter, 10 * n) for n in range(1, 7)]
    counters = host.counters()
    of = "Hyper-V Hypervisor Virtual Processor"
    assert counters[rf"{of}(vm:Hv VP 1)\Hypercalls/sec"] == 6 / 1e-6
    assert counters[rf"{of}(vm:Hv VP 1)\Long Spin Wait Hypercalls/sec"] == 6 / 1e-6
    assert counters[rf"{of}(vm:Hv VP 0)\Hypercalls/sec"] == 0
    assert counters[rf"{of}(_Total)\Total Run Time"] == 2.0  # 200 ns in units of 100
    assert counters[rf"{of}(_Total)\Hypervisor Run Time"] == 0.3
    assert counters[r"Hyper-V Hypervisor\Partitions"] == 2
    assert counters[r"Hyper-V Hypervisor\Virtual Processors"] == 2


def test_a_machine_without_partitions_has_no_counters_of_a_hypervisor() -> None:
    assert not [name for name in boot(1).counters() if "Hyper-V" in name]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"processors": 0}, "0 virtual processors"),
        ({"processors": 5}, "expected 1 to 4"),
        ({"memory": 0}, "0 bytes"),
        ({"memory": GIB + 1}, f"expected 1 to {GIB}"),
    ],
)
def test_a_partition_that_cannot_be_is_refused(asked: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        boot(1).partitions.create("vm", **{"memory": MIB, **asked})


def test_memory_is_given_once() -> None:
    host = boot(1)
    host.partitions.create("a", memory=GIB - MIB)
    with pytest.raises(UserError, match=f"expected 1 to {MIB}"):
        host.partitions.create("b", memory=2 * MIB)
    host.partitions.create("c", memory=MIB)
    with pytest.raises(UserError, match="the machine has no memory left for partition 'd'"):
        host.partitions.create("d", memory=1)


def test_a_machine_without_memory_says_so() -> None:
    host = boot(tables=small_tables(memory=0))
    with pytest.raises(UserError, match="the machine has no memory for partition 'vm'"):
        host.partitions.create("vm")


def test_two_partitions_of_one_name_and_partitions_in_partitions_are_refused() -> None:
    host = boot(1)
    child = create(host).machine
    with pytest.raises(UserError, match="already"):
        create(host)
    with pytest.raises(UserError, match="PARTITION_TOO_DEEP"):
        create(child, "deeper")


def test_hypercalls_that_make_no_sense_are_refused() -> None:
    host = boot(1)
    partition = create(host)
    with pytest.raises(SimulationError, match="INVALID_HYPERCALL_CODE"):
        partition.hypercall(0x4242, partition.processors[0])
    with pytest.raises(SimulationError, match="is not running"):
        partition.hypercall(NOTIFY_LONG_SPIN_WAIT, partition.processors[0])


@pytest.mark.parametrize("attempts", [0, -1, NEVER_NOTIFY + 1])
def test_a_hypervisor_that_recommends_nonsense_is_told(attempts: int) -> None:
    @plugin(name="nonsense", summary="Recommends.", release="ws2008")
    class Nonsense:
        @hookimpl
        def spin_attempts(self) -> int:
            return attempts

    with pytest.raises(SimulationError, match="expected 1 to 4294967295"):
        create(boot(1, [Nonsense()]))


def test_without_an_answer_guests_are_told_never_to_notify() -> None:
    assert create(boot(1)).spin_attempts == NEVER_NOTIFY


@pytest.mark.once
def test_a_guest_goes_on_at_the_speed_of_its_logical_processor_whenever_that_changes() -> None:
    faults = Faults(kinds=("speeds",), interval=Duration(50_000), until=Duration(5_000_000))
    host = boot(2, [faults], hooks="checked", check_every=1)
    guest = host.partitions.create("guest", processors=2).machine
    process = guest.create_process("p")
    for _ in range(3):
        guest.create_thread(process, cycle([Compute(70_000), Sleep(30_000)]))
    host.run(6_000_000)
    assert faults.injected["speeds"] > 50
