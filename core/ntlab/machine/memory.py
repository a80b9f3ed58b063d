"""Memory: where the pages of address spaces come from, what becomes of them, and who counts what.

Nothing is kept for a single page: free memory is runs of frames, everything else is extents
(`ntlab.machine.extents`). So memory costs what is touched, not what is installed.

A page's life, in Windows' names of states:

    Zeroed, Free --demand-zero fault--> Active --trim--> Modified --write--> Transition --> Standby
       ^                                  ^ |                |                   |             |
       |                                  | +--trim, clean---|-------------------|-----------> |
       +--release, repurpose--            +---soft fault-----+-------------------+-------------+

Active pages are in their address space's working set, which is a list in the order of arrival; a bit tells
what has been accessed since somebody last cleared it, as hardware does. A process has its own address space
and working set; those of the kernel are in `ntlab.machine.sections`. Standby pages are listed by node and
priority, modified pages for the whole machine, since they are written in that order. Each node counts its
pages by state, so any list's length is read, never counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from ntlab.engine import FOREVER
from ntlab.errors import SimulationError, UserError
from ntlab.machine.accesses import STATUS_IN_PAGE_ERROR, Accesses
from ntlab.machine.accounts import check_memory
from ntlab.machine.ageing import ANY_AGE, create_ageing
from ntlab.machine.extents import (
    ACTIVE,
    BAD,
    FREE,
    MODIFIED,
    NORMAL_PRIORITY,
    PRIORITIES,
    STANDBY,
    TRANSITION,
    ZEROED,
    Extent,
    NodeMemory,
    PageList,
    Transfer,
)
from ntlab.machine.io import DATA_ERROR
from ntlab.machine.policy import MemoryPolicy
from ntlab.machine.sections import SYSTEM_CACHE
from ntlab.machine.spaces import AddressSpace, Backing, Region, WorkingSet
from ntlab.quantities import GIB
from ntlab.tracing import event_type

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine
    from ntlab.machine.mappings import MappingObject
    from ntlab.machine.threads import Process, Thread

ALLOCATION_GRANULARITY = 65536
"""Regions begin at multiples of this many bytes of address space."""
NO_PREFERRED_NODE = 0xFFFFFFFF
"""What programs say where they prefer no node."""
KERNEL_DATA_INPAGE_ERROR = 0x7A
"""The bug check for a page of the kernel's that cannot be read."""
UNSTATED_MEMORY = 4 * GIB
"""Bytes of each node where the description of the machine says nothing of memory: a guess."""

ALLOCATE = event_type("Lab-Numa", "Allocate", "pid home node frame page pages")
MIGRATE = event_type("Lab-Numa", "Migrate", "pid from_node node frame page pages")
REPURPOSE = event_type("Lab-Memory", "Repurpose", "node frame pages priority")
TRIM = event_type("Lab-Memory", "Trim", "pid modified standby")
KERNEL_TRIM = event_type("Lab-Memory", "KernelTrim", "working_set$ modified standby")


class Writer(Protocol):
    """Who writes modified pages, so that they become available."""

    def wake(self) -> None:
        """Pages have become modified."""

    def coming(self) -> int:
        """How many pages will become available without anybody giving up any: it writes them, or can."""

    def flush(self) -> None:
        """Write all that can be, from now on."""


