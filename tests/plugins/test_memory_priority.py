"""M7: the claims, that they fail without the mechanism, and standby lists against a plain model, by page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ntlab
from judging import failing
from ntlab.errors import PluginError, UserError
from ntlab.hooks import hookimpl
from ntlab.machine import CopyRead, FlushModifiedList, Machine, MapFile, Touch
from ntlab.machine.extents import NORMAL_PRIORITY, STANDBY
from ntlab.plugin import plugin
from ntlab.quantities import KIB, MIB, Size
from ntlab.testing import boot, conformance, small_tables
from ntlab_memory_priority import MemoryPriority
from ntlab_memory_priority.workloads import AfterLunch, EmptyWorkingSet
from ntlab_ws2003 import Ws2003

PAGE = 4 * KIB
HWLOC = Path(__file__).parents[3] / "shared" / "data" / "hwloc"

test_conformance = conformance("memory_priority")


# -- claims -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("experiment", "change", "fail"),
    [
        (
            "memory-priority",
            {"memory_priority.lists": 1},
            {"memory-priority-lost", "memory-priority-return", "memory-priority-own"},
        ),
        # Whoever the scanner is more important than loses all, with eight lists as with one.
        (
            "memory-priority",
            {"workload.program_priority": 1, "workload.scanner_priority": 5},
            {"memory-priority-lost", "memory-priority-return", "memory-priority-own"},
        ),
        # A file that fits beside the program pushes nothing out.
        (
            "memory-priority",
            {"workload.file": "3 MiB"},
            {"memory-priority-lost", "memory-priority-return", "memory-priority-own"},
        ),
        ("memory-priority-lists", {"workload.scanner_priority": 5}, {"memory-priority-lists"}),
        ("memory-priority-price", {"memory_priority.lists": 1}, {"memory-priority-price"}),
        ("memory-priority-trim", {"ws2003.ageing": "none"}, {"memory-priority-trim"}),
        ("memory-priority-trim", {"memory_priority.lists": 1}, {"memory-priority-trim"}),
        # With room for both there is nothing to pay.
        ("memory-priority-price", {"workload.memory": "12 MiB"}, {"memory-priority-price"}),
    ],
)
def test_without_what_it_is_about_a_claim_fails(
    experiment: str, change: dict[str, Any], fail: set[str]
) -> None:
    assert failing(experiment, change) == fail


@pytest.mark.skipif(not HWLOC.is_dir(), reason="no shared data")
@pytest.mark.parametrize(
    ("experiment", "hardware"),
    [
        ("memory-priority", "16em64t-4s2c2t.xml"),
        ("memory-priority-lists", "256ia64-64n2s2c.xml"),
        ("memory-priority-price", "96em64t-4n4d3ca2co-pci.xml"),
        ("memory-priority-trim", "16amd64-8n2c.xml"),
    ],
)
def test_on_other_machines(experiment: str, hardware: str) -> None:
    assert failing(experiment, hardware=str(HWLOC / hardware)) == set()


# -- closed forms -----------------------------------------------------------------------------------------


def lunch(*plugins: object, cache: int = 256 * KIB, **options: Any) -> dict[str, float]:
    """What the workload measures on a small machine."""
    machine = boot(2, [Ws2003(cache_address_space=Size(cache)), *plugins], seed=1)
    sizes = {"memory": Size(2 * MIB), "program": Size(MIB)}
    workload = AfterLunch(**(sizes | options))
    workload.start(machine)
    machine.run()
    machine.check()
    assert not machine.threads
    return {metric.name: metric.value for metric in workload.measure(machine)}


@given(program=st.integers(1, 24), file=st.integers(1, 60), eight=st.booleans(), normal=st.booleans())
def test_what_is_lost(program: int, file: int, eight: bool, normal: bool) -> None:
    """In pieces of 64 KiB: what does not fit, first of the program, or of the scanner's own."""
    unit = 64 * KIB
    found = lunch(
        *([MemoryPriority()] if eight else []),
        program=Size(program * unit),
        file=Size(file * unit),
        scanner_priority=5 if normal else 1,
    )
    too_much = max(0, (program + 1 + file) * unit - 2 * MIB)
    lost = 0 if eight and not normal else min(program * unit, too_much)
    assert found["lost"] == lost
    assert found["scanner_lost"] == too_much - lost
    assert found["scanner_read"] == file * unit


# -- standby lists, page by page --------------------------------------------------------------------------


