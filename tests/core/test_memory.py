"""Extents, lists, faults, accesses and links: closed forms first, then whatever comes, with all accounts
checked."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlab.engine import Engine
from ntlab.errors import SimulationError
from ntlab.hooks import hookimpl
from ntlab.machine import (
    AddressSpace,
    Allocate,
    Compute,
    Extent,
    Flow,
    Free,
    Link,
    Links,
    Machine,
    Memory,
    MemoryPolicy,
    Region,
    Request,
    RunOn,
    Tally,
    Thread,
    Touch,
)
from ntlab.machine.accesses import STATUS_NO_MEMORY
from ntlab.machine.apcs import queue_apc
from ntlab.machine.extents import ACTIVE, FREE, MODIFIED, STANDBY, STATES, TRANSITION, ZEROED, FreeRuns
from ntlab.plugin import option, plugin
from ntlab.quantities import KIB, MIB
from ntlab.testing import Recorder, boot, bursts, rules
from ntlab.topology import Tables, Topology, load

PAGE = 4 * KIB
LINES = 64  # cache lines of a page
FAULT, SOFT, HARD, ZEROING = 1_000, 700, 20_000, 300


@plugin(name="placement", summary="Pages from where the thread runs; costs by kind.", release="ws2003")
class Placement:
    order: tuple[int, ...] = option(default=(), help="The nodes to try after the first.")

    @hookimpl
    def memory_policy(self) -> MemoryPolicy:
        return MemoryPolicy(demand_zero_fault=FAULT, transition_fault=SOFT, hard_fault=HARD, zeroing=ZEROING)

    @hookimpl
    def allocation_node(self, thread: Thread) -> int | None:
        return thread.processor.node if thread.processor is not None else None

    @hookimpl
    def fallback_order(self) -> Sequence[int] | None:
        return self.order or None


def hardware(
    latency: Sequence[Sequence[int]], *, memory: int = MIB, bandwidth: int = 10**12, processors: int = 1
) -> Tables:
    """A machine with one node a row of `latency`."""
    topology = Topology("test")
    for _ in latency:
        node = topology.add_node(memory=memory, bandwidth=bandwidth)
        for _ in range(processors):
            topology.add_processor(topology.add_core(node))
    topology.latency_ns = latency
    return topology.freeze()


ONE = hardware([[100]], processors=4)
TWO = hardware([[100, 170], [190, 110]], processors=2)


def start(machine: Machine, *requests: Request, **thread: Any) -> Thread:
    """A thread of a process of its own that makes these requests. Its `context` is a list: when it ended."""
    ended: list[int] = []

    def program() -> Iterator[Request]:
        yield from requests
        ended.append(machine.engine.now)

    made = machine.create_thread(machine.create_process("test"), program(), **thread)
    made.context = ended
    return made


def time_of(machine: Machine, *requests: Request, **thread: Any) -> int:
    """How long these requests take."""
    begin = machine.engine.now
    made = start(machine, *requests, **thread)
    machine.run()
    (end,) = made.context
    return int(end) - begin


def space_of(machine: Machine) -> AddressSpace:
    return machine.memory.space(machine.create_process("test"))


def region_of(machine: Machine, pages: int) -> Region:
    region = space_of(machine).allocate(pages)
    assert region is not None
    return region


def states(machine: Machine) -> dict[int, int]:
    """Pages by state, those that there are."""
    machine.memory.check()
    return {state: pages for state in range(STATES) if (pages := machine.memory.pages(state))}


class Store:
    """A backing that reads in 5 us, two pages at a time, and remembers what was written."""

    LATENCY = 5_000

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.stored: set[int] = set()

    def held(self, region: Region, page: int, stop: int) -> tuple[int, int] | None:
        pages = [number for number in range(page, stop) if number in self.stored]
        if not pages:
            return None
        first = stop = pages[0]
        while stop in self.stored:
            stop += 1
        return first, min(stop, region.stop)

    def read(self, thread: Thread, region: Region, page: int, stop: int) -> bool:
        memory = self.machine.memory
        first_run = region.space.missing(page, min(page + 2, stop))[:1]
        transfer = memory.begin_read(region, first_run, memory.home(thread, region))
        if transfer is None:
            return False
        self.machine.engine.after(self.LATENCY, memory.end_read, transfer)
        return True

    def changed(self, region: Region, page: int, stop: int) -> None:
        self.stored.difference_update(range(page, stop))

    def write(self, extents: Sequence[Extent]) -> None:
        """Write modified pages, in 5 us."""
        transfer = self.machine.memory.begin_write(extents)
        for extent in transfer.extents:
            self.stored.update(range(extent.page, extent.page + extent.pages))
        self.machine.engine.after(self.LATENCY, self.machine.memory.end_write, transfer)


# -- what a touch costs --------------------------------------------------------------------------------


def test_a_first_touch_takes_a_fault_for_each_page_and_the_latency_for_each_line() -> None:
    machine = boot(plugins=[Placement()], tables=ONE)
    assert time_of(machine, Touch(region_of(machine, 10))) == 10 * (FAULT + LINES * 100)
    few = Touch(region_of(machine, 10), accesses=3, overlap=2)
    assert time_of(machine, few) == 10 * FAULT + 10 * 3 * 100 // 2


def test_the_latency_is_that_between_the_processor_and_the_page() -> None:
    machine = boot(plugins=[Placement()], tables=TWO)
    regions = [region_of(machine, 6) for _ in range(2)]
    for node, region in enumerate(regions):
        machine.memory.populate(region, node)
    ends = {}
    for source, target in itertools.product(range(2), repeat=2):
        tally = Tally()
        touch = Touch(regions[target], tally=tally)
        ends[source, target] = time_of(machine, touch, affinity=0b11 << 2 * source)
        assert tally.accesses == {(source, target): 6 * LINES}
        assert tally.remote_share == (source != target)
        assert tally.mean_latency == TWO.latency[source][target]
    assert ends == {(n, m): 6 * LINES * TWO.latency[n][m] for n, m in itertools.product(range(2), repeat=2)}


def test_a_page_taken_back_from_a_list_costs_a_soft_fault_and_no_page() -> None:
    machine = boot(plugins=[Placement()], tables=ONE)
    memory = machine.memory
    region = region_of(machine, 10)
    memory.populate(region, 0, dirty=True)
    memory.trim(region.space.working_set, memory.oldest(region.space.working_set, 4))
    assert states(machine) == {ZEROED: 246, MODIFIED: 4, ACTIVE: 6}
    assert time_of(machine, Touch(region, 2, 5, accesses=0)) == 2 * SOFT
    assert memory.transition_faults == 2
    assert states(machine) == {ZEROED: 246, MODIFIED: 2, ACTIVE: 8}


def test_frames_given_back_are_zeroed_when_they_are_needed_again() -> None:
    machine = boot(plugins=[Placement()], tables=hardware([[100]], memory=8 * PAGE))
    first, second = region_of(machine, 5), region_of(machine, 3)
    requests = Touch(first, accesses=0), Free(first), Touch(second, accesses=0)
    assert time_of(machine, *requests) == 8 * FAULT
    assert states(machine) == {FREE: 5, ACTIVE: 3}
    assert time_of(machine, Touch(region_of(machine, 4), accesses=0)) == 4 * (FAULT + ZEROING)


def test_a_hard_fault_waits_and_a_second_thread_waits_for_the_same_read() -> None:
    machine = boot(plugins=[Placement()], tables=ONE)
    store = Store(machine)
    region = region_of(machine, 2)
    region.backing = store
    store.stored = {region.first, region.first + 1}
    ends: list[int] = []

    def program() -> Iterator[Request]:
        yield Touch(region, accesses=0)
        ends.append(machine.engine.now)

    process = machine.create_process("readers")
    for processor in range(2):
        machine.create_thread(process, program(), affinity=1 << processor)
    machine.run()
    # The first handles its fault while the read goes on, and finds it done; the second only waits.
    assert sorted(ends) == [Store.LATENCY, HARD]
    assert machine.memory.hard_faults == 1
    assert states(machine) == {ZEROED: 254, ACTIVE: 2}


# -- what happens while it lasts -----------------------------------------------------------------------


def test_a_preempted_access_goes_on_where_it_stopped_and_leaves_its_link_meanwhile() -> None:
    # The link carries one and a half full rates: two threads get three quarters each.
    rate = 64 * 10**9 // 100
    tables = hardware([[100]], processors=2, bandwidth=3 * rate // 2)
    machine = boot(plugins=[Placement()], tables=tables)
    regions = [region_of(machine, 10) for _ in range(2)]
    for region in regions:
        machine.memory.populate(region, 0)
    work = 10 * LINES * 100
    ends: list[tuple[int, int]] = []

    def program(number: int) -> Iterator[Request]:
        yield Touch(regions[number])
        ends.append((machine.engine.now, number))

    process = machine.create_process("test")
    for number in range(2):
        machine.create_thread(process, program(number), affinity=1 << number)

    def disturb(_: object) -> None:
        start(machine, *bursts(work), priority=12, affinity=0b10)

    machine.engine.at(work // 2, disturb)
    machine.run()
    # Both at 3/4 for half the time; the first then alone, 5/8 left; the second waits out `work`, then alone.
    assert ends == [(work // 2 + work * 5 // 8, 0), (work // 2 + work + work * 5 // 8, 1)]


def test_an_access_that_is_moved_to_another_node_goes_on_at_the_latency_from_there() -> None:
    machine = boot(plugins=[Placement()], tables=TWO)
    region = region_of(machine, 10)
    machine.memory.populate(region, 0)
    tally = Tally()
    thread = start(machine, RunOn(0b0011), Touch(region, tally=tally))
    work = 10 * LINES

    def move(_: object) -> None:
        machine.scheduler.block(thread)
        machine.scheduler.set_affinity(thread, 0b1100)
        machine.engine.after(1_000, machine.scheduler.wake, thread)

    machine.engine.at(work * 100 // 4, move)
    machine.run()
    assert thread.context == [work * 100 // 4 + 1_000 + work * 3 // 4 * 190]
    assert tally.accesses == {(0, 0): work // 4, (1, 0): work * 3 // 4}
    assert tally.time == {(0, 0): work // 4 * 100, (1, 0): work * 3 // 4 * 190}


def test_two_writers_on_one_node_lose_to_two_nodes() -> None:
    """A line that is written to goes to and fro: two writers want more of a memory than it gives."""
    tables = load("opteron-4s").freeze()
    overlap = 1.64e9 * 95 / 64e9  # AMD 40555: a stream of reads alone goes at 1.64 GB/s

    def time(nodes: Sequence[int], *, write: bool) -> list[int]:
        machine = boot(plugins=[Placement()], tables=tables)
        threads = []
        for processor, node in enumerate(nodes):
            region = region_of(machine, 1000)
            machine.memory.populate(region, node)
            touch = Touch(region, write=write, overlap=overlap)
            threads.append(start(machine, touch, affinity=1 << processor))
        machine.run()
        return [int(end) for thread in threads for end in thread.context]

    def relative(nodes: Sequence[int], *, write: bool) -> list[float]:
        return [each / alone for each in time(nodes, write=write)]

    (alone,) = time([0], write=False)
    assert relative([0, 0], write=False) == pytest.approx([1, 1], rel=1e-4)
    assert relative([0, 3], write=False) == pytest.approx([1, 124 / 95], rel=1e-4)
    assert relative([0], write=True) == pytest.approx([107 / 95], rel=1e-4)
    assert relative([0, 3], write=True) == pytest.approx([107 / 95, 142 / 95], rel=1e-4)
    assert relative([0, 0], write=True) == pytest.approx([4 * 1.64 / 4.5] * 2, rel=1e-4)


def test_the_interconnect_carries_no_more_than_its_bandwidth() -> None:
    machine = boot(plugins=[Placement()], tables=load("opteron-4s").freeze())
    region = region_of(machine, 1000)
    machine.memory.populate(region, 1)
    taken = time_of(machine, Touch(region, overlap=100), affinity=1)
    assert taken == pytest.approx(1000 * PAGE / 4.0, rel=1e-4)  # 4 GB/s, against 4.5 of the memory behind


def test_what_is_written_far_away_goes_each_way_once() -> None:
    """Between nodes both ways are full at 4 GB/s each, where the memory takes 20 GB/s."""
    topology = load("opteron-4s")
    for node in topology.vertices("memory"):
        topology.graph.nodes[node]["bandwidth"] = 20_000_000_000
    tables = topology.freeze()

    def ends(nodes: Sequence[tuple[int, int]], *, write: bool) -> list[int]:
        machine = boot(plugins=[Placement()], tables=tables)
        threads = []
        for source, target in nodes:
            region = region_of(machine, 1000)
            machine.memory.populate(region, target)
            touch = Touch(region, write=write, overlap=100)
            threads.append(start(machine, touch, affinity=tables.node_mask[source]))
        machine.run()
        return [int(end) for thread in threads for end in thread.context]

    once = 1000 * PAGE / 4.0
    for write in (False, True):
        assert ends([(0, 1)], write=write) == pytest.approx([once], rel=1e-4)
    assert ends([(0, 1), (1, 0)], write=False) == pytest.approx([once] * 2, rel=1e-4)
    assert ends([(0, 1), (1, 0)], write=True) == pytest.approx([2 * once] * 2, rel=1e-4)


# -- links ---------------------------------------------------------------------------------------------


def fluid(flows: Sequence[tuple[int, int, int]], bandwidth: int) -> list[Fraction]:
    """When each of (begin, work, rate) ends on one link shared max-min fair: exact, step by step."""
    left = {n: Fraction(work) for n, (_, work, _) in enumerate(flows)}
    ends = [Fraction(0)] * len(flows)
    now = Fraction(0)
    while left:
        active = [n for n in left if flows[n][0] <= now]
        share: dict[int, Fraction] = {}
        rest = Fraction(bandwidth)
        for k, n in enumerate(sorted(active, key=lambda n: flows[n][2])):
            share[n] = min(Fraction(flows[n][2]), rest / (len(active) - k))
            rest -= share[n]
        speed = {n: share[n] / flows[n][2] for n in active}
        steps = [left[n] / speed[n] for n in active] + [flows[n][0] - now for n in left if n not in active]
        step = min(steps)
        now += step
        for n in active:
            left[n] -= step * speed[n]
            if not left[n]:
                del left[n]
                ends[n] = now
    return ends


@given(
    flows=st.lists(
        st.tuples(st.integers(0, 50_000), st.integers(1, 100_000), st.integers(1, 1_000)),
        min_size=1,
        max_size=8,
    ),
    bandwidth=st.integers(50, 3_000),
)
def test_flows_end_when_the_fluid_model_says(flows: list[tuple[int, int, int]], bandwidth: int) -> None:
    engine = Engine()
    links = Links(engine)
    # Rates in GB/s, so that a level's whole bytes are fine enough.
    link = Link("test", bandwidth * 10**9)
    ends = [0] * len(flows)

    def ended(number: int) -> None:
        ends[number] = engine.now
        assert sum(rate * flow.speed for flow, rate in link.flows.items()) <= link.bandwidth << 20

    def begin(number: int) -> None:
        _, work, rate = flows[number]
        links.start(((link, rate * 10**9),), work, ended, number)

    for number, (time, _, _) in enumerate(flows):
        engine.at(time, begin, number)
    engine.run()
    for end, exact in zip(ends, fluid(flows, bandwidth), strict=True):
        assert -1e-3 * float(exact) <= end - exact <= 1e-3 * float(exact) + 2 * len(flows)
    assert not link.flows
    assert link.demand == 0


def test_a_stopped_flow_leaves_its_share_and_keeps_its_work() -> None:
    engine = Engine()
    links = Links(engine)
    link, narrow = Link("wide", 100), Link("narrow", 50)
    ends: dict[str, int] = {}

    def ended(name: str) -> None:
        ends[name] = engine.now

    first = links.start(((link, 100),), 1000, ended, "first")
    second = links.start(((link, 100), (narrow, 100)), 1000, ended, "second")
    engine.run(400)  # both at one half: 200 done

    def stop_and_resume(flow: Flow) -> None:
        left = links.stop(flow)
        assert left == 800 << 20
        links.resume(flow, ((narrow, 100),), left)

    stop_and_resume(second)
    engine.run()
    assert ends == {"first": 400 + 800, "second": 400 + 1600}
    assert first.speed == 1 << 20
    with pytest.raises(SimulationError, match="bandwidth"):
        Link("none", 0)
    with pytest.raises(SimulationError, match="flow"):
        links.start(((link, 100),), -1, ended, "x")


# -- where pages come from -----------------------------------------------------------------------------


def test_a_run_that_is_touched_piece_by_piece_is_one_extent() -> None:
    machine = boot(plugins=[Placement()], tables=ONE)
    region = region_of(machine, 200)
    start(machine, *(Touch(region, first, 10, write=True, accesses=0) for first in range(0, 200, 10)))
    machine.run()
    (extent,) = region.extents()
    assert (extent.pages, extent.dirty, extent.accessed) == (200, True, True)
    region = region_of(machine, 50)
    machine.memory.populate(region, 0)
    start(machine, *(Touch(region, first, 5, write=True, accesses=0) for first in range(0, 50, 5)))
    machine.run()
    (extent,) = region.extents()
    assert (extent.pages, extent.dirty, extent.accessed) == (50, True, True)
    machine.memory.check()


def test_pages_that_differ_in_anything_are_not_one_extent() -> None:
    machine = boot(plugins=[Placement()], tables=ONE)
    region = region_of(machine, 30)
    start(machine, *(Touch(region, first, 10, write=first == 10, accesses=0) for first in range(0, 30, 10)))
    machine.run()
    assert [(extent.pages, extent.dirty) for extent in region.extents()] == [
        (10, False),
        (10, True),
        (10, False),
    ]


def test_standby_pages_go_last_and_the_lowest_priority_and_oldest_of_them_first() -> None:
    machine = boot(plugins=[Placement()], tables=hardware([[100]], memory=16 * PAGE))
    memory = machine.memory
    region = region_of(machine, 12)
    memory.populate(region, 0)
    (whole,) = region.extents()
    memory.split(memory.split(whole, 3), 4)
    low, old, new = region.extents()
    for priority, extent in ((5, old), (5, new), (2, low)):
        extent.priority = priority
        memory.trim(region.space.working_set, [extent])
    assert states(machine) == {ZEROED: 4, STANDBY: 12}
    start(machine, Touch(region_of(machine, 4), accesses=0))
    machine.run()
    assert memory.repurposed == [0] * 8
    memory.commit_limit += 9
    start(machine, Touch(region_of(machine, 9), accesses=0))
    machine.run()
    assert memory.repurposed == [0, 0, 3, 0, 0, 6, 0, 0]
    assert [(extent.page, extent.pages) for extent in region.extents()] == [(region.first + 9, 3)]
    machine.memory.check()


def test_the_next_nodes_are_tried_in_the_order_that_the_hook_gives() -> None:
    tables = hardware([[100] * 4] * 4, memory=4 * PAGE)
    machine = boot(plugins=[Placement(order=(2, 3, 0))], tables=tables)
    region = region_of(machine, 13)
    results: list[object] = []

    def program() -> Iterator[Request]:
        results.append((yield Touch(region, accesses=0)))

    machine.create_thread(machine.create_process("test"), program(), affinity=0b10)
    machine.run()
    assert results == [None]
    assert [(extent.node, extent.pages) for extent in region.extents()] == [(1, 4), (2, 4), (3, 4), (0, 1)]


def test_an_order_that_names_the_home_leaves_no_node_out() -> None:
    tables = hardware([[100] * 2] * 2, memory=4 * PAGE)
    machine = boot(plugins=[Placement(order=(1,))], tables=tables)
    region = region_of(machine, 8)
    start(machine, Touch(region, accesses=0), affinity=0b10)
    machine.run()
    assert region.pages_by_node() == {1: 4, 0: 4}


def test_no_page_and_no_commit_are_results_of_the_simulated_program() -> None:
    machine = boot(plugins=[Placement()], tables=TWO)
    machine.memory.commit_limit += 88
    results: list[object] = []

    def program() -> Iterator[Request]:
        region = yield Allocate(600)
        results.append((yield Touch(region, write=True, accesses=0)))
        results.append((yield Allocate(1)))
        yield Free(region)
        results.append((yield Allocate(600)).pages)

    machine.create_thread(machine.create_process("test"), program(), affinity=1)
    machine.run()
    assert results == [STATUS_NO_MEMORY, None, 600]
    assert states(machine) == {FREE: 512}


def test_who_waits_for_pages_goes_on_when_they_have_been_written() -> None:
    machine = boot(plugins=[Placement()], tables=hardware([[100]], memory=8 * PAGE))
    memory = machine.memory
    store = Store(machine)
    region = region_of(machine, 8)
    region.backing = store
    memory.populate(region, 0, dirty=True)
    memory.trim(region.space.working_set, memory.oldest(region.space.working_set, 3))
    memory.commit_limit += 3
    store.write(list(memory.modified))
    touch = Touch(region_of(machine, 3), accesses=0)
    assert time_of(machine, touch) == Store.LATENCY + 3 * (FAULT + ZEROING)
    assert states(machine) == {ACTIVE: 8}
    assert memory.repurposed[5] == 3


def test_a_page_touched_while_it_is_written_is_not_standby_afterwards() -> None:
    machine = boot(plugins=[Placement()], tables=ONE)
    memory = machine.memory
    store = Store(machine)
    region = region_of(machine, 9)
    region.backing = store
    memory.populate(region, 0, dirty=True)
    memory.trim(region.space.working_set, memory.oldest(region.space.working_set, 9))
    store.write(list(memory.modified))
    assert states(machine) == {ZEROED: 247, TRANSITION: 9}
    start(machine, Touch(region, 3, 2, accesses=0), Touch(region, 6, 1, write=True, accesses=0))
    machine.run()
    assert states(machine) == {ZEROED: 247, STANDBY: 6, ACTIVE: 3}
    assert [extent.dirty for extent in region.extents() if extent.state == ACTIVE] == [False, True]
    assert store.stored == {region.first + page for page in range(9) if page != 6}


# -- whatever happens ----------------------------------------------------------------------------------

REGIONS = 4
operation = st.one_of(
    st.tuples(st.just("release"), st.integers(0, REGIONS - 1)),
    *[
        st.tuples(
            st.just("touch"),
            st.integers(0, REGIONS - 1),
            st.integers(0, 19),
            st.integers(1, 20),
            st.booleans(),
            st.integers(0, 3),
        )
    ]
    * 3,
    st.tuples(st.just("trim"), st.integers(0, 1), st.integers(1, 30)),
    st.tuples(st.just("write"), st.integers(1, 4)),
    st.tuples(st.just("pass"), st.integers(1, 20_000)),
)


@pytest.mark.once
@settings(max_examples=100, deadline=None)
@given(operations=st.lists(operation, min_size=10, max_size=60))
def test_no_page_is_lost_or_counted_wrong_whatever_happens(operations: list[tuple[Any, ...]]) -> None:
    """Against a model that knows of each page only whether it holds anything but zeroes."""
    tables = hardware([[100, 170], [190, 110]], memory=20 * PAGE, processors=2)
    machine = boot(plugins=[Placement()], tables=tables)
    memory = machine.memory
    memory.commit_limit = REGIONS * 20
    spaces = [memory.space(machine.create_process(name)) for name in "ab"]
    stores = [Store(machine) for _ in spaces]
    regions: list[Region] = []
    written: list[set[int]] = [set() for _ in range(REGIONS)]
    busy: list[int] = []

    def allocate(number: int) -> Region:
        region = spaces[number % 2].allocate(20, backing=stores[number % 2])
        assert region is not None
        return region

    def touch(number: int, first: int, pages: int, write: bool) -> Iterator[Request]:
        region = regions[number]
        failed = yield Touch(region, first, pages, write=write, accesses=2)
        if write and failed is None:
            written[number] |= set(range(region.first + first, region.first + first + pages))
        busy.remove(number)

    regions += map(allocate, range(REGIONS))
    for each in operations:
        match each:
            case "release", number if number not in busy:
                region = regions[number]
                if not any(extent.state == TRANSITION for extent in region.extents()):
                    region.space.release(region)
                    regions[number] = allocate(number)
                    written[number].clear()
            case "touch", number, first, pages, write, processor:
                busy.append(number)
                program = touch(number, first, min(pages, 20 - first), write)
                machine.create_thread(regions[number].space.process, program, affinity=1 << processor)
            case "trim", which, pages:
                memory.trim(spaces[which].working_set, memory.oldest(spaces[which].working_set, pages))
            case "write", count:
                for space, store in zip(spaces, stores, strict=True):
                    mine = [extent for extent in memory.modified if extent.region.space is space]
                    if mine:
                        store.write(mine[:count])
            case "pass", time:
                machine.run(machine.engine.now + time)
        memory.check()
        for number, region in enumerate(regions):
            for page in sorted(written[number]):
                extent, _ = region.space.at(page)
                stored = page in stores[number % 2].stored
                assert stored or (extent is not None and extent.dirty), f"page {page} is lost"
                assert not (stored and extent is not None and extent.dirty), f"page {page} is stale"
    machine.run()
    memory.check()
    # Nobody waits for ever, but for a page that no one will free.
    assert memory.available == 0 or not machine.threads


@given(
    runs=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 12)), max_size=30),
    takes=st.lists(st.integers(1, 20), max_size=30),
)
def test_free_runs_are_a_set_of_frames_in_the_fewest_runs(
    runs: list[tuple[int, int]], takes: list[int]
) -> None:
    free = FreeRuns()
    model: set[int] = set()
    for run, taken in itertools.zip_longest(runs, takes):
        frame, pages = run or (0, 0)
        if run and model.isdisjoint(range(frame, frame + pages)):
            free.add(frame, pages)
            model |= set(range(frame, frame + pages))
        if taken is not None and model:
            begin, size = free.take(taken)
            assert 1 <= size <= taken
            assert model >= set(range(begin, begin + size))
            model -= set(range(begin, begin + size))
        assert {frame for begin, size in free for frame in range(begin, begin + size)} == model
        assert len(list(free)) == sum(frame - 1 not in model for frame in model)


@given(
    order=st.permutations(range(4)),
    latencies=st.lists(st.integers(101, 400), min_size=12, max_size=12, unique=True),
    pages=st.integers(1, 60),
)
def test_the_numbers_of_nodes_do_not_matter(order: list[int], latencies: list[int], pages: int) -> None:
    draw = iter(latencies)
    matrix = [[100 if n == m else next(draw) for m in range(4)] for n in range(4)]

    @plugin(name="nearest", summary="Pages from the nearest nodes.", release="ws2003")
    class Nearest:
        @hookimpl
        def allocation_node(self, thread: Thread) -> int | None:
            return thread.processor.node if thread.processor is not None else None

        @hookimpl
        def fallback_order(self, memory: Memory, home: int) -> Sequence[int]:
            return memory.machine.tables.nearest[home]

    def outcome(matrix: Sequence[Sequence[int]], node: int) -> tuple[int, dict[int, int]]:
        tables = hardware(matrix, memory=16 * PAGE)
        machine = boot(plugins=[Nearest()], tables=tables)
        region = region_of(machine, pages)
        time = time_of(machine, Touch(region), affinity=1 << node)
        return time, region.pages_by_node()

    # Node n of the first machine is node order.index(n) of the second.
    time, by_node = outcome(matrix, order[0])
    permuted = [[matrix[n][m] for m in order] for n in order]
    assert outcome(permuted, 0) == (time, {order.index(n): count for n, count in by_node.items()})


# -- size ----------------------------------------------------------------------------------------------


def test_a_terabyte_is_a_few_extents() -> None:
    machine = boot(tables=load("demo-256").freeze())
    memory = machine.memory
    assert memory.installed == 1 << 28
    region = region_of(machine, 1 << 28)
    assert memory.populate(region, 5) == 1 << 28
    assert len(region.extents()) == 16
    assert memory.available == 0
    memory.check()
    memory.trim(region.space.working_set, memory.oldest(region.space.working_set, 1 << 27))
    assert memory.pages(STANDBY) == 1 << 27
    memory.check()


def test_check_sees_a_page_that_is_counted_wrong() -> None:
    machine = boot(tables=ONE)
    memory = machine.memory
    region = region_of(machine, 4)
    memory.populate(region, 0)
    memory.check()
    (extent,) = region.extents()
    for spoil, repair in (
        (lambda: setattr(extent, "frame", 1), lambda: setattr(extent, "frame", 0)),
        (lambda: setattr(extent, "state", STANDBY), lambda: setattr(extent, "state", ACTIVE)),
        (lambda: setattr(memory, "committed", 3), lambda: setattr(memory, "committed", 4)),
        (lambda: memory.modified.append(extent), None),
    ):
        spoil()
        with pytest.raises(SimulationError):
            memory.check()
        if repair is not None:
            repair()
            memory.check()


def test_counters_have_the_names_that_windows_uses() -> None:
    machine = boot(plugins=[Placement()], tables=TWO)
    start(machine, Touch(region_of(machine, 100), accesses=0), affinity=1)
    machine.run(1_000_000_000)
    counters = machine.counters()
    assert counters[r"Memory\Available Bytes"] == 412 * PAGE
    assert counters[r"Memory\Demand Zero Faults/sec"] == 100
    assert counters[r"NUMA Node Memory(0)\Available MBytes"] == 156 * PAGE / MIB
    assert counters[r"NUMA Node Memory(1)\Total MBytes"] == 1


@pytest.mark.parametrize("at", [1_000, 63_900])
def test_an_apc_comes_in_between(at: int) -> None:
    """Lines keep coming while the thread runs its APC, also if all are there before that is over."""
    machine = boot()
    region = region_of(machine, 10)
    machine.memory.populate(region, 0)
    thread = start(machine, Touch(region), Compute(100))
    ran: list[int] = []
    machine.engine.at(at, lambda _: queue_apc(thread, 500, lambda _: ran.append(machine.engine.now)))
    machine.run(1_000_000)
    assert ran == [at + 500]
    assert not machine.threads
    assert thread.run_time == max(10 * LINES * 100, at + 500) + 100


def test_the_first_access_of_a_machine_stops_and_goes_on_with_its_thread() -> None:
    # Stretches are under way when the machine first has a reason to watch context switches.
    def run(others: int) -> tuple[int, int]:
        machine = boot(plugins=[rules(quantum=5_000)], trace=True)
        process = machine.create_process("p")
        region = machine.memory.space(process).allocate(8)
        assert region is not None
        machine.memory.populate(region, 0)
        for _ in range(others):
            machine.create_thread(process, bursts(200_000))
        machine.create_thread(process, iter([Compute(1_000), Touch(region)]), name="touches")
        machine.run()
        end = Recorder(machine)("Thread/End", tid="touches").one()
        return end.time, int(end["run_time"])

    alone, work = run(0)
    assert alone == work > 50_000
    turns = -(-work // 5_000)
    assert run(1) == (work + turns * 5_000, work)
    assert run(2) == (work + turns * 10_000, work)
