"""Timers and the clock: exact times, tables, who gets ticks, and that nothing is there where nobody asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlab.errors import SimulationError, UserError
from ntlab.hooks import hookimpl
from ntlab.machine import (
    Compute,
    Delay,
    Dpc,
    IdleTimes,
    Machine,
    PowerPolicy,
    Request,
    SetTimer,
    Timer,
    TimerPolicy,
    WaitForTimer,
)
from ntlab.plugin import plugin
from ntlab.quantities import MICROSECOND, MILLISECOND, SECOND, Duration
from ntlab.testing import Recorder, boot, bursts
from ntlab.topology import load

TICK = 15_625 * MICROSECOND


def tick_from(time: int) -> int:
    return -(-time // TICK) * TICK


@plugin(name="costs", summary="Stated costs of the clock.", release="ws2003")
class Costs:
    @hookimpl
    def timer_policy(self) -> TimerPolicy:
        return TimerPolicy(
            clock_time=Duration(3_000), expiration_time=Duration(2_000), timer_time=Duration(1_000)
        )


@plugin(name="own_tables", summary="A table for each processor.", release="ws2003")
class OwnTables:
    @hookimpl
    def timer_processor(self, here: int) -> int:
        return here


@plugin(name="sparing", summary="Only who must gets a tick.", release="ws2003")
class Sparing:
    @hookimpl
    def tick_processors(self, due: int) -> int:
        return due


@plugin(name="forgetful", summary="Processor 0 alone gets ticks.", release="ws2003")
class Forgetful:
    @hookimpl
    def tick_processors(self) -> int:
        return 1


class Log:
    """What a timer's DPC saw."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.seen: list[tuple[int, int]] = []  # due, tick

    def timer(self, work: int = 0) -> Timer:
        return self.machine.timers.create(Dpc("Log", self.note, work))

    def note(self, timer: Timer) -> None:
        self.seen.append((timer.due, timer.tick))

    @property
    def ticks(self) -> list[int]:
        return [tick for _, tick in self.seen]


# -- when a timer expires


@given(st.lists(st.integers(1, 100 * MILLISECOND), min_size=1, max_size=20))
def test_timers_expire_at_the_first_tick_from_their_due_time(dues: list[int]) -> None:
    machine = boot(1)
    log = Log(machine)
    for due in dues:
        machine.timers.set(log.timer(), due)
    machine.run()
    assert log.seen == sorted((due, tick_from(due)) for due in dues)
    assert machine.timers.batches == len({tick_from(due) for due in dues})
    # The clock stops with the last timer: the run has come to an end.
    assert machine.engine.now == max(tick_from(due) for due in dues) + TICK


def test_a_period_keeps_its_phase() -> None:
    machine = boot(1, [Costs()])
    log = Log(machine)
    machine.timers.set(log.timer(), 40 * MILLISECOND, period=100 * MILLISECOND)
    machine.run(SECOND)
    assert log.seen == [(due, tick_from(due)) for due in range(40 * MILLISECOND, SECOND, 100 * MILLISECOND)]


def test_a_period_shorter_than_a_tick_expires_once_a_tick() -> None:
    machine = boot(1)
    log = Log(machine)
    machine.timers.set(log.timer(), MILLISECOND, period=MILLISECOND)
    machine.run(SECOND)
    assert log.ticks == [TICK * number for number in range(1, 65)]


def test_who_is_due_in_the_past_expires_at_once() -> None:
    machine = boot(1, [Costs()], trace=True)
    machine.run(5 * MILLISECOND)
    log = Log(machine)
    machine.timers.set(log.timer(work=500), -MILLISECOND, period=50 * MILLISECOND)
    machine.run(100 * MILLISECOND)
    now = 5 * MILLISECOND
    assert log.seen == [(now - MILLISECOND, now), (54 * MILLISECOND, 4 * TICK)]
    first = Recorder(machine)("Lab-Timer/Expire")[0]
    assert first.time == now + 2_000 + 1_000 + 500


def test_all_that_is_due_at_a_tick_is_one_dpc() -> None:
    machine = boot(1, [Costs()], trace=True)
    log = Log(machine)
    for due in range(1, 11):
        machine.timers.set(log.timer(work=100), due * MILLISECOND)
    machine.run()
    dpc = Recorder(machine)("PerfInfo/DPC").one()
    assert (dpc["initial_time"], dpc.time) == (TICK + 3_000, TICK + 3_000 + 2_000 + 10 * (1_000 + 100))
    assert log.ticks == [TICK] * 10


