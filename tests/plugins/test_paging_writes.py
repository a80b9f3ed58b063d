"""M3 and M4: the claims, that they fail without the mechanism, and each option by hand."""

from __future__ import annotations

import re
from typing import Any

import pytest

import ntlab
from judging import failing
from ntlab.errors import UserError
from ntlab.hooks import Mode
from ntlab.machine import FlushModifiedList, Machine
from ntlab.quantities import KIB, MIB
from ntlab.testing import boot, conformance
from ntlab_paging_writes import PagingWrites
from ntlab_paging_writes.listing import process_monitor
from ntlab_paging_writes.workloads import DirtyBursts
from ntlab_ws2003 import Ws2003
from paged import Box

NEUTRAL = {
    "max_cluster": 64 * KIB,
    "max_read": 64 * KIB,
    "gather_neighbours": False,
    "fill_cluster": False,
    "target_neighbours": False,
}


def alone(**options: Any) -> PagingWrites:
    """The plugin with nothing on but these options."""
    return PagingWrites(**(NEUTRAL | options))


def live(
    *plugins: object, seed: int = 1, hooks: Mode = "direct", baseline: Ws2003 | None = None, **options: Any
) -> tuple[Machine, dict[str, float]]:
    """A machine that has lived through the workload, and what that measured."""
    machine = boot(2, [baseline or Ws2003(), *plugins], seed=seed, hooks=hooks, trace=True)
    workload = DirtyBursts(**({"process_memory": MIB} | options))
    workload.start(machine)
    machine.run()
    machine.memory.check()
    assert machine.paging is not None
    machine.paging.check()
    return machine, {metric.name: metric.value for metric in workload.measure(machine)}


# -- claims -----------------------------------------------------------------------------------------------

test_conformance = conformance("paging_writes")


def test_with_free_slots_in_plenty_no_write_is_smaller() -> None:
    """What the claims about a file that is nearly full, or worn, are about: the shortage."""
    plenty = {"ws2003.paging_file": "16 MiB", "ws2003.paging_file_fragmentation": 0.0}
    assert {"paging-full-smaller", "paging-worn-smaller"} <= failing("paging-full", plenty)


# -- the listing --------------------------------------------------------------------------------------------


def lengths(listing: str) -> list[int]:
    return [int(found.replace(",", "")) for found in re.findall(r"Length: ([\d,]+)", listing)]


def test_the_listing_of_2003_is_figure_a_and_that_of_2008_figure_b() -> None:
    """Two MiB changed at once: 32 writes of 64 KB become 2 of 1 MB."""
    once = {"processes": 1, "process_memory": 2 * MIB, "burst": 2 * MIB, "volume": 1.0, "trim_at": 1.0}
    figure_a = process_monitor(live(**once)[0])
    figure_b = process_monitor(live(PagingWrites(), **once)[0])
    assert lengths(figure_a) == [65536] * 32
    assert lengths(figure_b) == [1048576] * 2
    header, first, *_ = figure_b.splitlines()
    assert header.split("  ")[0] == "Time"
    assert re.sub(" {2,}", "|", first[header.index("Process Name") :]) == (
        r"System|4|WriteFile|C:\pagefile.sys|SUCCESS|"
        "Offset: 0, Length: 1,048,576, I/O Flags: Non-cached, Paging I/O, Priority: Normal"
    )
    assert "Offset: 1,048,576, Length: 1,048,576" in figure_b


def test_the_listing_has_every_write_and_most_of_2008_are_about_a_megabyte() -> None:
    for plugins in ([], [PagingWrites()]):
        machine, measured = live(*plugins, process_memory=4 * MIB)
        assert machine.paging is not None
        listed = lengths(process_monitor(machine))
        assert sorted(listed) == sorted(4096 * n for n in machine.paging.write_sizes.elements())
        assert sum(listed) / len(listed) == measured["mean_write"]
        large = [length for length in listed if length >= 900_000]
        assert len(large) > len(listed) / 2 if plugins else not large


def test_the_workload_offers_the_listing_as_a_view() -> None:
    assert DirtyBursts().views()["process_monitor"] is process_monitor


# -- which pages, and where ----------------------------------------------------------------------------------


def flushed(box: Box) -> list[tuple[int, int]]:
    """(first slot, pages) of what a flush writes."""
    before = len(box.transfers("Write"))
    assert box.do(FlushModifiedList()) == [True]
    return box.transfers("Write")[before:]


