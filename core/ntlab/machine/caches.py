"""Processor caches: how many lines of whose data each holds, and what it takes to bring in what it lacks.

A `Footprint` is data that threads use over and over: so many bytes, in memory of some node. Nothing is kept
for a single line: each cache counts how many lines of each footprint it holds. The rules:

- The lines of a footprint have an order, most used first. A cache that holds some of them holds the first
  ones, and a cache that cannot hold them all is full with the first ones: what it lacks then is part of the
  thread's own work, and nothing here.
- A processor's *way* is the caches above it, nearest first. A use brings each cache on the way to what it can
  hold. A line comes from the nearest cache on the way that holds it; else, of a footprint that is written to,
  from the caches of the processor that used it last; else from the memory that it is in. It takes the
  latency of there, `overlap` lines at a time, and from memory or between nodes it shares the links with
  all others.
- Lines that come into a full cache push out those of the footprint that was used least recently there, the
  last of them first, and never those of the footprint that is being used.
- A footprint that is written to is in no caches but those on one way: the first lines that come to another
  processor take all of it out of them.

A thread uses its footprint whenever a processor begins to run it, and by the request `Reuse`. It keeps its
processor and makes no progress until the lines are there. If it loses the processor before that, what is on
its way still comes, and next time it waits for as many lines as it had yet to get, not for those that it
lost again meanwhile; and once it has them it does some work before the next use. So threads that push each
other's data out get on slowly, but they do. Where no thread has a footprint, nothing of this exists.
"""

from __future__ import annotations

from itertools import pairwise
from operator import ge
from typing import TYPE_CHECKING, NamedTuple

from ntlab.engine import FOREVER
from ntlab.errors import SimulationError
from ntlab.machine.accesses import Tally
from ntlab.machine.links import Flow, Link
from ntlab.machine.policy import ProcessorCachePolicy
from ntlab.machine.processors import NOMINAL
from ntlab.machine.threads import Request, Thread
from ntlab.tracing import event_type

if TYPE_CHECKING:
    from ntlab.machine.links import Links
    from ntlab.machine.machine import Machine
    from ntlab.machine.processors import Processor
    from ntlab.machine.spaces import Region

REFILL = event_type("Lab-Cache", "Refill", "cpu tid level node lines")
"""Lines have come into a processor's caches: from a cache of that level on its way (node -1), from memory
(level 0) of a node, or from the caches of a processor of that node (level -1)."""
MEMORY, OTHER_CACHES = 0, -1
PACKAGE_LEVEL = 3
"""Caches of this level and above are of the package, those below of the core, where the policy tells their
latency, and their size if the machine's description does not."""


class Refills:
    """What has been brought into caches, in lines, and the ns for which threads waited for it.

    `from_level` counts what came from caches on the way, by their level; `from_memory` and `from_caches`
    (those of other processors) tell from where to where. `count` is how many uses had to bring anything.
    """

    def __init__(self) -> None:
        self.count = 0
        self.time = 0
        self.from_level: dict[int, int] = {}
        self.from_memory = Tally()
        self.from_caches = Tally()

    @property
    def lines(self) -> int:
        """All lines."""
        return sum(self.from_level.values()) + self.from_memory.total + self.from_caches.total

    @property
    def remote(self) -> int:
        """Lines that came from another node."""
        return self.from_memory.remote + self.from_caches.remote

    def _add(self, part: Part, node: int, lines: int, time: int) -> None:
        self.time += time
        if part.level > 0:
            self.from_level[part.level] = self.from_level.get(part.level, 0) + lines
        elif lines:
            tally = self.from_memory if part.level == MEMORY else self.from_caches
            tally.add(node, part.node, lines, time)


