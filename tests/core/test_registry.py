"""The registry: ways to keys, parts against a model of their order, and who waits for what."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlab.errors import SimulationError, UserError
from ntlab.hooks import hookimpl
from ntlab.machine import (
    NONPAGED_POOL,
    PAGED_POOL,
    SYSTEM_CACHE,
    Compute,
    Hive,
    Machine,
    QueryKey,
    RegistryPolicy,
    Request,
    Touch,
)
from ntlab.machine.accesses import STATUS_NO_MEMORY
from ntlab.machine.registry import CELLS, FANOUT
from ntlab.plugin import option, plugin
from ntlab.quantities import KIB, MIB, Size
from ntlab.testing import boot, small_tables
from ntlab_ws2003 import Ws2003

PAGE = 4 * KIB


@plugin(name="keeper", summary="The registry as a test wants it.", release="ws2003")
class Keeper:
    backing: Literal["nonpaged", "cache_views", "paged_pool"] = option(default="nonpaged", help="Where.")
    store: Literal["paging_file", "hive_file"] = option(default="paging_file", help="What is behind it.")
    limit: int = option(default=0, help="Pages in use.")
    part: int = option(default=4, help="Pages of a part.")

    @hookimpl
    def registry_policy(self) -> RegistryPolicy:
        return RegistryPolicy(
            backing=self.backing,
            store=self.store,
            limit=Size(self.limit * PAGE),
            part=Size(self.part * PAGE),
        )


def machine_of(*, memory: int = 1024, **options: Any) -> Machine:
    return boot(
        plugins=[Ws2003(), Keeper(**options)], tables=small_tables(2, memory=memory * PAGE), trace=True
    )


def look_up(machine: Machine, hive: Hive, *keys: int) -> list[Any]:
    """What a thread gets for each of these keys."""
    got: list[Any] = []

    def program() -> Iterator[Request]:
        for key in keys:
            got.append((yield QueryKey(hive, key)))
            yield Compute(1)

    machine.create_thread(machine.create_process("user"), program())
    machine.run()
    machine.check()
    return got


# -- ways -------------------------------------------------------------------------------------------------


def test_ways_are_those_of_a_tree_that_is_filled_level_by_level() -> None:
    hive = machine_of().registry.load("SYSTEM", 64 * PAGE)
    assert hive.keys == 64 * CELLS
    parents = {0: 0}
    waiting, key = [0], 1
    while key < hive.keys:
        parent = waiting.pop(0)
        for _ in range(FANOUT):
            if key < hive.keys:
                parents[key] = parent
                waiting.append(key)
                key += 1
    for key in range(hive.keys):
        way = [key]
        while way[0]:
            way.insert(0, parents[way[0]])
        pages = [cell // CELLS for cell in way]
        assert hive.path(key) == [
            page for index, page in enumerate(pages) if not index or page != pages[index - 1]
        ]
    for wrong in (-1, hive.keys):
        with pytest.raises(SimulationError, match="has 512"):
            hive.path(wrong)


# -- parts --------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    keys=st.lists(st.integers(0, 64 * CELLS - 1), min_size=1, max_size=60),
    backing=st.sampled_from(["nonpaged", "cache_views"]),
    parts=st.integers(1, 8),
)
def test_the_part_used_longest_ago_goes(
    keys: list[int], backing: Literal["nonpaged", "cache_views"], parts: int
) -> None:
    machine = machine_of(backing=backing, limit=4 * parts)
    hive = machine.registry.load("SYSTEM", 64 * PAGE)
    assert look_up(machine, hive, *keys) == [None] * len(keys)
    order: OrderedDict[int, None] = OrderedDict()
    loads = 0
    for key in keys:
        for page in hive.path(key):
            if page // 4 in order:
                order.move_to_end(page // 4)
                continue
            loads += 1
            order[page // 4] = None
            if len(order) > parts:
                order.popitem(last=False)
    assert machine.registry.parts_loaded == loads
    assert machine.registry.held == 4 * len(order)
    pool = machine.counters()[r"Memory\Pool Nonpaged Bytes"]
    if backing == "nonpaged":
        assert hive.hard_faults == loads
        assert pool == 4 * len(order) * PAGE
        assert len(list(machine.tracer.records("DiskIo/Read"))) == loads
    else:
        assert pool == 0
        pages = {page for key in keys for page in hive.path(key)}
        assert hive.hard_faults <= len(pages)  # memory is plenty: each page is read once at most
        assert machine.registry.resident(hive) <= 4 * len(order)


def test_a_dropped_view_comes_back_by_soft_faults() -> None:
    machine = machine_of(backing="cache_views", limit=4)
    hive = machine.registry.load("SYSTEM", 64 * PAGE)
    look_up(machine, hive, 500, 500)
    space = machine.sections.space(SYSTEM_CACHE)
    assert hive.path(500) == [0, 3, 62]
    # Page 3 came with page 0; then there is no view of both any more, and both come back, as does page 62.
    assert (hive.hard_faults, hive.soft_faults, space.trimmed) == (2, 1 + 3, 2 + 1 + 2)
    assert machine.counters()[r"Memory\System Cache Resident Bytes"] <= 4 * PAGE


def test_two_that_want_one_part_wait_for_one_read() -> None:
    machine = machine_of(limit=8)
    hive = machine.registry.load("SYSTEM", 64 * PAGE)
    process = machine.create_process("user")
    for _ in range(3):
        machine.create_thread(process, iter([QueryKey(hive, 0)]))
    machine.run()
    machine.check()
    assert (machine.registry.parts_loaded, hive.hard_faults) == (1, 1)
    (read,) = machine.tracer.records("DiskIo/Read")
    assert read["transfer_size"] == 4 * PAGE
    queries = list(machine.tracer.records("Registry/Query"))
    assert [(record["hive"], record["key"], record["nt_status"]) for record in queries] == [
        ("SYSTEM", 0, 0)
    ] * 3
    assert all(record["initial_time"] < read.time <= record.time for record in queries)


def test_a_part_of_one_page_that_all_ways_need_is_enough() -> None:
    """Threads that wait for each other's parts get on, however few there may be."""
    machine = machine_of(limit=1, part=1)
    hive = machine.registry.load("SYSTEM", 64 * PAGE)
    process = machine.create_process("user")
    for key in (100, 300, 500):
        machine.create_thread(process, iter([QueryKey(hive, key)] * 5))
    machine.run()
    machine.check()
    assert not machine.threads
    assert machine.registry.held == 1


