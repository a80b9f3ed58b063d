"""What is posted to a thread pool: bursts of work, and work that is there when its process is to end."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any, Literal

import attrs

from ntlab.errors import UserError
from ntlab.machine import (
    CleanupGroup,
    Compute,
    Machine,
    PostWork,
    ReleaseGroup,
    Request,
    Sleep,
    ThreadPool,
    Work,
)
from ntlab.plugin import Metric, option, state, workload
from ntlab.quantities import MILLISECOND, SECOND, Duration, format_duration

REASONS = ("post", "query", "take", "add", "wait", "set timer")


def ledger(pool: ThreadPool) -> str:
    """Its system calls by reason, and its threads over time, as a text."""
    lines = ["calls  reason     system call"]
    lines += [f"{count:5}  {reason:9}  {name}" for (reason, name), count in sorted(pool.calls.items())]
    lines += ["", "      time  threads"]
    last: dict[int, int] = dict(pool.history)  # what came of several changes at one time
    lines += [f"{format_duration(time):>10}  {threads:7}" for time, threads in last.items()]
    return "\n".join(lines) + "\n"


@workload(name="bursts", summary="A thread posts work to the pool of its process, in bursts.")
class Bursts:
    """Each piece of work computes and then may wait for something, as for a disk or another server."""

    bursts: int = option(default=3, help="How many bursts.", minimum=1)
    burst: int = option(default=40, help="Pieces of work in each.", minimum=1)
    every: Duration = option(default=Duration(30 * SECOND), help="From one burst to the next.", minimum=1)
    apart: Duration = option(default=Duration(0), help="From one post of a burst to the next.", minimum=0)
    work: Duration = option(
        default=Duration(10 * MILLISECOND), help="What a piece computes, in the mean.", minimum=0
    )
    law: Literal["fixed", "exponential"] = option(
        default="exponential", help="Whether all pieces compute alike, or for random times."
    )
    block: Duration = option(default=Duration(0), help="What it waits for after that.", minimum=0)
    long: bool = option(default=False, help="Whether it is posted as work that takes long.")
    look: Duration = option(default=Duration(SECOND), help="When its workers are counted.", minimum=0)
    processor_at: Duration = option(
        default=Duration(0),
        help="When the machine's last processor comes, if the kernel takes it; 0: it is there.",
        minimum=0,
    )

    _pool: ThreadPool = attrs.field(init=False, repr=False, eq=False)
    _responses: list[int] = state(list)
    _switches: int = state(int)
    _workers_then: int = state(int)
    _running_then: int = state(int)
    _random: Any = attrs.field(init=False, repr=False, eq=False)

    def start(self, machine: Machine) -> None:
        if self.processor_at and len(machine.processors) > 1:
            machine.partitioning.set_aside(1)
            machine.engine.at(machine.engine.now + self.processor_at, self._plug, machine)
        process = machine.create_process("server")
        self._pool = machine.thread_pools.create(process, "pool")
        self._random = machine.streams.stream("thread_pools.bursts", "work")
        machine.create_thread(process, self._post(machine), name="poster")
        machine.engine.at(machine.engine.now + self.look, self._count)

    def _plug(self, machine: Machine) -> None:
        if machine.partitioning.supports("add processor"):
            machine.partitioning.add_processor()

    def _count(self, _: object) -> None:
        self._workers_then = len(self._pool.workers)
        self._running_then = len(self._pool.running)

    def _post(self, machine: Machine) -> Iterator[Request]:
        begin = machine.engine.now
        for number in range(self.bursts):
            for _ in range(self.burst):
                yield PostWork(Work(self._pool, self._piece(machine), long=self.long))
                if self.apart:
                    yield Sleep(self.apart)
            rest = begin + (number + 1) * self.every - machine.engine.now
            if number + 1 < self.bursts and rest > 0:
                yield Sleep(rest)

    def _piece(self, machine: Machine) -> Callable[[], Iterator[Request]]:
        posted = machine.engine.now
        work = self.work if self.law == "fixed" else round(self._random.expovariate(1 / (self.work or 1)))

        def body() -> Iterator[Request]:
            yield Compute(work)
            if self.block:
                yield Sleep(self.block)
            self._responses.append(machine.engine.now - posted)
            self._switches = sum(each.context_switches for each in machine.processors)

        return body

    def views(self) -> dict[str, Callable[[Machine], str]]:
        return {"thread-pool": lambda machine: ledger(self._pool)}

    def measure(self, machine: Machine) -> list[Metric]:
        pool = self._pool
        done = len(self._responses)
        if not done:
            raise UserError("no work was done in the time given", where="duration", expected="a longer one")
        calls = dict.fromkeys(REASONS, 0)
        for (reason, _), count in pool.calls.items():
            calls[reason] += count
        now = machine.engine.now
        times = [*(time for time, _ in pool.history), now]
        area = sum(n * (times[k + 1] - times[k]) for k, (_, n) in enumerate(pool.history))
        return [
            *(Metric(f"{reason.replace(' ', '_')}_calls", calls[reason] / pool.posted) for reason in REASONS),
            Metric("calls", sum(calls.values()) / pool.posted),
            Metric("done", done),
            Metric("response", sum(self._responses) / done, "ns"),
            Metric("switches", self._switches / done),
            Metric("workers_added", pool.added),
            Metric("workers_then", self._workers_then),
            Metric("running_then", self._running_then),
            Metric("threads_peak", max(threads for _, threads in pool.history)),
            Metric("threads_mean", area / (now or 1)),
            Metric("threads_left", pool.threads),
        ]


@workload(name="shutdown", summary="A process with much work in its pool is to end.")
class Shutdown:
    """All work is posted at the beginning. At `stop` another thread has what has not begun taken back, where
    a pool can do that, and waits until nothing of it runs or will."""

    pieces: int = option(default=1000, help="Pieces of work.", minimum=1)
    work: Duration = option(
        default=Duration(10 * MILLISECOND), help="What each computes, in the mean.", minimum=1
    )
    law: Literal["fixed", "exponential"] = option(
        default="exponential", help="Whether all pieces compute alike, or for random times."
    )
    stop: Duration = option(
        default=Duration(500 * MILLISECOND), help="When the process is to end.", minimum=1
    )

    _pool: ThreadPool = attrs.field(init=False, repr=False, eq=False)
    _machine: Machine = attrs.field(init=False, repr=False, eq=False)
    _work_after: int = state(int)  # of the pieces that began after the stop, ns
    _began_after: int = state(int)
    _stopped: int | None = attrs.field(init=False, default=None, repr=False, eq=False)
    _backlog: int = state(int)
    _under_way: dict[object, int] = state(dict)  # for each piece that runs, when it would end by itself
    _last: int = state(int)
    _drained: int | None = attrs.field(init=False, default=None, repr=False, eq=False)

    def start(self, machine: Machine) -> None:
        self._machine = machine
        process = machine.create_process("server")
        pool = self._pool = machine.thread_pools.create(process, "pool")
        random = machine.streams.stream("thread_pools.shutdown", "work")
        group = CleanupGroup("all")
        work = [
            self.work if self.law == "fixed" else round(random.expovariate(1 / self.work))
            for _ in range(self.pieces)
        ]
        machine.create_thread(
            process, iter([PostWork(Work(pool, self._piece(ns), group=group)) for ns in work]), name="poster"
        )
        # It must not wait for its turn behind the work that it is to stop.
        machine.create_thread(process, self._stop(machine, group), name="stopper", priority=15)

    def _piece(self, work: int) -> Callable[[], Iterator[Request]]:
        def body() -> Iterator[Request]:
            if self._stopped is not None:
                self._began_after += 1
                self._work_after += work
            self._under_way[body] = self._machine.engine.now + work
            yield Compute(work)
            del self._under_way[body]

        return body

    def _stop(self, machine: Machine, group: CleanupGroup) -> Generator[Request, Any, None]:
        yield Sleep(self.stop)
        pool = self._pool
        self._stopped, self._backlog = machine.engine.now, pool.pending
        self._last = max(self._under_way.values(), default=self._stopped)
        yield ReleaseGroup(group, cancel=pool.policy.cancels)
        self._drained = machine.engine.now

    def measure(self, machine: Machine) -> list[Metric]:
        if self._stopped is None or self._drained is None:
            raise UserError(
                "the pool was not empty in the time given", where="duration", expected="a longer one"
            )
        return [
            Metric("backlog", self._backlog),
            Metric("began_after_stop", self._began_after),
            Metric("cancelled", self._pool.cancelled),
            Metric("drain_time", self._drained - self._stopped, "ns"),
            Metric("beyond_running", self._drained - self._last, "ns"),
            Metric("work_after_stop", self._work_after, "ns"),
            Metric("threads_peak", max(threads for _, threads in self._pool.history)),
        ]