class Footprint:
    """`size` bytes of data that threads use over and over, alone or several of them.

    They are in memory of `node`, or of the nodes that hold the pages of `region`; with neither, of the node
    of the processor that uses them first. `written`: whether its users write to it. `overlap` is how many of
    its lines are on their way at a time (None: the policy's). `refills` counts what it took; several may
    share one.
    """

    __slots__ = ("_holders", "name", "node", "overlap", "refills", "region", "size", "written")

    def __init__(
        self,
        size: int,
        *,
        node: int | None = None,
        region: Region | None = None,
        written: bool = False,
        overlap: float | None = None,
        name: str = "data",
        refills: Refills | None = None,
    ) -> None:
        if size <= 0 or (overlap is not None and overlap <= 0):
            raise SimulationError(f"a footprint of {size} bytes, {overlap} lines at a time")
        if node is not None and region is not None:
            raise SimulationError(f"footprint {name!r} is in a node and in a region")
        self.size = size
        self.node = node
        self.region = region
        self.written = written
        self.overlap = overlap
        self.name = name
        self.refills = refills if refills is not None else Refills()
        self._holders: dict[Cache, None] = {}  # which caches hold lines of it

    def __repr__(self) -> str:
        return f"<Footprint {self.name} of {self.size} bytes>"


class Cache:
    """One cache. `lines` is how many it has, `latency` the ns in which one of them reaches a core,
    `processors` the mask of those that share it. `held` counts lines by footprint, least recently used
    first; `full` of them are taken."""

    __slots__ = ("full", "held", "latency", "level", "lines", "processors")

    def __init__(self, level: int, lines: int, latency: int, processors: int) -> None:
        self.level = level
        self.lines = lines
        self.latency = latency
        self.processors = processors
        self.held: dict[Footprint, int] = {}
        self.full = 0

    def __repr__(self) -> str:
        return f"<Cache L{self.level} of {self.processors:#x}, {self.full} of {self.lines} lines>"

    def hold(self, footprint: Footprint, lines: int) -> None:
        """Use a footprint: hold its first `lines` lines, or as many as are held already."""
        had = self.held.pop(footprint, 0)
        lines = max(lines, had)
        if not lines:
            return
        self.held[footprint] = lines  # the most recently used one is the last
        if lines == had:
            return
        if not had:
            footprint._holders[self] = None
        self.full += lines - had
        while self.full > self.lines:
            oldest = next(iter(self.held))
            pushed = min(self.full - self.lines, self.held[oldest])
            self.held[oldest] -= pushed
            self.full -= pushed
            if not self.held[oldest]:
                del self.held[oldest]
                del oldest._holders[self]

    def drop(self, footprint: Footprint) -> None:
        """Hold nothing of a footprint any more."""
        self.full -= self.held.pop(footprint, 0)
        footprint._holders.pop(self, None)


class Part(NamedTuple):
    """Lines `first` to `stop` of a footprint, which a processor's caches lack and have to get.

    From a cache on the way if `level` is positive; from the memory of `node` (level 0); or from the caches of
    a processor of `node` (level -1). `work` is the ns that they take if no link is shared.
    """

    first: int
    stop: int
    level: int
    node: int
    latency: int
    work: int


