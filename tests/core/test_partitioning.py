"""Parts that come and are replaced: the protocol step by step, then anything at all, every frame followed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlab.errors import SimulationError, UserError
from ntlab.hooks import hookimpl
from ntlab.machine import (
    NOMINAL,
    Arrival,
    Compute,
    Device,
    Machine,
    MemoryReplacement,
    OrderedLevel,
    Process,
    ProcessorChange,
    Region,
    ReplacementPolicy,
    Request,
    RunOn,
    Sleep,
    Thread,
    Touch,
)
from ntlab.machine.extents import BAD, STANDBY
from ntlab.machine.ordered import Runs
from ntlab.plugin import option, plugin
from ntlab.quantities import MIB, MILLISECOND, SECOND
from ntlab.testing import boot, exercise, rules, small_tables
from ntlab.topology import Topology, load
from ntlab.topology.tables import fitted
from ntlab_ws2003 import Ws2003

PAGE = 4096
REFUSED = 0xC00000BB


@plugin(name="able", summary="A kernel that takes any part.", release="ws2003")
class Able:
    policy: ReplacementPolicy = option(default=ReplacementPolicy(), help="How parts are replaced.")
    everyone: bool = option(default=False, help="Who gets a new processor.")
    awake: str = option(default="", help="The device that may not sleep.")
    limit: int = option(default=0, help="Most processors.")

    @hookimpl
    def partition_support(self) -> bool:
        return True

    @hookimpl
    def replacement_policy(self) -> ReplacementPolicy:
        return self.policy

    @hookimpl
    def gets_processor(self, registered: bool) -> bool:
        return registered or self.everyone

    @hookimpl
    def processor_limit(self) -> int:
        return self.limit

    @hookimpl
    def device_may_sleep(self, device: Device) -> bool:
        return device.name != self.awake


def able(
    processors: int = 4, *others: object, nodes: int = 1, memory: int = 64 * MIB, **more: Any
) -> Machine:
    options = {key: more.pop(key) for key in ("everyone", "awake", "limit") if key in more}
    policy = more.pop("policy", ReplacementPolicy())
    tables = more.pop("tables", None) or small_tables(processors, nodes=nodes, memory=memory)
    return boot(plugins=[*others, Able(policy=policy, **options)], tables=tables, **more)


def busy(machine: Machine, threads: int, name: str = "busy", **options: Any) -> tuple[Process, list[Thread]]:
    process = machine.create_process(name)
    program = [Compute(3 * MILLISECOND), Sleep(MILLISECOND)]
    return process, [machine.create_thread(process, cycle(program), **options) for _ in range(threads)]


# -- tables --------------------------------------------------------------------------------------------


@pytest.mark.once
@given(st.sampled_from(["opteron-4s", "superdome", "small-2s-2008"]), st.data())
def test_tables_without_some_parts(name: str, data: st.DataObject) -> None:
    whole = load(name).freeze()
    count = data.draw(st.integers(1, whole.processors))
    present = data.draw(st.integers(1, (1 << count) - 1))
    part = fitted(whole, count, present, whole.node_memory)
    there = {i for i in range(count) if present >> i & 1}
    assert [set(each) for each in part.node_processors] == [
        {i for i in each if i in there} for each in whole.node_processors
    ]
    for mask in ("node_mask", "core_mask", "package_mask", "group_mask"):
        assert getattr(part, mask) == tuple(each & present for each in getattr(whole, mask))
    for i in range(count):
        assert set(part.core_processors[i]) == {i} | {p for p in whole.core_processors[i] if p in there}
        assert part.node_of[i] == whole.node_of[i]
    assert all(device.processors and not device.processors & ~present for device in part.devices)
    assert all(cache.processors and not cache.processors & ~present for cache in part.caches)
    assert fitted(whole, whole.processors, (1 << whole.processors) - 1, whole.node_memory) == whole


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 60), st.integers(1, 20)), max_size=40))
def test_a_frame_set_is_a_set_of_frames(operations: list[tuple[bool, int, int]]) -> None:
    runs, plain = Runs(), set[int]()
    for adds, first, pages in operations:
        frames = range(first, first + pages)
        if adds:
            runs.add(first, first + pages)
            plain |= set(frames)
        else:
            runs.remove(first, first + pages)
            plain -= set(frames)
        listed = list(runs)
        assert [frame for start, stop in listed for frame in range(start, stop)] == sorted(plain)
        assert all(before[1] < after[0] for before, after in pairwise(listed))
        missing = {frame for start, stop in runs.missing(5, 50) for frame in range(start, stop)}
        assert missing == set(range(5, 50)) - plain


# -- processors come -----------------------------------------------------------------------------------


def test_processors_that_are_set_aside_are_nowhere() -> None:
    machine = able(4, Ws2003(), nodes=2)
    machine.partitioning.set_aside(3)
    assert machine.tables.node_processors == ((0,), ())
    assert (len(machine.processors), machine.scheduler.all_mask) == (1, 1)
    process, threads = busy(machine, 3)
    assert process.affinity == 1
    machine.run(50 * MILLISECOND)
    assert sum(machine.scheduler.run_time(thread) for thread in threads) == 50 * MILLISECOND
    machine.check()


def test_drivers_are_told_before_and_after_and_the_processor_runs_only_after() -> None:
    machine = able(3, everyone=True)
    machine.partitioning.set_aside(1)
    busy(machine, 6)
    told: list[tuple[str, str, int, bool]] = []

    def driver(name: str) -> Callable[[ProcessorChange], int]:
        def callback(change: ProcessorChange) -> int:
            usable = bool(machine.scheduler.all_mask >> change.number & 1)
            told.append((name, change.state, change.number, usable))
            assert change.status == 0
            assert (change.group, change.group_number) == (0, change.number)
            assert len(machine.processors) > change.number  # it is on
            return 0

        return callback

    machine.partitioning.register_driver("a", driver("a"))
    machine.partitioning.register_driver("b", driver("b"))
    machine.run(10 * MILLISECOND)
    processor = machine.partitioning.add_processor()
    assert processor is machine.processors[2]
    assert processor.thread is not None  # a thread that waited for a processor has it
    assert told == [
        ("a", "start", 2, False), ("b", "start", 2, False),
        ("a", "complete", 2, True), ("b", "complete", 2, True),
    ]  # fmt: skip
    machine.run(20 * MILLISECOND)
    machine.check()


def test_a_driver_that_refuses_ends_it_and_those_told_before_learn_so() -> None:
    machine = able(2)
    machine.partitioning.set_aside(1)
    told: list[tuple[int, str, int]] = []
    answers = [0, 0, REFUSED, 0]

    def driver(number: int) -> Callable[[ProcessorChange], int]:
        def callback(change: ProcessorChange) -> int:
            told.append((number, change.state, change.status))
            return answers[number] if change.state == "start" else 0

        return callback

    for number in range(4):
        machine.partitioning.register_driver(str(number), driver(number))
    assert machine.partitioning.add_processor() is None
    assert told == [(0, "start", 0), (1, "start", 0), (2, "start", 0),
                    (0, "failure", REFUSED), (1, "failure", REFUSED)]  # fmt: skip
    assert (len(machine.processors), machine.partitioning.spare_processors) == (1, 1)
    assert machine.tables.processors == 1
    machine.check()
    answers[2] = 0
    assert machine.partitioning.add_processor() is not None  # the number was not used up
    assert [state for _, state, _ in told[5:]] == ["start"] * 4 + ["complete"] * 4


@pytest.mark.parametrize("refused", [None, 0, 1, 2])
def test_a_driver_may_be_told_of_the_processors_that_there_are(refused: int | None) -> None:
    machine = able(3)
    told: list[tuple[str, int]] = []

    def callback(change: ProcessorChange) -> int:
        told.append((change.state, change.number))
        return REFUSED if change.state == "start" and change.number == refused else 0

    registered = machine.partitioning.register_driver("late", callback, add_existing=True)
    numbers = range(3) if refused is None else range(refused + 1)
    starts = [("start", number) for number in numbers]
    if refused is None:
        assert told == starts + [("complete", number) for number in range(3)]
        assert machine.partitioning.drivers == [registered]
    else:
        assert told == starts + [("failure", number) for number in range(refused)]
        assert registered is None
        assert machine.partitioning.drivers == []


def test_the_baseline_places_threads_by_the_parts_that_there_are() -> None:
    """A core whose second processor is missing is idle when its first one is."""
    machine = able(0, Ws2003(), tables=small_tables(4, siblings=2))
    machine.partitioning.set_aside(1)
    process = machine.create_process("p")
    program = [Compute(10 * MILLISECOND)]
    threads = [machine.create_thread(process, iter(program), ideal=ideal) for ideal in (0, 1)]
    assert [machine.processors.index(thread.processor) for thread in threads if thread.processor] == [0, 2]


def test_who_asked_is_told_and_only_then_has_the_processor() -> None:
    machine = able(3, rules())
    machine.partitioning.set_aside(1)
    asked, threads = busy(machine, 2)
    bound = machine.create_thread(asked, cycle([Compute(MILLISECOND)]), affinity=1)
    other, others = busy(machine, 2, "other")
    told: list[tuple[int, Arrival, int]] = []
    machine.partitioning.register_application(
        asked, lambda arrival: told.append((machine.engine.now, arrival, asked.affinity))
    )
    machine.engine.at(5 * MILLISECOND, lambda _: machine.partitioning.add_processor() and None)
    machine.run(40 * MILLISECOND)
    assert told == [(6 * MILLISECOND, Arrival("processor", 2), 3)]  # it prepares, then it may be there
    assert (asked.affinity, other.affinity, bound.affinity) == (7, 3, 1)
    assert {thread.affinity for thread in threads} == {7}
    assert {thread.affinity for thread in others} == {3}
    assert machine.create_process("later").affinity == 7
    machine.partitioning.add_memory(0, MIB)
    machine.run(50 * MILLISECOND)
    assert told[1][1] == Arrival("memory", 0, MIB)
    machine.check()


def test_an_unloaded_driver_is_not_called() -> None:
    machine = able(3)
    machine.partitioning.set_aside(2)
    gone = machine.partitioning.register_driver("gone", lambda change: 0)
    assert gone is not None
    machine.partitioning.add_processor()
    gone.loaded = False
    with pytest.raises(UserError, match="driver 'gone' is to be told of processor 2, but has been unloaded"):
        machine.partitioning.add_processor()
    machine.partitioning.deregister_driver(gone)
    assert machine.partitioning.drivers == []


# -- a processor is replaced ---------------------------------------------------------------------------


@pytest.mark.parametrize("queues", ["shared", "per_processor"])
def test_a_replaced_processor_is_slowed_and_its_threads_go_on_elsewhere(queues: Any) -> None:
    policy = ReplacementPolicy(slow_to=0.25, processor_start=8 * MILLISECOND)
    machine = able(2, rules(ready_queues=queues, quantum=SECOND), policy=policy)
    machine.partitioning.set_aside(1)
    process = machine.create_process("work")
    first = machine.create_thread(process, iter([Compute(20 * MILLISECOND)]))
    bound = machine.create_thread(process, iter([Compute(2 * MILLISECOND)]), affinity=1)
    ends: list[int] = []
    machine.engine.at(
        4 * MILLISECOND,
        lambda _: machine.partitioning.replace_processor(0, lambda: ends.append(machine.engine.now)),
    )
    machine.run(11 * MILLISECOND)
    assert machine.processors[0].speed == NOMINAL // 4
    assert machine.partitioning.replacing == 0
    # 4 ms at full speed and 8 at a quarter; then the spare does the rest.
    machine.run(13 * MILLISECOND)
    assert ends == [12 * MILLISECOND]
    assert machine.processors[0].thread is None
    assert machine.processors[1].thread is first
    assert machine.scheduler.all_mask == 2
    assert {first.affinity, bound.affinity, process.affinity} == {2}
    machine.run()
    # 22 ms of work, of which 6 were done by 12 ms.
    assert machine.engine.now == 28 * MILLISECOND
    assert machine.partitioning.number(machine.processors[1]) == 0
    machine.check()


def test_software_goes_on_calling_the_replaced_processor_by_its_number() -> None:
    machine = able(4, Ws2003())
    machine.partitioning.set_aside(2)
    ran: list[int] = []

    class Where(Request):
        def perform(self, thread: Thread) -> int:
            assert thread.processor is not None
            ran.append(machine.partitioning.number(thread.processor))
            return 0

    def program() -> Iterator[Request]:
        for _ in range(300):
            yield RunOn(2)
            yield Compute(MILLISECOND)
            yield Where()

    machine.create_thread(machine.create_process("p"), program())
    for at in (20, 180):  # the spare is replaced by the next spare
        machine.engine.at(at * MILLISECOND, lambda _: machine.partitioning.replace_processor(1))
    machine.run()
    assert ran == [1] * 300
    assert machine.scheduler.all_mask == 0b1001
    assert machine.create_process("bound", affinity=2).affinity == 0b1000


def test_a_thread_with_a_spinlock_leaves_when_it_has_released_it() -> None:
    from ntlab.machine import Acquire, Release

    machine = able(2, policy=ReplacementPolicy(processor_start=0, slow_to=1.0))
    machine.partitioning.set_aside(1)
    lock = machine.create_lock("held")
    program = [Acquire(lock), Compute(5 * MILLISECOND), Release(lock), Compute(5 * MILLISECOND)]
    machine.create_thread(machine.create_process("p"), iter(program))
    left: list[int] = []
    machine.engine.at(
        MILLISECOND,
        lambda _: machine.partitioning.replace_processor(0, lambda: left.append(machine.engine.now)),
    )
    machine.run()
    assert 5 * MILLISECOND <= left[0] <= 5 * MILLISECOND + 20_000
    assert machine.engine.now == 10 * MILLISECOND
    machine.check()


@pytest.mark.once
@settings(max_examples=10)
@given(st.integers(0, 10**6), st.sampled_from(["shared", "per_processor"]), st.data())
def test_whatever_runs_no_thread_is_lost(seed: int, queues: Any, data: st.DataObject) -> None:
    """Programs that lock, read, move, wait: processors come and are replaced, and the machine stays whole."""
    tables = small_tables(8, nodes=2, siblings=2, memory=16 * MIB)
    machine = able(
        0, Ws2003(ready_queues=queues, paging_file=4 * MIB), tables=tables, seed=seed, hooks="checked",
        check_every=100, everyone=data.draw(st.booleans()),
        policy=ReplacementPolicy(
            processor_start=MILLISECOND, devices_off=MILLISECOND, devices_on=MILLISECOND
        ),
    )  # fmt: skip
    partitioning = machine.partitioning
    partitioning.set_aside(4)
    partitioning.divide_memory(4 * MIB)
    partitioning.provide_memory(4 * MIB)
    process = exercise(machine)
    partitioning.register_application(process)

    def act(what: tuple[str, int]) -> None:
        kind, number = what
        if kind == "memory" and partitioning.spare_memory:
            partitioning.replace_memory(number * 4 * MIB)
        elif kind == "add" and partitioning.spare_processors:
            partitioning.add_processor()
        elif kind == "replace" and partitioning.spare_processors and partitioning.replacing is None:
            partitioning.replace_processor(number)

    steps = st.tuples(st.sampled_from(["add", "replace", "replace"]), st.integers(0, 3))
    at = 0
    machine.engine.at(MILLISECOND, act, ("memory", data.draw(st.integers(0, 7))))
    for step in data.draw(st.lists(steps, max_size=4)):
        at += data.draw(st.integers(0, 4 * MILLISECOND))
        machine.engine.at(at, act, step)
    machine.run(100 * MILLISECOND)
    machine.check()
    assert not any(thread.process is process for thread in machine.threads.values())
    assert partitioning.replacement is not None
    assert partitioning.replacement.outcome == "replaced"
    assert partitioning.replacement.lost == 0


# -- memory comes --------------------------------------------------------------------------------------


def test_added_memory_is_used_before_anybody_is_trimmed() -> None:
    machine = able(1, memory=MIB, tables=small_tables(1, memory=MIB))  # 256 pages, no paging file
    memory = machine.memory
    region = memory.space(machine.create_process("p")).allocate(256)
    assert region is not None
    assert memory.populate(region, 0) == 256
    assert memory.space(machine.create_process("q")).allocate(1) is None
    machine.partitioning.add_memory(0, 128 * 1024)
    assert (memory.available, memory.installed, memory.commit_limit) == (32, 288, 288)
    assert machine.tables.node_memory == (MIB + 128 * 1024,)
    more = memory.space(machine.create_process("r")).allocate(32)
    assert more is not None
    machine.create_thread(machine.create_process("s"), iter([Touch(more, accesses=0)]))
    machine.run()
    assert {extent.frame for extent in more.extents()} == {256}
    machine.check()


def test_memory_may_be_added_anywhere_that_is_free() -> None:
    machine = able(2, nodes=2, memory=MIB)
    machine.partitioning.add_memory(1, MIB, 4 * MIB)
    machine.partitioning.add_memory(0, MIB, 3 * MIB)
    machine.partitioning.add_memory(0, MIB)
    assert machine.memory.nodes[0].ranges == [(0, 256), (768, 1024), (1280, 1536)]
    assert machine.memory.nodes[1].ranges == [(256, 512), (1024, 1280)]
    assert [unit.first for unit in machine.partitioning.memory_units()] == [0, 256, 768, 1024, 1280]
    machine.check()


# -- frames are taken out ------------------------------------------------------------------------------


def test_a_frame_is_taken_out_wherever_it_is() -> None:
    machine = able(1, memory=MIB, tables=small_tables(1, memory=MIB))
    memory = machine.memory
    fixed = machine.sections.nonpaged(10)
    assert fixed is not None
    region = memory.space(machine.create_process("p")).allocate(100)
    assert region is not None
    memory.populate(region, 0, dirty=True)
    space = region.space
    frame = {extent.page: extent.frame for extent in region.extents()}[region.first]
    standby = memory.isolate(region.extents()[0], region.first + 50, region.first + 60)
    standby.dirty = False
    memory.trim(space.working_set, [standby])
    assert standby.state == STANDBY
    assert memory.take_out(200)  # holds nothing
    assert memory.take_out(frame + 5)  # in use: goes to another frame
    assert memory.take_out(frame + 55)  # standby: its backing has it
    assert not memory.take_out(fixed.extents()[0].frame)  # may not move
    assert not memory.take_out(999)
    memory.check()
    assert memory.pages(BAD) == 3
    moved, _ = space.at(region.first + 5)
    assert moved is not None
    assert moved.pages == 1
    assert moved.frame not in range(frame, frame + 100)
    assert sum(extent.pages for extent in region.extents()) == 99
    machine.check()


# -- a memory unit is replaced -------------------------------------------------------------------------


def full(machine: Machine, pages: int, fixed: int = 0) -> Region:
    """That many pages from frame 0 on, the first of them not movable; memory is in units of 8 MiB."""
    machine.partitioning.divide_memory(8 * MIB)
    machine.partitioning.provide_memory(8 * MIB)
    if fixed:
        assert machine.sections.nonpaged(fixed) is not None
    region = machine.memory.space(machine.create_process("data")).allocate(pages - fixed)
    assert region is not None
    machine.memory.populate(region, 0, dirty=True)
    return region


def replaced(machine: Machine) -> MemoryReplacement:
    replacement = machine.partitioning.replace_memory(0)
    machine.run()
    machine.check()
    return replacement


@pytest.mark.parametrize(
    ("order", "early", "late"), [("movable_first", 1900, 100), ("all_in_window", 0, 2000)]
)
def test_the_window_is_as_long_as_its_steps(order: Any, early: int, late: int) -> None:
    """64 GB at 10 GB/s, in small: devices off, what is copied at the bandwidth, devices on."""
    policy = ReplacementPolicy(order=order, copy_bandwidth=1_000_000_000)
    machine = able(1, policy=policy)
    for number in range(3):
        machine.io.create_disk(f"D{number}:")
    full(machine, 2000, 100)
    replacement = replaced(machine)
    assert (replacement.copied, replacement.copied_in_window) == (early, late)
    assert replacement.pause == 300 * MILLISECOND + late * PAGE
    assert replacement.ended - replacement.began == 300 * MILLISECOND + 2000 * PAGE
    assert machine.partitioning.spare_memory == []
    assert machine.partitioning.exchanged(machine.partitioning.memory_unit(0)) == 1


def test_devices_one_after_the_other_and_none() -> None:
    def pause(devices: int) -> int:
        machine = able(1, policy=ReplacementPolicy(devices_at_once=False, copy_bandwidth=1_000_000_000))
        for number in range(devices):
            machine.io.create_disk(f"D{number}:")
        full(machine, 10)
        return replaced(machine).pause

    assert [pause(devices) for devices in (0, 1, 3)] == [0, 300 * MILLISECOND, 900 * MILLISECOND]


def test_the_memorys_channels_carry_every_byte_twice() -> None:
    machine = able(1)
    full(machine, 2000)
    bandwidth = machine.tables.bandwidth[0][0]
    replacement = replaced(machine)
    assert replacement.ended == pytest.approx(2 * 2000 * PAGE * SECOND / bandwidth, rel=1e-6)


def test_a_refused_sleep_leaves_everything_as_it_was() -> None:
    machine = able(1, awake="D1:")
    for number in range(3):
        machine.io.create_disk(f"D{number}:")
    region = full(machine, 500, 50)
    before = [(extent.page, extent.frame, extent.pages) for extent in region.extents()]
    done: list[str] = []
    replacement = machine.partitioning.replace_memory(0, lambda: done.append(replacement.outcome))
    machine.run()
    assert done == ["vetoed"]
    assert (replacement.refused_by, replacement.pause, replacement.copied_in_window) == ("D1:", 0, 0)
    assert [(extent.page, extent.frame, extent.pages) for extent in region.extents()] == before
    assert machine.partitioning.spare_memory == [8 * MIB]
    assert machine.partitioning.exchanged(machine.partitioning.memory_unit(0)) == 0
    assert machine.memory.written is None
    assert machine.partitioning.counts == {"replacements vetoed": 1}
    machine.partitioning.replace_memory(0)  # it may be tried again


def test_nothing_runs_in_the_window_and_requests_wait_for_its_end() -> None:
    machine = able(2, Ws2003(), policy=ReplacementPolicy(order="all_in_window"))
    disk = machine.io.create_disk("D:")
    full(machine, 2000, 100)
    process, threads = busy(machine, 3)
    from ntlab.machine import File, Read

    file = File("f", disk, 0, 1 << 20)
    ends: list[int] = []

    def reader() -> Iterator[Request]:
        while True:
            request: Any = yield Read(file, 0, 4096)
            assert request.status == 0
            ends.append(machine.engine.now)

    machine.create_thread(process, reader())
    machine.engine.at(50 * MILLISECOND, lambda _: machine.partitioning.replace_memory(0) and None)
    machine.run(100 * MILLISECOND)
    replacement = machine.partitioning.replacement
    assert replacement is not None
    assert replacement.in_window
    ran = [machine.scheduler.run_time(thread) for thread in threads]
    machine.run(350 * MILLISECOND)
    machine.check()
    assert replacement.in_window
    assert [machine.scheduler.run_time(thread) for thread in threads] == ran
    machine.run(SECOND)
    assert replacement.outcome == "replaced"
    stop, on = replacement.ended - replacement.pause, replacement.ended
    late = [time for time in ends if stop + 10 * MILLISECOND < time]
    assert min(late) > on
    assert machine.io.held == 0
    machine.check()


def test_speeds_that_change_in_the_window_count_after_it() -> None:
    machine = able(1, policy=ReplacementPolicy(order="all_in_window"))
    machine.io.create_disk("D:")
    full(machine, 100)
    machine.partitioning.replace_memory(0)
    machine.run(50 * MILLISECOND)
    processor = machine.processors[0]
    assert processor.speed == 0
    machine.scheduler.set_speed(processor, NOMINAL // 2)
    assert processor.speed == 0
    machine.run()
    assert processor.speed == NOMINAL // 2


@settings(max_examples=8)
@given(st.integers(0, 10**6), st.data())
def test_every_frame_is_copied_after_it_was_last_written_to(seed: int, data: st.DataObject) -> None:
    """The programs note when they write, the trace tells which frames were filled and copied when."""
    policy = ReplacementPolicy(
        order=data.draw(st.sampled_from(["movable_first", "all_in_window"])),
        rounds=data.draw(st.integers(0, 4)),
        copy_bandwidth=data.draw(st.sampled_from([0, 200_000_000, 20_000_000])),
        devices_off=MILLISECOND,
        devices_on=MILLISECOND,
    )
    machine = able(
        0, Ws2003(paging_file=16 * MIB), policy=policy, tables=small_tables(2, memory=12 * MIB),
        seed=seed, trace=True,
    )  # fmt: skip
    region = full(machine, 1800, data.draw(st.sampled_from([0, 64])))
    large = region.space.allocate(2500)  # more than there is memory: pages come and go
    assert large is not None
    last: dict[tuple[Region, int], float] = {}

    def program(number: int) -> Iterator[Request]:
        stream = machine.streams.stream("test", f"writer {number}")
        while machine.engine.now < 150 * MILLISECOND:
            target = region if stream.random() < 0.7 else large
            pages = stream.randint(1, 40)
            first = stream.randrange(target.pages - pages)
            touched[number] = [(target, target.first + page) for page in range(first, first + pages)]
            # Without accesses it would write when it faults, and end later.
            yield Touch(target, first, pages, write=True, accesses=stream.choice([1, 4, 64]))
            last.update(dict.fromkeys(touched[number], machine.engine.now))
            yield Sleep(stream.randint(1, 2 * MILLISECOND))

    touched: dict[int, list[tuple[Region, int]]] = {}
    threads = [machine.create_thread(region.space.process, program(number)) for number in range(3)]
    held: list[tuple[int, Region, int]] = []

    def note() -> None:
        unit = machine.partitioning.memory_unit(0)
        for extent in machine.memory.in_frames(unit.first, unit.stop):
            held.extend(
                (extent.frame + page, extent.region, extent.page + page)
                for page in range(extent.pages)
                if unit.first <= extent.frame + page < unit.stop
            )
        seen.update(last)
        for number, thread in enumerate(threads):
            if machine.memory.accesses.under_way(thread):
                seen.update(dict.fromkeys(touched[number], float("inf")))

    seen: dict[tuple[Region, int], float] = {}
    machine.engine.at(
        data.draw(st.integers(1, 60 * MILLISECOND)),
        lambda _: machine.partitioning.replace_memory(0, note) and None,
    )
    machine.run(5 * SECOND)
    machine.check()
    replacement = machine.partitioning.replacement
    assert replacement is not None
    assert replacement.outcome == "replaced"
    assert held
    assert replacement.lost == 0
    filled: dict[int, int] = {}
    for record in machine.tracer.records("Allocate"):
        for frame in range(int(record["frame"]), int(record["frame"]) + int(record["pages"])):
            if record.time < replacement.ended:
                filled[frame] = record.time
    copied: dict[int, tuple[int, bool]] = {}
    for record in machine.tracer.records("MemoryCopy"):
        for frame in range(int(record["frame"]), int(record["frame"]) + int(record["pages"])):
            copied[frame] = int(record["began"]), bool(record["in_window"])
    for frame, owner, page in held:
        began, in_window = copied[frame]
        assert began >= filled.get(frame, 0)
        assert in_window or began >= seen.get((owner, page), 0)


# -- what cannot be ------------------------------------------------------------------------------------


def refusal(machine: Machine, action: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    machine.check()
    return message


def test_what_cannot_be_is_refused_in_one_line() -> None:
    machine = able(4, nodes=2)
    partitioning = machine.partitioning
    assert "4 processors are set aside of 4; expected at most 3" in refusal(
        machine, lambda: partitioning.set_aside(4)
    )
    assert "no spare processor" in refusal(machine, partitioning.add_processor)
    assert "no spare processor can replace 1" in refusal(machine, lambda: partitioning.replace_processor(1))
    assert "there is no processor 9" in refusal(machine, lambda: partitioning.replace_processor(9))
    assert "there is no processor -1" in refusal(machine, lambda: partitioning.replace_processor(-1))
    assert "node 7; expected 0 to 1" in refusal(machine, lambda: partitioning.add_memory(7, MIB))
    assert "0 bytes" in refusal(machine, lambda: partitioning.add_memory(0, 0))
    assert "5000 bytes; expected a multiple" in refusal(machine, lambda: partitioning.add_memory(0, 5000))
    assert "the address of a page" in refusal(machine, lambda: partitioning.add_memory(0, MIB, 17))
    assert "where node 1 has some" in refusal(machine, lambda: partitioning.add_memory(0, MIB, 64 * MIB))
    assert "no spare memory" in refusal(machine, lambda: partitioning.replace_memory(0))
    partitioning.provide_memory(32 * MIB)
    assert "an identical unit, of 64 MiB" in refusal(machine, lambda: partitioning.replace_memory(0))
    partitioning.provide_memory(64 * MIB)
    assert "there is no memory at 0x40000000" in refusal(
        machine, lambda: partitioning.replace_memory(1 << 30)
    )
    assert "there is no memory at -0x1" in refusal(machine, lambda: partitioning.replace_memory(-1))
    partitioning.replace_memory(0)
    assert "while another unit is" in refusal(machine, lambda: partitioning.replace_memory(64 * MIB))


def test_a_processor_that_comes_has_new_queues_wherever_the_old_ones_were() -> None:
    @plugin(name="ordered", summary="Longest name first.", release="ws2003")
    class Ordered:
        @hookimpl
        def ready_level(self) -> OrderedLevel:
            return OrderedLevel(lambda thread: -len(thread.name))

    machine = able(8, Ws2003(), Ordered())
    machine.partitioning.set_aside(6)
    refused = machine.partitioning.register_driver("refuses", lambda change: REFUSED)
    assert refused is not None
    for _ in range(20):
        assert machine.partitioning.add_processor() is None
    machine.partitioning.deregister_driver(refused)
    for _ in range(6):
        assert machine.partitioning.add_processor() is not None


def test_processors_are_set_aside_before_anything_runs() -> None:
    machine = able(2)
    busy(machine, 1)
    with pytest.raises(SimulationError, match="set aside though threads"):
        machine.partitioning.set_aside(1)


def test_what_was_replaced_and_added_is_so_after_a_crash() -> None:
    machine = able(4, Ws2003(), nodes=2)
    partitioning = machine.partitioning
    partitioning.set_aside(2)
    partitioning.divide_memory(32 * MIB)
    for _ in range(2):
        partitioning.provide_memory(32 * MIB)
    partitioning.replace_processor(0)
    partitioning.replace_memory(0)
    partitioning.add_memory(0, MIB)
    machine.engine.at(SECOND, lambda _: machine.bug_check(0x9C))
    machine.run()
    again = machine.restart(SECOND)
    assert (again.scheduler.all_mask, again.partitioning.spare_processors) == (0b0110, 1)
    assert [node.installed for node in again.memory.nodes] == [64 * 256 + 256, 64 * 256]
    assert again.partitioning.spare_memory == [32 * MIB]
    assert again.partitioning.exchanged(again.partitioning.memory_unit(0)) == 1
    process, _ = busy(again, 6)
    assert process.affinity == 0b0110
    assert again.partitioning.add_processor() is again.processors[3]
    again.run(3 * SECOND)
    again.check()
    assert again.processors[0].context_switches == 0


def test_two_processors_are_not_replaced_at_a_time() -> None:
    machine = able(4)
    machine.partitioning.set_aside(2)
    machine.partitioning.replace_processor(0)
    assert "processor 1 is to be replaced while 0 is" in refusal(
        machine, lambda: machine.partitioning.replace_processor(1)
    )
    machine.run()
    machine.partitioning.replace_processor(1)
    machine.run()
    assert machine.scheduler.all_mask == 0b1100


def test_a_spare_processor_must_be_identical() -> None:
    topology = Topology("mixed")
    node = topology.add_node(memory=64 * MIB)
    for speed in (2000, 2000, 2400):
        topology.add_processor(topology.add_core(node), speed_mhz=speed)
    machine = able(tables=topology.freeze())
    machine.partitioning.set_aside(1)
    assert "2400 MHz cannot replace 0; expected an identical one, of 2000 MHz" in refusal(
        machine, lambda: machine.partitioning.replace_processor(0)
    )


def test_a_kernel_has_its_limit() -> None:
    machine = able(4, limit=3)
    machine.partitioning.set_aside(2)
    machine.partitioning.add_processor()
    assert "added to 3; expected at most 3 with ws2003" in refusal(
        machine, machine.partitioning.add_processor
    )


def test_a_kernel_that_cannot_is_told_so() -> None:
    machine = boot(2, [Ws2003()])
    partitioning = machine.partitioning
    assert partitioning.counters() == {}
    for operation, order in (
        ("add processor", partitioning.add_processor),
        ("replace processor", lambda: partitioning.replace_processor(0)),
        ("add memory", lambda: partitioning.add_memory(0, MIB)),
        ("replace memory", lambda: partitioning.replace_memory(0)),
    ):
        message = refusal(machine, order)
        assert f"machine is to {operation} while it runs (ws2003, x64)" in message
