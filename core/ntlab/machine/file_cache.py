"""Files in memory: cached reads through views, read-ahead, and files that processes map.

A file's pages are those of one region: of the kernel's section "system cache" once the file is opened for
cached reads, or of the address space that it is mapped into. Files are only read, so a page that leaves a
working set goes to the standby list, and is read again once it is not found there any more.

A cached read goes through *views*, stretches of a file that are mapped into the system cache's address space:
only there pages are active. When all views are taken, the one that was used longest ago is unmapped, and its
pages go to the standby list. A fault reads what the read still needs of the view.

A user who reads a file from one end towards the other is *sequential*, and then the file is read ahead: how
much, and whether into the working set or onto the standby list, is asked of plugins. The next stretch is
read ahead when the user comes to where the last one began.

    file = machine.file_cache.create("data.txt", 8 * MIB)
    opened = machine.file_cache.open(file)
    yield CopyRead(opened, 0, 64 * KIB)         # as ReadFile does with a cached file
    region = yield MapFile(other)               # then Touch(region, ...), and Free(region)
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

from ntlab.errors import SimulationError, UserError
from ntlab.machine.accesses import Touch
from ntlab.machine.disks import Disk
from ntlab.machine.extents import ACTIVE, TRANSITION, Transfer
from ntlab.machine.io import NOCACHE, PAGING_IO, SUCCESS, File, IoRequest
from ntlab.machine.paging import FILE_END, FILE_READ, SYSTEM_PID, first_disk, whole_pages
from ntlab.machine.policy import CachePolicy
from ntlab.machine.sections import SYSTEM_CACHE
from ntlab.machine.spaces import AddressSpace, Region
from ntlab.machine.threads import Request, Thread, resume
from ntlab.tracing import event_type

if TYPE_CHECKING:
    from ntlab.hooks.file_cache import ReadAheadTarget
    from ntlab.machine.machine import Machine

READ_AHEAD = event_type("Lab-Cache", "ReadAhead", "pid tid first pages to_standby file$")
UNMAP_VIEW = event_type("Lab-Cache", "UnmapView", "first pages trimmed file$")

Access = Literal["normal", "sequential", "random"]
"""How a file is going to be read, as whoever opens it says. The last two are FILE_FLAG_SEQUENTIAL_SCAN, which
is believed at once, and FILE_FLAG_RANDOM_ACCESS, which is never read ahead."""
ACCESSES: Final[tuple[Access, ...]] = ("normal", "sequential", "random")


class FileMapping:
    """A file's pages in one address space: `region`, whose backing this is. `cached` tells whether it is the
    system cache's. Made by `file_cache.open` and `map`; it ends when its region is released."""

    __slots__ = ("cache", "cached", "file", "region")

    def __init__(
        self, cache: FileCache, file: File, space: AddressSpace, cached: bool, node: int | None = None
    ) -> None:
        region = space.allocate(-(-file.size // cache.page_size), backing=self, node=node, committed=False)
        assert region is not None  # only the commit limit could forbid it
        self.cache = cache
        self.file = file
        self.region = region
        self.cached = cached

    def __repr__(self) -> str:
        return f"<FileMapping {self.file.name!r} in {self.region.space.name}>"

    # -- the backing of its region -------------------------------------------------------------------------

    def held(self, region: Region, page: int, stop: int) -> tuple[int, int] | None:
        """All pages are in the file."""
        return page, stop

    def read(self, thread: Thread, region: Region, page: int, stop: int) -> bool:
        """A fault: begin to read a page, and what may be read with it."""
        cache = self.cache
        last = stop if self.cached else min(page + cache.cluster(self, page - self.region.first), region.stop)
        first_read = cache.reads(self, page, last)[0]
        home, priority = cache.memory.home(thread, region), cache.memory.priority(thread, region)
        return cache.begin(self, first_read, home, priority, active=range(page, stop), thread=thread) > 0

    def changed(self, region: Region, page: int, stop: int) -> None:
        """The region is released; or written to, which nothing here can do."""
        if self.region in self.region.space.regions:
            raise SimulationError(f"{self!r} is written to; files in memory are only read")
        del self.cache.mappings[self.file]


class OpenFile:
    """A file as one user has opened it for cached reads, and what is known of his reads.

    `sequential` is how many reads in a row, the last one included, began where the one before had ended; the
    next one does so at byte `next`. `pages_ahead` is how many pages have been read ahead for him, and
    `pages_used` how many of them he came to without a jump.
    """

    __slots__ = (
        "_ahead",
        "_began",
        "_unused",
        "access",
        "mapping",
        "next",
        "pages_ahead",
        "pages_used",
        "sequential",
    )

    def __init__(self, mapping: FileMapping, access: Access) -> None:
        self.mapping = mapping
        self.access = access
        self.next = 0
        self.sequential = 0
        self.pages_ahead = 0
        self.pages_used = 0
        self._began = 0  # the page where the last read-ahead began
        self._ahead = 0  # and where it ended
        self._unused: deque[range] = deque()  # what was read ahead that he has not come to yet

    @property
    def machine(self) -> Machine:
        """The machine that it is open on."""
        return self.mapping.cache.machine

    def note(self, offset: int, length: int, stop: int) -> int | None:
        """He reads so many bytes, up to page `stop`. Returns the page where to read ahead now, or None."""
        if offset == self.next:
            self.sequential += 1
        else:
            self.sequential = 1
            self._began = self._ahead = 0
            self._unused.clear()
        self.next = offset + length
        unused = self._unused
        while unused and unused[0].start < stop:
            run = unused.popleft()
            come = min(run.stop, stop)
            self.pages_used += come - run.start
            if come < run.stop:
                unused.appendleft(range(come, run.stop))
        enough = {"normal": self.mapping.cache.policy.sequential_reads, "sequential": 1}.get(self.access)
        if enough is None or self.sequential < enough or stop <= self._began:
            return None
        return max(self._ahead, stop)

    def plan(self, first: int, stop: int) -> None:
        """Pages first..stop are going to be read ahead, as far as they are not in memory."""
        self._began, self._ahead = first, stop

    def read_ahead(self, pages: range) -> None:
        """These pages are being read ahead."""
        self.pages_ahead += len(pages)
        self._unused.append(pages)


class _View:
    """A stretch of a cached file that is mapped. `users` are reads under way through it."""

    __slots__ = ("first", "mapping", "stop", "users")

    def __init__(self, mapping: FileMapping, index: int, size: int) -> None:
        self.mapping = mapping
        self.first = mapping.region.first + index * size
        self.stop = min(self.first + size, mapping.region.stop)
        self.users = 0


class FileCache:
    """The files in one machine's memory: `mappings` by file.

    Totals: `copy_reads`, and `copy_read_hits` of them that found all pages in memory; `read_aheads`; and
    `read_sizes`, the reads of each size in pages, as they are handed to the I/O system.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.engine = machine.engine
        self.memory = machine.memory
        self.page_size: int = machine.memory.policy.page_size
        self.mappings: dict[File, FileMapping] = {}
        self.copy_reads = 0
        self.copy_read_hits = 0
        self.read_aheads = 0
        self.read_sizes: Counter[int] = Counter()
        self._policy: CachePolicy | None = None
        self._view_pages = 0
        self._most_views = 0  # 0: any number
        self._views: OrderedDict[tuple[FileMapping, int], _View] = OrderedDict()  # least recently used first
        self._waiters: deque[Thread] = deque()  # for a view
        self._transfers: dict[Transfer, None] = {}  # under way
        self._ends: dict[Disk, int] = {}  # where the last file on a disk ends
        hooks = machine.hooks
        self._read_ahead_size = hooks.read_ahead_size
        self._read_ahead_target = hooks.read_ahead_target
        self._fault_cluster = hooks.fault_cluster
        self._dummy_page = hooks.dummy_page
        tracer = machine.tracer
        self._trace_read = tracer.emitter(FILE_READ)
        self._trace_end = tracer.emitter(FILE_END)
        self._trace_ahead = tracer.emitter(READ_AHEAD)
        self._trace_unmap = tracer.emitter(UNMAP_VIEW)

    @property
    def policy(self) -> CachePolicy:
        """The fixed rules, asked for when they are first needed."""
        if self._policy is None:
            ask = self.machine.hooks.cache_policy
            policy = ask(self.machine) if ask is not None else None
            self._policy = policy = policy if policy is not None else CachePolicy()
            self._view_pages = whole_pages(self.machine, policy.view_size, "the size of a view")
            self._most_views = policy.address_space // policy.view_size
            if policy.address_space and not self._most_views:
                raise UserError(
                    f"a system cache of {policy.address_space} bytes",
                    expected=f"0, or {policy.view_size} and more",
                )
        return self._policy

    # -- files ---------------------------------------------------------------------------------------------

    def create(self, name: str, size: int, disk: Disk | None = None) -> File:
        """A file on a disk (default: the machine's first), behind the paging file and those made before."""
        if size <= 0:
            raise UserError(f"file {name!r} of {size} bytes", expected="1 byte or more")
        if disk is None:
            disk = first_disk(self.machine)
        paging = self.machine.paging
        occupied = paging.policy.file_size if paging is not None and paging.disk is disk else 0
        start = self._ends.get(disk, -(-occupied // self.page_size) * self.page_size)
        end = start + -(-size // self.page_size) * self.page_size
        if end > disk.model.capacity:
            raise UserError(
                f"file {name!r} of {size} bytes",
                where=disk.name,
                expected=f"at most {disk.model.capacity - start}",
            )
        self._ends[disk] = end
        return File(name, disk, start, size)

    def open(self, file: File, access: Access = "normal") -> OpenFile:
        """Open a file for cached reads."""
        if access not in ACCESSES:
            raise UserError(f"access {access!r} of file {file.name!r}", expected=" or ".join(ACCESSES))
        mapping = self.mappings.get(file)
        if mapping is None or not mapping.cached:
            mapping = self._map(file, self.machine.sections.space(SYSTEM_CACHE), cached=True)
        return OpenFile(mapping, access)

    def map(self, space: AddressSpace, file: File, node: int | None = None) -> Region:
        """Map a file, whole, into an address space. Takes no physical page."""
        return self._map(file, space, cached=False, node=node).region

    def _map(self, file: File, space: AddressSpace, cached: bool, node: int | None = None) -> FileMapping:
        if file in self.mappings:
            raise SimulationError(
                f"{self.mappings[file]!r} is there already; sharing its pages is not modelled"
            )
        assert self.policy
        mapping = self.mappings[file] = FileMapping(self, file, space, cached, node)
        return mapping

    # -- reads ---------------------------------------------------------------------------------------------

    def cluster(self, mapping: FileMapping, page: int) -> int:
        """How many pages a fault on a page of a mapped file may read, itself included."""
        most = self._fault_cluster(mapping, page) if self._fault_cluster is not None else None
        return 1 if most is None else most

    def reads(self, mapping: FileMapping, page: int, stop: int) -> list[list[range]]:
        """The reads that would bring the virtual pages page..stop into memory: of each, the runs of pages
        that are missing. What lies between two runs of one read goes to the dummy page."""
        region = mapping.region
        missing = region.space.missing(page, stop)
        if len(missing) > 1 and self._dummy_page is not None and self._dummy_page(region):
            return [missing]
        return [[run] for run in missing]

    def begin(
        self,
        mapping: FileMapping,
        runs: list[range],
        home: int,
        priority: int,
        *,
        active: range,
        thread: Thread | None = None,
        views: list[_View] | None = None,
    ) -> int:
        """Begin one read of these runs, as far as there is memory. Those `active` will be so, the others
        standby. Returns how many pages it brings in."""
        region, views = mapping.region, views or []
        transfer = self.memory.begin_read(region, runs, home, priority)
        if transfer is None:
            self._leave(views)
            return 0
        self._transfers[transfer] = None
        pages = sum(extent.pages for extent in transfer.extents)
        length = transfer.extents[-1].page + transfer.extents[-1].pages - runs[0].start
        self.read_sizes[length] += 1
        request = IoRequest(
            "read",
            mapping.file.device,
            mapping.file.start + (runs[0].start - region.first) * self.page_size,
            length * self.page_size,
            thread=thread,
            done=partial(self._done, transfer, active, views),
            flags=NOCACHE | PAGING_IO,
        )
        self.machine.io.submit(request)
        if self._trace_read is not None:
            pid, tid = (thread.process.id, thread.id) if thread is not None else (SYSTEM_PID, 0)
            text = self.machine.tracer.text(mapping.file.name)
            self._trace_read(
                (self.engine.now, FILE_READ.id, request.id, pid, tid, request.offset, request.length,
                 request.flags, request.priority, text)
            )  # fmt: skip
        return pages

    def _done(self, transfer: Transfer, active: range, views: list[_View], request: IoRequest) -> None:
        if self._trace_end is not None:
            self._trace_end((self.engine.now, FILE_END.id, request.id, request.status))
        del self._transfers[transfer]
        if request.status == SUCCESS:
            if views:  # through which whoever reads ahead touches the pages
                for extent in transfer.extents:
                    extent.accessed = True
            self.memory.end_read(transfer, active)
        else:
            self.memory.fail_read(transfer, request.thread)
        self._leave(views)

    # -- views ---------------------------------------------------------------------------------------------

    def enter(self, mapping: FileMapping, page: int) -> _View | None:
        """Use the view that holds a virtual page, and map it if need be. None if all views are in use."""
        index = (page - mapping.region.first) // self._view_pages
        key = mapping, index
        view = self._views.get(key)
        if view is not None:
            self._views.move_to_end(key)
        elif self._most_views and len(self._views) >= self._most_views and not self._unmap():
            return None
        else:
            view = self._views[key] = _View(mapping, index, self._view_pages)
        view.users += 1
        return view

    def leave(self, view: _View) -> None:
        """End a use of a view."""
        view.users -= 1
        if not view.users and self._waiters:
            self.engine.soon(self.machine.scheduler.wake, self._waiters.popleft())

    def wait(self, thread: Thread) -> None:
        """A running thread is going to wait until a view is out of use; then it tries again."""
        self._waiters.append(thread)

    def _leave(self, views: list[_View]) -> None:
        for view in views:
            self.leave(view)

    def _unmap(self) -> bool:
        """Unmap the view that was used longest ago, so that its pages leave the working set. False if all are
        in use."""
        key = next((key for key, view in self._views.items() if not view.users), None)
        if key is None:
            return False
        view = self._views[key]
        del self._views[key]
        memory, space = self.memory, view.mapping.region.space
        leaving = [
            memory.isolate(extent, max(extent.page, view.first), min(extent.page + extent.pages, view.stop))
            for extent in space.extents(view.first, view.stop)
            if extent.state == ACTIVE
        ]
        trimmed = memory.trim(space.working_set, leaving) if leaving else 0
        if self._trace_unmap is not None:
            first = view.first - view.mapping.region.first
            text = self.machine.tracer.text(view.mapping.file.name)
            self._trace_unmap((self.engine.now, UNMAP_VIEW.id, first, view.stop - view.first, trimmed, text))
        return True

    # -- cached reads --------------------------------------------------------------------------------------

    def copy_read(self, thread: Thread, file: OpenFile, offset: int, length: int) -> range:
        """A running thread is about to read: take note, and see to what is to be read ahead.

        Returns the virtual pages that it needs.
        """
        mapping = file.mapping
        region = mapping.region
        stop = -(-(offset + length) // self.page_size)
        pages = range(region.first + offset // self.page_size, region.first + stop)
        self.copy_reads += 1
        self.copy_read_hits += self._present(mapping, pages)
        first = file.note(offset, length, stop)
        if first is not None and first < region.pages and self._read_ahead_size is not None:
            size = self._read_ahead_size(file)
            if size:
                stop = min(first + size, region.pages)
                file.plan(first, stop)
                target = self._read_ahead_target(file) if self._read_ahead_target is not None else None
                home = self.memory.home(thread, region)
                plan = file, range(first, stop), target, home, self.memory.priority(thread, region), thread
                # After this event: what the thread needs itself is to be read first.
                self.engine.soon(self._read_ahead, plan)
        return pages

    def _present(self, mapping: FileMapping, pages: range) -> bool:
        page = pages.start
        space = mapping.region.space
        while page < pages.stop:
            extent, page = space.at(page)
            if extent is None:
                return False
            if extent.transfer is not None and not extent.transfer.writing:
                return False
        return True

    def _read_ahead(self, plan: tuple[OpenFile, range, ReadAheadTarget | None, int, int, Thread]) -> None:
        """What the worker does whom a reader has asked to read ahead."""
        file, pages, target, home, priority, thread = plan
        mapping = file.mapping
        base = mapping.region.first
        any_read = False
        for runs in self.reads(mapping, base + pages.start, base + pages.stop):
            views: list[_View] = []
            active = range(0)
            if target != "standby":
                views, stop = self._enter_all(mapping, runs[0].start, runs[-1].stop)
                active = range(runs[0].start, stop)
                runs = [range(run.start, min(run.stop, stop)) for run in runs if run.start < stop]
            left = self.begin(mapping, runs, home, priority, active=active, views=views) if runs else 0
            any_read |= left > 0
            for run in runs:
                read = min(len(run), left)
                left -= read
                if read:
                    file.read_ahead(range(run.start - base, run.start - base + read))
        if any_read:
            self.read_aheads += 1
            if self._trace_ahead is not None:
                text = self.machine.tracer.text(mapping.file.name)
                self._trace_ahead(
                    (self.engine.now, READ_AHEAD.id, thread.process.id, thread.id, pages.start, len(pages),
                     target == "standby", text)
                )  # fmt: skip

    def _enter_all(self, mapping: FileMapping, first: int, stop: int) -> tuple[list[_View], int]:
        """Use the views of virtual pages first..stop, as far as there are any: (views, where they end)."""
        views: list[_View] = []
        while first < stop:
            view = self.enter(mapping, first)
            if view is None:
                return views, first
            views.append(view)
            first = view.stop
        return views, stop

    # -- what is counted -----------------------------------------------------------------------------------

    def counters(self) -> dict[str, float]:
        """Performance counters by their Windows names, over the machine's life so far."""
        seconds = self.engine.now / 1e9 or 1.0
        return {
            r"Cache\Copy Reads/sec": self.copy_reads / seconds,
            r"Cache\Copy Read Hits %": 100 * self.copy_read_hits / self.copy_reads
            if self.copy_reads
            else 0.0,
            r"Cache\Read Aheads/sec": self.read_aheads / seconds,
        }

    def check(self) -> None:
        """Raise SimulationError where views, files and memory contradict each other. For tests."""
        if self._most_views and len(self._views) > self._most_views:
            raise SimulationError(f"{len(self._views)} views are mapped, of {self._most_views}")
        if any(view.users < 0 for view in self._views.values()):
            raise SimulationError("a view is in use less than not at all")
        for file, mapping in self.mappings.items():
            region = mapping.region
            if mapping.file is not file or region.backing is not mapping:
                raise SimulationError(f"{mapping!r} has lost its region")
            for extent in region.extents():
                if extent.dirty:
                    raise SimulationError(f"{extent!r} of {mapping!r} is changed")
                if extent.state == TRANSITION and extent.transfer not in self._transfers:
                    raise SimulationError(f"{extent!r} of {mapping!r} is read by nobody")
                if (
                    extent.state == ACTIVE
                    and mapping.cached
                    and not self._viewed(mapping, extent.page, extent.pages)
                ):
                    raise SimulationError(f"{extent!r} of {mapping!r} is active, and not all of it in views")

    def _viewed(self, mapping: FileMapping, page: int, pages: int) -> bool:
        first = (page - mapping.region.first) // self._view_pages
        last = (page + pages - 1 - mapping.region.first) // self._view_pages
        return all((mapping, index) in self._views for index in range(first, last + 1))


class MapFile(Request):
    """Map a file into the thread's process. The program receives the `Region`: touch it, then free it."""

    __slots__ = ("file", "node")

    def __init__(self, file: File, node: int | None = None) -> None:
        self.file = file
        self.node = node

    def perform(self, thread: Thread) -> int | None:
        machine = thread.machine
        thread.result = machine.file_cache.map(machine.memory.space(thread.process), self.file, self.node)
        return 0


class CopyRead(Request):
    """Read `length` bytes at `offset` of an open file through the cache.

    `accesses` and `overlap` say what copying a page costs, as of a `Touch`. The program receives what that
    gives.
    """

    __slots__ = ("accesses", "file", "length", "offset", "overlap")

    def __init__(
        self, file: OpenFile, offset: int, length: int, *, accesses: int | None = None, overlap: float = 1
    ) -> None:
        size = file.mapping.file.size
        if offset < 0 or length <= 0 or offset + length > size:
            name = file.mapping.file.name
            raise SimulationError(f"{length} bytes at {offset} of file {name!r}, which has {size}")
        self.file = file
        self.offset = offset
        self.length = length
        self.accesses = accesses
        self.overlap = overlap

    def perform(self, thread: Thread) -> int | None:
        pages = thread.machine.file_cache.copy_read(thread, self.file, self.offset, self.length)
        thread.program = _Copy(self, pages, thread)
        return 0


class _Copy(Request):
    """A `CopyRead` under way, view by view. It takes the program's place meanwhile, as a `Touch` does."""

    __slots__ = ("at", "outer", "read", "stop", "thread", "view")

    def __init__(self, read: CopyRead, pages: range, thread: Thread) -> None:
        self.read = read
        self.thread = thread
        self.at = pages.start
        self.stop = pages.stop
        self.outer: Any = thread.program
        self.view: _View | None = None

    def __iter__(self) -> _Copy:
        return self

    def __next__(self) -> Request:
        self._leave()
        if self.at < self.stop:
            return self
        program = self.thread.program = self.outer
        return next(program)  # type: ignore[no-any-return]

    def send(self, result: Any) -> Request:
        """The touch of a view has failed."""
        self._leave()
        program = self.thread.program = self.outer
        return resume(program, result)

    def perform(self, thread: Thread) -> int | None:
        mapping = self.read.file.mapping
        region, cache = mapping.region, mapping.cache
        self.view = view = cache.enter(mapping, self.at)
        if view is None:
            cache.wait(thread)
            return None
        first = self.at - region.first
        self.at = min(self.stop, view.stop)
        touch = Touch(
            region,
            first,
            self.at - region.first - first,
            accesses=self.read.accesses,
            overlap=self.read.overlap,
        )
        return touch.perform(thread)

    def _leave(self) -> None:
        if self.view is not None:
            self.view.mapping.cache.leave(self.view)
            self.view = None
