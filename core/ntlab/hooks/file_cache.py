"""What the file cache asks: how far reads run ahead and where to, and how much a fault on a file reads.

Sizes are in pages of the machine's page size. `file` is an `OpenFile`, which has what its user has read so
far; `mapping` a `FileMapping`, a file's pages in one address space; `region` the pages of a file or of the
paging file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ntlab.hooks.markers import expects, hookspec

if TYPE_CHECKING:
    from ntlab.machine.file_cache import FileMapping, OpenFile
    from ntlab.machine.machine import Machine
    from ntlab.machine.policy import CachePolicy
    from ntlab.machine.spaces import Region

ReadAheadTarget = Literal["working_set", "standby"]
"""Where read-ahead puts its pages: through views into the system cache's working set, or on the standby list.
"""


@hookspec(firstresult=True)
def cache_policy(machine: Machine) -> CachePolicy | None:
    """The fixed rules of the file cache: its views, and when reads count as sequential.

    Asked once, when the first file is opened or mapped. 2003: its options. None everywhere: `CachePolicy()`.
    """


@hookspec(firstresult=True)
@expects("pages, 0 or more", lambda answer: answer >= 0)
def read_ahead_size(file: OpenFile) -> int | None:
    """How many pages the next read-ahead of a file takes; 0 for none.

    Asked when its user reads sequentially and has come to where the last read-ahead began. What would lie
    beyond the file's end is not read. 2003: 64 KiB, twice that for a file that was opened for sequential
    reading. None everywhere: no read-ahead.
    """


@hookspec(firstresult=True)
def read_ahead_target(file: OpenFile) -> ReadAheadTarget | None:
    """Where the pages go that a read-ahead is about to read.

    Asked after `read_ahead_size`. "working_set" maps views of the file for them, so there is no more
    read-ahead than there are views; a page that is used later needs no fault. "standby" takes neither views
    nor room in the working set; a page that is used later enters it by a soft fault. 2003, and None
    everywhere: "working_set".
    """


@hookspec(firstresult=True)
@expects("pages, 1 or more", lambda answer: answer >= 1)
def fault_cluster(mapping: FileMapping, page: int) -> int | None:
    """The most pages that are read at a fault on a page of a mapped file: it, and those that follow.

    Asked at each hard fault on a file that a process has mapped; a cached read reads what it was asked for.
    2003: 16. None everywhere: 1.
    """


@hookspec(firstresult=True)
def dummy_page(region: Region) -> bool | None:
    """Whether one read may go over pages that are in memory already, to missing ones behind them.

    Asked at each fault on a page that is in the paging file, and at a fault on a file's page or a read-ahead
    that finds such pages. What is read for them goes to one page of the system that nobody looks at. 2003,
    and None everywhere: no, the read ends before them.
    """
