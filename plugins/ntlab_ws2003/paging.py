"""How Windows Server 2003 pages: when its writer works, in what pieces it writes and reads."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from ntlab.hooks import hookimpl
from ntlab.machine import Machine, Paging, PagingPolicy
from ntlab.machine.paging import whole_pages
from ntlab.plugin import option
from ntlab.quantities import GIB, KIB, Share, Size


@attrs.define(slots=False, eq=False)
class PageWriting:
    """The policies of paging. Source of the mechanisms: memory facts, section 1; the thresholds are those of
    books on its successors."""

    paging_file: Size = option(default=Size(GIB), help="Size of the paging file; 0 for none.", minimum=0)
    paging_file_fragmentation: Share = option(
        default=Share(0.0), help="Share of the paging file that others have in use, at random places."
    )
    paging_write: Size = option(
        default=Size(64 * KIB),
        help="Largest write to the paging file: the I/O system's limit.",
        minimum=4 * KIB,
    )
    paging_read: Size = option(
        default=Size(64 * KIB),
        help="Largest read from the paging file: the I/O system's limit.",
        minimum=4 * KIB,
    )
    paging_gather: Size = option(
        default=Size(0),
        help="How far around the oldest modified page, in its process, others are looked for to go with it; "
        "0 takes the modified list in order. What 2003 did is not known for certain.",
        minimum=0,
    )
    writer_low_free: int = option(
        default=20_000,
        help="The writer works when fewer pages are free or zeroed and many are modified.",
        minimum=0,
    )
    writer_high_modified: int = option(
        default=16_384, help="How many pages are many: that, or a sixteenth of those available.", minimum=0
    )
    writer_low_available: int = option(
        default=15_000, help="The writer works when fewer pages than that are available.", minimum=0
    )

    @hookimpl
    def paging_policy(self, machine: Machine) -> PagingPolicy:
        whole_pages(machine, self.paging_gather, "ws2003.paging_gather")
        whole_pages(machine, self.paging_read, "ws2003.paging_read")
        return PagingPolicy(
            file_size=self.paging_file,
            initial_fragmentation=self.paging_file_fragmentation,
            low_free=self.writer_low_free,
            high_modified=self.writer_high_modified,
            low_available=self.writer_low_available,
        )

    @hookimpl
    def write_cluster_limit(self, machine: Machine) -> int:
        return whole_pages(machine, self.paging_write, "ws2003.paging_write")

    @hookimpl
    def write_cluster(self, paging: Paging, head: int, limit: int) -> Sequence[int] | None:
        window = self.paging_gather // paging.page_size
        return paging.around(head, window, limit) if window else None

    @hookimpl
    def read_cluster(self, paging: Paging) -> int:
        return self.paging_read // paging.page_size
