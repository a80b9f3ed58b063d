"""Where a standby page goes that lies on another node than the thread that wants it."""

from __future__ import annotations

from typing import Literal

from ntlab.hooks import hookimpl
from ntlab.machine import Extent, Thread
from ntlab.plugin import option, plugin
from ntlab.quantities import Duration
from ntlab_standby_migration.workloads import References


@plugin(
    name="standby_migration",
    summary="A page on a standby list moves to the ideal node of the thread that references it.",
    release="ws2008",
    ledger=("N6",),
    workloads=(References,),
    neutral={"minimum_benefit": "1 h"},
)
class StandbyMigration:
    """One rule. Source: S0 (N6); memory facts, section 4. Its two limits are guesses, and off by default."""

    minimum_benefit: Duration = option(
        default=Duration(0),
        help="How much sooner an access must be done from the ideal node, for a page to move there.",
        minimum=0,
    )
    room: Literal["available", "free"] = option(
        default="available",
        help="Which pages may be taken for it there: those of any allocation, or none that holds anything.",
    )

    @hookimpl
    def standby_node(self, thread: Thread, extent: Extent) -> int | None:
        machine = thread.machine
        ideal = machine.tables.node_of[thread.ideal]
        if ideal == extent.node:
            return None
        row = machine.tables.latency[ideal]
        if row[extent.node] - row[ideal] < self.minimum_benefit:
            return None
        node = machine.memory.nodes[ideal]
        return ideal if (node.empty if self.room == "free" else node.available) else None
