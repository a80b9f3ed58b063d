"""Where a thread's pages come from in Windows Server 2008: its ideal node, or else the nearest one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

from ntlab.hooks import hookimpl
from ntlab.machine import Memory, Region, Thread
from ntlab.plugin import option, plugin, state
from ntlab.quantities import Share
from ntlab_numa_home.paged import PagedOut
from ntlab_numa_home.workloads import Wanderers


@plugin(
    name="numa_home",
    summary="Memory comes from a thread's ideal node, and from the nearest one when that has none.",
    release="ws2008",
    ledger=("N4", "N5"),
    workloads=(Wanderers, PagedOut),
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
        help="Where next when there are none: the other nodes by distance, or as the baseline does.",
    )
    distances: Literal["measured", "slit", "flat"] = option(
        default="measured",
        help="What is known of distances: latencies timed at boot, the firmware's table, or nothing.",
    )
    noise: Share = option(
        default=Share(0.02), help="The most that a latency timed at boot is off, as a part of it."
    )
    processor_limit: int = option(
        default=0,
        help="A machine of more processors is taken for one node (Server 2008, KB969468: 64); 0 is no limit.",
        minimum=0,
    )

    _orders: dict[int, Sequence[int]] = state(dict)

    @hookimpl
    def allocation_node(self, thread: Thread, region: Region) -> int | None:
        if self.allocation == "current":
            return None
        memory = region.space.memory
        if self._one_node(memory):
            stream = memory.machine.streams.stream("numa_home", "one node")
            page = stream.randrange(memory.installed)
            before = accumulate(node.installed for node in memory.nodes)
            return next(node for node, stop in enumerate(before) if page < stop)
        return thread.machine.tables.node_of[thread.ideal]

    @hookimpl
    def fallback_order(self, memory: Memory, home: int) -> Sequence[int] | None:
        if self.fallback == "any" or self._one_node(memory):
            return None
        if home not in self._orders:
            distance = self._distances(memory, home)
            others = [node for node in range(len(memory.nodes)) if node != home]
            self._orders[home] = sorted(others, key=lambda node: (distance[node], node))
        return self._orders[home]

    def _distances(self, memory: Memory, home: int) -> Sequence[float]:
        """What the memory manager believes of the ways from one node."""
        machine = memory.machine
        tables = machine.tables
        if self.distances == "flat" or (self.distances == "slit" and tables.distances is None):
            return [0.0] * tables.nodes
        if self.distances == "slit":
            assert tables.distances is not None
            return tables.distances[home]
        draw = machine.streams.stream("numa_home", f"timing {home}").uniform
        return [ns * (1 + draw(-self.noise, self.noise)) for ns in tables.latency[home]]

    def _one_node(self, memory: Memory) -> bool:
        return 0 < self.processor_limit < memory.machine.groups.installed
