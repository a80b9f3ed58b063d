"""Requests that arrive by chance, with or without data of their own: how long they take, what that costs."""

from __future__ import annotations

import random
from collections.abc import Generator
from typing import Any, Literal

import attrs

from ntlab.errors import UserError
from ntlab.machine import (
    Allocate,
    Compute,
    Footprint,
    Machine,
    Process,
    Refills,
    Region,
    Request,
    Reuse,
    Sleep,
    Tally,
    Thread,
    Touch,
)
from ntlab.plugin import Metric, option, state, workload
from ntlab.quantities import MILLISECOND, SECOND, Duration, Share, Size

OWNER = "core_parking.requests"


@attrs.define
class _Mark:
    """Totals at the beginning of what is measured."""

    time: int = 0
    energy: int = 0
    parked: int = 0
    sleep: int = 0
    deep: int = 0
    refill: int = 0
    accesses: int = 0
    remote: int = 0
    stalls: int = 0
    moves: int = 0


@workload(
    name="requests", summary="Requests that arrive by chance, each for a thread of its own or a tenant's."
)
class Requests:
    """Requests arrive at random (Poisson), with times of one `law`; together they want `load` of the machine.

    Without tenants each has a thread of its own. With tenants each is for one of them: the tenant's thread
    serves its requests one by one, in the order of arrival. It has `memory` in its ideal node, for which it
    waits `stalled` of its time if it runs there, and a working set of `data` in the caches.

    All times are the same in all arms. A load is a part of all processors at their nominal clock.
    """

    load: Share = option(default=Share(0.25), help="Part of all processors that the requests want.")
    service: Duration = option(
        default=Duration(4 * MILLISECOND), help="Mean time that a request takes, alone.", minimum=1
    )
    law: Literal["exponential", "constant"] = option(default="exponential", help="Whether those times vary.")
    step_at: Duration = option(
        default=Duration(0), help="From when on the load is `step`; 0: never.", minimum=0
    )
    step: Share = option(default=Share(0.9), help="The load from `step_at` on.")
    clock: bool = option(
        default=False, help="Whether the clock's ticks are simulated, which wake processors that sleep."
    )
    warm_up: Duration = option(
        default=Duration(SECOND),
        help="What is measured begins then, or at `step_at` if there is one.",
        minimum=0,
    )
    tenants: int = option(default=0, help="How many tenants; 0: each request has a thread.", minimum=0)
    stalled: Share = option(
        default=Share(0.0), help="Part of a tenant's time in which it waits for its memory, if that is local."
    )
    memory: Size = option(default=Size(1 << 20), help="Memory of a tenant.", minimum=4096)
    data: Size = option(
        default=Size(0),
        help="A tenant's working set in the caches, brought in again where it is cold.",
        minimum=0,
    )

    _responses: list[tuple[int, int, int]] = state(list)  # when each ended, how long it took, and alone
    _tally: Tally = state(Tally)
    _refills: Refills = state(Refills)
    _mark: _Mark | None = attrs.field(init=False, default=None, repr=False)
    _moves: int = state(int)

    def start(self, machine: Machine) -> None:
        if self.clock:
            machine.timers.start_clock()
        process = machine.create_process("requests")
        for number in range(self.tenants):
            threads: list[Thread] = []
            program = self._tenant(machine, number, threads)
            threads.append(machine.create_thread(process, program))
        if not self.tenants:
            times = machine.streams.stream(OWNER, "arrivals"), machine.streams.stream(OWNER, "services")
            machine.engine.at(0, self._arrivals(machine, process, *times).send)
        begin = self.step_at or self.warm_up
        machine.engine.at(begin, self._begin, machine)

    def _gap(self, machine: Machine, stream: random.Random, sources: int) -> int:
        """Until the next arrival at one of so many sources, at the present load."""
        load = self.step if 0 < self.step_at <= machine.engine.now else self.load
        rate = load * machine.tables.processors / self.service / sources
        return round(stream.expovariate(rate)) if rate else 1 << 60

    def _work(self, stream: random.Random) -> int:
        return self.service if self.law == "constant" else round(stream.expovariate(1 / self.service))

    def _arrivals(
        self, machine: Machine, process: Process, gaps: random.Random, works: random.Random
    ) -> Generator[int, Any, None]:
        while True:
            yield self._gap(machine, gaps, 1)
            machine.create_thread(process, self._one(machine, machine.engine.now, self._work(works)))

    def _one(self, machine: Machine, due: int, work: int) -> Generator[Request, Any, None]:
        yield Compute(work)
        self._done(machine, due, work)

    def _tenant(self, machine: Machine, number: int, threads: list[Thread]) -> Generator[Request, Any, None]:
        thread, tables = threads[0], machine.tables
        stream = machine.streams.stream(OWNER, f"tenant {number}")
        home = tables.node_of[thread.ideal]
        pages = self.memory // machine.memory.policy.page_size
        region: Region | None = yield Allocate(pages, node=home)
        if region is None:
            raise UserError("the machine's memory is full", where=f"{OWNER}: memory", expected="less")
        machine.memory.populate(region, home)
        if self.data:
            yield Reuse(Footprint(self.data, node=home, name=thread.name, refills=self._refills))
        engine, last, due = machine.engine, thread.last, 0
        while True:
            due += self._gap(machine, stream, self.tenants)
            work = self._work(stream)
            if due > engine.now:
                yield Sleep(due - engine.now)
            stalls = round(work * self.stalled)
            yield Compute(work - stalls)
            if stalls:
                # So many accesses, one after another, as take that long from the node's own memory.
                lines = max(1, stalls // tables.latency[home][home] // pages)
                yield Touch(region, accesses=lines, tally=self._tally)
            self._moves += thread.last != last
            last = thread.last
            self._done(machine, due, work)

    def _done(self, machine: Machine, due: int, work: int) -> None:
        self._responses.append((machine.engine.now, machine.engine.now - due, work))

    # -- what is measured ----------------------------------------------------------------------------------

    def _begin(self, machine: Machine) -> None:
        self._mark = self._totals(machine)

    def _totals(self, machine: Machine) -> _Mark:
        power = machine.power
        return _Mark(
            time=machine.engine.now,
            energy=power.energy if power is not None else 0,
            parked=power.parked_time if power is not None else 0,
            sleep=sum(package.sleep_time for package in power.packages.values()) if power is not None else 0,
            deep=sum(core.times[-1] for core in power.cores.values()) if power is not None else 0,
            refill=self._refills.time,
            accesses=self._tally.total,
            remote=self._tally.remote,
            stalls=sum(self._tally.time.values()),
            moves=self._moves,
        )

    def measure(self, machine: Machine) -> list[Metric]:
        """What concerns power only where that is simulated."""
        before, now = self._mark, self._totals(machine)
        done = [
            (took, alone)
            for ended, took, alone in self._responses
            if before is not None and ended > before.time
        ]
        if not done or before is None:
            raise UserError(
                "no request has ended after the warm-up", where="duration", expected="a longer one"
            )
        time = now.time - before.time
        took = sorted(took for took, _ in done)
        count = len(done)
        accesses = now.accesses - before.accesses or 1
        found = [
            Metric("mean", sum(took) / count, "ns"),
            Metric("p50", float(took[(count - 1) // 2]), "ns"),
            Metric("p99", float(took[(count - 1) * 99 // 100]), "ns"),
            Metric("slowdown", sum(took) / (sum(alone for _, alone in done) or 1)),
            Metric("throughput", count * 1e9 / time, "1/s"),
            Metric("remote_share", (now.remote - before.remote) / accesses),
            Metric("latency", (now.stalls - before.stalls) / accesses, "ns"),
            Metric("refill", (now.refill - before.refill) / count, "ns"),
            Metric("refilling", (now.refill - before.refill) / time),
            Metric("moves", (now.moves - before.moves) * 1e9 / time, "1/s"),
        ]
        power = machine.power
        if power is None:
            return found
        energy = now.energy - before.energy
        return [
            Metric("power", energy / time / 1000, "W"),
            Metric("joules", energy / 1e12 / count, "J"),
            *found,
            Metric("parked", (now.parked - before.parked) / time),
            Metric("deepest", (now.deep - before.deep) / time / len(power.cores)),
            Metric("package_sleep", (now.sleep - before.sleep) / time / len(power.packages)),
            Metric("settled", float(max(0, power.parking_changed - before.time)), "ns"),
        ]
