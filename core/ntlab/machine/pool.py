"""Kernel memory that stays in memory: blocks of the non-paged pool, and system page-table entries.

The pool hands out blocks. Up to half a page they are rounded up to a multiple of 16 bytes, and a page holds
blocks of one size only; larger ones are whole pages. A block that is given back waits for the next allocation
of its size, the latest first. The pool is one, or divided among the nodes: then each part has its own pages
and its own free blocks, a block always goes back to its part, and which part serves is asked of plugins.

    block = yield AllocatePool(200)
    yield block.touch(accesses=4)
    machine.pool.free(block)

System page-table entries (PTEs) map memory into the system's address space: a driver's buffer, say. Entries
are given out in runs, the first place that fits. They lie in page-table pages, each of which comes to be when
the first of its entries is given out, and stays: it is a matter of chance whether a mapping needs a new one.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final, Literal

from ntlab.errors import SimulationError
from ntlab.machine.accesses import Tally, Touch
from ntlab.machine.sections import PAGE_TABLES
from ntlab.machine.threads import Request, Thread
from ntlab.tracing import event_type

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine
    from ntlab.machine.processors import Processor
    from ntlab.machine.spaces import Region

GRAIN: Final = 16
"""Sizes of blocks are multiples of this many bytes."""
PTE_SIZE: Final = 8
"""Bytes of a page-table entry: of 64-bit Windows, and of 32-bit Windows with PAE."""
SYSTEM_PTES: Final = 1 << 25
"""System PTEs of a machine: 128 GiB of address space with pages of 4 KiB, as x64 has."""

KernelUse = Literal["pool", "page table"]
"""What a page of the kernel's own is for."""

POOL_ALLOCATE = event_type("Lab-Numa", "PoolAllocate", "tid part size node")
PAGE_TABLE = event_type("Lab-Numa", "PageTable", "tid index node")


