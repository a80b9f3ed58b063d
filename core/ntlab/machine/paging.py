"""Paging: the modified page writer, the paging file on its disk, and reading pages back.

A changed page that leaves a working set waits on the modified list. The writer takes pages from there,
cluster by cluster: which pages go together, how many at most and where in the file they go is asked of
plugins. Each cluster is one write to one free run of slots. A slot is chosen only when a page is written; as
soon as the page is written to, its copy is of no use and the slot is free again.

A fault on a page that is only in the file reads it with its neighbours: those that follow and precede it both
in the address space and in the file, up to the first that is in memory, or beyond it where a plugin says so
(`dummy_page`). What the thread asked for becomes active, the rest goes to the standby list.

A page is named by one integer here, `number(space, page)`: the number of the next virtual page is one more.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from ntlab.errors import SimulationError, UserError
from ntlab.machine.disks import Disk
from ntlab.machine.extents import MODIFIED, TRANSITION, Extent, Transfer
from ntlab.machine.io import NOCACHE, PAGING_IO, SUCCESS, IoRequest
from ntlab.machine.pagefile import PagingFile
from ntlab.machine.policy import PagingPolicy
from ntlab.machine.records import KERNEL_LOGGER
from ntlab.machine.spaces import AddressSpace, Region
from ntlab.machine.threads import Request, Thread
from ntlab.tracing import EventType, event_type
from ntlab.tracing.tracer import Emitter

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine

_FILE_IO = "irp pid tid offset io_size io_flags priority file$"
FILE_READ = event_type(KERNEL_LOGGER, "FileIo/Read", _FILE_IO)
FILE_WRITE = event_type(KERNEL_LOGGER, "FileIo/Write", _FILE_IO)
FILE_END = event_type(KERNEL_LOGGER, "FileIo/OperationEnd", "irp nt_status")

SYSTEM_PID = 4
"""The process whose thread the writer is."""

SPACE_SHIFT = 40
PAGE_MASK = (1 << SPACE_SHIFT) - 1

WRITE_LIMIT = 16
"""Pages of a write where no plugin says more: the 64 KB that the I/O system took at a time until 2008."""


def number(space: AddressSpace, page: int) -> int:
    """The number of virtual page `page` of an address space: the space's number, then page."""
    return space.id << SPACE_SHIFT | page


def whole_pages(machine: Machine, size: int, where: str) -> int:
    """How many pages `size` bytes are. Raises UserError, naming the option `where`, if they are not whole."""
    page_size = machine.memory.policy.page_size
    if size % page_size:
        raise UserError(f"{size} bytes", where=where, expected=f"a multiple of the page size, {page_size}")
    return size // page_size


def create_paging(machine: Machine) -> Paging | None:
    """The paging of a machine that is being built; None without a paging file."""
    policy = machine.hooks.paging_policy(machine) if machine.hooks.paging_policy is not None else None
    return Paging(machine, policy) if policy is not None and policy.file_size else None