class Model:
    """Frames, working sets and standby lists, in plain lists."""

    def __init__(self, frames: int, room: int, priorities: list[int]) -> None:
        self.free = frames
        self.room = room
        self.priorities = priorities
        self.active: list[list[tuple[int, int]]] = [[] for _ in priorities]
        self.standby: list[list[tuple[int, int]]] = [[] for _ in range(8)]
        self.of: dict[tuple[int, int], int] = {}

    def touch(self, process: int, page: int) -> str:
        key = process, page
        active = self.active[process]
        if key in active:
            return "hit"
        while len(active) >= self.room:
            oldest = active.pop(0)
            self.standby[self.of[oldest]].append(oldest)
        active.append(key)
        priority = self.priorities[process]
        if key in self.of:
            self.standby[self.of[key]].remove(key)
            self.of[key] = max(self.of[key], priority)
            return "soft"
        if self.free:
            self.free -= 1
        else:
            del self.of[next(each for each in self.standby if each).pop(0)]
        self.of[key] = priority
        return "new"


touches = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=80)


@given(
    touches=touches, priorities=st.lists(st.integers(0, 7), min_size=4, max_size=4), room=st.integers(1, 2)
)
def test_standby_lists(touches: list[tuple[int, int]], priorities: list[int], room: int) -> None:
    machine = boot(plugins=[Ws2003(), MemoryPriority()], tables=small_tables(1, memory=9 * PAGE))
    memory = machine.memory
    regions = []
    for number, priority in enumerate(priorities):
        space = memory.space(machine.create_process(f"p{number}", page_priority=priority))
        space.working_set.minimum, space.working_set.maximum, space.working_set.hard = 0, room, True
        region = space.allocate(6)
        assert region is not None
        regions.append(region)
    model = Model(9, room, priorities)
    for process, page in touches:
        soft, new = memory.transition_faults, memory.demand_zero_faults
        machine.create_thread(
            regions[process].space.process, iter([Touch(regions[process], page, 1, accesses=0)])
        )
        machine.run()
        machine.check()
        found = {(1, 0): "soft", (0, 1): "new", (0, 0): "hit"}
        happened = memory.transition_faults - soft, memory.demand_zero_faults - new
        assert found[happened] == model.touch(process, page)
    for priority, listed in enumerate(model.standby):
        there = [
            (regions.index(extent.region), page - extent.region.first)
            for extent in memory.nodes[0].standby[priority]
            for page in range(extent.page, extent.page + extent.pages)
        ]
        assert there == listed
        assert memory.standby(priority, priority + 1) == len(listed)


# -- whose priority a page has ----------------------------------------------------------------------------


def machine_of(**options: Any) -> Machine:
    return boot(plugins=[Ws2003(paging_file=Size(MIB)), MemoryPriority(**options)], trace=True)


def priorities(machine: Machine) -> list[tuple[int, int]]:
    """(priority, pages) of the standby lists."""
    lists = machine.memory.nodes[0].standby
    return [(priority, each.pages) for priority, each in enumerate(lists) if each.pages]


def run(machine: Machine, process: Any, *requests: Any, priority: int | None = None) -> list[Any]:
    """Let a thread make these requests. Returns their results."""
    results = []

    def program() -> Iterator[Any]:
        for request in requests:
            result = yield request
            results.append(result)

    thread = machine.create_thread(process, program())
    if priority is not None:
        thread.page_priority = priority
    machine.run()
    machine.check()
    return results


def test_a_thread_begins_with_that_of_its_process_and_may_have_another() -> None:
    machine = machine_of()
    low = machine.create_process("low", page_priority=2)
    region = machine.memory.space(low).allocate(30)
    run(machine, low, Touch(region, 0, 10, accesses=0))
    run(machine, low, Touch(region, 10, 5, accesses=0), priority=6)
    run(machine, low, EmptyWorkingSet())
    assert priorities(machine) == [(2, 10), (6, 5)]


def test_who_takes_a_page_back_raises_its_priority_and_never_lowers_it() -> None:
    machine = machine_of()
    process = machine.create_process("p", page_priority=3)
    region = machine.memory.space(process).allocate(30)
    run(machine, process, Touch(region, accesses=0), EmptyWorkingSet())
    run(machine, process, Touch(region, 0, 10, accesses=0), EmptyWorkingSet(), priority=5)
    assert priorities(machine) == [(3, 20), (5, 10)]
    run(machine, process, Touch(region, accesses=0), EmptyWorkingSet(), priority=1)
    assert priorities(machine) == [(3, 20), (5, 10)]


