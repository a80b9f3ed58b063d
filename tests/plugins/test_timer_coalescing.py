"""P7: expiries against brute force (scheduling facts 8, 14.12), claims without the rules, real machines."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ntlab
from ntlab.errors import UserError
from ntlab.lab.registry import installed
from ntlab.machine import Delay, Dpc, Machine, Timer
from ntlab.quantities import MICROSECOND, MILLISECOND, SECOND, Duration
from ntlab.testing import boot, conformance
from ntlab.topology import load
from ntlab_timer_coalescing import PeriodicTimers, TimerCoalescing
from ntlab_ws2003 import Ws2003

HWLOC = Path(__file__).parents[3] / "shared" / "data" / "hwloc"
TICK = 15_625 * MICROSECOND

test_conformance = conformance("timer_coalescing")


# -- brute force ------------------------------------------------------------------------------------------


def tick_from(time: int) -> int:
    return -(-time // TICK) * TICK


def fires(
    due: int, period: int, tolerance: int, until: int, alignments: Sequence[int], encode: str, keeps: str
) -> list[int]:
    """The ticks at which a timer expires, by looking through all common times of each of its windows."""
    found: list[int] = []
    while True:
        earliest = max(due, found[-1] + 1 if found else 0)
        within = tolerance
        if found and encode == "log2":
            powers = [1 << k for k in range(32) if (1 << k) * MILLISECOND <= tolerance]
            within = max(powers, default=0) * MILLISECOND
        expires = earliest
        for alignment in sorted(alignments, reverse=True):
            if alignment > within:
                continue
            multiples = range(0, due + within + alignment, alignment)
            times = sorted({m if keeps == "due" else tick_from(m) for m in multiples})
            possible = [time for time in times if earliest <= time <= due + within]
            if possible:
                expires = possible[0]
                break
        tick = tick_from(expires)
        if tick > until:
            return found
        found.append(tick)
        due += period
        while due + tolerance <= tick:
            due += period


milliseconds = st.integers(1, 1500).map(lambda ms: ms * MILLISECOND)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(1, SECOND),
            st.sampled_from([50, 100, 125, 250, 500, 1000, 1234]).map(lambda ms: ms * MILLISECOND),
            st.one_of(
                milliseconds, st.sampled_from([0, 32, 50, 100, 150, 250]).map(lambda ms: ms * MILLISECOND)
            ),
        ),
        min_size=1,
        max_size=6,
    ),
    st.lists(st.sampled_from([1, 10, 50, 100, 250, 500, 1000]), unique=True, max_size=4),
    st.sampled_from(["log2", "exact"]),
    st.sampled_from(["tick", "due"]),
)
def test_timers_expire_as_brute_force_says(
    wanted: list[tuple[int, int, int]],
    alignments: list[int],
    encode: Literal["log2", "exact"],
    keeps: Literal["tick", "due"],
) -> None:
    allowed = tuple(Duration(ms * MILLISECOND) for ms in alignments)
    rules = TimerCoalescing(alignments=allowed, encode_tolerance=encode, keeps=keeps)
    machine = boot(1, [Ws2003(), rules])
    seen: list[list[int]] = []
    until = 4 * SECOND
    for due, period, tolerance in wanted:
        ticks: list[int] = []
        seen.append(ticks)

        def note(timer: Timer, ticks: list[int] = ticks) -> None:
            ticks.append(timer.tick)
            latest = timer.due + timer.tolerance
            assert timer.due <= timer.tick <= tick_from(latest)
            if keeps == "tick" and tick_from(timer.due) <= latest:
                assert timer.tick <= latest

        timer = machine.timers.create(Dpc("Note", note))
        machine.timers.set(timer, due, period=period, tolerance=min(tolerance, period))
    machine.run(until + MILLISECOND)
    machine.check()
    expected = [
        fires(due, period, min(tolerance, period), until, allowed, encode, keeps)
        for due, period, tolerance in wanted
    ]
    assert seen == expected
    for (_, period, tolerance), ticks in zip(wanted, seen, strict=True):
        for before, after in pairwise(ticks):
            # [Period - Tol, Period + Tol], and a tick where it is just due that is kept inside.
            slack = min(tolerance, period) + (TICK if keeps == "due" or tolerance < TICK else 0)
            assert period - slack <= after - before <= period + slack


def test_no_tolerance_is_no_change() -> None:
    def ticks(*plugins: object) -> list[int]:
        machine = boot(1, [Ws2003(), *plugins])
        seen: list[int] = []
        for number in range(20):
            timer = machine.timers.create(Dpc("Note", lambda timer: seen.append(timer.tick)))
            machine.timers.set(timer, number * 7 * MILLISECOND + 1, period=333 * MILLISECOND)
        machine.run(3 * SECOND)
        return seen

    assert ticks(TimerCoalescing()) == ticks()


def test_the_sheets_formula() -> None:
    """14.12: n(1 - (1 - 1/n)^N) ticks a period; N = 40 in a second, N = 20 in half of one."""

    def distinct(slots: int, timers: int) -> float:
        return slots * (1 - (1 - 1 / slots) ** timers)

    assert distinct(64, 40) == pytest.approx(29.9, abs=0.05)
    assert distinct(10, 40) == pytest.approx(9.9, abs=0.06)
    assert distinct(4, 40) == pytest.approx(4.0, abs=0.01)
    assert 2 * distinct(32, 20) == pytest.approx(30.1, abs=0.05)


@pytest.mark.parametrize(
    ("timers", "period", "tolerance", "low", "high"),
    [(20, 500, 0, 28, 32), (20, 500, 100, 9.4, 10), (40, 1000, 100, 9.5, 10), (40, 1000, 50, 16.6, 18.2)],
)
def test_working_ticks_are_those_of_the_formula(
    timers: int, period: int, tolerance: int, low: float, high: float
) -> None:
    """The sheet's figures for 20 timers of half a second, 30.1 and 9.7 (the formula gives 9.9)."""
    found = []
    for seed in range(12):
        rules = TimerCoalescing(encode_tolerance="exact", keeps="due")
        got = measure(
            boot(1, [Ws2003(), rules], seed=seed),
            timers=timers,
            period=period * MILLISECOND,
            tolerance=tolerance * MILLISECOND,
            warm_up=SECOND,
            window=SECOND,
        )
        found.append(got["working_ticks"])
    assert low < sum(found) / len(found) <= high


