"""Nothing of the baseline's scheduler is left, and what a scheduler must do is done."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from itertools import repeat
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ntlab
from ntlab import Duration, UserError
from ntlab.engine import REPORT
from ntlab.hooks import scheduling
from ntlab.machine import Acquire, Compute, Machine, Release, Request, Sleep
from ntlab.testing import boot
from ntlab_cfs import Cfs
from ntlab_cfs.workloads import Desk
from ntlab_ws2003 import Ws2003

MS = 1_000_000
DECISIONS = {
    name for name, spec in vars(scheduling).items() if hasattr(spec, "ntlab_spec") and hasattr(Ws2003, name)
}
"""Those of the scheduler's hooks that the baseline answers."""
EXPERIMENTS = ("cfs-shares", "cfs-turns", "cfs-response", "cfs-balance", "cfs-spread", "cfs-even")


def hog() -> Iterator[Request]:
    return repeat(Compute(1000 * MS))


def ends(machine: Machine) -> dict[str, int]:
    names = {r["tid"]: str(r["name"]) for r in machine.tracer.records("Thread/Start")}
    return {names[r["tid"]]: r.time for r in machine.tracer.records("Thread/End")}


# -- the baseline's decisions


def asked_of_the_baseline(monkeypatch: pytest.MonkeyPatch, *plugins: object) -> set[str]:
    """Which of the baseline's answers to the scheduler's hooks are asked for in a run that needs them all."""
    asked: set[str] = set()

    def noted(name: str, answer: Any) -> Any:
        @functools.wraps(answer)
        def note(*arguments: Any) -> Any:
            asked.add(name)
            return answer(*arguments)

        return note

    for name in DECISIONS:
        monkeypatch.setattr(Ws2003, name, noted(name, getattr(Ws2003, name)))
    machine = boot(4, [Ws2003(accounting="exact"), *plugins])
    Desk(hogs=(8, 10), users=6, increment=2, burst=Duration(20 * MS)).start(machine)
    process = machine.create_process("p")
    machine.create_thread(process, iter([Compute(MS)]), affinity=0b10)
    machine.create_thread(process, iter([Compute(MS), Sleep(10 * MS, 2), Compute(MS)]), priority=20)
    machine.run(10_000 * MS)
    return asked


def test_no_decision_of_the_baseline_is_in_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    # That a thread has ended everybody is told: the baseline then forgets what it never knew.
    assert asked_of_the_baseline(monkeypatch, Cfs()) == {"thread_exited"}


def test_without_the_plugin_all_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked_of_the_baseline(monkeypatch) == DECISIONS
    assert len(DECISIONS) == 8


@pytest.mark.parametrize("processors", [1, 4])
def test_the_baseline_makes_no_difference(processors: int) -> None:
    digests = []
    for others in ([], [Ws2003()], [Ws2003(quantum=Duration(31_250_000), boosts=False, steal=False)]):
        machine = boot(processors, [*others, Cfs()], trace=True, seed=3)
        Desk(hogs=(4, 8, 12), users=5, increment=2).start(machine)
        machine.run(500 * MS)
        digests.append(machine.tracer.digest())
    assert len(set(digests)) == 1


# -- real-time threads


def test_real_time_threads_run_before_all_others_and_in_turn() -> None:
    machine = boot(1, [Ws2003(), Cfs()], trace=True)
    process = machine.create_process("p")
    machine.create_thread(process, iter([Compute(10 * MS)]), name="fair")
    for name in "ab":
        machine.create_thread(process, iter([Compute(150 * MS)]), name=name, priority=20)
    machine.engine.at(
        30 * MS,
        lambda _: (
            machine.create_thread(process, iter([Compute(5 * MS)]), name="higher", priority=30) and None
        ),
    )
    machine.run()
    # Turns of 100 ms: a runs to 105 with an interruption, b to 205, then 50 of each.
    assert ends(machine) == {"higher": 35 * MS, "a": 255 * MS, "b": 305 * MS, "fair": 315 * MS}


