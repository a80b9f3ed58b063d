"""What paging asks: when modified pages are written, which go together, where to, and how much is read back.

Pages are integers (`ntlab.machine.paging`): the next virtual page of an address space is one more. Slots are
page-sized places in the paging file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ntlab.hooks.markers import expects, hookspec

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine
    from ntlab.machine.paging import Paging
    from ntlab.machine.policy import PagingPolicy


def _a_cluster(answer: Sequence[int], paging: Paging, head: int, limit: int) -> bool:
    pages = set(answer)
    return head in pages and len(pages) == len(answer) <= limit and pages.issubset(paging.modified())


def _free_slots(answer: tuple[int, int], paging: Paging, pages: Sequence[int]) -> bool:
    first, count = answer
    slots = range(first, first + count)
    return (
        0 <= count <= len(pages)
        and (not slots or (first >= 0 and slots.stop <= paging.file.size))
        and not any(slot in paging.file.owner_of for slot in slots)
    )


@hookspec(firstresult=True)
def paging_policy(machine: Machine) -> PagingPolicy | None:
    """The fixed rules of paging: the file and the writer's thresholds.

    Asked once, while the machine is put together: it has its memory. 2003: a file of 1 GiB, with the
    thresholds of the books. None everywhere: there is no paging file, and nothing else here is asked.
    """


@hookspec(firstresult=True)
@expects("pages, 1 or more", lambda answer: answer >= 1)
def write_cluster_limit(machine: Machine) -> int | None:
    """The most pages that one paging write may hold, 1 and more, and no more than the file has.

    Asked once, after `paging_policy`. 2003: 64 KiB, since the I/O system splits there: 16 pages. None
    everywhere: 16.
    """


@hookspec(firstresult=True)
@expects("`head` and other pages of the modified list, up to `limit`, none twice", _a_cluster)
def write_cluster(paging: Paging, head: int, limit: int) -> Sequence[int] | None:
    """Which pages go out together with `head`, the oldest of the modified list.

    Asked before each paging write. Up to `limit` pages, head among them, all on the modified list, none
    twice; they go into the file in the order given. None everywhere, as in 2003: the first `limit` of the
    list, in list order.
    """


@hookspec(firstresult=True)
@expects("free slots that follow on each other, no more than there are pages", _free_slots)
def place_cluster(paging: Paging, pages: Sequence[int]) -> tuple[int, int] | None:
    """Where in the file the pages go: the first slot, and how many of them go there, in one free run.

    Asked after `write_cluster`. The rest stay on the list. None everywhere, as in 2003: the first free run
    that fits all; if none does, the longest there is, for as many as it holds.
    """


@hookspec(firstresult=True)
@expects("pages, 1 or more", lambda answer: answer >= 1)
def read_cluster(paging: Paging, page: int) -> int | None:
    """The most pages that may be read with a faulting page, itself included; 1 and more.

    Asked at each fault on a page that is in the file only. Read are only neighbours in the address space that
    are neighbours in the file too. 2003: 64 KiB, since the I/O system splits there: 16 pages. None
    everywhere: 1.
    """
