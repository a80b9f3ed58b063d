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
    room: int = option(
        default=0,
        help="Pages that are left for it at first, while the kernel has all others; 0: all that there are.",
        minimum=0,
    )
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
        self._first = memory.end
        if self.room:
            self._leave(machine)
        process = machine.create_process("outgrown")
        region = memory.space(process).allocate(self.data)
        if region is None:
            raise UserError("the paging file is too small for the data", where=OWNER, expected="a larger one")
        machine.create_thread(process, self._program(machine, region))

    def _leave(self, machine: Machine) -> None:
        """Give the kernel all but `room` pages, which are of the node that has most."""
        memory = machine.memory
        if machine.paging is None:
            raise UserError("the machine has no paging file", where=OWNER, expected="one for the data")
        home = max(memory.nodes, key=lambda node: node.available)
        if not self.room < min(self.data, home.available + 1):
            raise UserError(
                f"{self.room} pages for {self.data}",
                where=f"{OWNER}: room",
                expected=f"fewer than the data, and at most the {home.available} that a node has",
            )
        for node in memory.nodes:
            rest = node.available - (self.room if node is home else 0)
            if rest and machine.sections.nonpaged(rest, node.index) is None:
                raise UserError("the kernel cannot have the rest of memory", where=OWNER)

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
