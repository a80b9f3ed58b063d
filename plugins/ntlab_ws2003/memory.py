"""How Windows Server 2003 manages memory: where pages come from, and whose pages go when there are none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import attrs

from ntlab.errors import UserError
from ntlab.hooks import hookimpl
from ntlab.machine import AgeingPolicy, Machine, Memory, MemoryPolicy, Region, Thread, WorkingSet
from ntlab.plugin import option
from ntlab.quantities import MICROSECOND, SECOND, Duration, Size

OLDEST_AGE = 3
"""Ages have two bits."""


@attrs.define(slots=False, eq=False)
class MemoryManagement:
    """Memory's policies. Source of the mechanisms: memory facts, sections 3.1, 3.3 and 4."""

    page_size: Size = option(default=Size(4096), help="Bytes of a page; 8 KiB on Itanium.", minimum=4096)
    demand_zero_fault: Duration = option(
        default=Duration(1 * MICROSECOND), help="Processor time to give a thread a zeroed page.", minimum=0
    )
    transition_fault: Duration = option(
        default=Duration(1 * MICROSECOND), help="Processor time to take a page back from a list.", minimum=0
    )
    hard_fault: Duration = option(
        default=Duration(20 * MICROSECOND), help="Processor time of a fault that waits for a read.", minimum=0
    )
    zeroing: Duration = option(
        default=Duration(1 * MICROSECOND),
        help="Time to zero a page that nobody has zeroed before.",
        minimum=0,
    )
    page_copy: Duration = option(
        default=Duration(1_500), help="Processor time to copy a page to another node.", minimum=0
    )
    working_set_minimum: int = option(default=50, help="Pages that a trim leaves a process.", minimum=0)
    working_set_maximum: int = option(
        default=345, help="Pages that a process is not trimmed below while others have more.", minimum=1
    )
    node_fallback: Literal["random", "next"] = option(
        default="random",
        help="Which node is tried when the home has no page: any at random, or the next by number.",
    )

    ageing: Literal["none", "timer", "demand"] = option(
        default="none",
        help="When the kernel looks which pages have been accessed: never, and then working sets give up "
        "those that came first; each balance_period; or only when pages are to go, page by page, like Clock.",
    )
    balance_period: Duration = option(
        default=Duration(SECOND),
        help="Period of the balance set manager, who looks at pages where ageing is by timer.",
        minimum=MICROSECOND,
    )
    balance_available: int = option(
        default=0,
        help="It trims working sets when fewer pages are available; 0: only who needs a page does.",
        minimum=0,
    )
    system_working_set_minimum: int = option(
        default=388, help="Pages that a trim leaves the kernel's working set (a guess).", minimum=0
    )
    system_working_set_maximum: int = option(
        default=0, help="Pages that the kernel's working set never exceeds; 0 is no limit.", minimum=0
    )

    kernel_pages: Literal["any", "first"] = option(
        default="any",
        help="Which node the kernel's resident memory comes from: any at random, or the first that has some.",
    )

    @hookimpl
    def memory_policy(self) -> MemoryPolicy:
        return MemoryPolicy(
            page_size=self.page_size,
            demand_zero_fault=self.demand_zero_fault,
            transition_fault=self.transition_fault,
            hard_fault=self.hard_fault,
            zeroing=self.zeroing,
            page_copy=self.page_copy,
            working_set_minimum=self.working_set_minimum,
            working_set_maximum=self.working_set_maximum,
        )

    @hookimpl
    def ageing_policy(self) -> AgeingPolicy | None:
        if self.ageing == "none":
            return None
        return AgeingPolicy(
            look=self.ageing, period=self.balance_period, low_available=self.balance_available
        )

    @hookimpl
    def oldest_age(self) -> int:
        return OLDEST_AGE

    @hookimpl
    def kernel_working_set_limits(self, machine: Machine, name: str) -> tuple[int, int]:
        minimum, maximum = self.system_working_set_minimum, self.system_working_set_maximum
        if 0 < maximum < minimum:
            raise UserError(
                f"a maximum of {maximum} pages",
                where="ws2003.system_working_set_maximum",
                expected=f"0, or at least system_working_set_minimum, {minimum}",
            )
        return minimum, maximum

    @hookimpl
    def allocation_node(self, thread: Thread, region: Region) -> int | None:
        return thread.processor.node if thread.processor is not None else None

    @hookimpl
    def fallback_order(self, memory: Memory, home: int) -> Sequence[int]:
        others = [*range(home + 1, len(memory.nodes)), *range(home)]
        if self.node_fallback == "random":
            memory.machine.streams.stream("ws2003", "node fallback").shuffle(others)
        return others

    @hookimpl
    def kernel_page_node(self, machine: Machine) -> int:
        if self.kernel_pages == "first":
            return 0
        nodes = [node.index for node in machine.memory.nodes if node.installed]
        return machine.streams.stream("ws2003", "kernel pages").choice(nodes)

    @hookimpl
    def pages_short(self, memory: Memory, pages: int) -> None:
        """Trim working sets: first what is above its maximum, then what is above its minimum; of these first
        the oldest pages, where they age; and of those first the largest working set's.

        What was changed becomes available when the modified page writer has written it.
        """
        for floor in ("maximum", "minimum"):
            for age in memory.ages():
                for working_set in sorted(memory.working_sets, key=_size, reverse=True):
                    spare = working_set.pages - getattr(working_set, floor)
                    if spare > 0 and pages > 0:
                        found = memory.oldest(working_set, min(spare, pages), age)
                        pages -= memory.trim(working_set, found) if found else 0


def _size(working_set: WorkingSet) -> int:
    return working_set.pages
