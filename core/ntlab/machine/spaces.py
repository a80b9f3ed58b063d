"""Address spaces: regions of virtual memory, the extents that hold some of their pages, and working sets.

A process has an address space and a working set of its own; those of the kernel are in
`ntlab.machine.sections`. Where pages come from, and what becomes of them, is `ntlab.machine.memory`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ntlab.engine import FOREVER
from ntlab.errors import SimulationError, UserError
from ntlab.machine.extents import ACTIVE, TRANSITION, Extent, PageList
from ntlab.machine.ordered import Ordered

if TYPE_CHECKING:
    from ntlab.machine.memory import Memory
    from ntlab.machine.threads import Process, Thread


class Backing(Protocol):
    """Where a region's pages are when they are not in memory. Pages are virtual page numbers of its space."""

    def held(self, region: Region, page: int, stop: int) -> tuple[int, int] | None:
        """The first run of pages in page..stop that is stored, as (first, stop), or None."""

    def read(self, thread: Thread, region: Region, page: int, stop: int) -> bool:
        """Begin to read stored pages from `page` on, by `memory.begin_read`, which must include `page`.

        `memory.end_read` or `fail_read` follows later, never within this call. May read fewer or more than
        asked for.
        False if there is no memory to read into.
        """

    def changed(self, region: Region, page: int, stop: int) -> None:
        """These pages are being written to, or released: what is stored of them is of no use any more."""


class Region:
    """A range of an address space: `pages` virtual pages from `first` on.

    `backing` is where they are when not in memory (None: nowhere, a fault gives zeroes). `node` is the node
    its creator prefers, None for no preference; it is for plugins to heed. `charge` is how many pages count
    as committed: all, or none where a file holds them.
    """

    __slots__ = ("backing", "charge", "first", "node", "pages", "space")

    def __init__(
        self,
        space: AddressSpace,
        first: int,
        pages: int,
        charge: int,
        backing: Backing | None,
        node: int | None,
    ) -> None:
        self.space = space
        self.first = first
        self.pages = pages
        self.charge = charge
        self.backing = backing
        self.node = node

    def __repr__(self) -> str:
        return f"<Region pages {self.first}..{self.first + self.pages} of {self.space.name}>"

    @property
    def owner(self) -> Region:
        """The region whose pages these are: itself, unless it is a view of another."""
        return self

    @property
    def stop(self) -> int:
        """The virtual page after the last."""
        return self.first + self.pages

    def extents(self) -> list[Extent]:
        """What of it is in memory, by virtual page."""
        return self.space.extents(self.first, self.stop)

    def pages_by_node(self) -> dict[int, int]:
        """How many of its pages are in each node's memory."""
        counts: dict[int, int] = {}
        for extent in self.extents():
            counts[extent.node] = counts.get(extent.node, 0) + extent.pages
        return counts


class WorkingSet(PageList):
    """The active pages of one address space, or of several that share it, in the order in which they came in.

    `minimum` and `maximum` are pages, and for those to heed who trim. If it is `hard`, it gives up its
    oldest pages for those that come when it is at its maximum; what came in one piece that is too large
    goes at the end of the event. `trimmed` counts the pages that it ever gave up. `kernel` says that it
    is one of the kernel's; `owner` is its process, the system process then.

    Pages that are never trimmed are in one that is not `pageable`.
    """

    __slots__ = (
        "_fitting", "hard", "kernel", "maximum", "minimum", "name", "owner", "pageable", "trimmed",
    )  # fmt: skip

    def __init__(
        self,
        owner: Process,
        name: str,
        minimum: int,
        maximum: int,
        *,
        hard: bool = False,
        kernel: bool = False,
        pageable: bool = True,
    ) -> None:
        super().__init__()
        if not 0 <= minimum <= maximum:
            raise UserError(
                f"the working set {name!r} of at least {minimum} and at most {maximum} pages",
                expected="a maximum that is not below the minimum",
            )
        self.owner = owner
        self.name = name
        self.minimum = minimum
        self.maximum = maximum
        self.hard = hard
        self.kernel = kernel
        self.pageable = pageable
        self.trimmed = 0
        self._fitting = False  # it is going to be trimmed to its maximum

    def __repr__(self) -> str:
        return f"<WorkingSet {self.name!r}: {self.pages} pages>"


