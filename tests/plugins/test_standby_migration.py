"""N6: the claims' closed forms on other machines, the rule and its limits, and what must not change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlab.errors import SimulationError, UserError
from ntlab.machine import Machine, Touch
from ntlab.machine.extents import ACTIVE, FREE, STANDBY, ZEROED
from ntlab.quantities import Duration
from ntlab.testing import boot, conformance
from ntlab.topology import Tables, Topology, load
from ntlab_standby_migration import StandbyMigration
from ntlab_standby_migration.workloads import References
from ntlab_ws2003 import Ws2003

HWLOC = Path(__file__).parents[3] / "shared" / "data" / "hwloc"
COPY, FAULT = 1500, 1000


def pair(local: int = 100, remote: int = 150, memory: int = 1 << 20) -> Tables:
    """Two nodes of one processor and 256 pages each."""
    topology = Topology("pair")
    for _ in range(2):
        topology.add_processor(topology.add_core(topology.add_node(memory=memory)))
    topology.latency_ns = [[local, remote], [remote, local]]
    return topology.freeze()


def measure(tables: Tables, *plugins: object, **options: Any) -> tuple[dict[str, float], Machine]:
    machine = boot(plugins=[Ws2003(page_copy=COPY), *plugins], tables=tables, trace=True)
    workload = References(**options)
    workload.start(machine)
    machine.run()
    machine.check()
    assert not machine.threads
    return {metric.name: metric.value for metric in workload.measure(machine)}, machine


test_conformance = conformance("standby_migration")


# -- the closed form ---------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    local=st.integers(40, 300),
    extra=st.integers(1, 300),
    accesses=st.integers(1, 300),
    rounds=st.integers(1, 3),
)
def test_time_and_payback_are_exact(local: int, extra: int, accesses: int, rounds: int) -> None:
    """Off: every access is remote. On: one copy, and every access is local."""
    tables = pair(local, local + extra)
    shape = {"processes": 1, "pages": 16, "accesses": accesses, "rounds": rounds}
    off, _ = measure(tables, **shape)
    on, _ = measure(tables, StandbyMigration(), **shape)
    assert off["time"] == FAULT + accesses * (local + extra)
    assert on["time"] * rounds == pytest.approx(rounds * (FAULT + accesses * local) + COPY, abs=1e-6)
    assert (on["time"] < off["time"]) == (rounds * accesses * extra > COPY)


@pytest.mark.skipif(not HWLOC.is_dir(), reason="the real descriptions are not here")
@pytest.mark.parametrize("file", sorted(HWLOC.glob("*.xml")), ids=lambda file: file.stem)
def test_payback_on_real_machines(file: Path) -> None:
    """The last number of accesses that does not pay the copy back, and the first that does."""
    tables = load(str(file)).freeze()
    near = tables.nearest[0][min(1, tables.nodes - 1)]
    local, remote = tables.latency[0][0], tables.latency[0][near]
    last = COPY // (remote - local) if near else 10
    for accesses in (last, last + 1):
        off, _ = measure(tables, processes=1, pages=8, accesses=accesses)
        on, _ = measure(tables, StandbyMigration(), processes=1, pages=8, accesses=accesses)
        moved = near != 0
        assert on["migrated"] == moved
        assert on["time"] - off["time"] == moved * (COPY - accesses * (remote - local))
        assert (on["time"] < off["time"]) == (moved and accesses > last)


# -- the rule, page by page ----------------------------------------------------------------------------------


def standby_on(machine: Machine, node: int, pages: int) -> Any:
    """A region of a new process, all of it on a node's standby list."""
    space = machine.memory.space(machine.create_process("p"))
    region = space.allocate(pages)
    assert region is not None
    machine.memory.populate(region, node)
    machine.memory.trim(space.working_set, region.extents())
    return region


def reference(machine: Machine, region: Any, **options: Any) -> None:
    process = region.space.process
    machine.create_thread(process, iter([Touch(region, **options)]), ideal=0, affinity=1)
    machine.run()
    machine.check()


@pytest.mark.parametrize("room", ["available", "free"])
def test_what_may_be_taken_for_it(room: Any) -> None:
    """At home 56 pages are empty and 200 hold somebody's standby pages."""
    machine = boot(plugins=[Ws2003(paging_file=0), StandbyMigration(room=room)], tables=pair())
    standby_on(machine, 0, 200)
    region = standby_on(machine, 1, 100)
    reference(machine, region)
    assert region.pages_by_node() == ({0: 100} if room == "available" else {0: 56, 1: 44})
    assert machine.memory.nodes[0].pages[STANDBY] == (156 if room == "available" else 200)
    assert machine.memory.nodes[1].pages[FREE] == (100 if room == "available" else 56)


