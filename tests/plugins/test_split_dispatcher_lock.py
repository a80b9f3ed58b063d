"""R2's split of the dispatcher lock: users against mean value analysis, and what skew does to it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ntlab
from judging import failing
from ntlab.errors import UserError
from ntlab.machine import Machine
from ntlab.quantities import MICROSECOND, MILLISECOND, Duration
from ntlab.testing import boot, conformance
from ntlab_split_dispatcher_lock import SplitDispatcherLock
from ntlab_timer_expiration import TimerExpiration
from ntlab_timer_expiration.workloads import Saturated
from ntlab_ws2003 import Ws2003

US, MS = MICROSECOND, MILLISECOND


def served(
    processors: int, *plugins: object, time: int = 8 * MS, seed: int = 1, **options: Any
) -> tuple[Machine, dict[str, float]]:
    machine = boot(
        processors,
        [Ws2003(object_hold=Duration(4 * US), timer_time=Duration(8 * US)), TimerExpiration(), *plugins],
        seed=seed,
    )
    workload = Saturated(**options)
    workload.start(machine)
    machine.run(time)
    machine.check()
    return machine, {metric.name: metric.value for metric in workload.measure(machine)}


def users_by_mva(processors: int, locks: int) -> float:
    """Users, each with 400 operations, 1.6 ms of locks and 10.48 ms elsewhere: exact for one lock."""
    hold, think, queue, rate = 4e-6, 10.48e-3 / 400, 0.0, 0.0
    for customers in range(1, processors + 1):
        response = hold * (1 + queue / locks)
        rate = customers / (think + response)
        queue = rate * response
    return rate / 400


def test_the_sheets_table() -> None:
    table = {16: (624, 1301, 1301), 64: (625, 4754, 5197), 128: (625, 7598, 10393), 256: (625, 9141, 20783)}
    for p, users in table.items():
        assert [users_by_mva(p, k) for k in (1, 16, p)] == pytest.approx(users, abs=0.6)


@pytest.mark.parametrize(("processors", "locks"), [(8, 2), (16, 16), (64, 16), (64, 64), (128, 16)])
def test_users_are_those_of_the_table(processors: int, locks: int) -> None:
    _, found = served(processors, SplitDispatcherLock(locks=locks))
    assert found["users"] == pytest.approx(users_by_mva(processors, locks), rel=0.03)


def test_without_a_number_there_are_as_many_locks_as_processors() -> None:
    machine, _ = served(6, SplitDispatcherLock())
    names = [lock.name for lock in machine.locks]
    assert sorted(name for name in names if name.startswith("objects")) == [f"objects {i}" for i in range(6)]
    assert sorted(name for name in names if name.startswith("timers")) == [f"timers of {i}" for i in range(6)]
    assert len(names) == 12


def test_a_timer_takes_its_processors_lock_though_a_thread_waits_for_it() -> None:
    machine, found = served(8, SplitDispatcherLock(), waited_for=1.0)
    timers = [lock for lock in machine.locks if lock.name.startswith("timers")]
    assert all(lock.acquisitions > 10 and not lock.contentions for lock in timers)
    assert found["spinning_share"] < 0.02


def test_one_lock_for_all_objects_is_the_dispatcher_lock_again() -> None:
    _, one = served(32, SplitDispatcherLock(locks=1))
    _, without = served(32)
    assert one["users"] == pytest.approx(without["users"], rel=0.01)


@given(
    skews=st.tuples(st.floats(0, 3), st.floats(0, 3))
    .map(sorted)
    .filter(lambda pair: pair[1] - pair[0] > 0.5),
    locks=st.sampled_from([4, 16, 32]),
)
@settings(max_examples=8)
def test_more_skew_never_serves_more(skews: list[float], locks: int) -> None:
    even, steep = (
        served(24, SplitDispatcherLock(locks=locks), skew=skew, time=4 * MS, hold_law="exact")[1]["users"]
        for skew in skews
    )
    assert steep < 1.05 * even


@pytest.mark.parametrize(
    ("experiment", "claims"),
    [("", {"-16", "-256", "-spinning"}), ("-skew", {"-skew"})],
    ids=["users", "skew"],
)
def test_with_one_lock_nothing_is_left_to_claim(experiment: str, claims: set[str]) -> None:
    found = failing(f"split-dispatcher-lock{experiment}", {"split_dispatcher_lock.locks": 1})
    assert found == {f"split-dispatcher-lock{claim}" for claim in claims}


@pytest.mark.parametrize("value", [-1, "many"])
def test_fewer_locks_than_none_are_refused(value: object) -> None:
    with pytest.raises(UserError, match="locks"):
        ntlab.run("split-dispatcher-lock", set={"split_dispatcher_lock.locks": value}, seeds=1)


test_conformance = conformance("split_dispatcher_lock")