# -- memory -------------------------------------------------------------------------------------------------


def test_a_whole_hive_in_non_paged_pool_is_always_there() -> None:
    machine = machine_of()
    hive = machine.registry.load("SYSTEM", 64 * PAGE)
    assert machine.counters()[r"Memory\Pool Nonpaged Bytes"] == 64 * PAGE
    other = machine.memory.space(machine.create_process("big")).allocate(2000)
    assert other is not None
    machine.create_thread(other.space.process, iter([Touch(other, write=True, accesses=0)]))
    machine.run()
    look_up(machine, hive, *range(0, 512, 7))
    assert (hive.hard_faults, hive.soft_faults, machine.registry.resident(hive)) == (0, 0, 64)


@pytest.mark.parametrize("store", ["paging_file", "hive_file"])
def test_a_hive_in_paged_pool_goes_to_the_disk_when_memory_is_short(
    store: Literal["paging_file", "hive_file"],
) -> None:
    machine = machine_of(backing="paged_pool", store=store)
    hive = machine.registry.load("SYSTEM", 512 * PAGE)
    look_up(machine, hive, *range(0, 4096, 7))
    assert (hive.hard_faults == 0) == (store == "paging_file")
    before = hive.hard_faults
    committed = machine.counters()[r"Memory\Pool Paged Bytes"]
    assert committed == (512 * PAGE if store == "paging_file" else 0)  # a file needs no commit
    other = machine.memory.space(machine.create_process("big")).allocate(3000)
    assert other is not None
    machine.create_thread(
        other.space.process, (Touch(other, page, 500, write=True, accesses=0) for page in range(0, 3000, 500))
    )
    machine.run()
    assert hive.region is not None
    assert hive.region.space is machine.sections.space(PAGED_POOL)
    look_up(machine, hive, *range(0, 4096, 7))
    assert hive.hard_faults > before


def test_without_memory_a_query_fails_or_waits() -> None:
    machine = machine_of(memory=64, limit=8)
    hive = machine.registry.load("SYSTEM", 32 * PAGE)
    free = machine.sections.nonpaged(machine.memory.available - 2)
    assert free is not None
    assert look_up(machine, hive, 0) == [STATUS_NO_MEMORY]
    assert machine.registry.held == 0
    free.space.release(free)

    region = machine.memory.space(machine.create_process("big")).allocate(64)
    assert region is not None
    machine.create_thread(region.space.process, iter([Touch(region, 0, 62, write=True, accesses=0)]))
    machine.run()
    assert machine.memory.available < 4
    assert look_up(machine, hive, 0, 255) == [None, None]  # pages are written, and it gets them


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="no room for hive 'SYSTEM'"):
        machine_of(memory=64).registry.load("SYSTEM", MIB)
    with pytest.raises(UserError, match="no room for hive 'SYSTEM'"):
        machine_of(memory=64, backing="paged_pool").registry.load("SYSTEM", MIB)
    with pytest.raises(UserError, match="at least a part"):
        machine_of(limit=3).registry.load("SYSTEM", MIB)
    with pytest.raises(UserError, match="1 byte or more"):
        machine_of().registry.load("SYSTEM", 0)
    machine = boot(plugins=[Ws2003(registry_part=5000)])
    with pytest.raises(UserError, match="multiple of the page size"):
        machine.registry.load("SYSTEM", MIB)
    machine = machine_of()
    machine.registry.load("SYSTEM", PAGE)
    with pytest.raises(SimulationError, match="loaded already"):
        machine.registry.load("SYSTEM", PAGE)


def test_nothing_is_there_until_a_hive_is_loaded() -> None:
    machine = boot(plugins=[Ws2003()])
    assert machine.memory.spaces == {}
    hive = machine.registry.load("SYSTEM", 8 * MIB)
    assert machine.sections.space(NONPAGED_POOL).committed == 0  # part by part, by default
    look_up(machine, hive, *range(0, hive.keys, 100))
    assert machine.counters()[r"Memory\Pool Nonpaged Bytes"] == 4 * MIB


@pytest.mark.parametrize("backing", ["nonpaged", "cache_views"])
def test_what_is_above_the_limit_while_it_is_in_use_goes_afterwards(
    backing: Literal["nonpaged", "cache_views"],
) -> None:
    machine = machine_of(backing=backing, limit=4, part=4)
    hive = machine.registry.load("H", 16 * PAGE)
    process = machine.create_process("p")
    most = 0

    def look() -> None:
        nonlocal most
        machine.tracer.flush()
        machine.check()
        most = max(most, machine.registry.held)

    machine.engine.batch, machine.engine.idle_work = 1, look
    for part in range(1, 4):  # by different ways at once
        machine.create_thread(process, iter([QueryKey(hive, 4 * part * CELLS, accesses=64)]))
    machine.run()
    assert most > 4
    assert machine.registry.held <= 4
