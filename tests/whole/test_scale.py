"""Cost grows with the work, not with the machine; what has ended leaves nothing. Counted, not timed."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Iterator
from itertools import cycle
from types import FrameType
from typing import Any

import pytest

from ntlab.machine import Compute, Machine, Request, Sleep
from ntlab.testing import boot, rules
from ntlab_ws2003 import Ws2003

pytestmark = pytest.mark.once


def lines_an_event(machine: Machine, until: int) -> float:
    """How many lines of Python an event takes, on average, until then."""
    lines = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace

    before = machine.engine.events
    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        machine.run(until)
    finally:
        sys.settrace(previous)
    return lines / (machine.engine.events - before)


def steps(plugin: object, processors: int, threads: int) -> float:
    """Lines an event on a machine of that size, of threads that use half a processor each."""
    machine = boot(processors, [plugin])
    process = machine.create_process("p")
    for number in range(threads):
        work = Compute(400_000 + 7 * number), Sleep(600_000 + 1009 * (number % 40))
        machine.create_thread(process, cycle(work), priority=8 + 2 * (number % 2))
    machine.run(5_000_000)
    return lines_an_event(machine, 9_000_000)


POLICIES = {
    "shared": lambda: rules(),
    "per_processor": lambda: rules(ready_queues="per_processor"),
    "ws2003": Ws2003,
}


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_work_takes_the_same_steps_on_any_machine(policy: str) -> None:
    small, large = (steps(POLICIES[policy](), processors, 40) for processors in (64, 2048))
    assert large == pytest.approx(small, rel=0.05)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_load_takes_the_same_steps_on_any_machine(policy: str) -> None:
    small, large = (steps(POLICIES[policy](), processors, 2 * processors) for processors in (32, 256))
    assert large == pytest.approx(small, rel=0.25)  # a step that looked at all processors: times eight


def test_an_event_takes_the_same_steps_however_many_are_pending() -> None:
    def among(pending: int) -> float:
        machine = boot(1, [])
        for number in range(pending):
            machine.engine.at(number, lambda _: 1_000_000)
        machine.run(pending)
        return lines_an_event(machine, 1_000_000 + pending)  # each once

    few = among(1_000)
    for many in (16_000, 64_000):  # kept by day: some more steps, but not more and more
        assert among(many) < 2.5 * few


def test_finished_threads_leave_nothing_behind() -> None:
    machine = boot(4, [Ws2003()])
    process = machine.create_process("p")

    def program() -> Iterator[Request]:
        yield Compute(1_000_000)
        yield Sleep(1_000_000)

    def arrive(_: object) -> int:
        machine.create_thread(process, program())
        return 500_000

    machine.engine.at(0, arrive)
    machine.run(2_000_000_000)
    tracemalloc.start()
    try:
        sizes = []
        for _ in range(2):
            machine.run(machine.engine.now + 2_000_000_000)
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert process.threads_created > 10_000
    assert len(machine.threads) < 20
    assert sizes[1] - sizes[0] < 20_000  # 4,000 more threads ended meanwhile
