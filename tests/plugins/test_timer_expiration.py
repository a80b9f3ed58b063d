"""P1: how many users a lock allows, against mean value analysis and bounds; convoys; mistakes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ntlab
from judging import failing
from ntlab.errors import UserError
from ntlab.lab.registry import installed
from ntlab.lab.statistics import estimate, t_quantile
from ntlab.machine import NEVER_NOTIFY, Machine
from ntlab.quantities import MICROSECOND, MILLISECOND, SECOND, Duration, Share
from ntlab.testing import boot, conformance
from ntlab.topology import Tables
from ntlab_timer_expiration import TimerExpiration
from ntlab_timer_expiration.workloads import Saturated, Sessions, Virtual
from ntlab_ws2003 import Ws2003

US, MS = MICROSECOND, MILLISECOND
HWLOC = Path(__file__).parents[3] / "shared" / "data" / "hwloc"


def measured(
    workload: Saturated | Sessions,
    processors: int,
    *plugins: object,
    time: int = 40 * MS,
    seed: int = 1,
    tables: Tables | None = None,
    object_hold: int = 4 * US,
    timer_time: int = 8 * US,
    **options: Any,
) -> dict[str, float]:
    """What a machine with 2003's rules and some plugins makes of a workload."""
    baseline = Ws2003(object_hold=Duration(object_hold), timer_time=Duration(timer_time), **options)
    machine = boot(processors, [baseline, *plugins], seed=seed, tables=tables)
    workload.start(machine)
    machine.run(time)
    machine.stop()
    machine.check()
    return {metric.name: metric.value for metric in workload.measure(machine)}


# -- mean value analysis -----------------------------------------------------------------------------


def closed_network(processors: int, think: float, hold: float, locks: int = 1) -> float:
    """Throughput of so many customers that think and then queue at one of equal locks, by exact MVA."""
    queue = 0.0
    for customers in range(1, processors + 1):
        response = hold * (1 + queue / locks)
        rate = customers / (think + response)
        queue = rate * response
    return rate


def users_by_mva(processors: int, inside: float, outside: float, operations: float) -> float:
    """Users, of whom each wants that many seconds of work inside and outside of the lock in a second."""
    return closed_network(processors, outside / operations, inside / operations) / operations


def test_the_sheets_golden_values() -> None:
    rates = [closed_network(p, 40e-6, 5e-6) for p in (4, 8, 16)]
    assert [round(rate) for rate in rates] == [85073, 152886, 199094]
    table = [users_by_mva(p, 2080e-6, 10e-3, 460) for p in (1, 2, 4, 8, 16, 32)]
    assert [round(users, 1) for users in table] == [82.8, 160.8, 296.7, 451.3, 480.8, 480.8]
    after = [users_by_mva(p, 1600e-6, 10.48e-3, 400) for p in (1, 2, 4, 8, 16, 32)]
    assert [round(users, 1) for users in after] == [82.8, 162.7, 310.7, 529.4, 624.5, 625.0]


@pytest.mark.parametrize(("processors", "golden"), [(4, 85073), (8, 152886), (16, 199094)])
def test_the_simulated_lock_is_that_of_mean_value_analysis(processors: int, golden: int) -> None:
    rates = []
    for seed in range(5):
        workload = Saturated(work=Duration(40 * MS), operations=1000, expirations=0)
        found = measured(workload, processors, object_hold=5 * US, seed=seed, time=62 * MS)
        rates.append(found["operation_rate"])
    mean = sum(rates) / len(rates)
    deviation = math.sqrt(sum((rate - mean) ** 2 for rate in rates) / (len(rates) - 1))
    half = t_quantile(len(rates) - 1, 0.99) * deviation / math.sqrt(len(rates))
    assert abs(mean - golden) < half < 0.025 * golden


