"""What must be true of memory between two events, whatever happened: for tests, and the mode "checked".

- Each frame is in one place: a free run, a frame out of use, or one extent. A node has as many pages of each
  state as it counts, and all together as many as are installed.
- Each extent is in its region, in its node, and on the list of its state; no other extent is on a list, and
  no list has lost its links.
- What is committed is what regions charge, and within the limit.
- Views show pages of file-mapping objects that there are.
- Whoever waits for a page waits.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ntlab.errors import SimulationError
from ntlab.machine.extents import (
    ACTIVE,
    BAD,
    FREE,
    MODIFIED,
    STANDBY,
    STATES,
    TRANSITION,
    ZEROED,
    PageList,
)
from ntlab.machine.threads import WAITING

if TYPE_CHECKING:
    from ntlab.machine.memory import Memory
    from ntlab.machine.spaces import AddressSpace


def check_memory(memory: Memory) -> None:
    """Compare all accounts of memory with each other. Raises SimulationError where they differ."""
    counts = [[0] * STATES for _ in memory.nodes]
    frames: list[tuple[int, int]] = []
    for node in memory.nodes:
        for state, runs in ((ZEROED, node.zeroed), (FREE, node.free), (BAD, node.bad)):
            for frame, pages in runs:
                if runs._ends.get(frame + pages) != frame or frame + pages in runs._runs:
                    raise _wrong(f"free frames {frame} to {frame + pages} touch others, or end elsewhere")
                counts[node.index][state] += pages
                frames.append((frame, pages))
    listed = 0
    for space in memory.spaces.values():
        _check_regions(space)
        listed += _check_extents(memory, space, counts, frames)
    for node in memory.nodes:
        if counts[node.index] != node.pages:
            raise _wrong(f"node {node.index} counts its pages wrong: {node.pages}, not {counts[node.index]}")
        if sum(node.pages) != node.installed:
            raise _wrong(f"node {node.index} has lost or made pages")
    _check_frames(memory, frames)
    _check_working_sets(memory)
    found = sum(map(_check_list, _lists(memory)))
    if found != listed:
        raise _wrong(f"{found} extents are on lists, of {listed} that should be: some are of no space")
    committed = sum(space.committed for space in memory.spaces.values())
    if not committed == memory.committed <= memory.commit_limit:
        raise _wrong(f"commit charge: {memory.committed}, not {committed}, of {memory.commit_limit}")
    for mapping in memory.mapping_objects:
        whole = mapping.region
        if memory.spaces.get(whole.space.id) is not whole.space or whole not in whole.space.regions:
            raise _wrong(f"{mapping!r} has lost its pages")
        for view in mapping.views:
            if view.mapping is not mapping or view.first < whole.first or view.stop > whole.stop:
                raise _wrong(f"{view!r} shows what {mapping!r} does not have")
    for thread in memory._waiters:
        if thread.state != WAITING and thread.apcs is None:
            raise _wrong(f"{thread!r} does not wait, though it waits for pages")
    if memory.ageing is not None:
        memory.ageing.check()


def _check_regions(space: AddressSpace) -> None:
    """An address space's regions are apart, and charge what it counts."""
    if space.committed != sum(region.charge for region in space.regions):
        raise _wrong(f"commit of a process: {space.name!r} has {space.committed} pages")
    page = 0
    for region in space.regions:  # in the order in which they were made, which is that of their addresses
        if region.first < page or region.space is not space:
            raise _wrong(f"{region!r} overlaps the one before it, or is of another space")
        page = region.stop


def _check_extents(
    memory: Memory, space: AddressSpace, counts: list[list[int]], frames: list[tuple[int, int]]
) -> int:
    """An address space's extents are in their regions, in their nodes, and where their states say.

    Counts their pages and notes their frames. Returns how many of them are on a list.
    """
    page = listed = 0
    regions = iter(space.regions)
    owner = next(regions, None)
    for start, extent in space._extents:
        pages = extent.pages
        if not start == extent.page >= page or pages <= 0:
            raise _wrong(f"{extent!r} overlaps the one before it")
        page = start + pages
        while owner is not None and owner.stop <= start:
            owner = next(regions, None)
        if owner is None or extent.region is not owner:
            raise _wrong(f"{extent!r} has a wrong owner")
        if start < owner.first or page > owner.stop:
            raise _wrong(f"{extent!r} leaves its region")
        node = memory.nodes[extent.node]
        frame = extent.frame
        for first, end in node.ranges:
            if first <= frame and frame + pages <= end:
                break
        else:
            raise _wrong(f"{extent!r} is not in its node's memory")
        state = extent.state
        wanted: PageList | None = None
        if state == ACTIVE:
            wanted = space.working_set
        elif state == STANDBY:
            wanted = node.standby[extent.priority]
            if extent.dirty:
                raise _wrong(f"{extent!r} is changed, and yet could be given away")
        elif state == MODIFIED:
            wanted = memory.modified
        elif state != TRANSITION:
            raise _wrong(f"{extent!r} is in a state in which pages hold nothing")
        if extent.list is not wanted:
            raise _wrong(f"{extent!r} is on a wrong list")
        transfer = extent.transfer
        if (transfer is not None and extent in transfer.extents) != (state == TRANSITION):
            raise _wrong(f"{extent!r} and its I/O differ")
        counts[node.index][state] += pages
        frames.append((frame, pages))
        listed += wanted is not None
    return listed


def _check_frames(memory: Memory, frames: list[tuple[int, int]]) -> None:
    """These runs are all the frames that there are, each once."""
    ranges = sorted(each for node in memory.nodes for each in node.ranges)
    if sum(stop - first for first, stop in ranges) != memory.installed:
        raise _wrong("frames are missing")
    end = stop = 0
    for frame, pages in sorted(frames):
        if end == stop and ranges:
            end, stop = ranges.pop(0)
        if frame != end:
            raise _wrong(f"frames {end} to {frame} are used twice or not accounted for")
        end = frame + pages
        if end > stop:
            raise _wrong(f"frames {frame} to {end} leave their node's memory")
    if end != stop or ranges:
        raise _wrong("frames are missing")


def _check_working_sets(memory: Memory) -> None:
    """All that may be trimmed are known as such, and none is above a hard maximum after an event."""
    used = {id(space.working_set): space.working_set for space in memory.spaces.values()}
    pageable = {key for key, working_set in used.items() if working_set.pageable}
    if pageable != {id(each) for each in memory.working_sets} or len(pageable) != len(memory.working_sets):
        raise _wrong("working sets that may be trimmed are not known, or not in use, or named twice")
    for each in memory.working_sets:
        if each.hard and each.pages > each.maximum and not each._fitting:
            raise _wrong(f"{each!r} is above its hard maximum")


def _lists(memory: Memory) -> Iterable[PageList]:
    yield memory.modified
    for node in memory.nodes:
        yield from node.standby
    yield from {id(space.working_set): space.working_set for space in memory.spaces.values()}.values()


def _check_list(each: PageList) -> int:
    """A list is linked to and fro, and counts its pages. Returns how many extents are on it."""
    pages = extents = 0
    before = None
    extent = each.head
    while extent is not None:
        if extent.list is not each or extent.previous is not before:
            raise _wrong(f"{extent!r} is on two lists, or on one and linked in another")
        pages += extent.pages
        extents += 1
        before, extent = extent, extent.next
    if each.tail is not before:
        raise _wrong("a list does not end where it should")
    if each.pages != pages:
        raise _wrong(f"a list's total is wrong: {each.pages}, not {pages}")
    return extents


def _wrong(what: str) -> SimulationError:
    return SimulationError(f"memory is inconsistent: {what}")
