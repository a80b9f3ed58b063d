"""Threads that use their data over and over: what it costs them to be moved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator
from typing import Any

from ntlab.machine import (
    Allocate,
    Compute,
    Footprint,
    Machine,
    Request,
    Reuse,
    RunOn,
    Sleep,
    Tally,
    Thread,
    Touch,
)
from ntlab.plugin import Metric, option, state, workload
from ntlab.quantities import MICROSECOND, MILLISECOND, Duration, Size

OWNER = "ws2003.workers"
VISITORS_PRIORITY = 10


@workload(name="workers", summary="Threads that use their data over and over, and wait now and then.")
class Workers:
    """Each thread has memory of its own. In each round it works on its data, reads through some more memory,
    and then waits a while.

    Whenever it gets a processor, what that processor's caches lack of its data must come in first. What it
    reads through comes from memory each time. All memory is first touched where the thread begins to run, so
    it is in that node ever after.
    """

    threads: int = option(default=0, help="How many threads; 0 is one for each core.", minimum=0)
    data: Size = option(default=Size(200 << 10), help="What each thread uses, over and over.", minimum=1)
    written: bool = option(default=True, help="Whether the threads write to it.")
    streamed: int = option(
        default=16, help="Pages of other memory that a thread reads through in each round.", minimum=0
    )
    rounds: int = option(default=100, help="How often each thread works and waits.", minimum=1)
    work: Duration = option(default=Duration(300 * MICROSECOND), help="Work of a round.", minimum=1)
    wait: Duration = option(
        default=Duration(200 * MICROSECOND), help="Mean wait after a round, exponential.", minimum=0
    )

    visitors: int = option(
        default=0, help="Threads of higher priority that turn up on one processor after another.", minimum=0
    )
    visit: Duration = option(
        default=Duration(500 * MICROSECOND), help="How long a visitor computes there.", minimum=1
    )
    between_visits: Duration = option(
        default=Duration(MILLISECOND), help="Mean time from one of its visits to the next.", minimum=1
    )

    _tally: Tally = state(Tally)
    _footprints: list[Footprint] = state(list)
    _first: list[int] = state(list)  # lines that came before the second round
    _where: Counter[str] = state(Counter)
    _run_time: list[int] = state(list)
    _end: int = state(int)

    def start(self, machine: Machine) -> None:
        process = machine.create_process("workers")
        threads: list[Thread] = []
        for number in range(self.threads or machine.tables.cores):
            threads.append(machine.create_thread(process, self._program(machine, number, threads)))

        guests = machine.create_process("visitors", base_priority=VISITORS_PRIORITY)
        for number in range(self.visitors):
            machine.create_thread(guests, self._visits(machine, number))

    def _visits(self, machine: Machine, number: int) -> Iterator[Request]:
        random = machine.streams.stream(OWNER, f"visitor {number}")
        while len(self._run_time) < len(self._footprints) or not self._footprints:
            yield Sleep(round(random.expovariate(1 / self.between_visits)))
            yield RunOn(1 << random.randrange(machine.tables.processors))
            yield Compute(self.visit)

    def _program(self, machine: Machine, number: int, threads: list[Thread]) -> Generator[Request, Any, None]:
        thread, node_of = threads[number], machine.tables.node_of
        random = machine.streams.stream(OWNER, f"thread {number}")
        pages = -(-self.data // machine.memory.policy.page_size)
        region = yield Allocate(pages + self.streamed)
        yield Touch(region, write=True, accesses=0)
        footprint = Footprint(self.data, region=region, written=self.written, name=thread.name)
        self._footprints.append(footprint)
        yield Reuse(footprint)
        for number in range(self.rounds):
            yield Compute(self.work)
            if self.streamed:
                yield Touch(region, pages, self.streamed, tally=self._tally)
            if number == 0:
                self._first.append(footprint.refills.lines)
            self._where["ideal"] += thread.last == thread.ideal
            self._where["node"] += node_of[thread.last] == node_of[thread.ideal]
            self._where["all"] += 1
            if self.wait:
                yield Sleep(round(random.expovariate(1 / self.wait)))
        self._run_time.append(machine.scheduler.run_time(thread))
        self._end = machine.engine.now

    def measure(self, machine: Machine) -> list[Metric]:
        refills = [footprint.refills for footprint in self._footprints]
        again = sum(each.lines for each in refills) - sum(self._first)
        remote = sum(each.remote for each in refills)
        rounds = self._where["all"]
        return [
            Metric("lines_refilled", again / rounds),
            Metric("remote_lines", remote / rounds),
            Metric("remote_share", self._tally.remote_share),
            Metric("refill_time", sum(each.time for each in refills) / rounds, "ns"),
            Metric("refill_share", sum(each.time for each in refills) / sum(self._run_time)),
            Metric("at_ideal_processor", self._where["ideal"] / rounds),
            Metric("in_ideal_node", self._where["node"] / rounds),
            Metric("time", self._end, "ns"),
        ]