@pytest.mark.parametrize(("processors", "golden"), [(4, 86691), (8, 160129), (16, 199977)])
def test_holds_that_are_all_the_same_allow_more(processors: int, golden: int) -> None:
    workload = Saturated(work=Duration(40 * MS), operations=1000, expirations=0, hold_law="exact")
    found = measured(workload, processors, object_hold=5 * US, time=202 * MS)
    assert found["operation_rate"] == pytest.approx(golden, rel=0.012)


@pytest.mark.parametrize("processors", [1, 2, 4, 8, 16])
def test_users_before_and_after_are_those_of_the_table(processors: int) -> None:
    before, after = (
        estimate([measured(Saturated(), processors, *plugins(), seed=seed)["users"] for seed in range(3)])
        for plugins in (tuple, lambda: (TimerExpiration(),))
    )
    # Holds of two lengths vary a little more than exponential ones, and the timers' locks cost a little.
    assert before.mean == pytest.approx(users_by_mva(processors, 2080e-6, 10e-3, 460), rel=0.025)
    assert after.mean == pytest.approx(users_by_mva(processors, 1600e-6, 10.48e-3, 400), rel=0.025)


# -- bounds and laws ---------------------------------------------------------------------------------

PROCESSORS = st.integers(1, 12)
HOLD = st.integers(1, 20).map(lambda us: us * US)


@given(
    processors=PROCESSORS,
    hold=HOLD,
    timer=HOLD,
    expirations=st.integers(0, 200),
    f=st.sampled_from([0, 0.5, 1]),
)
@settings(max_examples=20)
def test_no_more_users_than_processors_and_lock_allow(
    processors: int, hold: int, timer: int, expirations: int, f: float
) -> None:
    rate = 400 + expirations
    for plugins in ((), (TimerExpiration(timer_locks=64),)):
        workload = Saturated(
            expirations=expirations,
            waited_for=Share(f),
            hold_law="exact",
            work_law="exact",
            warm_up=Duration(0),
        )
        found = measured(workload, processors, *plugins, time=8 * MS, object_hold=hold, timer_time=timer)
        inside = 400 * hold + expirations * timer
        locked = inside if not plugins else 400 * hold
        total = 10 * MS + inside
        # What is under way at the end is not counted, or has already been served: an operation a processor.
        slack = 2 * processors * SECOND / (8 * MS) / rate
        assert found["users"] <= min(processors * SECOND / total, SECOND / locked) + slack
        assert 0 <= found["spinning_share"] < 1


@given(seed=st.integers(0, 1000), processors=PROCESSORS)
@settings(max_examples=20)
def test_where_threads_wait_for_all_timers_nothing_changes(seed: int, processors: int) -> None:
    def found(*plugins: object) -> dict[str, float]:
        return measured(Saturated(waited_for=Share(1)), processors, *plugins, time=4 * MS, seed=seed)

    assert found(TimerExpiration()) == found()


@given(seed=st.integers(0, 1000))
@settings(max_examples=20)
def test_one_processor_gains_nothing(seed: int) -> None:
    before = measured(Saturated(), 1, seed=seed, time=10 * MS)
    after = measured(Saturated(), 1, TimerExpiration(), seed=seed, time=10 * MS)
    assert before["users"] == after["users"]
    assert before["spinning_share"] == after["spinning_share"] == 0


def test_all_times_ten_times_as_long_are_a_tenth_of_the_users() -> None:
    def users(scale: int) -> float:
        workload = Saturated(
            work=Duration(10 * MS * scale),
            hold_law="exact",
            work_law="exact",
            warm_up=Duration(2 * MS * scale),
        )
        return measured(
            workload, 8, time=20 * MS * scale, object_hold=4 * US * scale, timer_time=8 * US * scale
        )["users"]

    assert users(10) == pytest.approx(users(1) / 10, rel=1e-3)  # the work between two operations is rounded


