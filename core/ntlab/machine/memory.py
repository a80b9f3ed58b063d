"""Memory: pages in extents, lists of them, address spaces, faults, and what an access costs.

Nothing here is kept for a single page. Free memory is runs of frames; everything else is *extents*: runs of
pages that are consecutive both in physical memory and in one address space, and alike in all that is known
of them. They are split where that ends to be so. So memory costs what is touched, not what is installed.

A page's life, in Windows' numbering of states:

    Zeroed, Free --demand-zero fault--> Active --trim--> Modified --write--> Transition --> Standby
       ^                                  ^ |                |                   |             |
       |                                  | +--trim, clean---|-------------------|-----------> |
       +--release, repurpose--            +---soft fault-----+-------------------+-------------+

Active pages are in their process's working set, which is a list in the order of arrival; a bit tells
what has been accessed since somebody last cleared it, as hardware does. Standby pages are listed by node and
priority, modified pages for the whole machine, since they are written in that order. Each node counts its
pages by state, so any list's length is read, never counted.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from ntlab.engine import FOREVER
from ntlab.errors import SimulationError
from ntlab.machine.links import Flow, Link, Links
from ntlab.machine.processors import NOMINAL
from ntlab.machine.threads import Request, Thread
from ntlab.quantities import MICROSECOND, Duration, Size
from ntlab.tracing import event_type

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine
    from ntlab.machine.processors import Processor
    from ntlab.machine.threads import Process

ZEROED, FREE, STANDBY, MODIFIED, MODIFIED_NO_WRITE, BAD, ACTIVE, TRANSITION = range(8)
"""Page states. Transition here is "an I/O is under way"."""
STATES = 8
PRIORITIES = 8
NORMAL_PRIORITY = 5

STATUS_NO_MEMORY = 0xC0000017
"""What `Touch` gives when no page can be had and none is promised."""

ALLOCATION_GRANULARITY = 65536
"""Regions begin at multiples of this many bytes of address space."""

KERNEL_LOGGER = "NT Kernel Logger"
DEMAND_ZERO_FAULT = event_type(KERNEL_LOGGER, "PageFault/DemandZeroFault", "tid pid page pages node")
TRANSITION_FAULT = event_type(KERNEL_LOGGER, "PageFault/TransitionFault", "tid pid page pages node")
HARD_FAULT = event_type(KERNEL_LOGGER, "PageFault/HardFault", "tid pid page pages")
ALLOCATE = event_type("Lab-Numa", "Allocate", "pid home node frame page pages")
REPURPOSE = event_type("Lab-Memory", "Repurpose", "node frame pages priority")
TRIM = event_type("Lab-Memory", "Trim", "pid modified standby")


def _positive(instance: object, field: attrs.Attribute[int], value: int) -> None:
    if value <= 0:
        raise ValueError(f"{field.name} must be positive, not {value}")


def _not_negative(instance: object, field: attrs.Attribute[int], value: int) -> None:
    if value < 0:
        raise ValueError(f"{field.name} must not be negative, not {value}")


@attrs.frozen(kw_only=True)
class MemoryPolicy:
    """Rules and costs of memory; the costs are orders of magnitude, not measurements (unvalidated).

    - `page_size`, `line`: bytes of a page and of a cache line.
    - `demand_zero_fault`, `transition_fault`: processor time for each page; `hard_fault`: for each wait for
      a read; `zeroing`: for each page that nobody has zeroed before.
    - `working_set_minimum`, `working_set_maximum`: pages, of a new process. Nothing is done at the maximum
      unless a plugin does it.
    """

    page_size: Size = attrs.field(default=Size(4096), validator=_positive)
    line: Size = attrs.field(default=Size(64), validator=_positive)
    demand_zero_fault: Duration = attrs.field(default=Duration(1 * MICROSECOND), validator=_not_negative)
    transition_fault: Duration = attrs.field(default=Duration(1 * MICROSECOND), validator=_not_negative)
    hard_fault: Duration = attrs.field(default=Duration(20 * MICROSECOND), validator=_not_negative)
    zeroing: Duration = attrs.field(default=Duration(1 * MICROSECOND), validator=_not_negative)
    working_set_minimum: int = attrs.field(default=50, validator=_not_negative)
    working_set_maximum: int = attrs.field(default=345, validator=_positive)


# -- extents and lists ------------------------------------------------------------------------------------


class Extent:
    """A run of pages: `pages` of them from physical frame `frame` and virtual page `page` of a region's
    address space.

    `list` is the list that it is on, if any; `transfer` the I/O that it takes part in, if any.
    """

    __slots__ = (
        "accessed",
        "age",
        "dirty",
        "frame",
        "list",
        "next",
        "node",
        "page",
        "pages",
        "previous",
        "priority",
        "region",
        "state",
        "transfer",
    )

    def __init__(self, region: Region, page: int, pages: int, node: int, frame: int, state: int) -> None:
        self.region = region
        self.page = page
        self.pages = pages
        self.node = node
        self.frame = frame
        self.state = state
        self.priority = NORMAL_PRIORITY
        self.age = 0
        self.accessed = False
        self.dirty = False
        self.list: PageList | None = None
        self.previous: Extent | None = None
        self.next: Extent | None = None
        self.transfer: Transfer | None = None

    def __repr__(self) -> str:
        where = f"page {self.page} frame {self.frame} +{self.pages}"
        return f"<Extent {where} node {self.node} state {self.state}>"


class PageList:
    """Extents in order, oldest first; linked, so that one can leave from anywhere. `pages` is their total."""

    __slots__ = ("head", "pages", "tail")

    def __init__(self) -> None:
        self.head: Extent | None = None
        self.tail: Extent | None = None
        self.pages = 0

    def append(self, extent: Extent) -> None:
        """Put an extent that is on no list at the tail."""
        tail = self.tail
        extent.list = self
        extent.previous = tail
        extent.next = None
        if tail is None:
            self.head = extent
        else:
            tail.next = extent
        self.tail = extent
        self.pages += extent.pages

    def remove(self, extent: Extent) -> None:
        """Take out an extent that is here."""
        before, after = extent.previous, extent.next
        if before is None:
            self.head = after
        else:
            before.next = after
        if after is None:
            self.tail = before
        else:
            after.previous = before
        extent.list = extent.previous = extent.next = None
        self.pages -= extent.pages

    def split(self, extent: Extent, rest: Extent) -> None:
        """Put `rest`, cut off from an extent that is here, right behind it. The total stays."""
        after = extent.next
        rest.list = self
        rest.previous = extent
        rest.next = after
        extent.next = rest
        if after is None:
            self.tail = rest
        else:
            after.previous = rest

    def __iter__(self) -> Iterator[Extent]:
        """The extents, oldest first. Removing the one at hand, or splitting it, is allowed meanwhile."""
        extent = self.head
        while extent is not None:
            following = extent.next
            yield extent
            extent = following


class FreeRuns:
    """Runs of frames that hold nothing. Neighbours are merged; the run freed last is taken first."""

    __slots__ = ("_ends", "_runs")

    def __init__(self) -> None:
        self._runs: dict[int, int] = {}  # first frame -> pages
        self._ends: dict[int, int] = {}  # frame after the last -> first frame

    def add(self, frame: int, pages: int) -> None:
        """Frames become free."""
        end = frame + pages
        before = self._ends.pop(frame, None)
        if before is not None:
            del self._runs[before]
            frame = before
        after = self._runs.pop(end, None)
        if after is not None:
            end += after
        self._runs[frame] = end - frame
        self._ends[end] = frame

    def take(self, pages: int) -> tuple[int, int]:
        """Take up to `pages` frames of one run: (first frame, how many). There must be a run."""
        frame, size = self._runs.popitem()
        if size > pages:
            self._runs[frame + pages] = size - pages
            self._ends[frame + size] = frame + pages
            return frame, pages
        del self._ends[frame + size]
        return frame, size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The runs as (first frame, pages)."""
        return iter(self._runs.items())


