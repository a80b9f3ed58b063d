"""Programs that look up keys, most of them a few, and a program that wants memory."""

from __future__ import annotations

import random
from collections.abc import Generator
from typing import Any

from ntlab.errors import UserError
from ntlab.machine import (
    NONPAGED_POOL,
    PAGED_POOL,
    Allocate,
    Compute,
    Hive,
    Machine,
    QueryKey,
    Request,
    Touch,
)
from ntlab.plugin import Metric, option, state, workload
from ntlab.quantities import KIB, MIB, MILLISECOND, SECOND, Duration, Share, Size

OWNER = "pageable_registry.queries"


@workload(name="queries", summary="Programs look up keys of a hive, while another one wants memory.")
class Queries:
    """Each query looks up one key: mostly one of the `hot` ones, the first of the hive, and else one of the
    others, the *cold* ones.

    Meanwhile an application uses its own memory, all of it, at random places. The machine has `memory` for
    both. What happens in the first `warm_up` is not counted.
    """

    hive: Size = option(default=Size(8 * MIB), help="Size of the hive.", minimum=64 * KIB)
    hot: Share = option(default=Share(0.02), help="The part of the keys that are hot.")
    cold_queries: Share = option(default=Share(0.1), help="The part of the queries that are for cold keys.")
    programs: int = option(default=2, help="Threads that query.", minimum=1)
    pause: Duration = option(
        default=Duration(10 * MILLISECOND), help="What a program computes after a query.", minimum=1
    )
    application: Size = option(default=Size(10 * MIB), help="Memory of the application; 0: there is none.")
    chunk: Size = option(default=Size(64 * KIB), help="How much of it is used at a time.", minimum=4 * KIB)
    work: Duration = option(
        default=Duration(2 * MILLISECOND), help="What it computes for each of these.", minimum=1
    )
    memory: Size = option(
        default=Size(0), help="What the machine has available at the beginning; 0 is all there is.", minimum=0
    )
    warm_up: Duration = option(default=Duration(5 * SECOND), help="How long nothing is counted.", minimum=0)
    time: Duration = option(default=Duration(5 * SECOND), help="How long it goes on then.", minimum=1)

    _hive: list[Hive] = state(list)
    _queries: dict[str, int] = state(lambda: {"hot": 0, "cold": 0})
    _spent: dict[str, int] = state(lambda: {"hot": 0, "cold": 0})
    _rounds: int = state(int)
    _missed: int = state(int)  # rounds of the application that had to wait for a read
    _faults: dict[str, int] = state(dict)  # of the hive, when counting began
    _nonpaged: list[int] = state(list)  # pages of the pool before the hive came

    def start(self, machine: Machine) -> None:
        memory, sections = machine.memory, machine.sections
        size = memory.policy.page_size
        ballast = memory.available - self.memory // size if self.memory else 0
        if ballast > 0 and sections.nonpaged(ballast) is None:
            raise UserError("the machine's memory cannot be filled", where=f"{OWNER}: memory")
        self._nonpaged.append(sections.space(NONPAGED_POOL).committed)
        hive = machine.registry.load("SOFTWARE", self.hive)
        self._hive.append(hive)
        process = machine.create_process("svchost.exe")
        for number in range(self.programs):
            stream = machine.streams.stream(OWNER, f"program {number}")
            machine.create_thread(process, self._program(machine, hive, stream))
        if self.application:
            process = machine.create_process("application.exe")
            stream = machine.streams.stream(OWNER, "application")
            machine.create_thread(process, self._application(machine, stream))
        machine.engine.at(self.warm_up, self._count, hive)

    def _count(self, hive: Hive) -> None:
        """Counting begins."""
        self._faults.update(soft=hive.soft_faults, hard=hive.hard_faults)

    def _program(self, machine: Machine, hive: Hive, stream: random.Random) -> Generator[Request, Any, None]:
        engine = machine.engine
        first_cold = min(max(1, int(self.hot * hive.keys)), hive.keys - 1)
        while engine.now < self.warm_up + self.time:
            # All are drawn whatever comes of it, so that arms share their draws.
            cold = stream.random() < self.cold_queries
            key = stream.randrange(first_cold, hive.keys) if cold else stream.randrange(first_cold)
            since = engine.now
            if (yield QueryKey(hive, key)) is not None:
                raise UserError("the machine's memory is full", where=OWNER, expected="more")
            if since >= self.warm_up:
                kind = "cold" if cold else "hot"
                self._queries[kind] += 1
                self._spent[kind] += engine.now - since
            yield Compute(self.pause)

    def _application(self, machine: Machine, stream: random.Random) -> Generator[Request, Any, None]:
        engine = machine.engine
        size = machine.memory.policy.page_size
        pages, chunk = -(-self.application // size), max(1, self.chunk // size)
        region = yield Allocate(pages)
        if region is None or (yield Touch(region, write=True, accesses=0)) is not None:
            raise UserError("the machine's memory is full", where=OWNER, expected=f"{pages} pages")
        while engine.now < self.warm_up + self.time:
            first = stream.randrange(-(-pages // chunk)) * chunk
            count = min(chunk, pages - first)
            page = region.first + first
            there = sum(extent.pages for extent in region.space.extents(page, page + count))
            if engine.now >= self.warm_up:
                self._rounds += 1
                self._missed += there < count
            yield Touch(region, first, count, write=True, accesses=0)
            yield Compute(self.work)

    def measure(self, machine: Machine) -> list[Metric]:
        (hive,) = self._hive
        size = machine.memory.policy.page_size
        nonpaged = machine.sections.space(NONPAGED_POOL).committed - self._nonpaged[0]
        region = hive.region
        in_pool = region is not None and region.space is machine.sections.space(PAGED_POOL)
        return [
            Metric("nonpaged", nonpaged * size, "B"),
            Metric("paged", hive.pages * size if in_pool else 0, "B"),
            Metric("resident", machine.registry.resident(hive) * size, "B"),
            Metric("soft_faults", hive.soft_faults - self._faults["soft"]),
            Metric("hard_faults", hive.hard_faults - self._faults["hard"]),
            *(
                Metric(f"{kind}_time", self._spent[kind] / (self._queries[kind] or 1), "ns")
                for kind in ("hot", "cold")
            ),
            Metric("rounds", self._rounds),
            Metric("application_faults", self._missed),
        ]
