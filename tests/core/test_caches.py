"""Processor caches: closed forms, a reference that keeps every single line, and what may come in between."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlab.errors import SimulationError
from ntlab.hooks import hookimpl
from ntlab.machine import (
    NOMINAL,
    Acquire,
    Allocate,
    Compute,
    Footprint,
    Machine,
    ProcessorCachePolicy,
    Release,
    Request,
    Reuse,
    RunOn,
    Sleep,
    Thread,
    Touch,
)
from ntlab.machine.apcs import queue_apc
from ntlab.plugin import option, plugin
from ntlab.testing import Faults, Recorder, boot, bursts, rules
from ntlab.topology import Tables, Topology, load

HWLOC = Path(__file__).parents[3] / "shared" / "data" / "hwloc"
LINE = 64
CORE, PACKAGE = 1000, 4000  # lines
NEAR, FAR = 100, 300  # ns
CORE_LATENCY, PACKAGE_LATENCY = 2, 10


def hardware(*, packages: int = 2, cores: int = 2, bandwidth: int = 100_000_000_000) -> Tables:
    """Packages with a node, a shared cache and cores with a cache each."""
    topology = Topology("caches")
    for _ in range(packages):
        node = topology.add_node(memory=1 << 30, bandwidth=bandwidth)
        shared = topology.add_cache(topology.add_package(node), level=3, size=PACKAGE * LINE)
        for _ in range(cores):
            topology.add_processor(topology.add_core(topology.add_cache(shared, level=2, size=CORE * LINE)))
    topology.latency_ns = [[NEAR if n == m else FAR for m in range(packages)] for n in range(packages)]
    return topology.freeze()


@plugin(name="costs", summary="The costs of the test.", release="ws2003")
class Costs:
    overlap: float = option(default=1.0, help="Lines at a time.")

    @hookimpl
    def processor_cache_policy(self) -> ProcessorCachePolicy:
        return ProcessorCachePolicy(
            core_latency=CORE_LATENCY, package_latency=PACKAGE_LATENCY, overlap=self.overlap
        )


def machine_of(*, overlap: float = 1.0, **options: int) -> Machine:
    return boot(
        plugins=[rules(quantum=10_000_000), Costs(overlap=overlap)],
        tables=hardware(**options),
        trace=True,
        hooks="checked",
        check_every=1,
    )


def data(lines: int, **options: Any) -> Footprint:
    return Footprint(lines * LINE, **options)


def run(machine: Machine, *programs: Iterator[Request], **options: Any) -> list[Thread]:
    process = machine.create_process("p")
    threads = [machine.create_thread(process, program, **options) for program in programs]
    machine.run()
    machine.check()
    assert not machine.threads
    return threads


# -- closed forms -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("overlap", [1.0, 3.0, 4.0])
@pytest.mark.parametrize("lines", [1, 999, 1000, 1001, 4000])
def test_the_first_fill_takes_each_line_from_memory(lines: int, overlap: float) -> None:
    machine = machine_of(overlap=overlap)
    footprint = data(lines, node=1)
    (thread,) = run(machine, iter([Reuse(footprint), Compute(50)]))
    assert thread.run_time == machine.engine.now == -int(-lines * FAR // overlap) + 50
    assert footprint.refills.from_memory.accesses == {(0, 1): lines}
    assert machine.memory.accesses.tally.accesses == {(0, 1): lines}
    assert (footprint.refills.count, footprint.refills.lines, footprint.refills.remote) == (1, lines, lines)


def test_what_is_undisturbed_is_not_filled_again() -> None:
    machine = machine_of()
    footprint = data(900, node=0)
    again = [Reuse(footprint), Compute(10), Sleep(1000)]
    others = iter([Compute(3), Sleep(5)] * 100)
    run(machine, iter(again * 50), others)
    assert footprint.refills.lines == 900
    assert (footprint.refills.count, footprint.refills.time) == (1, 900 * NEAR)


@pytest.mark.parametrize(
    ("to", "lines", "time", "source"),
    [
        (0b0001, 900, 0, "nothing"),
        (0b0010, 900, 900 * PACKAGE_LATENCY, "package"),
        (0b0100, 900, 900 * FAR, "memory"),
        (0b0010, 3000, 1000 * PACKAGE_LATENCY, "package"),
        (0b0100, 3000, 3000 * FAR, "memory"),
        (0b0100, 9000, PACKAGE * FAR, "memory"),
    ],
)
def test_a_migration_costs_what_is_nearest(to: int, lines: int, time: int, source: str) -> None:
    """Within the package its cache gives what a core can hold; across, memory gives what a package can."""
    machine = machine_of()
    footprint = data(lines, node=0)
    first = min(lines, PACKAGE)
    (thread,) = run(machine, iter([RunOn(1), Reuse(footprint), Compute(7), RunOn(to), Compute(7)]))
    assert thread.run_time == first * NEAR + 7 + time + 7
    refills = footprint.refills
    assert refills.from_level == ({3: time // PACKAGE_LATENCY} if source == "package" else {})
    assert refills.remote == (time // FAR if source == "memory" else 0)


def test_what_no_cache_can_hold_is_the_threads_own_work() -> None:
    machine = machine_of()
    footprint = data(100_000, node=0)
    run(machine, iter([Reuse(footprint), Compute(10), Sleep(10), Compute(10)] * 5))
    assert footprint.refills.lines == PACKAGE


@pytest.mark.parametrize(("a", "b"), [(600, 300), (600, 400), (600, 500), (900, 800), (1000, 1000)])
def test_two_threads_on_one_core_push_out_what_does_not_fit(a: int, b: int) -> None:
    """In turns: each finds a + b - size of its lines pushed out, and gets them from the package's cache."""
    machine = machine_of()
    one, two = data(a, node=0, name="one"), data(b, node=0, name="two")
    turns = 6
    programs = [iter([RunOn(1), Reuse(f), *([Compute(10), Sleep(2_000_000)] * turns)]) for f in (one, two)]
    run(machine, *programs)
    excess = max(0, a + b - CORE)
    for footprint, lines in ((one, a), (two, b)):
        assert footprint.refills.from_memory.total == lines
        assert footprint.refills.from_level == ({3: excess * turns} if excess else {})
    assert one.refills.time == a * NEAR + excess * turns * PACKAGE_LATENCY


