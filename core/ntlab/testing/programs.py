"""Threads that use every mechanism of a machine, so that a plugin meets all of them in a few lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ntlab.machine import (
    PAGED_POOL,
    Acquire,
    Allocate,
    AllocatePool,
    CompletionPort,
    Compute,
    CopyRead,
    CreateMapping,
    Dequeue,
    Disk,
    File,
    Footprint,
    Free,
    Machine,
    MapFile,
    MapSystemPages,
    MapView,
    Post,
    Process,
    Program,
    Read,
    Release,
    Reuse,
    RunOn,
    Sleep,
    SpinLock,
    Touch,
    UnmapView,
    Write,
)
from ntlab.quantities import KIB, MICROSECOND, MILLISECOND

US = MICROSECOND
PAGES = 300
BLOCK = 64 * KIB
BLOCKS = 8


def exercise(machine: Machine, duration: int = 20 * MILLISECOND, name: str = "exercise") -> Process:
    """Set threads going that use all there is, again and again for `duration` ns.

    One computes and sleeps, two contend for a spinlock, one touches memory, one reads and writes a disk, one
    reads a cached file and a mapped one, one uses two views of shared memory, one the kernel's pool and page
    tables as a driver does, one paged pool, one moves between processors, whose caches must get its data each
    time, and one sends packets to another through a completion port. They make no random choice, and all of
    them end. Returns their process.
    """
    process = machine.create_process(name)
    end = machine.engine.now + duration

    def rounds() -> Iterator[int]:
        """Counts until time is up, once at least."""
        number = 0
        while number == 0 or machine.engine.now < end:
            yield number
            number += 1

    lock = machine.create_lock(name)
    port = CompletionPort(machine, name)
    programs = {
        "computes": _computes(rounds()),
        "locks": _locks(rounds(), lock, 20 * US, 5 * US),
        "locks too": _locks(rounds(), lock, 10 * US, 50 * US),
        "touches": _touches(rounds(), machine),
        "reads": _reads(rounds(), File(name, _disk(machine), 0, BLOCKS * BLOCK)),
        "reads files": _reads_files(rounds(), machine, name),
        "shares": _shares(rounds(), machine),
        "drives": _drives(rounds(), machine),
        "serves": _serves(rounds(), machine),
        "moves": _moves(rounds(), machine.scheduler.all_mask),
        "sends": _sends(rounds(), port),
        "receives": _receives(port),
    }
    for what, program in programs.items():
        machine.create_thread(process, program, name=f"{name}: {what}")
    return process


def _computes(rounds: Iterator[int]) -> Program:
    for _ in rounds:
        yield Compute(30 * US)
        yield Sleep(70 * US)


def _locks(rounds: Iterator[int], lock: SpinLock, hold: int, pause: int) -> Program:
    for _ in rounds:
        yield Acquire(lock)
        yield Compute(hold)
        yield Release(lock)
        yield Sleep(pause)


def _touches(rounds: Iterator[int], machine: Machine) -> Program:
    region: Any = yield Allocate(max(1, min(PAGES, machine.memory.available // 2)))
    if region is None:
        return
    for number in rounds:
        first = 15 * number % region.pages
        count = min(30, region.pages - first)
        yield Touch(region, first, count, write=number % 2 == 0, accesses=8)
        yield Sleep(50 * US)
    yield Free(region)


def _reads(rounds: Iterator[int], file: File) -> Program:
    for number in rounds:
        block = number % BLOCKS
        yield Read(file, block * BLOCK, BLOCK)
        yield Write(file, block * BLOCK, 4 * KIB)


def _reads_files(rounds: Iterator[int], machine: Machine, name: str) -> Program:
    cache = machine.file_cache
    opened = cache.open(cache.create(f"{name}.txt", BLOCKS * BLOCK))
    mapped: Any = yield MapFile(cache.create(f"{name}.bin", BLOCK))
    for number in rounds:
        place = number * 10 * KIB % (BLOCKS * BLOCK - 10 * KIB)
        yield CopyRead(opened, place, 10 * KIB, accesses=8)
        yield Touch(mapped, number % mapped.pages, 1, accesses=8)
        yield Sleep(20 * US)
    yield Free(mapped)


def _shares(rounds: Iterator[int], machine: Machine) -> Program:
    memory = machine.memory
    pages = 2 * memory.granularity
    shared: Any = yield CreateMapping(pages, node=len(memory.nodes) - 1)
    if shared is None:
        return
    views: list[Any] = [(yield MapView(shared, node=0)), (yield MapView(shared, pages // 2))]
    working_set = shared.region.space.working_set
    for number in rounds:
        for view in views:
            yield Touch(view, 5 * number % view.pages, 1, write=number % 3 == 0, accesses=8)
        if number % 4 == 3:
            memory.trim(working_set, memory.oldest(working_set, 4))
        yield Sleep(40 * US)
    for view in views:
        yield UnmapView(view)
    shared.close()


def _drives(rounds: Iterator[int], machine: Machine) -> Program:
    blocks: list[Any] = []
    for number in rounds:
        block: Any = yield AllocatePool(48 << number % 8)
        if block is not None:
            yield block.touch(8, write=True)
            blocks.append(block)
        mapping: Any = yield MapSystemPages(1 + 100 * number % 1000)
        if mapping is not None:
            yield from mapping.touches()
            machine.system_ptes.unmap(mapping)
        if len(blocks) > 4:
            machine.pool.free(blocks.pop(0))
        yield Sleep(60 * US)
    for block in blocks:
        machine.pool.free(block)


def _serves(rounds: Iterator[int], machine: Machine) -> Program:
    memory, pool = machine.memory, machine.sections.space(PAGED_POOL)
    region = pool.allocate(20)
    if region is None:
        return
    for number in rounds:
        yield Touch(region, 3 * number % 20, 1, accesses=8)
        if number % 5 == 4:
            memory.trim(pool.working_set, memory.oldest(pool.working_set, 3))
        yield Sleep(60 * US)
    pool.release(region)


def _moves(rounds: Iterator[int], processors: int) -> Program:
    yield Reuse(Footprint(40 * KIB, written=True))
    for number in rounds:
        yield RunOn(1 << number % processors.bit_length())
        yield Compute(10 * US)
        yield Sleep(30 * US)


def _sends(rounds: Iterator[int], port: CompletionPort) -> Program:
    for _ in rounds:
        yield Post(port, key=1)
        yield Sleep(40 * US)
    yield Post(port, key=0)


def _receives(port: CompletionPort) -> Program:
    key = 1
    while key:
        packet: Any = yield Dequeue(port)
        key = packet.key
        yield Compute(15 * US)


def _disk(machine: Machine) -> Disk:
    """Any disk of the machine, or a new one where it has none."""
    for device in machine.io.devices:
        if isinstance(device, Disk):
            return device
    return machine.io.create_disk("D:")
