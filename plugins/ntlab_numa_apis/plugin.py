"""Which of several preferences says where a page comes from, since Server 2008."""

from __future__ import annotations

from typing import Any

from ntlab.hooks import hookimpl
from ntlab.machine import Machine, Region, Thread, View
from ntlab.plugin import option, plugin, state
from ntlab.tracing import event_type
from ntlab_numa_apis.workloads import Precedence, Streams

PREFERENCE = event_type("Lab-Numa", "Preference", "tid pid page rule$ node")
"""Which rule fired; with "thread" it is no node of this plugin's (-1), but the ideal node."""


@plugin(
    name="numa_apis",
    summary="Programs say which node they prefer: for a view, a file-mapping object, an allocation.",
    release="ws2008",
    ledger=("N7",),
    requires=("numa_home",),
    workloads=(Precedence, Streams),
    neutral={"by_view": False, "by_object": False, "by_allocation": False},
)
class NumaApis:
    """Three calls that can be had one at a time. Source: S0 (N7); memory facts, section 4.

    A view's preference goes before its object's, and that before the thread's ideal node, which is
    `numa_home`'s.
    """

    by_view: bool = option(default=True, help="Whether a view's preferred node counts (MapViewOfFileExNuma).")
    by_object: bool = option(
        default=True, help="Whether a file-mapping object's preferred node counts (CreateFileMappingNuma)."
    )
    by_allocation: bool = option(
        default=True, help="Whether an allocation's preferred node counts (VirtualAllocExNuma)."
    )

    _trace: Any = state(lambda: None)

    @hookimpl
    def machine_booted(self, machine: Machine) -> None:
        if self.by_view or self.by_object or self.by_allocation:
            self._trace = machine.tracer.emitter(PREFERENCE)

    @hookimpl
    def allocation_node(self, thread: Thread, region: Region) -> int | None:
        rule, node = self._preference(region)
        if self._trace is not None:
            machine = thread.machine
            text = machine.tracer.text(rule)
            number = -1 if node is None else node
            process = thread.process.id
            self._trace((machine.engine.now, PREFERENCE.id, thread.id, process, region.first, text, number))
        return node

    def _preference(self, region: Region) -> tuple[str, int | None]:
        if isinstance(region, View):
            if self.by_view and region.node is not None:
                return "view", region.node
            if self.by_object and region.mapping.node is not None:
                return "object", region.mapping.node
        elif self.by_allocation and region.node is not None:
            return "allocation", region.node
        return "thread", None