def test_a_real_time_thread_takes_the_processor_of_the_lowest_priority() -> None:
    machine = boot(2, [Cfs()], trace=True)
    process = machine.create_process("p")
    machine.create_thread(process, iter([Compute(10 * MS)]), name="real", priority=20)
    machine.create_thread(process, iter([Compute(10 * MS)]), name="fair")
    machine.engine.at(
        1 * MS,
        lambda _: (
            machine.create_thread(process, iter([Compute(MS)]), name="late", priority=18, ideal=0) and None
        ),
    )
    machine.run()
    assert ends(machine) == {"late": 2 * MS, "real": 10 * MS, "fair": 11 * MS}


# -- where threads run


def test_new_threads_spread_by_weight() -> None:
    machine = boot(3, [Cfs()])
    process = machine.create_process("p")
    heavy = machine.create_thread(process, hog(), priority=12)
    light = [machine.create_thread(process, hog(), priority=8) for _ in range(4)]
    machine.run(MS)
    # 2.44 beside twice two of 1.
    assert heavy.last == 0
    assert sorted(thread.last for thread in light) == [1, 1, 2, 2]


def test_a_thread_stays_where_it_was_or_near() -> None:
    machine = boot(plugins=[Cfs()], tables=ntlab.topology("opteron-4s").freeze())
    process = machine.create_process("p")
    per_node = len(machine.tables.node_processors[0])
    places: list[int] = []

    def moves() -> Iterator[Request]:
        for _ in range(3):
            yield Compute(MS)
            yield Sleep(MS)
            places.append(thread.last)

    thread = machine.create_thread(process, moves(), ideal=per_node)
    machine.run(MS + MS // 2)
    machine.create_thread(process, hog(), ideal=per_node)
    machine.run(20 * MS)
    assert thread.last // per_node == 1
    assert thread.last != per_node


steps = st.tuples(st.sampled_from(["compute", "sleep", "hold"]), st.integers(0, 9000))


@pytest.mark.parametrize(("processors", "hogs"), [(2, 3), (3, 4), (4, 5), (4, 6), (4, 11)])
def test_equal_threads_have_equal_shares_of_processors_that_do_not_divide_by_them(
    processors: int, hogs: int
) -> None:
    machine = boot(processors, [Cfs()])
    process = machine.create_process("p")
    mine = [machine.create_thread(process, hog()) for _ in range(hogs)]
    machine.run(10_000 * MS)
    fair = 10_000 * MS * processors / hogs
    for thread in mine:
        assert machine.scheduler.run_time(thread) == pytest.approx(fair, rel=0.05)


def test_balancing_moves_nobody_where_he_may_not_run_or_was_better_off() -> None:
    machine = boot(3, [Cfs()])
    process = machine.create_process("p")
    bound = [machine.create_thread(process, hog(), affinity=1) for _ in range(3)]
    heavy = machine.create_thread(process, hog(), priority=15, affinity=6)
    light = machine.create_thread(process, hog(), affinity=6)
    machine.run(1000 * MS)
    run_time = machine.scheduler.run_time
    assert sum(map(run_time, bound)) == run_time(heavy) == run_time(light) == 1000 * MS
    assert not machine.scheduler.idle_mask


def test_balancing_costs_nothing_where_nobody_waits() -> None:
    machine = boot(4, [Cfs()])
    process = machine.create_process("p")
    for _ in range(4):
        machine.create_thread(process, hog())
    machine.run(20 * MS)
    before = machine.engine.events
    machine.run(900 * MS)
    assert machine.engine.events == before


threads = st.lists(
    st.tuples(
        st.integers(0, 20_000),
        st.integers(1, 20),
        st.integers(1, 15),
        st.lists(steps, min_size=1, max_size=5),
    ),
    min_size=1,
    max_size=10,
)
interrupts = st.lists(st.tuples(st.integers(0, 30_000), st.integers(0, 3), st.integers(1, 900)), max_size=5)


def play(processors: int, work: Any, disturbed: Any, *, hooks: Any = "direct", **options: Any) -> Machine:
    """Times in microseconds. Threads are (start, priority, affinity, steps)."""
    machine = boot(processors, [Ws2003(), Cfs(**options)], trace=True, hooks=hooks)
    process = machine.create_process("p")
    lock = machine.create_lock("l")

    def program(steps: list[tuple[str, int]]) -> Iterator[Request]:
        for what, time in steps:
            if what == "hold":
                yield Acquire(lock)
            yield Sleep(time * 1000, 1) if what == "sleep" else Compute(time * 1000)
            if what == "hold":
                yield Release(lock)

    def start(thread: Any) -> None:
        _, priority, affinity, steps = thread
        allowed = affinity & (1 << processors) - 1 or None
        machine.create_thread(process, program(steps), priority=priority, affinity=allowed)

    def disturb(disturbance: tuple[int, int, int]) -> None:
        _, index, length = disturbance
        machine.interrupts.interrupt(machine.processors[index % processors], length * 1000)

    for thread in work:
        machine.engine.at(thread[0] * 1000, start, thread)
    for disturbance in disturbed:
        machine.engine.at(disturbance[0] * 1000, disturb, disturbance)
    return machine


@settings(deadline=None)
@given(st.integers(1, 4), threads, interrupts)
def test_no_thread_is_lost_and_no_processor_idles_while_one_waits_for_it(
    processors: int, work: Any, disturbed: Any
) -> None:
    machine = play(processors, work, disturbed)
    scheduler = machine.scheduler

    def look(_: object) -> int | None:
        for thread in scheduler.ready_threads():
            assert not thread.affinity & scheduler.idle_mask
        for processor in machine.processors:
            timeline = processor.queue.levels[8]
            virtual_times = [timeline.accounts[t].virtual_time(t.run_time) for t in timeline]  # type: ignore[attr-defined]
            assert virtual_times == sorted(virtual_times)
            assert timeline.load == sum(timeline.accounts[t].weight for t in timeline)  # type: ignore[attr-defined]
        return 100_000 if machine.engine.now < 100 * MS else None

    machine.engine.at(0, look, None, REPORT)
    machine.run()
    assert len(ends(machine)) <= len(work)
    assert not machine.threads
    assert scheduler.idle_mask == scheduler.all_mask


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), threads, interrupts)
def test_runs_repeat_in_all_hook_modes(processors: int, work: Any, disturbed: Any) -> None:
    digests = set()
    for hooks in ("direct", "plain", "checked"):
        machine = play(processors, work, disturbed, hooks=hooks)
        machine.run()
        digests.add(machine.tracer.digest())
    assert len(digests) == 1


