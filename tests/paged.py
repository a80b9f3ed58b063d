"""A process with one region on a machine that pages as a test wants it, and what to do with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ntlab.hooks import hookimpl
from ntlab.machine import (
    FlushModifiedList,
    IoPolicy,
    Machine,
    Paging,
    PagingPolicy,
    Process,
    Region,
    Request,
    Touch,
)
from ntlab.machine.paging import FILE_END, FILE_READ, FILE_WRITE, number
from ntlab.plugin import option, plugin
from ntlab.quantities import KIB, Size
from ntlab.testing import boot, small_tables
from ntlab.tracing import Tracer

PAGE = 4 * KIB


@plugin(name="pager", summary="Paging as a test wants it; the writer works when it must.", release="ws2003")
class Pager:
    slots: int = option(default=16, help="Size of the paging file.")
    limit: int = option(default=4, help="Pages of a write.")
    read: int = option(default=4, help="Pages of a read.")
    dummy: bool = option(default=False, help="Whether reads go over pages in memory.")
    fragmentation: float = option(default=0.0, help="Share of the file that is in use.")
    low_free: int = option(default=0, help="Threshold.")
    high_modified: int = option(default=0, help="Threshold.")
    low_available: int = option(default=0, help="Threshold.")
    disk: str = option(default="sas15k", help="The disk.")

    @hookimpl
    def paging_policy(self) -> PagingPolicy:
        return PagingPolicy(
            file_size=Size(self.slots * PAGE),
            initial_fragmentation=self.fragmentation,
            low_free=self.low_free,
            high_modified=self.high_modified,
            low_available=self.low_available,
        )

    @hookimpl
    def io_policy(self) -> IoPolicy:
        return IoPolicy(disk=self.disk)

    @hookimpl
    def write_cluster_limit(self) -> int:
        return self.limit

    @hookimpl
    def read_cluster(self) -> int:
        return self.read

    @hookimpl
    def dummy_page(self) -> bool:
        return self.dummy


def results_of(machine: Machine, process: Process, *requests: Request) -> list[Any]:
    """Let a thread make these requests. Returns the list into which their results will be put."""
    results: list[Any] = []

    def program() -> Any:
        for request in requests:
            result = yield request
            results.append(result)

    machine.create_thread(process, program())
    return results


class Box:
    """A machine with one process that has one region, and what to do with it."""

    def __init__(self, pages: int, memory: int = 64, plugins: Sequence[object] = (), **options: Any) -> None:
        self.machine = boot(
            plugins=[Pager(**options), *plugins], tables=small_tables(2, memory=memory * PAGE), trace=True
        )
        assert self.machine.paging is not None
        self.paging: Paging = self.machine.paging
        self.process = self.machine.create_process("p")
        self.region = self.allocate(pages)

    def allocate(self, pages: int) -> Region:
        region = self.machine.memory.space(self.process).allocate(pages)
        assert region is not None
        return region

    def start(self, *requests: Request) -> list[Any]:
        """Let a thread make these requests. Returns the list into which their results will be put."""
        return results_of(self.machine, self.process, *requests)

    def do(self, *requests: Request) -> list[Any]:
        """Let a thread make these requests, and time pass until nothing happens any more."""
        results = self.start(*requests)
        self.machine.run()
        self.check()
        return results

    def touch(self, first: int, pages: int = 1, *, write: bool = True) -> Touch:
        return Touch(self.region, first, pages, write=write, accesses=0)

    def trim(self, *order: int) -> None:
        """Trim these pages of the region, in this order."""
        space, memory = self.region.space, self.machine.memory
        leaving = []
        for page in order:
            extent, _ = space.at(self.region.first + page)
            assert extent is not None
            leaving.append(memory.isolate(extent, self.region.first + page, self.region.first + page + 1))
        memory.trim(space.working_set, leaving)

    def write(self, *order: int) -> None:
        """Change these pages one by one, trim them in this order and let them be written."""
        for page in order:
            self.do(self.touch(page))
        self.trim(*order)
        assert self.do(FlushModifiedList()) == [True]

    def slots(self) -> dict[int, int]:
        """The slot of each page of the region that has one."""
        base = number(self.region.space, self.region.first)
        return {page - base: slot for page, slot in self.paging.file.slot_of.items()}

    def state(self, page: int) -> int | None:
        extent, _ = self.region.space.at(self.region.first + page)
        return None if extent is None else extent.state

    def evict(self) -> None:
        """Let a program that wants all memory that is available come and go."""
        hog = self.allocate(self.machine.memory.available)
        self.do(Touch(hog, accesses=0))
        hog.space.release(hog)

    def transfers(self, name: str) -> list[tuple[int, int]]:
        """(first slot, pages) of each FileIo record of that name so far."""
        return [
            (int(record["offset"]) // PAGE, int(record["io_size"]) // PAGE)
            for record in self.machine.tracer.records(f"FileIo/{name}")
        ]

    def check(self) -> None:
        self.machine.memory.check()
        self.paging.check()


class Contents:
    """What is on the disk, page by page: each write of a page gives it a new version when it ends."""

    def __init__(self, tracer: Tracer) -> None:
        self.paging: Any = None
        self.on_disk: dict[int, tuple[int, int]] = {}  # slot -> (page, version)
        self.last: dict[int, tuple[int, int]] = {}  # page -> what was written last, if it is still right
        self.under_way: dict[int, dict[int, tuple[int, int]]] = {}
        self.versions = 0
        tracer.subscribe(FILE_WRITE, self.written)
        tracer.subscribe(FILE_READ, self.read)
        tracer.subscribe(FILE_END, self.ended)

    def attach(self, paging: Paging) -> None:
        self.paging = paging
        changed = paging.changed

        def observed(region: Region, page: int, stop: int) -> None:
            for each in range(page, stop):
                self.last.pop(number(region.space, each), None)
            changed(region, page, stop)

        paging.changed = observed  # type: ignore[method-assign]

    def _range(self, record: tuple[int, ...]) -> range:
        offset, size = record[5] // PAGE, record[6] // PAGE
        return range(offset, offset + size)

    def written(self, record: tuple[int, ...]) -> None:
        pages = self.under_way[record[2]] = {}
        for slot in self._range(record):
            page = self.paging.file.owner_of[slot]
            self.versions += 1
            pages[slot] = self.last[page] = (page, self.versions)

    def ended(self, record: tuple[int, ...]) -> None:
        self.on_disk.update(self.under_way.pop(record[2], {}))

    def read(self, record: tuple[int, ...]) -> None:
        if record[-1] != self.paging._file_text:
            return  # of another file
        for slot in self._range(record):
            page = self.paging.file.owner_of[slot]
            assert self.on_disk.get(slot) == self.last[page], "an old copy is read"
