"""What holds for any programs on any small machine: nothing lost, nothing idle for nothing, all repeatable.

The checks read the trace, not the scheduler's own state: from the records alone it must be possible to say
at any instant which thread runs where and which are ready.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, Literal

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlab.hooks import hookimpl
from ntlab.machine import NOMINAL, Acquire, Compute, Machine, OrderedLevel, Release, Request, Sleep, Thread
from ntlab.machine.threads import READY
from ntlab.plugin import plugin
from ntlab.testing import boot, rules
from ntlab.tracing import Record
from ntlab_ws2003 import Ws2003

pytestmark = pytest.mark.once

TICK = 1000
HARDWARE_TICK = 500_000

Step = tuple[Literal["compute", "sleep", "hold"], int]


@attrs.frozen
class Plan:
    """One random run.

    Threads are (start, priority, affinity, steps), disturbances (time, kind, processor or thread, amount).
    """

    processors: int
    threads: list[tuple[int, int, int, list[Step]]]
    disturbances: list[tuple[int, str, int, int]]
    policy: dict[str, Any]
    baseline: bool
    others: list[object]


@plugin(name="order", summary="An order, turns and preemption of its own.", release="ws2003")
class Order:
    """Who ran least is first, and takes the place of one that ran for a third of a turn more."""

    @hookimpl
    def ready_level(self) -> OrderedLevel:
        return OrderedLevel(lambda thread: thread.run_time)

    @hookimpl
    def turn_length(self, thread: Thread, left: int) -> int | None:
        quantum = thread.machine.scheduler.policy.quantum
        return None if thread.id % 3 == 0 else left or quantum * (1 + thread.id % 5)

    @hookimpl
    def preempts(self, thread: Thread, running: Thread) -> bool:
        scheduler = thread.machine.scheduler
        return 3 * (scheduler.run_time(running) - thread.run_time) > scheduler.policy.quantum


@plugin(name="neutral", summary="Asked for all that Order says, it changes nothing.", release="ws2003")
class Neutral:
    @hookimpl
    def ready_level(self, priority: int) -> deque[Thread] | OrderedLevel | None:
        return [None, deque(), OrderedLevel(lambda thread: 0)][priority % 3]

    @hookimpl
    def turn_length(self) -> None:
        return None

    @hookimpl
    def preempts(self, thread: Thread) -> bool | None:
        return None if thread.id % 2 else False


times = st.integers(0, 20) | st.integers(0, 5000)
steps = st.lists(st.tuples(st.sampled_from(["compute", "sleep", "hold"]), times), max_size=6)


@st.composite
def plans(
    draw: st.DrawFn,
    *,
    disturbed: bool = True,
    switch_cost: bool = True,
    others: st.SearchStrategy[list[object]] | None = None,
) -> Plan:
    processors = draw(st.integers(1, 4))
    everywhere = (1 << processors) - 1
    affinities = st.just(everywhere) | st.integers(1, everywhere)
    threads = st.lists(st.tuples(times, st.integers(1, 20), affinities, steps), max_size=8)
    kinds = ["interrupt", "dpc", "speed", "priority"] if disturbed else ["priority"]
    disturbance = st.tuples(times, st.sampled_from(kinds), st.integers(0, 7), st.integers(1, 300))
    return Plan(
        processors=processors,
        threads=draw(threads),
        disturbances=draw(st.lists(disturbance, max_size=8)),
        policy={
            "quantum": draw(st.integers(1, 3)) * TICK,
            "tick": TICK,
            "accounting": draw(st.sampled_from(["exact", "cycle", "tick"])),
            "switch_cost": draw(st.sampled_from([0, 3])) if switch_cost else 0,
            "fresh_quantum_after_wait": draw(st.booleans()),
        },
        baseline=draw(st.booleans()),
        others=draw(others if others is not None else st.sampled_from([[], [Order()]])),
    )


def simulate(plan: Plan, *, scale: int = 1, hooks: Literal["direct", "plain"] = "direct") -> Machine:
    """Run a plan to its end, with all its times `scale` times as long."""
    policy = plan.policy | {name: plan.policy[name] * scale for name in ("quantum", "tick", "switch_cost")}
    if plan.baseline:
        # The baseline's clock may not be as fast as this file's; nothing else depends on the unit of time.
        scale *= HARDWARE_TICK // TICK
        policy |= {name: plan.policy[name] * scale for name in ("quantum", "tick", "switch_cost")}
        base: object = Ws2003(**policy, starvation_scan=False)
    else:
        base = rules(**policy)
    machine = boot(plan.processors, [base, *plan.others], trace=True, hooks=hooks)
    process = machine.create_process("p")
    lock = machine.create_lock("l", "test_and_set")

    def program(todo: list[Step]) -> Iterator[Request]:
        for kind, amount in todo:
            if kind == "sleep":
                yield Sleep(amount * scale, increment=amount % 3)
            elif kind == "compute":
                yield Compute(amount * scale)
            else:
                yield Acquire(lock)
                yield Compute(amount * scale)
                yield Release(lock)

    def start(thread: tuple[int, int, int, list[Step]]) -> None:
        _, priority, affinity, todo = thread
        machine.create_thread(process, program(todo), priority=priority, affinity=affinity)

    def disturb(disturbance: tuple[int, str, int, int]) -> None:
        _, kind, number, amount = disturbance
        processor = machine.processors[number % plan.processors]
        if kind == "interrupt":
            machine.interrupts.interrupt(processor, amount * scale)
        elif kind == "dpc":
            machine.interrupts.queue_dpc(processor, amount * scale)
        elif kind == "speed":
            machine.scheduler.set_speed(processor, NOMINAL * amount // 100)
        else:
            threads = list(machine.threads.values())
            if threads:
                machine.scheduler.set_priority(threads[number % len(threads)], amount % 15 + 1)

    for thread in plan.threads:
        machine.engine.at(thread[0] * scale, start, thread)
    for disturbance in plan.disturbances:
        machine.engine.at(disturbance[0] * scale, disturb, disturbance)
    machine.run()
    return machine


def instants(machine: Machine) -> Iterator[tuple[dict[int, int], set[int]]]:
    """The state after each instant with records: the thread on each busy processor, and the ready threads."""
    running: dict[int, int] = {}
    ready: set[int] = set()
    last: Record | None = None
    for record in machine.tracer.records(
        "Thread/CSwitch", "Dispatcher/ReadyThread", "Thread/Start", "Thread/End"
    ):
        if last is not None and record.time > last.time:
            yield running, ready
        last = record
        if record.name == "Thread/CSwitch":
            cpu, new, old = int(record["cpu"]), int(record["new_tid"]), int(record["old_tid"])
            assert running.get(cpu, 0) == old, "the old thread is the one that ran"
            running.pop(cpu, None)
            if old and record["old_state"] == READY:
                ready.add(old)
            if new:
                assert new in ready, "a thread was ready before it ran"
                assert new not in running.values(), "a thread runs in one place"
                ready.remove(new)
                running[cpu] = new
        elif record.name != "Thread/End":
            ready.add(int(record["tid"]))
    yield running, ready


@settings(max_examples=150, deadline=None)
@given(plans())
def test_no_thread_is_lost(plan: Plan) -> None:
    machine = simulate(plan)
    started = [r["tid"] for r in machine.tracer.records("Thread/Start")]
    ended = [r["tid"] for r in machine.tracer.records("Thread/End")]
    assert len(started) == len(plan.threads)
    assert sorted(started) == sorted(ended)
    assert not machine.threads
    assert machine.scheduler.idle_mask == machine.scheduler.all_mask
    assert machine.scheduler.ready_count == machine.scheduler.waiting_queues == 0
    assert all(processor.plan is None for processor in machine.processors)
    *_, (running, ready) = instants(machine)
    assert not running
    assert not ready


@settings(max_examples=150, deadline=None)
@given(plans())
def test_no_processor_idles_while_a_thread_that_may_use_it_is_ready(plan: Plan) -> None:
    machine = simulate(plan)
    starts = [int(r["tid"]) for r in machine.tracer.records("Thread/Start")]
    # Threads start in the order of time, then of the plan.
    affinity = dict(zip(starts, (t[2] for t in sorted(plan.threads, key=lambda t: t[0])), strict=True))
    for running, ready in instants(machine):
        idle = sum(1 << cpu for cpu in range(plan.processors) if cpu not in running)
        assert not any(affinity[tid] & idle for tid in ready)


@settings(max_examples=100, deadline=None)
@given(plans(disturbed=False, switch_cost=False))
def test_time_on_processors_is_time_of_threads_is_work_and_spinning(plan: Plan) -> None:
    machine = simulate(plan)
    scale = HARDWARE_TICK // TICK if plan.baseline else 1
    work = sum(amount for t in plan.threads for kind, amount in t[3] if kind != "sleep") * scale
    spun = sum(int(r["spun"]) for r in machine.tracer.records("Acquire"))
    ran = sum(int(r["run_time"]) for r in machine.tracer.records("Thread/End"))
    assert ran == work + spun
    assert sum(processor.busy_time for processor in machine.processors) == ran


@settings(max_examples=60, deadline=None)
@given(plans())
def test_both_hook_modes_and_every_repetition_give_the_same_trace(plan: Plan) -> None:
    first = simulate(plan)
    assert simulate(plan).tracer.digest() == first.tracer.digest()
    assert simulate(plan, hooks="plain").tracer.digest() == first.tracer.digest()


@settings(max_examples=60, deadline=None)
@given(plans(others=st.just([])))
def test_asking_for_an_order_that_nobody_wants_changes_nothing(plan: Plan) -> None:
    neutral = attrs.evolve(plan, others=[Neutral()])
    assert simulate(neutral).tracer.digest() == simulate(plan).tracer.digest()


@settings(max_examples=60, deadline=None)
@given(plans(disturbed=False), st.sampled_from([2, 3, 7]))
def test_all_times_scale_together(plan: Plan, factor: int) -> None:
    if plan.baseline:
        plan = attrs.evolve(plan, baseline=False)  # its clock has a range

    def story(machine: Machine, scale: int) -> list[tuple[Any, ...]]:
        """Times are divided exactly; which thread ran where is compared as it is."""
        told = []
        for record in machine.tracer.records("Thread/CSwitch", "Dispatcher/ReadyThread", "Acquire"):
            assert record.time % scale == 0
            fields = dict(record.fields)
            for name in ("new_ready_time", "waited", "spun"):
                if name in fields:
                    fields[name] = int(fields[name]) // scale
            told.append((record.time // scale, record.name, *fields.values()))
        return told

    assert story(simulate(plan, scale=factor), factor) == story(simulate(plan), 1)
