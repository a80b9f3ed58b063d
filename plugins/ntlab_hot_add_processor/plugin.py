"""Windows Server 2008 takes processors that are added while it runs, and gives them to who asked."""

from __future__ import annotations

from typing import Literal

from ntlab.hooks import hookimpl
from ntlab.machine import Machine
from ntlab.plugin import option, plugin
from ntlab_hot_add_processor.workloads import Queues

LIMITS = {"ws2003": 64, "ws2008": 64, "ws2008r2": 256}
"""Processors that each release runs with, in its 64-bit editions."""


@plugin(
    name="hot_add_processor",
    summary="Processors that are added while the machine runs go to the software that asked to be told.",
    release="ws2008",
    ledger=("D3",),
    before=("hot_replace",),  # each answers for operations of its own
    workloads=(Queues,),
    neutral={"edition": "enterprise"},
)
class HotAddProcessor:
    """The protocol is the core's (`ntlab.machine.partitioning`); which kernel takes part, and who gets the
    processor, is decided here."""

    edition: Literal["standard", "enterprise", "datacenter"] = option(
        default="datacenter", help="Which edition is installed; only Datacenter takes processors."
    )
    given_to: Literal["registered", "everyone", "nobody"] = option(
        default="registered",
        help="Which processes get a new processor in their affinity: those that asked to be told, or all.",
    )
    limit: int = option(
        default=0,
        help="With how many processors the kernel runs; 0: 64, or 256 of 2008 R2.",
        minimum=0,
    )

    @hookimpl
    def partition_support(self, machine: Machine, operation: str) -> bool | None:
        able = self.edition == "datacenter" and machine.architecture != "x86"
        return True if operation == "add processor" and able else None

    @hookimpl
    def processor_limit(self, machine: Machine) -> int | None:
        return (self.limit or LIMITS[machine.release]) if self.edition == "datacenter" else None

    @hookimpl
    def gets_processor(self, registered: bool) -> bool:
        return self.given_to == "everyone" or (self.given_to == "registered" and registered)
