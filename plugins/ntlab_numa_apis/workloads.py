"""Programs that prefer nodes: all combinations of preferences, and two threads that read or write a lot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

from ntlab.errors import UserError
from ntlab.machine import (
    Allocate,
    CreateMapping,
    FlushModifiedList,
    Machine,
    MappingObject,
    MapView,
    Process,
    Request,
    RunOn,
    Sleep,
    Touch,
)
from ntlab.plugin import Metric, option, state, workload
from ntlab.quantities import MILLISECOND, SECOND, Rate

PRECEDENCE, STREAMS = "numa_apis.precedence", "numa_apis.streams"


class Row(NamedTuple):
    """One combination: whether the view and the object prefer a node, and the thread is away from home."""

    view: bool
    object: bool
    away: bool


ROWS = [Row(bool(n & 4), bool(n & 2), bool(n & 1)) for n in range(8)]


@workload(
    name="precedence",
    summary="All combinations of a view's and an object's preferred node and a thread at home or away.",
)
class Precedence:
    """One thread for each combination maps a view of an object of its own, and writes to all pages.

    View, object, ideal and present node are four different ones, where the machine has so many. Later all
    pages are trimmed, written out and given to somebody else for a moment; then each thread, now away, reads
    them in again.
    """

    pages: int = option(default=16, help="Pages of each object.", minimum=1)

    _objects: dict[Row, MappingObject] = state(dict)
    _first: dict[Row, Counter[str]] = state(dict)
    _again: dict[Row, Counter[str]] = state(dict)
    _nodes: dict[str, int] = state(dict)

    def start(self, machine: Machine) -> None:
        tables = machine.tables
        homes = [node for node, processors in enumerate(tables.node_processors) if processors]
        with_memory = [node.index for node in machine.memory.nodes if node.installed]
        self._nodes = {
            "view": with_memory[1 % len(with_memory)],
            "object": with_memory[2 % len(with_memory)],
            "thread": homes[0],
            "present": homes[3 % len(homes)],
        }
        process = machine.create_process("precedence")
        ideal = tables.node_processors[homes[0]][0]
        for row in ROWS:
            machine.create_thread(process, self._program(machine, row), ideal=ideal)
        machine.create_thread(process, self._memory_is_wanted(machine, process))

    def documented(self, row: Row) -> str:
        """Whose preference counts."""
        return "view" if row.view else "object" if row.object else "thread"

    def _program(self, machine: Machine, row: Row) -> Generator[Request, Any, None]:
        mask = machine.tables.node_mask
        nodes = self._nodes
        yield RunOn(mask[nodes["present" if row.away else "thread"]])
        shared = yield CreateMapping(self.pages, nodes["object"] if row.object else None)
        if shared is None:
            raise UserError("the commit limit is reached", where=PRECEDENCE, expected="room for the objects")
        self._objects[row] = shared
        view = yield MapView(shared, node=nodes["view"] if row.view else None)
        yield Touch(view, write=True, accesses=0)
        self._first[row] = self._where(shared)
        yield Sleep(10 * SECOND)
        yield RunOn(mask[nodes["present"]])
        yield Touch(view, accesses=0)
        self._again[row] = self._where(shared)

    def _memory_is_wanted(self, machine: Machine, process: Process) -> Iterator[Request]:
        """All pages go to the paging file, and their frames to somebody else for a moment."""
        memory = machine.memory
        yield Sleep(SECOND)
        for shared in self._objects.values():
            working_set = shared.region.space.working_set
            memory.trim(working_set, [each for each in shared.region.extents() if each.list is working_set])
        yield FlushModifiedList()
        space = memory.space(process)
        everything = space.allocate(memory.available)
        if everything is not None:
            memory.populate(everything, 0)
            space.release(everything)

    def _where(self, shared: MappingObject) -> Counter[str]:
        """How many of an object's pages are on whose node."""
        names = {node: name for name, node in reversed(self._nodes.items())}
        where: Counter[str] = Counter()
        for node, pages in shared.region.pages_by_node().items():
            where[names.get(node, "other")] += pages
        return where

    def measure(self, machine: Machine) -> list[Metric]:
        metrics = []
        for name, found in (("as_documented", self._first), ("as_documented_again", self._again)):
            right = sum(self._nodes_agree(where, self.documented(row)) for row, where in found.items())
            metrics.append(Metric(name, right / len(ROWS)))
        by: Counter[str] = sum(self._first.values(), Counter())
        total = by.total() or 1
        metrics += [Metric(f"by_{name}", by[name] / total) for name in ("view", "object", "thread")]
        return metrics

    def _nodes_agree(self, where: Counter[str], name: str) -> bool:
        return all(self._nodes.get(found) == self._nodes[name] for found in where)


@workload(
    name="streams", summary="One or two threads of one node read or write all the time in memory they choose."
)
class Streams:
    """The memory of the second lies on the node that it prefers. Both keep their processors.

    They access line after line, so many at a time that one alone reads its own node's memory at `rate`. How
    long a line takes otherwise is the machine's.
    """

    threads: int = option(default=2, help="How many threads.", minimum=1, maximum=2)
    second: int = option(
        default=0, help="The node that the second prefers; the first prefers node 0.", minimum=0
    )
    write: bool = option(default=True, help="Whether they write.")
    pages: int = option(default=1000, help="Pages of each.", minimum=1)
    rate: Rate = option(
        default=Rate(1_640_000_000),
        help="One stream alone that reads its own node's memory: AMD 40555 has 1.64 GB/s.",
        minimum=1,
    )

    _time: list[int] = state(list)

    def start(self, machine: Machine) -> None:
        processors = machine.tables.node_processors[0]
        if not processors:
            raise UserError("node 0 has no processor", where=STREAMS, expected="one for each thread")
        process = machine.create_process("streams")
        for number, node in enumerate((0, self.second)[: self.threads]):
            machine.memory.preferred(node)
            ideal = processors[number % len(processors)]
            machine.create_thread(process, self._program(machine, node), affinity=1 << ideal, ideal=ideal)

    def _program(self, machine: Machine, node: int) -> Generator[Request, Any, None]:
        engine, memory = machine.engine, machine.memory
        region = yield Allocate(self.pages, node)
        if region is None or (yield Touch(region, write=True, accesses=0)) is not None:
            raise UserError("the machine's memory is full", where=STREAMS, expected=f"{self.pages} pages")
        if len(region.pages_by_node()) > 1:
            raise UserError(
                f"{self.pages} pages on more than one node", where=f"{STREAMS}: pages", expected="fewer"
            )
        overlap = self.rate * machine.tables.latency[0][0] / (memory.policy.line * SECOND)
        yield Sleep(100 * MILLISECOND - engine.now % (100 * MILLISECOND))
        began = engine.now
        yield Touch(region, write=self.write, overlap=overlap)
        self._time.append(engine.now - began)

    def measure(self, machine: Machine) -> list[Metric]:
        lines = self.pages * machine.memory.policy.page_size // machine.memory.policy.line
        return [Metric("line", sum(self._time) / (len(self._time) * lines or 1), "ns")]
