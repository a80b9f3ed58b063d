"""Power: what wakes when, energy to the last picojoule, who is parked, and what a description may say."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import replace
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
    Compute,
    Footprint,
    Machine,
    PowerPolicy,
    Processor,
    Release,
    Request,
    Reuse,
    Sleep,
    Thread,
)
from ntlab.plugin import option, plugin
from ntlab.testing import boot, rules, small_tables
from ntlab.topology import IdleState, PerformanceState, Power, Tables, TopologyError, load, to_profile

MS = 1_000_000
SHALLOW = IdleState("C1", 1, 3_000, 6_000, 3_000)
DEEP = IdleState("C6", 3, 200_000, 800_000, 200, energy=7, flushes=True, deep=True)
FIGURES = Power((SHALLOW, DEEP), (), active=10_000, package=15_000, asleep=5_000)


@plugin(name="powered", summary="Power is simulated.", release="ws2003")
class Powered:
    """`states` are the answers at the beginning of an idle time and later; None: the mechanism's own."""

    states: tuple[int | None, int | None] = option(default=(None, None), help="Idle states.")
    policy: PowerPolicy = option(default=PowerPolicy(), help="The rules.")

    @hookimpl
    def power_policy(self) -> PowerPolicy:
        return self.policy

    @hookimpl
    def idle_state(self, idle: int) -> int | None:
        return self.states[idle > 0]


@plugin(name="parked", summary="Placement keeps off parked processors.", release="ws2003")
class Parked:
    @hookimpl
    def usable_processors(self, thread: Thread, idle: int) -> int:
        machine = thread.machine
        assert machine.power is not None
        parked = machine.power.parked
        return idle & ~parked if thread.affinity & machine.scheduler.all_mask & ~parked else idle

    @hookimpl
    def choose_busy_processor(self, thread: Thread) -> int:
        scheduler = thread.machine.scheduler
        return (
            (busy := thread.affinity & scheduler.all_mask & ~scheduler.idle_mask) & -busy
        ).bit_length() - 1


def tables(processors: int = 1, power: Power = FIGURES, **shape: int) -> Tables:
    return replace(small_tables(processors, **shape), power=power)


def machine_of(*plugins: object, power: Power = FIGURES, processors: int = 1, **shape: int) -> Machine:
    return boot(plugins=plugins or [Powered()], tables=tables(processors, power, **shape), trace=True)


def alternating(*times: int) -> Iterator[Request]:
    """Sleep, work, sleep, work, ..."""
    for sleep, work in zip(times[::2], times[1::2], strict=True):
        yield Sleep(sleep)
        yield Compute(work)


# -- without it -------------------------------------------------------------------------------------------


def test_nothing_of_it_exists_where_nobody_asks() -> None:
    machine = boot(2)
    assert machine.power is None
    assert not any("Power" in name or "Parking" in name for name in machine.counters())


# -- idle states ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "figures"), [(0, SHALLOW), (1, DEEP)])
def test_a_thread_waits_for_its_processor_to_wake(state: int, figures: IdleState) -> None:
    machine = machine_of(Powered(states=(state, state)))
    machine.create_thread(machine.create_process("p"), alternating(10 * MS, 2 * MS, 30 * MS, 5 * MS))
    # It begins to run at 0, to go to sleep: at the very instant at which its processor began to sleep.
    end = 47 * MS + 2 * figures.latency
    machine.run(end - 1)
    assert len(machine.threads) == 1
    machine.run(end)
    machine.check()
    assert not machine.threads
    power = machine.power
    assert power is not None
    core = power.cores[0]
    awake = 7 * MS + 2 * figures.latency
    assert (core.awake_time, core.times[state], core.entries[state]) == (awake, 40 * MS, 4)
    assert core.energy == awake * 10_000 + 40 * MS * figures.power + 4 * figures.energy
    package = power.packages[0]
    asleep = 40 * MS if figures.deep else 0
    assert (package.sleep_time, package.energy) == (
        asleep,
        asleep * 5_000 + (machine.engine.now - asleep) * 15_000,
    )
    assert power.energy == core.energy + package.energy


