"""Windows Server 2003 takes memory that is added while it runs, in the editions that are sold for it."""

from __future__ import annotations

from typing import Literal

from ntlab.hooks import hookimpl
from ntlab.plugin import option, plugin
from ntlab_hot_add_memory.workloads import Outgrown


@plugin(
    name="hot_add_memory",
    summary="Memory that is added while the machine runs is used as it is added.",
    release="ws2003",
    ledger=("D1",),
    workloads=(Outgrown,),
    neutral={"edition": "standard"},
)
class HotAddMemory:
    """The kernel's answer to one question. What is done then, memory management does."""

    edition: Literal["standard", "enterprise", "datacenter"] = option(
        default="enterprise", help="Which edition is installed; the standard one takes no memory."
    )

    @hookimpl
    def partition_support(self, operation: str) -> bool | None:
        return True if operation == "add memory" and self.edition != "standard" else None
