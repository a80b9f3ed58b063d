"""Faults: each kind disturbs, at the same times for a seed, and nothing that they do breaks anything."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlab.hooks import Mode
from ntlab.machine import (
    NOMINAL,
    Compute,
    Machine,
    Sleep,
)
from ntlab.quantities import MIB, MICROSECOND, MILLISECOND, Duration
from ntlab.testing import Faults, Recorder, boot, bursts, exercise, rules, small_tables
from ntlab.testing.faults import KINDS, Kind
from ntlab_enlightened_spinlocks import EnlightenedSpinlocks
from ntlab_fair_share import FairShare
from ntlab_numa_home import NumaHome
from ntlab_paging_writes import PagingWrites
from ntlab_whea import Whea
from ntlab_ws2003 import Ws2003

US, MS = MICROSECOND, MILLISECOND
TABLES = small_tables(2, nodes=2, memory=2 * MIB)
OFTEN: dict[str, Any] = {"interval": 100 * US, "longest": 50 * US, "until": 20 * MS}
FEATURES = [EnlightenedSpinlocks, FairShare, NumaHome, PagingWrites, Whea]


def busy(*plugins: object, seed: int = 0, hooks: Mode = "direct", lasts: int = 20 * MS) -> Machine:
    """A machine on which everything that may be disturbed is in use."""
    machine = boot(plugins=plugins, tables=TABLES, seed=seed, trace=True, hooks=hooks)
    exercise(machine, lasts)
    return machine


def faults_of(machine: Machine) -> list[tuple[int, str]]:
    return [(record.time, str(record["kind"])) for record in Recorder(machine)("Lab-Faults/Fault")]


def test_the_same_for_a_seed() -> None:
    def digest(seed: int, hooks: Mode = "direct") -> str:
        machine = busy(Ws2003(), Faults(**OFTEN), seed=seed, hooks=hooks)
        machine.run()
        return machine.tracer.digest()

    assert digest(1) == digest(1) == digest(1, "plain") == digest(1, "checked") != digest(2)


def test_without_kinds_nothing_is_different() -> None:
    def digest(*plugins: object) -> str:
        machine = busy(Ws2003(), *plugins)
        machine.run()
        return machine.tracer.digest()

    assert digest(Faults(kinds=())) == digest() != digest(Faults(**OFTEN))


def test_one_kind_does_not_move_another() -> None:
    both, alone = (busy(Faults(kinds=kinds, **OFTEN)) for kinds in (("interrupts", "dpcs"), ("dpcs",)))
    both.run()
    alone.run()
    assert [fault for fault in faults_of(both) if fault[1] == "dpcs"] == faults_of(alone) != []


def test_they_come_as_often_as_asked_for_and_until_then() -> None:
    faults = Faults(kinds=("interrupts",), interval=100 * US, until=100 * MS)
    machine = boot(2, [faults], trace=True)
    machine.run()
    times = [time for time, _ in faults_of(machine)]
    assert faults.injected == {"interrupts": len(times)}
    assert 850 < len(times) < 1150  # 1000 expected, standard deviation 32
    assert 95 * MS < times[-1] <= 100 * MS
    assert sum(processor.interrupts for processor in machine.processors) == len(times)


@pytest.mark.once
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_disturbs_and_is_over_at_the_end(kind: Kind) -> None:
    faults = Faults(kinds=(kind,), **OFTEN)
    machine, calm = busy(Ws2003(), Whea(), faults), busy(Ws2003(), Whea())
    machine.run()
    calm.run()
    assert faults.injected.keys() == {kind}
    assert 8 <= faults.injected[kind] <= 300
    assert Recorder(machine)("Thread/CSwitch").times != Recorder(calm)("Thread/CSwitch").times
    assert not machine.threads
    assert all(processor.speed == NOMINAL and not processor.level for processor in machine.processors)
    assert not machine.io.pending
    machine.check()


def test_hardware_errors_come_to_those_sources_that_there_are() -> None:
    faults = Faults(kinds=("errors",), **OFTEN)
    machine = busy(Ws2003(), faults)
    machine.run()
    assert not faults.injected  # 2003 hears of no corrected error
    faults = Faults(kinds=("errors",), severities=("corrected", "recoverable"), **OFTEN)
    machine = busy(Ws2003(), Whea(), faults)
    machine.run()
    counts = machine.hardware_errors.counts
    assert counts["occurred"] == faults.injected["errors"] > 100
    assert counts["unseen"] == counts["passed over"] == 0
    assert set(Recorder(machine)("Error").values("severity")) == {"corrected", "recoverable"}


def test_a_2003_kernel_stops_at_an_uncorrected_error_and_is_disturbed_again_after_its_restart() -> None:
    machine = busy(Ws2003(), Faults(kinds=("errors",), severities=("recoverable",), **OFTEN))
    machine.run()
    assert machine.crash is not None
    again = machine.restart(1 * MS)
    exercise(again)
    again.run()
    assert again.crash is not None
    assert len(Recorder(again)("BugCheck")) == 2


def test_real_time_threads_keep_their_priority() -> None:
    machine = boot(plugins=[Faults(kinds=("priorities",), **OFTEN)], trace=True)
    process = machine.create_process("p", base_priority=16)
    thread = machine.create_thread(process, bursts(10 * MS))
    machine.run(5 * MS)
    assert thread.priority == 16
    assert not faults_of(machine)


def test_what_a_guest_may_not_feel_is_left_to_its_host() -> None:
    host = boot(4, [Ws2003(), Whea(), Faults(**OFTEN)], trace=True)
    guest = host.partitions.create("guest", processors=2).machine
    process = guest.create_process("p")
    for _ in range(3):
        guest.create_thread(process, iter([Compute(100 * US), Sleep(100 * US)] * 50))
    host.run()
    kinds = set(Recorder(guest)("Lab-Faults/Fault").values("kind"))
    assert kinds == set(KINDS) - {"speeds", "errors"}
    assert not guest.threads
    guest.check()
    host.check()


@st.composite
def plugin_sets(draw: st.DrawFn) -> list[object]:
    """2003 and some of its successors' features, or only some rules of the scheduler."""
    if draw(st.booleans()):
        features = draw(st.sets(st.sampled_from(FEATURES)))
        return [Ws2003(), *(feature() for feature in FEATURES if feature in features)]
    return [
        rules(
            quantum=draw(st.sampled_from([30 * US, 10 * MS])),
            tick=100 * US,
            accounting=draw(st.sampled_from(["exact", "cycle", "tick"])),
            ready_queues=draw(st.sampled_from(["shared", "per_processor"])),
            fresh_quantum_after_wait=draw(st.booleans()),
            switch_cost=draw(st.sampled_from([0, 2 * US])),
        )
    ]


