"""Where a thread's pages come from in Windows Server 2008: its ideal node, or else the nearest one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ntlab.hooks import hookimpl
from ntlab.machine import Memory, Region, Thread
from ntlab.plugin import option, plugin
from ntlab_numa_home.workloads import Wanderers


@plugin(
    name="numa_home",
    summary="Memory comes from a thread's ideal node, and from the nearest one when that has none.",
    release="ws2008",
    ledger=("N4", "N5"),
    workloads=(Wanderers,),
    neutral={"allocation": "current", "fallback": "any"},
)
class NumaHome:
    """Two rules that can be had one at a time; both switched off change nothing, bit for bit."""

    allocation: Literal["ideal", "current"] = option(
        default="ideal",
        help="Where pages are taken from first: the thread's ideal node, or as the baseline does.",
    )
    fallback: Literal["nearest", "any"] = option(
        default="nearest",
        help="Where next when there are none: the other nodes by latency, or as the baseline does.",
    )
    processor_limit: int = option(
        default=0,
        help="On machines with more processors neither rule is in force (KB969468: 64); 0 is no limit.",
        minimum=0,
    )

    @hookimpl
    def allocation_node(self, thread: Thread, region: Region) -> int | None:
        if self.allocation == "current" or self._switched_off(region.space.memory):
            return None
        return thread.machine.tables.node_of[thread.ideal]

    @hookimpl
    def fallback_order(self, memory: Memory, home: int) -> Sequence[int] | None:
        if self.fallback == "any" or self._switched_off(memory):
            return None
        return memory.machine.tables.nearest[home]

    def _switched_off(self, memory: Memory) -> bool:
        return 0 < self.processor_limit < memory.machine.tables.processors