def measure(machine: Machine, **options: Any) -> dict[str, float]:
    workload = PeriodicTimers(**options)
    workload.start(machine)
    machine.run(workload.warm_up + workload.window + TICK)
    machine.check()
    return {metric.name: metric.value for metric in workload.measure(machine)}


# -- details ----------------------------------------------------------------------------------------------


def test_150_and_250_ms_are_128_from_the_second_period_on() -> None:
    """The first time the whole tolerance counts."""

    def ticks(tolerance: int) -> list[int]:
        machine = boot(1, [TimerCoalescing()])
        found: list[int] = []
        timer = machine.timers.create(Dpc("Note", lambda timer: found.append(timer.tick)))
        machine.timers.set(timer, 10 * MILLISECOND, period=SECOND, tolerance=tolerance * MILLISECOND)
        machine.run(4 * SECOND)
        return found

    seen = {tolerance: ticks(tolerance) for tolerance in (150, 250, 128)}
    assert seen[250][0] == 250 * MILLISECOND
    assert seen[150][0] == seen[128][0] == 7 * TICK
    assert seen[250][1:] == seen[150][1:] == seen[128][1:] == [SECOND * k + 7 * TICK for k in (1, 2, 3)]


def test_a_thread_waits_with_a_tolerance() -> None:
    machine = boot(1, [TimerCoalescing()])
    woke: list[int] = []

    def program() -> Any:
        yield Delay(30 * MILLISECOND, 1000 * MILLISECOND)
        woke.append(machine.engine.now)

    machine.create_thread(machine.create_process("p"), program())
    machine.run()
    assert woke == [SECOND]


def test_500_ms_are_an_option() -> None:
    rules = TimerCoalescing(alignments=(Duration(500 * MILLISECOND),), encode_tolerance="exact")
    crowd = {"timers": 400, "phases": "even", "tolerance": 500 * MILLISECOND}
    assert measure(boot(1, [rules]), **crowd)["working_ticks"] == 2


@pytest.mark.parametrize("function", ["KeSetCoalescableTimer", "SetWaitableTimerEx"])
def test_drivers_and_programs_fare_alike(function: str) -> None:
    crowd = {"timers": 100, "phases": "even", "tolerance": 250 * MILLISECOND, "work": 5_000}
    got = measure(boot(2, [TimerCoalescing(encode_tolerance="exact")]), function=function, **crowd)
    assert (got["working_ticks"], got["expirations"], got["outside"]) == (4, 100, 0)