def test_an_interrupt_waits_too_and_what_it_wakes_does_not_wait_again() -> None:
    machine = machine_of(Powered(states=(1, 1)))
    times: list[int] = []
    thread = machine.create_thread(machine.create_process("p"), alternating(1 << 40, 1 * MS))
    cpu = machine.processors[0]
    machine.engine.at(10 * MS, lambda _: machine.interrupts.interrupt(
        cpu, 1_000, lambda _: (times.append(machine.engine.now), machine.scheduler.wake(thread))
    ))  # fmt: skip
    machine.run(20 * MS)
    machine.check()
    assert times == [10 * MS + 200_000 + 1_000]
    assert machine.power is not None
    core = machine.power.cores[0]
    assert core.awake_time == 200_000 + 1_000 + 1 * MS
    assert core.entries == [0, 3]


def test_a_dpc_that_waits_for_the_processor_lets_an_interrupt_wait_no_longer() -> None:
    machine = machine_of(Powered(states=(1, 1)))
    cpu, done = machine.processors[0], []
    machine.engine.at(MS, lambda _: machine.interrupts.queue_dpc(
        cpu, 5_000, lambda _: done.append(("dpc", machine.engine.now))))  # fmt: skip
    machine.engine.at(MS + 50_000, lambda _: machine.interrupts.interrupt(
        cpu, 1_000, lambda _: done.append(("isr", machine.engine.now))))  # fmt: skip
    machine.run()
    assert done == [("isr", MS + 201_000), ("dpc", MS + 206_000)]


def test_a_thread_that_is_preempted_while_its_processor_wakes() -> None:
    """Both wait for the same waking, the higher priority runs first, and nothing is lost."""
    machine = machine_of(Powered(states=(1, 1)))
    process = machine.create_process("p")
    ends: dict[str, int] = {}

    def program(name: str, sleep: int) -> Iterator[Request]:
        yield Sleep(sleep)
        yield Compute(MS)
        ends[name] = machine.engine.now

    machine.create_thread(process, program("low", 10 * MS))
    machine.create_thread(process, program("high", 10 * MS + 50_000), priority=12)
    machine.run()
    machine.check()
    assert ends == {"high": 11 * MS + 200_000, "low": 12 * MS + 200_000}


def test_all_ready_queues_and_the_plain_events_agree() -> None:
    """A shared queue's quick way through a sleep does not know of processors that wake."""
    for queues in ("shared", "per_processor"):
        machine = machine_of(Powered(states=(1, 1)), rules(ready_queues=queues))
        process = machine.create_process("p")
        machine.create_thread(process, alternating(10 * MS, MS))
        machine.create_thread(process, alternating(10 * MS + 50_000, MS), priority=12)
        machine.run(12 * MS + 200_000 - 1)
        assert len(machine.threads) == 1
        machine.run(12 * MS + 200_000)
        assert not machine.threads


def test_the_state_follows_the_median_of_the_last_idle_times() -> None:
    machine = machine_of()
    power = machine.power
    assert power is not None
    cpu = machine.processors[0]
    # The first idle time is unknown, so thought long; three are thought short, one of them wrongly.
    machine.create_thread(machine.create_process("p"), alternating(*[50_000, 10_000] * 3, 5 * MS, 10_000))
    machine.run(60 * MS)
    assert list(power._members[0].idle_times)[:3] == [50_000] * 3
    assert power.predicted(cpu) == 50_000
    # Deep at boot, before its first idle time, and when the last one was looked at again after a tick.
    assert power.cores[0].entries == [4, 3]


def test_a_long_idle_time_is_looked_at_again() -> None:
    machine = machine_of(Powered(states=(0, 1), policy=PowerPolicy(recheck=2 * MS)))
    machine.create_thread(machine.create_process("p"), alternating(1 * MS, 1 * MS, 10 * MS, 1 * MS))
    machine.run()
    assert machine.power is not None
    machine.power.account()
    core = machine.power.cores[0]
    assert core.times == [1 * MS + 2 * MS + 2 * MS, 8 * MS]
    assert machine.engine.now == 13 * MS + 3_000 + 200_000 + 2 * MS  # the last look ends the run


