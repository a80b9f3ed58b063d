"""Programs that change more memory than they may keep, and later want it back."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Mapping
from typing import Any

import attrs

from ntlab.errors import UserError
from ntlab.machine import (
    Allocate,
    Extent,
    FlushModifiedList,
    Free,
    Machine,
    Paging,
    Region,
    Request,
    Thread,
    Touch,
)
from ntlab.machine.extents import ACTIVE
from ntlab.plugin import Metric, option, state, workload
from ntlab.quantities import GIB, KIB, MIB, Share, Size
from ntlab_paging_writes.listing import process_monitor

LARGE = 512 * KIB


class TrimWorkingSet(Request):
    """Take all pages of a region out of the working set, in the order of the page numbers `order`."""

    __slots__ = ("order", "region")

    def __init__(self, region: Region, order: list[int]) -> None:
        self.region = region
        self.order = order

    def perform(self, thread: Thread) -> int | None:
        space = self.region.space
        memory = space.memory
        leaving: list[Extent] = []
        for page in self.order:
            extent, _ = space.at(page)
            if extent is not None and extent.state == ACTIVE:
                leaving.append(memory.isolate(extent, page, page + 1))
        memory.trim(space.working_set, leaving)
        return 0


class _Await(Request):
    """Wait until so many steps of the workload are done."""

    __slots__ = ("steps", "workload")

    def __init__(self, workload: DirtyBursts, steps: int) -> None:
        self.workload = workload
        self.steps = steps

    def perform(self, thread: Thread) -> int | None:
        if self.workload.steps_done >= self.steps:
            return 0
        self.workload.waiting.append((self.steps, thread))
        return None


@attrs.define
class _Snapshot:
    """What had happened when reading back began."""

    time: int
    reads: int
    read_bytes: int
    seeks: int


@workload(
    name="dirty_bursts", summary="Processes change memory in bursts, are trimmed, and read it all back."
)
class DirtyBursts:
    """Each process has a range of memory. It changes bursts of it, at random places; whenever it has changed
    `trim_at` of it, its working set is emptied and the modified pages are written. Then a program that
    wants all memory comes and goes, and the processes read their ranges back, one after the other.
    """

    processes: int = option(default=2, help="How many processes.", minimum=1, maximum=64)
    process_memory: Size = option(
        default=Size(4 * MIB), help="Memory of each process.", minimum=64 * KIB, maximum=GIB
    )
    burst: Size = option(default=Size(256 * KIB), help="How much is changed at one place.", minimum=4 * KIB)
    volume: float = option(
        default=2.5, help="How much each process changes, in times of its memory.", minimum=0.1, maximum=100
    )
    trim_at: Share = option(
        default=Share(0.25), help="Share of its memory that a process changes before a trim."
    )
    trim_disorder: Share = option(
        default=Share(1.0),
        help="How far a page may leave the order of addresses when it is trimmed: 0 not at all, 1 anywhere.",
    )

    steps_done: int = state(int)
    waiting: list[tuple[int, Thread]] = state(list)
    _began: list[_Snapshot] = state(list)
    _ended: list[int] = state(list)
    _fragmentation: float = state(float)
    _written: int = state(int)  # when the last process had written, ns
    _paging: Paging = attrs.field(init=False, repr=False, eq=False)

    def start(self, machine: Machine) -> None:
        paging = machine.paging
        if paging is None:
            raise UserError("the machine has no paging file", where="paging_writes.dirty_bursts")
        self._paging = paging
        for index in range(self.processes):
            process = machine.create_process(f"writer{index}.exe")
            stream = machine.streams.stream("paging_writes", f"writer {index}")
            machine.create_thread(process, self._writer(machine, index, stream))
        machine.create_thread(machine.create_process("hog.exe"), self._hog(machine))

    def _writer(self, machine: Machine, index: int, stream: random.Random) -> Generator[Request, Any, None]:
        page_size = machine.memory.policy.page_size
        pages, burst = self.process_memory // page_size, max(1, self.burst // page_size)
        region = yield Allocate(pages)
        bursts = -(-pages // burst)
        batch = max(1, round(self.trim_at * bursts))
        left = max(1, round(self.volume * bursts))
        while left:
            for _ in range(min(batch, left)):
                first = stream.randrange(bursts) * burst
                yield Touch(region, first, min(burst, pages - first), write=True, accesses=0)
            left -= min(batch, left)
            reach = self.trim_disorder * pages
            order = sorted(range(region.first, region.stop), key=lambda page: page + reach * stream.random())
            yield TrimWorkingSet(region, order)
            yield FlushModifiedList()
        self._step(machine)
        yield _Await(self, self.processes + 1 + index)
        yield Touch(region, accesses=0)
        self._ended.append(machine.engine.now)
        self._step(machine)

    def _hog(self, machine: Machine) -> Generator[Request, Any, None]:
        yield _Await(self, self.processes)
        self._written = machine.engine.now
        region = yield Allocate(machine.memory.available)
        yield Touch(region, accesses=0)
        yield Free(region)
        paging = self._paging
        self._fragmentation = paging.file.fragmentation
        self._began.append(
            _Snapshot(machine.engine.now, paging.disk.reads, paging.disk.read_bytes, paging.disk.seeks)
        )
        self._step(machine)

    def _step(self, machine: Machine) -> None:
        self.steps_done += 1
        ready = [thread for steps, thread in self.waiting if steps <= self.steps_done]
        self.waiting = [each for each in self.waiting if each[0] > self.steps_done]
        for thread in ready:
            machine.scheduler.wake(thread)

    def measure(self, machine: Machine) -> list[Metric]:
        paging = self._paging
        size = paging.page_size
        writes = paging.write_sizes.total()
        written = size * sum(pages * count for pages, count in paging.write_sizes.items())
        large = size * sum(
            pages * count for pages, count in paging.write_sizes.items() if pages * size >= LARGE
        )
        if len(self._ended) < self.processes:
            ended = "the run ended before all memory was read back"
            raise UserError(ended, where="duration", expected="a longer one, or none")
        began = self._began[0]
        reads = paging.disk.reads - began.reads
        read = paging.disk.read_bytes - began.read_bytes
        return [
            Metric("writes", writes),
            Metric("writes_per_gib", writes / (written / GIB), "1/GiB"),
            Metric("mean_write", written / writes, "B"),
            Metric("median_write", size * _median(paging.write_sizes), "B"),
            Metric("large_share", large / written),
            Metric("fragmentation", self._fragmentation),
            Metric("reads", reads),
            Metric("mean_read", read / reads, "B"),
            Metric("read_seeks", paging.disk.seeks - began.seeks),
            Metric("read_time", (self._ended[-1] - began.time) / 1e9, "s"),
            Metric("write_time", self._written / 1e9, "s"),
        ]

    def views(self) -> dict[str, Callable[[Machine], str]]:
        return {"process_monitor": process_monitor}


def _median(sizes: Mapping[int, int]) -> int:
    """The median (the lower one) of values given as value -> how often."""
    rank = (sum(sizes.values()) + 1) // 2
    for value in sorted(sizes):
        rank -= sizes[value]
        if rank <= 0:
            return value
    return 0
