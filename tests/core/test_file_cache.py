"""The file cache: what is read, where it goes and who waits, against models written apart and by hand."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlab.errors import SimulationError, UserError
from ntlab.hooks import hookimpl
from ntlab.hooks.file_cache import ReadAheadTarget
from ntlab.machine import (
    SYSTEM_CACHE,
    SYSTEM_CODE,
    CachePolicy,
    CopyRead,
    Disk,
    File,
    FileMapping,
    Free,
    IoPolicy,
    IoRequest,
    Machine,
    MapFile,
    OpenFile,
    Region,
    Request,
    Sleep,
    Touch,
)
from ntlab.machine.accesses import STATUS_IN_PAGE_ERROR, STATUS_NO_MEMORY
from ntlab.machine.extents import ACTIVE, STANDBY
from ntlab.plugin import option, plugin
from ntlab.quantities import GIB, KIB, MIB, MILLISECOND, TIB, Size
from ntlab.testing import boot, small_tables
from paged import results_of

PAGE = 4 * KIB
SECOND = 1000 * MILLISECOND


@plugin(name="caching", summary="A file cache as a test wants it.", release="ws2003")
class Caching:
    ahead: int = option(default=4, help="Pages of read-ahead.")
    target: ReadAheadTarget = option(default="standby", help="Where it goes.")
    cluster: int = option(default=1, help="Pages of a fault on a mapped file.")
    dummy: bool = option(default=False, help="The dummy page.")
    view: int = option(default=64, help="Pages of a view.")
    views: int = option(default=0, help="How many there are; 0 is any number.")
    sequential: int = option(default=2, help="Reads that are sequential.")
    limit: int = option(default=0, help="The I/O system's limit in pages; 0 is none.")
    adapter: int = option(default=0, help="The adapter's limit in pages; 0 is none.")
    working_set: int = option(default=0, help="Most pages of the kernel's working set.")

    @hookimpl
    def io_policy(self) -> IoPolicy:
        return IoPolicy(disk="ssd")

    @hookimpl
    def io_limit(self, request: IoRequest) -> int | None:
        return self.limit * PAGE or None

    @hookimpl
    def max_transfer(self, request: IoRequest) -> int | None:
        return self.adapter * PAGE or None

    @hookimpl
    def kernel_working_set_limits(self) -> tuple[int, int]:
        return 0, self.working_set

    @hookimpl
    def cache_policy(self) -> CachePolicy:
        return CachePolicy(
            view_size=Size(self.view * PAGE),
            address_space=Size(self.views * self.view * PAGE),
            sequential_reads=self.sequential,
        )

    @hookimpl
    def read_ahead_size(self, file: OpenFile) -> int:
        return self.ahead

    @hookimpl
    def read_ahead_target(self) -> ReadAheadTarget:
        return self.target

    @hookimpl
    def fault_cluster(self, mapping: FileMapping, page: int) -> int:
        return self.cluster

    @hookimpl
    def dummy_page(self) -> bool:
        return self.dummy


class Desk:
    """A machine with files on it, and a process that works with them."""

    def __init__(self, memory: int = 4096, *, hooks: Any = "direct", **options: Any) -> None:
        self.machine: Machine = boot(
            plugins=[Caching(**options)],
            tables=small_tables(2, memory=memory * PAGE),
            trace=True,
            hooks=hooks,
        )
        self.cache = self.machine.file_cache
        self.process = self.machine.create_process("p")
        self._files = 0

    def file(self, pages: int) -> File:
        self._files += 1
        return self.cache.create(f"file{self._files}", pages * PAGE)

    def open(self, pages: int, **how: Any) -> OpenFile:
        return self.cache.open(self.file(pages), **how)

    def map(self, pages: int) -> Region:
        return self.cache.map(self.machine.memory.space(self.process), self.file(pages))

    def start(self, *requests: Request) -> list[Any]:
        """Let a thread make these requests. Returns the list into which their results will be put."""
        return results_of(self.machine, self.process, *requests)

    def do(self, *requests: Request) -> list[Any]:
        """Let a thread make these requests, one after the other, and all that follows from each happen."""
        results = self.start(*(each for request in requests for each in (request, Sleep(SECOND))))
        self.machine.run()
        self.machine.check()
        return results[::2]

    def reads(self, file: OpenFile | Region) -> list[tuple[int, int]]:
        """(first page, pages) of the reads of a file so far, as they were handed to the I/O system."""
        mapping = file.mapping if isinstance(file, OpenFile) else file.backing
        assert isinstance(mapping, FileMapping)
        return [
            ((int(record["offset"]) - mapping.file.start) // PAGE, int(record["io_size"]) // PAGE)
            for record in self.machine.tracer.records("FileIo/Read")
            if record["file"] == mapping.file.name
        ]

    def states(self, file: OpenFile | Region) -> dict[int, int]:
        """The state of each page of a file that is in memory."""
        region = file.mapping.region if isinstance(file, OpenFile) else file
        return {
            page - region.first: extent.state
            for extent in region.extents()
            for page in range(extent.page, extent.page + extent.pages)
        }


def read(file: OpenFile, first: int, pages: int = 1) -> CopyRead:
    """Read whole pages, without a cost for the copying."""
    return CopyRead(file, first * PAGE, pages * PAGE, accesses=0)


def touch(region: Region, first: int, pages: int = 1, **how: Any) -> Touch:
    return Touch(region, first, pages, accesses=0, **how)


# -- what is read, and how it is counted ------------------------------------------------------------------


def test_a_cached_read_reads_what_it_needs_and_finds_it_the_next_time() -> None:
    desk = Desk(ahead=0)
    file = desk.open(100)
    assert desk.do(read(file, 10, 5), read(file, 12, 1), read(file, 13, 4), read(file, 0, 1)) == [None] * 4
    assert desk.reads(file) == [(10, 5), (15, 2), (0, 1)]
    assert (desk.cache.copy_reads, desk.cache.copy_read_hits) == (4, 1)
    assert desk.states(file) == dict.fromkeys((0, *range(10, 17)), ACTIVE)
    counters = desk.machine.counters()
    seconds = desk.machine.engine.now / 1e9
    assert counters[r"Cache\Copy Read Hits %"] == 25
    assert counters[r"Cache\Copy Reads/sec"] * seconds == pytest.approx(4)
    assert counters[r"Memory\Page Reads/sec"] * seconds == pytest.approx(3)
    assert counters[r"Memory\Pages Input/sec"] * seconds == pytest.approx(8)
    assert counters[r"Memory\System Cache Resident Bytes"] == 8 * PAGE


def test_bytes_are_read_in_whole_pages_and_a_last_page_that_is_not_full_as_well() -> None:
    desk = Desk(ahead=0)
    file = desk.cache.open(desk.cache.create("odd", 2 * PAGE + 1))
    desk.do(CopyRead(file, 100, 10), CopyRead(file, PAGE - 1, 2), CopyRead(file, 2 * PAGE, 1))
    assert desk.reads(file) == [(0, 1), (1, 1), (2, 1)]


def test_files_lie_one_behind_the_other() -> None:
    desk = Desk()
    one, two = desk.cache.create("one", 1), desk.cache.create("two", PAGE + 1)
    three = desk.cache.create("three", PAGE)
    assert [file.start for file in (one, two, three)] == [0, PAGE, 3 * PAGE]
    other = desk.machine.io.create_disk("D:", preset="ssd")
    assert desk.cache.create("four", 1, other).start == 0


def test_time_is_that_of_fault_transfer_and_copy() -> None:
    """A miss: the processor handles the fault while the disk reads; then each line is copied."""
    desk = Desk(ahead=0)
    policy, model = desk.machine.memory.policy, desk.cache.create("x", PAGE).device
    assert isinstance(model, Disk)
    file = desk.open(4)
    transfer = model.model.read_latency + PAGE * 10**9 // model.model.rate
    latency = desk.machine.memory.accesses.latency[0][0] or 1
    ends: list[int] = []

    def program() -> Iterator[Request]:
        for _ in range(2):
            yield CopyRead(file, 0, PAGE)
            ends.append(desk.machine.engine.now)

    desk.machine.create_thread(desk.process, program())
    desk.machine.run()
    assert policy.hard_fault < transfer
    assert ends == [transfer + 64 * latency, transfer + 2 * 64 * latency]


# -- read-ahead -------------------------------------------------------------------------------------------


class Model:
    """Which pages a reader's file has in memory and which reads there are, page by page."""

    def __init__(self, pages: int, ahead: int, sequential: int, view: int) -> None:
        self.pages, self.ahead, self.sequential, self.view = pages, ahead, sequential, view
        self.resident: set[int] = set()
        self.reads: list[tuple[int, int]] = []
        self.hits = self.used = self.read_ahead = 0
        self.row = 0
        self.expected = 0
        self.piece = range(0)
        self.fresh: set[int] = set()  # read ahead and not come to since the reader jumped

    def fetch(self, pages: Iterable[int]) -> int:
        """Read what is missing, each run of pages at once."""
        missing = [page for page in pages if page not in self.resident]
        for page in missing:
            if self.reads and page - 1 in missing:
                first, count = self.reads[-1]
                self.reads[-1] = first, count + 1
            else:
                self.reads.append((page, 1))
        self.resident.update(missing)
        return len(missing)

    def read(self, first: int, count: int) -> None:
        stop = first + count
        self.hits += all(page in self.resident for page in range(first, stop))
        if first == self.expected:
            self.row += 1
        else:
            self.row, self.piece, self.fresh = 1, range(0), set()
        self.expected = stop
        come = {page for page in self.fresh if page < stop}
        self.used += len(come)
        self.fresh -= come
        while first < stop:  # view by view
            end = min(stop, (first // self.view + 1) * self.view)
            self.fetch(range(first, end))
            first = end
        if self.row >= self.sequential and stop > self.piece.start:
            begin = max(self.piece.stop, stop)
            if begin < self.pages:
                self.piece = range(begin, min(begin + self.ahead, self.pages))
                new = set(self.piece) - self.resident
                self.fresh |= new
                self.read_ahead += self.fetch(self.piece)


@pytest.mark.once
@settings(max_examples=150)
@given(st.data())
def test_what_is_read_is_what_a_model_by_page_says(data: st.DataObject) -> None:
    pages = data.draw(st.integers(1, 60))
    ahead, sequential = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 4))
    view = data.draw(st.sampled_from([4, 16, 64]))
    model = Model(pages, ahead, sequential, view)
    desk = Desk(
        ahead=ahead,
        sequential=sequential,
        view=view,
        target=data.draw(st.sampled_from(["standby", "working_set"])),
    )
    file = desk.open(pages)
    requests = []
    for _ in range(data.draw(st.integers(1, 20))):
        follows = model.expected < pages and data.draw(st.booleans())
        first = model.expected if follows else data.draw(st.integers(0, pages - 1))
        count = data.draw(st.integers(1, min(9, pages - first)))
        requests.append(read(file, first, count))
        model.read(first, count)
    desk.do(*requests)
    # A read of several views has the next stretch read ahead before its own last ones are.
    assert sorted(desk.reads(file)) == sorted(model.reads)
    assert set(desk.states(file)) == model.resident
    assert desk.cache.copy_read_hits == model.hits
    assert (file.pages_ahead, file.pages_used) == (model.read_ahead, model.used)


