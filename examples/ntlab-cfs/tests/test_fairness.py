"""Shares, turns and waits: against bounds from the rules, and exactly against a model that shares no code."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise, repeat
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlab import Duration
from ntlab.engine import REPORT
from ntlab.machine import Compute, Machine, Request, Sleep, Thread
from ntlab.testing import boot
from ntlab_cfs import Cfs

MS = 1_000_000
FOREVER = 3600 * 1000 * MS


def hog() -> Iterator[Request]:
    return repeat(Compute(FOREVER))


def weight(priority: int, step: float = 1.25) -> int:
    """1024, times the step for each priority above Normal."""
    return round(1024 * step ** (priority - 8))


def switches(machine: Machine) -> list[tuple[int, str]]:
    """(time, name of the new thread) for each context switch."""
    names = {r["tid"]: str(r["name"]) for r in machine.tracer.records("Thread/Start")}
    return [(r.time, names.get(r["new_tid"], "")) for r in machine.tracer.records("Thread/CSwitch")]


def run_times(machine: Machine) -> dict[str, int]:
    return {thread.name: machine.scheduler.run_time(thread) for thread in machine.threads.values()}


# -- turns of equal threads


@pytest.mark.parametrize("count", [2, 5, 8, 20])
def test_equal_threads_have_a_turn_each_in_the_latency_or_in_the_least_turns(count: int) -> None:
    machine = boot(1, [Cfs(start_debit=False)], trace=True)
    process = machine.create_process("p")
    for i in range(count):
        machine.create_thread(process, hog(), name=f"{i}")
    machine.run(1000 * MS)
    # The first thread is alone for no time at all: its turn is cut as the others come, to the least one.
    turn = max(6 * MS // count, 750_000)
    at = [time for time, _ in switches(machine)]
    order = [name for _, name in switches(machine)]
    assert {b - a for a, b in pairwise(at[1:])} <= {turn, turn + 1}
    for begin in range(len(order) - count):
        assert len({*order[begin : begin + count]}) == count
    assert all(b - a <= max(6 * MS, count * 750_000) for a, b in zip(at, at[count:], strict=False))


# -- shares

priorities = st.integers(1, 15)
options = st.fixed_dictionaries(
    {
        "latency": st.integers(4, 24).map(lambda ms: ms * MS),
        "granularity": st.integers(1, 4).map(lambda ms: ms * MS),
        "wakeup_granularity": st.integers(0, 3).map(lambda ms: ms * MS),
        "sleeper_credit": st.integers(0, 6).map(lambda ms: ms * MS),
        "start_debit": st.booleans(),
    }
)


def longest_turn(cfs: dict[str, int], mine: int, weights: list[int]) -> int:
    """The longest turn of one among these threads, any of which may be away: that with one other at least."""
    period = max(cfs["latency"], (len(weights) + 1) * cfs["granularity"])
    return max(cfs["granularity"], period * mine // (mine + min(weights)) + 1)


@settings(deadline=None)
@given(options, st.lists(priorities, min_size=2, max_size=6), st.integers(1, 200).map(lambda n: n * MS))
def test_shares_are_by_weight_within_a_turn(cfs: dict[str, Any], hogs: list[int], time: int) -> None:
    cfs["start_debit"] = False
    machine = boot(1, [Cfs(**cfs)])
    process = machine.create_process("p")
    for i, priority in enumerate(hogs):
        machine.create_thread(process, hog(), name=f"{i}", priority=priority)
    machine.run(time)
    weights = [weight(priority) for priority in hogs]
    ran = run_times(machine)
    assert sum(ran.values()) == time
    # Nobody is ahead of the one who had least by more than one turn of his own.
    turns = [longest_turn(cfs, w, weights) for w in weights]
    worst = max(Fraction(turn, w) for turn, w in zip(turns, weights, strict=True))
    for i, w in enumerate(weights):
        fluid = Fraction(time * w, sum(weights))
        assert abs(ran[f"{i}"] - fluid) <= worst * w + 1


step = st.tuples(st.sampled_from(["compute", "sleep"]), st.integers(1, 12_000).map(lambda us: us * 1000))


@settings(deadline=None)
@given(
    options,
    st.tuples(priorities, priorities),
    st.lists(st.tuples(priorities, st.lists(step, min_size=1, max_size=6)), max_size=4),
    st.integers(0, 100).map(lambda n: n * MS),
    st.integers(1, 100).map(lambda n: n * MS),
)
def test_two_busy_threads_share_by_weight_whatever_others_do(
    cfs: dict[str, Any],
    pair: tuple[int, int],
    others: list[tuple[int, list[tuple[str, int]]]],
    begin: int,
    length: int,
) -> None:
    """In any interval, since both want to run in all of it: the definition of fairness (Golestani 1994)."""
    machine = boot(1, [Cfs(**cfs)])
    process = machine.create_process("p")
    mine = [machine.create_thread(process, hog(), priority=priority) for priority in pair]

    def comes_and_goes(steps: list[tuple[str, int]]) -> Iterator[Request]:
        for _ in range(5):
            for what, time in steps:
                yield Compute(time) if what == "compute" else Sleep(time)

    for priority, steps in others:
        machine.create_thread(process, comes_and_goes(steps), priority=priority)
    machine.run(begin)
    before = [machine.scheduler.run_time(thread) for thread in mine]
    machine.run(begin + length)
    gained = [machine.scheduler.run_time(thread) - b for thread, b in zip(mine, before, strict=True)]
    weights = [weight(priority) for priority in pair]
    every = [*weights, *(weight(priority) for priority, _ in others)]
    bound = sum(Fraction(longest_turn(cfs, w, every), w) for w in weights)
    if cfs["start_debit"]:
        # They did not start even.
        bound += max(Fraction(longest_turn(cfs, w, every), w) for w in weights)
    assert abs(Fraction(gained[0], weights[0]) - Fraction(gained[1], weights[1])) <= bound


# -- against a model


class Model:
    """Weighted fair queueing of threads that never wait, on one processor, written down as the rules say it.

    Time goes from decision to decision; virtual times are fractions and of all threads; nobody is in a queue.
    """

    def __init__(self, cfs: dict[str, int]) -> None:
        self.cfs = cfs
        self.schedule: list[tuple[int, str]] = []

    def run(self, arrivals: list[tuple[int, int]], until: int) -> list[tuple[int, str]]:
        """`arrivals` are (time, priority), by time. Returns (time, thread) for each switch."""
        cfs = self.cfs
        weights = [weight(priority, 2) for _, priority in arrivals]
        served: dict[int, Fraction] = {}  # virtual time of those that have come
        waits_since: dict[int, int] = {}  # a number that orders those with the same virtual time
        moment, now, current, ran, turn = 0, 0, -1, 0, 0
        floor = Fraction(0)
        todo = list(range(len(arrivals)))

        def share(who: int, beside: set[int]) -> int:
            everybody = beside | {who}
            period = max(cfs["latency"], len(everybody) * cfs["granularity"])
            return max(cfs["granularity"], period * weights[who] // sum(weights[i] for i in everybody))

        def pick() -> None:
            nonlocal current, ran, turn
            best = min(served, key=lambda i: (served[i], waits_since[i]))
            if best != current:
                self.schedule.append((now, f"{best}"))
            current, ran = best, 0
            turn = share(best, set(served)) if len(served) > 1 else until + 1

        while True:
            ends = now + turn - ran if current >= 0 else until + 1
            comes = arrivals[todo[0]][0] if todo else until + 1
            then = min(ends, comes, until)
            if current >= 0:
                served[current] += Fraction((then - now) * 1024, weights[current])
                ran += then - now
            now = then
            if now == until:
                return self.schedule
            moment += 1
            if now == ends:
                waits_since[current] = moment
                pick()
                continue
            new = todo.pop(0)
            floor = max([floor, min(served.values())]) if served else floor
            served[new] = floor
            if cfs["start_debit"]:
                served[new] += Fraction(share(new, set(served)) * 1024, weights[new])
            waits_since[new] = moment
            if current < 0:
                pick()
            elif served[current] - served[new] > Fraction(cfs["wakeup_granularity"] * 1024, weights[new]):
                waits_since[current] = moment
                pick()
            else:
                turn = min(turn, max(share(current, set(served)), ran + cfs["granularity"]))


arrival = st.tuples(st.integers(0, 40).map(lambda ms: ms * MS + 1), priorities)


@settings(deadline=None, max_examples=200)
@given(options, st.lists(arrival, min_size=1, max_size=6), st.integers(1, 120).map(lambda ms: ms * MS))
def test_the_schedule_is_that_of_a_brute_force_model(
    cfs: dict[str, Any], arrivals: list[tuple[int, int]], until: int
) -> None:
    arrivals.sort(key=lambda arrival: arrival[0])
    # With weights that are powers of 2 virtual times have no rounding, which would decide between equals.
    machine = boot(1, [Cfs(weight_step=2, **cfs)], trace=True)
    process = machine.create_process("p")

    def arrive(i: int) -> None:
        machine.create_thread(process, hog(), name=f"{i}", priority=arrivals[i][1])

    for i, (time, _) in enumerate(arrivals):
        machine.engine.at(time, arrive, i, REPORT)
    machine.run(until)
    expected = Model(cfs).run(arrivals, until)
    assert [entry for entry in switches(machine) if entry[0] < until] == expected


# -- waits


def answers(machine: Machine, waits: list[int], *, sleep: int, work: int) -> Iterator[Request]:
    """A program that sleeps and answers fifty times, and notes how long it waited for the processor."""
    for i in range(50):
        due = machine.engine.now + sleep + i * 12345
        yield Sleep(sleep + i * 12345)
        waits.append(machine.engine.now - due)
        yield Compute(work)


@pytest.mark.parametrize("hogs", [1, 4, 20])
def test_who_waited_long_enough_runs_at_once(hogs: int) -> None:
    machine = boot(1, [Cfs()])
    process = machine.create_process("p")
    for _ in range(hogs):
        machine.create_thread(process, hog())
    waits: list[int] = []
    machine.create_thread(process, answers(machine, waits, sleep=100 * MS, work=MS))
    machine.run(8000 * MS)
    assert waits == [0] * 50


def test_without_credit_nobody_waits_longer_than_one_turn_of_each() -> None:
    hogs, turn = 5, 1_200_000
    machine = boot(
        1, [Cfs(sleeper_credit=Duration(0), wakeup_granularity=Duration(FOREVER), start_debit=False)]
    )
    process = machine.create_process("p")
    for _ in range(hogs):
        machine.create_thread(process, hog())
    waits: list[int] = []
    machine.create_thread(process, answers(machine, waits, sleep=50 * MS, work=MS // 10))
    machine.run(4000 * MS)
    assert len(waits) == 50
    assert 0 < max(waits) <= hogs * turn


def test_sleeping_saves_up_the_credit_and_no_more() -> None:
    """After a second of sleep it is 3 ms ahead, and no more; then both run in turns of 3 ms."""
    machine = boot(1, [Cfs(start_debit=False)], trace=True)
    process = machine.create_process("p")
    machine.create_thread(process, hog(), name="busy")

    def sleeps() -> Iterator[Request]:
        yield Sleep(1000 * MS)
        yield Compute(FOREVER)

    machine.create_thread(process, sleeps(), name="sleeper")
    machine.run(2000 * MS)
    ran = run_times(machine)
    woke = 1003 * MS  # it was its turn at 3 ms, and it slept
    assert 0 <= ran["sleeper"] - (ran["busy"] - woke) <= (3 + 3) * MS
    assert (woke, "sleeper") in switches(machine)


def test_starting_threads_gains_nothing() -> None:
    """A thread that hands on to a new one each millisecond has not more than the one it competes with."""
    shares = []
    for debit in (True, False):
        machine = boot(1, [Cfs(start_debit=debit)])
        process = machine.create_process("p")
        rival = machine.create_thread(process, hog())

        def link(machine: Machine = machine) -> Iterator[Request]:
            yield Compute(MS)
            machine.create_thread(machine.processes[8], link(machine))

        machine.create_thread(process, link())
        machine.run(1000 * MS)
        shares.append(machine.scheduler.run_time(rival) / (1000 * MS))
    assert shares[0] >= 0.5
    assert shares[1] < shares[0]


def test_a_thread_alone_costs_no_turns() -> None:
    machine = boot(1, [Cfs()], trace=True)
    thread: Thread = machine.create_thread(machine.create_process("p"), hog())
    machine.run(60_000 * MS)
    assert machine.scheduler.run_time(thread) == 60_000 * MS
    assert len(switches(machine)) == 1