class Paging:
    """Paging of one machine: the backing of its processes' private memory.

    `write_sizes` and `read_sizes` count the writes and reads of each size, in pages; `full` the times that
    the writer had to give up because no slot was free.
    """

    def __init__(self, machine: Machine, policy: PagingPolicy) -> None:
        self.machine = machine
        self.engine = machine.engine
        self.memory = memory = machine.memory
        self.policy = policy
        self.page_size = memory.policy.page_size
        hooks = machine.hooks
        limit = hooks.write_cluster_limit(machine) if hooks.write_cluster_limit is not None else None
        self.write_limit: int = WRITE_LIMIT if limit is None else limit
        slots = policy.file_size // self.page_size
        if not 1 <= self.write_limit <= slots:
            raise UserError(
                f"a paging file of {slots} pages, written {self.write_limit} at a time",
                expected="a file of at least one write, and writes of at least one page",
            )
        self.file = PagingFile(slots)
        stream = machine.streams.stream("paging", "fragmentation")
        self.file.fragment(policy.initial_fragmentation, stream)
        self.disk = first_disk(machine)
        if policy.file_size > self.disk.model.capacity:
            raise UserError(
                f"a paging file of {policy.file_size} bytes", expected=f"at most {self.disk.model.capacity}"
            )
        memory.backing = self
        memory.writer = self
        memory.commit_limit += self.file.free
        self.write_sizes: Counter[int] = Counter()
        self.read_sizes: Counter[int] = Counter()
        self.full = 0
        self._woken = False  # the writer is about to look
        self._flushing = False
        self._flushed: list[Thread] = []  # who waits for the flush
        self._stuck = False  # no slot was free, and none has become free since
        self._transfer: Transfer | None = None  # the write under way
        self._target = range(0)  # its slots
        self._behind: list[IoRequest] = []  # reads of these slots, which wait for it
        self._write_cluster = hooks.write_cluster
        self._place_cluster = hooks.place_cluster
        self._read_cluster = hooks.read_cluster
        self._dummy_page = hooks.dummy_page
        tracer = machine.tracer
        self._file_text = tracer.text(self.file.name)
        self._trace_read = tracer.emitter(FILE_READ)
        self._trace_write = tracer.emitter(FILE_WRITE)
        self._trace_end = tracer.emitter(FILE_END)

    # -- the backing of regions ----------------------------------------------------------------------------

    def held(self, region: Region, page: int, stop: int) -> tuple[int, int] | None:
        """The first run of pages in page..stop that has slots, as far as they follow on each other."""
        base = number(region.space, 0)
        found = self.file.first_stored(base + page, base + stop)
        return (found[0] - base, found[1] - base) if found is not None else None

    def changed(self, region: Region, page: int, stop: int) -> None:
        """These pages differ from their copies from now on: free the slots."""
        base = number(region.space, 0)
        if self.file.release(base + page, base + stop) and self._stuck:
            self._stuck = False
            self.wake()

    def read(self, thread: Thread, region: Region, page: int, stop: int) -> bool:
        """Begin to read a page, and what may be read with it."""
        memory, space = self.memory, region.space
        base = number(space, 0)
        most = self._read_cluster(self, base + page) if self._read_cluster is not None else None
        most = 1 if most is None else most
        first, last = region.first, region.stop
        if self._dummy_page is None or not self._dummy_page(region):
            between = space.extents(max(first, page - most), page)  # what is in memory
            first = between[-1].page + between[-1].pages if between else first
            last = min(space.at(page)[1], last)
        first, count = self.file.stretch(base + page, most, range(base + first, base + last))
        runs = space.missing(first - base, first - base + count)
        if memory.available < sum(map(len, runs)):  # pages are scarce: those asked for come first
            runs = [range(max(run.start, page), run.stop) for run in runs if run.stop > page]
        home, priority = memory.home(thread, region), memory.priority(thread, region)
        transfer = memory.begin_read(region, runs, home, priority)
        if transfer is None:
            return False
        first, last = runs[0].start, transfer.extents[-1].page + transfer.extents[-1].pages
        pages = last - first
        self.read_sizes[pages] += 1
        wanted = range(page, min(stop, last))

        def done(request: IoRequest) -> None:
            self._ended(request)
            if request.status == SUCCESS:
                memory.end_read(transfer, wanted)
            else:
                memory.fail_read(transfer, thread)

        slot = self.file.slot_of[base + first]
        request = IoRequest(
            "read",
            self.disk,
            slot * self.page_size,
            pages * self.page_size,
            thread=thread,
            done=done,
            flags=NOCACHE | PAGING_IO,
        )
        if slot < self._target.stop and self._target.start < slot + pages:
            self._behind.append(request)
        else:
            self._submit(request)
        return True

    # -- the writer ----------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Let the writer look at its thresholds, after the present event."""
        if not self._woken and self._transfer is None:
            self._woken = True
            self.engine.soon(self._look)

    def flush(self) -> None:
        """Let the writer write all that is modified."""
        self._flushing = True
        self.wake()

    def coming(self) -> int:
        """How many pages are being written, or could be."""
        writing = sum(extent.pages for extent in self._transfer.extents) if self._transfer is not None else 0
        if self._stuck or next(self.modified(), None) is None:
            return writing
        return writing + self.memory.modified.pages

    def modified(self) -> Iterator[int]:
        """The pages that could be written, oldest first."""
        for extent in self.memory.modified:
            if extent.region.backing is self:
                start = number(extent.region.space, extent.page)
                yield from range(start, start + extent.pages)

    def around(self, page: int, window: int, limit: int) -> list[int]:
        """The pages that could be written in the address space of `page`, less than `window` pages before or
        after it, by address: up to `limit` of them, with `page`, and those before it rather than after it."""
        space = self.memory.spaces[page >> SPACE_SHIFT]
        base = page & ~PAGE_MASK
        first, last = max(base, page - window + 1), page + window
        found: list[int] = []
        for extent in space.extents(first - base, last - base):
            if extent.state == MODIFIED and extent.region.backing is self:
                start = base + extent.page
                found += range(max(first, start), min(last, start + extent.pages))
        begin = max(0, bisect_left(found, page) - limit + 1)
        return found[begin : begin + limit]

    def _due(self) -> bool:
        if self._flushing:
            return True
        memory, policy = self.memory, self.policy
        available = memory.available
        if available < policy.low_available:
            return True
        return memory.empty < policy.low_free and memory.modified.pages > min(
            available // 16, policy.high_modified
        )

    def _look(self, argument: object) -> None:
        """What the writer does when it wakes: begin the next write, if one is due."""
        self._woken = False
        head = next(self.modified(), None) if self._due() else None
        if head is not None:
            place, pages = self._plan(head)
            if pages:
                self._write(place, pages)
                return
            self.full += 1
            self._stuck = True
        self._flushing = False
        self.memory.more_available()  # whoever waits for the writer shall see that nothing will come
        waiting, self._flushed = self._flushed, []
        for thread in waiting:
            self.machine.scheduler.wake(thread, head is None)

    def _plan(self, head: int) -> tuple[int, Sequence[int]]:
        """The next write: its first slot and its pages. No pages where the file is full."""
        limit = self.write_limit
        chosen = self._write_cluster(self, head, limit) if self._write_cluster is not None else None
        pages: Sequence[int] = list(islice(self.modified(), limit)) if chosen is None else chosen
        if not pages or len(pages) > limit:
            raise SimulationError(f"write_cluster gave {len(pages)} pages, not 1 to {limit}")
        place = self._place_cluster(self, pages) if self._place_cluster is not None else None
        if place is None:
            start = self.file.first_fit(len(pages))
            place = self.file.longest() if start is None else (start, len(pages))
        return place[0], pages[: place[1]]

    def _write(self, start: int, pages: Sequence[int]) -> None:
        self._transfer = self.memory.begin_write(self._extents(pages))
        self.file.allocate(start, pages)
        self._target = range(start, start + len(pages))
        self.write_sizes[len(pages)] += 1
        size = self.page_size
        self._submit(
            IoRequest(
                "write",
                self.disk,
                start * size,
                len(pages) * size,
                done=self._written,
                flags=NOCACHE | PAGING_IO,
            )
        )

    def _extents(self, pages: Sequence[int]) -> list[Extent]:
        """Extents of exactly these pages, in their order."""
        memory = self.memory
        extents = []
        at, count = 0, len(pages)
        while at < count:
            first = pages[at] & PAGE_MASK
            extent, end = memory.spaces[pages[at] >> SPACE_SHIFT].at(first)
            if extent is None:
                raise SimulationError(f"write_cluster gave page {pages[at]:#x}, which is not in memory")
            run = 1
            while at + run < count and pages[at + run] == pages[at] + run and first + run < end:
                run += 1
            extents.append(memory.isolate(extent, first, first + run))
            at += run
        return extents

    def _written(self, request: IoRequest) -> None:
        self._ended(request)
        assert self._transfer is not None
        self.memory.end_write(self._transfer)
        self._transfer = None
        self._target = range(0)
        waiting, self._behind = self._behind, []
        for each in waiting:
            self._submit(each)
        self.wake()

    # -- the disk ------------------------------------------------------------------------------------------

    def owns(self, request: IoRequest) -> bool:
        """Whether a request is for the paging file."""
        return request.device is self.disk and request.offset < self.policy.file_size

    def _submit(self, request: IoRequest) -> None:
        self.machine.io.submit(request)
        if request.operation == "read":
            self._record(self._trace_read, FILE_READ, request)
        else:
            self._record(self._trace_write, FILE_WRITE, request)

    def _record(self, trace: Emitter | None, event: EventType, request: IoRequest) -> None:
        if trace is None:
            return
        thread = request.thread
        pid, tid = (thread.process.id, thread.id) if thread is not None else (SYSTEM_PID, 0)
        trace(
            (
                self.engine.now,
                event.id,
                request.id,
                pid,
                tid,
                request.offset,
                request.length,
                request.flags,
                request.priority,
                self._file_text,
            )
        )

    def _ended(self, request: IoRequest) -> None:
        if self._trace_end is not None:
            self._trace_end((self.engine.now, FILE_END.id, request.id, request.status))

    # -- what is counted -----------------------------------------------------------------------------------

    def counters(self) -> dict[str, float]:
        """Performance counters by their Windows names, over the machine's life so far."""
        file = rf"Paging File(\??\{self.file.name})"
        return {
            rf"{file}\% Usage": 100 * self.file.used / self.file.size,
            rf"{file}\% Usage Peak": 100 * self.file.peak / self.file.size,
        }

    def check(self) -> None:
        """Raise SimulationError where the accounts of file and memory contradict each other. For tests."""
        self.file.check()
        for run in self.file.stored_runs():
            first = run.owner & PAGE_MASK
            stop = first + run.count
            space = self.memory.spaces.get(run.owner >> SPACE_SHIFT)
            if space is None:
                raise SimulationError(f"{run!r} is of an address space that does not exist")
            page = first
            while page < stop:
                region = space.region_at(page)
                if region is None or region.backing is not self:
                    raise SimulationError(f"{run!r} is of no region that is stored here")
                page = region.stop
            for extent in space.extents(first, stop):
                if extent.dirty:
                    raise SimulationError(f"{extent!r} is changed, and still has a slot")
        writing = self._transfer
        if writing is None and (self._target or self._behind):
            raise SimulationError("the writer has slots, or reads wait for it, though it writes nothing")
        for extent in writing.extents if writing is not None else ():
            slot = self.file.slot_of.get(number(extent.region.space, extent.page))
            if slot is None or slot not in self._target or extent.state != TRANSITION:
                raise SimulationError(f"{extent!r} is being written, but not to a slot of its own")


def first_disk(machine: Machine) -> Disk:
    """The machine's first disk; one of the default kind where its description names none."""
    for device in machine.io.devices:
        if isinstance(device, Disk):
            return device
    return machine.io.create_disk("C:")


class FlushModifiedList(Request):
    """Let all modified pages be written and wait for it. The program receives whether they all could be."""

    __slots__ = ()

    def perform(self, thread: Thread) -> int | None:
        paging = thread.machine.paging
        if paging is None:
            thread.result = False
            return 0
        paging.flush()
        paging._flushed.append(thread)
        return None
