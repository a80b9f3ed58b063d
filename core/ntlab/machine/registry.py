"""The registry: hives, where their pages are, and what it costs to look up a key.

A hive is a file of cells, and each belongs to a key. To look up a key is to look at the cells on the way
from the root to it. Here a key is a number: the root is 0, a key has up to `FANOUT` keys below it, and cells
are in the file in the order of these numbers, `CELLS` to a page. So what is near the root is together, and
all ways lead over it.

Where a hive is, is asked of plugins (`registry_policy`):

- "nonpaged": in non-paged pool, whole; or, with a limit, part by part, as ways lead there, and the part that
  was used longest ago is dropped for another. That is the registry's own way to do what paging does for all.
- "cache_views": in the system cache, mapped part by part from its file, and no more of it than the limit.
- "paged_pool": in paged pool, whole, loaded at the beginning, with the paging file behind it; or mapped there
  from its file.

    hive = machine.registry.load("SOFTWARE", 16 * MIB)
    status = yield QueryKey(hive, key)

Hives are only read here.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ntlab.errors import SimulationError, UserError
from ntlab.machine.accesses import STATUS_NO_MEMORY, Touch
from ntlab.machine.extents import ACTIVE
from ntlab.machine.io import NOCACHE, File, IoRequest
from ntlab.machine.paging import whole_pages
from ntlab.machine.policy import RegistryPolicy
from ntlab.machine.records import KERNEL_LOGGER
from ntlab.machine.sections import PAGED_POOL, SYSTEM_CACHE
from ntlab.machine.spaces import Region
from ntlab.machine.threads import Request, Thread, resume
from ntlab.tracing import EventType, event_type
from ntlab.tracing.tracer import Emitter

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine

FANOUT: Final = 16
CELLS: Final = 8
"""Cells in a page; so a key, with its values, takes 512 bytes of pages of 4 KiB. Both are guesses."""

QUERY = event_type(KERNEL_LOGGER, "Registry/Query", "initial_time nt_status tid hive$ key")
LOAD_PART = event_type("Lab-Registry", "LoadPart", "hive$ part pages")
DROP_PART = event_type("Lab-Registry", "DropPart", "hive$ part pages")


class Hive:
    """A hive: `pages` of it in `file`. `region` is where it is, None if its parts are in non-paged pool.

    `soft_faults` and `hard_faults` count how often a page on a way had to be taken back from a list, or read.
    """

    __slots__ = ("file", "hard_faults", "name", "pages", "region", "soft_faults")

    def __init__(self, name: str, file: File, pages: int) -> None:
        self.name = name
        self.file = file
        self.pages = pages
        self.region: Region | None = None
        self.soft_faults = 0
        self.hard_faults = 0

    @property
    def keys(self) -> int:
        """How many keys it has."""
        return self.pages * CELLS

    def path(self, key: int) -> list[int]:
        """The pages on the way from the root to a key."""
        if not 0 <= key < self.keys:
            raise SimulationError(f"key {key} of hive {self.name!r}, which has {self.keys}")
        pages = [key // CELLS]
        while key:
            key = (key - 1) // FANOUT
            if key // CELLS != pages[-1]:
                pages.append(key // CELLS)
        pages.reverse()
        return pages


class _Part:
    """A part of a hive that is in use: pages first..stop of it, which `users` are looking at now.

    `region` is its own in non-paged pool; while it is being read, `waiters` wait.
    """

    __slots__ = ("first", "hive", "index", "reading", "region", "stop", "users", "waiters")

    def __init__(self, hive: Hive, index: int, size: int) -> None:
        self.hive = hive
        self.index = index
        self.first = index * size
        self.stop = min(self.first + size, hive.pages)
        self.region: Region | None = None
        self.users = 0
        self.reading = False
        self.waiters: list[Thread] = []

    @property
    def pages(self) -> int:
        """How many pages it has."""
        return self.stop - self.first


class Registry:
    """The registry of one machine: `hives` by name. `parts_loaded` counts parts that came into use."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.memory = machine.memory
        self.hives: dict[str, Hive] = {}
        self.parts_loaded = 0
        self.held = 0  # pages of all parts in use
        self._policy: RegistryPolicy | None = None
        self._part_pages = 0
        self._limit = 0  # of `held`; 0: none, and no parts
        self._parts: OrderedDict[tuple[Hive, int], _Part] = OrderedDict()  # least recently used first
        tracer = machine.tracer
        self._trace_query = tracer.emitter(QUERY)
        self._trace_load = tracer.emitter(LOAD_PART)
        self._trace_drop = tracer.emitter(DROP_PART)

    @property
    def policy(self) -> RegistryPolicy:
        """The fixed rules, asked for when they are first needed."""
        if self._policy is None:
            ask = self.machine.hooks.registry_policy
            policy = ask(self.machine) if ask is not None else None
            self._policy = policy = policy if policy is not None else RegistryPolicy()
            self._part_pages = whole_pages(self.machine, policy.part, "a part of the registry")
            if policy.backing != "paged_pool":
                self._limit = policy.limit // self.memory.policy.page_size
                if 0 < policy.limit < policy.part:
                    raise UserError(
                        f"at most {policy.limit} bytes of the registry",
                        expected=f"0, or at least a part of it, {policy.part}",
                    )
        return self._policy

    def load(self, name: str, size: int) -> Hive:
        """A hive, at the beginning: takes no time. Raises UserError if there is no room for it."""
        if name in self.hives:
            raise SimulationError(f"hive {name!r} is loaded already")
        policy, sections = self.policy, self.machine.sections
        files = self.machine.file_cache
        file = files.create(f"C:\\Windows\\System32\\config\\{name}", size)
        hive = Hive(name, file, -(-size // self.memory.policy.page_size))
        if policy.backing == "cache_views":
            hive.region = files.map(sections.space(SYSTEM_CACHE), file)
        elif policy.backing == "paged_pool" and policy.store == "hive_file":
            hive.region = files.map(sections.space(PAGED_POOL), file)
        elif policy.backing == "paged_pool" or not self._limit:
            if policy.backing == "nonpaged":
                hive.region = sections.nonpaged(hive.pages)
            elif hive.pages <= self.memory.available:
                hive.region = sections.space(PAGED_POOL).allocate(hive.pages)
                if hive.region is not None:
                    self.memory.populate(hive.region, 0, dirty=True)
            if hive.region is None:
                raise UserError(f"no room for hive {name!r}", expected=f"{hive.pages} available pages")
        self.hives[name] = hive
        return hive

    def resident(self, hive: Hive) -> int:
        """How many pages of a hive are in memory and not on a list: in non-paged pool or a working set."""
        regions = [hive.region, *(part.region for part in self._parts.values() if part.hive is hive)]
        return sum(
            extent.pages
            for region in regions
            if region is not None
            for extent in region.extents()
            if extent.state == ACTIVE
        )

    # -- parts: of hives that may not have all their pages in use --------------------------------------------

    def find(self, thread: Thread, hive: Hive, page: int) -> _Place | int | None:
        """Where a page of a hive is, for a running thread. None if the thread waits, and then asks again; or
        a status, if there is no memory."""
        part = None
        if self._limit:
            part = self._part(hive, page)
            if part is None:  # no memory for it
                found = self.memory.shortage(thread, self._part_pages, self._part_pages)
                if found is None:
                    return None
                part = self._part(hive, page) if found else None
                if part is None:
                    return STATUS_NO_MEMORY
            if part.reading:
                part.waiters.append(thread)
                return None
            part.users += 1
            if part.region is not None:
                return _Place(part.region, page - part.first, part)
        region = hive.region
        assert region is not None
        extent, _ = region.space.at(region.first + page)
        if extent is None:
            hive.hard_faults += 1
        elif extent.state != ACTIVE:
            hive.soft_faults += 1
        return _Place(region, page, part)

    def _part(self, hive: Hive, page: int) -> _Part | None:
        """The part that holds a page; others go for it if it is not in use. None if there is no memory."""
        key = hive, page // self._part_pages
        part = self._parts.get(key)
        if part is not None:
            self._parts.move_to_end(key)
            return part
        part = _Part(hive, key[1], self._part_pages)
        self._shrink(part)
        if hive.region is None:
            part.region = self.machine.sections.nonpaged(part.pages)
            if part.region is None:
                return None
            self._read(part)
            hive.hard_faults += 1
        self._parts[key] = part
        self.held += part.pages
        self.parts_loaded += 1
        self._record(self._trace_load, LOAD_PART, part)
        return part

    def leave(self, part: _Part) -> None:
        """End a use of a part. There may be more parts than the limit allows, while they are all in use."""
        part.users -= 1
        if self.held > self._limit:
            self._shrink()

    def _shrink(self, coming: _Part | None = None, kept: _Part | None = None) -> None:
        """Drop parts that nobody uses until they are within the limit, with one that is coming."""
        more = coming.pages if coming is not None else 0
        for part in list(self._parts.values()):
            if self.held + more <= self._limit:
                break
            if not part.users and not part.reading and part is not kept:
                self._drop(part)

    def _read(self, part: _Part) -> None:
        """Read a part into non-paged pool."""
        part.reading = True

        def done(request: IoRequest) -> None:
            part.reading = False
            waiters, part.waiters = part.waiters, []
            for thread in waiters:
                self.machine.scheduler.wake(thread)
            self._shrink(kept=part)

        size, file = self.memory.policy.page_size, part.hive.file
        offset, length = file.start + part.first * size, part.pages * size
        self.machine.io.submit(IoRequest("read", file.device, offset, length, done=done, flags=NOCACHE))

    def _drop(self, part: _Part) -> None:
        """A part goes: out of non-paged pool, or out of the system cache's working set."""
        hive = part.hive
        del self._parts[hive, part.index]
        self.held -= part.pages
        if part.region is not None:
            part.region.space.release(part.region)
        else:
            assert hive.region is not None
            space, base = hive.region.space, hive.region.first
            first, stop = base + part.first, base + part.stop
            leaving = [
                self.memory.isolate(extent, max(extent.page, first), min(extent.page + extent.pages, stop))
                for extent in space.extents(first, stop)
                if extent.state == ACTIVE
            ]
            if leaving:
                self.memory.trim(space.working_set, leaving)
        self._record(self._trace_drop, DROP_PART, part)

    def _record(self, trace: Emitter | None, event: EventType, part: _Part) -> None:
        if trace is not None:
            text = self.machine.tracer.text(part.hive.name)
            trace((self.machine.engine.now, event.id, text, part.index, part.pages))

    def ended(self, thread: Thread, query: QueryKey, since: int, status: int) -> None:
        """A query is done."""
        if self._trace_query is not None:
            text = self.machine.tracer.text(query.hive.name)
            self._trace_query((self.machine.engine.now, QUERY.id, since, status, thread.id, text, query.key))

    def check(self) -> None:
        """Raise SimulationError where parts are miscounted, or more are kept than may be. For tests."""
        pages = sum(part.pages for part in self._parts.values())
        idle = sum(part.pages for part in self._parts.values() if not part.users and not part.reading)
        if pages != self.held or (self._parts and idle > self._limit):
            raise SimulationError(f"{self.held} pages of the registry are in use; they are {pages}")
        for hive in self.hives.values():
            if hive.region is not None and hive.region not in hive.region.space.regions:
                raise SimulationError(f"hive {hive.name!r} has lost its memory")


class _Place(NamedTuple):
    region: Region
    page: int
    part: _Part | None


class QueryKey(Request):
    """Look up a key of a hive: look at all the cells on the way, `accesses` cache lines of each.

    The program receives nothing, `STATUS_NO_MEMORY` or, where a hive's file cannot be read,
    `STATUS_IN_PAGE_ERROR`.
    """

    __slots__ = ("accesses", "hive", "key", "pages")

    def __init__(self, hive: Hive, key: int, *, accesses: int = 8) -> None:
        self.hive = hive
        self.key = key
        self.accesses = accesses
        self.pages = hive.path(key)

    def perform(self, thread: Thread) -> int | None:
        thread.program = _Walk(self, thread)
        return 0


class _Walk(Request):
    """A `QueryKey` under way, page by page. It takes the program's place meanwhile, as a `Touch` does."""

    __slots__ = ("at", "outer", "part", "query", "since", "thread")

    def __init__(self, query: QueryKey, thread: Thread) -> None:
        self.query = query
        self.thread = thread
        self.at = 0
        self.outer: Any = thread.program
        self.part: _Part | None = None
        self.since = thread.machine.engine.now

    def __iter__(self) -> _Walk:
        return self

    def __next__(self) -> Request:
        self._leave()
        if self.at < len(self.query.pages):
            return self
        self._end(0)
        return next(self.outer)  # type: ignore[no-any-return]

    def send(self, result: Any) -> Request:
        """There was no memory."""
        self._leave()
        self._end(result)
        return resume(self.outer, result)

    def perform(self, thread: Thread) -> int | None:
        query = self.query
        found = thread.machine.registry.find(thread, query.hive, query.pages[self.at])
        if found is None:
            return None
        if isinstance(found, int):
            thread.result = found
            return 0
        self.at += 1
        self.part = found.part
        return Touch(found.region, found.page, 1, accesses=query.accesses).perform(thread)

    def _leave(self) -> None:
        if self.part is not None:
            self.thread.machine.registry.leave(self.part)
            self.part = None

    def _end(self, status: int) -> None:
        self.thread.program = self.outer
        self.thread.machine.registry.ended(self.thread, self.query, self.since, status)