def test_a_core_sleeps_no_deeper_than_any_of_its_processors() -> None:
    machine = machine_of(Powered(states=(1, 1)), processors=4, siblings=2)
    power = machine.power
    assert power is not None
    process = machine.create_process("p")
    first = machine.create_thread(process, iter([Compute(10 * MS)]), affinity=1)
    machine.create_thread(process, alternating(2 * MS, MS), affinity=2)
    machine.run(9 * MS)
    assert first.run_time == 0
    # The sibling of a processor that runs is awake: its own halt takes the first state's latency to leave.
    assert machine.scheduler.run_time(first) == 9 * MS
    machine.run()
    machine.check()
    power.account()
    assert power.cores[0].entries == [0, 2]
    assert power.cores[0].awake_time == 10 * MS
    assert power.cores[1].times == [0, 10 * MS]
    assert machine.processors[1].busy_time == MS + 3_000


def test_a_deep_state_empties_the_cores_caches_and_no_others() -> None:
    flushed = []
    for state in (0, 1):
        machine = machine_of(Powered(states=(state, state)), processors=2)
        data = Footprint(64 << 10)

        def program(data: Footprint = data) -> Iterator[Request]:
            yield Reuse(data)
            yield Sleep(MS)
            yield Compute(MS)

        machine.create_thread(machine.create_process("p"), program(), affinity=1)
        machine.run()
        machine.check()
        flushed.append((data.refills.count, data.refills.lines))
    assert flushed == [(1, 1024), (2, 2048)]


def test_a_package_sleeps_when_all_its_cores_do() -> None:
    machine = machine_of(Powered(states=(1, 1)), processors=4, nodes=2)
    process = machine.create_process("p")
    machine.create_thread(process, alternating(0, 10 * MS), affinity=1)
    machine.create_thread(process, alternating(0, 30 * MS), affinity=2)
    machine.create_thread(process, alternating(20 * MS, 5 * MS), affinity=4)
    machine.run(100 * MS)
    machine.check()
    power = machine.power
    assert power is not None
    power.account()
    assert power.packages[0].sleep_time == 70 * MS
    assert power.packages[1].sleep_time == 95 * MS - 200_000
    assert power.packages[1].energy == (95 * MS - 200_000) * 5_000 + (5 * MS + 200_000) * 15_000
    total = machine.counters()["Power Meter(_Total)\\Power"]
    assert total * 100 * MS == power.energy


def test_counters_have_windows_names() -> None:
    machine = machine_of(Powered(states=(0, 1), policy=PowerPolicy(recheck=10 * MS)), processors=2)
    machine.create_thread(machine.create_process("p"), alternating(20 * MS, 20 * MS - 200_000), affinity=1)
    machine.run(100 * MS)
    found = {
        name.removeprefix("Processor Information(_Total)\\"): value
        for name, value in machine.counters().items()
        if name.startswith("Processor Information")
    }
    # Processor 0 is awake from 20 to 40 ms; each looks again 10 ms after it fell asleep.
    assert found == pytest.approx({
        "Parking Status": 0, "% of Maximum Frequency": 100, "% Idle Time": 90,
        "% C1 Time": 100 * (10 + 10 + 10) / 200, "% C2 Time": 0, "% C3 Time": 100 * (90 + 10 + 50) / 200,
        "C1 Transitions/sec": 40, "C2 Transitions/sec": 0, "C3 Transitions/sec": 30,
    })  # fmt: skip


# -- oracles ----------------------------------------------------------------------------------------------

# Scheduling facts 14.15: P1 3 W, Pd 0.2 W, 0.5 mJ to enter the deep state, which happens after 0.8 ms.
TIMEOUT = 800_000
ORACLE = Power(
    (IdleState("C1", 1, 0, 0, 3_000), IdleState("C6", 3, 1, TIMEOUT, 200, energy=500_000_000)),
    (),
    active=10_000,
    package=0,
    asleep=0,
)


