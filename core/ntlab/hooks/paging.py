"""What paging asks: when modified pages are written, which go together, where to, and how much is read back.

Pages are integers (`ntlab.machine.paging`): the next virtual page of an address space is one more. Slots are
page-sized places in the paging file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ntlab.hooks.markers import hookspec

if TYPE_CHECKING:
    from ntlab.machine.paging import Paging
    from ntlab.machine.policy import PagingPolicy


@hookspec(firstresult=True)
def paging_policy(machine: object) -> PagingPolicy | None:
    """The fixed rules of paging: the file and the writer's thresholds. Asked once at boot.

    None everywhere: there is no paging file. 2003: one, with the thresholds of the books.
    """


@hookspec(firstresult=True)
def write_cluster_limit(machine: object) -> int | None:
    """The most pages that one paging write may hold, at least 1. Asked once at boot.

    2003: 16, since the I/O system splits at 64 KB. None everywhere: 16.
    """


@hookspec(firstresult=True)
def write_cluster(paging: Paging, head: int, limit: int) -> Sequence[int] | None:
    """Which pages go out together with `head`, the oldest of the modified list.

    Up to `limit`, head among them, all on the modified list, none twice. They go into the file in the order
    given. 2003 (and None everywhere): the first `limit` of the list, in list order.
    """


@hookspec(firstresult=True)
def place_cluster(paging: Paging, pages: Sequence[int]) -> tuple[int, int] | None:
    """Where in the file the pages go: (first slot, how many of them fit), in one free run.

    The rest stay on the list. 2003 (and None everywhere): the first free run that fits all; if none does,
    the longest there is, for as many as it holds.
    """


@hookspec(firstresult=True)
def read_cluster(paging: Paging, page: int) -> int | None:
    """The most pages that may be read with a faulting page, itself included; at least 1.

    Read are only neighbours in the address space that are neighbours in the file too. 2003: 16, since the
    I/O system splits at 64 KB. None everywhere: 1.
    """
