"""The baseline's scheduling policies, one by one, and facts 14.6 (starvation) and 14.9 on them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlab.errors import UserError
from ntlab.machine import Compute, Machine, Request, Sleep
from ntlab.quantities import MILLISECOND, SECOND
from ntlab.testing import boot, bursts, small_tables
from ntlab_ws2003 import Ws2003

TICK = 15_625_000
QUANTUM = 12 * TICK


def running(machine: Machine) -> list[str]:
    """The name of the thread on each processor."""
    return [p.thread.name if p.thread is not None else "" for p in machine.processors]


def switches(machine: Machine) -> list[tuple[int, int, str]]:
    names = {r["tid"]: str(r["name"]) for r in machine.tracer.records("Thread/Start")}
    return [
        (r.time, int(r["cpu"]), names.get(r["new_tid"], "")) for r in machine.tracer.records("Thread/CSwitch")
    ]


def nothing() -> Iterator[Request]:
    return iter([Sleep(3600 * SECOND)])


# -- turns


def test_the_defaults_are_the_servers() -> None:
    policy = boot(1, [Ws2003()]).scheduler.policy
    assert (policy.quantum, policy.tick) == (187_500_000, 15_625_000)
    assert (policy.accounting, policy.ready_queues) == ("tick", "per_processor")


@pytest.mark.parametrize(
    ("accounting", "charged_a"), [("tick", 0), ("cycle", 64 * 5_000_000), ("exact", 64 * 5_000_000)]
)
def test_a_thread_that_hides_from_the_tick(accounting: Any, charged_a: int) -> None:
    """14.9. A wakes right after each tick and is gone before the next: 2003 charges it nothing."""
    machine = boot(1, [Ws2003(accounting=accounting, boosts=False)])
    process = machine.create_process("p")

    def hider() -> Iterator[Request]:
        yield Sleep(1)
        for _ in range(64):
            yield Compute(5_000_000)
            yield Sleep(TICK - 5_000_000)

    a = machine.create_thread(process, hider(), priority=9)
    b = machine.create_thread(process, bursts(100 * SECOND))
    machine.run(64 * TICK)
    machine.scheduler.suspend(machine.processors[0])  # account for the stretch that is under way
    assert (a.charged_time, b.charged_time) == (charged_a, 64 * TICK - charged_a)


def test_a_quantum_of_part_ticks_cannot_be_charged_by_ticks() -> None:
    with pytest.raises(UserError, match="multiple of the tick"):
        boot(1, [Ws2003(quantum=20 * MILLISECOND)])
    boot(1, [Ws2003(quantum=20 * MILLISECOND, accounting="cycle")])


@pytest.mark.parametrize("tick", [MILLISECOND // 2 - 1, TICK + 1])
def test_the_clock_has_a_range(tick: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        Ws2003(tick=tick)


# -- boosts


@pytest.mark.parametrize(
    ("base", "increment", "priority"),
    [(8, 0, 8), (8, 2, 10), (8, 6, 14), (8, 8, 15), (15, 2, 15), (16, 2, 16)],
)
def test_a_wait_ends_with_a_boost(base: int, increment: int, priority: int) -> None:
    for boosts in (True, False):
        machine = boot(1, [Ws2003(boosts=boosts)])
        process = machine.create_process("p", base_priority=base)

        def program(increment: int = increment) -> Iterator[Request]:
            yield Sleep(10, increment)
            yield Compute(SECOND)

        thread = machine.create_thread(process, program())
        machine.run(20)
        assert thread.priority == (priority if boosts else base)


def test_a_boost_decays_by_one_a_quantum_down_to_the_base() -> None:
    machine = boot(1, [Ws2003(quantum=TICK)])
    process = machine.create_process("p")

    def program() -> Iterator[Request]:
        yield Sleep(0, 3)
        yield Compute(100 * SECOND)

    thread = machine.create_thread(process, program())
    seen = []
    for k in range(6):
        machine.run(k * TICK + 1)
        seen.append(thread.priority)
    assert seen == [11, 10, 9, 8, 8, 8]


# -- starvation


def test_starvation_ends_within_five_seconds_and_the_lifted_thread_drops_straight_back() -> None:
    machine = boot(1, [Ws2003()], trace=True)
    process = machine.create_process("p")
    machine.create_thread(process, bursts(100 * SECOND), name="hog", priority=12)
    low = machine.create_thread(process, bursts(100 * SECOND), name="low", priority=4)
    machine.run(20 * SECOND)
    assert [(t, name) for t, _, name in switches(machine)] == [
        (0, "hog"),
        (4 * SECOND, "low"),  # ready for 4 s at this scan
        (4 * SECOND + 2 * QUANTUM, "hog"),  # two turns at 15, then 4 again
        (9 * SECOND, "low"),
        (9 * SECOND + 2 * QUANTUM, "hog"),
        (14 * SECOND, "low"),
        (14 * SECOND + 2 * QUANTUM, "hog"),
        (19 * SECOND, "low"),
        (19 * SECOND + 2 * QUANTUM, "hog"),
    ]
    assert low.priority == 4


@pytest.mark.parametrize("starving", [1, 4, 10])
def test_nobody_starves_beyond_about_five_seconds_while_at_most_ten_do(starving: int) -> None:
    machine = boot(1, [Ws2003(quantum=TICK)], trace=True)
    process = machine.create_process("p")
    machine.create_thread(process, bursts(100 * SECOND), name="hog", priority=12)
    for _ in range(starving):
        machine.create_thread(process, bursts(100 * SECOND), priority=4)
    machine.run(30 * SECOND)
    waits = [
        r.time - int(r["new_ready_time"]) for r in machine.tracer.records("Thread/CSwitch") if r["new_tid"]
    ]
    # 4 s, a second to the next scan, and the lifted ones before it.
    assert 4 * SECOND <= max(waits) <= 5 * SECOND + (starving - 1) * 2 * TICK
    ran = [t.run_time for t in machine.threads.values() if t.priority != 12]
    assert len(ran) == starving
    assert min(ran) > 0


def test_one_scan_lifts_at_most_ten() -> None:
    machine = boot(1, [Ws2003()])
    process = machine.create_process("p")
    machine.create_thread(process, bursts(100 * SECOND), priority=12)
    threads = [machine.create_thread(process, bursts(100 * SECOND), priority=4) for _ in range(20)]
    machine.run(4 * SECOND)
    assert [thread.priority for thread in threads] == [15] * 10 + [4] * 10


def test_without_the_scan_the_weak_starve() -> None:
    machine = boot(1, [Ws2003(starvation_scan=False)])
    process = machine.create_process("p")
    machine.create_thread(process, bursts(100 * SECOND), priority=12)
    low = machine.create_thread(process, bursts(100 * SECOND), priority=4)
    machine.run(60 * SECOND)
    assert low.run_time == 0


def test_where_nobody_waits_the_scan_costs_nothing_and_the_clock_may_stop() -> None:
    machine = boot(2, [Ws2003()])
    process = machine.create_process("p")
    for _ in range(2):
        machine.create_thread(process, bursts(QUANTUM - 1), ideal=None)
    machine.create_thread(process, nothing())
    assert machine.run(100 * SECOND) == 100 * SECOND
    without = boot(2, [Ws2003(starvation_scan=False)])
    process = without.create_process("p")
    for _ in range(2):
        without.create_thread(process, bursts(QUANTUM - 1))
    without.create_thread(process, nothing())
    without.run(100 * SECOND)
    assert machine.engine.events - without.engine.events <= 1
    crowded = boot(1, [Ws2003()])
    process = crowded.create_process("p")
    for _ in range(3):
        crowded.create_thread(process, bursts(5 * SECOND))
    assert 15 * SECOND <= crowded.run() <= 16 * SECOND  # it ends although a scan was under way


# -- placement


def test_ideal_processors_go_round_and_each_process_begins_on_another_node() -> None:
    tables = small_tables(8, nodes=2, siblings=2)
    machine = boot(plugins=[Ws2003()], tables=tables)
    ideal = []
    for name in "ab":
        process = machine.create_process(name)
        ideal.append([machine.create_thread(process, nothing()).ideal for _ in range(9)])
    # Cores first, their second processors later.
    assert ideal == [[0, 2, 4, 6, 1, 3, 5, 7, 0], [4, 6, 1, 3, 5, 7, 0, 2, 4]]


def test_ideal_processors_are_within_the_affinity() -> None:
    machine = boot(4, [Ws2003()])
    process = machine.create_process("p", affinity=0b1010)
    assert [machine.create_thread(process, nothing()).ideal for _ in range(3)] == [1, 3, 1]


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 255),
    st.integers(0, 255),
    st.integers(0, 7),
    st.integers(0, 7),
    st.permutations(["idle_core", "ideal_node", "ideal", "last"]),
    st.integers(0, 4),
)
def test_placement_is_a_chain_of_preferences(
    idle: int, others: int, ideal: int, last: int, order: list[Any], length: int
) -> None:
    """Against a sort: the best processor satisfies the first preference, then the second, and so on."""
    tables = small_tables(8, nodes=2, siblings=2)
    preferences = tuple(order[:length])
    plugin = Ws2003(placement=preferences)
    machine = boot(plugins=[plugin], tables=tables)
    thread = machine.create_thread(machine.create_process("p"), nothing(), ideal=ideal)
    machine.run(0)
    thread.last = last
    all_idle = machine.scheduler.idle_mask = idle | others  # the thread may not use some of the idle ones
    satisfied = {
        "idle_core": lambda i: all(all_idle >> s & 1 for s in tables.core_processors[i]),
        "ideal_node": lambda i: tables.node_of[i] == tables.node_of[ideal],
        "ideal": lambda i: i == ideal,
        "last": lambda i: i == last,
    }
    candidates = [i for i in range(8) if idle >> i & 1]
    best = min(candidates, key=lambda i: ([not satisfied[rule](i) for rule in preferences], i))
    assert plugin.choose_processor(thread, idle) == best


def test_only_the_ideal_processor_is_looked_at_when_all_are_busy() -> None:
    machine = boot(2, [Ws2003()])
    process = machine.create_process("p")
    machine.create_thread(process, bursts(SECOND), name="strong", priority=10, ideal=0)
    machine.create_thread(process, bursts(SECOND), name="weak", priority=4, ideal=1)
    machine.create_thread(process, bursts(SECOND), name="new", priority=8, ideal=0)
    machine.run(1)
    # So not always the strongest threads run.
    assert running(machine) == ["strong", "weak"]
    shared = boot(2, [Ws2003(ready_queues="shared")])
    process = shared.create_process("p")
    for name, priority, ideal in (("strong", 10, 0), ("weak", 4, 1), ("new", 8, 0)):
        shared.create_thread(process, bursts(SECOND), name=name, priority=priority, ideal=ideal)
    shared.run(1)
    assert running(shared) == ["strong", "new"]


def steal(machine: Machine) -> list[str]:
    """Six threads for processor 0, one short one for processor 1: who runs there afterwards."""
    process = machine.create_process("p")
    machine.create_thread(process, bursts(10 * SECOND), name="first", ideal=0, priority=12)
    machine.create_thread(process, bursts(10), name="short", ideal=1)
    for name, priority in (("low", 4), ("high", 9), ("higher", 10)):
        affinity = 0b01 if name == "higher" else None
        machine.create_thread(process, bursts(5), name=name, ideal=0, priority=priority, affinity=affinity)
    machine.run(12)
    return running(machine)


def test_an_idle_processor_takes_the_highest_it_may_from_the_others() -> None:
    assert steal(boot(2, [Ws2003()])) == ["first", "high"]
    assert steal(boot(2, [Ws2003(steal=False)])) == ["first", ""]


def test_an_idle_processor_looks_near_first() -> None:
    tables = small_tables(4, nodes=2)
    machine = boot(plugins=[Ws2003()], tables=tables)
    process = machine.create_process("p")
    for cpu in range(3):
        machine.create_thread(process, bursts(SECOND), ideal=cpu)
    machine.create_thread(process, bursts(10), ideal=3)
    for cpu in (0, 2):
        machine.create_thread(process, bursts(SECOND), name=f"of {cpu}", ideal=cpu)
    machine.run(11)
    assert running(machine)[3] == "of 2"


# -- the whole


def test_direct_and_plain_hooks_give_the_same_trace() -> None:
    def digest(hooks: Any) -> str:
        machine = boot(2, [Ws2003()], trace=True, hooks=hooks)
        process = machine.create_process("p")
        for k in range(6):

            def program(k: int = k) -> Iterator[Request]:
                for _ in range(20):
                    yield Compute((k + 1) * 70 * MILLISECOND)
                    yield Sleep(k * 30 * MILLISECOND, k % 3)

            machine.create_thread(process, program(), priority=4 + k)
        machine.run(10 * SECOND)
        return machine.tracer.digest()

    assert digest("direct") == digest("plain")