@pytest.mark.parametrize(("benefit", "moved"), [(50, 40), (51, 0)])
def test_the_least_benefit_is_what_an_access_gains(benefit: int, moved: int) -> None:
    """150 ns from there, 100 ns at home."""
    plugins = [Ws2003(paging_file=0), StandbyMigration(minimum_benefit=Duration(benefit))]
    machine = boot(plugins=plugins, tables=pair(100, 150))
    reference(machine, standby_on(machine, 1, 40))
    assert machine.memory.migrated == moved


def test_a_home_without_a_page_changes_nothing() -> None:
    machine = boot(plugins=[Ws2003(paging_file=0), StandbyMigration()], tables=pair())
    space = machine.memory.space(machine.create_process("full"))
    full = space.allocate(256)
    assert full is not None
    machine.memory.populate(full, 0, dirty=True)
    region = standby_on(machine, 1, 100)
    reference(machine, region)
    assert region.pages_by_node() == {1: 100}
    assert machine.memory.migrated == 0


def test_only_standby_pages_move() -> None:
    """Active and modified ones stay, and so do those that are not touched."""
    machine = boot(plugins=[Ws2003(paging_file=0), StandbyMigration()], tables=pair(), trace=True)
    memory = machine.memory
    region = standby_on(machine, 1, 40)
    memory.activate(memory.isolate(region.extents()[0], region.first, region.first + 10))
    (active, *_) = region.extents()
    active.dirty = True
    memory.trim(region.space.working_set, [active])
    memory.activate(memory.isolate(region.extents()[1], region.first + 10, region.first + 20))
    reference(machine, region, pages=30)
    nodes = {
        page: each.node for each in region.extents() for page in range(each.page, each.page + each.pages)
    }
    assert list(nodes.values()) == [1] * 20 + [0] * 10 + [1] * 10
    (moved,) = machine.tracer.records("Migrate")
    assert (moved["from_node"], moved["node"], moved["pages"]) == (1, 0, 10)


def test_the_order_on_a_list_is_kept_by_others() -> None:
    """What moves goes from the middle of one list; before and behind it nothing changes place."""
    machine = boot(plugins=[Ws2003(paging_file=0)], tables=pair())
    memory = machine.memory
    regions = [standby_on(machine, 1, 20) for _ in range(3)]
    (middle,) = regions[1].extents()
    assert memory.migrate(middle, 0) == 20
    machine.check()
    assert [each.region for each in memory.nodes[1].standby[5]] == [regions[0], regions[2]]
    assert [each.region for each in memory.nodes[0].standby[5]] == [regions[1]]
    memory.activate(middle)
    assert memory.migrate(middle, 1) == 20
    machine.check()
    assert middle.state == ACTIVE
    assert memory.nodes[0].pages[FREE] + memory.nodes[0].pages[ZEROED] == 256
    with pytest.raises(SimulationError, match="cannot be moved"):
        memory.migrate(middle, 1)


def test_pieces_of_a_terabyte_come_home() -> None:
    """Sixteen nodes of 64 GB; what each process touches lies in pieces on two other nodes."""
    machine = boot(plugins=[Ws2003(), StandbyMigration()], tables=load("demo-256").freeze())
    memory = machine.memory
    regions = []
    for node in range(16):
        space = memory.space(machine.create_process("p"))
        region = space.allocate(100 * 32)
        assert region is not None
        for piece in range(100):
            first = region.first + 32 * piece
            memory.allocate(region, first, first + 16, (node + 1 + piece % 2) % 16)
        memory.trim(space.working_set, region.extents())
        touches = [Touch(region, 32 * piece, 16, accesses=0) for piece in range(100)]
        machine.create_thread(space.process, iter(touches), ideal=16 * node)
        regions.append(region)
    machine.run()
    machine.check()
    assert [region.pages_by_node() for region in regions] == [{node: 1600} for node in range(16)]
    assert memory.migrated == 16 * 1600


# -- mistakes ------------------------------------------------------------------------------------------------


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="out of range"):
        StandbyMigration(minimum_benefit=-1)
    with pytest.raises(UserError, match="memory is full"):
        measure(load("uni").freeze(), processes=1, pages=1 << 30)
