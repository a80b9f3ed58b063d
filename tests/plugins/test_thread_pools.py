"""P3: pools in user mode and in the kernel, against closed forms (scheduling facts 4, 14.14); and claims."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import factorial
from pathlib import Path
from typing import Any

import pytest

import ntlab
from ntlab.lab.registry import installed
from ntlab.lab.statistics import estimate
from ntlab.machine import Compute, PostWork, Request, Sleep, Work
from ntlab.quantities import MILLISECOND, SECOND
from ntlab.testing import boot, conformance
from ntlab_thread_pools import ThreadPools
from ntlab_thread_pools.workloads import Bursts, Shutdown
from ntlab_ws2003 import Ws2003

HWLOC = Path(__file__).parents[3] / "shared" / "data" / "hwloc"
BEFORE: list[object] = []
KINDS = {"before": lambda: [Ws2003()], "after": lambda: [Ws2003(), ThreadPools()]}

PROCESSORS_COME = "hot_add_processor" in installed().names()

test_conformance = conformance(
    "thread_pools", idle={} if PROCESSORS_COME else {"hardware_changed": "shown with hot_add_processor"}
)


def measured(kind: str, workload: Any, *, seed: int = 1, processors: int = 4) -> tuple[dict[str, float], Any]:
    machine = boot(processors, KINDS[kind](), seed=seed)
    workload.start(machine)
    machine.run(200 * SECOND)
    machine.check()
    return {metric.name: metric.value for metric in workload.measure(machine)}, machine


# -- closed forms


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("burst", "processors"), [(7, 1), (40, 4), (101, 8)])
def test_the_ledger_of_system_calls(kind: str, burst: int, processors: int) -> None:
    found, machine = measured(kind, Bursts(burst=burst), processors=processors)
    (pool,) = machine.thread_pools.pools
    items, calls = 3 * burst, pool.calls
    assert found["done"] == items
    assert not pool.workers
    if kind == "before":
        looked = calls["query", "NtQueryIoCompletion"] - items
        assert looked >= 0
        added = {
            ("add", name): pool.added
            for name in ("NtCreateThread", "NtAllocateVirtualMemory", "NtResumeThread")
        }
        assert calls == {
            ("post", "NtSetIoCompletion"): items,
            ("query", "NtQueryIoCompletion"): items + looked,
            ("take", "NtRemoveIoCompletion"): items + pool.added,  # each worker's last one is in vain
            ("wait", "NtWaitForMultipleObjects"): calls["wait", "NtWaitForMultipleObjects"],
            **added,
        }
    else:
        assert calls == {
            ("post", "NtReleaseWorkerFactoryWorker"): items,
            ("take", "NtWaitForWorkViaWorkerFactory"): items + pool.added,
        }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("workers", "load", "gold"), [(4, 3.0, 0.509434), (2, 1.6, 0.711111), (6, 4.0, 0.284761)]
)
def test_a_fixed_number_of_workers_is_a_queue_of_erlangs(
    kind: str, workers: int, load: float, gold: float
) -> None:
    """Wq = C / (c mu - L), in units of the mean work (14.2)."""
    terms = [load**k / factorial(k) for k in range(workers)]
    last = load**workers / factorial(workers) * workers / (workers - load)
    assert last / (sum(terms) + last) == pytest.approx(gold, abs=1e-6)
    waits = [_visit(kind, workers, load, seed)[0] for seed in range(12)]
    interval = estimate(waits)
    half = (interval.high - interval.low) / 2
    assert abs(interval.mean - gold / (workers - load)) < 3 * half
    assert half < 0.5 * gold / (workers - load)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("workers", "slots", "load", "gold"),
    [(1, 1, 0.8, 0.444444), (1, 3, 0.8, 0.173442), (2, 2, 1.5, 0.310345), (4, 7, 4.5, 0.215150)],
)
def test_whoever_finds_no_slot_is_turned_away(
    kind: str, workers: int, slots: int, load: float, gold: float
) -> None:
    """M/M/c/K: as many are turned away as the pool is full for of the time (14.14); with K = c Erlang's B."""
    states = [
        load**k / (factorial(k) if k < workers else factorial(workers) * workers ** (k - workers))
        for k in range(slots + 1)
    ]
    assert states[-1] / sum(states) == pytest.approx(gold, abs=1e-6)
    interval = estimate([_visit(kind, workers, load, seed, slots)[1] for seed in range(8)])
    half = (interval.high - interval.low) / 2
    assert abs(interval.mean - gold) < 3 * half
    assert half < 0.2 * gold


