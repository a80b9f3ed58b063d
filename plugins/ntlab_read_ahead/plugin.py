"""How Server 2008 reads files and the paging file."""

from __future__ import annotations

from typing import Any

from ntlab.hooks import hookimpl
from ntlab.hooks.file_cache import ReadAheadTarget
from ntlab.machine import FileMapping, IoRequest, Machine, OpenFile, Paging
from ntlab.machine.paging import whole_pages
from ntlab.plugin import option, plugin
from ntlab.quantities import KIB, MIB, Size
from ntlab_read_ahead.workloads import Rereader, Searcher, Streams


def _power_of_two(instance: object, field: Any, value: int) -> None:
    if value & (value - 1):
        raise ValueError(f"{field.name} must be a power of two, not {value}")


@plugin(
    name="read_ahead",
    summary="Larger reads, and read-ahead onto the standby list.",
    release="ws2008",
    ledger=("M1", "M2"),
    requires=("ws2003",),
    before=("paging_writes",),  # which answers for reads of the paging file, too
    workloads=(Searcher, Rereader, Streams),
    neutral={  # what Server 2003 does
        "size": "64 KiB",
        "target": "working_set",
        "io_limit_size": "64 KiB",
        "cluster": "64 KiB",
        "dummy": False,
    },
)
class ReadAhead:
    """Each part of the feature is an option of its own. Source: S0 (M1, M2); memory facts, section 2."""

    size: Size = option(
        default=Size(128 * KIB),
        help="How much is read ahead of a sequential reader, a power of two; twice that if announced.",
        minimum=4 * KIB,
        maximum=16 * MIB,
        validator=_power_of_two,
    )
    target: ReadAheadTarget = option(
        default="standby",
        help="Where it goes: onto the standby list, or through views into the system's working set.",
    )
    io_limit_size: Size = option(
        default=Size(MIB),
        help="Most bytes that the I/O system hands to a device in one read of memory management.",
        minimum=4 * KIB,
    )
    cluster: Size = option(
        default=Size(MIB),
        help="Most that is read at a fault, on a mapped file or on a page that is in the paging file.",
        minimum=4 * KIB,
        maximum=16 * MIB,
    )
    dummy: bool = option(
        default=True,
        help="Whether a read goes over pages that are in memory already, into a dummy page.",
    )

    @hookimpl
    def read_ahead_size(self, file: OpenFile) -> int:
        pages = whole_pages(file.machine, self.size, "read_ahead.size")
        return pages * 2 if file.access == "sequential" else pages

    @hookimpl
    def read_ahead_target(self) -> ReadAheadTarget:
        return self.target

    @hookimpl
    def io_limit(self, request: IoRequest) -> int | None:
        return self.io_limit_size if request.operation == "read" else None

    @hookimpl
    def fault_cluster(self, mapping: FileMapping) -> int:
        return self._cluster(mapping.cache.machine)

    @hookimpl
    def read_cluster(self, paging: Paging) -> int:
        return self._cluster(paging.machine)

    def _cluster(self, machine: Machine) -> int:
        return whole_pages(machine, self.cluster, "read_ahead.cluster")

    @hookimpl
    def dummy_page(self) -> bool:
        return self.dummy
