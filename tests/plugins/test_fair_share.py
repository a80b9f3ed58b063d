"""P9: shares against water filling (scheduling facts 10 and 14.10), the rules one by one, and the claims."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judging import failing
from ntlab.engine import REPORT
from ntlab.errors import UserError
from ntlab.hooks import hookimpl
from ntlab.lab.registry import installed
from ntlab.machine import Compute, Machine, Request, Sleep
from ntlab.plugin import plugin
from ntlab.quantities import MICROSECOND, MILLISECOND, SECOND
from ntlab.testing import boot, conformance
from ntlab_fair_share import FairShare, Sessions, water_filling
from ntlab_fair_share.plugin import CPU_RATE_CONTROL
from ntlab_ws2003 import Ws2003

INTERVAL = 150 * MILLISECOND
RUN = 15_625_000


# -- the oracle


@pytest.mark.parametrize(
    ("capacity", "demands", "weights", "gold"),
    [
        (1, (0.1, 0.9, 0.9), (5, 5, 5), (0.1, 0.45, 0.45)),
        (4, (0.5, 4, 4), (5, 5, 9), (0.5, 1.25, 2.25)),
        (1, (1, 1, 1), (9, 5, 1), (0.6, 1 / 3, 1 / 15)),
    ],
)
def test_water_filling_gold(
    capacity: float, demands: tuple[float, ...], weights: tuple[int, ...], gold: tuple[float, ...]
) -> None:
    assert water_filling(capacity, demands, weights) == pytest.approx(gold)


@given(
    st.integers(1, 8),
    st.lists(st.tuples(st.floats(0, 5), st.integers(1, 9)), min_size=1, max_size=6),
)
def test_water_filling_is_the_fair_point(capacity: int, wants: list[tuple[float, int]]) -> None:
    """What defines it: all is given out, and whoever is not content has the most by weight."""
    demands, weights = zip(*wants, strict=True)
    shares = water_filling(capacity, demands, weights)
    assert sum(shares) == pytest.approx(min(capacity, sum(demands)))
    highest = max(share / weight for share, weight in zip(shares, weights, strict=True))
    for share, demand, weight in zip(shares, demands, weights, strict=True):
        assert share <= demand + 1e-9
        assert share >= demand - 1e-9 or share / weight == pytest.approx(highest)


# -- shares


def metrics(machine: Machine, workload: Sessions) -> dict[str, float]:
    return {metric.name: metric.value for metric in workload.measure(machine)}


def measure(
    processors: int, plugins: list[object], duration: int = 30 * SECOND, **options: Any
) -> tuple[dict[str, float], Machine]:
    machine = boot(processors, plugins, seed=5, trace=True)
    workload = Sessions(**options)
    workload.start(machine)
    machine.run(duration)
    return metrics(machine, workload), machine


@pytest.mark.parametrize("refill", ["interval", "all_exhausted"])
@pytest.mark.parametrize(
    ("processors", "options", "gold"),
    [
        (1, {"threads": (1, 9)}, (0.5, 0.5)),
        (1, {"threads": (1, 1, 1), "weights": (9, 5, 1)}, (0.6, 1 / 3, 1 / 15)),
        (1, {"threads": (1, 1, 1), "demands": (0.1, 1.0, 1.0)}, (0.1, 0.45, 0.45)),
        (1, {"threads": (1, 2, 3), "priorities": (13, 8, 4)}, (1 / 3, 1 / 3, 1 / 3)),
        (
            4,
            {"threads": (4, 4, 4), "demands": (0.5, 4.0, 4.0), "weights": (5, 5, 9)},
            (0.125, 1.25 / 4, 2.25 / 4),
        ),
    ],
)
def test_shares_are_those_of_water_filling(
    refill: str, processors: int, options: dict[str, Any], gold: tuple[float, ...]
) -> None:
    got, _ = measure(processors, [Ws2003(), FairShare(refill=refill)], **options)
    # 14.10: per interval the error may be one idle-only run; over 200 intervals it does not add up.
    tolerance = 0.003
    assert [got[f"share_{i}"] for i in range(1, len(gold) + 1)] == pytest.approx(gold, abs=tolerance)
    assert got["idle"] == pytest.approx(0, abs=1e-12)
    assert got["unfairness"] <= tolerance


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 15)), min_size=1, max_size=4),
    st.sampled_from(["interval", "all_exhausted"]),
)
def test_greedy_sessions_get_their_weight_in_every_interval(
    sessions: list[tuple[int, int, int]], refill: str
) -> None:
    threads, weights, priorities = zip(*sessions, strict=True)
    machine = boot(1, [Ws2003(), FairShare(refill=refill)])
    Sessions(threads=threads, weights=weights, priorities=priorities).start(machine)
    total = sum(weights)
    seen: list[list[int]] = []

    def look(_: object) -> int:
        used = dict.fromkeys(machine.sessions, 0)
        for thread in machine.threads.values():
            used[thread.process.session.id] += machine.scheduler.run_time(thread)
        seen.append(list(used.values()))
        return INTERVAL

    machine.engine.at(INTERVAL, look, None, REPORT)
    machine.run(20 * INTERVAL)
    assert len(seen) == 20
    for k, used in enumerate(seen, 1):
        assert sum(used) == k * INTERVAL
        for got, weight in zip(used, weights, strict=True):
            # Exact but for the rounding of a share to whole ns.
            assert abs(got - k * INTERVAL * weight / total) <= k * len(weights)


@pytest.mark.parametrize("weights", [(5, 5, 5), (9, 2, 4)])
def test_time_that_nobody_wants_is_borrowed_by_weight_within_one_run(weights: tuple[int, ...]) -> None:
    """A session that has no threads counts in the sum of weights; the others take turns at its share."""
    machine = boot(1, [Ws2003(), FairShare()])
    Sessions(threads=(2, 3), weights=weights[:2]).start(machine)
    idle = machine.create_session(3, weights[2])
    machine.create_thread(machine.create_process("idle", session=idle), iter([Sleep(SECOND * 3600)]))
    mine = [t for t in machine.threads.values() if t.process.session.id == 1]
    share = weights[0] / (weights[0] + weights[1])
    longest = 0.0
    for k in range(1, 200):
        machine.run(k * INTERVAL)
        used = sum(machine.scheduler.run_time(thread) for thread in mine)
        longest = max(longest, abs(used - k * INTERVAL * share))
    assert 0 < longest <= RUN


def test_without_idle_only_runs_what_a_session_leaves_is_lost() -> None:
    options = {"threads": (1, 1, 1), "demands": (0.1, 1.0, 1.0)}
    strict, _ = measure(1, [Ws2003(), FairShare(idle_only=False)], **options)
    assert strict["idle"] == pytest.approx(1 - 0.1 - 2 / 3, abs=1e-3)
    assert strict["share_2"] == strict["share_3"] == pytest.approx(1 / 3, abs=1e-6)


@plugin(name="apart", summary="An idle processor takes no thread from another.", release="ws2003")
class Apart:
    @hookimpl
    def choose_thread(self) -> Literal[False]:
        return False


def test_where_no_processor_takes_from_another_one_time_is_lent_still() -> None:
    """Not to take a thread from another queue is an answer, too."""
    options = {"threads": (1, 1, 1), "demands": (0.1, 1.0, 1.0)}
    alone, _ = measure(1, [Ws2003(), FairShare()], **options)
    beside, _ = measure(1, [Ws2003(), Apart(), FairShare()], **options)
    assert beside == alone
    assert beside["idle"] == 0


def test_a_thread_alone_in_need_runs_at_once_even_without_share() -> None:
    """It wakes on an idle processor, its share used up, and nobody else wants to run."""
    for refill in ("interval", "all_exhausted"):
        machine = boot(1, [Ws2003(), FairShare(refill=refill)])
        alone, absent = machine.create_session(1), machine.create_session(2)

        def program() -> Iterator[Request]:
            yield Compute(100 * MILLISECOND)
            yield Sleep(10 * MILLISECOND)
            yield Compute(20 * MILLISECOND)

        machine.create_thread(machine.create_process("absent", session=absent), iter([Sleep(SECOND)]))
        thread = machine.create_thread(machine.create_process("alone", session=alone), program())
        machine.run(130 * MILLISECOND)
        assert thread.id not in machine.threads, refill


def test_services_are_not_limited() -> None:
    machine = boot(1, [Ws2003(), FairShare()])
    services = machine.create_process("services")
    Sessions(threads=(1,)).start(machine)
    service = machine.create_thread(services, iter([Compute(600 * SECOND)]), priority=9)
    machine.run(3 * SECOND)
    assert services.session.id == 0
    assert machine.scheduler.run_time(service) == 3 * SECOND


def test_a_session_waits_at_most_for_two_intervals_of_the_others() -> None:
    """Its share may come first in one interval and last in the next."""
    _, machine = measure(1, [Ws2003(), FairShare()], threads=(1, 9), duration=30 * SECOND)
    one = min(machine.threads)
    gaps = []
    left = 0
    for record in machine.tracer.records("Thread/CSwitch"):
        if record["new_tid"] == one:
            gaps.append(record.time - left)
        elif record["old_tid"] == one:
            left = record.time
    assert 0 < max(gaps) <= 2 * INTERVAL // 2


def test_a_session_bound_to_one_processor_has_its_share_of_that_one_only() -> None:
    got, _ = measure(4, [Ws2003(), FairShare()], threads=(4, 4), pinned=(0, -1))
    assert 0.125 <= got["share_1"] < 0.14  # half of one of four; fair would be a quarter of all
    assert got["unfairness"] > 0.1
    assert got["idle"] == pytest.approx(0, abs=1e-12)


def test_a_session_that_comes_later_makes_running_threads_stop_earlier() -> None:
    machine = boot(1, [Ws2003(quantum=1500 * MILLISECOND, tick=15 * MILLISECOND), FairShare()])
    for number, start in ((1, 0), (2, 30 * MILLISECOND)):
        session = machine.create_session(number)
        process = machine.create_process(f"{number}", session=session)
        machine.engine.at(
            start, lambda p: machine.create_thread(p, iter([Compute(SECOND)])) and None, process
        )
    machine.run(INTERVAL)
    used = {t.process.session.id: machine.scheduler.run_time(t) for t in machine.threads.values()}
    assert used == {1: INTERVAL // 2, 2: INTERVAL // 2}


def test_stopping_a_thread_and_letting_it_go_on_are_operations_under_the_dispatcher_lock() -> None:
    hold = 4 * MICROSECOND
    duration = 3 * INTERVAL - MILLISECOND
    _, machine = measure(1, [Ws2003(object_hold=hold), FairShare()], duration=duration, threads=(2, 1, 1))
    stopped = len(list(machine.tracer.records("Exhausted")))
    # One that gets an idle-only run goes on at once; the others do at the end of the interval, by a DPC.
    resumed = sum(r.time % INTERVAL == 0 for r in machine.tracer.records("Resume"))
    (lock,) = machine.locks
    assert resumed >= 4
    assert lock.acquisitions == stopped + resumed
    assert machine.processors[0].dpc_time == lock.hold_time == lock.acquisitions * hold


# -- what is seen


def test_records_tell_the_story() -> None:
    _, machine = measure(
        1, [Ws2003(), FairShare()], duration=INTERVAL, threads=(1, 1, 1), demands=(0.0, 1.0, 1.0)
    )
    third = INTERVAL // 3
    told = [
        (r.time, r.name, r.fields.get("session"))
        for r in machine.tracer.records("Exhausted", "IdleOnlyRun", "Resume", "IntervalStart")
    ]
    expected: list[tuple[int, str, int | None]] = [
        (third, "Exhausted", 2),
        (2 * third, "Exhausted", 3),
        (2 * third, "IdleOnlyRun", 2),
        (2 * third, "Resume", 2),
    ]
    for k, (ends, begins) in enumerate([(2, 3), (3, 2), (2, 3)], 1):
        now = 2 * third + k * RUN
        expected += [(now, "Exhausted", ends), (now, "IdleOnlyRun", begins), (now, "Resume", begins)]
    expected += [(INTERVAL, "IntervalStart", None), (INTERVAL, "Resume", 2)]
    assert told == expected
    reasons = {r["old_wait_reason"] for r in machine.tracer.records("Thread/CSwitch") if r["old_state"] == 8}
    assert reasons == {CPU_RATE_CONTROL}


@pytest.mark.parametrize("processors", [4, 64])
def test_the_cost_is_that_of_the_processors_that_run(processors: int) -> None:
    machine = boot(processors, [Ws2003(), FairShare()])
    Sessions(threads=(2, 2), pinned=(0,)).start(machine)
    machine.run(30 * SECOND)
    alone = boot(1, [Ws2003(), FairShare()])
    Sessions(threads=(2, 2)).start(alone)
    alone.run(30 * SECOND)
    assert machine.engine.events == alone.engine.events


# -- beside core parking


@pytest.mark.skipif("core_parking" not in installed().names(), reason="the experiment needs core_parking")
def test_a_bound_session_gains_by_parking_only_if_there_is_any_and_by_fair_shares_only_with_them() -> None:
    for change in ({"core_parking.min_cores": "100 %"}, {"fair_share.interval": "1000 h"}):
        assert failing("fair-share-parking", change) == {"fair-share-parking"}


# -- under the dispatcher lock


@pytest.mark.parametrize("experiment", ["fair-share-lock", "fair-share-users"])
@pytest.mark.parametrize("change", [{"fair_share.interval": "1000 h"}, {"ws2003.object_hold": "0 ns"}])
def test_the_lock_is_held_longer_only_by_fair_shares_and_only_if_operations_hold_it(
    experiment: str, change: dict[str, Any]
) -> None:
    if experiment not in installed().experiment_files:
        pytest.skip("it needs plugins that are not installed")
    assert failing(experiment, change) == {experiment}


# -- mistakes


@pytest.mark.parametrize(
    "options",
    [
        {"weights": (0,)},
        {"weights": (10,)},
        {"threads": (0,)},
        {"threads": (1, 2), "weights": (1, 2, 3)},
        {"priorities": (16,)},
        {"pinned": (1,)},
        {"demands": (-0.5,)},
    ],
)
def test_impossible_sessions_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"fair_share.sessions.{list(options)[-1]}"):
        Sessions(**options).start(boot(1))


# -- what every plugin keeps

test_conformance = conformance(
    "fair_share", idle={"hardware_changed": "processors come and go in the experiments of others"}
)
