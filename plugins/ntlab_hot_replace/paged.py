"""A memory unit is replaced while programs page into it and out of it."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, Literal

from attrs import field

from ntlab.errors import UserError
from ntlab.machine import (
    Component,
    HardwareError,
    Machine,
    MemoryUnit,
    Paging,
    Region,
    Request,
    Sleep,
    Touch,
)
from ntlab.machine.paging import number
from ntlab.plugin import Metric, option, state, workload
from ntlab.quantities import KIB, MIB, MILLISECOND, SECOND, Duration, Share, Size
from ntlab_hot_replace.orders import replace_first_unit

OWNER = "hot_replace.paged_bank"


@workload(name="paged_bank", summary="A memory unit is replaced while programs page into it and out of it.")
class PagedBank:
    """A process has changed `filled` of the memory that there is; `cold` bytes more are in the paging file.
    `unmovable` of the first memory unit is non-paged; the rest of that unit holds what was used longest ago,
    so it is what leaves memory, and what is read from the paging file goes there.

    Each of `threads` threads uses `burst` bytes at a time, with probability `cold_share` of the cold part,
    writes to them with probability `writing`, and pauses.

    At `at` the unit is to be replaced by a spare. With `warnings` nobody says so: it corrects as many errors,
    faster and faster, and then has one that cannot be corrected, at `fails`, which stops the machine.
    """

    unit: Size = option(default=Size(64 * MIB), help="Bytes of the memory unit.", minimum=1 << 20)
    unmovable: Share = option(default=Share(0.05), help="The part of the unit that may not move.")
    filled: Share = option(default=Share(0.05), help="The part of all available memory that is in use.")
    cold: Size = option(default=Size(64 * MIB), help="Bytes in the paging file.", minimum=64 * KIB)
    threads: int = option(default=8, help="Threads that use memory.", minimum=0)
    burst: Size = option(default=Size(64 * KIB), help="Bytes that one uses at a time.", minimum=4 * KIB)
    cold_share: Share = option(default=Share(0.2), help="Probability that these are of the cold part.")
    writing: Share = option(default=Share(0.5), help="Probability that they are written to.")
    pause: Duration = option(
        default=Duration(10 * MILLISECOND), help="How long a thread pauses in between.", minimum=1
    )
    at: Duration = option(
        default=Duration(300 * MILLISECOND), help="When the unit is to be replaced.", minimum=1
    )
    warnings: int = option(
        default=0, help="Corrected errors before the unit fails; 0: it does not, and is replaced.", minimum=0
    )
    fails: Duration = option(default=Duration(60 * SECOND), help="When the unit fails.", minimum=1)
    until: Duration = option(default=Duration(1500 * MILLISECOND), help="When the threads end.", minimum=1)

    _unit: MemoryUnit = field(init=False, repr=False, eq=False)
    _uses: list[int] = state(list)
    """How long each use took, from when the thread wanted to go on."""

    def start(self, machine: Machine) -> None:
        paging = machine.paging
        if paging is None:
            raise UserError("the machine has no paging file", where=OWNER)
        partitioning, memory = machine.partitioning, machine.memory
        partitioning.divide_memory(self.unit)
        partitioning.provide_memory(self.unit)
        self._unit = unit = partitioning.memory_unit(0)
        if unit.pages * memory.policy.page_size < self.unit:
            raise UserError("no memory unit can be that large", where=f"{OWNER}: unit")
        fixed = int(unit.pages * self.unmovable)
        if fixed and machine.sections.nonpaged(fixed, unit.node) is None:
            raise UserError("the non-paged pool cannot be that large", where=f"{OWNER}: unmovable")
        process = machine.create_process("pagers")
        space = memory.space(process)
        hot = space.allocate(max(1, int(memory.available * self.filled)))
        cold = space.allocate(-(-self.cold // memory.policy.page_size))
        if hot is None or cold is None:
            raise UserError("the memory passes the commit limit", where=f"{OWNER}: filled", expected="less")
        memory.populate(hot, unit.node, dirty=True)
        self._store(paging, cold)
        now = machine.engine.now
        for each in range(self.threads):
            machine.create_thread(process, self._use(machine, hot, cold, each, now + self.until))
        if not self.warnings:
            machine.engine.at(now + self.at, replace_first_unit, machine)
            return
        for each in range(1, self.warnings + 1):
            # The rate rises with the square of time.
            time = int(self.fails * (each / (self.warnings + 1)) ** (1 / 3))
            machine.engine.at(now + time, self._error, (machine, "corrected"))
        machine.engine.at(now + self.fails, self._error, (machine, "fatal"))

    def _store(self, paging: Paging, region: Region) -> None:
        """Set the scene: a new region is in the paging file."""
        slot = paging.file.first_fit(region.pages)
        if slot is None:
            raise UserError("the paging file is full", where=f"{OWNER}: cold", expected="less")
        first = number(region.space, region.first)
        paging.file.allocate(slot, range(first, first + region.pages))

    def _use(
        self, machine: Machine, hot: Region, cold: Region, index: int, end: int
    ) -> Generator[Request, Any, None]:
        engine = machine.engine
        stream = machine.streams.stream(OWNER, f"thread {index}")
        due = engine.now
        burst = -(-self.burst // machine.memory.policy.page_size)
        while engine.now < end:
            region = cold if stream.random() < self.cold_share else hot
            pages = min(burst, region.pages)
            first = stream.randrange(region.pages // pages) * pages
            write = stream.random() < self.writing
            yield Touch(region, first, pages, write=write)
            self._uses.append(engine.now - due)
            due = engine.now + self.pause
            yield Sleep(self.pause)

    def _error(self, what: tuple[Machine, Literal["corrected", "fatal"]]) -> None:
        """The unit has an error, unless it has been exchanged."""
        machine, severity = what
        if not machine.partitioning.exchanged(self._unit):
            component = Component("memory", self._unit.node, (0, 0))
            machine.hardware_errors.occur(HardwareError(component=component, severity=severity, address=0))

    def measure(self, machine: Machine) -> list[Metric]:
        paging, replacement = machine.paging, machine.partitioning.replacement
        assert paging is not None
        done = replacement is not None and replacement.outcome == "replaced"
        copied = in_window = rounds = pause = took = lost = 0
        if replacement is not None and done:
            copied, in_window = replacement.copied, replacement.copied_in_window
            rounds, pause, lost = replacement.rounds, replacement.pause, replacement.lost
            took = replacement.ended - replacement.began
        pages, size = self._unit.pages, paging.page_size
        return [
            Metric("crashed", float(machine.crash is not None)),
            Metric("replaced", float(done)),
            Metric("pause", pause, "ns"),
            Metric("took", took, "ns"),
            Metric("rounds", rounds),
            Metric("copied", (copied + in_window) * size, "B"),
            Metric("window_share", in_window / pages),
            Metric("again", max(0, copied + in_window - pages), "pages"),
            Metric("lost", lost, "pages"),
            Metric("read", _pages(paging.read_sizes), "pages"),
            Metric("written", _pages(paging.write_sizes), "pages"),
            Metric("uses", len(self._uses)),
            Metric("longest_use", max(self._uses, default=0), "ns"),
        ]


def _pages(sizes: Mapping[int, int]) -> int:
    return sum(pages * count for pages, count in sizes.items())
