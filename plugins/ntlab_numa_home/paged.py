"""Threads of several nodes whose memory has been paged out, and who come back for it."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Literal

from ntlab.errors import UserError
from ntlab.machine import (
    FlushModifiedList,
    Machine,
    Paging,
    Region,
    Request,
    RunOn,
    Tally,
    Thread,
    Touch,
)
from ntlab.plugin import Metric, option, state, workload
from ntlab.quantities import KIB, MIB, Share, Size

OWNER = "numa_home.paged_out"


class _AllAreHere(Request):
    """Wait for the other threads. The last one to come receives True and does not wait."""

    __slots__ = ("count", "waiting")

    def __init__(self, waiting: list[Thread], count: int) -> None:
        self.waiting = waiting
        self.count = count

    def perform(self, thread: Thread) -> int | None:
        if len(self.waiting) + 1 < self.count:
            self.waiting.append(thread)
            return None
        thread.result = True
        return 0


@workload(
    name="paged_out", summary="Threads of all nodes share a range that was paged out, and want it back."
)
class PagedOut:
    """One process has a thread at home on each node. Its memory is in pieces that belong to the threads in
    turn, as in a table that they divide among them. Each thread fills its pieces at home. Then all are
    trimmed, written to the paging file and their frames given to others, and the threads come back for them.

    At each piece a thread is away with probability `away`: on another node while it faults the piece in, and
    at home again when it accesses it. All arms draw the same numbers.
    """

    pieces: int = option(default=16, help="How many pieces each thread has.", minimum=1)
    piece: Size = option(default=Size(64 * KIB), help="Bytes of a piece.", minimum=4 * KIB, maximum=64 * MIB)
    away: Share = option(default=Share(0.2), help="Probability that a thread is away when it faults.")
    moved: Literal["for_a_while", "for_good"] = option(
        default="for_a_while",
        help="Threads are away by chance and return; or each moves to the next node before it comes back.",
    )
    passes: int = option(default=1, help="How often each cache line of a piece is accessed.", minimum=1)

    _tally: Tally = state(Tally)
    _waiting: list[Thread] = state(list)
    _began: int = state(int)
    _reads: int = state(int)
    """Reads of the disk before the threads come back."""
    _ended: list[int] = state(list)
    _mine: list[tuple[int, Region, int, int]] = state(list)
    """Each piece: the node of its thread, and where it is."""
    _migrated: int = state(int)

    def start(self, machine: Machine) -> None:
        paging = machine.paging
        if paging is None:
            raise UserError("the machine has no paging file", where=OWNER)
        tables = machine.tables
        homes = [node for node, processors in enumerate(tables.node_processors) if processors]
        process = machine.create_process("paged")
        pages = max(1, self.piece // machine.memory.policy.page_size)
        region = machine.memory.space(process).allocate(len(homes) * self.pieces * pages)
        if region is None:
            raise UserError("the memory passes the commit limit", where=f"{OWNER}: pieces", expected="fewer")
        for place, home in enumerate(homes):
            there = homes[(place + 1) % len(homes)]
            mine = range(place * pages, region.pages, len(homes) * pages)
            program = self._program(machine, paging, region, mine, pages, home, there)
            machine.create_thread(process, program, ideal=tables.node_processors[home][0])

    def _program(
        self,
        machine: Machine,
        paging: Paging,
        region: Region,
        mine: range,
        pages: int,
        home: int,
        there: int,
    ) -> Generator[Request, Any, None]:
        masks, policy = machine.tables.node_mask, machine.memory.policy
        lines = self.passes * policy.page_size // policy.line
        others = [mask for node, mask in enumerate(masks) if mask and node != home] or [masks[home]]
        stream = machine.streams.stream(OWNER, f"node {home}")
        yield RunOn(masks[home])
        for first in mine:
            yield Touch(region, first, pages, write=True, accesses=0)
        last = yield _AllAreHere(self._waiting, region.pages // pages // self.pieces)
        if last:
            yield from self._page_out(machine, region)
            self._began, self._reads = machine.engine.now, paging.disk.reads
            self._migrated = machine.memory.migrated
            for thread in self._waiting:
                machine.scheduler.wake(thread)
        now = there if self.moved == "for_good" else home
        at_home = masks[now]
        for first in mine:
            chance, elsewhere = stream.random(), stream.choice(others)
            away = self.moved == "for_a_while" and chance < self.away
            yield RunOn(elsewhere if away else at_home)
            if (yield Touch(region, first, pages, accesses=0)) is not None:
                raise UserError("the machine's memory is full", where=OWNER, expected=f"{region.pages} pages")
            yield RunOn(at_home)
            self._mine.append((now, region, first, pages))
            yield Touch(region, first, pages, accesses=lines, tally=self._tally)
        self._ended.append(machine.engine.now)

    def _page_out(self, machine: Machine, region: Region) -> Generator[Request, Any, None]:
        """Write all of it to the paging file, and let somebody who wants all memory come and go."""
        memory = machine.memory
        working_set = region.space.working_set
        memory.trim(working_set, memory.oldest(working_set, working_set.pages))
        yield FlushModifiedList()
        for node in memory.nodes:
            if node.available:
                other = region.space.allocate(node.available, committed=False)
                assert other is not None
                memory.populate(other, node.index)
                region.space.release(other)

    def measure(self, machine: Machine) -> list[Metric]:
        if len(self._ended) <= len(self._waiting):
            raise UserError(
                "the run ended before all memory was read back",
                where="duration",
                expected="a longer one, or none",
            )
        paging = machine.paging
        assert paging is not None
        pages = stranded = 0
        for owner, region, first, count in self._mine:
            start = region.first + first
            for extent in region.space.extents(start, start + count):
                here = min(start + count, extent.page + extent.pages) - max(start, extent.page)
                pages += here
                if extent.node != owner:
                    stranded += here
        return [
            Metric("remote_share", self._tally.remote_share),
            Metric("stranded_share", stranded / (pages or 1)),
            Metric("latency", self._tally.mean_latency, "ns"),
            Metric("accesses_time", sum(self._tally.time.values()), "ns"),
            Metric("reads", paging.disk.reads - self._reads),
            Metric("migrated_share", (machine.memory.migrated - self._migrated) / (pages or 1)),
            Metric("back", max(self._ended) - self._began, "ns"),
        ]