def test_the_gain_saturates_where_the_formula_says() -> None:
    """(1 - f) t h_t / (s h_s + f t h_t), for other parameters than the experiments'."""

    def users(f: float, *plugins: object) -> float:
        workload = Saturated(operations=200, expirations=100, waited_for=Share(f), hold_law="exact")
        return measured(workload, 40, *plugins, object_hold=10 * US, timer_time=5 * US)["users"]

    for f in (0, 0.25, 0.75):
        gain = users(f, TimerExpiration()) / users(f) - 1
        assert gain == pytest.approx((1 - f) * 500 / (2000 + f * 500), abs=0.015)


def test_without_a_lock_there_are_as_many_users_as_processors_have_time_for() -> None:
    found = measured(Saturated(work_law="exact", hold_law="exact"), 16, object_hold=0)
    assert found["users"] == pytest.approx(16 / 10.48e-3, rel=0.01)
    assert found["lock_utilisation"] == found["spinning_share"] == 0


def test_littles_law_in_the_lock_of_a_terminal_server() -> None:
    """Waiting over all acquisitions is the queue over all time, to the nanosecond."""
    machine = boot(8, [Ws2003(object_hold=Duration(4 * US), timer_time=Duration(8 * US))], trace=True)
    Saturated(ticking=200).start(machine)
    area = 0
    while (then := machine.engine.next_time()) is not None and then <= 20 * MS:
        area += sum(len(lock.waiters) for lock in machine.locks) * (then - machine.engine.now)
        machine.run(then)
    (lock,) = machine.locks
    under_way = sum(machine.engine.now - waiter.since for waiter in lock.waiters)
    assert area == lock.wait_time + under_way > MS


# -- disciplines, and the universal scalability law ----------------------------------------------------