def test_a_sequential_reader_misses_only_until_he_is_known() -> None:
    desk = Desk(ahead=8, sequential=3)
    file = desk.open(50)
    desk.do(*(read(file, page) for page in range(50)))
    assert desk.reads(file) == [(0, 1), (1, 1), (2, 1), *((first, 8) for first in range(3, 43, 8)), (43, 7)]
    assert desk.cache.copy_read_hits == 47
    assert desk.cache.read_aheads == 6
    assert (file.pages_ahead, file.pages_used) == (47, 47)


def test_what_a_reader_says_he_will_do_counts() -> None:
    desk = Desk(ahead=8, sequential=3)
    sequential, random = desk.open(50, access="sequential"), desk.open(50, access="random")
    desk.do(read(sequential, 0), read(random, 0), read(random, 1), read(random, 2), read(random, 3))
    assert desk.reads(sequential) == [(0, 1), (1, 8)]
    assert desk.reads(random) == [(0, 1), (1, 1), (2, 1), (3, 1)]


def test_nothing_is_read_ahead_beyond_the_end() -> None:
    desk = Desk(ahead=8, sequential=1)
    file = desk.open(5)
    desk.do(*(read(file, page) for page in range(5)))
    assert desk.reads(file) == [(0, 1), (1, 4)]