def test_two_cores_share_a_package_too_small_for_both() -> None:
    """In turns: a core keeps its first lines, but each use takes from the package what the other needs."""
    machine = machine_of()
    one, two = data(3000, node=0), data(2500, node=0)

    def program(where: int, footprint: Footprint, start: int) -> Iterator[Request]:
        yield RunOn(where)
        yield Sleep(start)
        for _ in range(10):
            yield Reuse(footprint)
            yield Reuse(None)
            yield Sleep(10_000_000 - footprint.refills.time % 10_000_000)

    run(machine, program(1, one, 0), program(2, two, 5_000_000))
    excess = 3000 + 2500 - PACKAGE
    assert one.refills.from_memory.total == 3000 + 9 * excess
    assert two.refills.from_memory.total == 2500 + 9 * excess
    assert one.refills.from_level == two.refills.from_level == {}


def test_data_that_is_written_comes_from_the_caches_where_it_was() -> None:
    machine = machine_of()
    footprint = data(900, node=0, written=True)
    trip = [RunOn(1), Reuse(footprint), RunOn(4), RunOn(1)]
    run(machine, iter(trip))
    refills = footprint.refills
    assert refills.from_memory.accesses == {(0, 0): 900}
    assert refills.from_caches.accesses == {(1, 0): 900, (0, 1): 900}
    assert refills.time == 900 * (NEAR + 2 * FAR)
    read = data(900, node=0)
    machine = machine_of()
    run(machine, iter([RunOn(1), Reuse(read), RunOn(4), RunOn(1)]))
    assert read.refills.time == 900 * (NEAR + FAR)  # what is only read is still there