def contention_and_coherence(rates: dict[int, float]) -> tuple[float, float]:
    """The least-squares sigma and kappa of X(P) = P X(1) / (1 + sigma (P - 1) + kappa P (P - 1))."""
    rows = [(p - 1, p * (p - 1), p * rates[1] / x - 1) for p, x in rates.items()]
    aa, ab, bb = (sum(row[i] * row[j] for row in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    ay, by = (sum(row[i] * row[2] for row in rows) for i in (0, 1))
    determinant = aa * bb - ab * ab
    return (ay * bb - by * ab) / determinant, (by * aa - ay * ab) / determinant


def rates(queue: str, work: int, *processors: int) -> dict[int, float]:
    return {
        p: measured(
            Saturated(work=Duration(work)),
            p,
            dispatcher_queue=queue,
            lock_transfer=Duration(150),
            time=20 * MS,
        )["operation_rate"]
        for p in processors
    }


def test_test_and_set_is_retrograde_and_queued_locks_are_not() -> None:
    points = (1, 2, 4, 8, 16, 32)
    queued, tested = (rates(queue, 10 * MS, *points) for queue in ("fifo", "test_and_set"))
    assert tested[32] < 0.7 * max(tested.values())
    assert queued[32] > 0.97 * max(queued.values())
    # A fit to a curve with a knee has some kappa though nothing declines: as much as that of the exact curve.
    inside = 2080e-6 + 460 * 150e-9
    exact = {p: users_by_mva(p, inside, 10e-3, 460) for p in points}
    (_, knee), (_, flat), (_, kappa) = map(contention_and_coherence, (exact, queued, tested))
    assert flat == pytest.approx(knee, abs=0.0004)
    assert kappa > 3 * flat


def test_beyond_the_knee_only_test_and_set_has_a_cost_of_coherence() -> None:
    queued, tested = (rates(queue, MS // 2, 1, 4, 8, 16, 32, 64) for queue in ("fifo", "test_and_set"))
    assert abs(contention_and_coherence(queued)[1]) < 0.0005
    assert contention_and_coherence(tested)[1] > 0.02


# -- the tick ------------------------------------------------------------------------------------------


def convoy(*plugins: object, **options: Any) -> dict[str, float]:
    """The sheet's case: 8 processors, 200 us between two operations, 200 users with 60 timers a second."""
    workload = Saturated(
        work=Duration(80 * MS), ticking=200, hold_law="exact", expirations=options.pop("expirations", 60)
    )
    return measured(workload, 8, *plugins, time=252 * MS, **options)


def test_the_convoy_is_as_long_as_the_sheet_says() -> None:
    quiet, batch = convoy(expirations=0), convoy(timers_per_hold=0)
    assert quiet["lock_wait_mean"] == pytest.approx(300, rel=0.15)
    assert quiet["lock_wait_p99"] == pytest.approx(4 * US, rel=0.05)
    assert batch["lock_wait_mean"] == pytest.approx(19 * US, rel=0.25)
    assert batch["lock_wait_p99"] == pytest.approx(1280 * US, rel=0.15)
    assert batch["operation_rate"] / quiet["operation_rate"] == pytest.approx(1 - 0.085, abs=0.015)
    # A batch is 200 * 60 / 64 timers of 8 us each, so nobody waits for longer than one and those before him.
    assert 1.3 * MS < batch["lock_wait_p999"] < 1.55 * MS


def test_the_convoy_is_gone_after() -> None:
    quiet, after = convoy(expirations=0), convoy(TimerExpiration())
    assert after["lock_wait_p99"] == pytest.approx(quiet["lock_wait_p99"], rel=0.05)
    assert after["waiting_after_tick"] == pytest.approx(1 / 8, abs=0.05)
    assert after["expirations"] > 11_000


def test_the_view_shows_when_in_a_tick_threads_wait() -> None:
    workload = Saturated(work=Duration(80 * MS), ticking=200)
    machine = boot(8, [Ws2003(object_hold=Duration(4 * US), timer_time=Duration(8 * US))])
    workload.start(machine)
    machine.run(100 * MS)
    (view,) = workload.views().values()
    lines = view(machine).splitlines()
    assert len(lines) == 33
    shares = [float(line.split()[2].rstrip("%")) for line in lines[1:]]
    assert sum(shares[:4]) > 80
    assert max(shares[4:]) < 5


# -- users at the same responsiveness --------------------------------------------------------------------


def most_users(processors: int, limit: int, low: int, high: int, *plugins: type) -> int:
    """The most users, to the nearest sixteen, of whose interactions 95 % respond within the limit."""
    while high - low > 16:
        users = (low + high) // 2
        workload = Sessions(users=users, interactions=20, warm_up=Duration(20 * MS))
        found = measured(workload, processors, *(each() for each in plugins), time=70 * MS)
        if found["response_p95"] <= limit and found["busy"] <= 1:
            low = users
        else:
            high = users
    return low


def test_more_users_respond_within_the_same_time() -> None:
    before = most_users(8, 5 * MS, 300, 556)
    after = most_users(8, 5 * MS, 300, 556, TimerExpiration)
    assert after / before > 1.15
    assert before < users_by_mva(8, 2080e-6, 10e-3, 460)


# -- other machines ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["40intel64-2g2n4c+pcilocality.xml", "96em64t-4n4d3ca2co-pci.xml"])
def test_on_the_hardware_of_others(name: str) -> None:
    paths = list(HWLOC.rglob(name))
    if not paths:
        pytest.skip("needs the recorded topologies")
    tables = ntlab.topology(str(paths[0])).freeze()
    found = [
        measured(Saturated(hold_law="exact"), 0, *plugins, tables=tables)["users"]
        for plugins in ((), (TimerExpiration(),))
    ]
    assert found[1] / found[0] == pytest.approx(1.3, abs=0.02)


# -- what the claims rest on -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("experiment", "claims"),
    [
        ("users", {"curve", "30-percent", "knee", "spinning"}),
        ("waiting", {"half", "one-table-lock"}),
        ("convoy", {"convoy-tick", "convoy-p99", "convoy-mean", "convoy-throughput"}),
        ("response", {"response", "room"}),
    ],
)
def test_with_timers_under_the_dispatcher_lock_nothing_is_left_to_claim(
    experiment: str, claims: set[str]
) -> None:
    found = failing(f"timer-expiration-{experiment}", {"timer_expiration.timer_locks": 0})
    assert found == {f"timer-expiration-{claim}" for claim in claims}


@pytest.mark.parametrize(
    ("change", "claim"),
    [
        ({"timer_expiration.timer_locks": 0}, "timer-expiration-virtual"),
        ({"enlightened_spinlocks.attempts": NEVER_NOTIFY}, "timer-expiration-virtual-notified"),
    ],
)
def test_virtual_processors_gain_only_by_what_each_claim_is_about(change: dict[str, Any], claim: str) -> None:
    if "timer-expiration-virtual" not in installed().experiment_files:
        pytest.skip("it needs a plugin that is not installed")
    assert failing("timer-expiration-virtual", change) == {claim}


# -- what every plugin keeps -------------------------------------------------------------------------------

test_conformance = conformance("timer_expiration")


# -- mistakes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("ws2003.object_hold", "-1 ns", "object_hold"),
        ("ws2003.timer_time", "-1 us", "timer_time"),
        ("ws2003.lock_transfer", "-1 ns", "lock_transfer"),
        ("ws2003.dispatcher_queue", "lifo", "dispatcher_queue"),
        ("workload.processors", -1, "processors"),
        ("workload.processors", 300, "300 processors shall serve, the machine has 256"),
        ("workload.waited_for", 1.1, "waited_for"),
        ("workload.waited_for", -0.1, "waited_for"),
        ("workload.operations", 0, "operations"),
        ("workload.expirations", -1, "expirations"),
        ("workload.expirations", 2 * SECOND, "expirations"),  # no period has less than a ns
        ("workload.work", "0 ns", "work"),
        ("workload.objects", 0, "objects"),
        ("workload.skew", -1.0, "skew"),
        ("workload.skew", math.nan, "skew"),
        ("timer_expiration.timer_locks", -1, "timer_locks"),
    ],
)
def test_options_out_of_range_are_refused(option: str, value: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ntlab.run("timer-expiration-waiting", set={option: value, "duration": "4 ms"}, seeds=1)


def test_a_run_shorter_than_what_is_not_measured_is_refused() -> None:
    with pytest.raises(UserError, match="warm_up"):
        ntlab.run("timer-expiration-waiting", set={"duration": "1 ms"}, seeds=1)


@pytest.mark.parametrize("window", [1, 3 * US, 50 * US])
def test_a_hold_counts_for_what_of_it_is_measured(window: int) -> None:
    """On so many processors the lock is always held, and all others spin for it or compute."""
    machine = boot(32, [Ws2003(object_hold=Duration(4 * US), timer_time=Duration(8 * US))])
    workload = Saturated()
    workload.start(machine)
    machine.run(workload.warm_up + window)
    found = {metric.name: metric.value for metric in workload.measure(machine)}
    assert found["lock_utilisation"] == found["busy"] == 1
    assert 0.5 < found["spinning_share"] <= 31 / 32


def machine_of(workload: Sessions) -> Machine:
    machine = boot(2, [Ws2003(object_hold=Duration(4 * US), timer_time=Duration(8 * US))])
    workload.start(machine)
    machine.run(100 * MS)
    return machine


def test_servers_that_have_all_their_processors_serve_as_they_would_by_themselves() -> None:
    baseline = Ws2003(object_hold=Duration(4 * US), timer_time=Duration(8 * US), accounting="exact")
    host = boot(4, [baseline])
    virtual = Virtual(partitions=2, processors=2, hold_law="exact")
    virtual.start(host)
    host.run(40 * MS)
    found = {metric.name: metric.value for metric in virtual.measure(host)}
    alone = measured(Saturated(hold_law="exact"), 2)
    assert found["users"] == pytest.approx(2 * alone["users"], rel=0.05)
    assert found["spinning_share"] == pytest.approx(alone["spinning_share"], abs=0.01)


def test_threads_wait_for_the_timers_of_as_many_users_as_is_said() -> None:
    machine = machine_of(Sessions(users=8, waited_for=Share(0.25)))
    assert len(machine.threads) == 8 + 2
