"""P8: who is woken by ticks, exact (scheduling facts 9); the invariants; the claims without the rules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judging import failing
from ntlab.errors import UserError
from ntlab.hooks import hookimpl
from ntlab.lab.registry import installed
from ntlab.machine import Compute, Delay, Dpc, Machine, Request, Timer
from ntlab.plugin import plugin
from ntlab.quantities import MICROSECOND, MILLISECOND, SECOND, Duration
from ntlab.testing import Recorder, boot, conformance
from ntlab.topology import load
from ntlab_tick_distribution import TickDistribution, Wakes
from ntlab_ws2003 import Ws2003

HWLOC = Path(__file__).parents[3] / "shared" / "data" / "hwloc"
TICK = 15_625 * MICROSECOND

test_conformance = conformance("tick_distribution")


def tick_from(time: int) -> int:
    return -(-time // TICK) * TICK


def measure(machine: Machine, **options: Any) -> dict[str, float]:
    workload = Wakes(**options)
    workload.start(machine)
    machine.run(workload.window + TICK)
    machine.check()
    return {metric.name: metric.value for metric in workload.measure(machine)}


# -- exact ------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.lists(st.integers(0, 120), max_size=12), st.integers(0, 12))
def test_wakes_are_those_of_the_formula(processors: int, wakes: list[int], busy: int) -> None:
    """Before n f + sum w, after f (1 + awake others) + sum w; of these, who computes is not woken."""
    busy = min(busy, processors)
    wakes = wakes[:processors]
    options = {"wakes": tuple(wakes), "busy": busy, "window": SECOND}
    before = measure(boot(processors, [Ws2003()]), **options)
    after = measure(boot(processors, [Ws2003(), TickDistribution()]), **options)
    others = sum(wakes)
    asleep = sum(wakes[: processors - busy])
    assert before["interrupts"] == 64 * processors + others
    assert before["wakes"] == 64 * (processors - busy) + asleep
    ticked = min(processors, 1 + busy)  # the first keeps the time, the last compute
    assert after["interrupts"] == 64 * ticked + others
    assert after["wakes"] == 64 * (busy < processors) + asleep
    assert before["ticks"] == after["ticks"] == 64


def test_idle_gaps_are_those_of_the_formula() -> None:
    """1/(f + w) before, 1/w after, for a processor that others wake w times a second."""
    rates = (0, 10)
    before = measure(boot(2, [Ws2003()]), wakes=rates, window=10 * SECOND)
    after = measure(boot(2, [Ws2003(), TickDistribution()]), wakes=rates, window=10 * SECOND)
    assert before["idle_gap"] == pytest.approx(SECOND / 74, rel=0.01)
    assert after["idle_gap"] == pytest.approx(SECOND / 10, rel=0.02)


# -- invariants -------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 200), st.integers(20, 300)), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 900), st.integers(1, 60)), max_size=6),
    st.sampled_from(["per_processor", "one"]),
)
def test_no_timer_is_late_and_no_tick_is_lost(
    timers: list[tuple[int, int, int]], bursts: list[tuple[int, int, int]], tables: Any
) -> None:
    """Timers on sleeping processors, threads that come and go: checked between any two events, too."""
    machine = boot(4, [Ws2003(), TickDistribution(tables=tables)], hooks="checked")
    late: list[Timer] = []

    def look(timer: Timer) -> None:
        if timer.tick != tick_from(timer.due):
            late.append(timer)

    for index, due, period in timers:
        timer = machine.timers.create(Dpc("Look", look))
        machine.timers.set(timer, due * MILLISECOND, period=period * MILLISECOND, processor=index)
    process = machine.create_process("p")

    def program(wait: int, work: int) -> Iterator[Request]:
        yield Delay(wait * MILLISECOND)
        yield Compute(work * MILLISECOND)

    for index, wait, work in bursts:
        machine.create_thread(process, program(wait, work), affinity=1 << index)
    machine.run(SECOND + MILLISECOND)
    machine.check()
    assert not late
    assert machine.timers.ticks == machine.timers.taken[0] + machine.timers.made_up[0] == 64
    for index in range(1, 4):
        seen = machine.timers.taken[index] + machine.timers.made_up[index]
        assert seen <= 64  # the rest it has slept through until now


@plugin(name="replacing", summary="Processors may be replaced.", release="ws2003")
class Replacing:
    @hookimpl
    def partition_support(self) -> bool:
        return True


def test_the_keeper_of_the_time_hands_over() -> None:
    machine = boot(5, [Ws2003(), Replacing(), TickDistribution()], hooks="checked", trace=True)
    got = measure(machine, timers=8, replaced=400 * MILLISECOND, window=SECOND)
    assert (got["ticks"], got["late"], got["expirations"]) == (64, 0, 8)
    assert Recorder(machine)("Lab-Timer/Keeper").one()["cpu"] == 4
    assert machine.timers.ticks - machine.timers.taken[0] - machine.timers.taken[4] <= 1  # the last one comes


def test_accounts_of_threads_do_not_depend_on_who_gets_ticks() -> None:
    """Turns are charged by ticks, whoever simulates them."""

    def ends(*plugins: object) -> list[tuple[int, Any]]:
        machine = boot(2, [Ws2003(clock_time=Duration(0)), *plugins], trace=True)
        machine.timers.start_clock()
        process = machine.create_process("p")
        for work in (300, 500, 700, 20):
            machine.create_thread(process, iter([Compute(work * MILLISECOND)]))
        machine.run(3 * SECOND)
        return [(record.time, record["run_time"]) for record in Recorder(machine)("Thread/End")]

    assert ends(TickDistribution()) == ends()


def test_nobody_makes_up_for_ticks_where_all_get_them() -> None:
    got = measure(boot(4, [Ws2003(), TickDistribution(ticks="all")]), wakes=(1, 2, 3, 4), window=SECOND)
    assert got["resynchronised"] == 0
    got = measure(boot(4, [Ws2003(), TickDistribution()]), wakes=(1, 2, 3, 4), window=SECOND)
    assert got["resynchronised"] == 2 + 3 + 4  # processor 0 keeps the time


# -- the claims without what they are about ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("experiment", "changes", "fail"),
    [
        (
            "tick-distribution",
            {"tick_distribution.ticks": "all"},
            {
                f"tick-distribution-{name}"
                for name in ("idle", "wakes", "busy", "256", "resolution", "resync", "gap")
            },
        ),
        ("tick-distribution-timers", {"after.tick_distribution.tables": "one"}, {"tick-distribution-timers"}),
        ("tick-distribution-timers", {"tick_distribution.ticks": "all"}, {"tick-distribution-timers"}),
        (
            "tick-distribution-power",
            {"tick_distribution.ticks": "all"},
            {"tick-distribution-power", "tick-distribution-power-deepest", "tick-distribution-power-package"},
        ),
        ("tick-distribution-parking", {"tick_distribution.ticks": "all"}, {"tick-distribution-parking"}),
        (
            "tick-distribution-keeper",
            {"tick_distribution.ticks": "all"},
            {"tick-distribution-keeper-interrupts"},
        ),
    ],
)
def test_each_claim_fails_without_what_it_is_about(
    experiment: str, changes: dict[str, Any], fail: set[str]
) -> None:
    if experiment not in installed().experiment_files:
        pytest.skip("it shows the plugin together with one that is not installed")
    assert failing(experiment, changes) == fail


# -- mistakes and machines --------------------------------------------------------------------------------


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="processor 3 is to keep the time"):
        Wakes().start(boot(2, [Ws2003(time_keeper=3)]))
    with pytest.raises(ValueError, match="out of range"):
        Ws2003(time_keeper=-1)
    for options, said in (
        ({"wakes": (1, 2, 3)}, "wakes"),
        ({"wakes": (251,)}, "wakes"),
        ({"busy": 3}, "3 busy processors of 2"),
    ):
        with pytest.raises(UserError, match=said):
            Wakes(**options).start(boot(2, [TickDistribution()]))
    with pytest.raises(UserError, match="to replace processor"):
        measure(boot(2, [TickDistribution()]), replaced=MILLISECOND)
    with pytest.raises(UserError, match=r"wakes.replaced: the only processor .*two processors at least"):
        Wakes(replaced=Duration(1)).start(boot(1))
    workload = Wakes()
    machine = boot(1)
    workload.start(machine)
    machine.run(SECOND)
    with pytest.raises(UserError, match="the run ends before the window"):
        workload.measure(machine)


@pytest.mark.skipif(not HWLOC.is_dir(), reason="the real descriptions are not here")
@pytest.mark.parametrize("file", sorted(HWLOC.glob("*.xml")), ids=lambda file: file.stem)
def test_it_runs_on_real_machines(file: Path) -> None:
    tables = load(str(file)).freeze()
    options = {"wakes": (3,) * min(tables.processors, 7), "window": SECOND}
    others = 3 * min(tables.processors, 7)
    before = measure(boot(plugins=[Ws2003()], tables=tables), **options)
    after = measure(boot(plugins=[Ws2003(), TickDistribution()], tables=tables), **options)
    assert before["wakes"] == 64 * tables.processors + others
    assert after["wakes"] == 64 + others