class Caches:
    """The caches of one machine. They come into being as they are used.

    `refills` counts what all uses took.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        hooks = machine.hooks
        policy = hooks.processor_cache_policy(machine) if hooks.processor_cache_policy is not None else None
        self.policy: ProcessorCachePolicy = policy if policy is not None else ProcessorCachePolicy()
        self.line = machine.memory.policy.line
        self.refills = Refills()
        self._tables = machine.tables
        self._caches: dict[tuple[int, int], Cache] = {}  # by level and processors
        self._ways: dict[int, tuple[Cache, ...]] = {}
        self._used: dict[Thread, Footprint] = {}
        self._waiting: dict[Thread, _Refill] = {}
        self._owed: dict[Thread, int] = {}  # how many lines are to come, of a use that was cut short
        self._ready: dict[Thread, tuple[int, int]] = {}  # run time and work of a thread when a use was over
        self._watching = False  # context switches: from the first footprint of a thread on
        self._trace = machine.tracer.emitter(REFILL)

    def way(self, processor: int) -> tuple[Cache, ...]:
        """The caches above a processor, nearest first."""
        tables = self.machine.tables
        if tables is not self._tables:  # hardware has come or gone; caches that stay keep what they hold
            self._tables = tables
            self._ways.clear()
            self.flush(~self.machine.scheduler.all_mask)
        found = self._ways.get(processor)
        if found is None:
            policy = self.policy
            above: dict[tuple[int, int], int] = {}  # bytes by level and processors
            for cache in tables.caches:
                if cache.processors >> processor & 1 and cache.type != "instruction":
                    size = cache.size or (
                        policy.core_size if cache.level < PACKAGE_LEVEL else policy.package_size
                    )
                    above[cache.level, cache.processors] = size
            if not above:
                core = tables.core_mask[tables.core_of[processor]]
                package = tables.package_mask[tables.package_of[processor]]
                above = {(2, core): policy.core_size, (PACKAGE_LEVEL, package): policy.package_size}
            found = tuple(
                self._cache(level, size, processors)
                for (level, processors), size in sorted(above.items())
                if size >= self.line
            )
            self._ways[processor] = found
        return found

    def _cache(self, level: int, size: int, processors: int) -> Cache:
        for key, cache in self._caches.items():
            if key[0] == level and key[1] & processors:
                if key[1] != processors:  # one of its processors has come or gone
                    del self._caches[key]
                    self._caches[level, processors] = cache
                    cache.processors = processors
                return cache
        policy = self.policy
        latency = policy.core_latency if level < PACKAGE_LEVEL else policy.package_latency
        cache = self._caches[level, processors] = Cache(level, size // self.line, latency, processors)
        return cache

    # -- what is where -------------------------------------------------------------------------------------

    def lines(self, footprint: Footprint) -> int:
        """How many lines a footprint has."""
        return -(-footprint.size // self.line)

    def missing(self, processor: int, footprint: Footprint, lines: int | None = None) -> list[Part]:
        """What a use by a processor would have to bring in now, of the first `lines` lines or of all,
        and from where: in the order of the lines."""
        way = self.way(processor)
        total = self.lines(footprint) if lines is None else min(lines, self.lines(footprint))
        wanted = [min(total, cache.lines) for cache in way]
        held = [cache.held.get(footprint, 0) for cache in way]
        if all(map(ge, held, wanted)):
            return []
        end = max(wanted)
        away, holder = 0, -1  # what the caches of another processor hold of it, if it is written to
        if footprint.written:
            for cache in footprint._holders:
                if cache not in way and cache.held[footprint] > away:
                    away = cache.held[footprint]
                    holder = (cache.processors & -cache.processors).bit_length() - 1
        # Where the lines between two cuts come from is the same for all of them: a cache on the way by its
        # place, or -1 for the caches of the holder, or -2 for memory.
        stretches: list[tuple[int, int, int]] = []
        for first, stop in pairwise(sorted({0, end, *(cut for cut in (*wanted, *held, away) if cut < end)})):
            nearest = next(k for k, want in enumerate(wanted) if want > first)
            source = next((k for k, have in enumerate(held) if have > first), -1 if first < away else -2)
            if 0 <= source <= nearest:
                continue
            if stretches and stretches[-1][1:] == (first, source):
                first = stretches.pop()[0]
            stretches.append((first, stop, source))
        parts: list[Part] = []
        for first, stop, source in stretches:
            if source >= 0:
                parts.append(self._part(footprint, first, stop, way[source].level, -1, way[source].latency))
            elif source == -1:
                node = self.machine.tables.node_of[holder]
                latency = self.machine.tables.latency[self.machine.tables.node_of[processor]][node]
                parts.append(self._part(footprint, first, stop, OTHER_CACHES, node, latency))
            else:
                parts += self._from_memory(processor, footprint, first, stop)
        return parts

    def _from_memory(self, processor: int, footprint: Footprint, first: int, stop: int) -> list[Part]:
        here = self.machine.tables.node_of[processor]
        pages = footprint.region.pages_by_node() if footprint.region is not None else {}
        if not pages:
            pages = {footprint.node if footprint.node is not None else here: 1}
        total, so_far, parts = sum(pages.values()), 0, []
        begin = first
        for node, count in sorted(pages.items()):
            so_far += count
            end = first + (stop - first) * so_far // total
            if end > begin:
                latency = self.machine.tables.latency[here][node]
                parts.append(self._part(footprint, begin, end, MEMORY, node, latency))
                begin = end
        return parts

    def _part(self, footprint: Footprint, first: int, stop: int, level: int, node: int, latency: int) -> Part:
        work = -int(-(stop - first) * latency // (footprint.overlap or self.policy.overlap))
        return Part(first, stop, level, node, latency, work)

    def cost(self, processor: int, footprint: Footprint) -> int:
        """The ns that a use by a processor would wait now, if no link is shared: how cold it is there."""
        return sum(part.work for part in self.missing(processor, footprint))

    # -- who uses what -------------------------------------------------------------------------------------

    def assign(self, thread: Thread, footprint: Footprint | None) -> None:
        """Say what a thread uses whenever a processor begins to run it from now on; None: nothing."""
        self.thread_ended(thread)
        if footprint is None:
            return
        self._used[thread] = footprint
        if not self._watching:
            self._watching = True
            self.machine.scheduler.watch_switches(self._switched)

    def footprint(self, thread: Thread) -> Footprint | None:
        """What a thread uses."""
        return self._used.get(thread)

    def touch(self, processor: Processor, footprint: Footprint, lines: int | None = None) -> int:
        """Use a footprint, or its first `lines` lines, on behalf of no thread: interrupt work does.

        All happens at once; returns the ns that it takes the processor, links not shared.
        """
        lines = self.lines(footprint) if lines is None else min(lines, self.lines(footprint))
        parts = self.missing(processor.index, footprint, lines)
        self._begin_use(processor, footprint, parts)
        for part in parts:
            self._brought(processor, footprint, part, part.stop - part.first, part.work, None)
        self._fill(processor, footprint, lines)
        return sum(part.work for part in parts)

    def forget(self, footprint: Footprint) -> None:
        """No cache holds any of it any more: a device has written to its memory, or it is gone."""
        for cache in list(footprint._holders):
            cache.drop(footprint)

    def flush(self, processors: int) -> None:
        """These processors (a mask) lose what their caches hold, as in deep sleep or when they are taken out;
        caches that others share keep it."""
        for cache in self._caches.values():
            if not cache.processors & ~processors:
                for footprint in list(cache.held):
                    cache.drop(footprint)

    def thread_ended(self, thread: Thread) -> None:
        """Forget a thread. What the caches hold for it stays until others push it out."""
        for remembered in (self._used, self._owed, self._ready):
            remembered.pop(thread, None)

    # -- a use ---------------------------------------------------------------------------------------------

    def _begin_use(self, processor: Processor, footprint: Footprint, parts: list[Part]) -> None:
        """What a processor's caches hold of a footprint is the last to be pushed out there from now on."""
        if footprint.node is None and footprint.region is None:
            footprint.node = processor.node
        for cache in self.way(processor.index):
            cache.hold(footprint, 0)
        if parts:
            self.refills.count += 1
            footprint.refills.count += 1

    def _brought(
        self,
        processor: Processor,
        footprint: Footprint,
        part: Part,
        lines: int,
        time: int,
        thread: Thread | None,
    ) -> None:
        """The first `lines` lines of a part have come, in `time` ns."""
        stop = part.first + lines
        if lines:
            self._fill(processor, footprint, stop)
            if part.level == MEMORY:
                self.machine.memory.accesses.tally.add(processor.node, part.node, lines, time)
            if self._trace is not None:
                tid = thread.id if thread is not None else 0
                now = self.machine.engine.now
                self._trace((now, REFILL.id, processor.index, tid, part.level, part.node, lines))
        self.refills._add(part, processor.node, lines, time)
        footprint.refills._add(part, processor.node, lines, time)

    def _fill(self, processor: Processor, footprint: Footprint, lines: int) -> None:
        """The first `lines` lines have passed through the caches on a processor's way."""
        way = self.way(processor.index)
        for cache in way:
            cache.hold(footprint, min(lines, cache.lines))
        if footprint.written:
            for cache in list(footprint._holders):
                if cache not in way:
                    cache.drop(footprint)

    def _links(self, processor: Processor, part: Part) -> tuple[Link, ...]:
        if part.level > 0:
            return ()
        way = self.machine.memory.accesses.way(processor.node, part.node)
        return way if part.level == MEMORY else way[1:]  # the interconnect, without the memory's channels

    def _switched(self, processor: Processor, old: Thread | None, new: Thread | None) -> None:
        if old is not None and old in self._waiting:
            self._waiting[old].suspend()
        if (
            new is not None
            and new in self._used
            # At raised IRQL, in an APC, or amid a touch of memory, it goes on with that.
            and not new.raised
            and new.apcs is None
            and not self.machine.memory.accesses.under_way(new)
            and self._ready.pop(new, None) != (new.run_time, new.remaining)
            and self._use(processor, new)
        ):
            self._waiting[new].hold()

    def _use(self, processor: Processor, thread: Thread) -> bool:
        """A thread that has just got its processor, or asks for it, uses its footprint. Whether it waits."""
        footprint = self._used[thread]
        parts, stop = self.missing(processor.index, footprint), self.lines(footprint)
        owed = self._owed.pop(thread, None)
        if owed is not None and parts:
            parts = self._first(footprint, parts, owed)
            stop = parts[-1].stop
        self._begin_use(processor, footprint, parts)
        if not parts:
            self._fill(processor, footprint, stop)
            return False
        self._waiting[thread] = _Refill(self, processor, thread, footprint, parts, stop)
        return True

    def _first(self, footprint: Footprint, parts: list[Part], lines: int) -> list[Part]:
        """The first so many lines of all parts."""
        chosen = []
        for part in parts:
            stop = min(part.stop, part.first + lines)
            lines -= stop - part.first
            chosen.append(self._part(footprint, part.first, stop, part.level, part.node, part.latency))
            if not lines:
                break
        return chosen

    # -- what must be true between two events --------------------------------------------------------------

    def check(self) -> None:
        """Compare caches, footprints and threads. Raises SimulationError where they differ."""
        for cache in self._caches.values():
            if cache.full != sum(cache.held.values()) or cache.full > cache.lines:
                raise SimulationError(f"{cache!r} holds {sum(cache.held.values())} lines")
            for footprint, lines in cache.held.items():
                if not 0 < lines <= self.lines(footprint):
                    raise SimulationError(f"{cache!r} holds {lines} lines of {footprint!r}")
                if cache not in footprint._holders:
                    raise SimulationError(f"{cache!r} holds lines of {footprint!r}, which does not know it")
                shared = -1  # those that have every cache which holds lines of it on their way
                for holder in footprint._holders:
                    shared &= holder.processors
                if footprint.written and not shared:
                    raise SimulationError(f"{footprint!r} is written to, and in caches of several ways")
        for thread, refill in self._waiting.items():
            processor = thread.processor
            if processor is not refill.processor or processor.thread is not thread:
                raise SimulationError(f"{thread!r} waits for cache lines, though it does not run")


