"""Priorities of pages, as Server 2008 has them."""

from __future__ import annotations

from ntlab.hooks import hookimpl
from ntlab.machine import Thread
from ntlab.machine.extents import NORMAL_PRIORITY, PRIORITIES
from ntlab.plugin import option, plugin
from ntlab_memory_priority.workloads import AfterLunch


@plugin(
    name="memory_priority",
    summary="Eight standby lists instead of one: pages of low-priority work are given away first.",
    release="ws2008",
    ledger=("M7",),
    requires=("ws2003",),
    workloads=(AfterLunch,),
    neutral={"lists": 1},  # what Server 2003 has
)
class MemoryPriority:
    """Pages have the priority of the thread that gets them. Source: S2 (M7); memory facts, section 3.2."""

    lists: int = option(
        default=PRIORITIES,
        help="How many standby lists there are for the priorities 0 to 7; neighbours share one if fewer.",
        minimum=1,
        maximum=PRIORITIES,
    )

    @hookimpl
    def page_priority(self, thread: Thread) -> int:
        shared = [p for p in range(PRIORITIES) if self._list(p) == self._list(thread.page_priority)]
        return NORMAL_PRIORITY if NORMAL_PRIORITY in shared else shared[-1]

    def _list(self, priority: int) -> int:
        return priority * self.lists // PRIORITIES