def dirty(*order: int, **options: Any) -> Box:
    """A region of 64 pages with these modified, in this order."""
    box = Box(64, memory=256, slots=256, plugins=[PagingWrites(**options)])
    for page in sorted(order):
        box.do(box.touch(page))
    box.trim(*order)
    return box


def test_neighbours_go_with_the_oldest_page_in_the_order_of_addresses() -> None:
    box = dirty(39, 0, *range(1, 39), **(NEUTRAL | {"gather_neighbours": True}))
    assert flushed(box) == [(0, 16), (16, 16), (32, 8)]
    slots = box.slots()
    assert [slots[page] for page in range(24, 40)] == list(range(16))  # around the oldest, 39
    assert [slots[page] for page in range(16)] == list(range(16, 32))  # around the next, 0
    assert [slots[page] for page in range(16, 24)] == list(range(32, 40))


def test_a_window_bounds_what_is_a_neighbour() -> None:
    box = dirty(10, 12, 14, 20, 7, **(NEUTRAL | {"gather_neighbours": True, "gather_window": 12 * KIB}))
    assert flushed(box) == [(0, 2), (2, 1), (3, 1), (4, 1)]
    assert box.slots() == {10: 0, 12: 1, 14: 2, 20: 3, 7: 4}


def test_a_write_that_is_not_full_takes_the_next_oldest_and_its_neighbours() -> None:
    box = dirty(41, 1, 0, 40, 60, **(NEUTRAL | {"gather_neighbours": True, "fill_cluster": True}))
    assert flushed(box) == [(0, 5)]
    assert box.slots() == {40: 0, 41: 1, 0: 2, 1: 3, 60: 4}


def test_filling_stops_at_the_largest_write() -> None:
    box = dirty(0, *range(20, 36), 1, **(NEUTRAL | {"gather_neighbours": True, "fill_cluster": True}))
    assert flushed(box) == [(0, 16), (16, 2)]
    slots = box.slots()
    assert [slots[page] for page in (0, 1, 20, 33)] == [0, 1, 2, 15]


@pytest.mark.parametrize(("target", "slot"), [(True, 2), (False, 0)])
def test_a_changed_page_goes_back_to_its_neighbours(target: bool, slot: int) -> None:
    box = dirty(0, 1, 2, 3, 4, **(NEUTRAL | {"target_neighbours": target}))
    assert flushed(box) == [(0, 5)]
    box.do(box.touch(0), box.touch(2))  # two holes
    box.trim(2)
    assert flushed(box) == [(slot, 1)]


def test_target_before_a_neighbour_and_where_there_is_no_room() -> None:
    box = dirty(*range(10, 20), **(NEUTRAL | {"target_neighbours": True}))
    assert flushed(box) == [(0, 10)]
    box.do(box.touch(10, 4))
    box.trim(12, 13)
    assert flushed(box) == [(2, 2)]  # right before page 14
    box.do(box.touch(20, 3))
    box.trim(20, 21, 22)
    assert flushed(box) == [(10, 3)]  # right after page 19
    box.do(box.touch(15))
    box.trim(10, 11, 15)
    assert flushed(box) == [(13, 3)]  # nothing near is long enough for three


def test_reads_are_as_large_as_allowed() -> None:
    for size, expected in ((16, [(0, 4)] * 0 + [(first, 4) for first in range(0, 64, 4)]), (256, [(0, 64)])):
        box = dirty(*range(64), **(NEUTRAL | {"max_cluster": MIB, "max_read": size * KIB}))
        flushed(box)
        box.evict()
        box.do(box.touch(0, 64, write=False))
        assert box.transfers("Read") == expected


# -- the whole -----------------------------------------------------------------------------------------------


def test_a_baseline_that_looks_around_is_the_plugin_without_the_rest() -> None:
    one = live(baseline=Ws2003(paging_gather=64 * KIB))[0].tracer.digest()
    assert one == live(alone(gather_neighbours=True))[0].tracer.digest() != live()[0].tracer.digest()


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="out of range"):
        PagingWrites(max_cluster=32 * KIB)
    with pytest.raises(ValueError, match="out of range"):
        PagingWrites(max_cluster=32 * MIB)
    with pytest.raises(UserError, match=r"paging_writes\.max_cluster: .*multiple of the page size"):
        boot(plugins=[Ws2003(), PagingWrites(max_cluster=65 * KIB + 1)])
    with pytest.raises(UserError, match="no paging file"):
        DirtyBursts().start(boot(plugins=[Ws2003(paging_file=0)]))
    with pytest.raises(UserError, match="duration: the run ended before all memory was read back"):
        ntlab.run("paging-writes", set={"duration": "100 ms"}, seeds=1)