class NodeMemory:
    """The memory of one node: `installed` pages from frame `first` on; `pages[state]` of each state."""

    __slots__ = ("first", "free", "index", "installed", "pages", "standby", "zeroed")

    def __init__(self, index: int, first: int, installed: int) -> None:
        self.index = index
        self.first = first
        self.installed = installed
        self.pages = [0] * STATES
        self.zeroed = FreeRuns()
        self.free = FreeRuns()
        self.standby = [PageList() for _ in range(PRIORITIES)]
        if installed:
            self.zeroed.add(first, installed)
            self.pages[ZEROED] = installed

    @property
    def available(self) -> int:
        """Pages that can be given away at once: zeroed, free and standby."""
        pages = self.pages
        return pages[ZEROED] + pages[FREE] + pages[STANDBY]


class Transfer:
    """An I/O between memory and a backing store. `extents` are the pages that still take part.

    Made by `memory.begin_read` and `begin_write`. A thread that needs a page of a read waits for it.
    """

    __slots__ = ("extents", "waiters", "writing")

    def __init__(self, writing: bool) -> None:
        self.writing = writing
        self.extents: list[Extent] = []
        self.waiters: list[Thread] = []


# -- address spaces ---------------------------------------------------------------------------------------


class Backing(Protocol):
    """Where a region's pages are when they are not in memory. Pages are virtual page numbers of its space."""

    def held(self, region: Region, page: int, stop: int) -> tuple[int, int] | None:
        """The first run of pages in page..stop that is stored, as (first, stop), or None."""

    def read(self, thread: Thread, region: Region, page: int, stop: int) -> bool:
        """Begin to read stored pages from `page` on, by `memory.begin_read`, which must include `page`.

        `memory.end_read` follows later, never within this call. May read fewer or more than asked for.
        False if there is no memory to read into.
        """

    def changed(self, region: Region, page: int, stop: int) -> None:
        """These pages are being written to, or released: what is stored of them is of no use any more."""


class Writer(Protocol):
    """Who writes modified pages, so that they become available."""

    def wake(self) -> None:
        """Pages have become modified."""

    def promise(self) -> bool:
        """Whether pages will become available without anybody giving up any: it writes, or begins to."""


class Region:
    """A range of an address space: `pages` virtual pages from `first` on, committed.

    `backing` is where they are when not in memory (None: nowhere, a fault gives zeroes). `node` is the node
    its creator prefers, None for no preference; it is for plugins to heed.
    """

    __slots__ = ("backing", "first", "node", "pages", "space")

    def __init__(
        self, space: AddressSpace, first: int, pages: int, backing: Backing | None, node: int | None
    ) -> None:
        self.space = space
        self.first = first
        self.pages = pages
        self.backing = backing
        self.node = node

    def __repr__(self) -> str:
        return f"<Region pages {self.first}..{self.first + self.pages} of {self.space.process.name}>"

    @property
    def stop(self) -> int:
        """The virtual page after the last."""
        return self.first + self.pages

    def extents(self) -> list[Extent]:
        """What of it is in memory, by virtual page."""
        return self.space.extents(self.first, self.stop)

    def pages_by_node(self) -> dict[int, int]:
        """How many of its pages are in each node's memory."""
        counts: dict[int, int] = {}
        for extent in self.extents():
            counts[extent.node] = counts.get(extent.node, 0) + extent.pages
        return counts


