"""What a program asks of memory: allocate, free, touch; and what a touch costs.

A touch first faults in what is not there: processor time, and waits for reads. Then it accesses the pages,
node by node: each access takes the latency between processor and page, and all share the links on the way.
The thread keeps its processor meanwhile, as a processor that waits for memory is not free for others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ntlab.engine import FOREVER
from ntlab.errors import SimulationError
from ntlab.machine.extents import ACTIVE, STANDBY, TRANSITION, Extent
from ntlab.machine.links import Flow, Link, Links
from ntlab.machine.processors import NOMINAL
from ntlab.machine.threads import RUNNING, Request, Thread, resume
from ntlab.tracing import event_type

if TYPE_CHECKING:
    from ntlab.machine.memory import Memory
    from ntlab.machine.processors import Processor
    from ntlab.machine.spaces import Region

STATUS_NO_MEMORY = 0xC0000017
"""What `Touch` gives when no page can be had and none is promised."""
STATUS_IN_PAGE_ERROR = 0xC0000006
"""What `Touch` gives when a page cannot be read."""

KERNEL_LOGGER = "NT Kernel Logger"
DEMAND_ZERO_FAULT = event_type(KERNEL_LOGGER, "PageFault/DemandZeroFault", "tid pid page pages node")
TRANSITION_FAULT = event_type(KERNEL_LOGGER, "PageFault/TransitionFault", "tid pid page pages node")
HARD_FAULT = event_type(KERNEL_LOGGER, "PageFault/HardFault", "tid pid page pages")


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
    def remote(self) -> int:
        """The accesses that left their node."""
        return sum(count for (source, target), count in self.accesses.items() if source != target)

    @property
    def remote_share(self) -> float:
        """The part of the accesses that left their node; 0 where there are none."""
        return self.remote / (self.total or 1)

    @property
    def mean_latency(self) -> float:
        """ns for each access, waiting for links included; 0 where there are none."""
        return sum(self.time.values()) / (self.total or 1)


class Accesses:
    """The accesses to one machine's memory: links, what is under way, totals."""

    def __init__(self, memory: Memory) -> None:
        machine = memory.machine
        self.machine = machine
        self.links = Links(machine.engine)
        self.tally = Tally()
        self.latency = machine.tables.latency
        self.write_latency = machine.tables.write_latency
        self._bandwidth = machine.tables.bandwidth
        self._channels: list[Link | None] = [None] * machine.tables.nodes
        self._ways: dict[tuple[int, int], tuple[Link, ...]] = {}
        self._stalled: dict[Thread, _Access] = {}
        self._watching = False  # context switches: from the first access on
        self._stopped = False  # all of them, because the processors are
        self.trace_demand_zero = machine.tracer.emitter(DEMAND_ZERO_FAULT)
        self.trace_transition = machine.tracer.emitter(TRANSITION_FAULT)
        self.trace_hard = machine.tracer.emitter(HARD_FAULT)

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
                found += (Link(name, self._bandwidth[source][target], self.latency[source][target]),)
            self._ways[source, target] = found
        return found

    def loads(self, source: int, target: int, rate: int, *, write: bool) -> list[tuple[Link, int]]:
        """What accesses at `rate` bytes a second put on links.

        A line that is written to is fetched first, and goes back when its cache evicts it: it is twice on the
        memory's channels, and once in each direction between nodes (AMD 40555).
        """
        channel, *between = self.way(source, target)
        if not write:
            return [(channel, rate), *((link, rate) for link in between)]
        return [(channel, 2 * rate), *((link, rate) for link in (*between, *self.way(target, source)[1:]))]

    def begin(self, thread: Thread, access: _Access) -> None:
        """A thread's access is under way: it stops and goes on with its thread."""
        self._stalled[thread] = access
        if not self._watching:
            self._watching = True
            self.machine.scheduler.watch_switches(self._switched)

    def stop_all(self) -> None:
        """Processors stand still: so do accesses. What is being written to is told."""
        self._stopped = True
        for thread, access in self._stalled.items():
            if thread.state == RUNNING:
                access.suspend()
            access.tell_written()

    def go_on(self) -> None:
        """Processors run again, and so do the accesses of those who have one."""
        self._stopped = False
        for thread, access in self._stalled.items():
            if thread.state == RUNNING and thread.processor is not None:
                access.resume(thread.processor.node)

    def end(self, thread: Thread) -> None:
        """A thread's access is done."""
        del self._stalled[thread]

    def under_way(self, thread: Thread) -> bool:
        """Whether an access of that thread is under way, perhaps stopped."""
        return thread in self._stalled

    def _switched(self, processor: Processor, old: Thread | None, new: Thread | None) -> None:
        if self._stopped:
            return
        if old is not None and old in self._stalled:
            self._stalled[old].suspend()
        if new is not None and new in self._stalled:
            self._stalled[new].resume(processor.node)


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
    node of the processor and the node of the page, which may be another one for writes; all go over the links
    between these at no more than the links' bandwidth. The processor is busy meanwhile.
    `tally` counts these accesses, as the machine's own tally counts all.

    The program receives nothing, `STATUS_NO_MEMORY` or `STATUS_IN_PAGE_ERROR`.
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
        return resume(program, result)

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
                extent = memory.isolate(extent, at, end)
                if state == STANDBY:
                    self.unpaid += memory.bring_near(self.thread, extent)
                    end = at + extent.pages
                memory.activate(extent, memory.priority(self.thread, region))
                memory.transition_faults += extent.pages
                space.faults += extent.pages
                self.unpaid += extent.pages * memory.policy.transition_fault
                if memory.accesses.trace_transition is not None:
                    memory.accesses.trace_transition(self._record(TRANSITION_FAULT.id, extent))
            marked = not extent.accessed or (write and not extent.dirty)
            if marked:
                extent = memory.isolate(extent, at, end)
                if memory.ageing is not None and not extent.accessed:
                    memory.ageing.accessed()
                extent.accessed = True
                extent.age = 0
                if write and not extent.dirty:
                    extent.dirty = True
                    if region.backing is not None:
                        region.backing.changed(region, at, end)
            if write and memory.written is not None:
                memory.written(extent.frame + at - extent.page, end - at)
            if marked or state != ACTIVE:
                memory.merge(extent)
            self._arrived(extent.node, end)
        return self._pay()

    def _missing(self, at: int, end: int) -> bool:
        """Pages at..end are not in memory: get some. False if there is no page to be had."""
        memory, touch = self.memory, self.touch
        region = touch.region
        backing = region.backing
        held = backing.held(region, at, end) if backing is not None else None
        if held is not None and held[0] == at:
            assert backing is not None
            if not backing.read(self.thread, region, at, held[1]):
                return False
            self.unpaid += memory.policy.hard_fault
            memory.hard_faults += 1
            region.space.faults += 1
            if memory.accesses.trace_hard is not None:
                process = region.space.process
                memory.accesses.trace_hard(
                    (memory.engine.now, HARD_FAULT.id, self.thread.id, process.id, at, held[1] - at)
                )
            return True
        if held is not None:
            end = held[0]
        extents, unzeroed = memory.allocate(region, at, end, memory.home(self.thread, region))
        priority = memory.priority(self.thread, region)
        policy = memory.policy
        self.unpaid += unzeroed * policy.zeroing
        for extent in extents:
            extent.priority = priority
            extent.accessed = True
            extent.dirty = touch.write
            memory.demand_zero_faults += extent.pages
            region.space.faults += extent.pages
            self.unpaid += extent.pages * policy.demand_zero_fault
            if memory.accesses.trace_demand_zero is not None:
                memory.accesses.trace_demand_zero(self._record(DEMAND_ZERO_FAULT.id, extent))
            self._arrived(extent.node, extent.page + extent.pages)
        for extent in extents:
            memory.merge(extent)
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
        found = self.memory.shortage(self.thread, self.stop - self.at)
        if found is None:
            return None
        if not found:
            self.at = self.stop
            self.on.clear()
            self.thread.result = STATUS_NO_MEMORY
        return 0  # if found: once more

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
        accesses = memory.accesses
        accesses.begin(self.thread, self)
        self.flow = accesses.links.start(self._loads(), work, self._done)
        return FOREVER

    def _latency(self) -> int:
        accesses = self.memory.accesses
        latency = accesses.write_latency if self.touch.write else accesses.latency
        return latency[self.source][self.target] or 1

    def _loads(self) -> list[tuple[Link, int]]:
        """What it puts on links, if nothing but latency limits it."""
        rate = int(self.touch.overlap * self.memory.policy.line * 1_000_000_000 // self._latency())
        return self.memory.accesses.loads(self.source, self.target, rate, write=self.touch.write)

    def _done(self, argument: object) -> None:
        self._account(0)
        self.tell_written()
        self.flow = None
        del self.on[self.target]
        thread = self.thread
        self.memory.accesses.end(thread)
        if thread.apcs is not None:
            thread.apcs.left = 0  # an APC came in between, and has put the wait aside
        else:
            self.memory.machine.scheduler.grant(thread)

    def tell_written(self) -> None:
        """What is written to is so until the access ends, not only when it begins."""
        written = self.memory.written
        if written is None or not self.touch.write:
            return
        first = self.touch.region.first + self.touch.first
        for extent in self.touch.region.space.extents(first, self.stop):
            written(extent.frame, extent.pages)

    def suspend(self) -> None:
        """The thread loses its processor."""
        assert self.flow is not None
        self._account(self.memory.accesses.links.stop(self.flow))

    def resume(self, node: int) -> None:
        """The thread has a processor again, perhaps of another node."""
        assert self.flow is not None
        before = self._latency()
        self.source = node
        self.left = -(-self.left * self._latency() // before)
        self.since = self.memory.engine.now
        self.memory.accesses.links.resume(self.flow, self._loads(), self.left)

    def _account(self, left: int) -> None:
        lines = self.lines * (self.left - left) // self.left if left else self.lines
        time = self.memory.engine.now - self.since
        self.lines -= lines
        self.left = left
        self.memory.accesses.tally.add(self.source, self.target, lines, time)
        if self.touch.tally is not None:
            self.touch.tally.add(self.source, self.target, lines, time)