@pytest.mark.parametrize(("target", "state", "faults"), [("standby", STANDBY, 3), ("working_set", ACTIVE, 0)])
def test_read_ahead_goes_where_it_shall(target: ReadAheadTarget, state: int, faults: int) -> None:
    """From standby a page that is used takes a soft fault; in the working set it does not."""
    desk = Desk(ahead=8, sequential=1, target=target)
    file = desk.open(20)
    desk.do(read(file, 0))
    assert desk.states(file) == {0: ACTIVE, **dict.fromkeys(range(1, 9), state)}
    before = desk.machine.memory.transition_faults
    desk.do(read(file, 3, 3))
    assert desk.machine.memory.transition_faults - before == faults
    assert [desk.states(file)[page] for page in range(2, 7)] == [state, ACTIVE, ACTIVE, ACTIVE, state]
    assert file.mapping.region.space.faults == 1 + faults
    record, *_ = desk.machine.tracer.records("ReadAhead")
    assert (record["first"], record["pages"], record["to_standby"]) == (1, 8, target == "standby")


@pytest.mark.parametrize(("target", "trimmed"), [("standby", 0), ("working_set", 8)])
def test_in_the_working_set_it_pushes_others_out(target: ReadAheadTarget, trimmed: int) -> None:
    """The kernel's working set holds ten pages. Nine are code, one is read: no room for eight more."""
    desk = Desk(ahead=8, sequential=1, target=target, working_set=10)
    code = desk.machine.sections.space(SYSTEM_CODE).allocate(9)
    assert code is not None
    file = desk.open(20)
    desk.do(Touch(code, accesses=0), read(file, 0))
    assert code.space.trimmed == trimmed
    assert code.space.resident == 9 - trimmed
    assert file.mapping.region.space.resident == 1 + trimmed