class AddressSpace:
    """A process's virtual memory: its regions, and the extents that hold some of their pages.

    `working_set` lists the active ones in the order in which they came in. Made by `memory.space(process)`.
    """

    __slots__ = (
        "_extents",
        "_next",
        "_starts",
        "committed",
        "faults",
        "memory",
        "process",
        "regions",
        "working_set",
        "working_set_maximum",
        "working_set_minimum",
    )

    def __init__(self, memory: Memory, process: Process) -> None:
        self.memory = memory
        self.process = process
        self.regions: list[Region] = []
        self.committed = 0
        self.faults = 0
        self.working_set = PageList()
        self.working_set_minimum = memory.policy.working_set_minimum
        self.working_set_maximum = memory.policy.working_set_maximum
        self._starts: list[int] = []  # first virtual pages of _extents, ascending
        self._extents: list[Extent] = []
        self._next = memory.granularity

    def allocate(
        self, pages: int, *, backing: Backing | None = None, node: int | None = None
    ) -> Region | None:
        """Reserve and commit a region. None if the commit limit would be passed. Takes no physical page."""
        if pages <= 0:
            raise SimulationError(f"a region of {pages} pages")
        memory = self.memory
        if memory.committed + pages > memory.commit_limit:
            return None
        memory.committed += pages
        self.committed += pages
        if backing is None:
            backing = memory.backing
        region = Region(self, self._next, pages, backing, node)
        grain = memory.granularity
        self._next = -(-(self._next + pages) // grain) * grain
        self.regions.append(region)
        return region

    def release(self, region: Region) -> None:
        """Give a region back: its pages become free, its commit charge ends."""
        memory = self.memory
        self.regions.remove(region)
        for extent in region.extents():
            if extent.state == TRANSITION and extent.transfer is not None and not extent.transfer.writing:
                raise SimulationError(f"{region!r} is released while it is being read")
            memory._discard(extent)
            memory._free(extent.node, extent.frame, extent.pages)
        if region.backing is not None:
            region.backing.changed(region, region.first, region.stop)
        memory.committed -= region.pages
        self.committed -= region.pages
        memory._more_available()

    def extents(self, page: int, stop: int) -> list[Extent]:
        """The extents that hold any of the virtual pages page..stop, in order."""
        index = bisect_right(self._starts, page) - 1
        if index < 0 or self._extents[index].page + self._extents[index].pages <= page:
            index += 1
        return self._extents[index : bisect_left(self._starts, stop)]

    def at(self, page: int) -> tuple[Extent | None, int]:
        """The extent that holds a virtual page, and the page where it ends; or None and the page where the
        next extent begins."""
        index = bisect_right(self._starts, page)
        if index:
            extent = self._extents[index - 1]
            end = extent.page + extent.pages
            if page < end:
                return extent, end
        return None, self._starts[index] if index < len(self._starts) else FOREVER

    def _add(self, extent: Extent) -> None:
        index = bisect_left(self._starts, extent.page)
        self._starts.insert(index, extent.page)
        self._extents.insert(index, extent)

    def _remove(self, extent: Extent) -> None:
        index = bisect_left(self._starts, extent.page)
        del self._starts[index]
        del self._extents[index]


class Tally:
    """Memory accesses by where they came from and where they went: cache lines and ns spent on them."""

    def __init__(self) -> None:
        self.accesses: dict[tuple[int, int], int] = {}
        self.time: dict[tuple[int, int], int] = {}

    def add(self, source: int, target: int, accesses: int, time: int) -> None:
        """A processor of node `source` has accessed memory of node `target`."""
        key = source, target
        self.accesses[key] = self.accesses.get(key, 0) + accesses
        self.time[key] = self.time.get(key, 0) + time

    @property
    def total(self) -> int:
        """All accesses."""
        return sum(self.accesses.values())

    @property
    def remote_share(self) -> float:
        """The part of the accesses that left their node; 0 where there are none."""
        remote = sum(count for (source, target), count in self.accesses.items() if source != target)
        return remote / (self.total or 1)

    @property
    def mean_latency(self) -> float:
        """ns for each access, waiting for links included; 0 where there are none."""
        return sum(self.time.values()) / (self.total or 1)


# -- memory -----------------------------------------------------------------------------------------------


class Memory:
    """The memory of one machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.engine = machine.engine
        hooks = machine.hooks
        policy = hooks.memory_policy(machine) if hooks.memory_policy is not None else None
        self.policy: MemoryPolicy = policy if policy is not None else MemoryPolicy()
        self.granularity = -(-ALLOCATION_GRANULARITY // self.policy.page_size)
        tables = machine.tables
        self.nodes: list[NodeMemory] = []
        first = 0
        for index, size in enumerate(tables.node_memory):
            node = NodeMemory(index, first, size // self.policy.page_size)
            self.nodes.append(node)
            first += node.installed
        self.installed = first
        self.modified = PageList()
        self.modified_no_write = PageList()
        self.bad = PageList()
        self.committed = 0
        self.commit_limit = self.installed  # a paging file adds its size
        self.backing: Backing | None = None  # of regions that name none: a paging file, where there is one
        self.writer: Writer | None = None
        self.spaces: dict[int, AddressSpace] = {}
        self.writes = 0  # under way: each will free its pages
        self.tally = Tally()
        # totals, in pages
        self.demand_zero_faults = 0
        self.transition_faults = 0
        self.hard_faults = 0
        self.repurposed = [0] * PRIORITIES
        self.links = Links(machine.engine)
        self._latency = tables.latency
        self._bandwidth = tables.bandwidth
        self._channels: list[Link | None] = [None] * len(self.nodes)
        self._ways: dict[tuple[int, int], tuple[Link, ...]] = {}
        self._stalled: dict[Thread, _Access] = {}
        self._waiters: deque[Thread] = deque()  # for pages to become available
        self._watching = False  # context switches: from the first access on
        self._allocation_node = hooks.allocation_node
        self._fallback_order = hooks.fallback_order
        self._pages_short = hooks.pages_short
        self._pages_trimmed = hooks.pages_trimmed
        self._working_set_grew = hooks.working_set_grew
        tracer = machine.tracer
        self._trace_demand_zero = tracer.emitter(DEMAND_ZERO_FAULT)
        self._trace_transition = tracer.emitter(TRANSITION_FAULT)
        self._trace_hard = tracer.emitter(HARD_FAULT)
        self._trace_allocate = tracer.emitter(ALLOCATE)
        self._trace_repurpose = tracer.emitter(REPURPOSE)
        self._trace_trim = tracer.emitter(TRIM)

    def space(self, process: Process) -> AddressSpace:
        """A process's address space."""
        found = self.spaces.get(process.id)
        if found is None:
            found = self.spaces[process.id] = AddressSpace(self, process)
        return found

    def pages(self, state: int) -> int:
        """Pages of a state, in all nodes."""
        return sum(node.pages[state] for node in self.nodes)

    @property
    def available(self) -> int:
        """Pages that can be given away at once, in all nodes."""
        return sum(node.available for node in self.nodes)

    # -- extents: cut, move, give up ----------------------------------------------------------------------

    def split(self, extent: Extent, pages: int) -> Extent:
        """Cut an extent after its first `pages` pages. Returns the rest, which keeps its place everywhere."""
        if not 0 < pages < extent.pages:
            raise SimulationError(f"{extent!r} cannot be split after {pages} pages")
        rest = Extent(
            extent.region,
            extent.page + pages,
            extent.pages - pages,
            extent.node,
            extent.frame + pages,
            extent.state,
        )
        rest.priority = extent.priority
        rest.age = extent.age
        rest.accessed = extent.accessed
        rest.dirty = extent.dirty
        extent.pages = pages
        if extent.list is not None:
            extent.list.split(extent, rest)
        if extent.transfer is not None:
            rest.transfer = extent.transfer
            rest.transfer.extents.append(rest)
        extent.region.space._add(rest)
        return rest

    def isolate(self, extent: Extent, page: int, stop: int) -> Extent:
        """The extent of exactly the virtual pages page..stop, cut out of one that holds them all."""
        if page > extent.page:
            extent = self.split(extent, page - extent.page)
        if stop < extent.page + extent.pages:
            self.split(extent, stop - extent.page)
        return extent

    def move(self, extent: Extent, state: int) -> None:
        """Change an extent's state, and go to the tail of the list of that state."""
        if extent.list is not None:
            extent.list.remove(extent)
        counts = self.nodes[extent.node].pages
        counts[extent.state] -= extent.pages
        counts[state] += extent.pages
        extent.state = state
        if state == ACTIVE:
            extent.region.space.working_set.append(extent)
        elif state == STANDBY:
            self.nodes[extent.node].standby[extent.priority].append(extent)
        elif state == MODIFIED:
            self.modified.append(extent)
        elif state == MODIFIED_NO_WRITE:
            self.modified_no_write.append(extent)

    def trim(self, space: AddressSpace, extents: Iterable[Extent]) -> int:
        """Take active extents out of a working set: changed ones become modified, others standby.

        Returns the pages trimmed.
        """
        modified = standby = 0
        for extent in extents:
            if extent.state != ACTIVE or extent.region.space is not space:
                raise SimulationError(f"{extent!r} is not in the working set of {space.process.name}")
            if extent.dirty:
                modified += extent.pages
                self.move(extent, MODIFIED)
            else:
                standby += extent.pages
                self.move(extent, STANDBY)
        if self._trace_trim is not None:
            self._trace_trim((self.engine.now, TRIM.id, space.process.id, modified, standby))
        if standby:
            self._more_available()
        if modified and self.writer is not None:
            self.writer.wake()
        if self._pages_trimmed is not None and modified + standby:
            self._pages_trimmed(self, space)
        return modified + standby

    def oldest(self, space: AddressSpace, pages: int) -> list[Extent]:
        """The oldest pages of a working set, exactly `pages` of them or all, ready for `trim`."""
        found: list[Extent] = []
        for extent in space.working_set:
            if not pages:
                break
            if extent.pages > pages:
                self.split(extent, pages)
            found.append(extent)
            pages -= extent.pages
        return found

    def _discard(self, extent: Extent) -> None:
        """Forget an extent. Its frames are counted nowhere until someone takes them."""
        if extent.list is not None:
            extent.list.remove(extent)
        if extent.transfer is not None:
            extent.transfer.extents.remove(extent)
            extent.transfer = None
        self.nodes[extent.node].pages[extent.state] -= extent.pages
        extent.region.space._remove(extent)

    def _free(self, node: int, frame: int, pages: int) -> None:
        self.nodes[node].free.add(frame, pages)
        self.nodes[node].pages[FREE] += pages

    # -- frames -------------------------------------------------------------------------------------------

    def allocate(
        self, region: Region, page: int, stop: int, home: int, state: int = ACTIVE
    ) -> tuple[list[Extent], int]:
        """Frames for the virtual pages page..stop, none of which is in memory: from `home` while it has
        any, then from other nodes. Within a node zeroed pages go first, then free ones, then standby ones:
        lowest priority first, oldest first.

        Returns the extents, in order, and how many of their pages are not zeroed. They hold fewer pages
        than asked for if there are no more.
        """
        extents: list[Extent] = []
        unzeroed = 0
        order: Sequence[int] | None = None
        tried = 0
        node = self.nodes[home]
        while page < stop:
            while not node.available:
                if order is None:
                    if self._fallback_order is not None:
                        order = self._fallback_order(self, home)
                    if order is None:
                        order = range(len(self.nodes))
                if tried == len(order):
                    return extents, unzeroed
                node = self.nodes[order[tried]]
                tried += 1
            frame, taken, zeroed = self._take(node, stop - page)
            if not zeroed:
                unzeroed += taken
            extent = Extent(region, page, taken, node.index, frame, state)
            node.pages[state] += taken
            page += taken
            if self._trace_allocate is not None:
                self._trace_allocate(
                    (self.engine.now, ALLOCATE.id, region.space.process.id, home, node.index, frame,
                     extent.page, taken)
                )  # fmt: skip
            extents.append(extent)
            region.space._add(extent)
            if state == ACTIVE:
                region.space.working_set.append(extent)
        return extents, unzeroed

    def _take(self, node: NodeMemory, pages: int) -> tuple[int, int, bool]:
        """Up to `pages` frames of a node that has some: (first, how many, whether zeroed)."""
        counts = node.pages
        if counts[ZEROED]:
            frame, taken = node.zeroed.take(pages)
            counts[ZEROED] -= taken
            return frame, taken, True
        if counts[FREE]:
            frame, taken = node.free.take(pages)
            counts[FREE] -= taken
            return frame, taken, False
        for priority, standby in enumerate(node.standby):
            extent = standby.head
            if extent is not None:
                if extent.pages > pages:
                    self.split(extent, pages)
                self._discard(extent)
                self.repurposed[priority] += extent.pages
                if self._trace_repurpose is not None:
                    self._trace_repurpose(
                        (self.engine.now, REPURPOSE.id, node.index, extent.frame, extent.pages, priority)
                    )
                return extent.frame, extent.pages, False
        raise SimulationError(f"node {node.index} counts pages that it does not have")

    def home(self, thread: Thread, region: Region) -> int:
        """The node from which a running thread gets pages first."""
        if self._allocation_node is not None:
            node: int | None = self._allocation_node(thread, region)
            if node is not None:
                return node
        return 0

    def populate(self, region: Region, node: int, *, dirty: bool = False) -> int:
        """Set the scene: all of a new region in memory, from `node` on, without time passing.

        Returns the pages that were to be had.
        """
        extents, _ = self.allocate(region, region.first, region.stop, node)
        for extent in extents:
            extent.dirty = dirty
        return sum(extent.pages for extent in extents)

    # -- transfers ----------------------------------------------------------------------------------------

    def begin_read(self, region: Region, page: int, stop: int, home: int) -> Transfer | None:
        """Frames for pages that are about to be read. They are in transition until `end_read`.

        The pages from `page` on, up to `stop` or the first that is in memory. None if there is no frame.
        """
        resident, end = region.space.at(page)
        if resident is not None:
            raise SimulationError(f"page {page} is read though it is in memory")
        extents, _ = self.allocate(region, page, min(stop, end), home, TRANSITION)
        return self._begin(extents, writing=False) if extents else None

    def end_read(self, transfer: Transfer, state: int = ACTIVE, priority: int = NORMAL_PRIORITY) -> None:
        """The pages are read: they become active or standby, and whoever waits for them goes on."""
        for extent in self._end(transfer):
            extent.priority = priority
            self.move(extent, state)
        wake = self.machine.scheduler.wake
        for thread in transfer.waiters:
            wake(thread)
        if state == STANDBY:
            self._more_available()

    def begin_write(self, extents: Iterable[Extent]) -> Transfer:
        """Modified extents are about to be written: they are in transition, and count as unchanged.

        A page that is touched meanwhile becomes active again and leaves the transfer.
        """
        chosen = list(extents)
        for extent in chosen:
            if extent.state != MODIFIED:
                raise SimulationError(f"{extent!r} is written though it is not modified")
            self.move(extent, TRANSITION)
            extent.dirty = False
        return self._begin(chosen, writing=True)

    def end_write(self, transfer: Transfer) -> None:
        """The pages are written: those that nobody has touched meanwhile become standby."""
        for extent in self._end(transfer):
            self.move(extent, STANDBY)
        self._more_available()

    def _begin(self, extents: list[Extent], writing: bool) -> Transfer:
        transfer = Transfer(writing)
        transfer.extents += extents
        for extent in extents:
            extent.transfer = transfer
        self.writes += writing
        return transfer

    def _end(self, transfer: Transfer) -> list[Extent]:
        self.writes -= transfer.writing
        for extent in transfer.extents:
            extent.transfer = None
        return transfer.extents

    # -- faults -------------------------------------------------------------------------------------------

    def _activate(self, extent: Extent) -> None:
        """A soft fault: a page of a list, or one that is being written, goes back to its working set."""
        if extent.transfer is not None:
            extent.transfer.extents.remove(extent)
            extent.transfer = None
        self.move(extent, ACTIVE)

    def _merge(self, extent: Extent) -> None:
        """Join an active extent with the one before it in the working set, if nothing tells them apart."""
        before = extent.previous
        if (
            before is not None
            and before.frame + before.pages == extent.frame
            and before.page + before.pages == extent.page
            and before.region is extent.region
            and before.node == extent.node
            and before.dirty == extent.dirty
            and before.accessed == extent.accessed
            and before.age == extent.age
            and before.priority == extent.priority
        ):
            space = extent.region.space
            space._remove(extent)
            space.working_set.remove(extent)
            before.pages += extent.pages
            space.working_set.pages += extent.pages

    def _more_available(self) -> None:
        """Pages may have become available: let those who wait for pages try again, each in its turn."""
        while self._waiters:
            self.engine.after(0, self.machine.scheduler.wake, self._waiters.popleft())

    # -- accesses -----------------------------------------------------------------------------------------

    def way(self, source: int, target: int) -> tuple[Link, ...]:
        """The links between a processor of node `source` and the memory of node `target`: that memory's
        channels and, where it is narrower, the interconnect between."""
        found = self._ways.get((source, target))
        if found is None:
            channel = self._channels[target]
            if channel is None:
                channel = self._channels[target] = Link(
                    f"memory of node {target}", self._bandwidth[target][target]
                )
            found = (channel,)
            if self._bandwidth[source][target] < channel.bandwidth:
                name = f"node {source} to node {target}"
                found += (Link(name, self._bandwidth[source][target], self._latency[source][target]),)
            self._ways[source, target] = found
        return found

    def _switched(self, processor: Processor, old: Thread | None, new: Thread | None) -> None:
        """A context switch: accesses under way stop with their thread, and go on with it."""
        if old is not None and old in self._stalled:
            self._stalled[old].suspend()
        if new is not None and new in self._stalled:
            self._stalled[new].resume(processor.node)

    # -- what is counted ----------------------------------------------------------------------------------

    def counters(self) -> dict[str, float]:
        """Performance counters by their Windows names."""
        size = self.policy.page_size
        seconds = self.engine.now / 1e9 or 1.0
        faults = self.demand_zero_faults + self.transition_faults + self.hard_faults
        found = {
            r"Memory\Available Bytes": float(self.available * size),
            r"Memory\Committed Bytes": float(self.committed * size),
            r"Memory\Commit Limit": float(self.commit_limit * size),
            r"Memory\Free & Zero Page List Bytes": float((self.pages(ZEROED) + self.pages(FREE)) * size),
            r"Memory\Modified Page List Bytes": float(self.pages(MODIFIED) * size),
            r"Memory\Page Faults/sec": faults / seconds,
            r"Memory\Demand Zero Faults/sec": self.demand_zero_faults / seconds,
            r"Memory\Transition Faults/sec": self.transition_faults / seconds,
            r"Memory\Transition Pages RePurposed/sec": sum(self.repurposed) / seconds,
        }
        for node in self.nodes:
            name = f"NUMA Node Memory({node.index})"
            found[rf"{name}\Total MBytes"] = node.installed * size / 2**20
            found[rf"{name}\Available MBytes"] = node.available * size / 2**20
            free = node.pages[ZEROED] + node.pages[FREE]
            found[rf"{name}\Free & Zero Page List MBytes"] = free * size / 2**20
            found[rf"{name}\Standby List MBytes"] = node.pages[STANDBY] * size / 2**20
        return found

    def check(self) -> None:
        """Compare all accounts with each other. Raises SimulationError where they differ. For tests."""
        counts = [[0] * STATES for _ in self.nodes]
        frames: list[tuple[int, int]] = []
        for node in self.nodes:
            for state, runs in ((ZEROED, node.zeroed), (FREE, node.free)):
                for frame, pages in runs:
                    counts[node.index][state] += pages
                    frames.append((frame, pages))
        listed = [self.modified, self.modified_no_write, self.bad]
        listed += [standby for node in self.nodes for standby in node.standby]
        listed += [space.working_set for space in self.spaces.values()]
        for each in listed:
            _require(each.pages == sum(extent.pages for extent in each), "a list's total is wrong")
            _require(all(extent.list is each for extent in each), "an extent is on two lists")
        committed = 0
        for space in self.spaces.values():
            committed += space.committed
            _require(space.committed == sum(region.pages for region in space.regions), "commit of a process")
            page = 0
            for start, extent in zip(space._starts, space._extents, strict=True):
                region = extent.region
                _require(start == extent.page >= page, f"{extent!r} overlaps the one before it")
                _require(region.space is space and region in space.regions, f"{extent!r} has a wrong owner")
                page = extent.page + extent.pages
                _require(region.first <= start and page <= region.stop, f"{extent!r} leaves its region")
                counts[extent.node][extent.state] += extent.pages
                frames.append((extent.frame, extent.pages))
                node = self.nodes[extent.node]
                _require(
                    node.first <= extent.frame and extent.frame + extent.pages <= node.first + node.installed,
                    f"{extent!r} is not in its node's memory",
                )
                wanted = {
                    ACTIVE: space.working_set,
                    STANDBY: node.standby[extent.priority],
                    MODIFIED: self.modified,
                    MODIFIED_NO_WRITE: self.modified_no_write,
                }.get(extent.state)
                _require(extent.list is wanted, f"{extent!r} is on a wrong list")
                in_transfer = extent.transfer is not None and extent in extent.transfer.extents
                _require(in_transfer == (extent.state == TRANSITION), f"{extent!r} and its I/O differ")
        for node in self.nodes:
            _require(counts[node.index] == node.pages, f"node {node.index} counts its pages wrong")
            _require(sum(node.pages) == node.installed, f"node {node.index} has lost or made pages")
        end = 0
        for frame, pages in sorted(frames):
            _require(frame == end, f"frames {end} to {frame} are used twice or not accounted for")
            end = frame + pages
        _require(end == self.installed, "frames are missing")
        _require(committed == self.committed <= self.commit_limit, "commit charge")


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise SimulationError(f"memory is inconsistent: {what}")


# -- requests ---------------------------------------------------------------------------------------------


class Allocate(Request):
    """Reserve and commit `pages` pages in the thread's process. The program receives the `Region`, or None
    where the commit limit would be passed. Takes no time and no physical page."""

    __slots__ = ("node", "pages")

    def __init__(self, pages: int, node: int | None = None) -> None:
        self.pages = pages
        self.node = node

    def perform(self, thread: Thread) -> int | None:
        space = thread.machine.memory.space(thread.process)
        thread.result = space.allocate(self.pages, node=self.node)
        return 0


class Free(Request):
    """Give a region back."""

    __slots__ = ("region",)

    def __init__(self, region: Region) -> None:
        self.region = region

    def perform(self, thread: Thread) -> int | None:
        self.region.space.release(self.region)
        return 0


class Touch(Request):
    """Access `pages` pages of a region from its page `first` on (default: all), after what faults it takes.

    `accesses` is how many cache lines of each page come from memory (default: each line once; 0: only
    the faults); `overlap` how many of them are on their way at a time. Each takes the latency between the
    node of the processor and the node of the page; all go over the links between these at no more than the
    links' bandwidth. The processor is busy meanwhile. `tally` counts these accesses, as the machine's own
    tally counts all.

    The program receives nothing, or `STATUS_NO_MEMORY`.
    """

    __slots__ = ("accesses", "first", "overlap", "pages", "region", "tally", "write")

    def __init__(
        self,
        region: Region,
        first: int = 0,
        pages: int | None = None,
        *,
        write: bool = False,
        accesses: int | None = None,
        overlap: float = 1,
        tally: Tally | None = None,
    ) -> None:
        if pages is None:
            pages = region.pages - first
        if first < 0 or pages <= 0 or first + pages > region.pages:
            raise SimulationError(f"pages {first}..{first + pages} are touched of {region!r}")
        if accesses is None:
            policy = region.space.memory.policy
            accesses = policy.page_size // policy.line
        if accesses < 0 or overlap <= 0:
            raise SimulationError(f"{accesses} accesses a page, {overlap} at a time")
        self.region = region
        self.first = first
        self.pages = pages
        self.write = write
        self.accesses = accesses
        self.overlap = overlap
        self.tally = tally

    def perform(self, thread: Thread) -> int | None:
        return _Access(self, thread).perform(thread)


class _Access(Request):
    """A `Touch` under way.

    It has several stages, and a thread's program is asked only for requests: so while it lasts it takes
    the program's place, and yields itself until it is done.
    """

    __slots__ = (
        "at",
        "faulted",
        "flow",
        "left",
        "lines",
        "memory",
        "on",
        "outer",
        "since",
        "source",
        "stop",
        "target",
        "thread",
        "touch",
        "unpaid",
    )

    def __init__(self, touch: Touch, thread: Thread) -> None:
        region = touch.region
        self.touch = touch
        self.thread = thread
        self.memory = region.space.memory
        self.at = region.first + touch.first  # pages before this are in memory, or were
        self.stop = self.at + touch.pages
        self.on: dict[int, int] = {}  # pages yet to be accessed, by node
        self.unpaid = 0  # ns of fault handling to be done before the next wait
        self.outer: Any = None  # the thread's program
        self.faulted = False
        # the flow under way: from which node to which, work and lines left when last looked at
        self.flow: Flow | None = None
        self.source = self.target = self.left = self.lines = self.since = 0

    def __iter__(self) -> _Access:
        return self

    def __next__(self) -> Request:
        if self.at < self.stop or self.on:
            return self
        program = self.thread.program = self.outer
        return next(program)  # type: ignore[no-any-return]

    def send(self, result: Any) -> Request:
        """The last stage has left a result for the program."""
        program = self.thread.program = self.outer
        return program.send(result)  # type: ignore[no-any-return]

    def perform(self, thread: Thread) -> int | None:
        work = self._fault()
        if work == 0 and self.on and self.at >= self.stop:
            work = self._stall()
        if (work is None or self.at < self.stop or self.on) and self.outer is None:
            self.outer = thread.program
            thread.program = self
        return work

    # -- faults: bring pages in ---------------------------------------------------------------------------

    def _fault(self) -> int | None:
        """Handle faults until a wait, or the end. Returns work to do first, or None to wait."""
        memory, touch = self.memory, self.touch
        region = touch.region
        space = region.space
        write = touch.write
        while self.at < self.stop:
            at = self.at
            extent, end = space.at(at)
            if end > self.stop:
                end = self.stop
            if extent is None:
                if not self._missing(at, end):
                    return self._pay() or self._wait()
                continue
            state = extent.state
            if state == TRANSITION and extent.transfer is not None and not extent.transfer.writing:
                if self.unpaid:
                    return self._pay()
                extent.transfer.waiters.append(self.thread)
                return None
            if state != ACTIVE:
                self.faulted = True
                extent = memory.isolate(extent, at, end)
                memory._activate(extent)
                memory.transition_faults += extent.pages
                space.faults += extent.pages
                self.unpaid += extent.pages * memory.policy.transition_fault
                if memory._trace_transition is not None:
                    memory._trace_transition(self._record(TRANSITION_FAULT.id, extent))
            if not extent.accessed or (write and not extent.dirty):
                extent = memory.isolate(extent, at, end)
                extent.accessed = True
                extent.age = 0
                if write and not extent.dirty:
                    extent.dirty = True
                    if region.backing is not None:
                        region.backing.changed(region, at, end)
            if state != ACTIVE:
                memory._merge(extent)
            self._arrived(extent.node, end)
        if self.faulted:
            self.faulted = False
            if memory._working_set_grew is not None:
                memory._working_set_grew(space)
        return self._pay()

    def _missing(self, at: int, end: int) -> bool:
        """Pages at..end are not in memory: get some. False if there is no page to be had."""
        memory, touch = self.memory, self.touch
        region = touch.region
        backing = region.backing
        self.faulted = True
        held = backing.held(region, at, end) if backing is not None else None
        if held is not None and held[0] == at:
            assert backing is not None
            self.unpaid += memory.policy.hard_fault
            memory.hard_faults += 1
            region.space.faults += 1
            if memory._trace_hard is not None:
                process = region.space.process
                memory._trace_hard(
                    (memory.engine.now, HARD_FAULT.id, self.thread.id, process.id, at, held[1] - at)
                )
            return backing.read(self.thread, region, at, held[1])
        if held is not None:
            end = held[0]
        extents, unzeroed = memory.allocate(region, at, end, memory.home(self.thread, region))
        policy = memory.policy
        self.unpaid += unzeroed * policy.zeroing
        for extent in extents:
            extent.accessed = True
            extent.dirty = touch.write
            memory.demand_zero_faults += extent.pages
            region.space.faults += extent.pages
            self.unpaid += extent.pages * policy.demand_zero_fault
            if memory._trace_demand_zero is not None:
                memory._trace_demand_zero(self._record(DEMAND_ZERO_FAULT.id, extent))
            self._arrived(extent.node, extent.page + extent.pages)
        for extent in extents:
            memory._merge(extent)
        return self.at > at

    def _arrived(self, node: int, end: int) -> None:
        if self.touch.accesses:
            self.on[node] = self.on.get(node, 0) + end - self.at
        self.at = end

    def _record(self, identity: int, extent: Extent) -> tuple[int, ...]:
        thread = self.thread
        return (
            self.memory.engine.now, identity, thread.id, thread.process.id,
            extent.page, extent.pages, extent.node,
        )  # fmt: skip

    def _pay(self) -> int:
        work, self.unpaid = self.unpaid, 0
        return work

    def _wait(self) -> int | None:
        """There is no page. Wait for one if somebody promises any, else fail."""
        memory = self.memory
        if memory.available:
            return 0  # once more
        promised = memory.writes > 0
        if memory._pages_short is not None and memory._pages_short(memory, self.stop - self.at):
            promised = True
        if memory.available:
            return 0
        if memory.writer is not None and memory.writer.promise():
            promised = True
        if promised:
            memory._waiters.append(self.thread)
            return None
        self.at = self.stop
        self.on.clear()
        self.thread.result = STATUS_NO_MEMORY
        return 0

    # -- accesses: the processor waits for memory -----------------------------------------------------------

    def _stall(self) -> int:
        """Access the pages of one node. The work is open-ended; the end of the flow ends it."""
        memory, touch = self.memory, self.touch
        processor = self.thread.processor
        assert processor is not None
        self.source = processor.node
        self.target = next(iter(self.on))
        self.lines = self.on[self.target] * touch.accesses
        work = -int(-self.lines * self._latency() // touch.overlap)
        self.left = work * NOMINAL
        self.since = memory.engine.now
        memory._stalled[self.thread] = self
        if not memory._watching:
            memory._watching = True
            memory.machine.scheduler.watch_switches(memory._switched)
        self.flow = memory.links.start(memory.way(self.source, self.target), work, self._rate(), self._done)
        return FOREVER

    def _latency(self) -> int:
        return self.memory._latency[self.source][self.target] or 1

    def _rate(self) -> int:
        """Bytes a second, if nothing but latency limits it."""
        return int(self.touch.overlap * self.memory.policy.line * 1_000_000_000 // self._latency())

    def _done(self, argument: object) -> None:
        self._account(0)
        self.flow = None
        del self.on[self.target]
        del self.memory._stalled[self.thread]
        self.memory.machine.scheduler.grant(self.thread)

    def suspend(self) -> None:
        """The thread loses its processor."""
        assert self.flow is not None
        self._account(self.memory.links.stop(self.flow))

    def resume(self, node: int) -> None:
        """The thread has a processor again, perhaps of another node."""
        assert self.flow is not None
        before = self._latency()
        self.source = node
        self.left = -(-self.left * self._latency() // before)
        self.since = self.memory.engine.now
        self.memory.links.resume(self.flow, self.memory.way(node, self.target), self.left, self._rate())

    def _account(self, left: int) -> None:
        lines = self.lines * (self.left - left) // self.left if left else self.lines
        time = self.memory.engine.now - self.since
        self.lines -= lines
        self.left = left
        self.memory.tally.add(self.source, self.target, lines, time)
        if self.touch.tally is not None:
            self.touch.tally.add(self.source, self.target, lines, time)
