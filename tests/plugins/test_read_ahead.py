"""M1 and M2: the claims, that they fail without the mechanism, each option by hand, and closed forms."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ntlab
from judging import failing
from ntlab.errors import UserError
from ntlab.machine import CopyRead, FlushModifiedList, Machine, Request, Sleep, Touch
from ntlab.machine.extents import ACTIVE
from ntlab.machine.paging import first_disk
from ntlab.quantities import KIB, MIB, SECOND, Size
from ntlab.testing import boot, conformance
from ntlab.topology import Tables, load
from ntlab_read_ahead import ReadAhead
from ntlab_read_ahead.workloads import Rereader, Searcher, Streams
from ntlab_ws2003 import Ws2003

HWLOC = Path(__file__).parents[3] / "shared" / "data" / "hwloc"
PAGE = 4 * KIB
NEUTRAL: dict[str, Any] = {
    "size": 64 * KIB,
    "target": "working_set",
    "io_limit_size": 64 * KIB,
    "cluster": 64 * KIB,
    "dummy": False,
}


def alone(**options: Any) -> ReadAhead:
    """The plugin with nothing on but these options."""
    return ReadAhead(**(NEUTRAL | options))


def live(
    workload: Searcher | Rereader | Streams,
    *plugins: object,
    tables: Tables | None = None,
    baseline: Ws2003 | None = None,
) -> tuple[dict[str, float], Machine]:
    """What a workload measures, and the machine that has lived through it."""
    machine = boot(2, [baseline or Ws2003(), *plugins], tables=tables, trace=True)
    workload.start(machine)
    machine.run()
    machine.check()
    assert not machine.threads
    return {metric.name: metric.value for metric in workload.measure(machine)}, machine


def do(machine: Machine, *requests: Request) -> None:
    """Let a thread make these requests, one after the other, and all that follows from each happen."""

    def program() -> Iterator[Request]:
        for request in requests:
            yield request
            yield Sleep(SECOND)

    machine.create_thread(machine.create_process("p"), program())
    machine.run()
    machine.check()


def lengths(machine: Machine, event: str, field: str) -> list[int]:
    return [int(record[field]) for record in machine.tracer.records(event)]


# -- claims ------------------------------------------------------------------------------------------------

test_conformance = conformance("read_ahead")

TARGET = {f"read-ahead-target-{what}" for what in ("evictions", "proportional", "price")}
SIZE = {"read-ahead-target-number", "read-ahead-target-hits", "read-ahead-size-waste"}
SIZE |= {"read-ahead-size-evictions", "read-ahead-io-cached", "read-ahead-io-splits"}
DUMMY = {f"read-ahead-io-dummy{what}" for what in ("", "-paged", "-time")}
STREAMS = {f"read-ahead-streams-{what}" for what in ("rate", "reads", "seeks", "alone")}
IO = {
    f"read-ahead-io-{what}" for what in ("paged", "mapped", "cached", "size", "splits", "dummy", "dummy-time")
}


@pytest.mark.parametrize(
    ("change", "fail"),
    [
        ({"read_ahead.target": "working_set"}, TARGET | {"read-ahead-size-evictions"}),
        ({"read_ahead.size": "64 KiB"}, SIZE),
        ({"read_ahead.io_limit_size": "64 KiB"}, IO - DUMMY | {"read-ahead-streams-reads"}),
        (
            {"read_ahead.cluster": "64 KiB"},
            STREAMS | {f"read-ahead-io-{what}" for what in ("paged", "mapped", "size")},
        ),
        ({"read_ahead.dummy": False}, DUMMY),
    ],
)
def test_each_option_carries_its_own_claims(change: dict[str, Any], fail: set[str]) -> None:
    experiments = ("read-ahead-target", "read-ahead-size", "read-ahead-io", "read-ahead-streams")
    assert set().union(*(failing(name, change) for name in experiments)) == fail


def test_with_room_for_everybody_nobody_is_evicted() -> None:
    """What the claims on evictions are about: a working set that is full."""
    result = ntlab.run("read-ahead-target", set={"ws2003.system_working_set_maximum": 0})
    assert all(run.value("hot_evictions") == 0 for run in result.runs)


# -- closed forms ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read_on", [0.1, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("target", ["working_set", "standby"])
@pytest.mark.parametrize(("hot", "limit"), [(100, 300), (400, 800), (200, 1000)])
def test_evictions_are_those_of_a_queue(target: Any, read_on: float, hot: int, limit: int) -> None:
    """First in, first out: once `limit` pages have come, each further page of a file pushes one out, and of
    what it pushes out the share hot / limit is hot, comes back, and pushes out another. So F pages make
    F * hot / (limit - hot) evictions, in whole turns of the queue."""
    files = 100
    workload = Searcher(files=files, read_on=read_on, hot=hot * PAGE)
    found, machine = live(
        workload,
        ReadAhead(target=target),
        baseline=Ws2003(system_working_set_minimum=0, system_working_set_maximum=limit),
    )
    entered = files * 3 + (files * 32 if target == "working_set" else round(files * 32 * read_on))
    expected = (entered - (limit - hot)) * hot / (limit - hot)
    # Pages of one read come together: while some of the hot ones are out, the queue is that much longer.
    late = 32 if target == "working_set" else 1
    assert (
        (entered - (limit - hot)) * hot / (limit - hot + late) - hot
        <= found["hot_evictions"]
        <= expected + hot
    )
    assert found["read_ahead"] == files * 32 * PAGE
    assert found["unused"] == (files * 32 - round(files * 32 * read_on)) * PAGE
    assert found["hot_evictions"] - found["hot_faults"] in range(hot)  # what is out at the end
    assert machine.memory.repurposed == [0] * 8


@pytest.mark.parametrize(
    ("options", "piece"), [(None, 64 * KIB), ({}, MIB), ({"cluster": 256 * KIB}, 256 * KIB)]
)
def test_streams_take_the_time_of_their_seeks(options: dict[str, Any] | None, piece: int) -> None:
    """The disk is never idle, as one program's read waits while the other's is served; each read is a seek
    over the distance between the files, half a turn, and its transfer."""
    programs, size = 2, 4 * MIB
    plugins = [] if options is None else [ReadAhead(**options)]
    found, machine = live(Streams(programs=programs, file=Size(size)), *plugins)
    disk = first_disk(machine)
    model = disk.model
    reads = programs * size // piece
    assert model.seek is not None
    # From one file to the other it is a quarter of the disk, to a cylinder.
    cylinder = model.capacity // model.cylinders
    distance = model.capacity // 2 // programs // cylinder
    turn = 60 * SECOND // model.rpm
    nearest, farthest = (
        model.controller + model.seek(distance + error) + turn // 2 + piece * SECOND // model.rate
        for error in (-1, 1)
    )
    other = SECOND // 1000  # the first seek is shorter, the last read has to be completed
    assert (reads - 1) * nearest < found["time"] < reads * farthest + other
    assert found["reads"] == found["seeks"] == reads


def test_hits_are_all_but_the_heads() -> None:
    for size, ahead in ((64 * KIB, 2), (128 * KIB, 1)):
        found, _ = live(Searcher(files=10), alone(size=size))
        misses = 10 * (3 + ahead)  # the page behind the head is on its way when it is wanted
        assert found["hit_ratio"] == pytest.approx(1 - misses / (10 * 35))
        assert found["read_aheads"] == 10 * ahead


# -- each option by hand -------------------------------------------------------------------------------------


def cached(*plugins: object, pages: int = 512, **how: Any) -> list[int]:
    """The lengths of the reads for a file that is read page by page from its beginning, as they are asked."""
    machine = boot(plugins=[Ws2003(), *plugins], trace=True)
    file = machine.file_cache.open(machine.file_cache.create("x", pages * PAGE), **how)
    do(machine, *(CopyRead(file, page * PAGE, PAGE, accesses=0) for page in range(pages)))
    return lengths(machine, "FileIo/Read", "io_size")


def test_read_ahead_is_twice_as_large() -> None:
    assert cached()[:6] == [PAGE] * 3 + [64 * KIB] * 3
    assert cached(ReadAhead())[:6] == [PAGE] * 3 + [128 * KIB] * 3
    assert cached(ReadAhead(size=MIB), pages=900)[:5] == [PAGE] * 3 + [MIB] * 2
    assert cached(ReadAhead(), access="sequential")[:3] == [PAGE] + [256 * KIB] * 2
    assert cached(access="sequential")[:3] == [PAGE] + [128 * KIB] * 2


def test_reads_are_split_at_the_limit() -> None:
    for limit, expected in ((64 * KIB, 64 * KIB), (96 * KIB, 96 * KIB), (MIB, 128 * KIB)):
        machine = boot(plugins=[Ws2003(), ReadAhead(io_limit_size=limit)], trace=True)
        file = machine.file_cache.open(machine.file_cache.create("x", MIB))
        do(machine, *(CopyRead(file, page * PAGE, PAGE, accesses=0) for page in range(4)))
        assert max(lengths(machine, "DiskIo/Read", "transfer_size")) == expected
        assert max(lengths(machine, "FileIo/Read", "io_size")) == 128 * KIB


def test_the_adapter_has_its_own_limit() -> None:
    machine = boot(plugins=[Ws2003(adapter_transfer=32 * KIB), ReadAhead()], trace=True)
    file = machine.file_cache.open(machine.file_cache.create("x", MIB))
    do(machine, CopyRead(file, 0, MIB, accesses=0))
    assert lengths(machine, "DiskIo/Read", "transfer_size") == [32 * KIB] * 32


def test_a_write_is_none_of_its_business() -> None:
    for plugins in ([], [ReadAhead()]):
        machine = boot(plugins=[Ws2003(paging_write=256 * KIB), *plugins], trace=True)
        process = machine.create_process("p")
        region = machine.memory.space(process).allocate(64)
        assert region is not None
        do(machine, Touch(region, write=True, accesses=0))
        machine.memory.trim(region.space.working_set, machine.memory.oldest(region.space.working_set, 64))
        do(machine, FlushModifiedList())
        assert lengths(machine, "FileIo/Write", "io_size") == [256 * KIB]
        assert lengths(machine, "DiskIo/Write", "transfer_size") == [64 * KIB] * 4


def paged(*plugins: object) -> list[int]:
    """The transfers that bring back 64 pages from the paging file."""
    machine = boot(plugins=[Ws2003(), *plugins], trace=True)
    memory = machine.memory
    space = memory.space(machine.create_process("p"))
    region, hog = space.allocate(64), space.allocate(memory.installed)
    assert region is not None
    assert hog is not None
    do(machine, Touch(region, write=True, accesses=0))
    memory.trim(space.working_set, memory.oldest(space.working_set, 64))
    do(machine, FlushModifiedList(), Touch(hog, accesses=0))
    space.release(hog)
    do(machine, Touch(region, accesses=0))
    return lengths(machine, "DiskIo/Read", "transfer_size")


def test_reads_of_the_paging_file() -> None:
    assert paged() == [64 * KIB] * 4
    assert paged(ReadAhead()) == [256 * KIB]
    assert paged(ReadAhead(cluster=128 * KIB)) == [128 * KIB] * 2
    assert paged(alone(cluster=256 * KIB)) == [64 * KIB] * 4


def test_beside_larger_writes_reads_are_this_plugins() -> None:
    writes = pytest.importorskip("ntlab_paging_writes").PagingWrites
    assert paged(writes()) == [256 * KIB]
    assert paged(writes(max_read=64 * KIB), ReadAhead()) == [256 * KIB]
    assert paged(writes(), alone()) == [64 * KIB] * 4


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [16, 4, 16, 3, 16, 7]),
        ({"cluster": MIB}, [16, 4, 16, 3, 16, 7]),
        ({"cluster": MIB, "io_limit_size": MIB}, [20, 19, 23]),
        ({"cluster": 128 * KIB, "io_limit_size": MIB, "dummy": True}, [32, 32]),
        ({"cluster": MIB, "dummy": True}, [16, 16, 16, 16]),
        ({"cluster": MIB, "io_limit_size": MIB, "dummy": True}, [64]),
    ],
)
def test_faults_on_mapped_files(options: dict[str, Any], expected: list[int]) -> None:
    """A file of 64 pages, of which 20 and 40 are in memory: which transfers bring the others in, in pages."""
    read_ahead = alone(cluster=4 * KIB, dummy=False)
    machine = boot(plugins=[Ws2003(), read_ahead], trace=True)
    space = machine.memory.space(machine.create_process("p"))
    region = machine.file_cache.map(space, machine.file_cache.create("x", 64 * PAGE))
    do(machine, *(Touch(region, page, 1, accesses=0) for page in (20, 40)))
    for name, value in (NEUTRAL | options).items():
        setattr(read_ahead, name, value)
    do(machine, Touch(region, accesses=0))
    assert sum(extent.pages for extent in region.extents() if extent.state == ACTIVE) == 64
    transfers = lengths(machine, "DiskIo/Read", "transfer_size")
    assert transfers == [PAGE, PAGE, *(PAGE * pages for pages in expected)]


# -- the whole ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(not HWLOC.is_dir(), reason="the real descriptions are not here")
@pytest.mark.parametrize("file", sorted(HWLOC.glob("*.xml")), ids=lambda file: file.stem)
def test_it_runs_on_real_machines(file: Path) -> None:
    tables = load(str(file)).freeze()
    reads = {}
    for name, plugins in (("before", []), ("after", [ReadAhead()])):
        found, _ = live(
            Rereader(memory=512 * KIB, mapped=512 * KIB, cached=512 * KIB), *plugins, tables=tables
        )
        reads[name] = found
    assert reads["after"]["mapped_reads"] <= reads["before"]["mapped_reads"] / 4
    assert reads["after"]["paged_reads"] <= reads["before"]["paged_reads"] / 4
    evictions = {}
    for target in ("working_set", "standby"):
        found, _ = live(
            Searcher(files=30, read_on=0.1),
            ReadAhead(target=target),
            tables=tables,
            baseline=Ws2003(system_working_set_maximum=500),
        )
        evictions[target] = found["hot_evictions"]
    assert evictions["standby"] <= evictions["working_set"] / 4


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="size must be a power of two, not 98304"):
        ReadAhead(size=96 * KIB)
    for options in ({"size": 2 * KIB}, {"io_limit_size": KIB}, {"cluster": 0}, {"cluster": 32 * MIB}):
        with pytest.raises(ValueError, match="out of range"):
            ReadAhead(**options)
    with pytest.raises(UserError, match=r"size.*power of two"):
        ntlab.run("read-ahead-size", set={"read_ahead.size": "96 KiB"})
    with pytest.raises(UserError, match="target"):
        ntlab.run("read-ahead-size", set={"read_ahead.target": "modified"})
    with pytest.raises(
        UserError, match=r"read_ahead\.cluster: 5000 bytes; expected a multiple of the page size"
    ):
        live(Rereader(), ReadAhead(cluster=5000))
    with pytest.raises(UserError, match="no paging file"):
        live(Rereader(), baseline=Ws2003(paging_file=0))
    with pytest.raises(UserError, match="duration: the run ended before all files were read"):
        ntlab.run("read-ahead-size", set={"duration": "10 ms"})
    with pytest.raises(UserError, match="duration: the run ended before all was read back"):
        ntlab.run("read-ahead-io", set={"duration": "10 ms"})
    with pytest.raises(UserError, match="does not fit"):
        live(Searcher(hot=1 << 40), baseline=Ws2003(paging_file=0))