class AddressSpace:
    """Virtual memory of a process, or a section of the kernel's: its regions, and the extents that hold some
    of their pages.

    `working_set` lists the active ones. `id` is the process's, or a number that no process has. `faults` and
    `trimmed` count pages that came in and that went. Made by `memory.space(process)` and
    `machine.sections.space(name)`.
    """

    __slots__ = (
        "_extents",
        "_next",
        "committed",
        "faults",
        "id",
        "memory",
        "name",
        "process",
        "regions",
        "trimmed",
        "working_set",
    )

    def __init__(
        self, memory: Memory, process: Process, identity: int, name: str, working_set: WorkingSet
    ) -> None:
        self.memory = memory
        self.process = process
        self.id = identity
        self.name = name
        self.regions: list[Region] = []
        self.committed = 0
        self.faults = 0
        self.trimmed = 0
        self.working_set = working_set
        self._extents: Ordered[Extent] = Ordered()  # by their first virtual pages
        self._next = memory.granularity

    def allocate(
        self,
        pages: int,
        *,
        backing: Backing | None = None,
        node: int | None = None,
        committed: bool = True,
    ) -> Region | None:
        """Reserve and commit a region. None if the commit limit would be passed. Takes no physical page.

        With `committed` false its backing is a file, which holds its pages as they are: there is no charge.
        """
        if pages <= 0:
            raise SimulationError(f"a region of {pages} pages")
        memory = self.memory
        node = memory.preferred(node)
        charge = pages if committed else 0
        if memory.committed + charge > memory.commit_limit:
            return None
        memory.committed += charge
        self.committed += charge
        if backing is None:
            backing = memory.backing
        region = Region(self, self._next, pages, charge, backing, node)
        grain = memory.granularity
        self._next = -(-(self._next + pages) // grain) * grain
        self.regions.append(region)
        return region

    def release(self, region: Region) -> None:
        """Give a region back: its pages become free, its commit charge ends."""
        memory = self.memory
        self.regions.remove(region)
        for extent in region.extents():
            if extent.state == TRANSITION and extent.transfer is not None and not extent.transfer.writing:
                raise SimulationError(f"{region!r} is released while it is being read")
            memory.discard(extent)
            memory.free_frames(extent.node, extent.frame, extent.pages)
        if region.backing is not None:
            region.backing.changed(region, region.first, region.stop)
        memory.committed -= region.charge
        self.committed -= region.charge
        memory.more_available()

    def extents(self, page: int, stop: int) -> list[Extent]:
        """The extents that hold any of the virtual pages page..stop, in order."""
        found = self._extents.between(page, stop)
        if found and found[0].page + found[0].pages <= page:
            del found[0]
        return found

    def missing(self, page: int, stop: int) -> list[range]:
        """The runs of the virtual pages page..stop that are not in memory."""
        runs = []
        while page < stop:
            extent, end = self.at(page)
            if extent is None:
                runs.append(range(page, min(end, stop)))
            page = end
        return runs

    def at(self, page: int) -> tuple[Extent | None, int]:
        """The extent that holds a virtual page, and the page where it ends; or None and the page where the
        next extent begins."""
        extent, following = self._extents.around(page)
        if extent is not None:
            end = extent.page + extent.pages
            if page < end:
                return extent, end
        return None, following if following is not None else FOREVER

    def region_at(self, page: int) -> Region | None:
        """The region that holds a virtual page; None where there is none."""
        return next((each for each in self.regions if each.first <= page < each.stop), None)

    @property
    def resident(self) -> int:
        """Its pages that are active: its part of the working set."""
        return sum(extent.pages for _, extent in self._extents if extent.state == ACTIVE)

    def add(self, extent: Extent) -> None:
        """An extent holds pages of this space from now on. For `Memory`."""
        self._extents.add(extent.page, extent)

    def remove(self, extent: Extent) -> None:
        """It no longer does. For `Memory`."""
        self._extents.remove(extent.page)
