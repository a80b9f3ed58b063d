"""Page ages against plain models of them, page by page, and what ages cost where nothing happens."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntlab.errors import PluginError, SimulationError, UserError
from ntlab.hooks import hookimpl
from ntlab.machine import (
    AgeingPolicy,
    Compute,
    Free,
    Machine,
    MemoryPolicy,
    PageRun,
    Region,
    Sleep,
    Touch,
)
from ntlab.plugin import option, plugin
from ntlab.quantities import KIB, SECOND, Duration
from ntlab.testing import boot, small_tables
from ntlab_ws2003 import Ws2003

PAGE = 4 * KIB
PACE = 1000


@plugin(name="ages", summary="Pages that age as a test wants it; faults take no time.", release="ws2003")
class Ages:
    look: Any = option(default="timer", help="When.")
    bits: int = option(default=2, help="Of an age.")
    period: Duration = option(default=Duration(SECOND), help="Of the timer.")
    low_available: int = option(default=0, help="Threshold.")
    backwards: bool = option(default=False, help="Whether equals leave in reverse order.")

    @hookimpl
    def memory_policy(self) -> MemoryPolicy:
        nothing = Duration(0)
        return MemoryPolicy(
            demand_zero_fault=nothing, transition_fault=nothing, zeroing=nothing, working_set_minimum=0
        )

    @hookimpl
    def ageing_policy(self) -> AgeingPolicy:
        return AgeingPolicy(look=self.look, period=self.period, low_available=self.low_available)

    @hookimpl
    def oldest_age(self) -> int:
        return 2**self.bits - 1

    @hookimpl
    def trim_order(self, runs: Sequence[PageRun]) -> Sequence[PageRun] | None:
        return (
            [
                PageRun(run.space, page, page + 1)
                for run in reversed(runs)
                for page in reversed(range(run.first, run.stop))
            ]
            if self.backwards
            else None
        )


def region_of(machine: Machine, pages: int, maximum: int | None = None) -> Region:
    """A region of a new process, whose working set is at most so large."""
    space = machine.memory.space(machine.create_process("p"))
    if maximum is not None:
        space.working_set.minimum, space.working_set.maximum, space.working_set.hard = 0, maximum, True
    region = space.allocate(pages)
    assert region is not None
    return region


def faults(
    trace: Sequence[int], capacity: int, *, pace: int = 0, **options: Any
) -> tuple[list[int], Machine]:
    """At which places of a trace a working set of so many pages faults, one reference each `pace` ns."""
    machine = boot(plugins=[Ages(**options)])
    region = region_of(machine, max(trace) + 1, capacity)
    space = region.space
    found = []

    def program() -> Iterator[Any]:
        for place, page in enumerate(trace):
            before = space.faults
            yield Touch(region, page, 1, write=page % 3 == 0, accesses=0)
            if space.faults > before:
                found.append(place)
            assert space.working_set.pages <= capacity
            if pace:
                yield Compute(pace)

    machine.create_thread(space.process, program())
    machine.run()
    machine.check()
    return found, machine


# -- plain models: a page is a number, an age is a number -------------------------------------------------


def by_hand(trace: Sequence[int], capacity: int, bits: int) -> tuple[list[int], int]:
    """The same with a hand that goes around; and how many pages it looked at."""
    ring: list[int] = []
    accessed: dict[int, bool] = {}
    age: dict[int, int] = {}
    found, looks, oldest = [], 0, 2**bits - 1
    for place, page in enumerate(trace):
        if page not in accessed:
            found.append(place)
            while len(ring) >= capacity:
                first = ring.pop(0)
                looks += 1
                age[first] = 0 if accessed[first] else age[first] + 1
                accessed[first] = False
                if age[first] == oldest:
                    del accessed[first], age[first]
                else:
                    ring.append(first)
            ring.append(page)
            age[page] = 0
        accessed[page] = True
    return found, looks


def clock(trace: Sequence[int], capacity: int) -> list[int]:
    """Clock as textbooks have it: frames in a circle, a bit for each, a hand."""
    frames: list[int | None] = [None] * capacity
    bit = [False] * capacity
    hand = 0
    found = []
    for place, page in enumerate(trace):
        if page not in frames:
            found.append(place)
            while bit[hand]:
                bit[hand] = False
                hand = (hand + 1) % capacity
            frames[hand] = page
            bit[hand] = True
            hand = (hand + 1) % capacity
        else:
            bit[frames.index(page)] = True
    return found


def by_timer(trace: Sequence[int], capacity: int, bits: int, each: int, backwards: bool) -> list[int]:
    """The same with a look after each so many references; the oldest age goes first, then who came first."""
    ring: OrderedDict[int, tuple[bool, int]] = OrderedDict()  # accessed, age
    found, oldest = [], 2**bits - 1
    for place, page in enumerate(trace):
        if place and place % each == 0:
            for other, (bit, age) in ring.items():
                ring[other] = False, 0 if bit else min(age + 1, oldest)
        if page in ring:
            ring[page] = True, 0
            continue
        found.append(place)
        if len(ring) >= capacity:
            idle = [other for other, (bit, _) in ring.items() if not bit]
            greatest = max((ring[other][1] for other in idle), default=0)
            victims = [other for other in idle if ring[other][1] == greatest] or list(ring)
            del ring[victims[-1 if backwards and idle else 0]]
        ring[page] = True, 0
    return found


def short_of_memory(trace: Sequence[tuple[int, int]], frames: int, bits: int, each: int) -> list[int]:
    """The same for several programs that share the memory: whoever needs a page takes the oldest one there
    is, of the largest working set that has one of that age, the one that came first."""
    rings: dict[int, OrderedDict[int, tuple[bool, int]]] = {}  # accessed, age; by program
    found, oldest = [], 2**bits - 1
    for place, (program, page) in enumerate(trace):
        rings.setdefault(program, OrderedDict())
        if place and place % each == 0:
            for ring in rings.values():
                for other, (bit, age) in ring.items():
                    ring[other] = False, 0 if bit else min(age + 1, oldest)
        if page not in rings[program]:
            found.append(place)
            if sum(map(len, rings.values())) >= frames:
                # -1 stands for an accessed page; max() gives the first of equals
                key = {number: max(-1 if bit else age for bit, age in ring.values())
                       for number, ring in rings.items() if ring}  # fmt: skip
                victim = max(key, key=lambda number: (key[number], len(rings[number])))
                ring = rings[victim]
                del ring[next(p for p, (bit, age) in ring.items() if (-1 if bit else age) == key[victim])]
        rings[program][page] = True, 0
    return found


traces = st.lists(st.integers(0, 11), min_size=1, max_size=120)
capacities = st.integers(1, 9)
bits = st.integers(1, 4)


@given(trace=traces, capacity=capacities, bits=bits)
def test_a_hand_that_looks_on_demand(trace: list[int], capacity: int, bits: int) -> None:
    found, machine = faults(trace, capacity, look="demand", bits=bits)
    assert machine.memory.ageing is not None
    assert (found, machine.memory.ageing.looks) == by_hand(trace, capacity, bits)


@given(trace=traces, capacity=capacities)
def test_one_bit_on_demand_is_clock(trace: list[int], capacity: int) -> None:
    assert faults(trace, capacity, look="demand", bits=1)[0] == clock(trace, capacity)


@given(trace=traces, capacity=capacities, bits=bits, each=st.integers(1, 40), backwards=st.booleans())
def test_looks_by_timer(trace: list[int], capacity: int, bits: int, each: int, backwards: bool) -> None:
    found, _ = faults(
        trace, capacity, pace=PACE, look="timer", bits=bits, period=each * PACE, backwards=backwards
    )
    assert found == by_timer(trace, capacity, bits, each, backwards)


@given(
    trace=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5)), min_size=1, max_size=120),
    frames=st.integers(2, 12),
    bits=bits,
    each=st.integers(1, 40),
)
def test_short_of_memory(trace: list[tuple[int, int]], frames: int, bits: int, each: int) -> None:
    """By the rules of Server 2003, but with no pages that every working set keeps."""
    machine = boot(
        plugins=[Ws2003(), Ages(bits=bits, period=each * PACE)],
        tables=small_tables(1, memory=frames * PAGE),
    )
    numbers = dict.fromkeys(number for number, _ in trace)  # in the order in which they come
    regions = {number: region_of(machine, 6) for number in numbers}
    found = []

    def program() -> Iterator[Any]:
        for place, (number, page) in enumerate(trace):
            space = regions[number].space
            before = space.faults
            yield Touch(regions[number], page, 1, accesses=0)
            if space.faults > before:
                found.append(place)
            yield Compute(PACE)

    machine.create_thread(machine.create_process("all"), program())
    machine.run()
    machine.check()
    assert found == short_of_memory(trace, frames, bits, each)


# -- extents ----------------------------------------------------------------------------------------------


@pytest.mark.once
@given(
    touches=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 24), st.integers(0, 3)), max_size=25),
    capacity=st.integers(1, 50),
    look=st.sampled_from(["timer", "demand"]),
    bits=bits,
)
def test_many_pages_at_a_time(
    touches: list[tuple[int, int, int]], capacity: int, look: str, bits: int
) -> None:
    """Whatever is touched, the accounts are right after each event, and the limit is kept."""
    machine = boot(plugins=[Ages(look=look, bits=bits, period=10)], hooks="checked", check_every=1)
    region = region_of(machine, 64, capacity)

    def program() -> Iterator[Any]:
        for first, pages, pause in touches:
            yield Touch(region, first, pages, write=pause % 2 == 0, accesses=0)
            yield Compute(7 * pause + 1)  # what is too large in one piece goes at the end of the event
            assert region.space.working_set.pages <= capacity

    machine.create_thread(region.space.process, program())
    machine.run()


def test_what_is_not_touched_becomes_one_extent_of_the_oldest_age_and_the_timer_sleeps() -> None:
    machine = boot(plugins=[Ages(bits=3)], tables=small_tables(1, memory=1 << 40))
    region = region_of(machine, 1 << 27)
    machine.memory.populate(region, 0)
    ageing = machine.memory.ageing
    assert ageing is not None

    def program() -> Iterator[Any]:
        for page in range(0, 100, 2):
            yield Touch(region, page, 1, accesses=0)

    machine.create_thread(region.space.process, program())
    machine.run(SECOND // 2)
    assert len(region.extents()) == 100
    machine.run()
    assert len(region.extents()) == 1
    assert machine.engine.now == 9 * SECOND  # at 1 s they are 0 looks old, at 8 s 7; at 9 s nothing changes
    assert ageing.histogram(region.space.working_set) == [0] * 7 + [1 << 27]

    def later() -> Iterator[Any]:
        yield Sleep(SECOND // 4)
        yield Touch(region, 5, 2, accesses=0)

    machine.create_thread(region.space.process, later())
    machine.run(10 * SECOND)
    assert ageing.histogram(region.space.working_set) == [2] + [0] * 6 + [(1 << 27) - 2]
    machine.run()
    assert machine.engine.now == 18 * SECOND


def test_a_part_of_an_extent_goes_and_the_next_part_next() -> None:
    for look, left in (("timer", [(30, 70)]), ("demand", [(30, 70)])):
        machine = boot(plugins=[Ages(look=look, bits=1)])
        region = region_of(machine, 100)
        machine.memory.populate(region, 0)
        working_set = region.space.working_set
        for _ in range(3):
            assert machine.memory.trim(working_set, machine.memory.oldest(working_set, 10)) == 10
            machine.check()
        assert [(extent.page - region.first, extent.pages) for extent in working_set] == left


def test_more_than_there_is_gives_all() -> None:
    for look in ("timer", "demand"):
        machine = boot(plugins=[Ages(look=look)])
        region = region_of(machine, 10)
        machine.memory.populate(region, 0)
        working_set = region.space.working_set
        found = machine.memory.oldest(working_set, 99)
        assert sum(extent.pages for extent in found) == 10
        assert machine.memory.oldest(working_set, 0) == []
        machine.memory.trim(working_set, found)
        assert machine.memory.oldest(working_set, 1) == []
        machine.check()


def test_pages_that_were_chosen_and_stayed_can_be_chosen_again() -> None:
    for look in ("timer", "demand"):
        machine = boot(plugins=[Ages(look=look, bits=1)])
        region = region_of(machine, 4)
        machine.memory.populate(region, 0)
        for _ in range(3):
            found = machine.memory.oldest(region.space.working_set, 2)
            assert sum(extent.pages for extent in found) == 2


# -- the balance set manager ------------------------------------------------------------------------------


def test_it_has_working_sets_trimmed_when_few_pages_are_available() -> None:
    asked = []

    @plugin(name="trims", summary="Answers who asks for pages.", release="ws2003")
    class Trims:
        @hookimpl
        def pages_short(self, memory: Any, pages: int) -> None:
            asked.append((memory.engine.now, pages))
            for working_set in memory.working_sets:
                memory.trim(working_set, memory.oldest(working_set, pages))

    machine = boot(
        plugins=[Ages(bits=1, low_available=40), Trims()], tables=small_tables(1, memory=100 * PAGE)
    )
    region = region_of(machine, 100)

    def program() -> Iterator[Any]:
        yield Touch(region, 0, 90, accesses=0)
        yield Sleep(5 * SECOND)
        yield Touch(region, 0, 10, accesses=0)
        yield Sleep(5 * SECOND)
        yield Free(region)

    machine.create_thread(region.space.process, program())
    machine.run(5 * SECOND - 1)
    assert asked == [(SECOND, 30)]
    assert region.space.working_set.pages == 60
    machine.run(9 * SECOND)
    assert asked[1:] == [(6 * SECOND, 10)]
    machine.run()
    machine.check()


# -- contracts --------------------------------------------------------------------------------------------


def test_an_order_that_loses_pages_is_refused() -> None:
    @plugin(name="loses", summary="Loses a page of each age.", release="ws2008")
    class Loses:
        @hookimpl
        def trim_order(self, runs: Sequence[PageRun]) -> Sequence[PageRun]:
            return runs[1:]

    machine = boot(plugins=[Ages(), Loses()], hooks="checked")
    region = region_of(machine, 10)
    machine.memory.populate(region, 0)
    with pytest.raises(PluginError, match=r"'loses', hook 'trim_order'.*the same pages"):
        machine.memory.oldest(region.space.working_set, 1)


def test_an_age_that_cannot_be_is_found() -> None:
    machine = boot(plugins=[Ages(bits=2)])
    region = region_of(machine, 10)
    machine.memory.populate(region, 0)
    region.extents()[0].age = 4
    with pytest.raises(SimulationError, match="is of age 4, beyond 3"):
        machine.check()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"look": "never"}, "look"),
        ({"period": 0}, "period must be positive"),
        ({"low_available": -1}, "low_available must not be negative"),
    ],
)
def test_rules_that_cannot_be(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AgeingPolicy(**wrong)


def test_a_working_set_of_more_at_least_than_at_most_is_refused() -> None:
    machine = boot(plugins=[Ws2003(working_set_minimum=500)])
    with pytest.raises(UserError, match="'p' of at least 500 and at most 345 pages; expected a maximum"):
        machine.memory.space(machine.create_process("p"))