def by_timeout(after: int) -> Powered:
    return Powered(states=(0, 1), policy=PowerPolicy(recheck=after))


def test_idle_power_is_that_of_the_closed_form() -> None:
    """14.15: 10 ms busy, 4 ms idle on average; [B P0 + P1 G (1 - q) + Pd G q + e q] / (B + G) = 7.374 W."""
    busy, idle = 10.0, 4.0
    q = math.exp(-0.8 / idle)
    expected = (busy * 10 + 3 * idle * (1 - q) + 0.2 * idle * q + 0.5 * q) / (busy + idle)
    assert expected == pytest.approx(7.374, abs=5e-4)
    draw = random.Random(14)
    times = [round(draw.expovariate(1 / idle) * MS) if i % 2 == 0 else 10 * MS for i in range(2 * 4000)]
    machine = machine_of(by_timeout(TIMEOUT), power=ORACLE)
    machine.create_thread(machine.create_process("p"), alternating(*times))
    machine.run()
    assert machine.power is not None
    assert machine.power.energy / machine.engine.now / 1000 == pytest.approx(expected, abs=0.03)


@pytest.mark.once
@given(st.lists(st.integers(1, 5 * MS), min_size=1, max_size=12))
def test_waiting_as_long_as_entering_costs_is_at_most_twice_as_dear_as_knowing(gaps: list[int]) -> None:
    """Ski rental: with T = e / (P1 - Pd), for any gaps; and the energy is that of the rule, exactly."""
    entering, saved = ORACLE.idle[1].energy, ORACLE.idle[0].power - ORACLE.idle[1].power
    wait = -(-entering // saved)
    machine = machine_of(by_timeout(wait), power=ORACLE)
    times = [time for gap in gaps for time in (gap, MS)]
    machine.create_thread(machine.create_process("p"), alternating(*times))
    end = machine.run(sum(times) + len([gap for gap in gaps if gap > wait]))
    assert machine.power is not None
    spent = machine.power.energy
    late = [gap > wait for gap in gaps]  # one ns to leave the deep state each
    excess = spent - (MS * len(gaps) + sum(late)) * 10_000 - sum(gaps) * 200
    assert end == sum(times) + sum(late)
    # It fell asleep at 0 and at the end, too, for no time at all.
    assert excess == sum(entering + wait * saved if gap > wait else gap * saved for gap in gaps)
    known = sum(min(entering, gap * saved) for gap in gaps)
    assert excess <= 2 * known + saved * len(gaps)  # T is rounded up to a ns


# -- clocks -----------------------------------------------------------------------------------------------

CLOCKS = Power(
    (SHALLOW, DEEP),
    (
        PerformanceState(3000, 20_000, cores=1),
        PerformanceState(2000, 10_000),
        PerformanceState(1000, 4_000),
        PerformanceState(500, 3_000),
    ),
    active=10_000,
    package=0,
    asleep=0,
)


@pytest.mark.parametrize(("index", "time", "power"), [(1, 10, 10_000), (2, 20, 4_000), (3, 40, 3_000)])
def test_a_slower_clock_takes_longer_and_its_own_power(index: int, time: int, power: int) -> None:
    machine = machine_of(Powered(states=(0, 0)), power=CLOCKS)
    assert machine.power is not None
    machine.power.set_performance(machine.processors[0], index)
    machine.create_thread(machine.create_process("p"), iter([Compute(10 * MS)]))
    machine.run(time * MS - 1)
    assert len(machine.threads) == 1
    machine.run(time * MS)
    assert not machine.threads
    assert machine.power.energy == time * MS * power
    machine.check()


def test_turbo_only_while_the_other_cores_sleep() -> None:
    machine = machine_of(Powered(states=(1, 1)), power=CLOCKS, processors=2)
    power = machine.power
    assert power is not None
    for cpu in machine.processors:
        power.set_performance(cpu, 0)
    process = machine.create_process("p")
    machine.create_thread(process, iter([Compute(30 * MS)]), affinity=1)
    machine.create_thread(process, alternating(10 * MS, 4 * MS), affinity=2)
    machine.run()
    machine.check()
    # 10 ms at 1.5, then 4.2 ms at 1 while the second core wakes and works, then the rest at 1.5 again.
    left = 30 * MS - 15 * MS - 4_200_000
    assert machine.engine.now == 14_200_000 + math.ceil(left / 1.5)
    power.account()
    turbo = machine.engine.now - 4_200_000
    assert power.cores[0].energy == turbo * 20_000 + 4_200_000 * 10_000 + 2 * DEEP.energy


def test_siblings_share_the_faster_of_their_clocks() -> None:
    machine = machine_of(power=CLOCKS, processors=2, siblings=2)
    power = machine.power
    assert power is not None
    first, second = machine.processors
    power.set_performance(first, 3)
    assert (power.performance(first), power.asked(second)) == (1, 1)
    power.set_performance(second, 2)
    assert power.performance(first) == power.performance(second) == 2
    assert machine.speeds.factor(first, "performance state") == NOMINAL // 2
    with pytest.raises(SimulationError, match="performance state 4"):
        power.set_performance(first, 4)


# -- parking ----------------------------------------------------------------------------------------------


def test_threads_leave_a_processor_that_is_parked_and_return_when_it_is_not() -> None:
    machine = machine_of(Powered(), Parked(), rules(ready_queues="per_processor"), processors=2)
    process = machine.create_process("p")
    threads = [machine.create_thread(process, iter([Compute(10 * MS)])) for _ in range(2)]
    power = machine.power
    assert power is not None
    machine.run(2 * MS)
    machine.engine.at(2 * MS, lambda _: power.park(0b10))
    machine.run(4 * MS)
    machine.check()
    assert [thread.processor.index for thread in threads if thread.processor] == [0, 1]  # nowhere to go
    third = machine.create_thread(process, iter([Compute(MS)]))
    assert third.processor is machine.processors[0]
    machine.run(11 * MS)
    assert third.id not in machine.threads
    assert third.run_time == MS
    fourth = [machine.create_thread(process, iter([Compute(10 * MS)])) for _ in range(2)]
    machine.run(15 * MS)
    assert machine.scheduler.idle_mask == 0b10
    assert {thread.processor for thread in fourth} == {machine.processors[0]}
    machine.engine.at(15 * MS, lambda _: power.park(0))
    machine.run(16 * MS)
    machine.check()
    assert machine.scheduler.idle_mask == 0
    assert power.parked_time == 13 * MS


def test_a_running_thread_moves_to_a_free_processor() -> None:
    machine = machine_of(Powered(), Parked(), processors=4)
    thread = machine.create_thread(machine.create_process("p"), iter([Compute(10 * MS)]), affinity=0b0110)
    power = machine.power
    assert power is not None
    machine.engine.at(MS, lambda _: power.park(0b0010))
    machine.run(5 * MS)
    assert thread.processor is machine.processors[2]
    machine.engine.at(5 * MS, lambda _: power.park(0b0110))  # it may run nowhere else
    machine.run(6 * MS)
    assert thread.processor is machine.processors[2]
    machine.run()
    machine.check()
    assert not machine.threads
    # It slept since boot, thought long, and so did the one that it left when it had run for 1 ms.
    assert thread.run_time == 10 * MS


def test_somebody_must_stay() -> None:
    machine = machine_of(processors=2)
    assert machine.power is not None
    with pytest.raises(SimulationError, match="all processors"):
        machine.power.park(0b11)


@plugin(name="growing", summary="Processors may be added.", release="ws2008")
class Growing:
    @hookimpl
    def partition_support(self) -> bool:
        return True


def test_processors_come_and_go_before_they_run() -> None:
    machine = machine_of(Powered(), Growing(), processors=4, nodes=2)
    power = machine.power
    assert power is not None
    machine.partitioning.set_aside(3)
    machine.check()
    assert [list(power.cores), power.packages[1].cores] == [[0], []]
    machine.run(50 * MS)
    machine.engine.at(60 * MS, lambda _: machine.partitioning.add_processor() and None)
    machine.run(80 * MS)
    machine.check()
    assert list(power.cores) == [0, 1]
    power.account()
    assert (power.cores[1].times[1], power.cores[1].energy) == (20 * MS, 20 * MS * 200 + DEEP.energy)


def test_an_idle_state_that_there_is_not_is_refused() -> None:
    with pytest.raises(SimulationError, match="idle_state gave 2"):
        machine_of(Powered(states=(2, 2)))


steps = st.one_of(
    st.tuples(st.just("compute"), st.integers(0, 400_000)),
    st.tuples(st.just("sleep"), st.integers(0, 3 * MS)),
    st.tuples(st.just("lock"), st.integers(1, 50_000)),
)
doings = st.one_of(
    st.tuples(st.just("interrupt"), st.integers(0, 3)),
    st.tuples(st.just("dpc"), st.integers(0, 3)),
    st.tuples(st.just("clock"), st.integers(0, 3)),
    st.tuples(st.just("park"), st.integers(0, 14)),
)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.lists(steps, min_size=1, max_size=5), st.sampled_from([8, 8, 12]), st.integers(1, 15)),
        min_size=1,
        max_size=7,
    ),
    st.lists(st.tuples(st.integers(0, 20 * MS), doings), max_size=12),
    st.sampled_from(["shared", "per_processor"]),
    st.sampled_from([1, 2]),
)
def test_nothing_is_lost_whatever_happens(
    programs: list[Any], disturbances: list[Any], queues: str, siblings: int
) -> None:
    """Every thread does all its work, times add up, and energy is what states and times say."""
    machine = boot(
        plugins=[Powered(), Parked(), rules(ready_queues=queues)],
        tables=tables(4, CLOCKS, nodes=2, siblings=siblings),
    )
    power = machine.power
    assert power is not None
    process = machine.create_process("p")
    lock = machine.create_lock("l")

    def program(wanted: list[tuple[str, int]]) -> Iterator[Request]:
        for what, time in wanted:
            if what == "compute":
                yield Compute(time)
            elif what == "sleep":
                yield Sleep(time)
            else:
                yield Acquire(lock)
                yield Compute(time)
                yield Release(lock)

    for wanted, priority, affinity in programs:
        machine.create_thread(process, program(wanted), priority=priority, affinity=affinity)

    def disturb(what: str, which: int) -> None:
        cpu: Processor = machine.processors[which & 3]
        if what == "interrupt":
            machine.interrupts.interrupt(cpu, 7_000)
        elif what == "dpc":
            machine.interrupts.queue_dpc(cpu, 9_000)
        elif what == "clock":
            power.set_performance(cpu, which)
        else:
            power.park(which)

    for time, (what, which) in disturbances:
        machine.engine.at(time, lambda _, what=what, which=which: disturb(what, which))
    for time in range(0, 20 * MS, 1_700_000):
        machine.run(time)
        machine.check()
    machine.run()
    machine.check()
    assert not machine.threads
    power.account()
    for core in power.cores.values():
        assert core.awake_time + sum(core.times) == machine.engine.now
        asleep = sum(time * state.power for time, state in zip(core.times, power.states, strict=True))
        entering = sum(count * s.energy for count, s in zip(core.entries, power.states, strict=True))
        least, most = 3_000 * core.awake_time, 20_000 * core.awake_time
        assert least <= core.energy - asleep - entering <= most