@pytest.mark.once
@settings(max_examples=25)
@given(
    seed=st.integers(0, 1000),
    plugins=plugin_sets(),
    kinds=st.sets(st.sampled_from(KINDS), min_size=1).map(sorted).map(tuple),
    interval=st.sampled_from([20 * US, 100 * US, 1 * MS]),
    longest=st.sampled_from([0.01, 0.5, 1.0]),
    hosts=st.booleans(),
    hooks=st.sampled_from(get_args(Mode)),
)
def test_nothing_breaks(
    seed: int,
    plugins: list[object],
    kinds: tuple[Kind, ...],
    interval: int,
    longest: float,
    hosts: bool,
    hooks: Mode,
) -> None:
    long = int(longest * interval)  # so that processors have time for something else
    faults = Faults(kinds=kinds, interval=Duration(interval), longest=Duration(long), until=Duration(5 * MS))
    machine = busy(*plugins, faults, seed=seed, hooks=hooks, lasts=5 * MS)
    if hosts:
        exercise(machine.partitions.create("guest", memory=MIB).machine, 5 * MS)
    for time in range(0, 10 * MS, MS):
        machine.run(time)
        machine.check()
    machine.run(500 * MS)
    machine.check()
    assert not machine.partitions.children or not machine.partitions.children[0].machine.threads
    assert len(machine.threads) == sum(len(child.processors) for child in machine.partitions.children)