def test_threads_may_share_a_footprint() -> None:
    machine = machine_of()
    footprint = data(500, node=0)
    run(
        machine,
        iter([RunOn(1), Reuse(footprint)]),
        iter([RunOn(2), Sleep(100_000), Reuse(footprint)]),
    )
    assert footprint.refills.from_memory.total == 500
    assert footprint.refills.from_level == {3: 500}


def test_lines_come_from_where_the_pages_are() -> None:
    machine = machine_of()
    space = machine.memory.space(machine.create_process("q"))
    region = space.allocate(40)
    assert region is not None
    footprint = Footprint(100 * LINE, region=region)
    process = machine.create_process("toucher")
    for where, first, pages in ((1, 0, 30), (4, 30, 10)):
        touch = Touch(region, first, pages, accesses=0)
        machine.create_thread(process, iter([RunOn(where), touch]))
    machine.run()
    homes = region.pages_by_node()
    run(machine, iter([RunOn(1), Reuse(footprint)]))
    assert footprint.refills.from_memory.accesses == {(0, n): 100 * homes[n] // 40 for n in sorted(homes)}
    homeless = data(10)
    run(machine, iter([RunOn(8), Reuse(homeless)]))
    assert homeless.node == 1


def test_memory_that_is_too_narrow_is_shared() -> None:
    """Two refills at once from memory that can feed one of them take twice as long."""
    rate = LINE * 1_000_000_000 // NEAR
    alone, both = [], []
    for found, count in ((alone, 1), (both, 2)):
        machine = machine_of(bandwidth=rate)
        footprints = [data(512, node=0) for _ in range(count)]
        run(machine, *(iter([RunOn(1 << k), Reuse(f)]) for k, f in enumerate(footprints)))
        found += [f.refills.time for f in footprints]
    assert alone == [512 * NEAR]
    assert both == pytest.approx([2 * 512 * NEAR] * 2, rel=1e-4)


def test_a_published_machine() -> None:
    """Scheduling facts 7.6: 256 KiB from an X5570's third level, 47 clocks, four at a time, are 16 us."""
    machine = boot(tables=load("nehalem-2s").freeze())
    footprint, processors = Footprint(256 << 10, node=0), machine.processors
    assert machine.caches.touch(processors[0], footprint) == 4096 * 65 // 4
    assert machine.caches.cost(1, footprint) == 0  # the same core
    assert machine.caches.cost(2, footprint) == 4096 * 16 // 4 == 16_384
    assert machine.caches.cost(8, footprint) == 4096 * 106 // 4


# -- every line by itself ---------------------------------------------------------------------------------


class Lines:
    """The same rules, line by line: each cache is a list of lines, the least recently used first."""

    def __init__(self, ways: list[list[tuple[str, int]]]) -> None:
        self.ways = ways
        self.caches: dict[str, OrderedDict[tuple[int, int], None]] = {
            name: OrderedDict() for way in ways for name, _ in way
        }
        self.last: dict[int, int] = {}

    def use(self, processor: int, footprint: int, lines: int, written: bool) -> Counter[str]:
        way = self.ways[processor]
        came: Counter[str] = Counter()
        names = [name for name, _ in way]
        for line in range(min(lines, max(size for _, size in way))):
            nearest = next(k for k, (_, size) in enumerate(way) if line < size)
            source = next((k for k, name in enumerate(names) if (footprint, line) in self.caches[name]), None)
            if source is None:
                elsewhere = written and any((footprint, line) in cache for cache in self.caches.values())
                came["caches" if elsewhere else "memory"] += 1
            elif source > nearest:
                came[names[source][:2]] += 1
        if written:
            for name, cache in self.caches.items():
                if name not in names:
                    for key in [key for key in cache if key[0] == footprint]:
                        del cache[key]
        for name, size in way:
            cache = self.caches[name]
            for line in reversed(range(min(lines, size))):
                cache[footprint, line] = None
                cache.move_to_end((footprint, line))
            while len(cache) > size:
                cache.popitem(last=False)
        return came


@settings(max_examples=60)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 300), st.booleans()), min_size=1, max_size=5),
    uses=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=40),
)
def test_counts_are_those_of_single_lines(sizes: list[tuple[int, bool]], uses: list[tuple[int, int]]) -> None:
    topology = Topology("small")
    for _ in range(2):
        shared = topology.add_cache(topology.add_node(memory=1 << 30), level=3, size=200 * LINE)
        for _ in range(2):
            topology.add_processor(topology.add_core(topology.add_cache(shared, level=2, size=70 * LINE)))
    machine = boot(tables=topology.freeze())
    reference = Lines([[(f"L2 {p}", 70), (f"L3 {p // 2}", 200)] for p in range(4)])
    footprints = [data(lines, node=0, written=written) for lines, written in sizes]
    for processor, which in uses:
        footprint = footprints[which % len(footprints)]
        lines, written = sizes[which % len(footprints)]
        before = totals(footprint)
        machine.caches.touch(machine.processors[processor], footprint)
        machine.caches.check()
        came = reference.use(processor, which % len(footprints), lines, written)
        assert totals(footprint) - before == came