# -- what a description may say ---------------------------------------------------------------------------

PROFILE = """
name = "p"
source = "a test"
[layout]
[node]
memory = "1 GiB"
"""


def profile(tmp_path: Path, text: str) -> Tables:
    file = tmp_path / "p.toml"
    file.write_text(PROFILE + text)
    return load(file).freeze()


def idle(name: str, kind: int, latency: str, residency: str, power: str, more: str = "") -> str:
    return (
        f'[[idle_state]]\nname = "{name}"\ntype = {kind}\nexit_latency = "{latency}"\n'
        f'residency = "{residency}"\npower = "{power}"\n{more}\n'
    )


def clock(mhz: int, power: str, more: str = "") -> str:
    return f'[[performance_state]]\nspeed_mhz = {mhz}\npower = "{power}"\n{more}\n'


C1 = idle("C1", 1, "3 us", "6 us", "3 W")


def test_the_shipped_figures_are_those_of_the_sources() -> None:
    states = {state.name: state for state in load("nehalem-2s").freeze().power.idle}
    assert {name: (state.latency, state.residency) for name, state in states.items()} == {
        "C1": (3_000, 6_000), "C1E": (10_000, 20_000), "C3": (20_000, 80_000), "C6": (200_000, 800_000),
    }  # fmt: skip
    assert [state.name for state in load("opteron-4s").freeze().power.idle] == ["C1"]