def _visit(kind: str, workers: int, load: float, seed: int, slots: int | None = None) -> tuple[float, float]:
    """How long pieces wait for a worker, in units of their mean work; and the share that finds no slot."""
    mean = 10 * MILLISECOND
    machine = boot(workers, KINDS[kind](), seed=seed)
    engine = machine.engine
    pool = machine.thread_pools.create(machine.create_process("p"), "pool")
    pool.limit(workers, workers)
    random = machine.streams.stream("ntlab", "test")
    waited: list[int] = []
    done = turned_away = 0

    def piece(posted: int, work: int) -> Callable[[], Iterator[Request]]:
        def body() -> Iterator[Request]:
            nonlocal done
            waited.append(engine.now - posted)
            yield Compute(work)
            done += 1

        return body

    def arrivals() -> Iterator[Request]:
        nonlocal turned_away
        for number in range(1200):
            yield Sleep(round(random.expovariate(load / mean)))
            if slots is not None and number - turned_away - done == slots:
                turned_away += 1
                continue
            yield PostWork(Work(pool, piece(engine.now, round(random.expovariate(1 / mean)))))

    machine.create_thread(pool.process, arrivals(), priority=15)
    machine.run(100 * SECOND)
    assert len(waited) == done == 1200 - turned_away
    return sum(waited[120:]) / len(waited[120:]) / mean, turned_away / 1200


def test_draining_takes_what_runs_and_before_all_the_backlog() -> None:
    """After: the longest of c exponential rests, mean S * H_c. Before: at least the backlog's work over c."""
    drains = []
    for seed in range(1, 41):
        found, _ = measured("after", Shutdown(pieces=300, stop=200 * MILLISECOND), seed=seed)
        assert found["began_after_stop"] == found["beyond_running"] == 0
        assert found["cancelled"] == found["backlog"] > 150
        drains.append(found["drain_time"] / (10 * MILLISECOND))
    interval = estimate(drains)
    half = (interval.high - interval.low) / 2
    harmonic = 1 + 1 / 2 + 1 / 3 + 1 / 4
    assert abs(interval.mean - harmonic) < 3 * half / 2  # 99 % and more
    assert half < harmonic / 4
    found, _ = measured("before", Shutdown(pieces=300, stop=200 * MILLISECOND))
    assert found["began_after_stop"] == found["backlog"] > 150
    assert found["drain_time"] >= found["work_after_stop"] / 4


def test_work_said_to_take_long_gets_a_worker_at_once_before() -> None:
    blocked = {"bursts": 1, "burst": 20, "work": 0, "block": 30 * SECOND, "look": 0}
    assert measured("before", Bursts(**blocked))[0]["workers_added"] == 20
    for long, workers in ((False, 2), (True, 20)):
        found, _ = measured("before", Bursts(**{**blocked, "look": MILLISECOND, "long": long}))
        assert found["workers_then"] == workers  # the second since twenty wait, more than ten for a worker


@pytest.mark.parametrize("kind", KINDS)
def test_calls_cost_time(kind: str) -> None:
    plugins = {
        "before": lambda cost: [Ws2003(system_call=cost)],
        "after": lambda cost: [Ws2003(), ThreadPools(system_call=cost)],
    }
    found = []
    for cost in (0, 1000):
        machine = boot(1, plugins[kind](cost))
        Bursts(bursts=1, burst=10, law="fixed").start(machine)
        machine.run(100 * SECOND)
        (pool,) = machine.thread_pools.pools
        found.append((machine.processors[0].busy_time, sum(pool.calls.values())))
    (without, calls), (with_them, same) = found
    assert same == calls
    assert with_them - without == calls * 1000