def totals(footprint: Footprint) -> Counter[str]:
    refills = footprint.refills
    counts = {f"L{level}": lines for level, lines in refills.from_level.items()}
    return Counter(counts | {"memory": refills.from_memory.total, "caches": refills.from_caches.total})


@pytest.mark.once
@settings(max_examples=25)
@given(
    sizes=st.lists(st.integers(1, 100), min_size=1, max_size=6),
    uses=st.lists(st.integers(0, 5), max_size=40),
)
def test_one_cache_misses_as_an_independent_lru(sizes: list[int], uses: list[int]) -> None:
    """A library that others wrote gets each line of each use, up and down again: so a footprint's first lines
    are its most recently used ones, as here, and it goes up through those that it has before it misses."""
    library = pytest.importorskip("libcachesim", reason="libcachesim is not installed")
    topology = Topology("one")
    cache = topology.add_cache(topology.add_node(memory=1 << 30), level=2, size=100 * LINE)
    topology.add_processor(topology.add_core(cache))
    machine = boot(tables=topology.freeze())
    footprints = [data(lines, node=0) for lines in sizes]
    lru, request, misses = library.LRU(cache_size=100), library.Request(), 0
    request.obj_size = 1
    for which in uses:
        number = which % len(sizes)
        machine.caches.touch(machine.processors[0], footprints[number])
        up = range(sizes[number])
        for line in (*up, *reversed(up)):
            request.obj_id = 1 + number * 1000 + line
            misses += not lru.get(request)
        assert machine.caches.refills.lines == misses


# -- what comes in between --------------------------------------------------------------------------------


def test_a_thread_that_is_preempted_keeps_what_has_come() -> None:
    machine = machine_of()
    footprint = data(800, node=0)
    process = machine.create_process("p")
    thread = machine.create_thread(process, iter([Reuse(footprint), Compute(5000)]), affinity=1)
    machine.create_thread(process, iter([Sleep(30_050), Compute(1000)]), affinity=1, priority=9)
    machine.run(30_060)
    assert footprint.refills.lines == 301  # and half of the last one: it comes meanwhile
    machine.run()
    assert footprint.refills.lines == 800
    assert thread.run_time == 800 * NEAR - 50 + 5000
    assert footprint.refills.time == 800 * NEAR - 50


def test_a_turn_may_end_while_lines_come() -> None:
    machine = boot(
        plugins=[rules(quantum=10_000), Costs()], tables=hardware(), hooks="checked", check_every=1
    )
    footprints = [data(450, node=0) for _ in range(2)]
    threads = run(machine, *(iter([Reuse(f), Compute(3000)]) for f in footprints), affinity=1)
    for footprint, thread in zip(footprints, threads, strict=True):
        assert footprint.refills.lines == 450
        assert thread.run_time == 450 * NEAR + 3000


