"""Which node non-paged pool and page-table pages come from, since Server 2008."""

from __future__ import annotations

from typing import Literal

from ntlab.hooks import hookimpl
from ntlab.machine import Machine, Processor, Thread
from ntlab.plugin import option, plugin
from ntlab_numa_pool.workloads import Buffers, Mappings


@plugin(
    name="numa_pool",
    summary="Non-paged pool and new pages of system PTEs come from the node where they are asked for.",
    release="ws2008",
    ledger=("N2", "N3"),
    workloads=(Buffers, Mappings),
    neutral={"pool": "one", "page_tables": "any"},
)
class NumaPool:
    """One rule for two kinds of memory, which can be had one at a time. Source: S0 (N2, N3)."""

    pool: Literal["per_node", "one"] = option(
        default="per_node",
        help="Whether the non-paged pool is divided among the nodes, or one as in the baseline.",
    )
    page_tables: Literal["originating", "any"] = option(
        default="originating",
        help="Where a new page of system PTEs comes from: the node that asks, or as the baseline does.",
    )
    origin: Literal["processor", "ideal"] = option(
        default="processor",
        help="Which node asks: the processor's, or the ideal one of the thread that runs there, if any.",
    )

    @hookimpl
    def pool_node(self, machine: Machine, processor: Processor, thread: Thread | None) -> int | None:
        return self._origin(machine, processor, thread) if self.pool == "per_node" else None

    @hookimpl
    def kernel_page_node(
        self, machine: Machine, processor: Processor, thread: Thread | None, use: str
    ) -> int | None:
        if use != "page table" or self.page_tables == "any":
            return None
        return self._origin(machine, processor, thread)

    def _origin(self, machine: Machine, processor: Processor, thread: Thread | None) -> int:
        if self.origin == "processor" or thread is None:
            return processor.node
        return machine.tables.node_of[thread.ideal]
