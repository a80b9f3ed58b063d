"""Sections of kernel memory: which share a working set, what its limit does, and what never leaves."""

from __future__ import annotations

import pytest

from ntlab.errors import SimulationError, UserError
from ntlab.hooks import hookimpl
from ntlab.machine import (
    PAGED_POOL,
    SYSTEM_CACHE,
    SYSTEM_CODE,
    SYSTEM_DRIVERS,
    Machine,
    Region,
    Touch,
)
from ntlab.plugin import plugin
from ntlab.testing import boot
from ntlab.topology import Topology
from ntlab_ws2003 import Ws2003

PAGES = 4096


def machine_of(*plugins: object, trace: bool = False) -> Machine:
    topology = Topology("box")
    topology.add_processor(topology.add_core(topology.add_node(memory=PAGES * 4096)))
    return boot(plugins=plugins, tables=topology.freeze(), trace=trace)


@plugin(name="limited", summary="One working set for two sections, of 10 to 100 pages.", release="ws2003")
class Limited:
    @hookimpl
    def kernel_working_set(self, section: str) -> str | None:
        return "pool and cache" if section in (PAGED_POOL, SYSTEM_CACHE) else section

    @hookimpl
    def kernel_working_set_limits(self, name: str) -> tuple[int, int]:
        return 10, 100 if name == "pool and cache" else 0


def touch(machine: Machine, region: Region, first: int, pages: int, *, write: bool = False) -> None:
    process = machine.create_process("user")
    machine.create_thread(process, iter([Touch(region, first, pages, write=write, accesses=0)]))
    machine.run()
    machine.check()


def section(machine: Machine, name: str, pages: int) -> Region:
    region = machine.sections.space(name).allocate(pages)
    assert region is not None
    return region


def test_nothing_is_there_until_it_is_asked_for() -> None:
    machine = machine_of(Ws2003())
    counters = machine.counters()
    assert counters[r"Memory\Cache Bytes"] == counters[r"Memory\Pool Nonpaged Bytes"] == 0
    assert (machine.processes, machine.memory.spaces, machine.sections.spaces()) == ({}, {}, [])


def test_without_an_answer_all_share_one_working_set() -> None:
    machine = machine_of()
    names = (SYSTEM_CACHE, PAGED_POOL, SYSTEM_CODE, SYSTEM_DRIVERS)
    sets = {id(machine.sections.space(name).working_set) for name in names}
    assert len(sets) == len(machine.memory.working_sets) == 1
    assert machine.sections.working_sets["system"] is machine.memory.working_sets[0]


def test_a_shared_working_set_pushes_out_the_oldest_whosever_they_are() -> None:
    machine = machine_of(Limited(), trace=True)
    pool, cache, code = (section(machine, name, 200) for name in (PAGED_POOL, SYSTEM_CACHE, SYSTEM_CODE))
    touch(machine, pool, 0, 60)
    touch(machine, code, 0, 150)
    touch(machine, cache, 0, 90)
    assert (pool.space.resident, cache.space.resident, code.space.resident) == (10, 90, 150)
    assert [
        extent.page - pool.first for extent in pool.extents() if extent.list is pool.space.working_set
    ] == [50]
    assert (pool.space.trimmed, cache.space.trimmed) == (50, 0)
    assert machine.memory.available == PAGES - 250  # the clean ones are standby
    (trim,) = machine.tracer.records("KernelTrim")
    assert (trim["working_set"], trim["modified"], trim["standby"]) == ("pool and cache", 0, 50)
    counters = machine.counters()
    assert counters[r"Memory\Pool Paged Bytes"] == 200 * 4096
    assert counters[r"Memory\Pool Paged Resident Bytes"] == 10 * 4096
    assert counters[r"Memory\System Cache Resident Bytes"] == 90 * 4096
    assert counters[r"Memory\System Code Resident Bytes"] == 150 * 4096
    assert counters[r"Memory\Cache Bytes"] == 250 * 4096
    faults = counters[r"Memory\Cache Faults/sec"] * machine.engine.now / 1e9
    assert faults == pytest.approx(60 + 90)