def test_a_cancelled_timer_does_not_expire_not_even_when_its_dpc_is_queued() -> None:
    machine = boot(1, [Costs()])
    log = Log(machine)
    timers = machine.timers
    early, late = log.timer(), log.timer()
    for timer in (early, late):
        timers.set(timer, 5 * MILLISECOND, period=20 * MILLISECOND)
    assert timers.cancel(early)
    assert not timers.cancel(early)

    def cancel(_: object) -> None:
        timers.cancel(late)

    machine.engine.at(TICK + 4_000, cancel)
    machine.run()
    assert log.seen == []
    assert not timers.running


def test_a_timer_is_set_anew_from_its_own_dpc() -> None:
    machine = boot(1)
    seen: list[int] = []

    def again(timer: Timer) -> None:
        seen.append(timer.tick)
        if len(seen) < 3:
            machine.timers.set(timer, 100 * MILLISECOND)

    machine.timers.set(machine.timers.create(Dpc("Again", again)), MILLISECOND, period=MILLISECOND)
    machine.run(SECOND)
    assert seen == [TICK, tick_from(TICK + 100 * MILLISECOND), seen[1] + 7 * TICK]


def test_a_table_does_not_keep_what_is_cancelled() -> None:
    machine = boot(1)
    timer = Log(machine).timer()
    for _ in range(1000):
        machine.timers.set(timer, SECOND)
    assert len(machine.timers._tables[0]) < 100
    machine.timers.check()


# -- threads


def test_a_thread_waits_until_a_tick() -> None:
    machine = boot(1)
    woke: list[int] = []

    def program() -> Iterator[Request]:
        for wait in (10, 20):
            yield Delay(wait * MILLISECOND)
            woke.append(machine.engine.now)
            yield Compute(1 * MILLISECOND)

    machine.create_thread(machine.create_process("p"), program())
    machine.run()
    assert woke == [TICK, tick_from(TICK + 21 * MILLISECOND)]


def test_a_thread_waits_for_a_periodic_timer_and_does_not_miss_it() -> None:
    machine = boot(1)
    timer = machine.timers.create()
    seen: list[tuple[int, int]] = []

    def program() -> Any:
        yield SetTimer(timer, 20 * MILLISECOND, 100 * MILLISECOND)
        for work in (1, 150, 1):
            tick = yield WaitForTimer(timer)
            seen.append((tick, machine.engine.now))
            yield Compute(work * MILLISECOND)
        machine.timers.cancel(timer)

    machine.create_thread(machine.create_process("p"), program())
    machine.run()
    first, second, third = (tick_from(due * MILLISECOND) for due in (20, 120, 220))
    assert seen == [(first, first), (second, second), (third, second + 150 * MILLISECOND)]


# -- the clock


@pytest.mark.parametrize("processors", [1, 4])
def test_every_processor_gets_every_tick(processors: int) -> None:
    machine = boot(processors, [Costs()], trace=True)
    machine.timers.start_clock()
    idle = IdleTimes(machine)
    idle.begin()
    machine.run(SECOND + MILLISECOND)
    idle.end()
    assert idle.wakes == dict.fromkeys(range(processors), 64)
    isrs = Recorder(machine)("PerfInfo/ISR")
    # Processor 0 has it first, and sends it on.
    assert [(isr["cpu"], isr["initial_time"]) for isr in isrs] == [
        (index, TICK * number + 3_000 * (index > 0)) for number in range(1, 65) for index in range(processors)
    ]


def test_who_gets_no_tick_makes_up_for_it_when_it_wakes() -> None:
    machine = boot(2, [Costs(), Sparing()], trace=True)
    timers = machine.timers
    timers.start_clock()
    process = machine.create_process("p")

    def begin(_: object) -> None:
        machine.create_thread(process, bursts(3 * TICK), affinity=2)

    machine.engine.at(10 * TICK + MILLISECOND, begin)
    machine.run(SECOND)
    assert Recorder(machine)("Lab-Timer/Resynchronise", cpu=1).one()["missed"] == 10
    assert timers.taken[1] == 3  # while its thread ran
    assert timers.made_up[1] == 10
    machine.check()


def test_own_tables_expire_on_their_processor_and_wake_nobody_else() -> None:
    machine = boot(4, [Costs(), OwnTables(), Sparing()], trace=True)
    log = Log(machine)
    machine.timers.set(log.timer(), 40 * MILLISECOND, period=100 * MILLISECOND, processor=2)
    idle = IdleTimes(machine)
    idle.begin()
    machine.run(SECOND + MILLISECOND)
    assert len(log.seen) == 10
    assert set(Recorder(machine)("Lab-Timer/Expire").values("cpu")) == {2}
    assert idle.wakes == {0: 64, 2: 10}