class _Refill:
    """A thread waits for lines of its footprint, part after part; its own work waits meanwhile.

    To the scheduler the wait is work that has no end; the last part ends it.
    """

    __slots__ = (
        "caches",
        "flow",
        "footprint",
        "fraction",
        "parts",
        "processor",
        "remaining",
        "since",
        "stop",
        "thread",
    )

    def __init__(
        self,
        caches: Caches,
        processor: Processor,
        thread: Thread,
        footprint: Footprint,
        parts: list[Part],
        stop: int,
    ) -> None:
        self.caches = caches
        self.processor = processor
        self.thread = thread
        self.footprint = footprint
        self.parts = parts[::-1]  # the next one is the last
        self.stop = stop  # up to which line they are there then
        self.remaining = self.fraction = 0  # the thread's own work
        self.since = caches.machine.engine.now
        self.flow: Flow | None = None
        pause = processor.since - self.since
        if pause > 0:  # the switch itself takes its time first
            self.flow = self._links.start((), pause, self._begin)
        else:
            self._begin(None)

    @property
    def _links(self) -> Links:
        return self.caches.machine.memory.accesses.links

    def hold(self) -> None:
        """The thread has work of its own, which has to wait."""
        self.remaining, self.fraction = self.thread.remaining, self.thread.fraction
        self.thread.remaining, self.thread.fraction = FOREVER, 0

    def _begin(self, _: object) -> None:
        """Begin to bring in the next part."""
        part = self.parts[-1]
        caches = self.caches
        self.since = caches.machine.engine.now
        overlap = self.footprint.overlap or caches.policy.overlap
        rate = int(overlap * caches.line * 1_000_000_000 // (part.latency or 1)) or 1
        loads = [(link, rate) for link in caches._links(self.processor, part)]
        self.flow = self._links.start(loads, part.work, self._arrived)

    def _arrived(self, _: object) -> None:
        part = self.parts.pop()
        self._account(part, part.stop - part.first)
        if self.parts:
            self._begin(None)
            return
        self.caches._fill(self.processor, self.footprint, self.stop)
        # The thread goes on with its own work; the time so far was spent waiting.
        scheduler, processor = self.caches.machine.scheduler, self.processor
        if processor.level:  # it goes on when that is over
            self._let_go()
        else:
            scheduler.suspend(processor)
            self._let_go()
            scheduler.restart(processor)

    def suspend(self) -> None:
        """The thread loses its processor. The line that is on its way still comes."""
        assert self.flow is not None
        left = self._links.stop(self.flow)
        owed = sum(part.stop - part.first for part in self.parts)
        if self.flow.action == self._arrived:
            part = self.parts[-1]
            whole = part.work * NOMINAL
            lines = part.stop - part.first
            come = -(-lines * (whole - left) // whole) if whole else lines
            self._account(part, come)
            owed -= come
        if owed:
            self.caches._owed[self.thread] = owed
        self._let_go(ready=not owed)

    def _account(self, part: Part, lines: int) -> None:
        time = self.caches.machine.engine.now - self.since
        self.caches._brought(self.processor, self.footprint, part, lines, time, self.thread)

    def _let_go(self, *, ready: bool = True) -> None:
        thread = self.thread
        del self.caches._waiting[thread]
        if ready and self.remaining:
            self.caches._ready[thread] = thread.run_time, self.remaining
        if thread.apcs is not None:
            thread.apcs.left = self.remaining  # an APC came in between, and has put the wait aside
        else:
            thread.remaining, thread.fraction = self.remaining, self.fraction


class Reuse(Request):
    """Use a footprint now, and whenever a processor begins to run the thread from now on; None ends that.

    The program goes on when the lines are there.
    """

    __slots__ = ("footprint",)

    def __init__(self, footprint: Footprint | None) -> None:
        self.footprint = footprint

    def perform(self, thread: Thread) -> int | None:
        caches, processor = thread.machine.caches, thread.processor
        assert processor is not None
        caches.assign(thread, self.footprint)
        return FOREVER if self.footprint is not None and caches._use(processor, thread) else 0