def test_the_view_shows_the_ledger_and_the_threads() -> None:
    workload = Bursts(bursts=1, burst=5)
    _, machine = measured("after", workload)
    (text,) = (view(machine) for view in workload.views().values())
    assert "    5  post       NtReleaseWorkerFactoryWorker" in text
    assert text.splitlines()[-1].endswith("0")


# -- claims


@pytest.mark.parametrize(
    ("experiment", "change", "fail"),
    [
        # Neutral: nothing at all.
        (
            "thread-pools-calls",
            {"thread_pools.factory": False},
            {"calls-query", "calls-add", "calls", "threads"},
        ),
        ("thread-pools-retire", {"thread_pools.factory": False}, {"retire"}),
        ("thread-pools-growth", {"thread_pools.factory": False}, {"growth", "blocked"}),
        ("thread-pools-shutdown", {"thread_pools.factory": False}, {"backlog", "drain"}),
        ("thread-pools-switches", {"thread_pools.factory": False}, {"switches"}),
        # One thing at a time: a minute idle; nothing taken back; as many workers as before.
        ("thread-pools-retire", {"thread_pools.idle": "60 s"}, {"retire"}),
        ("thread-pools-calls", {"thread_pools.idle": "60 s"}, {"threads"}),
        ("thread-pools-shutdown", {"thread_pools.cancels": False}, {"backlog", "drain"}),
        ("thread-pools-switches", {"thread_pools.concurrency": 2}, {"switches"}),
        ("thread-pools-growth", {"ws2003.pool_growth": "2 s"}, {"growth", "blocked"}),
        ("thread-pools-growth", {"thread_pools.maximum": 10}, {"growth", "blocked"}),
    ],
)
def test_without_what_it_is_about_a_claim_fails(
    experiment: str, change: dict[str, Any], fail: set[str]
) -> None:
    result = ntlab.run(experiment, set=change)
    assert {
        found.claim.id.removeprefix("thread-pools-") for found in result.claims if not found.holds
    } == fail


@pytest.mark.skipif(not PROCESSORS_COME, reason="shown with a plugin that is absent")
@pytest.mark.parametrize("change", [{"thread_pools.factory": False}, {"thread_pools.concurrency": 2}])
def test_a_processor_that_comes(change: dict[str, Any]) -> None:
    assert ntlab.run("thread-pools-hot-add").claims[0].holds
    assert not ntlab.run("thread-pools-hot-add", set=change).claims[0].holds


@pytest.mark.skipif("core_parking" not in installed().names(), reason="shown with a plugin that is absent")
@pytest.mark.parametrize(
    ("change", "fail"),
    [
        (
            {"core_parking.min_cores": "100 %", "core_parking.performance": "none"},
            {"parking", "parking-user"},
        ),
        ({"thread_pools.factory": False}, {"parking", "parking-user", "parking-workers"}),
    ],
)
def test_processors_that_are_parked(change: dict[str, Any], fail: set[str]) -> None:
    result = ntlab.run("thread-pools-parking", set=change)
    failing = {found.claim.id.removeprefix("thread-pools-") for found in result.claims if not found.holds}
    assert failing == fail


@pytest.mark.skipif(not HWLOC.is_dir(), reason="no shared data")
@pytest.mark.parametrize(
    ("experiment", "hardware", "change"),
    [
        ("thread-pools-shutdown", "16amd64-8n2c.xml", {"workload.pieces": 4000}),
        ("thread-pools-switches", "16em64t-4s2c2t.xml", {"workload.burst": 300}),
        ("thread-pools-growth", "256ia64-64n2s2c.xml", {}),
    ],
)
def test_on_other_machines(experiment: str, hardware: str, change: dict[str, Any]) -> None:
    result = ntlab.run(experiment, hardware=str(HWLOC / hardware), set=change, seeds=2)
    assert all(found.holds for found in result.claims)
