"""A program that has outgrown its machine, whose owner plugs in memory, unit by unit."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from ntlab.errors import UserError
from ntlab.machine import Machine, Region, Request, Touch
from ntlab.plugin import Metric, option, state, workload

OWNER = "hot_add_memory.outgrown"


@workload(name="outgrown", summary="A program that needs more memory than there is, until some is added.")
class Outgrown:
    """It reads its data page by page, then pages at random, all equally often. The data is `data` pages, the
    memory left for it `room`; all else is the kernel's, which stays. Then `units` of `unit` pages are added,
    one after the other, and it does the same again after each. Where the kernel does not take them, nothing
    comes of it.

    A read at random finds its page in memory with the probability that it is there: so in each of the
    `units` + 1 stages, hard faults a read are 1 - memory/data.
    """

    data: int = option(default=600, help="Pages of the program's data.", minimum=2)
    room: int = option(default=300, help="Pages that are left for it at first.", minimum=1)
    units: int = option(default=2, help="How many units are added.", minimum=1)
    unit: int = option(default=160, help="Pages of a unit.", minimum=1)
    node: int = option(default=0, help="The node that they are added to.", minimum=0)
    reads: int = option(
        default=500, help="Pages read at random before the first unit is added, and after each.", minimum=1
    )

    _faults: list[int] = state(list)
    """At random reads, for each stage."""
    _first: int = state(int)
    """The first frame of what is added."""

    def start(self, machine: Machine) -> None:
        memory = machine.memory
        if self.room >= self.data:
            raise UserError(
                f"{self.room} pages for {self.data}", where=f"{OWNER}: room", expected="fewer than the data"
            )
        if machine.paging is None:
            raise UserError("the machine has no paging file", where=OWNER, expected="one for the data")
        if self.room > memory.available:
            raise UserError(
                f"{self.room} pages", where=f"{OWNER}: room", expected=f"at most {memory.available}"
            )
        self._first = memory.end
        for node in memory.nodes:
            keep = self.room if node.index == self._home(machine) else 0
            if node.available > keep and machine.sections.nonpaged(node.available - keep, node.index) is None:
                raise UserError("the kernel cannot have the rest of memory", where=OWNER)
        process = machine.create_process("outgrown")
        region = memory.space(process).allocate(self.data)
        if region is None:
            raise UserError("the paging file is too small for the data", where=OWNER, expected="a larger one")
        machine.create_thread(process, self._program(machine, region))

    def _home(self, machine: Machine) -> int:
        return max(machine.memory.nodes, key=lambda node: node.available).index

    def _program(self, machine: Machine, region: Region) -> Generator[Request, Any, None]:
        stream = machine.streams.stream(OWNER, "reads")
        memory = machine.memory
        for page in range(self.data):
            yield Touch(region, page, 1, write=True, accesses=0)
        for number in range(self.units + 1):
            if number and machine.partitioning.supports("add memory"):
                size = self.unit * memory.policy.page_size
                machine.partitioning.add_memory(self.node % machine.tables.nodes, size)
            for page in range(self.data):
                yield Touch(region, page, 1)
            before = memory.hard_faults
            for _ in range(self.reads):
                yield Touch(region, stream.randrange(self.data), 1)
            self._faults.append(memory.hard_faults - before)

    # -- what is measured ----------------------------------------------------------------------------------

    def measure(self, machine: Machine) -> list[Metric]:
        memory = machine.memory
        shares = [faults / self.reads for faults in self._faults] or [1.0]
        added = memory.end - self._first
        used = sum(
            min(extent.frame + extent.pages, memory.end) - max(extent.frame, self._first)
            for extent in memory.in_frames(self._first, memory.end)
        )
        return [
            Metric("fault_share_first", shares[0]),
            Metric("fault_share_last", shares[-1]),
            *(Metric(f"fault_share_{number}", share) for number, share in enumerate(shares)),
            Metric("added", added, "pages"),
            Metric("used_share", used / (added or 1)),
        ]
