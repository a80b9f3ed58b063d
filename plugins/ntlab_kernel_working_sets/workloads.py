"""Services that use the same pool and code all the time, while something else in the kernel grows."""

from __future__ import annotations

import random
from collections.abc import Generator
from typing import Any, Literal

from ntlab.errors import UserError
from ntlab.machine import (
    PAGED_POOL,
    SYSTEM_CACHE,
    SYSTEM_CODE,
    Compute,
    CopyRead,
    Machine,
    Region,
    Request,
    Touch,
)
from ntlab.machine.extents import ACTIVE
from ntlab.plugin import Metric, option, state, workload
from ntlab.quantities import KIB, MIB, MICROSECOND, MILLISECOND, Duration, Share, Size

OWNER = "kernel_working_sets.services"
WATCHED = {"cache": SYSTEM_CACHE, "pool": PAGED_POOL, "code": SYSTEM_CODE}


@workload(
    name="services",
    summary="Services use the same pool and code all the time, while the cache or the pool grows.",
)
class Services:
    """Each call of a service uses one page of paged pool, or of system code, at random. All of these are in
    memory at the beginning.

    Meanwhile one section grows: somebody reads a file through the system cache, from one end to the other, or
    somebody fills paged pool. The services end with it.
    """

    services: int = option(default=2, help="Threads of the services.", minimum=1)
    pool: Size = option(default=Size(640 * KIB), help="Paged pool that they use.", minimum=4 * KIB)
    code: Size = option(default=Size(160 * KIB), help="Pageable code that they use.", minimum=4 * KIB)
    calls_to_pool: Share = option(default=Share(0.8), help="The part of the calls that use pool, not code.")
    call: Duration = option(
        default=Duration(20 * MICROSECOND), help="Processor time of a call that takes no fault.", minimum=1
    )
    grows: Literal["system cache", "paged pool", "nothing"] = option(
        default="system cache", help="Which section grows meanwhile."
    )
    growth: Size = option(default=Size(10 * MIB), help="By how much, all in all.", minimum=4 * KIB)
    step: Size = option(default=Size(64 * KIB), help="By how much at a time.", minimum=4 * KIB)
    time: Duration = option(
        default=Duration(100 * MILLISECOND),
        help="How long paged pool grows, or the services run where nothing does.",
        minimum=1,
    )
    memory: Size = option(
        default=Size(0),
        help="What the machine has available at the beginning, apart from that; 0 is all that there is.",
        minimum=0,
    )

    _done: bool = state(bool)
    _calls: int = state(int)
    _misses: int = state(int)
    _pool_misses: int = state(int)
    _time: int = state(int)
    _evicted: dict[str, int] = state(dict)  # before the growth began

    def start(self, machine: Machine) -> None:
        memory, sections = machine.memory, machine.sections
        size = memory.policy.page_size
        pool = sections.space(PAGED_POOL).allocate(-(-self.pool // size))
        files = machine.file_cache
        image = files.create("C:\\Windows\\System32\\drivers\\service.sys", self.code)
        code = files.map(sections.space(SYSTEM_CODE), image)
        if pool is None or memory.available < pool.pages + code.pages:
            raise UserError("the machine's memory is too small", where=OWNER, expected="more, or less pool")
        memory.populate(pool, 0, dirty=True)
        memory.populate(code, 0)
        ballast = memory.available - self.memory // size if self.memory else 0
        if ballast > 0 and sections.nonpaged(ballast) is None:
            raise UserError("the machine's memory cannot be filled", where=f"{OWNER}: memory")
        process = machine.create_process("services.exe")
        for number in range(self.services):
            stream = machine.streams.stream(OWNER, f"service {number}")
            machine.create_thread(process, self._service(machine, pool, code, stream))
        machine.create_thread(machine.create_process("growth.exe"), self._growth(machine))
        sections.space(SYSTEM_CACHE)
        self._evicted = self._trimmed(machine)

    def _service(
        self, machine: Machine, pool: Region, code: Region, stream: random.Random
    ) -> Generator[Request, Any, None]:
        engine = machine.engine
        while not self._done:
            region = pool if stream.random() < self.calls_to_pool else code
            page = stream.randrange(region.pages)
            extent, _ = region.space.at(region.first + page)
            if extent is None or extent.state != ACTIVE:
                self._misses += 1
                self._pool_misses += region is pool
            since = engine.now
            yield Touch(region, page, 1, accesses=0)
            yield Compute(self.call)
            self._time += engine.now - since
            self._calls += 1

    def _growth(self, machine: Machine) -> Generator[Request, Any, None]:
        if self.grows == "system cache":
            files = machine.file_cache
            opened = files.open(files.create("C:\\data.bin", self.growth))
            for offset in range(0, self.growth, self.step):
                yield CopyRead(opened, offset, min(self.step, self.growth - offset), accesses=0)
        elif self.grows == "paged pool":
            size = machine.memory.policy.page_size
            pages, step = -(-self.growth // size), max(1, self.step // size)
            region = machine.sections.space(PAGED_POOL).allocate(pages)
            if region is None:
                raise UserError("the commit limit", where=f"{OWNER}: growth", expected="less than that")
            for first in range(0, pages, step):
                yield Touch(region, first, min(step, pages - first), write=True, accesses=0)
                yield Compute(self.time * step // pages)
        else:
            yield Compute(self.time)
        self._done = True

    def _trimmed(self, machine: Machine) -> dict[str, int]:
        return {short: machine.sections.space(name).trimmed for short, name in WATCHED.items()}

    def measure(self, machine: Machine) -> list[Metric]:
        calls = self._calls or 1
        evicted = self._trimmed(machine)
        return [
            Metric("calls", self._calls),
            Metric("misses", self._misses),
            Metric("miss_share", self._misses / calls),
            Metric("code_misses", self._misses - self._pool_misses),
            Metric("call_time", self._time / calls, "ns"),
            *(Metric(f"{name}_evicted", evicted[name] - self._evicted[name], "pages") for name in WATCHED),
        ]
