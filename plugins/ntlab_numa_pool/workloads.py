"""Drivers' threads that use non-paged pool, and that map buffers by system PTEs."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import Any

from ntlab.errors import UserError
from ntlab.machine import (
    AllocatePool,
    Machine,
    Mapping,
    MapSystemPages,
    PoolBlock,
    Request,
    RunOn,
    Sleep,
    Tally,
)
from ntlab.plugin import Metric, option, state, workload
from ntlab.quantities import MICROSECOND, MILLISECOND, Share

POOL, PTES = "numa_pool.buffers", "numa_pool.mappings"


def _threads(machine: Machine, wanted: int) -> list[int]:
    """The ideal processors of so many threads: a round through the nodes, then the next of each."""
    rows = [processors for processors in machine.tables.node_processors if processors]
    return [rows[n % len(rows)][n // len(rows) % len(rows[n % len(rows)])] for n in range(wanted)]


@workload(name="buffers", summary="Threads on all nodes take blocks of non-paged pool and give them back.")
class Buffers:
    """Each thread takes a block, accesses it from its ideal node, keeps it a while and gives it back.

    `handed` of the blocks are given back by the next thread, which is on another node, as when what one
    driver has sent another completes. A thread is away when it takes a block with probability `away`. A
    driver must live with an allocation that is refused: it goes on without.
    """

    threads: int = option(default=16, help="How many, a round through the nodes and again.", minimum=1)
    blocks: int = option(default=100, help="Blocks that each thread takes, one after the other.", minimum=1)
    kept: int = option(default=8, help="Blocks that each thread has at a time.", minimum=1)
    smallest: int = option(default=64, help="Bytes of the smallest block.", minimum=1)
    largest: int = option(default=2048, help="Bytes of the largest block; in between it doubles.", minimum=1)
    accesses: int = option(default=16, help="Cache lines of a block that come from memory.", minimum=1)
    handed: Share = option(default=Share(0.25), help="Part of the blocks that the next thread gives back.")
    away: Share = option(default=Share(0.0), help="Probability of being on another node to take a block.")

    _tally: Tally = state(Tally)
    _handed: dict[int, deque[PoolBlock]] = state(dict)
    _placed: list[bool] = state(list)
    _refused: int = state(int)

    def start(self, machine: Machine) -> None:
        if self.largest < self.smallest:
            raise UserError(
                f"blocks of at most {self.largest} bytes",
                where=f"{POOL}: largest",
                expected=f"no less than the smallest, {self.smallest}",
            )
        process = machine.system_process
        for number, ideal in enumerate(_threads(machine, self.threads)):
            self._handed[number] = deque()
            machine.create_thread(process, self._program(machine, number, ideal), ideal=ideal)

    def _program(self, machine: Machine, number: int, ideal: int) -> Generator[Request, Any, None]:
        tables, pool = machine.tables, machine.pool
        stream = machine.streams.stream(POOL, f"thread {number}")
        home = tables.node_of[ideal]
        others = [mask for node, mask in enumerate(tables.node_mask) if mask and node != home]
        sizes = [self.smallest << n for n in range((self.largest // self.smallest).bit_length())]
        mine: deque[PoolBlock] = deque()
        neighbour = self._handed[(number + 1) % self.threads]
        for _ in range(self.blocks):
            # All are drawn whatever comes of it, so that arms share their draws.
            size, away, handed = stream.choice(sizes), stream.random(), stream.random()
            elsewhere = stream.choice(others) if others else tables.node_mask[home]
            yield RunOn(elsewhere if away < self.away else tables.node_mask[home])
            block = yield AllocatePool(size)
            if block is None:
                self._refused += 1
                yield Sleep(MILLISECOND)
                continue
            yield RunOn(tables.node_mask[home])
            self._placed.append(block.node == home)
            yield block.touch(self.accesses, write=True, tally=self._tally)
            if handed < self.handed:
                neighbour.append(block)
            else:
                mine.append(block)
            if len(mine) > self.kept:
                pool.free(mine.popleft())
            while self._handed[number]:
                pool.free(self._handed[number].popleft())
            yield Sleep(stream.randrange(1, 10) * MICROSECOND)
        for block in mine:
            pool.free(block)

    def measure(self, machine: Machine) -> list[Metric]:
        return [
            Metric("remote_share", self._tally.remote_share),
            Metric("latency", self._tally.mean_latency, "ns"),
            Metric("at_home", sum(self._placed) / (len(self._placed) or 1)),
            Metric("refused", float(self._refused)),
        ]


@workload(name="mappings", summary="Threads on all nodes map buffers by system PTEs and use them.")
class Mappings:
    """Each thread maps buffers of random size, accesses all their entries, and keeps some, as `kept` says.

    To use a buffer is to access the entries once more, `uses` times: each time the TLB has lost them.
    """

    threads: int = option(default=16, help="How many, a round through the nodes and again.", minimum=1)
    buffers: int = option(default=20, help="Buffers that each thread maps, one after the other.", minimum=1)
    smallest: int = option(default=1, help="Pages of the smallest buffer.", minimum=1)
    largest: int = option(default=16, help="Pages of the largest buffer; in between it doubles.", minimum=1)
    uses: int = option(default=4, help="How often all entries of a buffer are accessed.", minimum=1)
    kept: Share = option(default=Share(0.0), help="Probability that a buffer is never unmapped.")

    _tally: Tally = state(Tally)
    _created: list[bool] = state(list)
    _refused: int = state(int)

    def start(self, machine: Machine) -> None:
        if self.largest < self.smallest:
            raise UserError(
                f"buffers of at most {self.largest} pages",
                where=f"{PTES}: largest",
                expected=f"no less than the smallest, {self.smallest}",
            )
        process = machine.system_process
        for number, ideal in enumerate(_threads(machine, self.threads)):
            machine.create_thread(process, self._program(machine, number, ideal), ideal=ideal)

    def _program(self, machine: Machine, number: int, ideal: int) -> Generator[Request, Any, None]:
        ptes = machine.system_ptes
        stream = machine.streams.stream(PTES, f"thread {number}")
        home = machine.tables.node_of[ideal]
        sizes = [self.smallest << n for n in range((self.largest // self.smallest).bit_length())]
        yield RunOn(machine.tables.node_mask[home])
        for _ in range(self.buffers):
            size, kept = stream.choice(sizes), stream.random()
            mapping: Mapping | None = yield MapSystemPages(size)
            if mapping is None:
                self._refused += 1
                yield Sleep(MILLISECOND)
                continue
            for table in mapping.tables[len(mapping.tables) - mapping.created :]:
                self._created.append(table.pages_by_node() == {home: 1})
            for _ in range(self.uses):
                yield from mapping.touches(write=True, tally=self._tally)
                yield Sleep(stream.randrange(1, 10) * MICROSECOND)
            if kept >= self.kept:
                ptes.unmap(mapping)

    def measure(self, machine: Machine) -> list[Metric]:
        created = len(self._created)
        return [
            Metric("new_at_home", sum(self._created) / (created or 1)),
            Metric("new_pages", float(created)),
            Metric("refused", float(self._refused)),
            Metric("remote_share", self._tally.remote_share),
            Metric("latency", self._tally.mean_latency, "ns"),
        ]
