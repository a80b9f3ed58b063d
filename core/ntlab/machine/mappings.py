"""File-mapping objects: pages that several processes share through views, and what says where they shall lie.

An object's pages are those of one region, in an address space and a working set of the object's own. They are
backed by a file, or else by the paging file. A view is a region of a process that shows some of them: whoever
touches a page first brings it in, for all. Object and view may each prefer a node, as a plain region may.

    shared = yield CreateMapping(256, node=2)
    view = yield MapView(shared, first=16, pages=64, node=1)
    yield Touch(view, write=True)
    yield UnmapView(view)
    shared.close()
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ntlab.errors import SimulationError, UserError
from ntlab.machine.memory import Memory
from ntlab.machine.spaces import AddressSpace, Region, WorkingSet
from ntlab.machine.threads import Process, Request, Thread

if TYPE_CHECKING:
    from ntlab.machine.io import File


class MappingObject:
    """A file-mapping object of so many pages: `region` holds them, `node` is the node that it prefers.

    Made by `CreateMapping`. `views` are those that there are.
    """

    __slots__ = ("node", "region", "views")

    def __init__(self, region: Region, node: int | None) -> None:
        self.region = region
        self.node = node
        self.views: list[View] = []

    def __repr__(self) -> str:
        return f"<MappingObject {self.region.space.name!r}: {self.region.pages} pages>"

    def close(self) -> None:
        """Give the pages back. There must be no view any more."""
        if self.views:
            raise SimulationError(f"{self!r} is closed while it has {len(self.views)} views")
        space = self.region.space
        memory = space.memory
        space.release(self.region)
        memory.working_sets.remove(space.working_set)
        memory.mapping_objects.remove(self)
        del memory.spaces[space.id]


class View(Region):
    """Pages of a file-mapping object as a process sees them; `node` is the node that the view prefers."""

    __slots__ = ("mapping", "process")

    def __init__(
        self, mapping: MappingObject, process: Process, first: int, pages: int, node: int | None
    ) -> None:
        whole = mapping.region
        super().__init__(whole.space, whole.first + first, pages, 0, whole.backing, node)
        self.mapping = mapping
        self.process = process

    @property
    def owner(self) -> Region:
        return self.mapping.region


def create_mapping(
    memory: Memory, process: Process, of: int | File, node: int | None = None
) -> MappingObject | None:
    """An object of a file, or of so many pages of the paging file. None where the commit limit forbids it."""
    node = memory.preferred(node)
    # Processes have multiples of four, the kernel's sections one more, and mappings two more.
    identity = 4 * memory.mappings + 2
    name = f"mapping {memory.mappings} of {process.name}"
    policy = memory.policy
    working_set = WorkingSet(process, name, policy.working_set_minimum, policy.working_set_maximum)
    space = AddressSpace(memory, process, identity, name, working_set)
    region = space.allocate(of) if isinstance(of, int) else memory.machine.file_cache.map(space, of)
    if region is None:
        return None
    memory.mappings += 1
    memory.working_sets.append(working_set)
    memory.spaces[identity] = space
    mapping = MappingObject(region, node)
    memory.mapping_objects.append(mapping)
    return mapping


class CreateMapping(Request):
    """Create a file-mapping object of a file, or of so many pages of the paging file.

    The program receives the `MappingObject`, or None where the commit limit forbids it. Takes no time and no
    physical page.
    """

    __slots__ = ("node", "of")

    def __init__(self, of: int | File, node: int | None = None) -> None:
        self.of = of
        self.node = node

    def perform(self, thread: Thread) -> int | None:
        thread.result = create_mapping(thread.machine.memory, thread.process, self.of, self.node)
        return 0


class MapView(Request):
    """Map `pages` pages of an object from its page `first` on (default: the rest), which must be a multiple
    of the allocation granularity. The program receives the `View`."""

    __slots__ = ("first", "mapping", "node", "pages")

    def __init__(
        self, mapping: MappingObject, first: int = 0, pages: int | None = None, node: int | None = None
    ) -> None:
        whole = mapping.region
        if pages is None:
            pages = whole.pages - first
        grain = whole.space.memory.granularity
        if first % grain:
            raise UserError(f"a view from page {first} on", expected=f"a multiple of {grain} pages, 64 KB")
        if first < 0 or pages <= 0 or first + pages > whole.pages:
            raise UserError(
                f"a view of pages {first}..{first + pages}", expected=f"some of the object's {whole.pages}"
            )
        self.mapping = mapping
        self.first = first
        self.pages = pages
        self.node = whole.space.memory.preferred(node)

    def perform(self, thread: Thread) -> int | None:
        view = View(self.mapping, thread.process, self.first, self.pages, self.node)
        self.mapping.views.append(view)
        thread.result = view
        return 0


class UnmapView(Request):
    """Take a view away. The object's pages stay."""

    __slots__ = ("view",)

    def __init__(self, view: View) -> None:
        self.view = view

    def perform(self, thread: Thread) -> int | None:
        if self.view not in self.view.mapping.views:
            raise SimulationError(f"{self.view!r} is unmapped twice")
        self.view.mapping.views.remove(self.view)
        return 0