def test_one_table_expires_on_the_keeper() -> None:
    machine = boot(4, [Costs()], trace=True)
    machine.timers.set(Log(machine).timer(), 40 * MILLISECOND, processor=2)
    machine.run()
    assert Recorder(machine)("Lab-Timer/Expire").one()["cpu"] == 0


@pytest.mark.parametrize("busy", ["timer", "thread"])
def test_a_tick_must_not_be_kept_from_who_needs_it(busy: str) -> None:
    machine = boot(2, [OwnTables(), Forgetful()])
    if busy == "timer":
        machine.timers.set(Log(machine).timer(), MILLISECOND, processor=1)
    else:
        machine.timers.start_clock()
        machine.create_thread(machine.create_process("p"), bursts(SECOND), affinity=2)
    with pytest.raises(SimulationError, match="must have the tick"):
        machine.run(SECOND)


def test_a_finer_resolution_counts_while_somebody_wants_it() -> None:
    machine = boot(1, trace=True)
    timers = machine.timers
    log = Log(machine)
    timers.set(log.timer(), MILLISECOND, period=MILLISECOND)
    timers.request_resolution("one", MILLISECOND)
    timers.request_resolution("two", 5 * MILLISECOND)
    machine.run(10 * MILLISECOND)
    timers.request_resolution("one", None)
    machine.run(30 * MILLISECOND)
    timers.request_resolution("two", None)
    machine.run(50 * MILLISECOND)
    assert log.ticks == [
        *(number * MILLISECOND for number in range(1, 11)),
        *(number * MILLISECOND for number in (15, 20, 25, 30)),
        2 * TICK,
        3 * TICK,
    ]
    assert Recorder(machine)("Lab-Timer/Resolution").values("period") == [
        MILLISECOND,
        5 * MILLISECOND,
        TICK,
    ]


def test_a_clock_interrupt_that_is_not_served_yet_is_not_queued_twice() -> None:
    machine = boot(1, [Costs()])
    machine.timers.start_clock()

    def storm(_: object) -> None:
        machine.interrupts.interrupt(machine.processors[0], 5 * TICK)

    machine.engine.at(TICK - 10_000, storm)
    machine.run(10 * TICK + MILLISECOND)
    assert machine.timers.ticks == 10
    # The storm ends just before the sixth tick: then those of the first five are one interrupt.
    assert (machine.timers.taken[0], machine.timers.made_up[0]) == (6, 4)
    machine.check()


# -- inert where nobody asks


def test_a_machine_without_timers_has_no_clock() -> None:
    machine = boot(2, [Costs(), Sparing()])
    machine.create_thread(machine.create_process("p"), bursts(SECOND))
    machine.run()
    assert machine.timers.ticks == 0
    assert not machine.timers.counters()
    assert not machine.interrupts.idle_watchers


# -- mistakes


def test_mistakes() -> None:
    timers = boot(1).timers
    timer = timers.create()
    for options in (
        {"tolerance": -1},
        {"period": -1},
        {"period": 2**31 * MILLISECOND},
        {"period": MILLISECOND, "tolerance": MILLISECOND + 1},
        {"processor": 1},
        {"processor": -1},
    ):
        with pytest.raises(UserError):
            timers.set(timer, 0, **options)
    timers.set(timer, 1, period=(2**31 - 1) * MILLISECOND)
    for period in (MILLISECOND // 2 - 1, TICK + 1):
        with pytest.raises(UserError, match="resolution"):
            timers.request_resolution("p", period)
    dpc = Dpc("Mine", print)
    timers.create(dpc)
    with pytest.raises(UserError, match="two timers"):
        timers.create(dpc)
    with pytest.raises(SimulationError):
        Delay(-1)


# -- whatever happens


@plugin(name="late", summary="Timers expire at the end of their tolerance.", release="ws2003")
class Late:
    @hookimpl
    def align_timer(self, latest: int) -> int:
        return latest


@pytest.mark.once
@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(-5, 200), st.sampled_from([0, 1, 30, 50, 100]), st.integers(0, 100), st.integers(0, 3)
        ),
        min_size=1,
        max_size=8,
    ),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_no_timer_is_early_or_later_than_its_tolerance_and_a_tick(
    wanted: list[tuple[int, int, int, int]], own: bool, seed: int
) -> None:
    machine = boot(
        4, [Costs(), *([OwnTables(), Sparing()] if own else []), Late()], seed=seed, hooks="checked"
    )
    windows: list[tuple[int, int, int, Timer]] = []

    def look(timer: Timer) -> None:
        windows.append((timer.due, timer.tolerance, timer.tick, timer))

    for due, period, tolerance, processor in wanted:
        tolerance = min(tolerance, period) if period else tolerance
        machine.timers.set(
            machine.timers.create(Dpc("Look", look)),
            due * MILLISECOND,
            period=period * MILLISECOND,
            tolerance=tolerance * MILLISECOND,
            processor=processor,
        )
    machine.run(SECOND)
    machine.check()
    assert windows
    last: dict[Timer, int] = {}
    for due, tolerance, tick, timer in windows:
        assert max(due, 0) <= tick <= max(0, tick_from(due + tolerance))
        assert tick > last.get(timer, -1)
        last[timer] = tick