@pytest.mark.parametrize("lines", [PACKAGE, CORE, 200, 201])
@pytest.mark.parametrize("quantum", [1, 7, 20_000])
def test_threads_that_push_each_other_out_get_on(lines: int, quantum: int) -> None:
    """Turns that are over before all lines are there, or just then: 200 of them take 20,000 ns."""
    one = hardware(packages=1, cores=1)
    machine = boot(plugins=[rules(quantum=quantum), Costs()], tables=one, hooks="checked")
    footprints = [data(lines, node=0) for _ in range(2)]
    if quantum < NEAR:
        footprints = [data(lines // 50, node=0) for _ in range(2)]
    threads = run(machine, *(iter([Reuse(f), Compute(300)]) for f in footprints))
    waited = sum(f.refills.time for f in footprints)
    assert sum(thread.run_time for thread in threads) == waited + 600


def test_work_that_was_under_way_goes_on_where_it_was() -> None:
    """Moved amid a burst, it refills first and then does the rest of its work, no more, no less."""
    machine = machine_of()
    footprint = data(100, node=0)
    process = machine.create_process("p")
    thread = machine.create_thread(process, iter([Reuse(footprint), Compute(10_000)]), affinity=1)
    machine.create_thread(process, iter([Sleep(12_000), Compute(100)]), affinity=1, priority=9)
    machine.run(12_050)
    machine.scheduler.set_affinity(thread, 4)
    machine.scheduler.reconsider(thread)
    machine.run()
    assert thread.run_time == 100 * NEAR + 10_000 + 100 * FAR
    assert machine.engine.now == 12_050 + 100 * FAR + 8_000


@pytest.mark.parametrize("at", [1, 40_000, 79_999, 80_000, 80_001])
def test_interrupts_take_time_of_the_processor_but_lines_keep_coming(at: int) -> None:
    machine = machine_of()
    footprint = data(800, node=0)
    machine.engine.at(at, lambda _: machine.interrupts.interrupt(machine.processors[0], 500))
    run(machine, iter([Reuse(footprint), Compute(1000)]), affinity=1)
    during = max(0, min(at + 500 - 80_000, 500)) if at < 80_000 else 500
    assert machine.engine.now == 81_000 + during
    assert footprint.refills.time == 800 * NEAR


def test_an_apc_comes_in_between() -> None:
    machine = machine_of()
    footprint = data(800, node=0)
    ran: list[int] = []
    thread = machine.create_thread(
        machine.create_process("p"), iter([Reuse(footprint), Compute(1000)]), affinity=1
    )
    for at in (100, 79_900):  # one ends amid the wait, one after it
        machine.engine.at(at, lambda _: queue_apc(thread, 500, lambda _: ran.append(machine.engine.now)))
    machine.run()
    assert ran == [600, 80_400]
    assert machine.engine.now == 81_400
    assert not machine.threads


def test_raised_threads_and_touches_of_memory_go_on() -> None:
    machine = machine_of()
    footprint = data(50, node=0)
    lock = machine.create_lock("lock")

    def program() -> Generator[Request, Any, None]:
        region = yield Allocate(8)
        yield Reuse(footprint)
        for _ in range(20):
            yield Acquire(lock)
            yield Compute(700)
            yield Release(lock)
            yield Touch(region)
            yield Compute(900)

    run(machine, *(program() for _ in range(9)))
    assert footprint.refills.lines >= 50


def test_a_processor_may_be_taken_away_while_lines_come() -> None:
    machine = boot(plugins=[rules(quantum=10_000_000), Costs()], tables=hardware())
    footprint = data(800, node=0)
    thread = machine.create_thread(
        machine.create_process("p"), iter([Reuse(footprint), Compute(1000)]), affinity=1
    )
    machine.engine.at(30_050, lambda _: machine.scheduler.evacuate(machine.processors[0], 2) and None)
    machine.run()
    assert footprint.refills.from_memory.accesses == {(0, 0): 301, (1, 0): 499}
    assert machine.engine.now == thread.run_time == 30_050 + 499 * FAR + 1000


@pytest.mark.parametrize(("stop", "go"), [(10_000, 20_000), (10_000, 90_000), (80_500, 90_000)])
def test_lines_keep_coming_while_all_processors_stand_still(stop: int, go: int) -> None:
    machine = machine_of()
    footprint = data(800, node=0)
    machine.engine.at(stop, lambda _: machine.scheduler.stop_all())
    machine.engine.at(go, lambda _: machine.scheduler.go_on())
    run(machine, iter([Reuse(footprint), Compute(1000)]), affinity=1)
    work_left = 1000 - max(0, stop - 80_000)
    assert machine.engine.now == max(80_000, go) + work_left


@pytest.mark.parametrize("speed", [NOMINAL // 2, NOMINAL // 3])
def test_a_slow_processor_waits_no_longer_for_memory(speed: int) -> None:
    machine = machine_of()
    machine.scheduler.set_speed(machine.processors[0], speed)
    footprint = data(100, node=0)
    (thread,) = run(machine, iter([Reuse(footprint), Compute(999)]), affinity=1)
    assert thread.run_time == pytest.approx(100 * NEAR + 999 * NOMINAL // speed, abs=2)


def test_a_switch_takes_its_time_before_lines_come() -> None:
    tables = hardware()
    machine = boot(plugins=[rules(switch_cost=400, quantum=10_000_000), Costs()], tables=tables)
    footprint = data(100, node=0)
    process = machine.create_process("p")
    machine.create_thread(process, bursts(1000), affinity=1)
    machine.create_thread(process, iter([Reuse(footprint), Sleep(0), Compute(10)]), affinity=1)
    machine.create_thread(process, bursts(5, 5, 5), affinity=1)
    machine.caches.assign(machine.threads[max(machine.threads)], data(10, node=0))
    machine.run()
    machine.check()
    # 1000, switch, 100 lines, switch, 10 lines and 15, switch, 10
    assert machine.engine.now == 1000 + 400 + 100 * NEAR + 400 + 10 * NEAR + 15 + 400 + 10


def test_a_footprint_can_be_given_and_taken_from_outside() -> None:
    machine = machine_of()
    footprint = data(100, node=0)
    thread = machine.create_thread(
        machine.create_process("p"), iter([Compute(10), Sleep(10), Compute(10), Reuse(None), Sleep(5)])
    )
    machine.caches.assign(thread, footprint)
    assert machine.caches.footprint(thread) is footprint
    machine.run()
    assert footprint.refills.count == 1  # it was running already: from its next turn on
    assert machine.caches.footprint(thread) is None
    assert machine.engine.now == 10 + 10 + 100 * NEAR + 10 + 5


def test_caches_lose_what_they_hold() -> None:
    machine = machine_of()
    caches, processors = machine.caches, machine.processors
    footprint = data(900, node=0)
    assert caches.cost(0, footprint) == 900 * NEAR
    assert caches.touch(processors[0], footprint) == 900 * NEAR
    assert caches.cost(0, footprint) == 0
    caches.flush(0b0001)  # the core's own cache; the package's is shared
    assert caches.cost(0, footprint) == 900 * PACKAGE_LATENCY
    caches.flush(0b0011)
    assert caches.cost(0, footprint) == 900 * NEAR
    assert caches.touch(processors[0], footprint, 10) == 10 * NEAR
    assert caches.cost(0, footprint) == 890 * NEAR
    caches.forget(footprint)
    assert caches.cost(0, footprint) == 900 * NEAR
    caches.check()


def test_caches_keep_what_they_hold_when_hardware_comes() -> None:
    machine = machine_of()
    footprint = data(900, node=0)
    machine.caches.touch(machine.processors[0], footprint)
    machine.tables = hardware(cores=3)  # the second core of the first package, and the third, are new
    assert [machine.caches.cost(k, footprint) for k in (0, 2, 3)] == [0, 900 * PACKAGE_LATENCY, 900 * FAR]
    machine.caches.check()


def test_a_processor_that_is_gone_holds_nothing() -> None:
    machine = machine_of()
    caches, processors = machine.caches, machine.processors
    footprint = data(900, node=0, written=True)
    caches.touch(processors[2], footprint)
    caches.touch(processors[3], data(PACKAGE, node=1))  # now it is in the core's own cache only
    assert [part.level for part in caches.missing(0, footprint)] == [-1]
    machine.scheduler.all_mask = machine.scheduler.idle_mask = 0b1011
    machine.tables = hardware()
    assert [part.level for part in caches.missing(0, footprint)] == [0]
    assert caches.cost(3, data(1, node=1)) == NEAR


@pytest.mark.once
@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), written=st.booleans(), shared=st.booleans(), disturbed=st.booleans())
def test_whatever_happens_the_accounts_agree(seed: int, written: bool, shared: bool, disturbed: bool) -> None:
    """Threads that share footprints and are moved about; undisturbed, they run for work and waits."""
    faults = [Faults(until=20_000_000)] if disturbed else []
    machine = boot(
        plugins=[rules(quantum=20_000, ready_queues="shared" if shared else "per_processor"), *faults],
        tables=hardware(),
        seed=seed,
        hooks="checked",
        check_every=10,
    )
    random = machine.streams.stream("core", "programs")
    footprints = [data(random.randrange(1, 6000), node=k % 2, written=written) for k in range(4)]
    process, work = machine.create_process("p"), 0
    threads = []
    for _ in range(7):
        steps: list[Request] = []
        for _ in range(random.randrange(2, 8)):
            burst = random.randrange(50_000)
            work += burst
            mask = random.randrange(1, 16)
            steps += [Reuse(random.choice(footprints)), Compute(burst), RunOn(mask), Sleep(100)]
        threads.append(machine.create_thread(process, iter(steps)))
    machine.run()
    assert not [thread for thread in threads if thread.id in machine.threads]
    waited = machine.caches.refills.time
    assert sum(f.refills.time for f in footprints) == waited > 0
    if not disturbed:
        assert sum(thread.run_time for thread in threads) == work + waited


# -- what there is without it -----------------------------------------------------------------------------


def test_without_footprints_there_is_nothing() -> None:
    machine = machine_of()
    run(machine, bursts(10, 20))
    assert not machine.scheduler.switch_watchers
    assert not Recorder(machine).counts().get("Lab-Cache/Refill", 0)


def test_caches_that_nobody_describes_are_the_policys() -> None:
    machine = boot(4)
    (only,) = machine.caches.way(2)
    assert (only.level, only.lines, only.processors) == (2, (1 << 20) // 64, 0b100)


@pytest.mark.parametrize(
    "wrong",
    [{"size": 0}, {"size": -5}, {"size": 64, "overlap": 0}, {"size": 64, "node": 0, "region": object()}],
)
def test_a_footprint_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(SimulationError, match="footprint"):
        Footprint(**wrong)


@pytest.mark.parametrize("wrong", [{"overlap": 0}, {"core_size": -1}, {"core_latency": -1}])
def test_a_policy_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        ProcessorCachePolicy(**wrong)


@pytest.mark.skipif(not HWLOC.is_dir(), reason="the real descriptions are not here")
@pytest.mark.parametrize("file", sorted(HWLOC.glob("*.xml")), ids=lambda file: file.stem)
def test_real_machines_have_caches(file: Path) -> None:
    machine = boot(tables=load(str(file)).freeze())
    tables = machine.tables
    stated = {c for c in tables.caches if c.type != "instruction"}
    for processor in range(tables.processors):
        way = machine.caches.way(processor)
        assert way
        assert all(cache.processors >> processor & 1 for cache in way)
        assert [cache.level for cache in way] == sorted(cache.level for cache in way)
        if stated:
            assert {(c.level, c.processors) for c in way} == {
                (c.level, c.processors) for c in stated if c.processors >> processor & 1
            }
    footprint = Footprint(1 << 16, node=0)
    run(machine, iter([RunOn(1), Reuse(footprint), RunOn(1 << tables.processors - 1)]))
    assert footprint.refills.from_memory.total >= 1024