def test_what_is_read_has_that_of_the_reader() -> None:
    """A page from the paging file with its neighbours, and a file with what is read ahead."""
    machine = machine_of()
    memory = machine.memory
    process = machine.create_process("p", page_priority=2)
    region = memory.space(process).allocate(16)
    assert region is not None
    run(machine, process, Touch(region, write=True, accesses=0), EmptyWorkingSet(), FlushModifiedList())
    assert priorities(machine) == [(2, 16)]
    hog = machine.sections.nonpaged(memory.available)
    assert hog is not None
    hog.space.release(hog)
    assert priorities(machine) == []
    run(machine, process, Touch(region, 3, 1, accesses=0), priority=1)
    assert priorities(machine) == [(1, 15)]
    cache = machine.file_cache
    opened = cache.open(cache.create("f", MIB), "sequential")
    run(machine, process, CopyRead(opened, 0, 4 * KIB, accesses=0), priority=4)
    assert cache.read_aheads == 1
    region = opened.mapping.region
    assert {extent.priority for extent in region.extents()} == {4}
    mapped = run(machine, process, MapFile(cache.create("g", MIB)))[0]
    run(machine, process, Touch(mapped, 0, 1, accesses=0), priority=7)
    found = {extent.priority for extent in mapped.extents() if extent.state == STANDBY}
    assert found == {7}


def test_counters_and_one_list_without_the_plugin() -> None:
    for plugins, reserve, normal in (
        ([MemoryPriority()], 7, 0),
        ([], 0, 7),
        ([MemoryPriority(lists=1)], 0, 7),
    ):
        machine = boot(plugins=[Ws2003(), *plugins])
        process = machine.create_process("p", page_priority=1)
        region = machine.memory.space(process).allocate(7)
        run(machine, process, Touch(region, accesses=0), EmptyWorkingSet())
        counters = machine.counters()
        assert counters[r"Memory\Standby Cache Reserve Bytes"] == reserve * PAGE
        assert counters[r"Memory\Standby Cache Normal Priority Bytes"] == normal * PAGE
        assert counters[r"Memory\Standby Cache Core Bytes"] == 0


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        (1, [5] * 8),
        (2, [3] * 4 + [5] * 4),
        (4, [1, 1, 3, 3, 5, 5, 7, 7]),
        (8, list(range(8))),
    ],
)
def test_priorities_share_lists_where_these_are_fewer(lists: int, expected: list[int]) -> None:
    machine = machine_of()
    feature = MemoryPriority(lists=lists)
    found = []
    for priority in range(8):
        process = machine.create_process("p", page_priority=priority)
        found.append(feature.page_priority(machine.create_thread(process, iter([]))))
    assert found == expected
    assert NORMAL_PRIORITY in expected


# -- what cannot be ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("priority", [-1, 8])
def test_priorities_are_0_to_7(priority: int) -> None:
    with pytest.raises(UserError, match=f"page priority {priority} of process 'p'; expected 0 to 7"):
        boot().create_process("p", page_priority=priority)
    with pytest.raises(UserError, match=r"workload\.scanner_priority"):
        ntlab.run("memory-priority", set={"workload.scanner_priority": priority}, seeds=1)


@pytest.mark.parametrize("lists", [0, 9])
def test_there_are_1_to_8_lists(lists: int) -> None:
    with pytest.raises(ValueError, match="out of range; expected 1 to 8"):
        MemoryPriority(lists=lists)


def test_a_plugin_that_gives_another_priority_is_named() -> None:
    @plugin(name="nine", summary="Pages of priority 9.", release="ws2008")
    class Nine:
        @hookimpl
        def page_priority(self) -> int:
            return 9

    machine = boot(plugins=[Nine()], hooks="checked")
    process = machine.create_process("p")
    region = machine.memory.space(process).allocate(1)
    with pytest.raises(
        PluginError, match=r"'nine', hook 'page_priority': answered 9; expected .*a priority, 0 to 7"
    ):
        run(machine, process, Touch(region, accesses=0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"program": Size(3 * MIB)}, "programs of 3211264 bytes; expected at most the 2097152 that are"),
        ({"memory": Size(1 << 45)}, r"memory: 35184372088832 bytes available; expected at most"),
    ],
)
def test_lunches_that_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        lunch(**change)


def test_without_a_paging_file_or_enough_time() -> None:
    with pytest.raises(UserError, match="no paging file"):
        AfterLunch().start(boot(plugins=[Ws2003(paging_file=Size(0))]))
    with pytest.raises(UserError, match="duration: the run ended before the user was back"):
        ntlab.run("memory-priority", set={"duration": "1 ms"}, seeds=1)
