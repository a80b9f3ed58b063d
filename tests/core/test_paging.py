"""Paging: small cases by hand, then anything at all with the contents of every page accounted for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlab.errors import SimulationError, UserError
from ntlab.hooks import hookimpl
from ntlab.machine import FlushModifiedList, Machine, Memory, PagingPolicy, Region, Touch
from ntlab.machine.accesses import STATUS_IN_PAGE_ERROR, STATUS_NO_MEMORY
from ntlab.machine.extents import ACTIVE, MODIFIED, STANDBY, TRANSITION
from ntlab.machine.paging import PAGE_MASK, SPACE_SHIFT, number
from ntlab.plugin import option, plugin
from ntlab.testing import boot, small_tables
from ntlab.tracing import Tracer
from paged import PAGE, Box, Contents, Pager


def test_pages_are_written_in_list_order_into_the_first_free_run() -> None:
    box = Box(6, limit=4)
    box.write(5, 0, 3, 1, 2, 4)
    assert box.slots() == {5: 0, 0: 1, 3: 2, 1: 3, 2: 4, 4: 5}
    assert box.transfers("Write") == [(0, 4), (4, 2)]
    assert [box.state(page) for page in range(6)] == [STANDBY] * 6
    assert box.paging.write_sizes == {4: 1, 2: 1}


def test_a_changed_page_leaves_a_hole_and_the_first_run_that_fits_takes_the_next_cluster() -> None:
    box = Box(8, limit=4)
    box.write(0, 1, 2, 3, 4, 5)
    box.do(box.touch(1))
    assert box.paging.file.free_runs() == [(1, 1), (6, 10)]
    box.do(box.touch(6))
    box.trim(1, 6)
    box.do(FlushModifiedList())
    assert box.slots() == {0: 0, 2: 2, 3: 3, 4: 4, 5: 5, 1: 6, 6: 7}  # two pages do not fit into the hole
    box.do(box.touch(7))
    box.trim(7)
    box.do(FlushModifiedList())
    assert box.slots()[7] == 1


def test_reading_a_page_keeps_its_slot() -> None:
    box = Box(2)
    box.write(0, 1)
    box.do(box.touch(0, 2, write=False))
    assert box.slots() == {0: 0, 1: 1}
    box.trim(0, 1)
    assert [box.state(0), box.state(1)] == [STANDBY, STANDBY]  # nothing to write


def test_where_nothing_fits_a_write_shrinks_to_the_longest_free_run() -> None:
    box = Box(12, slots=8, limit=4)
    box.write(*range(8))
    for page in (1, 3, 4, 7):
        box.do(box.touch(page))
    assert box.paging.file.free_runs() == [(1, 1), (3, 2), (7, 1)]
    before = len(box.transfers("Write"))
    box.trim(1, 3, 4, 7)
    box.do(FlushModifiedList())
    assert box.transfers("Write")[before:] == [(3, 2), (1, 1), (7, 1)]


def gone(box: Box) -> None:
    """What was on the standby list is there no more."""
    everything = box.allocate(64)
    box.machine.memory.populate(everything, 0)
    box.region.space.release(everything)
    assert box.machine.memory.available == 64
    assert not box.region.extents()


def test_a_page_that_cannot_be_read_is_told_and_harms_nobody() -> None:
    box = Box(4, read=1)
    box.write(0, 1, 2, 3)
    gone(box)
    disk = box.paging.disk
    slot = box.slots()[2]
    disk.unreadable.add(slot * PAGE + 512, slot * PAGE + 513)
    touches = [box.touch(page, write=False) for page in range(4)]
    assert box.do(*touches) == [None, None, STATUS_IN_PAGE_ERROR, None]
    assert box.state(2) is None
    assert box.machine.memory.available == 64 - 3
    assert box.do(touches[2]) == [STATUS_IN_PAGE_ERROR]
    waiting = [box.start(touches[2]) for _ in range(3)]
    before = disk.reads
    box.machine.run()
    assert waiting == [[STATUS_IN_PAGE_ERROR]] * 3
    assert disk.reads == before + 3  # each has tried
    disk.unreadable.remove(0, 1 << 40)
    assert box.do(touches[2]) == [None]


def test_what_is_written_again_can_be_read_again() -> None:
    box = Box(2, read=1)
    disk = box.paging.disk
    disk.unreadable.add(0, 1 << 20)
    box.write(0, 1)
    gone(box)
    assert box.do(box.touch(0, 2, write=False)) == [None]
    assert list(disk.unreadable) == [(2 * PAGE, 1 << 20)]


def test_a_full_file_makes_the_writer_give_up_until_a_slot_is_free() -> None:
    box = Box(6, slots=4, limit=4)
    box.do(box.touch(0, 6))
    box.trim(*range(6))
    assert box.do(FlushModifiedList()) == [False]
    assert box.paging.full == 1
    assert (box.paging.file.free, box.machine.memory.modified.pages) == (0, 2)
    assert box.do(FlushModifiedList()) == [False]
    box.paging.flush()
    box.do(box.touch(0, 2))  # frees two slots
    assert box.machine.memory.modified.pages == 2  # nobody asked since
    assert box.do(FlushModifiedList()) == [True]
    assert box.slots() == {2: 2, 3: 3, 4: 0, 5: 1}


def test_a_thread_that_needs_memory_waits_for_the_writer() -> None:
    box = Box(10, memory=8, slots=16)
    assert box.do(box.touch(0, 8)) == [None]
    box.trim(*range(8))
    assert box.do(box.touch(8, 2)) == [None]
    assert box.state(8) == ACTIVE
    assert box.transfers("Write")


def test_memory_and_paging_file_full_is_a_failed_request_and_no_hang() -> None:
    box = Box(12, memory=8, slots=4, limit=4)
    box.do(box.touch(0, 8))
    box.trim(*range(8))
    assert box.do(box.touch(8, 4)) == [None]  # pages 0 to 3 are written, so their frames can be had
    box.trim(8, 9, 10, 11)
    assert box.slots() == {0: 0, 1: 1, 2: 2, 3: 3}
    assert box.do(box.touch(4, 4), box.touch(0, 4)) == [None, STATUS_NO_MEMORY]
    assert box.do(box.touch(8, 4)) == [None]  # these are still in memory
    assert box.machine.memory.commit_limit == 12
    assert box.machine.memory.space(box.process).allocate(1) is None


def test_who_waits_for_the_writer_is_told_when_the_file_is_full() -> None:
    box = Box(8, memory=4, slots=4, limit=4)
    box.write(0, 1, 2, 3)
    box.do(box.touch(4, 4))
    box.trim(4, 5, 6, 7)
    assert box.do(box.touch(0)) == [STATUS_NO_MEMORY]  # nobody knew yet that there is no slot
    assert box.paging.full == 1


def test_who_waits_for_the_writer_is_told_when_others_have_taken_back_all_that_it_would_write() -> None:
    box = Box(9, memory=8)
    box.do(box.touch(0, 8))
    box.trim(*range(8))
    results = box.start(box.touch(8))
    box.do(box.touch(0, 8, write=False))
    assert results == [STATUS_NO_MEMORY]
    assert not box.transfers("Write")


def test_pages_that_will_be_written_are_not_asked_for_again_by_those_who_wait_for_them() -> None:
    asked: list[int] = []

    @plugin(name="trims", summary="Trims what is missing, in order.", release="ws2003")
    class Trims:
        @hookimpl
        def pages_short(self, memory: Memory, pages: int) -> None:
            asked.append(pages)
            working_set = memory.working_sets[0]
            memory.trim(working_set, memory.oldest(working_set, pages))

    box = Box(48, memory=32, plugins=[Trims()], slots=64, limit=4)
    box.do(box.touch(0, 32))
    results = [box.start(box.touch(32 + 2 * number, 2)) for number in range(8)]
    box.machine.run()
    box.check()
    assert results == [[None]] * 8
    assert sum(asked) == box.region.space.trimmed == 16
    assert box.transfers("Write") == [(0, 4), (4, 4), (8, 4), (12, 4)]


def test_a_page_changed_while_it_is_written_stays_changed() -> None:
    box = Box(2)
    box.do(box.touch(0, 2))
    box.trim(0, 1)
    box.paging.flush()
    box.machine.run(box.machine.engine.now + 1000)  # a write takes milliseconds
    assert [box.state(0), box.state(1)] == [TRANSITION, TRANSITION]
    box.check()
    box.start(box.touch(0))
    box.machine.run(box.machine.engine.now + 10_000)
    assert (box.state(0), box.state(1)) == (ACTIVE, TRANSITION)
    assert box.slots() == {1: 1}
    box.machine.run()
    box.check()
    assert (box.state(0), box.state(1)) == (ACTIVE, STANDBY)
    box.trim(0)
    assert box.state(0) == MODIFIED


def test_a_page_read_while_it_is_written_needs_no_second_write() -> None:
    box = Box(1)
    box.do(box.touch(0))
    box.trim(0)
    box.paging.flush()
    box.machine.run(box.machine.engine.now + 1000)
    box.do(box.touch(0, write=False))
    assert (box.state(0), box.slots()) == (ACTIVE, {0: 0})
    box.trim(0)
    assert box.state(0) == STANDBY


def test_a_fault_reads_neighbours_that_are_neighbours_in_the_file_too() -> None:
    box = Box(8, limit=8, read=4)
    box.write(2, 3, 4, 0, 1, 5, 6, 7)
    box.evict()
    assert [box.state(page) for page in range(8)] == [None] * 8
    box.do(box.touch(3, write=False))
    assert box.transfers("Read") == [(0, 3)]  # pages 2, 3, 4; page 5 follows elsewhere
    assert [box.state(page) for page in range(8)] == [None, None, STANDBY, ACTIVE, STANDBY, None, None, None]
    box.do(box.touch(0, 8, write=False))
    assert box.transfers("Read")[1:] == [(3, 2), (5, 3)]
    assert box.paging.read_sizes == {3: 2, 2: 1}
    assert [box.state(page) for page in range(8)] == [ACTIVE] * 8


def test_a_read_is_no_larger_than_its_limit_and_stops_at_what_is_in_memory() -> None:
    box = Box(8, limit=8, read=4)
    box.write(*range(8))
    box.do(box.touch(2, write=False))
    box.evict()
    box.do(box.touch(4, write=False))
    assert box.transfers("Read") == [(4, 4)]
    box.do(box.touch(3, write=False))
    assert box.transfers("Read")[1:] == [(3, 1)]  # 2 and 4 to 7 are in memory
    box.do(box.touch(1, write=False))
    assert box.transfers("Read")[2:] == [(0, 2)]


def test_with_the_dummy_page_it_goes_over_what_is_in_memory() -> None:
    box = Box(10, limit=10, read=8, dummy=True)
    box.write(*range(10))
    box.do(box.touch(2, write=False), box.touch(5, write=False))  # back from the standby list
    kept = [box.state(page) for page in (2, 5)]
    frames = [extent.frame for extent in box.region.extents() if extent.state == ACTIVE]
    box.evict()
    box.do(box.touch(3, 4, write=False))
    assert box.transfers("Read") == [(3, 7)]  # page 2 would be the eighth, and is there
    assert [box.state(page) for page in (3, 4, 5, 6, 7, 8, 9)] == [ACTIVE] * 4 + [STANDBY] * 3
    box.do(box.touch(0, write=False))
    assert box.transfers("Read")[1:] == [(0, 2)]
    assert [box.state(page) for page in (2, 5)] == kept == [ACTIVE, ACTIVE]
    assert [box.region.space.at(box.region.first + page)[0] is not None for page in range(10)] == [True] * 10
    assert {extent.frame for extent in box.region.extents()} >= set(frames)  # what was there is there still


def test_where_memory_is_scarce_a_read_begins_with_what_was_asked_for() -> None:
    box = Box(6, memory=2, slots=6)
    for pages in ((0, 1), (2, 3), (4, 5)):
        box.write(*pages)
    assert box.do(box.touch(3, write=False)) == [None]
    assert box.transfers("Read") == [(3, 1)]


def test_a_read_of_slots_that_are_being_written_waits_for_the_write() -> None:
    box = Box(1, memory=4, disk="ssd")  # serves several requests at a time
    box.do(box.touch(0))
    box.trim(0)
    box.paging.flush()
    engine = box.machine.engine
    box.machine.run(engine.now + 1000)
    box.start(box.touch(0, write=False))
    box.machine.run(engine.now + 10_000)
    box.trim(0)
    hog = box.allocate(4)
    box.start(Touch(hog, accesses=0))
    box.machine.run(engine.now + 20_000)
    assert box.state(0) is None
    hog.space.release(hog)
    assert box.do(box.touch(0, write=False)) == [None]
    names = [record.name for record in box.machine.tracer.records() if record.name.startswith("FileIo")]
    assert names == ["FileIo/Write", "FileIo/OperationEnd", "FileIo/Read", "FileIo/OperationEnd"]


def test_threads_that_need_the_same_page_share_one_read() -> None:
    box = Box(4)
    box.write(0, 1, 2, 3)
    box.evict()
    results = [box.start(box.touch(page, write=False)) for page in (0, 0, 2)]
    box.machine.run()
    box.check()
    assert results == [[None], [None], [None]]
    assert box.transfers("Read") == [(0, 4)]


@pytest.mark.parametrize(
    ("low_free", "high_modified", "low_available", "written"),
    [
        (60, 3, 0, True),  # 56 free, 8 modified: more than 3
        (60, 20, 0, True),  # more than a sixteenth of the available ones, which is 3
        (50, 3, 0, False),  # enough are free
        (0, 0, 60, True),
        (0, 0, 0, False),
    ],
)
def test_the_writer_wakes_by_its_thresholds(
    low_free: int, high_modified: int, low_available: int, written: bool
) -> None:
    box = Box(8, low_free=low_free, high_modified=high_modified, low_available=low_available)
    box.do(box.touch(0, 8))
    box.trim(*range(8))
    box.machine.run()
    assert bool(box.transfers("Write")) is written


def test_records_say_who_and_how() -> None:
    box = Box(2)
    box.write(0, 1)
    box.evict()
    box.do(box.touch(0, write=False))
    [write] = box.machine.tracer.records("FileIo/Write")
    [read] = box.machine.tracer.records("FileIo/Read")
    assert (write["pid"], write["file"], write["io_flags"]) == (4, "C:\\pagefile.sys", 3)
    assert (read["pid"], read["offset"], read["io_size"]) == (box.process.id, 0, 2 * PAGE)
    ends = [record["irp"] for record in box.machine.tracer.records("FileIo/OperationEnd")]
    assert ends == [write["irp"], read["irp"]]
    assert [record["transfer_size"] for record in box.machine.tracer.records("DiskIo/Write")] == [2 * PAGE]


def test_counters() -> None:
    box = Box(4, slots=8, limit=2)
    box.write(0, 1, 2, 3)
    box.evict()
    box.do(box.touch(0, 4, write=False), box.touch(1))
    seconds = box.machine.engine.now / 1e9
    counters = box.machine.counters()
    assert counters[r"Memory\Pages Output/sec"] * seconds == pytest.approx(4)
    assert counters[r"Memory\Page Writes/sec"] * seconds == pytest.approx(2)
    assert counters[r"Memory\Pages Input/sec"] * seconds == pytest.approx(4)
    assert counters[r"Memory\Page Reads/sec"] * seconds == pytest.approx(1)
    assert counters[r"Paging File(\??\C:\pagefile.sys)\% Usage"] == 37.5
    assert counters[r"Paging File(\??\C:\pagefile.sys)\% Usage Peak"] == 50


def test_a_release_frees_the_slots() -> None:
    box = Box(4)
    box.write(0, 1, 2, 3)
    box.region.space.release(box.region)
    assert box.paging.file.used == 0
    box.check()


def test_initial_fragmentation_comes_off_the_commit_limit() -> None:
    box = Box(2, slots=16, fragmentation=0.25)
    assert box.paging.file.free == 12
    assert box.machine.memory.commit_limit == 64 + 12


def test_what_cannot_be_is_one_clear_message() -> None:
    with pytest.raises(UserError, match="a paging file of 4 pages, written 8 at a time"):
        Box(1, slots=4, limit=8)
    with pytest.raises(UserError, match="expected at most"):
        Box(1, slots=1 << 40)
    with pytest.raises(ValueError, match="initial_fragmentation must be 0 to 1"):
        PagingPolicy(initial_fragmentation=1.5)


@plugin(name="bad", summary="Gives clusters that cannot be.", release="ws2003")
class Bad:
    pages: tuple[int, ...] = option(default=(), help="Offsets from the head.")

    @hookimpl
    def write_cluster(self, head: int) -> list[int]:
        return [head + offset for offset in self.pages]


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ((), "gave 0 pages"),
        ((0, 1, 2, 3, 4), "gave 5 pages, not 1 to 4"),
        ((0, 40), "not in memory"),
        ((0, 1), "not modified"),
        ((0, 0), "not modified"),
    ],
)
def test_a_plugin_that_gives_an_impossible_cluster_is_stopped(offsets: tuple[int, ...], message: str) -> None:
    box = Box(8, plugins=[Bad(pages=offsets)])
    box.do(box.touch(0, 8))
    box.trim(0)
    with pytest.raises(SimulationError, match=message):
        box.do(FlushModifiedList())


def test_a_machine_without_paging_file_flushes_nothing() -> None:
    machine = boot(tables=small_tables(2, memory=8 * PAGE))
    assert machine.paging is None
    process = machine.create_process("p")
    results = []

    def program() -> Any:
        results.append((yield FlushModifiedList()))

    machine.create_thread(process, program())
    machine.run()
    assert results == [False]


@pytest.mark.once
@settings(max_examples=120, deadline=None)
@given(
    st.data(),
    st.integers(4, 14),
    st.integers(6, 30),
    st.sampled_from(["sas15k", "ssd"]),
    st.integers(1, 6),
    st.integers(1, 6),
    st.booleans(),
)
def test_whatever_happens_every_page_keeps_its_contents(
    data: st.DataObject, memory: int, slots: int, disk: str, limit: int, read: int, dummy: bool
) -> None:
    tracer = Tracer()
    contents = Contents(tracer)
    options = Pager(slots=slots, limit=min(limit, slots), read=read, disk=disk, dummy=dummy)
    machine = Machine(small_tables(2, memory=memory * PAGE), [options], tracer=tracer).boot()
    paging = machine.paging
    assert paging is not None
    contents.attach(paging)
    regions: list[Region] = []
    for index in range(2):
        region = machine.memory.space(machine.create_process(f"p{index}")).allocate(9)
        if region is not None:
            regions.append(region)
    if not regions:
        return
    changed: set[int] = set()  # pages that some thread has written to

    def program(region: Region, page: int, pages: int, write: bool) -> Any:
        failed = yield Touch(region, page, pages, write=write, accesses=0)
        if write and failed is None:
            first = number(region.space, region.first) + page
            changed.update(range(first, first + pages))

    for _ in range(data.draw(st.integers(1, 30), label="steps")):
        region = data.draw(st.sampled_from(regions), label="region")
        action = data.draw(st.sampled_from(["touch", "touch", "trim", "flush", "wait"]), label="action")
        if action == "touch":
            page = data.draw(st.integers(0, 8), label="page")
            pages = data.draw(st.integers(1, min(3, 9 - page)), label="pages")
            machine.create_thread(
                region.space.process, program(region, page, pages, data.draw(st.booleans(), label="write"))
            )
        elif action == "trim":
            active = [extent for extent in region.extents() if extent.state == ACTIVE]
            some = data.draw(st.permutations(active), label="trimmed")
            machine.memory.trim(region.space.working_set, some[: data.draw(st.integers(0, len(some)))])
        elif action == "flush":
            paging.flush()
        machine.run(machine.engine.now + data.draw(st.sampled_from([0, 1_000, 500_000, 30_000_000])))
        machine.memory.check()
        paging.check()
        for page in changed:
            extent, _ = machine.memory.spaces[page >> SPACE_SHIFT].at(page & PAGE_MASK)
            stored = page in paging.file.slot_of
            assert stored or (extent is not None and extent.dirty), "a changed page is lost"
    machine.run()
    machine.memory.check()
    paging.check()


def test_the_contents_model_sees_an_old_copy() -> None:
    """The test above can fail: a slot that keeps its owner although the page has changed is found."""
    tracer = Tracer()
    contents = Contents(tracer)
    machine = Machine(small_tables(2, memory=8 * PAGE), [Pager()], tracer=tracer).boot()
    paging = machine.paging
    assert paging is not None
    paging.changed = lambda region, page, stop: None  # type: ignore[method-assign]
    contents.attach(paging)
    region = machine.memory.space(machine.create_process("p")).allocate(2)
    assert region is not None

    def once() -> None:
        machine.create_thread(region.space.process, iter([Touch(region, write=True, accesses=0)]))
        machine.run()

    once()
    machine.memory.trim(region.space.working_set, region.extents())
    paging.flush()
    machine.run()
    once()
    with pytest.raises(SimulationError, match="still has a slot"):
        paging.check()
