"""Programs that read files from their beginning, and one that wants back what it had in memory."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import attrs

from ntlab.errors import UserError
from ntlab.machine import (
    SYSTEM_CACHE,
    SYSTEM_CODE,
    Allocate,
    CopyRead,
    Disk,
    Extent,
    File,
    FlushModifiedList,
    Free,
    Machine,
    MapFile,
    OpenFile,
    Region,
    Request,
    Thread,
    Touch,
)
from ntlab.machine.extents import ACTIVE
from ntlab.machine.paging import first_disk
from ntlab.plugin import Metric, option, state, workload
from ntlab.quantities import GIB, KIB, MIB, SECOND, Share, Size


@workload(
    name="searcher", summary="A program looks into one file after the other, and reads some of them on."
)
class Searcher:
    """It reads each file page by page: a head that is long enough to be seen as sequential, then a part of
    the rest. Between two reads runs kernel code, all of whose pages are touched.
    """

    files: int = option(default=100, help="How many files.", minimum=1, maximum=10_000)
    head: int = option(default=3, help="Pages that are read of each file in any case.", minimum=1)
    body: Size = option(default=Size(128 * KIB), help="What follows in each file.", minimum=4 * KIB)
    read_on: Share = option(default=Share(1.0), help="How much of that is read, on average over the files.")
    hot: Size = option(
        default=Size(1600 * KIB), help="Kernel code and data that is in use all the time.", minimum=4 * KIB
    )

    _opened: list[OpenFile] = state(list)
    _hot: Region = attrs.field(init=False, repr=False, eq=False)
    _ended: int = state(int)

    def start(self, machine: Machine) -> None:
        size = machine.memory.policy.page_size
        cache = machine.file_cache
        names = [f"data{index}.txt" for index in range(self.files)]
        length = self.head * size + self.body
        self._opened = [cache.open(cache.create(name, length)) for name in names]
        hot = machine.sections.space(SYSTEM_CODE).allocate(max(1, self.hot // size))
        if hot is None:
            raise UserError("the kernel's code does not fit into memory", where="read_ahead.searcher: hot")
        self._hot = hot
        machine.create_thread(machine.create_process("search.exe"), self._program(machine, size))

    def _program(self, machine: Machine, size: int) -> Iterator[Request]:
        code = Touch(self._hot, accesses=0)
        pages = self.body // size
        read = 0
        yield code
        for number, file in enumerate(self._opened, 1):
            # Whole pages, and on average over the files as many as they shall be.
            on = round(number * self.read_on * pages) - read
            read += on
            for page in range(self.head + on):
                yield CopyRead(file, page * size, size, accesses=0)
                yield code
        self._ended = machine.engine.now

    def measure(self, machine: Machine) -> Iterator[Metric]:
        if not self._ended:
            raise UserError(
                "the run ended before all files were read", where="duration", expected="a longer one, or none"
            )
        cache, size = machine.file_cache, machine.memory.policy.page_size
        ahead = sum(file.pages_ahead for file in self._opened)
        used = sum(file.pages_used for file in self._opened)
        code = self._hot.space
        disks = [device for device in machine.io.devices if isinstance(device, Disk)]
        reads = sum(disk.reads for disk in disks)
        yield Metric("hot_evictions", code.trimmed)
        yield Metric("hot_faults", code.faults - self._hot.pages)
        yield Metric("file_faults", machine.sections.space(SYSTEM_CACHE).faults)
        yield Metric("read_aheads", cache.read_aheads)
        yield Metric("read_ahead", ahead * size, "B")
        yield Metric("unused", (ahead - used) * size, "B")
        yield Metric("hit_ratio", cache.copy_read_hits / cache.copy_reads)
        yield Metric("reads", reads)
        yield Metric("mean_read", sum(disk.read_bytes for disk in disks) / reads, "B")
        yield Metric("time", self._ended, "ns")


class _Forget(Request):
    """Trim a region, in the order of addresses."""

    __slots__ = ("region",)

    def __init__(self, region: Region) -> None:
        self.region = region

    def perform(self, thread: Thread) -> int | None:
        region = self.region
        memory = region.space.memory
        leaving: list[Extent] = []
        for page in range(region.first, region.stop):
            extent, _ = region.space.at(page)
            if extent is not None and extent.state == ACTIVE:
                leaving.append(memory.isolate(extent, page, page + 1))
        memory.trim(region.space.working_set, leaving)
        return 0


@workload(name="rereader", summary="A program wants back what it had in memory: its own, and a mapped file.")
class Rereader:
    """It has changed memory of its own and read a mapped file. Then it is trimmed, touches some of the pages
    again, and a program takes all memory that is available. Then it goes through its memory, through the
    mapped file, and through a file that it reads by cached reads, each from the beginning to the end.
    """

    memory: Size = option(default=Size(2 * MIB), help="Memory of its own.", minimum=4 * KIB, maximum=GIB)
    mapped: Size = option(default=Size(2 * MIB), help="The mapped file.", minimum=4 * KIB, maximum=GIB)
    cached: Size = option(default=Size(2 * MIB), help="The file that is read.", minimum=64 * KIB, maximum=GIB)
    keep: int = option(
        default=0, help="Every how many pages one of them stays in memory; 0: none does.", minimum=0
    )

    _phases: dict[str, tuple[int, int, int, int]] = state(dict)  # reads, bytes, splits, ns
    _disk: Disk = attrs.field(init=False, repr=False, eq=False)

    def start(self, machine: Machine) -> None:
        if machine.paging is None:
            raise UserError("the machine has no paging file", where="read_ahead.rereader")
        self._disk = machine.paging.disk
        machine.create_thread(machine.create_process("reread.exe"), self._program(machine))

    def _program(self, machine: Machine) -> Generator[Request, Any, None]:
        cache, size = machine.file_cache, machine.memory.policy.page_size
        own = yield Allocate(-(-self.memory // size))
        yield Touch(own, write=True, accesses=0)
        file = yield MapFile(cache.create("mapped.bin", self.mapped))
        yield Touch(file, accesses=0)
        yield _Forget(own)
        yield FlushModifiedList()
        yield _Forget(file)
        for region in (own, file):
            for page in range(self.keep - 1, region.pages, self.keep) if self.keep else ():
                yield Touch(region, page, 1, accesses=0)
        hog = yield Allocate(machine.memory.available)
        yield Touch(hog, accesses=0)
        yield Free(hog)
        for name, region in (("paged", own), ("mapped", file)):
            before = self._seen(machine)
            yield Touch(region, accesses=0)
            self._phase(name, machine, before)
        opened = cache.open(cache.create("cached.bin", self.cached))
        before = self._seen(machine)
        for offset in range(0, self.cached - size + 1, size):
            yield CopyRead(opened, offset, size, accesses=0)
        self._phase("cached", machine, before)

    def _seen(self, machine: Machine) -> tuple[int, int, int, int]:
        disk = self._disk
        return disk.reads, disk.read_bytes, disk.splits, machine.engine.now

    def _phase(self, name: str, machine: Machine, before: tuple[int, int, int, int]) -> None:
        reads, size, splits, now = self._seen(machine)
        self._phases[name] = reads - before[0], size - before[1], splits - before[2], now - before[3]

    def measure(self, machine: Machine) -> Iterator[Metric]:
        if "cached" not in self._phases:
            raise UserError(
                "the run ended before all was read back", where="duration", expected="a longer one, or none"
            )
        for name, (reads, size, splits, time) in self._phases.items():
            yield Metric(f"{name}_reads", reads)
            yield Metric(f"{name}_mean_read", size / reads, "B")
            yield Metric(f"{name}_splits", splits)
            yield Metric(f"{name}_time", time, "ns")


@workload(
    name="streams", summary="Programs that go through a mapped file each, at the same time, on one disk."
)
class Streams:
    """The files lie apart, so that the disk's arm moves whenever another program's read is next."""

    programs: int = option(default=2, help="How many programs, each with a file.", minimum=1, maximum=64)
    file: Size = option(default=Size(4 * MIB), help="How long each file is.", minimum=64 * KIB, maximum=GIB)

    _disk: Disk = attrs.field(init=False, repr=False, eq=False)
    _ended: list[int] = state(list)

    def start(self, machine: Machine) -> None:
        cache = machine.file_cache
        self._disk = first_disk(machine)
        apart = self._disk.model.capacity // 2 // self.programs
        for index in range(self.programs):
            file = cache.create(f"stream{index}.bin", self.file)
            cache.create(f"between{index}", apart)
            process = machine.create_process(f"stream{index}.exe")
            machine.create_thread(process, self._program(machine, file))

    def _program(self, machine: Machine, file: File) -> Generator[Request, Any, None]:
        region = yield MapFile(file)
        yield Touch(region, accesses=0)
        self._ended.append(machine.engine.now)

    def measure(self, machine: Machine) -> Iterator[Metric]:
        if len(self._ended) < self.programs:
            raise UserError(
                "the run ended before all files were read", where="duration", expected="a longer one, or none"
            )
        disk, time = self._disk, self._ended[-1]
        yield Metric("rate", self.programs * self.file * SECOND // time, "B/s")
        yield Metric("time", time, "ns")
        yield Metric("reads", disk.reads)
        yield Metric("mean_read", disk.read_bytes / disk.reads, "B")
        yield Metric("seeks", disk.seeks)