def test_threads_that_move_take_no_advantage_with_them() -> None:
    """A thread that is bound now here, now there: on each processor it has what its weight says, no more."""
    machine = boot(2, [Cfs(start_debit=False)])
    process = machine.create_process("p")
    rivals = [machine.create_thread(process, hog(), affinity=1 << i) for i in range(2)]
    machine.run(100 * MS)

    def wanders() -> Iterator[Request]:
        chance = random.Random(1)
        for _ in range(200):
            machine.scheduler.set_affinity(wanderer, 1 << chance.randrange(2))
            yield Sleep(0)
            yield Compute(5 * MS)

    wanderer = machine.create_thread(process, wanders())
    machine.run(2000 * MS)
    lost = 2 * 1900 * MS - sum(machine.scheduler.run_time(rival) - 100 * MS for rival in rivals)
    assert machine.scheduler.run_time(wanderer) == pytest.approx(lost, abs=MS)
    # Its rival of the moment has as much as it, but for the credit of each time it comes.
    assert 0.5 <= machine.scheduler.run_time(wanderer) / (1900 * MS) <= 0.5 + 3 / 8


# -- options and claims


def test_turns_longer_than_the_latency_are_refused() -> None:
    with pytest.raises(UserError, match=r"cfs\.granularity") as error:
        boot(1, [Cfs(latency=Duration(MS), granularity=Duration(2 * MS))])
    assert "at most cfs.latency" in str(error.value)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_claims(name: str) -> None:
    assert ntlab.run(name).holds
