"""File-mapping objects: views share pages, and what they say of nodes is a wish."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlab.errors import SimulationError, UserError
from ntlab.hooks import hookimpl
from ntlab.machine import (
    CreateMapping,
    FlushModifiedList,
    Machine,
    MappingObject,
    MapView,
    Memory,
    PagingPolicy,
    Process,
    Request,
    Sleep,
    Touch,
    UnmapView,
    View,
)
from ntlab.machine.memory import NO_PREFERRED_NODE
from ntlab.plugin import plugin
from ntlab.quantities import MIB, Size
from ntlab.testing import boot, small_tables

GRAIN = 16


@plugin(name="wishes", summary="A paging file, and pages from the node that a region prefers.")
class Wishes:
    @hookimpl
    def paging_policy(self) -> PagingPolicy:
        return PagingPolicy(file_size=Size(64 * MIB), low_available=0, low_free=0)

    @hookimpl
    def allocation_node(self, region: Any) -> int | None:
        return region.node


def machine_of(nodes: int = 2) -> Machine:
    return boot(plugins=[Wishes()], tables=small_tables(nodes, nodes=nodes), trace=True)


def run(machine: Machine, process: Process, *requests: Request) -> list[Any]:
    """What a thread of a process receives for each request."""
    found = []

    def program() -> Iterator[Any]:
        for request in requests:
            result = yield request
            found.append(result)

    machine.create_thread(process, program())
    machine.run()
    machine.check()
    return found


def mapped(machine: Machine, pages: int = 64, node: int | None = None) -> tuple[Process, MappingObject]:
    process = machine.create_process("p")
    (shared,) = run(machine, process, CreateMapping(pages, node))
    return process, shared


def test_views_of_two_processes_show_the_same_pages() -> None:
    machine = machine_of()
    one, shared = mapped(machine)
    other = machine.create_process("other")
    (first,) = run(machine, one, MapView(shared, node=1))
    (second,) = run(machine, other, MapView(shared, GRAIN, 32, node=0))
    run(machine, one, Touch(first, 0, 24, write=True, accesses=0))
    run(machine, other, Touch(second, write=True, accesses=0))
    # The first comer's wish counts for each page: 24 for node 1, and what was left of 16..48 for node 0.
    assert shared.region.pages_by_node() == {1: 24, 0: 24}
    assert machine.memory.demand_zero_faults == 48
    assert machine.memory.committed == 64
    assert machine.memory.space(one).committed == machine.memory.space(other).committed == 0
    run(machine, one, UnmapView(first))
    run(machine, other, Touch(second, accesses=1), UnmapView(second))
    assert machine.memory.demand_zero_faults == 48
    shared.close()
    machine.check()
    assert machine.memory.committed == 0
    assert [each.name for each in machine.memory.working_sets] == ["p", "other"]


def test_what_was_paged_out_comes_back_through_any_view() -> None:
    machine = machine_of()
    process, shared = mapped(machine)
    (view, again) = run(machine, process, MapView(shared, node=1), MapView(shared, 2 * GRAIN, node=0))
    run(machine, process, Touch(view, write=True, accesses=0))
    memory = machine.memory
    memory.trim(shared.region.space.working_set, shared.region.extents())
    assert run(machine, process, FlushModifiedList()) == [True]
    everything = memory.space(process).allocate(memory.available)
    assert everything is not None
    memory.populate(everything, 0)
    assert shared.region.extents() == []
    memory.space(process).release(everything)
    run(machine, process, Touch(again, accesses=0), Touch(view, 0, 8, accesses=0))
    where = shared.region.pages_by_node()
    assert where[0] == 32
    assert where[1] >= 8
    assert memory.demand_zero_faults == 64


def test_a_file_can_be_the_object() -> None:
    @plugin(name="files", summary="Files in memory, by a policy of no distinction.")
    class Files:
        @hookimpl
        def cache_policy(self) -> Any:
            from ntlab.machine import CachePolicy

            return CachePolicy()

    machine = boot(plugins=[Wishes(), Files()], tables=small_tables(2, nodes=2))
    file = machine.file_cache.create("data", Size(MIB))
    process = machine.create_process("p")
    (shared,) = run(machine, process, CreateMapping(file))
    assert shared.region.pages == 256
    (view,) = run(machine, process, MapView(shared, 2 * GRAIN, 16, node=1))
    run(machine, process, Touch(view, accesses=0))
    assert shared.region.pages_by_node() == {1: 16}
    assert machine.memory.committed == 0
    with pytest.raises(SimulationError, match="only read"):
        run(machine, process, Touch(view, write=True, accesses=0))


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 63), st.integers(1, 64), st.booleans()), max_size=25
    )
)
def test_pages_are_never_lost_nor_doubled(steps: Sequence[tuple[int, int, int, bool]]) -> None:
    machine = machine_of()
    process, shared = mapped(machine)
    views: list[View] = run(machine, process, *(MapView(shared, 16 * n, node=n % 2) for n in range(4)))
    touched: set[int] = set()
    for n, first, count, trim in steps:
        view = views[n]
        first %= view.pages
        count = min(count, view.pages - first)
        run(machine, process, Touch(view, first, count, write=trim, accesses=0))
        touched.update(range(16 * n + first, 16 * n + first + count))
        if trim:
            machine.memory.trim(shared.region.space.working_set, list(shared.region.space.working_set))
            run(machine, process, FlushModifiedList(), Sleep(1))
    held = {
        page - shared.region.first
        for extent in shared.region.extents()
        for page in range(extent.page, extent.page + extent.pages)
    }
    assert held == touched
    assert machine.memory.demand_zero_faults == len(touched)


def test_no_preferred_node_is_none() -> None:
    machine = machine_of()
    _, shared = mapped(machine, node=NO_PREFERRED_NODE)
    assert shared.node is None
    assert MapView(shared, node=NO_PREFERRED_NODE).node is None
    region = machine.memory.space(machine.create_process("q")).allocate(1, node=NO_PREFERRED_NODE)
    assert region is not None
    assert region.node is None


def test_mistakes_are_named() -> None:
    machine = machine_of()
    process, shared = mapped(machine)
    memory: Memory = machine.memory
    for wrong in (lambda: MapView(shared, node=2), lambda: memory.space(process).allocate(1, node=-1)):
        with pytest.raises(UserError, match=r"the preferred node (2|-1); expected 0 to 1"):
            wrong()
    broken = machine_of()
    with pytest.raises(UserError, match="the preferred node 5"):
        run(broken, broken.create_process("p"), CreateMapping(10, node=5))
    with pytest.raises(UserError, match=r"from page 8 on; expected a multiple of 16 pages"):
        MapView(shared, 8)
    for first, pages in ((0, 65), (48, 32), (64, 0), (-16, 16)):
        with pytest.raises(UserError, match=r"expected some of the object's 64"):
            MapView(shared, first, pages)
    (view,) = run(machine, process, MapView(shared))
    with pytest.raises(SimulationError, match="closed while it has 1 views"):
        shared.close()
    run(machine, process, UnmapView(view))
    shared.close()
    assert run(machine, process, CreateMapping(1 << 40)) == [None]
    with pytest.raises(SimulationError, match="unmapped twice"):
        run(machine, process, UnmapView(view))
