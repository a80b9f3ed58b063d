"""The models in ntlab, on the engine, stages, mailboxes and scheduler that experiments use."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import cycle
from time import process_time
from typing import Any

from workloads import MS, PERIODIC_DURATION, Task, Work, delays, interactive, periodic

from ntlab import __version__, hookimpl, plugin
from ntlab.engine import FOREVER, Engine
from ntlab.machine import (
    Compute,
    Machine,
    Mailbox,
    OrderedLevel,
    Processor,
    Request,
    SchedulerPolicy,
    Sleep,
    Stage,
    Thread,
)
from ntlab.topology import Tables, Topology
from ntlab.tracing import Tracer


@plugin(name="rules", summary="One ready queue for all processors, turns of 10 ms.", release="ws2003")
class Rules:
    @hookimpl
    def scheduler_policy(self) -> SchedulerPolicy:
        return SchedulerPolicy(quantum=10 * MS, fresh_quantum_after_wait=True)  # type: ignore[arg-type]


def processors(number: int) -> Tables:
    """A machine of one node with that many processors."""
    topology = Topology(f"{number}-processors")
    node = topology.add_node(memory=1 << 30)
    package = topology.add_package(node)
    for _ in range(number):
        topology.add_processor(topology.add_core(package))
    return topology.freeze()


def timeouts() -> tuple[int, float, float]:
    engine = Engine()

    def process(delay: int) -> Generator[int, Any, None]:
        for _ in range(1000):
            yield delay

    for delay in delays():
        engine.at(0, process(delay).send)
    start = process_time()
    engine.run()
    return 1_000_000, process_time() - start, engine.now / 1e9


def ping_pong(messages: int = 200_000) -> tuple[int, float, float]:
    engine = Engine()
    here, there = Mailbox(engine), Mailbox(engine)
    sent = 0

    def player(mine: Mailbox, other: Mailbox) -> Callable[[Any], None]:
        def receive(message: Any) -> None:
            nonlocal sent
            sent += 1
            if sent < messages:
                other.put(message)
                mine.get(receive)

        mine.get(receive)
        return receive

    player(here, there)
    player(there, here)
    here.put(0)
    start = process_time()
    engine.run()
    return messages, process_time() - start, float(sent)


SECOND = 1_000_000_000


def m_m_4(customers: int = 200_000) -> tuple[int, float, float]:
    engine = Engine()
    draw = random.Random(1).expovariate

    def service_time(customer: Any) -> int:
        return int(draw(1.0) * SECOND)

    stage = Stage(engine, service_time, lambda customer: None, servers=4)

    def source() -> Generator[int, Any, None]:
        for customer in range(customers):
            yield int(draw(3.2) * SECOND)
            stage.submit(customer)

    engine.at(0, source().send)
    start = process_time()
    engine.run()
    return customers, process_time() - start, stage.wait_time / SECOND / customers


def _threads(
    machine: Machine, waits: int, priority: int, seconds: int, work: Sequence[Work]
) -> tuple[int, float, float]:
    process = machine.create_process("benchmark")
    threads = []
    for burst, wait, is_interactive in work:
        program = cycle((Compute(burst), Sleep(waits * wait)))
        thread = machine.create_thread(process, program, priority=priority if is_interactive else 8)
        thread.context = is_interactive
        threads.append(thread)
    start = process_time()
    machine.run(seconds * SECOND)
    elapsed = process_time() - start
    # A thread that comes back to a processor is dispatched; a processor that goes idle dispatches nothing.
    dispatches = sum(p.context_switches for p in machine.processors)
    used = sum(machine.scheduler.run_time(t) for t in threads if t.context)
    return dispatches, elapsed, used / SECOND


def round_robin(
    seconds: int = 20, plugins: Sequence[object] = (), trace: bool = False
) -> tuple[int, float, float]:
    tracer = Tracer(enabled=trace)
    machine = Machine(processors(64), [Rules(), *plugins], tracer=tracer).boot()
    return _threads(machine, 1, 8, seconds, interactive())


def preemptive(
    seconds: int = 2, plugins: Sequence[object] = (), trace: bool = False
) -> tuple[int, float, float]:
    tracer = Tracer(enabled=trace)
    machine = Machine(processors(64), [Rules(), *plugins], tracer=tracer).boot()
    return _threads(machine, 2, 10, seconds, interactive())


@plugin(name="edf", summary="Global earliest deadline first; `thread.context` is the deadline.")
class EarliestDeadlineFirst:
    @hookimpl
    def thread_created(self, thread: Thread) -> None:
        thread.context = 0

    @hookimpl
    def ready_level(self) -> OrderedLevel:
        return OrderedLevel(lambda thread: thread.context)

    @hookimpl
    def turn_length(self) -> int:
        return FOREVER - 1  # no thread has a turn that ends

    @hookimpl
    def preempts(self, thread: Thread, running: Thread) -> bool:
        return bool(thread.context < running.context)

    @hookimpl
    def choose_busy_processor(self, thread: Thread) -> int:
        return max(thread.machine.processors, key=latest_deadline).index


def latest_deadline(processor: Processor) -> int:
    assert processor.thread is not None
    return int(processor.thread.context)


def edf() -> tuple[int, float, float]:
    machine = Machine(processors(64), [EarliestDeadlineFirst()]).boot()
    engine, process = machine.engine, machine.create_process("benchmark")
    responses: list[int] = []

    def jobs(number: int, task: Task) -> Iterator[Request]:
        released, compute, thread = task.offset, Compute(task.work), threads[number]
        while True:
            thread.context = released + task.period
            if released > engine.now:
                yield Sleep(released - engine.now)
            yield compute
            responses.append(engine.now - released)
            released += task.period

    threads: list[Thread] = []
    for number, task in enumerate(periodic()):
        threads.append(machine.create_thread(process, jobs(number, task)))
    start = process_time()
    machine.run(PERIODIC_DURATION)
    return len(responses), process_time() - start, sum(responses) / len(responses) / MS


MODELS = {f.__name__: f for f in (timeouts, ping_pong, m_m_4, round_robin, preemptive, edf)}
VERSION = f"ntlab {__version__}"
