"""N1: what ideal processors and nodes save, the claims without them, and the same on real machines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from judging import failing
from ntlab.machine import Compute, Machine, ProcessorCachePolicy, Sleep
from ntlab.testing import boot, small_tables
from ntlab.topology import load
from ntlab_ws2003 import Ws2003
from ntlab_ws2003.workloads import Workers

HWLOC = Path(__file__).parents[3] / "shared" / "data" / "hwloc"
NONE: dict[str, Any] = {"ideal.ws2003.ideal_processors": "none", "ideal.ws2003.placement": ["idle_core"]}
NODE_ONLY: dict[str, Any] = {"ideal.ws2003.placement": ["idle_core", "ideal_node"]}


@pytest.mark.parametrize(
    ("experiment", "changes", "fail"),
    [
        ("ideal-processor", NONE, {"ideal-remote", "ideal-refills", "ideal-time"}),
        ("ideal-processor", NODE_ONLY, {"ideal-refills", "ideal-time"}),
        (
            "ideal-processor",
            {"last.ws2003.placement": ["idle_core"], "last.ws2003.ready_queues": "shared"},
            {"ideal-returns"},
        ),
        ("ideal-quiet", NONE, {"ideal-quiet-refills", "ideal-quiet-remote"}),
        ("ideal-quiet", NODE_ONLY, {"ideal-quiet-refills"}),
        ("ideal-crowd", NONE, {"ideal-crowd-remote", "ideal-crowd-refill"}),
    ],
)
def test_each_claim_fails_without_what_it_is_about(
    experiment: str, changes: dict[str, Any], fail: set[str]
) -> None:
    assert failing(experiment, changes) == fail


def measure(machine: Machine, **options: Any) -> dict[str, float]:
    workload = Workers(**options)
    workload.start(machine)
    machine.run()
    machine.check()
    assert not machine.threads
    return {metric.name: metric.value for metric in workload.measure(machine)}


def test_the_first_fill_and_nothing_after_it() -> None:
    """A processor for each thread: it waits once for each line, and never again. Two of one node at once ask
    its memory for more than it carries."""
    alone = 1000 * 95 / 4
    asked = 4 * 64 / 95e-9
    for threads, slower in ((1, 1), (2, 2 * asked / 4.5e9), (8, 2 * asked / 4.5e9)):
        machine = boot(plugins=[Ws2003()], tables=load("opteron-4s").freeze())
        found = measure(machine, threads=threads, rounds=10, data=64_000)
        assert found["lines_refilled"] == found["remote_lines"] == found["remote_share"] == 0
        assert found["refill_time"] * 10 == pytest.approx(alone * slower, rel=1e-4)
        assert found["at_ideal_processor"] == found["in_ideal_node"] == 1


def test_without_ideal_processors_a_thread_goes_anywhere() -> None:
    def where(*rules: str) -> list[int]:
        machine = boot(
            plugins=[Ws2003(ideal_processors="none", placement=rules)], tables=small_tables(4, nodes=2)
        )
        process = machine.create_process("p")
        machine.create_thread(process, iter([Compute(30), Sleep(10), Compute(5)]), name="first")
        machine.create_thread(process, iter([Compute(10), Sleep(100), Compute(10)]), name="second")
        third = machine.create_thread(process, iter([Compute(10), Sleep(40), Compute(10)]), name="third")
        assert third.ideal == 0  # of the affinity, the lowest
        machine.run(55)
        return [processor.index for processor in machine.processors if processor.thread is third]

    assert where() == where("ideal_node", "ideal") == [0]
    assert where("last") == where("ideal", "last") == [2]


def test_by_default_the_caches_are_the_cores_own() -> None:
    assert Ws2003().processor_cache_policy() == ProcessorCachePolicy()
    machine = boot(2, [Ws2003(core_cache=1 << 16, package_cache=1 << 20)])
    assert [(cache.level, cache.lines) for cache in machine.caches.way(1)] == [(2, 1 << 10), (3, 1 << 14)]


@pytest.mark.skipif(not HWLOC.is_dir(), reason="the real descriptions are not here")
@pytest.mark.parametrize("file", sorted(HWLOC.glob("*.xml")), ids=lambda file: file.stem)
def test_it_shows_on_real_machines(file: Path) -> None:
    tables = load(str(file)).freeze()
    options: dict[str, Any] = {"threads": min(tables.cores, 16), "rounds": 10, "data": 16 << 10}
    ideal = measure(boot(plugins=[Ws2003()], tables=tables), **options)
    assert ideal["lines_refilled"] == ideal["remote_share"] == 0
    rules = Ws2003(ideal_processors="none", placement=(), ready_queues="shared")
    anywhere = measure(boot(plugins=[rules], tables=tables), **options)
    assert anywhere["lines_refilled"] > 0
    assert anywhere["time"] >= ideal["time"]