@pytest.mark.parametrize("name", ["nehalem-2s", "opteron-4s", "xeon-2s", "uni"])
def test_profiles_with_power_are_written_and_read(name: str, tmp_path: Path) -> None:
    file = tmp_path / "copy.toml"
    file.write_text(to_profile(load(name)))
    assert load(file).freeze().power == load(name).freeze().power


def test_what_is_not_stated_is_that_of_a_xeon(tmp_path: Path) -> None:
    assert profile(tmp_path, "").power == small_tables().power
    power = profile(tmp_path, '[power]\nactive = "12.5 W"\n' + C1).power
    assert (power.active, power.package, [state.name for state in power.idle]) == (12_500, 15_000, ["C1"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (C1 + idle("C3", 2, "20 us", "80 us", "3 W"), "does not draw less"),
        (C1 + idle("C3", 2, "3 us", "80 us", "1 W"), "is not slower"),
        (
            C1 + idle("C3", 2, "20 us", "20 us", "1 W") + idle("C6", 3, "30 us", "30 us", "2 W"),
            "does not draw",
        ),
        (C1 + idle("C3", 2, "5 us", "6 us", "1 W"), "is not slower"),
        (idle("C1", 1, "3 us", "2 us", "3 W"), "residency is 2000 ns"),
        (idle("C1", 0, "3 us", "6 us", "3 W"), "type is 0"),
        (idle("C1", 4, "3 us", "6 us", "3 W"), "type is 4"),
        (idle("C1", 1, "3 us", "6 us", "-3 W"), "power is negative"),
        (idle("C1", 1, "-3 us", "6 us", "3 W"), "exit_latency is negative"),
        (idle("C1", 1, "3 us", "6 us", "3 V"), "unit 'V'"),
        (idle("C1", 1, "3 us", "6 us", "3 W", "flushes_caches = 1"), "true or false"),
        (idle("C1", 1, "3 us", "6 us", "11 W"), "draws 11000 mW"),
        ('[[idle_state]]\nname = "C1"\n', "exit_latency is missing"),
        (idle("C6", 3, "3 us", "6 us", "3 W") + idle("C1", 1, "5 us", "9 us", "1 W"), "does less"),
        (C1 + idle("C1", 2, "20 us", "80 us", "1 W"), "one name"),
        (clock(1000, "5 W") + clock(2000, "9 W"), "the fastest first"),
        (clock(2000, "9 W") + clock(1000, "9 W"), "the fastest first"),
        (clock(2000, "-9 W"), "negative"),
        (clock(2000, "9 W", "cores = 1"), "for some cores only"),
        (clock(3000, "9 W") + clock(2000, "8 W", "cores = 1"), "more cores awake"),
        ('[power]\npackage = "5 W"\npackage_asleep = "6 W"\n', "package_asleep is 6000 mW"),
        ('[power]\nactive = "-1 W"\n', "active is negative"),
        ('[power]\nwatts = "1 W"\n', "unknown key 'watts'"),
    ],
)
def test_what_no_processor_can_have_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=message) as caught:
        profile(tmp_path, text)
    assert "\n" not in str(caught.value)
    assert "p.toml" in str(caught.value)


def test_a_processor_without_an_idle_state_is_refused() -> None:
    topology = load("uni")
    topology.power = Power((), (), active=10_000, package=0, asleep=0)
    with pytest.raises(TopologyError, match="there is no idle state; expected at least C1"):
        topology.freeze()
