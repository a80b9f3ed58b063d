"""How Server 2008 writes to the paging file."""

from __future__ import annotations

from collections.abc import Sequence

from ntlab.hooks import hookimpl
from ntlab.machine import IoRequest, Machine, Paging
from ntlab.machine.paging import whole_pages
from ntlab.plugin import option, plugin
from ntlab.quantities import KIB, MIB, Size
from ntlab_paging_writes.workloads import DirtyBursts


@plugin(
    name="paging_writes",
    summary="Large paging-file writes that take modified neighbours along.",
    release="ws2008",
    ledger=("M3", "M4"),
    requires=("ws2003",),
    workloads=(DirtyBursts,),
    neutral={  # what Server 2003 does
        "max_cluster": "64 KiB",
        "max_read": "64 KiB",
        "gather_neighbours": False,
        "fill_cluster": False,
        "target_neighbours": False,
    },
)
class PagingWrites:
    """Each half of the feature is an option of its own. Source: S0 (M3, M4); memory facts, section 1."""

    max_cluster: Size = option(
        default=Size(MIB), help="Largest write to the paging file.", minimum=64 * KIB, maximum=16 * MIB
    )
    max_read: Size = option(
        default=Size(MIB), help="Largest read from the paging file.", minimum=4 * KIB, maximum=16 * MIB
    )
    gather_neighbours: bool = option(
        default=True,
        help="Whether modified neighbours in the address space go out with the oldest modified page.",
    )
    gather_window: Size = option(
        default=Size(0),
        help="How far away a neighbour may be; 0 means as far as the largest write.",
        minimum=0,
    )
    fill_cluster: bool = option(
        default=True,
        help="Whether a write that is not full takes the next oldest page and its neighbours too.",
    )
    target_neighbours: bool = option(
        default=True,
        help="Whether a write goes near the slots of virtual neighbours that are in the file already.",
    )

    @hookimpl
    def write_cluster_limit(self, machine: Machine) -> int:
        whole_pages(machine, self.max_read, "paging_writes.max_read")
        whole_pages(machine, self.gather_window, "paging_writes.gather_window")
        return whole_pages(machine, self.max_cluster, "paging_writes.max_cluster")

    def _window(self, paging: Paging) -> int:
        return self.gather_window // paging.page_size or paging.write_limit

    @hookimpl
    def write_cluster(self, paging: Paging, head: int, limit: int) -> Sequence[int] | None:
        if not self.gather_neighbours:
            return None
        window = self._window(paging)
        pages = paging.around(head, window, limit)
        if self.fill_cluster and len(pages) < limit:
            chosen = set(pages)
            for other in paging.modified():
                if other not in chosen:
                    more = [page for page in paging.around(other, window, limit) if page not in chosen]
                    pages += more[: limit - len(pages)]
                    chosen.update(more)
                    if len(pages) == limit:
                        break
        return pages

    @hookimpl
    def place_cluster(self, paging: Paging, pages: Sequence[int]) -> tuple[int, int] | None:
        """Near the nearest neighbour: where the pages would lie if the file were the address space."""
        if not self.target_neighbours:
            return None
        file, count = paging.file, len(pages)
        before, after = file.below(pages[0]), file.above(pages[-1])
        far = self._window(paging)
        back = pages[0] - before if before is not None else far
        ahead = after - pages[-1] if after is not None else far
        if back <= ahead and before is not None and back < far:
            wanted = file.slot_of[before] + back
        elif after is not None and ahead < far:
            wanted = file.slot_of[after] - ahead - count + 1
        else:
            return None
        place = file.nearest_fit(wanted, count)
        return None if place is None else (place, count)

    @hookimpl
    def io_limit(self, request: IoRequest) -> int | None:
        paging = request.device.machine.paging
        if paging is None or not paging.owns(request):
            return None
        return self.max_cluster if request.operation == "write" else self.max_read

    @hookimpl
    def read_cluster(self, paging: Paging) -> int:
        return self.max_read // paging.page_size