@pytest.mark.skipif("tick_distribution" not in installed().names(), reason="it needs tick_distribution")
@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(1, 500), st.integers(40, 600), st.integers(0, 300)),
        min_size=1,
        max_size=10,
    )
)
def test_with_ticks_for_those_awake_no_timer_is_outside_either(
    wanted: list[tuple[int, int, int, int]],
) -> None:
    """Both plugins, four tables: each timer expires at the very ticks at which it does alone in one table."""

    def ticks(*plugins: object) -> list[list[int]]:
        machine = boot(4, [Ws2003(), *plugins, TimerCoalescing()], hooks="checked")
        seen: list[list[int]] = [[] for _ in wanted]
        for found, (processor, due, period, tolerance) in zip(seen, wanted, strict=True):

            def note(timer: Timer, found: list[int] = found) -> None:
                found.append(timer.tick)
                assert timer.due <= timer.tick <= tick_from(timer.due + timer.tolerance)

            machine.timers.set(
                machine.timers.create(Dpc("Note", note)),
                due * MILLISECOND,
                period=period * MILLISECOND,
                tolerance=min(period, tolerance) * MILLISECOND,
                processor=processor,
            )
        machine.run(2 * SECOND + MILLISECOND)
        machine.check()
        return seen

    assert ticks(installed().plugin("tick_distribution").info.cls()) == ticks()


# -- the claims without what they are about ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("experiment", "changes", "fail"),
    [
        (
            "coalescing",
            {"timer_coalescing.alignments": []},
            {"coalescing-ticks", "coalescing-log2", "coalescing-tick-inside", "coalescing-delay"},
        ),
        (
            "coalescing",
            {"timer_coalescing.encode_tolerance": "exact"},
            {"coalescing-log2", "coalescing-nothing"},
        ),
        ("coalescing", {"tick_100.timer_coalescing.keeps": "due"}, {"coalescing-tick-inside"}),
        ("coalescing-crowd", {"t_50.timer_coalescing.alignments": []}, {"coalescing-crowd"}),
        ("coalescing-crowd", {"timer_coalescing.keeps": "due"}, {"coalescing-crowd-ticks"}),
        ("coalescing-crowd", {"fine_250.timer_coalescing.alignments": []}, {"coalescing-crowd-resolution"}),
        (
            "coalescing-lock",
            {"timer_coalescing.alignments": []},
            {"coalescing-lock-tail", "coalescing-lock-p99"},
        ),
        (
            "coalescing-sleep",
            {"timer_coalescing.alignments": []},
            {f"coalescing-sleep-{name}" for name in ("wakes", "package", "gap", "power")},
        ),
    ],
)
def test_each_claim_fails_without_what_it_is_about(
    experiment: str, changes: dict[str, Any], fail: set[str]
) -> None:
    if experiment not in installed().experiment_files:
        pytest.skip("it shows the plugin together with one that is not installed")
    result = ntlab.run(experiment, set=changes)  # with all seeds: some are right on average only
    assert {found.claim.id for found in result.claims if not found.holds} == fail


# -- mistakes and machines --------------------------------------------------------------------------------


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="0 is no alignment"):
        TimerCoalescing(alignments=(Duration(0),))
    with pytest.raises(UserError, match="SetCoalescableTimer is not in ws2008r2: it came with Windows 8"):
        PeriodicTimers(function="SetCoalescableTimer").start(boot(1, [TimerCoalescing()]))
    with pytest.raises(UserError, match=r"timer 1 Timer0: a tolerance of 2 s .*at most the period"):
        PeriodicTimers(tolerance=Duration(2 * SECOND)).start(boot(1))
    with pytest.raises(UserError, match=r"timer_coalescing.timers: a clock resolution"):
        PeriodicTimers(resolution=Duration(20 * MILLISECOND)).start(boot(1))
    for period in ("25 days", "-1 s"):
        with pytest.raises(UserError):
            ntlab.run("coalescing", set={"workload.period": period})
    workload = PeriodicTimers()
    machine = boot(1)
    workload.start(machine)
    machine.run(SECOND)
    with pytest.raises(UserError, match="the run ends before the window"):
        workload.measure(machine)


@pytest.mark.skipif(not HWLOC.is_dir(), reason="the real descriptions are not here")
@pytest.mark.parametrize("file", sorted(HWLOC.glob("*.xml")), ids=lambda file: file.stem)
def test_it_runs_on_real_machines(file: Path) -> None:
    tables = load(str(file)).freeze()
    options: dict[str, Any] = {
        "timers": 2 * tables.processors,
        "on": "all",
        "phases": "even",
        "tolerance": 250 * MILLISECOND,
        "warm_up": SECOND,
        "window": SECOND,
    }
    before = measure(boot(plugins=[Ws2003()], tables=tables), **options)
    after = measure(
        boot(plugins=[Ws2003(), TimerCoalescing(encode_tolerance="exact")], tables=tables), **options
    )
    assert before["wakes"] == after["wakes"] == 64 * tables.processors
    assert before["expirations"] == after["expirations"] == 2 * tables.processors
    assert after["working_ticks"] == min(4, 2 * tables.processors)
    assert after["outside"] == after["beyond"] == 0
