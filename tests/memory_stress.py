"""Random operations on all of a machine's memory, with faults injected, looked at after every event.

A machine lives for some operations, of which seed and number say all; then another one begins, with other
rules. Operations are what programs, the kernel and the hardware may do at any time: allocate, free, touch,
trim, flush, map, read files, move pages between nodes, add memory, take failing pages out of use, replace
memory, hold devices back, run out of commit and of paging file. After each event all accounts of the machine
are compared. At the end every thread must have ended, and all that was taken can be given back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any, Literal

import attrs

from ntlab.errors import UserError
from ntlab.hooks import hookimpl
from ntlab.machine import (
    NOMINAL,
    AgeingPolicy,
    AllocatePool,
    CachePolicy,
    CopyRead,
    Extent,
    File,
    FileMapping,
    FlushModifiedList,
    IoPolicy,
    Machine,
    MappingObject,
    MapSystemPages,
    Memory,
    MemoryPolicy,
    OpenFile,
    Paging,
    PagingPolicy,
    PoolBlock,
    Process,
    Processor,
    QueryKey,
    Region,
    RegistryPolicy,
    ReplacementPolicy,
    Request,
    Thread,
    Touch,
    View,
    WorkingSet,
)
from ntlab.machine.accesses import STATUS_IN_PAGE_ERROR, STATUS_NO_MEMORY
from ntlab.machine.extents import BAD
from ntlab.machine.mappings import create_mapping
from ntlab.machine.paging import PAGE_MASK, SPACE_SHIFT, number
from ntlab.plugin import option, plugin
from ntlab.quantities import KIB, MICROSECOND, MILLISECOND, Duration, Share, Size
from ntlab.testing import small_tables
from ntlab.testing.faults import Holding
from ntlab.tracing import Tracer
from paged import Contents

PAGE = 4 * KIB
THREADS = 8
"""Threads at a time: with more of them, time passes until some have ended."""
PATIENCE = 200 * MILLISECOND
"""How long a thread may take for all that it does."""


@attrs.frozen(kw_only=True)
class Rules:
    """How one machine decides: sizes in pages."""

    nodes: int = 2
    pages: int = 48  # of a node
    slots: int = 64
    fragmentation: float = 0.0
    write: int = 4
    read: int = 4
    transfer: int = 0  # the most of one transfer; 0: no limit
    low_available: int = 0
    ageing: Literal["none", "timer", "demand"] = "none"
    oldest_age: int = 3
    system_maximum: int = 0
    cache_apart: bool = False
    views: int = 0
    read_ahead: int = 0
    standby_target: bool = False
    migrate: bool = False
    priorities: bool = False
    dummy: bool = False
    clusters: bool = False
    registry: Literal["nonpaged", "cache_views", "paged_pool"] = "nonpaged"
    hive_file: bool = False

    @classmethod
    def random(cls, random: Random) -> Rules:
        slots = random.choice((8, random.randint(16, 100)))
        return cls(
            nodes=random.randint(1, 3),
            pages=random.randint(24, 56),
            slots=slots,
            fragmentation=random.choice((0.0, 0.0, 0.2)),
            write=min(random.randint(1, 16), slots),
            read=random.randint(1, 8),
            transfer=random.choice((0, 0, 1, 3)),
            low_available=random.choice((0, 0, 12)),
            ageing=random.choice(("none", "timer", "demand")),
            oldest_age=random.choice((1, 3, 7)),
            system_maximum=random.choice((0, 24)),
            cache_apart=random.random() < 0.5,
            views=random.choice((0, 2, 5)),
            read_ahead=random.choice((0, 3, 8)),
            standby_target=random.random() < 0.5,
            migrate=random.random() < 0.5,
            priorities=random.random() < 0.5,
            dummy=random.random() < 0.5,
            clusters=random.random() < 0.5,
            registry=random.choice(("nonpaged", "cache_views", "paged_pool")),
            hive_file=random.random() < 0.5,
        )


@plugin(name="chance", summary="Decides about memory by chance.", release="ws2003")
class Chance:
    rules: Rules = option(default=Rules(), help="What it does not leave to chance.")

    def _random(self, machine: Machine) -> Random:
        return machine.streams.stream("chance", "decisions")

    @hookimpl
    def memory_policy(self) -> MemoryPolicy:
        return MemoryPolicy(working_set_minimum=2, working_set_maximum=12)

    @hookimpl
    def paging_policy(self) -> PagingPolicy:
        return PagingPolicy(
            file_size=Size(self.rules.slots * PAGE),
            initial_fragmentation=Share(self.rules.fragmentation),
            low_free=0,
            high_modified=0,
            low_available=self.rules.low_available,
        )

    @hookimpl
    def io_policy(self) -> IoPolicy:
        return IoPolicy(disk="ssd")

    @hookimpl
    def io_limit(self) -> int | None:
        return self.rules.transfer * PAGE or None

    @hookimpl
    def write_cluster_limit(self) -> int:
        return self.rules.write

    @hookimpl
    def write_cluster(self, paging: Paging, head: int, limit: int) -> Sequence[int] | None:
        if not self.rules.clusters:
            return None
        random = self._random(paging.machine)
        chosen = paging.around(head, random.randint(1, 8), limit)
        random.shuffle(chosen)
        return chosen

    @hookimpl
    def read_cluster(self) -> int:
        return self.rules.read

    @hookimpl
    def fault_cluster(self) -> int:
        return self.rules.read

    @hookimpl
    def dummy_page(self, region: Region) -> bool:
        return self.rules.dummy

    @hookimpl
    def allocation_node(self, thread: Thread, region: Region) -> int:
        if region.node is not None:
            return region.node
        return self._random(thread.machine).randrange(self.rules.nodes)

    @hookimpl
    def fallback_order(self, memory: Memory) -> Sequence[int]:
        order = list(range(self.rules.nodes))
        self._random(memory.machine).shuffle(order)
        return order[: self._random(memory.machine).randint(0, len(order))]

    @hookimpl
    def kernel_page_node(self, machine: Machine) -> int:
        return self._random(machine).randrange(self.rules.nodes)

    @hookimpl
    def pool_node(self, machine: Machine) -> int | None:
        return self._random(machine).choice((None, 0, self.rules.nodes - 1))

    @hookimpl
    def kernel_working_set(self, section: str) -> str | None:
        return section if self.rules.cache_apart else None

    @hookimpl
    def kernel_working_set_limits(self) -> tuple[int, int]:
        return 0, self.rules.system_maximum

    @hookimpl
    def standby_node(self, thread: Thread) -> int | None:
        return thread.processor.node if self.rules.migrate and thread.processor is not None else None

    @hookimpl
    def ageing_policy(self) -> AgeingPolicy | None:
        if self.rules.ageing == "none":
            return None
        return AgeingPolicy(
            look=self.rules.ageing, period=Duration(2 * MILLISECOND), low_available=self.rules.low_available
        )

    @hookimpl
    def oldest_age(self) -> int:
        return self.rules.oldest_age

    @hookimpl
    def page_priority(self, thread: Thread) -> int | None:
        return self._random(thread.machine).randrange(8) if self.rules.priorities else None

    @hookimpl
    def cache_policy(self) -> CachePolicy:
        view = 4 * PAGE
        return CachePolicy(view_size=Size(view), address_space=Size(self.rules.views * view))

    @hookimpl
    def read_ahead_size(self) -> int:
        return self.rules.read_ahead

    @hookimpl
    def read_ahead_target(self) -> Literal["working_set", "standby"]:
        return "standby" if self.rules.standby_target else "working_set"

    @hookimpl
    def pages_short(self, memory: Memory, pages: int) -> None:
        for working_set in list(memory.working_sets):
            spare = min(pages, working_set.pages - working_set.minimum)
            if spare > 0:
                pages -= memory.trim(working_set, memory.oldest(working_set, spare))

    @hookimpl
    def registry_policy(self) -> RegistryPolicy:
        return RegistryPolicy(
            backing=self.rules.registry,
            store="hive_file" if self.rules.hive_file else "paging_file",
            limit=Size(6 * PAGE),
            part=Size(2 * PAGE),
        )

    @hookimpl
    def partition_support(self) -> bool:
        return True

    @hookimpl
    def gets_processor(self) -> bool:
        return True

    @hookimpl
    def replacement_policy(self) -> ReplacementPolicy:
        return ReplacementPolicy(
            devices_off=Duration(20 * MICROSECOND), devices_on=Duration(30 * MICROSECOND), rounds=3
        )


WEIGHTS = {
    "allocate": 10,
    "free": 6,
    "touch": 50,
    "touch_file": 8,
    "read_file": 12,
    "trim": 12,
    "flush": 3,
    "create_mapping": 2,
    "close_mapping": 2,
    "map_view": 4,
    "unmap_view": 3,
    "touch_view": 10,
    "map_file": 2,
    "pool": 5,
    "page_tables": 2,
    "migrate": 8,
    "exhaust_commit": 1,
    "interrupt": 3,
    "change_speed": 2,
    "hold_devices": 3,
    "spoil_disk": 1,
    "bad_page": 1,
    "add_memory": 0.3,
    "replace_memory": 0.3,
    "query_registry": 4,
    "add_processor": 0.3,
    "replace_processor": 0.3,
}


class Stress:
    """One machine, and what is done to it. `done` counts operations, `results` what came of them, and
    `looks` how often all accounts were compared."""

    def __init__(self, seed: int, rules: Rules | None = None, **machine: Any) -> None:
        self.random = random = Random(seed)
        self.rules = rules = rules if rules is not None else Rules.random(random)
        tracer = Tracer()
        contents = Contents(tracer)
        tables = small_tables(3 * rules.nodes, nodes=rules.nodes, memory=rules.pages * PAGE)
        self.machine = Machine(tables, [Chance(rules=rules)], seed=seed, tracer=tracer, **machine).boot()
        assert self.machine.paging is not None
        self.paging = self.machine.paging
        contents.attach(self.paging)
        self.memory = self.machine.memory
        self.engine = self.machine.engine
        self.most = 2 * self.memory.installed
        self.limit = self.memory.commit_limit
        self.machine.partitioning.set_aside(2)
        self.processes = [self.machine.create_process(f"p{index}") for index in range(3)]
        self.regions: list[Region] = []
        self.mappings: list[MappingObject] = []
        self.views: list[View] = []
        self.mapped: list[Region] = []
        self.blocks: list[PoolBlock] = []
        self.entries: list[Any] = []
        self.users: Counter[Region] = Counter()  # threads that are at a region
        self.changed: dict[int, None] = {}  # pages whose contents must not be lost
        cache = self.machine.file_cache
        self.files = [cache.create(f"f{n}", random.randint(1, 24) * PAGE - 7) for n in range(5)]
        self.opened = [cache.open(file) for file in self.files[:2]]
        # In non-paged pool, hives stay for good; so they are smaller than what is left.
        self.hives = [self.machine.registry.load(name, 4 * PAGE) for name in ("SYSTEM", "SOFTWARE")]
        self.holding = Holding(random, longest=500 * MICROSECOND)
        self.paging.disk.attach(self.holding)
        self.machine.partitioning.divide_memory(16 * PAGE)
        self.done: Counter[str] = Counter()
        self.results: Counter[str] = Counter()
        self.looks = 0
        self._names = list(WEIGHTS)
        self._weights = list(WEIGHTS.values())

    # -- what is looked at ---------------------------------------------------------------------------------

    def look_after_every_event(self) -> None:
        """Compare all accounts after each event and each operation from now on."""
        seen = (-1, -1)

        def look() -> None:
            nonlocal seen
            now = self.engine.events, self.done.total()
            if now != seen:
                seen = now
                self.machine.tracer.flush()
                self.machine.check()
                self.looks += 1

        self.engine.batch = 1
        self.engine.idle_work = look

    def check_contents(self, pages: Sequence[int]) -> None:
        """What was written is in memory, or in the file."""
        slot_of = self.paging.file.slot_of
        for page in pages:
            extent, _ = self.memory.spaces[page >> SPACE_SHIFT].at(page & PAGE_MASK)
            assert (extent is not None and extent.dirty) or page in slot_of, f"changed page {page:#x} is lost"

    # -- running -------------------------------------------------------------------------------------------

    def run(self, operations: int) -> None:
        """Do so many operations, then let all come to its end and give all back."""
        random = self.random
        for name in random.choices(self._names, self._weights, k=operations):
            self.done[name] += 1
            getattr(self, name)()
            self._pass(random.choice((0, 0, 1, 1_000, 40_000, 300_000)))
            if len(self.changed) > 8 and random.random() < 0.2:
                self.check_contents(random.sample(list(self.changed), 8))
            if len(self.machine.threads) > THREADS:
                self._settle(THREADS // 2)
        self.end()

    def _pass(self, duration: int) -> None:
        self.machine.run(self.engine.now + duration)

    def _settle(self, threads: int) -> None:
        """Let time pass until so few threads are left."""
        end = self.engine.now + PATIENCE
        while len(self.machine.threads) > threads:
            self._pass(MILLISECOND)
            if self.engine.now > end:
                raise AssertionError(f"threads do not end: {list(self.machine.threads.values())}")

    def end(self) -> None:
        """Let all threads end, give everything back, and see that nothing is left."""
        for processor in self.machine.processors:
            self.machine.speeds.set(processor, "stress", NOMINAL)
        self._settle(0)
        self.machine.run()
        self.check_contents(list(self.changed))
        for view in self.views:
            view.mapping.views.remove(view)
        for mapping in self.mappings:
            mapping.close()
        for region in self.regions + self.mapped:
            region.space.release(region)
        for block in self.blocks:
            self.machine.pool.free(block)
        for entries in self.entries:
            self.machine.system_ptes.unmap(entries)
        self.machine.run()
        self.machine.check()
        memory = self.memory
        kept = sum(space.committed for space in self.machine.sections.spaces())
        assert memory.committed == kept, "commit that nobody has"
        assert memory.commit_limit == self.limit + memory.installed - self.most // 2
        kernel = {space.id for space in self.machine.sections.spaces()}
        owners = {run.owner >> SPACE_SHIFT for run in self.paging.file.stored_runs()}
        assert owners <= kernel, "slots that nobody has"

    # -- operations ----------------------------------------------------------------------------------------

    def _thread(self, process: Process, region: Region | None, *requests: Request, then: Any = None) -> None:
        """A thread that makes these requests, and then calls `then` with the last result."""
        if region is not None:
            self.users[region] += 1

        def program() -> Iterator[Request]:
            result: Any = None
            for request in requests:
                result = yield request
            if region is not None:
                self.users[region] -= 1
            if then is not None:
                then(result)

        self.machine.create_thread(process, program(), affinity=self._processor().bit)

    def _processor(self) -> Processor:
        """One that is in use."""
        scheduler = self.machine.scheduler
        return self.random.choice([each for each in scheduler.processors if each.bit & scheduler.all_mask])

    def _touch(self, process: Process, region: Region, *, write: bool) -> None:
        first = self.random.randrange(region.pages)
        pages = self.random.randint(1, min(12, region.pages - first))
        owner = region.owner

        def then(result: Any) -> None:
            told = {STATUS_NO_MEMORY: "no memory", STATUS_IN_PAGE_ERROR: "in-page error"}
            self.results[told.get(result, "touched")] += 1
            if write and result is None:
                begin = number(region.space, region.first) + first
                self.changed.update(dict.fromkeys(range(begin, begin + pages)))

        touch = Touch(region, first, pages, write=write, accesses=self.random.choice((0, 0, 1, 64)))
        self._thread(process, owner, touch, then=then)

    def _gone(self, region: Region) -> None:
        """What was written to a region matters no more."""
        begin = number(region.space, region.first)
        for page in range(begin, begin + region.pages):
            self.changed.pop(page, None)

    def _idle(self, regions: Sequence[Region]) -> Region | None:
        """One of these that no thread is at."""
        idle = [each for each in regions if not self.users[each]]
        return self.random.choice(idle) if idle else None

    def allocate(self) -> None:
        space = self.memory.space(self.random.choice(self.processes))
        node = self.random.choice((None, None, self.random.randrange(self.rules.nodes)))
        region = space.allocate(self.random.randint(1, 40), node=node)
        if region is None:
            self.results["commit refused"] += 1
        else:
            self.regions.append(region)

    def exhaust_commit(self) -> None:
        space = self.memory.space(self.random.choice(self.processes))
        left = self.memory.commit_limit - self.memory.committed
        assert space.allocate(left + 1) is None
        if left:
            region = space.allocate(left)
            assert region is not None
            self.regions.append(region)
            self.results["commit exhausted"] += 1

    def free(self) -> None:
        region = self._idle(self.regions)
        if region is not None:
            self._gone(region)
            self.regions.remove(region)
            region.space.release(region)

    def touch(self) -> None:
        if self.regions:
            region = self.random.choice(self.regions)
            self._touch(region.space.process, region, write=self.random.random() < 0.6)

    def map_file(self) -> None:
        closed = [file for file in self.files[2:] if file not in self.machine.file_cache.mappings]
        region = self._idle(self.mapped)
        if closed and (region is None or self.random.random() < 0.5):
            space = self.memory.space(self.random.choice(self.processes))
            self.mapped.append(self.machine.file_cache.map(space, self.random.choice(closed)))
        elif region is not None:
            self.mapped.remove(region)
            region.space.release(region)

    def touch_file(self) -> None:
        if self.mapped:
            region = self.random.choice(self.mapped)
            self._touch(region.space.process, region, write=False)

    def read_file(self) -> None:
        opened: OpenFile = self.random.choice(self.opened)
        file: File = opened.mapping.file
        offset = opened.next if self.random.random() < 0.7 else self.random.randrange(file.size)
        offset = offset if offset < file.size else 0
        length = min(self.random.randint(1, 5 * PAGE), file.size - offset)
        self._thread(self.random.choice(self.processes), None, CopyRead(opened, offset, length, accesses=1))

    def trim(self) -> None:
        working_sets = [each for each in self.memory.working_sets if each.pages]
        if working_sets:
            working_set: WorkingSet = self.random.choice(working_sets)
            pages = self.random.randint(1, 2 * working_set.pages)
            self.memory.trim(working_set, self.memory.oldest(working_set, pages))

    def flush(self) -> None:
        self._thread(self.processes[0], None, FlushModifiedList(), then=self._flushed)

    def _flushed(self, written: bool) -> None:
        self.results["flushed" if written else "paging file full"] += 1

    def create_mapping(self) -> None:
        if len(self.mappings) < 4:
            process = self.random.choice(self.processes)
            files = [file for file in self.files[2:] if file not in self.machine.file_cache.mappings]
            pages = 16 * self.random.randint(1, 3)
            of = self.random.choice(files) if files and self.random.random() < 0.3 else pages
            mapping = create_mapping(self.memory, process, of)
            if mapping is not None:
                self.mappings.append(mapping)

    def close_mapping(self) -> None:
        idle = [each for each in self.mappings if not each.views and not self.users[each.region]]
        if idle:
            mapping = self.random.choice(idle)
            self._gone(mapping.region)
            self.mappings.remove(mapping)
            mapping.close()

    def map_view(self) -> None:
        if self.mappings:
            mapping = self.random.choice(self.mappings)
            first = 16 * self.random.randrange(-(-mapping.region.pages // 16))
            pages = self.random.randint(1, mapping.region.pages - first)
            view = View(mapping, self.random.choice(self.processes), first, pages, None)
            mapping.views.append(view)
            self.views.append(view)

    def unmap_view(self) -> None:
        idle = [view for view in self.views if not self.users[view.owner]]
        if idle:
            view = self.random.choice(idle)
            self.views.remove(view)
            view.mapping.views.remove(view)

    def touch_view(self) -> None:
        if self.views:
            view = self.random.choice(self.views)
            of_file = isinstance(view.backing, FileMapping)
            self._touch(view.process, view, write=not of_file and self.random.random() < 0.6)

    def pool(self) -> None:
        if len(self.blocks) > 6:
            self.machine.pool.free(self.blocks.pop(self.random.randrange(len(self.blocks))))
            return
        size = self.random.choice((200, 900, 3 * KIB, 9 * KIB))
        self._thread(self.processes[0], None, AllocatePool(size), then=self._allocated)

    def _allocated(self, block: PoolBlock | None) -> None:
        if block is not None:
            self.blocks.append(block)
        self.results["pool" if block is not None else "no pool"] += 1

    def page_tables(self) -> None:
        if len(self.entries) > 4:
            self.machine.system_ptes.unmap(self.entries.pop(0))
            return

        def then(entries: Any) -> None:
            if entries is not None:
                self.entries.append(entries)

        self._thread(self.processes[0], None, MapSystemPages(self.random.choice((3, 400))), then=then)

    def migrate(self) -> None:
        """Some extent that is not being read or written goes to another node."""
        space = self.random.choice(list(self.memory.spaces.values()))
        found = [extent for _, extent in space._extents if self.memory.movable(extent)]
        to = [node.index for node in self.memory.nodes if node.available]
        if found and to:
            extent: Extent = self.random.choice(found)
            node = self.random.choice(to)
            if node != extent.node:
                self.memory.migrate(extent, node)
                self.results["migrated"] += 1

    def query_registry(self) -> None:
        hive = self.random.choice(self.hives)
        query = QueryKey(hive, self.random.randrange(hive.keys), accesses=1)
        self._thread(self.random.choice(self.processes), None, query, then=self._queried)

    def _queried(self, result: Any) -> None:
        self.results["key not found for want of memory" if result == STATUS_NO_MEMORY else "key found"] += 1

    # -- faults --------------------------------------------------------------------------------------------

    def interrupt(self) -> None:
        processor = self._processor()
        if self.random.random() < 0.5:
            self.machine.interrupts.interrupt(processor, self.random.randrange(20_000))
        else:
            self.machine.interrupts.queue_dpc(processor, self.random.randrange(50_000))

    def change_speed(self) -> None:
        """A processor runs slower, faster, or not at all for a while."""
        speeds, processor = self.machine.speeds, self._processor()
        speeds.set(processor, "stress", self.random.choice((0, 1, 4, 8)) * NOMINAL // 4)

        def restore(_: object) -> None:
            speeds.set(processor, "stress", NOMINAL)

        self.engine.after(self.random.randrange(300_000), restore)

    def hold_devices(self) -> None:
        self.holding.until = self.engine.now + self.random.randrange(2_000_000)

    def spoil_disk(self) -> None:
        """A page of a program's, or of a file's, cannot be read any more. Of the kernel's own none is spoilt:
        that would be the end of the machine."""
        if self.random.random() < 0.5:
            file = self.random.choice(self.files)
            first = file.start + self.random.randrange(file.size)
            self.paging.disk.unreadable.add(first, first + 1)
        else:
            programs = {self.memory.space(process).id for process in self.processes}
            runs = [run for run in self.paging.file.stored_runs() if run.owner >> SPACE_SHIFT in programs]
            if runs:
                first = self.random.choice(runs).slot * PAGE
                self.paging.disk.unreadable.add(first, first + PAGE)

    def bad_page(self) -> None:
        if self.memory.pages(BAD) < self.memory.installed // 8:
            gone = self.memory.take_out(self.random.randrange(self.memory.end + 2))
            self.results["bad page" if gone else "bad page stays"] += 1

    def add_memory(self) -> None:
        if self.memory.installed < self.most:
            self.machine.partitioning.add_memory(self.random.randrange(self.rules.nodes), 8 * PAGE)

    def replace_memory(self) -> None:
        partitioning = self.machine.partitioning
        unit = self.random.choice(partitioning.memory_units())
        if partitioning.replacement is not None and not partitioning.replacement.outcome:
            try:
                partitioning.replace_memory(unit.first * PAGE)
            except UserError:
                self.results["replacement refused"] += 1
            return
        partitioning.provide_memory(unit.pages * PAGE)
        partitioning.replace_memory(unit.first * PAGE, done=self._replaced)

    def add_processor(self) -> None:
        partitioning = self.machine.partitioning
        if partitioning.spare_processors and partitioning.replacing is None:
            partitioning.add_processor()
            self.results["processor added"] += 1

    def replace_processor(self) -> None:
        partitioning = self.machine.partitioning
        if partitioning.spare_processors and partitioning.replacing is None:
            number = partitioning.number(self._processor())
            partitioning.replace_processor(number, done=self._processor_replaced)

    def _processor_replaced(self) -> None:
        self.results["processor replaced"] += 1

    def _replaced(self) -> None:
        self.results["memory replaced"] += 1