def test_more_than_the_limit_at_once_leaves_the_last() -> None:
    machine = machine_of(Limited())
    pool = section(machine, PAGED_POOL, 300)
    touch(machine, pool, 0, 300)
    (kept,) = (extent for extent in pool.extents() if extent.list is pool.space.working_set)
    assert (kept.page, kept.pages) == (pool.first + 200, 100)


def test_changed_pages_that_are_pushed_out_can_be_read_back() -> None:
    machine = machine_of(Ws2003(), Limited())
    pool = section(machine, PAGED_POOL, 300)
    touch(machine, pool, 0, 300, write=True)
    other = section(machine, SYSTEM_CODE, PAGES)
    touch(machine, other, 0, PAGES - 150)  # they are written, and then somebody else's
    before = machine.memory.hard_faults
    touch(machine, pool, 0, 100)
    assert machine.memory.hard_faults > before
    assert machine.paging is not None
    assert machine.paging.write_sizes.total()


def test_a_page_of_the_kernels_that_cannot_be_read_ends_the_machine() -> None:
    machine = machine_of(Ws2003(), trace=True)
    pool = section(machine, PAGED_POOL, 300)
    touch(machine, pool, 0, 300, write=True)
    touch(machine, section(machine, SYSTEM_CODE, PAGES), 0, PAGES - 150)
    assert machine.paging is not None
    machine.paging.disk.unreadable.add(0, 1 << 30)
    process = machine.create_process("user")
    machine.create_thread(process, iter([Touch(pool, 0, 300, accesses=0)]))
    machine.run()
    assert machine.crash is not None
    assert machine.crash.code == 0x7A
    assert machine.crash.parameters[1] == 0xC000009C
    machine.memory.check()


def test_a_shortage_takes_from_the_kernel_too_down_to_its_minimum() -> None:
    machine = machine_of(Ws2003(system_working_set_minimum=100))
    pool = section(machine, PAGED_POOL, PAGES)
    touch(machine, pool, 0, PAGES)
    region = machine.memory.space(machine.create_process("big")).allocate(2 * PAGES)
    assert region is not None
    touch(machine, region, 0, 500)
    assert (pool.space.resident, pool.space.trimmed) == (PAGES - 500, 500)
    touch(machine, region, 500, PAGES)
    assert pool.space.resident == 100


def test_the_nonpaged_pool_stays() -> None:
    machine = machine_of(Ws2003())
    region = machine.sections.nonpaged(64)
    assert region is not None
    assert region.space.resident == 64
    assert machine.counters()[r"Memory\Pool Nonpaged Bytes"] == 64 * 4096
    assert region.space.working_set not in machine.memory.working_sets
    with pytest.raises(SimulationError, match="not pageable"):
        machine.memory.trim(region.space.working_set, region.extents())
    assert machine.sections.nonpaged(PAGES) is None
    process = machine.create_process("big")
    other = machine.memory.space(process).allocate(2 * PAGES)
    assert other is not None
    machine.create_thread(process, iter([Touch(other, write=True, accesses=0)]))
    machine.run()
    machine.check()
    assert region.space.resident == 64
    region.space.release(region)
    machine.check()


def test_mistakes_are_named() -> None:
    with pytest.raises(SimulationError, match="no section of the kernel"):
        machine_of().sections.space("dead pool")
    machine = machine_of(Ws2003(system_working_set_minimum=50, system_working_set_maximum=49))
    with pytest.raises(UserError, match="system_working_set_maximum"):
        machine.sections.space(PAGED_POOL)
    with pytest.raises(UserError, match="not below the minimum"):
        machine_of(Ws2003(working_set_minimum=9, working_set_maximum=8)).memory.space(
            machine.create_process("user")
        )