@plugin(name="elsewhere", summary="Processor 2 keeps the time.", release="ws2003")
class Elsewhere:
    @hookimpl
    def timer_policy(self) -> TimerPolicy:
        return TimerPolicy(keeper=2)


def test_who_keeps_the_time_is_one_that_runs() -> None:
    machine = boot(4, [Elsewhere(), Sparing()])
    machine.timers.start_clock()
    machine.run(SECOND)
    assert machine.timers.taken == {2: 64}
    with pytest.raises(UserError, match="processor 2 is to keep the time"):
        boot(2, [Elsewhere()]).timers.start_clock()


@plugin(name="replacing", summary="Processors may be replaced.", release="ws2003")
class Replacing:
    @hookimpl
    def partition_support(self) -> bool:
        return True


@pytest.mark.parametrize("sparing", [False, True])
def test_the_stand_in_of_a_gone_processor_keeps_its_time_and_its_timers(sparing: bool) -> None:
    machine = boot(4, [Costs(), Replacing(), OwnTables(), *([Sparing()] if sparing else [])], hooks="checked")
    machine.partitioning.set_aside(1)
    log = Log(machine)
    for index in range(3):
        machine.timers.set(log.timer(), 40 * MILLISECOND, period=50 * MILLISECOND, processor=index)
    machine.run(300 * MILLISECOND)
    machine.partitioning.replace_processor(0)
    machine.run(2 * SECOND + MILLISECOND)
    machine.check()
    assert machine.timers.keeper == 3
    wanted = range(40 * MILLISECOND, 2 * SECOND, 50 * MILLISECOND)
    assert sorted(log.seen) == sorted((due, tick_from(due)) for due in wanted for _ in range(3))
    assert machine.timers.ticks == 128
    assert machine.timers.taken[0] + machine.timers.taken[3] == 128


@plugin(name="powered", summary="Idle states count.", release="ws2003")
class Powered:
    @hookimpl
    def power_policy(self) -> PowerPolicy:
        return PowerPolicy()


def test_a_tick_costs_a_sleeping_core_its_exit_latency() -> None:
    """Scheduling facts, section 15: 64 wake-ups of 203 us from C6 are 1.3 % of a core's time."""
    tables = load("nehalem-2s").freeze()
    machine = boot(plugins=[Costs(), Powered()], tables=tables)
    machine.timers.start_clock()
    idle = IdleTimes(machine)
    machine.run(SECOND + TICK // 2)  # it has learned by now that idle times are long
    idle.begin()
    machine.run(2 * SECOND + TICK // 2)
    idle.end()
    cores = len(set(tables.core_processors))
    shallow, deep = tables.power.idle[0].latency, tables.power.idle[-1].latency
    # The keeper's sibling gets the tick when the keeper has had it: their core stays awake for both.
    assert idle.deepest == cores * (SECOND - 64 * (deep + 3_000)) - 64 * (shallow + 3_000)
    assert 0 < idle.asleep < 2 * SECOND
    assert idle.energy > 0


def test_a_guest_has_a_clock_of_its_own_also_where_it_seldom_runs() -> None:
    """Ticks that come while its processor does not run are one interrupt, as of a local APIC."""
    machine = boot(1, [Costs()], hooks="checked")
    guest = machine.partitions.create("guest", memory=1 << 20, processors=2, plugins=[Costs()])
    seen: list[tuple[int, int]] = []

    def note(timer: Timer) -> None:
        seen.append((timer.tick, machine.engine.now))

    inner = guest.machine.timers
    inner.set(inner.create(Dpc("Note", note)), 20 * MILLISECOND, period=100 * MILLISECOND)
    machine.create_thread(machine.create_process("hog"), bursts(*[40 * MILLISECOND] * 20), priority=15)
    machine.run(2 * SECOND)
    machine.check()
    ticks = [tick for tick, _ in seen]
    assert ticks == sorted(set(ticks))
    assert all(tick <= now for tick, now in seen)
    assert inner.taken[0] + inner.made_up[0] in (inner.ticks, inner.ticks - 1)
    assert inner.made_up[0] > 0  # while the host's thread ran
    assert len(seen) > 10