def test_who_comes_before_the_read_ahead_is_done_waits_for_it() -> None:
    desk = Desk(ahead=8, sequential=1)
    file = desk.open(20)
    ends: list[int] = []

    def program() -> Iterator[Request]:
        yield read(file, 0)
        ends.append(desk.machine.engine.now)
        yield read(file, 1)
        ends.append(desk.machine.engine.now)

    desk.machine.create_thread(desk.process, program())
    desk.machine.run()
    model = file.mapping.file.device
    assert isinstance(model, Disk)
    first = model.model.read_latency + PAGE * 10**9 // model.model.rate
    ahead = model.model.read_latency + 8 * PAGE * 10**9 // model.model.rate
    assert ends[0] == first
    assert (
        ends[1] == ahead + desk.machine.memory.policy.transition_fault
    )  # both began at once: eight channels
    assert desk.reads(file)[:2] == [(0, 1), (1, 8)]
    assert desk.cache.copy_read_hits == 0  # it was on its way, not there


def test_read_ahead_takes_what_memory_there_is_and_harms_nobody() -> None:
    desk = Desk(memory=16, ahead=64, sequential=1)
    file = desk.open(200)
    assert desk.do(read(file, 0)) == [None]
    assert desk.reads(file) == [(0, 1), (1, 15)]
    assert (file.pages_ahead, desk.machine.memory.available) == (15, 15)
    assert desk.do(read(file, 100, 4)) == [None]  # takes the place of pages that nobody has used
    assert sum(desk.machine.memory.repurposed) >= 4


def test_without_any_memory_a_read_fails() -> None:
    desk = Desk(memory=8, ahead=0)
    keeper = desk.machine.memory.space(desk.process).allocate(8)
    assert keeper is not None
    file = desk.open(20)
    assert desk.do(Touch(keeper, write=True, accesses=0), read(file, 0, 3), Sleep(1)) == [
        None,
        STATUS_NO_MEMORY,
        None,
    ]
    assert desk.do(Free(keeper), read(file, 0, 3)) == [None, None]


# -- views ------------------------------------------------------------------------------------------------


def test_the_view_used_longest_ago_is_unmapped_and_its_pages_are_standby() -> None:
    desk = Desk(ahead=0, view=4, views=2)
    file = desk.open(40)
    desk.do(read(file, 0, 4), read(file, 4, 4), read(file, 1), read(file, 8))
    states = desk.states(file)
    assert {page for page in states if states[page] == ACTIVE} == {0, 1, 2, 3, 8}
    assert {page for page in states if states[page] == STANDBY} == {4, 5, 6, 7}
    assert file.mapping.region.space.trimmed == 4
    desk.do(read(file, 5))  # back by a soft fault, without a read
    assert desk.reads(file) == [(0, 4), (4, 4), (8, 1)]
    assert [record["first"] for record in desk.machine.tracer.records("UnmapView")] == [4, 0]