class PoolBlock:
    """A block of non-paged pool: `size` bytes, `offset` bytes into page `page` of `region`.

    `part` is the part of the pool that it is of: a node's number, or None where the pool is one.
    """

    __slots__ = ("offset", "page", "part", "region", "size")

    def __init__(self, region: Region, page: int, offset: int, size: int, part: int | None) -> None:
        self.region = region
        self.page = page
        self.offset = offset
        self.size = size
        self.part = part

    @property
    def pages(self) -> int:
        """How many pages it is in."""
        return -(-(self.offset + self.size) // self.region.space.memory.policy.page_size)

    @property
    def node(self) -> int:
        """The node that its first page is on."""
        extent, _ = self.region.space.at(self.region.first + self.page)
        assert extent is not None
        return extent.node

    def touch(self, accesses: int, *, write: bool = False, tally: Tally | None = None) -> Touch:
        """The request to access it: so many cache lines of each of its pages come from memory."""
        return Touch(self.region, self.page, self.pages, accesses=accesses, write=write, tally=tally)


class NonPagedPool:
    """The non-paged pool of one machine.

    `parts` has, for each part, its free blocks by size; `live` are the blocks that are in use.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.page_size = machine.memory.policy.page_size
        self.parts: dict[int | None, dict[int, list[PoolBlock]]] = {}
        self.live: dict[PoolBlock, None] = {}
        self._fresh: dict[int | None, tuple[Region, int]] = {}  # of a part: its first page without blocks
        self._pool_node = machine.hooks.pool_node
        self._trace = machine.tracer.emitter(POOL_ALLOCATE)

    def allocate(self, size: int, processor: Processor, thread: Thread | None = None) -> PoolBlock | None:
        """A block for what runs on a processor: a thread, or an interrupt or DPC (None). None if there is no
        memory for it."""
        if size <= 0:
            raise SimulationError(f"a block of {size} bytes")
        ask = self._pool_node
        part = ask(self.machine, processor, thread) if ask is not None else None
        if 2 * size > self.page_size:
            block = self._large(-(-size // self.page_size), part, processor, thread)
        else:
            block = self._small(-(-size // GRAIN) * GRAIN, part, processor, thread)
        if block is not None:
            self.live[block] = None
            if self._trace is not None:
                number = -1 if part is None else part
                tid = thread.id if thread is not None else 0
                self._trace((self.machine.engine.now, POOL_ALLOCATE.id, tid, number, block.size, block.node))
        return block

    def free(self, block: PoolBlock) -> None:
        """Give a block back. Whole pages become free memory."""
        if block not in self.live:
            raise SimulationError(f"a block of {block.size} bytes is given back that is not in use")
        del self.live[block]
        if 2 * block.size > self.page_size:
            block.region.space.release(block.region)
        else:
            self.parts[block.part][block.size].append(block)

    def _large(
        self, pages: int, part: int | None, processor: Processor, thread: Thread | None
    ) -> PoolBlock | None:
        home = part if part is not None else kernel_node(self.machine, processor, thread, "pool")
        region = self.machine.sections.nonpaged(pages, home)
        return PoolBlock(region, 0, 0, pages * self.page_size, part) if region is not None else None

    def _small(
        self, size: int, part: int | None, processor: Processor, thread: Thread | None
    ) -> PoolBlock | None:
        free = self.parts.setdefault(part, {}).setdefault(size, [])
        if not free:
            fresh = self._fresh.pop(part, None)
            if fresh is None:
                home = part if part is not None else kernel_node(self.machine, processor, thread, "pool")
                region = self.machine.sections.nonpaged(self.machine.memory.granularity, home)
                if region is None:
                    return None
                fresh = region, 0
            region, page = fresh
            if page + 1 < region.pages:
                self._fresh[part] = region, page + 1
            last = self.page_size // size * size - size
            free.extend(PoolBlock(region, page, offset, size, part) for offset in range(last, -1, -size))
        return free.pop()

    def counters(self) -> dict[str, float]:
        """Performance counters by their Windows names."""
        return {r"Memory\Pool Nonpaged Allocs": float(len(self.live))}

    def check(self) -> None:
        """Raise SimulationError where blocks overlap, or are of no region of the pool. For tests."""
        blocks = list(self.live)
        for part, sizes in self.parts.items():
            for size, free in sizes.items():
                blocks += free
                if any(block.part != part or block.size != size or block in self.live for block in free):
                    raise SimulationError("a free block of the non-paged pool is on a wrong list")
        ends: dict[tuple[int, int], int] = {}
        for block in sorted(blocks, key=lambda block: (block.region.first + block.page, block.offset)):
            place = block.region.first, block.page
            if block.region not in block.region.space.regions or block.offset < ends.get(place, 0):
                raise SimulationError("blocks of the non-paged pool overlap, or are of no region")
            ends[place] = block.offset + block.size


class Mapping:
    """A run of system PTEs, `count` of them from `first` on. `created` of their page-table pages are new."""

    __slots__ = ("count", "created", "first", "tables")

    def __init__(self, first: int, count: int, tables: list[Region], created: int) -> None:
        self.first = first
        self.count = count
        self.tables = tables
        self.created = created

    def touches(self, *, write: bool = False, tally: Tally | None = None) -> list[Touch]:
        """The requests to access all its entries once, a page-table page each: what a walk that finds nothing
        in the TLB does, or whoever fills them in."""
        memory = self.tables[0].space.memory
        each = memory.policy.page_size // PTE_SIZE
        lines = memory.policy.line // PTE_SIZE
        found = []
        at, stop = self.first, self.first + self.count
        for table in self.tables:
            end = min(stop, at // each * each + each)
            accesses = -(-end // lines) - at // lines
            found.append(Touch(table, accesses=accesses, write=write, tally=tally))
            at = end
        return found


class SystemPtes:
    """The system PTEs of one machine. `tables` are the page-table pages that there are, by number."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.each = machine.memory.policy.page_size // PTE_SIZE
        self.free = SYSTEM_PTES
        self.tables: dict[int, Region] = {}
        self._mappings: dict[Mapping, None] = {}
        self._starts = [0]  # of free runs, ascending
        self._counts = [SYSTEM_PTES]
        self._trace = machine.tracer.emitter(PAGE_TABLE)

    def map(self, count: int, processor: Processor, thread: Thread | None = None) -> Mapping | None:
        """A run of entries, for whom `NonPagedPool.allocate` says. None if no free run is so long, or there
        is no memory for a page-table page."""
        if count <= 0:
            raise SimulationError(f"a mapping of {count} pages")
        index = next((i for i, free in enumerate(self._counts) if free >= count), None)
        if index is None:
            return None
        first = self._starts[index]
        numbers = range(first // self.each, (first + count - 1) // self.each + 1)
        created = 0
        for number in numbers:
            if number not in self.tables:
                table = self._create(number, processor, thread)
                if table is None:
                    return None
                created += 1
        if self._counts[index] == count:
            del self._starts[index], self._counts[index]
        else:
            self._starts[index] += count
            self._counts[index] -= count
        self.free -= count
        mapping = Mapping(first, count, [self.tables[number] for number in numbers], created)
        self._mappings[mapping] = None
        return mapping

    def _create(self, number: int, processor: Processor, thread: Thread | None) -> Region | None:
        machine = self.machine
        home = kernel_node(machine, processor, thread, "page table")
        table = machine.sections.nonpaged(1, home, PAGE_TABLES)
        if table is not None:
            self.tables[number] = table
            if self._trace is not None:
                (node,) = table.pages_by_node()
                tid = thread.id if thread is not None else 0
                self._trace((machine.engine.now, PAGE_TABLE.id, tid, number, node))
        return table

    def unmap(self, mapping: Mapping) -> None:
        """Give the entries back. Their page-table pages stay."""
        if mapping not in self._mappings:
            raise SimulationError(f"{mapping.count} system PTEs are given back that are not in use")
        del self._mappings[mapping]
        self.free += mapping.count
        first, count = mapping.first, mapping.count
        index = bisect_left(self._starts, first)
        if index < len(self._starts) and self._starts[index] == first + count:
            count += self._counts[index]
            del self._starts[index], self._counts[index]
        if index and self._starts[index - 1] + self._counts[index - 1] == first:
            self._counts[index - 1] += count
        else:
            self._starts.insert(index, first)
            self._counts.insert(index, count)

    def counters(self) -> dict[str, float]:
        """Performance counters by their Windows names."""
        return {r"Memory\Free System Page Table Entries": float(self.free)}

    def check(self) -> None:
        """Raise SimulationError where entries are lost, or given out twice. For tests."""
        runs = [(each.first, each.count) for each in self._mappings]
        runs += zip(self._starts, self._counts, strict=True)
        end = 0
        for first, count in sorted(runs):
            if first != end or count <= 0:
                raise SimulationError(f"system PTEs {end} to {first} are lost, or given out twice")
            end = first + count
        if end != SYSTEM_PTES or self.free != sum(self._counts):
            raise SimulationError("system PTEs are miscounted")
        for mapping in self._mappings:
            first = mapping.first // self.each
            if any(self.tables.get(first + n) is not table for n, table in enumerate(mapping.tables)):
                raise SimulationError("a page-table page in use does not exist")


def kernel_node(machine: Machine, processor: Processor, thread: Thread | None, use: KernelUse) -> int:
    """The node that a page of the kernel's own comes from first."""
    ask = machine.hooks.kernel_page_node
    node: int | None = ask(machine, processor, thread, use) if ask is not None else None
    return 0 if node is None else node


class AllocatePool(Request):
    """Take a block of non-paged pool, at least `size` bytes. The program receives the `PoolBlock`, or None
    where there is no memory for it. Takes no time."""

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size

    def perform(self, thread: Thread) -> int | None:
        assert thread.processor is not None
        thread.result = thread.machine.pool.allocate(self.size, thread.processor, thread)
        return 0


class MapSystemPages(Request):
    """Take `count` system PTEs that follow on each other. The program receives the `Mapping`, or None where
    there are none. Takes no time; to fill them in is to touch them (`Mapping.touches`)."""

    __slots__ = ("count",)

    def __init__(self, count: int) -> None:
        self.count = count

    def perform(self, thread: Thread) -> int | None:
        assert thread.processor is not None
        thread.result = thread.machine.system_ptes.map(self.count, thread.processor, thread)
        return 0
