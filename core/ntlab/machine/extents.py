"""Extents: pages that are alike, in runs, and the lists that they are on.

An extent is a run of pages that are consecutive both in physical memory and in one address space, and alike
in all that is known of them. It is split where that ends to be so. Frames that hold nothing are not even
extents, but runs of numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ntlab.machine.spaces import Region
    from ntlab.machine.threads import Thread

ZEROED, FREE, STANDBY, MODIFIED, MODIFIED_NO_WRITE, BAD, ACTIVE, TRANSITION = range(8)
"""Page states by Windows' numbers. Transition here is "an I/O is under way"; none is ever
ModifiedNoWrite."""
STATES = 8
STATE_NAMES = ("Zeroed", "Free", "Standby", "Modified", "ModifiedNoWrite", "Bad", "Active", "Transition")
PRIORITIES = 8
NORMAL_PRIORITY = 5


class Extent:
    """A run of pages: `pages` of them from physical frame `frame` and virtual page `page` of a region's
    address space.

    `list` is the list that it is on, if any; `transfer` the I/O that it takes part in, if any.
    """

    __slots__ = (
        "accessed",
        "age",
        "dirty",
        "frame",
        "list",
        "next",
        "node",
        "page",
        "pages",
        "previous",
        "priority",
        "region",
        "state",
        "transfer",
    )

    def __init__(self, region: Region, page: int, pages: int, node: int, frame: int, state: int) -> None:
        self.region = region
        self.page = page
        self.pages = pages
        self.node = node
        self.frame = frame
        self.state = state
        self.priority = NORMAL_PRIORITY
        self.age = 0
        self.accessed = False
        self.dirty = False
        self.list: PageList | None = None
        self.previous: Extent | None = None
        self.next: Extent | None = None
        self.transfer: Transfer | None = None

    def __repr__(self) -> str:
        where = f"page {self.page} frame {self.frame} +{self.pages}"
        return f"<Extent {where} node {self.node} state {self.state}>"


class PageList:
    """Extents in order, oldest first; linked, so that one can leave from anywhere. `pages` is their total."""

    __slots__ = ("head", "pages", "tail")

    def __init__(self) -> None:
        self.head: Extent | None = None
        self.tail: Extent | None = None
        self.pages = 0

    def append(self, extent: Extent) -> None:
        """Put an extent that is on no list at the tail."""
        tail = self.tail
        extent.list = self
        extent.previous = tail
        extent.next = None
        if tail is None:
            self.head = extent
        else:
            tail.next = extent
        self.tail = extent
        self.pages += extent.pages

    def remove(self, extent: Extent) -> None:
        """Take out an extent that is here."""
        before, after = extent.previous, extent.next
        if before is None:
            self.head = after
        else:
            before.next = after
        if after is None:
            self.tail = before
        else:
            after.previous = before
        extent.list = extent.previous = extent.next = None
        self.pages -= extent.pages

    def split(self, extent: Extent, rest: Extent) -> None:
        """Put `rest`, cut off from an extent that is here, right behind it. The total stays."""
        after = extent.next
        rest.list = self
        rest.previous = extent
        rest.next = after
        extent.next = rest
        if after is None:
            self.tail = rest
        else:
            after.previous = rest

    def __iter__(self) -> Iterator[Extent]:
        """The extents, oldest first. Removing the one at hand, or splitting it, is allowed meanwhile."""
        extent = self.head
        while extent is not None:
            following = extent.next
            yield extent
            extent = following


class FreeRuns:
    """Runs of frames that hold nothing. Neighbours are merged; the run freed last is taken first."""

    __slots__ = ("_ends", "_runs")

    def __init__(self) -> None:
        self._runs: dict[int, int] = {}  # first frame -> pages
        self._ends: dict[int, int] = {}  # frame after the last -> first frame

    def add(self, frame: int, pages: int) -> None:
        """Frames become free."""
        end = frame + pages
        before = self._ends.pop(frame, None)
        if before is not None:
            del self._runs[before]
            frame = before
        after = self._runs.pop(end, None)
        if after is not None:
            end += after
        self._runs[frame] = end - frame
        self._ends[end] = frame

    def take(self, pages: int) -> tuple[int, int]:
        """Take up to `pages` frames of one run: (first frame, how many). There must be a run."""
        frame, size = self._runs.popitem()
        if size > pages:
            self._runs[frame + pages] = size - pages
            self._ends[frame + size] = frame + pages
            return frame, pages
        del self._ends[frame + size]
        return frame, size

    def cut(self, frame: int) -> bool:
        """Take out that frame. False if it is not here."""
        for first, pages in self._runs.items():
            if first <= frame < first + pages:
                break
        else:
            return False
        del self._ends[first + pages]
        del self._runs[first]
        if frame > first:
            self.add(first, frame - first)
        if frame + 1 < first + pages:
            self.add(frame + 1, first + pages - frame - 1)
        return True

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The runs as (first frame, pages)."""
        return iter(self._runs.items())


class NodeMemory:
    """The memory of one node: `installed` pages, in `ranges` of frames (first, stop); `pages[state]` of each
    state. `bad` frames are in nobody's use any more."""

    __slots__ = ("bad", "free", "index", "installed", "pages", "ranges", "standby", "zeroed")

    def __init__(self, index: int, first: int, installed: int) -> None:
        self.index = index
        self.ranges = [(first, first + installed)] if installed else []
        self.installed = installed
        self.bad = FreeRuns()
        self.pages = [0] * STATES
        self.zeroed = FreeRuns()
        self.free = FreeRuns()
        self.standby = [PageList() for _ in range(PRIORITIES)]
        if installed:
            self.zeroed.add(first, installed)
            self.pages[ZEROED] = installed

    @property
    def empty(self) -> int:
        """Pages that hold nothing: zeroed and free."""
        return self.pages[ZEROED] + self.pages[FREE]

    @property
    def available(self) -> int:
        """Pages that can be given away at once: zeroed, free and standby."""
        pages = self.pages
        return pages[ZEROED] + pages[FREE] + pages[STANDBY]

    def add(self, first: int, pages: int) -> None:
        """Install more pages, from frame `first` on. Nobody has zeroed them."""
        self.installed += pages
        self.free.add(first, pages)
        self.pages[FREE] += pages
        merged: list[tuple[int, int]] = []
        for start, stop in sorted([*self.ranges, (first, first + pages)]):
            if merged and merged[-1][1] == start:
                start, _ = merged.pop()
            merged.append((start, stop))
        self.ranges = merged


class Transfer:
    """An I/O between memory and a backing store. `extents` are the pages that still take part.

    Made by `memory.begin_read` and `begin_write`. A thread that needs a page of a read waits for it.
    """

    __slots__ = ("extents", "waiters", "writing")

    def __init__(self, writing: bool) -> None:
        self.writing = writing
        self.extents: list[Extent] = []
        self.waiters: list[Thread] = []
