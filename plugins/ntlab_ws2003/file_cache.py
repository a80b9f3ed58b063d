"""How Windows Server 2003 caches files: its views, and how far and where to it reads ahead."""

from __future__ import annotations

import attrs

from ntlab.hooks import hookimpl
from ntlab.hooks.file_cache import ReadAheadTarget
from ntlab.machine import CachePolicy, FileMapping, OpenFile
from ntlab.machine.paging import whole_pages
from ntlab.plugin import option
from ntlab.quantities import KIB, Size


@attrs.define(slots=False, eq=False)
class FileCaching:
    """The policies of the cache manager. Source of the mechanisms: memory facts, section 2."""

    cache_view: Size = option(
        default=Size(256 * KIB), help="Size of a view, in which cached files are mapped.", minimum=4 * KIB
    )
    cache_address_space: Size = option(
        default=Size(0), help="What all views together may take; 0 is no limit, as with 64 bits.", minimum=0
    )
    sequential_reads: int = option(
        default=3,
        help="So many reads, each from where the one before ended, are sequential.",
        minimum=1,
    )
    cache_read_ahead: Size = option(
        default=Size(64 * KIB),
        help="How much is read ahead of a sequential reader; twice that of one announced as such. 0: none.",
        minimum=0,
    )
    mapped_read: Size = option(
        default=Size(64 * KIB),
        help="Most that is read at a fault on a mapped file.",
        minimum=4 * KIB,
    )

    @hookimpl
    def cache_policy(self) -> CachePolicy:
        return CachePolicy(
            view_size=self.cache_view,
            address_space=self.cache_address_space,
            sequential_reads=self.sequential_reads,
        )

    @hookimpl
    def read_ahead_size(self, file: OpenFile) -> int:
        pages = whole_pages(file.machine, self.cache_read_ahead, "ws2003.cache_read_ahead")
        return pages * 2 if file.access == "sequential" else pages

    @hookimpl
    def read_ahead_target(self, file: OpenFile) -> ReadAheadTarget:
        return "working_set"

    @hookimpl
    def fault_cluster(self, mapping: FileMapping, page: int) -> int:
        return whole_pages(mapping.cache.machine, self.mapped_read, "ws2003.mapped_read")