def test_a_read_goes_view_by_view() -> None:
    desk = Desk(ahead=0, view=4, views=1)
    file = desk.open(40)
    assert desk.do(read(file, 2, 9)) == [None]
    assert desk.reads(file) == [(2, 2), (4, 4), (8, 3)]
    assert [page for page, state in desk.states(file).items() if state == ACTIVE] == [8, 9, 10]


def test_who_finds_all_views_in_use_waits_for_one() -> None:
    desk = Desk(ahead=0, view=4, views=1)
    file, other = desk.open(8), desk.open(8)
    first, second = desk.start(read(file, 0, 8)), desk.start(read(other, 0, 8))
    desk.machine.run()
    desk.machine.check()
    assert (first, second) == ([None], [None])
    assert desk.reads(file) == desk.reads(other) == [(0, 4), (4, 4)]


@pytest.mark.parametrize(("target", "ahead"), [("working_set", 3), ("standby", 16)])
def test_read_ahead_through_views_ends_with_them(target: ReadAheadTarget, ahead: int) -> None:
    """One view of four pages: the reader's own, which may be shared, but none for what lies behind."""
    desk = Desk(ahead=16, sequential=1, view=4, views=1, target=target)
    file = desk.open(40)
    desk.do(read(file, 0))
    assert file.pages_ahead == ahead


# -- mapped files -----------------------------------------------------------------------------------------


def test_a_fault_on_a_mapped_file_reads_a_cluster() -> None:
    desk = Desk(cluster=8)
    region = desk.map(20)
    desk.do(touch(region, 3, 2), touch(region, 9), touch(region, 12), touch(region, 15, 5))
    assert desk.reads(region) == [(3, 8), (12, 8)]
    states = desk.states(region)
    assert {page for page, state in states.items() if state == ACTIVE} == {3, 4, 9, 12, 15, 16, 17, 18, 19}
    assert desk.machine.memory.hard_faults == 2
    assert desk.machine.memory.transition_faults == 6


@pytest.mark.parametrize(
    ("dummy", "expected"),
    [(False, [(4, 1), (8, 1), (0, 4), (5, 3), (9, 1)]), (True, [(4, 1), (8, 1), (0, 8), (9, 1)])],
)
def test_over_pages_in_memory_only_with_the_dummy_page(dummy: bool, expected: list[tuple[int, int]]) -> None:
    desk = Desk(cluster=1, dummy=dummy)
    region = desk.map(10)
    desk.do(touch(region, 4), touch(region, 8))
    kept = {extent.page: extent.frame for extent in region.extents()}
    caching = desk.machine.plugins[0]
    assert isinstance(caching, Caching)
    caching.cluster = 8
    desk.do(touch(region, 0, 10))
    assert desk.reads(region) == expected
    for page, frame in kept.items():
        extent, _ = region.space.at(page)
        assert extent is not None
        assert extent.frame + page - extent.page == frame  # what was there is there still
    assert set(desk.states(region).values()) == {ACTIVE}
    assert desk.machine.memory.pages(ACTIVE) == 10


def test_a_read_over_pages_in_memory_ends_with_a_missing_one() -> None:
    desk = Desk(cluster=1, dummy=True)
    region = desk.map(10)
    desk.do(touch(region, 2), touch(region, 4), touch(region, 5))
    caching = desk.machine.plugins[0]
    assert isinstance(caching, Caching)
    caching.cluster = 6
    desk.do(touch(region, 0))
    assert desk.reads(region)[3:] == [(0, 4)]


def test_a_mapped_file_is_gone_when_it_is_freed_and_may_be_mapped_again() -> None:
    desk = Desk(cluster=4)
    file = desk.file(10)
    committed = desk.machine.memory.committed
    [region] = desk.do(MapFile(file))
    desk.do(touch(region, 0, 10))
    assert desk.machine.memory.committed == committed  # the file holds its pages
    desk.do(Free(region))
    assert desk.machine.memory.pages(ACTIVE) == 0
    [region] = desk.do(MapFile(file, node=0))
    desk.do(touch(region, 0))
    assert desk.reads(region)[-1] == (0, 4)