class Memory:
    """The memory of one machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.engine = machine.engine
        hooks = machine.hooks
        policy = hooks.memory_policy(machine) if hooks.memory_policy is not None else None
        self.policy: MemoryPolicy = policy if policy is not None else MemoryPolicy()
        self.granularity = -(-ALLOCATION_GRANULARITY // self.policy.page_size)
        sizes = machine.tables.node_memory
        self.nodes: list[NodeMemory] = []
        first = 0
        for index, size in enumerate(sizes if any(sizes) else [UNSTATED_MEMORY] * len(sizes)):
            node = NodeMemory(index, first, size // self.policy.page_size)
            self.nodes.append(node)
            first += node.installed
        self.installed = first
        self.modified = PageList()
        self.committed = 0
        self.commit_limit = self.installed  # a paging file adds its size
        self.backing: Backing | None = None  # of regions that name none: a paging file, where there is one
        self.writer: Writer | None = None
        self.spaces: dict[int, AddressSpace] = {}
        self.mappings = 0  # file-mapping objects that there ever were
        self.mapping_objects: list[MappingObject] = []  # those that there are
        self.working_sets: list[WorkingSet] = []  # all that may be trimmed
        self.writes = 0  # under way: each will free its pages
        # Told (first frame, pages) of what is being written to, while somebody must know.
        self.written: Callable[[int, int], object] | None = None
        # totals, in pages
        self.demand_zero_faults = 0
        self.transition_faults = 0
        self.hard_faults = 0
        self.migrated = 0
        self.repurposed = [0] * PRIORITIES
        self.accesses = Accesses(self)
        self.ageing = create_ageing(machine, self)
        self._waiters: dict[Thread, int] = {}  # who waits for how many pages to become available
        self._allocation_node = hooks.allocation_node
        self._fallback_order = hooks.fallback_order
        self._standby_node = hooks.standby_node
        self._page_priority = hooks.page_priority
        self._pages_short = hooks.pages_short
        tracer = machine.tracer
        self._trace_allocate = tracer.emitter(ALLOCATE)
        self._trace_migrate = tracer.emitter(MIGRATE)
        self._trace_repurpose = tracer.emitter(REPURPOSE)
        self._trace_trim = tracer.emitter(TRIM)
        self._trace_kernel_trim = tracer.emitter(KERNEL_TRIM)

    def space(self, process: Process) -> AddressSpace:
        """A process's address space."""
        found = self.spaces.get(process.id)
        if found is None:
            policy = self.policy
            working_set = WorkingSet(
                process, process.name, policy.working_set_minimum, policy.working_set_maximum
            )
            self.working_sets.append(working_set)
            found = AddressSpace(self, process, process.id, process.name, working_set)
            self.spaces[process.id] = found
        return found

    def preferred(self, node: int | None) -> int | None:
        """The node that a program says it prefers, None for none. Raises UserError where there is no such."""
        if node is None or node == NO_PREFERRED_NODE:
            return None
        if not 0 <= node < len(self.nodes):
            raise UserError(f"the preferred node {node}", expected=f"0 to {len(self.nodes) - 1}")
        return node

    def pages(self, state: int) -> int:
        """Pages of a state, in all nodes."""
        return sum(node.pages[state] for node in self.nodes)

    def standby(self, lowest: int, stop: int) -> int:
        """Standby pages of the priorities from `lowest` to below `stop`, in all nodes."""
        return sum(each.pages for node in self.nodes for each in node.standby[lowest:stop])

    @property
    def empty(self) -> int:
        """Pages that hold nothing, in all nodes."""
        return sum(node.empty for node in self.nodes)

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
        extent.region.space.add(rest)
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
            self._enter(extent)
        elif state == STANDBY:
            self.nodes[extent.node].standby[extent.priority].append(extent)
        elif state == MODIFIED:
            self.modified.append(extent)

    def _enter(self, extent: Extent) -> None:
        """Put an active extent into its working set."""
        working_set = extent.region.space.working_set
        working_set.append(extent)
        if self.ageing is not None:
            self.ageing.come(extent)
        if working_set.hard and working_set.pages > working_set.maximum and not working_set._fitting:
            working_set._fitting = True
            self.engine.soon(self._fit, working_set)

    def make_room(self, working_set: WorkingSet, pages: int) -> None:
        """So many pages are about to come: a hard working set gives up what would be above its maximum."""
        above = working_set.pages + pages - working_set.maximum
        if working_set.hard and above > 0 and working_set.pages:
            self.trim(working_set, self.oldest(working_set, above))

    def _fit(self, working_set: WorkingSet) -> None:
        """Trim a hard working set to its maximum."""
        working_set._fitting = False
        above = working_set.pages - working_set.maximum
        if above > 0:
            self.trim(working_set, self.oldest(working_set, above))

    def trim(self, working_set: WorkingSet, extents: Iterable[Extent]) -> int:
        """Take active extents out of a working set: changed ones become modified, others standby.

        Returns the pages trimmed.
        """
        if not working_set.pageable:
            raise SimulationError(f"{working_set!r} is not pageable, and cannot be trimmed")
        modified = standby = 0
        for extent in extents:
            if extent.list is not working_set:
                raise SimulationError(f"{extent!r} is not in {working_set!r}")
            extent.region.space.trimmed += extent.pages
            extent.accessed = False  # the bit goes with the entry that it is in
            if extent.dirty:
                modified += extent.pages
                self.move(extent, MODIFIED)
            else:
                standby += extent.pages
                self.move(extent, STANDBY)
        working_set.trimmed += modified + standby
        if working_set.kernel:
            if self._trace_kernel_trim is not None:
                text = self.machine.tracer.text(working_set.name)
                self._trace_kernel_trim((self.engine.now, KERNEL_TRIM.id, text, modified, standby))
        elif self._trace_trim is not None:
            self._trace_trim((self.engine.now, TRIM.id, working_set.owner.id, modified, standby))
        if standby:
            self.more_available()
        if modified and self.writer is not None:
            self.writer.wake()
        return modified + standby

    def ages(self) -> Sequence[int]:
        """The ages to ask `oldest` for, so that the oldest pages of all working sets go first. The last is
        -1, which is any page; the only one where pages do not age by timer."""
        return self.ageing.ages() if self.ageing is not None else ANY_AGE

    def oldest(self, working_set: WorkingSet, pages: int, age: int = -1) -> list[Extent]:
        """The oldest pages of a working set, ready for `trim`: by their ages where pages age, else those that
        came first. Exactly `pages` of them, or all; fewer if they must be of `age` or older and fewer are."""
        if self.ageing is not None:
            return self.ageing.oldest(working_set, pages, age)
        found: list[Extent] = []
        for extent in working_set:
            if not pages:
                break
            if extent.pages > pages:
                self.split(extent, pages)
            found.append(extent)
            pages -= extent.pages
        return found

    def discard(self, extent: Extent) -> None:
        """Forget an extent. Its frames are counted nowhere until someone takes them."""
        if extent.list is not None:
            extent.list.remove(extent)
        if extent.transfer is not None:
            extent.transfer.extents.remove(extent)
            extent.transfer = None
        self.nodes[extent.node].pages[extent.state] -= extent.pages
        extent.region.space.remove(extent)

    def free_frames(self, node: int, frame: int, pages: int) -> None:
        """Frames of a node that held something hold nothing any more."""
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
        if state == ACTIVE:
            self.make_room(region.space.working_set, stop - page)
        extents: list[Extent] = []
        unzeroed = 0
        order: Sequence[int] | None = None
        tried = 0
        node = self.nodes[home]
        while page < stop:
            while not node.available:
                if order is None:
                    order = self._order(home)
                if tried == len(order):
                    return extents, unzeroed
                node = self.nodes[order[tried]]
                tried += 1
            frame, taken, zeroed = self._take(node, stop - page)
            if not zeroed:
                unzeroed += taken
            if self.written is not None:
                self.written(frame, taken)
            extent = Extent(region.owner, page, taken, node.index, frame, state)
            node.pages[state] += taken
            page += taken
            if self._trace_allocate is not None:
                self._trace_allocate(
                    (self.engine.now, ALLOCATE.id, region.space.process.id, home, node.index, frame,
                     extent.page, taken)
                )  # fmt: skip
            extents.append(extent)
            region.space.add(extent)
            if state == ACTIVE:
                self._enter(extent)
        return extents, unzeroed

    def _order(self, home: int) -> Sequence[int]:
        order = self._fallback_order(self, home) if self._fallback_order is not None else None
        everywhere = range(len(self.nodes))
        if order is None:
            return everywhere
        # Whoever names all but one may have left out another one than the home.
        return order if len(order) - (home in order) >= len(self.nodes) - 1 else [*order, *everywhere]

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
                self.discard(extent)
                self.repurposed[priority] += extent.pages
                if self._trace_repurpose is not None:
                    self._trace_repurpose(
                        (self.engine.now, REPURPOSE.id, node.index, extent.frame, extent.pages, priority)
                    )
                return extent.frame, extent.pages, False
        raise SimulationError(f"node {node.index} counts pages that it does not have")

    def priority(self, thread: Thread, region: Region) -> int:
        """The priority of pages that a thread gets."""
        if self._page_priority is not None:
            priority: int | None = self._page_priority(thread, region)
            if priority is not None:
                return priority
        return NORMAL_PRIORITY

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

    def begin_read(
        self, region: Region, runs: Sequence[range], home: int, priority: int = NORMAL_PRIORITY
    ) -> Transfer | None:
        """Frames for runs of virtual pages that one I/O is about to read. They are in transition until
        `end_read`.

        None of the pages may be in memory. The transfer has those for which there are frames, from the first
        run on; None if there is no frame.
        """
        transfer = self._begin([], writing=False)
        for run in runs:
            resident, end = region.space.at(run.start)
            if resident is not None or end < run.stop:
                raise SimulationError(f"pages {run.start}..{run.stop} are read though some are in memory")
            extents, _ = self.allocate(region, run.start, run.stop, home, TRANSITION)
            for extent in extents:
                extent.priority = priority
                extent.transfer = transfer
            transfer.extents += extents
            if sum(extent.pages for extent in extents) < len(run):
                break
        return transfer if transfer.extents else None

    def end_read(self, transfer: Transfer, active: range | None = None) -> None:
        """The pages are read: those of the virtual pages `active` (None: all) become active, the others
        standby, and whoever waits for them goes on."""
        extents = sorted(self._end(transfer), key=_place)
        for extent in extents:
            self.move(extent, STANDBY)
            if self.written is not None:
                self.written(extent.frame, extent.pages)
        wake = self.machine.scheduler.wake
        for thread in transfer.waiters:
            wake(thread)
        self.more_available()
        for extent in extents:
            first, stop = extent.page, extent.page + extent.pages
            if active is not None:
                first, stop = max(first, active.start), min(stop, active.stop)
            if first < stop:
                extent = self.isolate(extent, first, stop)
                self.make_room(extent.region.space.working_set, extent.pages)
                self.move(extent, ACTIVE)

    def fail_read(self, transfer: Transfer, thread: Thread | None) -> None:
        """The pages cannot be read: it is as if nobody had tried. `thread`, for which they were to be read,
        is told by STATUS_IN_PAGE_ERROR if it waits for one of them; others that do try for themselves.

        Bug check 0x7A where they are the kernel's own, but for cached files, and anybody waits.
        """
        space = transfer.extents[0].region.space
        page = transfer.extents[0].page
        for extent in list(transfer.extents):
            self.discard(extent)
            self.free_frames(extent.node, extent.frame, extent.pages)
        if transfer.waiters and space.working_set.kernel and space.name != SYSTEM_CACHE:
            address = page * self.policy.page_size
            self.machine.bug_check(KERNEL_DATA_INPAGE_ERROR, 0, DATA_ERROR, space.id, address)
        for waiter in transfer.waiters:
            self.machine.scheduler.wake(waiter, STATUS_IN_PAGE_ERROR if waiter is thread else None)
        self.more_available()

    def begin_write(self, extents: Iterable[Extent]) -> Transfer:
        """Modified extents are about to be written: they are in transition, and count as unchanged.

        From now on the backing must hold them. A page that is touched meanwhile leaves the transfer for its
        working set; if it is only read it is not written again, if it is changed the backing is told.
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
        self.more_available()

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

    # -- from node to node ----------------------------------------------------------------------------------

    def migrate(self, extent: Extent, node: int) -> int:
        """Copy an extent's pages to frames of another node, which must have some available, and free those
        where they were. It keeps its state, and its place on its list unless that is a list of the node.

        Returns how many pages went, from its first one on: fewer than all where the node gives fewer in a
        row. The others are an extent of their own then. Takes no time: whoever copies is busy for
        `policy.page_copy` a page.
        """
        if extent.transfer is not None or extent.node == node:
            raise SimulationError(f"{extent!r} cannot be moved to node {node}")
        to = self.nodes[node]
        old, place = self._relocate(extent, to)
        pages = extent.pages
        if extent.state == STANDBY:
            assert extent.list is not None
            extent.list.remove(extent)
            to.standby[extent.priority].append(extent)
        self.free_frames(old.index, place, pages)
        self.migrated += pages
        if self._trace_migrate is not None:
            process = extent.region.space.process.id
            self._trace_migrate(
                (self.engine.now, MIGRATE.id, process, old.index, node, extent.frame, extent.page, pages)
            )
        return pages

    def _relocate(self, extent: Extent, to: NodeMemory) -> tuple[NodeMemory, int]:
        """Put an extent's pages, or as many of the first as `to` gives in a row, into frames of that node.

        Returns where they were, which is not freed: the node and the first frame.
        """
        frame, pages, _ = self._take(to, extent.pages)
        if self.written is not None:
            self.written(frame, pages)
        if pages < extent.pages:
            self.split(extent, pages)
        old, place = self.nodes[extent.node], extent.frame
        old.pages[extent.state] -= pages
        to.pages[extent.state] += pages
        extent.node, extent.frame = to.index, frame
        return old, place

    def bring_near(self, thread: Thread, extent: Extent) -> int:
        """A running thread touches a standby extent: let it move to another node, if a plugin says so.

        Returns the ns that it takes. The extent may have fewer pages then: as many as went.
        """
        node = self._standby_node(thread, extent) if self._standby_node is not None else None
        if node is None or node == extent.node or not self.nodes[node].available:
            return 0
        return self.migrate(extent, node) * self.policy.page_copy

    # -- frames come and go ---------------------------------------------------------------------------------

    @property
    def end(self) -> int:
        """The frame after the last."""
        return max((stop for node in self.nodes for _, stop in node.ranges), default=0)

    def node_of(self, frame: int) -> NodeMemory | None:
        """The node that has a frame; None where there is no memory."""
        return self.owner_of(frame, frame + 1)

    def owner_of(self, first: int, stop: int) -> NodeMemory | None:
        """The first node that has any of the frames first..stop; None where there is no memory."""
        for node in self.nodes:
            if any(start < stop and first < end for start, end in node.ranges):
                return node
        return None

    def in_frames(self, first: int, stop: int) -> Iterator[Extent]:
        """The extents that lie in any of the frames first..stop, space by space."""
        for space in self.spaces.values():
            for extent in space.extents(0, FOREVER):
                if extent.frame < stop and first < extent.frame + extent.pages:
                    yield extent

    def install(self, node: int, first: int, pages: int) -> None:
        """Memory has been added to a node: it can be used, and committed, from now on. Raises SimulationError
        where there is memory already."""
        owner = self.owner_of(first, first + pages)
        if owner is not None:
            raise SimulationError(
                f"frames {first}..{first + pages} are added, of which node {owner.index} has some"
            )
        self.nodes[node].add(first, pages)
        self.installed += pages
        self.commit_limit += pages
        self.more_available()

    def movable(self, extent: Extent) -> bool:
        """Whether the memory manager may move pages to other frames now: they are pageable, and no I/O is at
        them."""
        return extent.region.space.working_set.pageable and extent.transfer is None

    def take_out(self, frame: int) -> bool:
        """Use a frame no more: what is there moves to another one, if need be of another node.

        False if that cannot be: there is no such frame, or it cannot be moved, or there is no other.
        """
        node = self.node_of(frame)
        if node is None:
            return False
        for state, runs in ((ZEROED, node.zeroed), (FREE, node.free)):
            if runs.cut(frame):
                node.pages[state] -= 1
                break
        else:
            extent = next(self.in_frames(frame, frame + 1), None)
            if extent is None or not self.movable(extent):
                return False
            page = extent.page + frame - extent.frame
            extent = self.isolate(extent, page, page + 1)
            if extent.state == STANDBY:
                self.discard(extent)  # its backing has it too
            else:
                place = next((each for each in (node, *self.nodes) if each.available), None)
                if place is None:
                    return False
                self._relocate(extent, place)
        node.pages[BAD] += 1
        node.bad.add(frame, 1)
        return True

    # -- faults -------------------------------------------------------------------------------------------

    def activate(self, extent: Extent, priority: int = 0) -> None:
        """A soft fault: a page of a list, or one that is being written, goes back to its working set.

        It keeps its priority, unless that of whoever wants it is higher.
        """
        if extent.transfer is not None:
            extent.transfer.extents.remove(extent)
            extent.transfer = None
        self.make_room(extent.region.space.working_set, extent.pages)
        self.move(extent, ACTIVE)
        extent.priority = max(extent.priority, priority)

    def merge(self, extent: Extent) -> None:
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
            space.remove(extent)
            space.working_set.remove(extent)
            before.pages += extent.pages
            space.working_set.pages += extent.pages

    def shortage(self, thread: Thread, pages: int, least: int = 1) -> bool | None:
        """A running thread needs so many pages, and `least` at once, and there are not so many. True if there
        are now; None if some are promised, and the thread will be woken; False if there will be none."""
        writer = self.writer
        if self.available < least and self._pages_short is not None:
            # Whoever asks again, since others were first, must not have more and more pages modified.
            missing = pages + sum(self._waiters.values()) - self.available
            missing -= writer.coming() if writer is not None else 0
            if missing > 0:
                self._pages_short(self, missing)
        if self.available >= least:
            return True
        if writer is not None and writer.coming():
            writer.flush()
        elif not self.writes:
            return False
        self._waiters[thread] = pages
        return None

    def more_available(self) -> None:
        """Pages may have become available: let those who wait for pages try again, each in its turn."""
        waiters, self._waiters = self._waiters, {}
        for thread in waiters:
            self.engine.soon(self.machine.scheduler.wake, thread)

    # -- what is counted ----------------------------------------------------------------------------------

    def counters(self) -> dict[str, float]:
        """Performance counters by their Windows names."""
        size = self.policy.page_size
        seconds = self.engine.now / 1e9 or 1.0
        faults = self.demand_zero_faults + self.transition_faults + self.hard_faults
        paging = self.machine.paging
        reads = sum(
            (store.read_sizes for store in (paging, self.machine.file_cache) if store), Counter[int]()
        )
        writes = paging.write_sizes if paging is not None else Counter[int]()
        pages_input = sum(pages * count for pages, count in reads.items())
        pages_output = sum(pages * count for pages, count in writes.items())
        found = {
            r"Memory\Available Bytes": float(self.available * size),
            r"Memory\Committed Bytes": float(self.committed * size),
            r"Memory\Commit Limit": float(self.commit_limit * size),
            r"Memory\Free & Zero Page List Bytes": float(self.empty * size),
            r"Memory\Modified Page List Bytes": float(self.pages(MODIFIED) * size),
            r"Memory\Page Faults/sec": faults / seconds,
            r"Memory\Demand Zero Faults/sec": self.demand_zero_faults / seconds,
            r"Memory\Transition Faults/sec": self.transition_faults / seconds,
            r"Memory\Transition Pages RePurposed/sec": sum(self.repurposed) / seconds,
            r"Memory\Standby Cache Reserve Bytes": float(self.standby(0, 4) * size),
            r"Memory\Standby Cache Normal Priority Bytes": float(self.standby(4, 6) * size),
            r"Memory\Standby Cache Core Bytes": float(self.standby(6, PRIORITIES) * size),
            r"Memory\Pages/sec": (pages_input + pages_output) / seconds,
            r"Memory\Pages Input/sec": pages_input / seconds,
            r"Memory\Page Reads/sec": reads.total() / seconds,
            r"Memory\Pages Output/sec": pages_output / seconds,
            r"Memory\Page Writes/sec": writes.total() / seconds,
        }
        for node in self.nodes:
            name = f"NUMA Node Memory({node.index})"
            found[rf"{name}\Total MBytes"] = node.installed * size / 2**20
            found[rf"{name}\Available MBytes"] = node.available * size / 2**20
            found[rf"{name}\Free & Zero Page List MBytes"] = node.empty * size / 2**20
            found[rf"{name}\Standby List MBytes"] = node.pages[STANDBY] * size / 2**20
        return found

    def check(self) -> None:
        """Compare all accounts with each other. Raises SimulationError where they differ. For tests."""
        check_memory(self)


def _place(extent: Extent) -> int:
    return extent.page
