"""Views that every run has; here those of memory: its lists, working sets, traffic between nodes; over time.

    ntlab run EXPERIMENT --view memory|working-sets|numa|schedule|ready [--arm ARM]

Plugins and workloads offer views of their own by a method ``views()``; one of the same name takes the place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from ntlab.lab.schedule import ReadyView, ScheduleView
from ntlab.lab.tables import Table
from ntlab.quantities import format_duration, format_size

if TYPE_CHECKING:
    from ntlab.machine import Machine

T = TypeVar("T")

NOTHING = "-"


class RunView(Protocol):
    """A view of a run. `beside` are plugins that look on for it."""

    beside: Sequence[object]

    def watch(self, machine: Machine) -> None:
        """The machine is about to run."""

    def text(self, machine: Machine) -> str:
        """The view of a machine that has run. Its tracer has kept its records."""


class View(Generic[T]):
    """A view that takes samples of the machine while that lives."""

    beside: Sequence[object] = ()

    def __init__(self) -> None:
        from ntlab.machine.samples import Samples

        self._samples = Samples(self._take)

    def watch(self, machine: Machine) -> None:
        """The machine is about to run."""
        self._samples.watch(machine)

    def _take(self, machine: Machine) -> T:
        """What to show over time, as it is now."""
        raise NotImplementedError

    def text(self, machine: Machine) -> str:
        """The view of a machine that has run."""
        raise NotImplementedError


class MemoryView(View[list[list[int]]]):
    """What RAMMap shows: pages by state and node, the standby lists by priority; and the lists over time."""

    def _take(self, machine: Machine) -> list[list[int]]:
        return [node.pages[:] for node in machine.memory.nodes]

    def text(self, machine: Machine) -> str:
        from ntlab.machine.extents import PRIORITIES, STATE_NAMES, STATES

        memory = machine.memory
        size = memory.policy.page_size
        samples = self._samples.end(machine)
        ever = [
            state for state in range(STATES) if any(pages[state] for _, nodes in samples for pages in nodes)
        ]
        names = [f"{STATE_NAMES[state]}>" for state in ever]
        rows = [
            [f"node {node.index}", *_sizes([node.pages[state] for state in ever], size)]
            for node in memory.nodes
        ]
        if len(rows) > 1:
            rows.append(["all", *_sizes([memory.pages(state) for state in ever], size)])
        tables = [Table(["", *names], rows, f"at {format_duration(machine.engine.now)}")]
        standby = [[each.pages for each in node.standby] for node in memory.nodes]
        used = [each for each in range(PRIORITIES) if any(lists[each] for lists in standby)]
        if used:
            tables.append(
                Table(
                    ["", *(f"priority {each}>" for each in used)],
                    [
                        [f"node {number}", *_sizes([lists[each] for each in used], size)]
                        for number, lists in enumerate(standby)
                    ],
                    "standby",
                )
            )
        over_time = [
            [format_duration(time), *_sizes([sum(pages[state] for pages in nodes) for state in ever], size)]
            for time, nodes in samples
        ]
        tables.append(Table(["over time>", *names], over_time))
        return _text(tables)


class WorkingSetsView(View[dict[int, int]]):
    """Processes and the kernel's sections: what they have in memory, committed and faulted in; over time."""

    def _take(self, machine: Machine) -> dict[int, int]:
        return {space.id: space.resident for space in machine.memory.spaces.values()}

    def text(self, machine: Machine) -> str:
        memory = machine.memory
        size = memory.policy.page_size
        spaces = list(memory.spaces.values())
        if not spaces:
            return "no process has memory of its own, and no section of the kernel is in use\n"
        samples = self._samples.end(machine)
        peaks = {space.id: max(resident.get(space.id, 0) for _, resident in samples) for space in spaces}
        rows = []
        for space in spaces:
            limit = space.working_set
            rows.append(
                [
                    space.name,
                    str(space.id),
                    limit.name if limit.kernel else "its own",
                    *_sizes([space.resident, peaks[space.id], limit.maximum, space.committed], size),
                    str(space.faults),
                    str(limit.trimmed),
                ]
            )
        headings = [
            "", "id>", "working set", "in memory>", "peak>", "maximum>", "committed>", "faults>", "trimmed>",
        ]  # fmt: skip
        tables = [Table(headings, rows, f"at {format_duration(machine.engine.now)}")]
        largest = sorted(spaces, key=lambda space: (-peaks[space.id], space.id))[:6]
        over_time = [
            [format_duration(time), *_sizes([resident.get(space.id, 0) for space in largest], size)]
            for time, resident in samples
        ]
        tables.append(Table(["over time>", *(f"{space.name}>" for space in largest)], over_time))
        return _text(tables)


class NumaView(View[tuple[int, int, int]]):
    """Who accesses whose memory: bytes and latency from node to node, pages by process; over time."""

    def _take(self, machine: Machine) -> tuple[int, int, int]:
        tally = machine.memory.accesses.tally
        return tally.total, tally.remote, sum(tally.time.values())

    def text(self, machine: Machine) -> str:
        memory = machine.memory
        tally = memory.accesses.tally
        nodes = range(len(memory.nodes))
        if not tally.total:
            return "no access to memory was made\n"
        heading = ["from", *(f"to node {node}>" for node in nodes)]
        line = memory.policy.line
        traffic = [
            [f"node {source}", *_sizes([tally.accesses.get((source, target), 0) for target in nodes], line)]
            for source in nodes
        ]
        latency = [
            [f"node {source}", *(_latency(tally.accesses, tally.time, (source, target)) for target in nodes)]
            for source in nodes
        ]
        now = f"at {format_duration(machine.engine.now)}"
        tables = [
            Table(heading, traffic, f"carried from the processors of a node to another's memory, {now}"),
            Table(heading, latency, "mean time of such an access, waits for links included"),
        ]
        pages = []
        for space in memory.spaces.values():
            held = [0] * len(memory.nodes)
            for region in space.regions:
                for node, count in region.pages_by_node().items():
                    held[node] += count
            if any(held):
                pages.append([space.name, *_sizes(held, memory.policy.page_size)])
        if pages:
            tables.append(Table(["in memory, of", *(f"on node {node}>" for node in nodes)], pages))
        before = (0, 0, 0)
        over_time = []
        for time, sample in self._samples.end(machine):
            accesses, remote, spent = (now - then for now, then in zip(sample, before, strict=True))
            before = sample
            share = [f"{remote / accesses:.1%}", f"{spent / accesses:.4g} ns"] if accesses else [NOTHING] * 2
            over_time.append([format_duration(time), *_sizes([accesses], line), *share])
        tables.append(Table(["until>", "carried>", "remote>", "mean time>"], over_time))
        return _text(tables)


VIEWS: dict[str, Callable[[], RunView]] = {
    "memory": MemoryView,
    "numa": NumaView,
    "ready": ReadyView,
    "schedule": ScheduleView,
    "working-sets": WorkingSetsView,
}


def _sizes(counts: Sequence[int], unit: int) -> list[str]:
    """Sizes of so many units each; nothing at all is told from little."""
    return [format_size(count * unit) if count else NOTHING for count in counts]


def _latency(
    accesses: dict[tuple[int, int], int], time: dict[tuple[int, int], int], way: tuple[int, int]
) -> str:
    return f"{time[way] / accesses[way]:.4g} ns" if accesses.get(way) else NOTHING


def _text(tables: Sequence[Table]) -> str:
    return "\n".join(table.text() for table in tables)