def test_mappings_of_a_kind_exclude_each_other() -> None:
    desk = Desk()
    file = desk.file(4)
    one, two = desk.cache.open(file), desk.cache.open(file)
    assert one.mapping is two.mapping
    with pytest.raises(SimulationError, match="sharing its pages is not modelled"):
        desk.cache.map(desk.machine.memory.space(desk.process), file)
    region = desk.map(4)
    assert isinstance(region.backing, FileMapping)
    with pytest.raises(SimulationError, match="sharing its pages is not modelled"):
        desk.cache.open(region.backing.file)
    with pytest.raises(SimulationError, match="files in memory are only read"):
        desk.do(touch(region, 0, write=True))


# -- the I/O system's limit -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "adapter", "parts"),
    [(0, 0, [40]), (16, 0, [16, 16, 8]), (16, 12, [12, 12, 12, 4]), (12, 16, [12, 12, 12, 4]), (40, 0, [40])],
)
def test_a_read_of_memory_management_is_split_at_the_limit(
    limit: int, adapter: int, parts: list[int]
) -> None:
    desk = Desk(ahead=0, limit=limit, adapter=adapter)
    file = desk.open(40)
    desk.do(read(file, 0, 40))
    assert desk.reads(file) == [(0, 40)]
    records = desk.machine.tracer.records("DiskIo/Read")
    assert sorted(int(record["transfer_size"]) // PAGE for record in records) == sorted(parts)
    disk = file.mapping.file.device
    assert isinstance(disk, Disk)
    assert (disk.reads, disk.splits) == (len(parts), int(len(parts) > 1))


def test_the_limit_is_not_for_others() -> None:
    from ntlab.machine import Read

    desk = Desk(limit=1)
    desk.do(Read(desk.file(8), 0, 8 * PAGE))
    [record] = desk.machine.tracer.records("DiskIo/Read")
    assert record["transfer_size"] == 8 * PAGE


# -- whatever comes ---------------------------------------------------------------------------------------


@pytest.mark.once
@settings(max_examples=30)
@given(st.data())
def test_nothing_is_lost_whatever_is_read(data: st.DataObject) -> None:
    """Threads that read and touch at random, with few views, little memory and a small working set."""
    draw = data.draw
    desk = Desk(
        memory=draw(st.integers(24, 200)),
        hooks="checked",
        ahead=draw(st.integers(0, 20)),
        target=draw(st.sampled_from(["standby", "working_set"])),
        cluster=draw(st.integers(1, 20)),
        dummy=draw(st.booleans()),
        view=draw(st.sampled_from([4, 8])),
        views=draw(st.integers(0, 3)),
        sequential=draw(st.integers(1, 3)),
        limit=draw(st.integers(0, 4)),
        working_set=draw(st.integers(0, 30)),
    )
    files = [desk.open(40), desk.open(7, access="sequential"), desk.open(30)]
    regions = [desk.map(30), desk.map(12)]
    threads = []
    for _ in range(draw(st.integers(1, 4))):
        requests: list[Request] = []
        for _ in range(draw(st.integers(1, 12))):
            if draw(st.booleans()):
                region = draw(st.sampled_from(regions))
                first = draw(st.integers(0, region.pages - 1))
                requests.append(touch(region, first, draw(st.integers(1, region.pages - first))))
            else:
                file = draw(st.sampled_from(files))
                size = file.mapping.file.size
                offset = draw(st.integers(0, size - 1))
                requests.append(CopyRead(file, offset, draw(st.integers(1, size - offset)), accesses=1))
            if draw(st.booleans()):
                requests.append(Sleep(draw(st.integers(0, 1_000_000))))
        threads.append((requests, desk.start(*requests)))
    machine = desk.machine
    for moment in range(20):
        machine.run(moment * 200_000)
        machine.check()
    machine.run()
    machine.check()
    for requests, results in threads:
        assert len(results) == len(requests)
        assert set(results) <= {None, STATUS_NO_MEMORY}
    assert not machine.threads
    assert not machine.io.pending


def test_a_file_costs_what_is_read_of_it_and_by_reads_not_pages() -> None:
    """Of 50 GiB on a terabyte machine one GiB is read, a MiB at a time."""
    machine = boot(plugins=[Caching(cluster=256)], tables=small_tables(2, memory=TIB))
    tracemalloc.start()
    try:
        region = machine.file_cache.map(
            machine.memory.space(machine.create_process("p")), machine.file_cache.create("x", 50 * GIB)
        )
        program = (touch(region, first << 18, 1 << 16) for first in (0, 17, 30, 49))
        machine.create_thread(region.space.process, iter(program))
        machine.run()
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(extent.pages for extent in region.extents()) == GIB // PAGE
    assert machine.file_cache.read_sizes == {256: 1024}
    assert len(region.extents()) <= 1024
    assert size < MIB
    machine.check()


# -- what cannot be ---------------------------------------------------------------------------------------


def test_mistakes_are_named() -> None:
    desk = Desk()
    file = desk.open(4)
    for offset, length in ((0, 4 * PAGE + 1), (-1, 1), (0, 0), (4 * PAGE, 1)):
        with pytest.raises(
            SimulationError, match=f"{length} bytes at {offset} of file 'file1', which has 16384"
        ):
            CopyRead(file, offset, length)
    with pytest.raises(UserError, match="file 'empty' of 0 bytes; expected 1 byte or more"):
        desk.cache.create("empty", 0)
    with pytest.raises(UserError, match=r"file 'huge' of \d+ bytes; expected at most"):
        desk.cache.create("huge", 1 << 50)
    with pytest.raises(UserError, match=r"access 'backwards' .* expected normal or sequential or random"):
        desk.open(4, access="backwards")


@pytest.mark.parametrize(
    ("size", "space", "message"),
    [
        (1000, 0, "the size of a view: 1000 bytes; expected a multiple of the page size"),
        (8192, 4096, "a system cache of 4096 bytes; expected 0, or 8192 and more"),
    ],
)
def test_views_that_cannot_be_are_refused(size: int, space: int, message: str) -> None:
    cache = boot(plugins=[Views(size=size, space=space)]).file_cache
    file = cache.create("x", MIB)
    with pytest.raises(UserError, match=message):
        cache.open(file)


@plugin(name="views", summary="Views of any size.", release="ws2003")
class Views:
    size: int = option(default=1, help="Bytes.")
    space: int = option(default=0, help="Bytes.")

    @hookimpl
    def cache_policy(self) -> CachePolicy:
        return CachePolicy(view_size=Size(self.size), address_space=Size(self.space))


def test_what_is_broken_is_found() -> None:
    desk = Desk(ahead=0, view=4)
    file = desk.open(8)
    desk.do(read(file, 0, 8))
    region = file.mapping.region
    desk.cache.check()
    view = desk.cache.enter(file.mapping, region.first)
    assert view is not None
    desk.cache.leave(view)
    view.users = -1
    with pytest.raises(SimulationError, match="in use less than not at all"):
        desk.cache.check()
    view.users = 0
    del desk.cache._views[file.mapping, 1]
    with pytest.raises(SimulationError, match="not all of it in views"):
        desk.cache.check()
    region.extents()[0].dirty = True
    with pytest.raises(SimulationError, match="is changed"):
        desk.cache.check()


def test_a_machine_without_files_has_none_of_it() -> None:
    machine = boot(plugins=[Caching()])
    machine.run()
    assert machine.sections.spaces() == []
    assert machine.counters()[r"Cache\Copy Read Hits %"] == 0
    assert machine.file_cache.mappings == {}
    assert SYSTEM_CACHE not in [space.name for space in machine.memory.spaces.values()]


def test_what_cannot_be_read_of_a_file_is_told_to_whoever_needs_it() -> None:
    """Reading ahead tells nobody; a read, and a touch of a view, are told when it is their turn."""
    desk = Desk(ahead=4)
    file, other = desk.file(16), desk.file(16)
    disk = file.device
    assert isinstance(disk, Disk)
    for each in file, other:
        disk.unreadable.add(each.start + 6 * PAGE, each.start + 6 * PAGE + 1)
    opened = desk.cache.open(file)
    reads = [CopyRead(opened, page * PAGE, PAGE, accesses=0) for page in range(8)]
    assert desk.do(*reads) == [None] * 6 + [STATUS_IN_PAGE_ERROR, None]
    view = desk.cache.map(desk.machine.memory.space(desk.process), other)
    touched = desk.do(Touch(view, 6, 1, accesses=0), Touch(view, 7, 1, accesses=0))
    assert touched == [STATUS_IN_PAGE_ERROR, None]
