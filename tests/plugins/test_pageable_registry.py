"""K6: the claims, that they fail without the mechanism, and what each place of the registry costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from judging import failing
from ntlab.errors import UserError
from ntlab.machine import Machine
from ntlab.quantities import KIB, MIB, MILLISECOND, SECOND
from ntlab.testing import boot, conformance
from ntlab.topology import load
from ntlab_pageable_registry import PageableRegistry
from ntlab_pageable_registry.workloads import Queries
from ntlab_ws2003 import Ws2003

HWLOC = Path(__file__).parents[3] / "shared" / "data" / "hwloc"

test_conformance = conformance("pageable_registry")


def measure(
    *plugins: object, hardware: str = "smp-4", seed: int = 1, **options: Any
) -> tuple[dict[str, float], Machine]:
    machine = boot(plugins=plugins, tables=load(hardware).freeze(), seed=seed, trace=True)
    workload = Queries(**({"warm_up": SECOND, "time": SECOND} | options))
    workload.start(machine)
    machine.run()
    machine.check()
    assert not machine.threads
    return {metric.name: metric.value for metric in workload.measure(machine)}, machine


def test_where_memory_is_plenty_nothing_is_paged_and_nobody_gains() -> None:
    failed = failing("registry-shortage", {"workload.memory": "1 GiB"})
    assert failed == {"registry-pages-out", "registry-makes-room", "registry-cold"}


def test_parts_cost_a_read_of_a_part_for_a_key() -> None:
    """The mean cold query reads so many parts as there were faults, one after the other."""
    options: dict[str, Any] = {"application": 0, "programs": 1, "cold_queries": 0.5}
    measured, machine = measure(Ws2003(registry_limit=2 * MIB), **options)
    assert machine.paging is not None
    disk = machine.paging.disk
    reads = measured["hard_faults"]
    assert reads > 20
    cost = disk.response_time / disk.reads
    assert cost > 256 * KIB / disk.model.rate * 1e9
    queries = measured["cold_time"] * cold_queries(machine)
    assert queries == pytest.approx(reads * cost, rel=0.2)


def cold_queries(machine: Machine) -> int:
    (hive,) = machine.registry.hives.values()
    first = int(0.02 * hive.keys)
    return sum(
        record["key"] >= first and record["initial_time"] >= SECOND
        for record in machine.tracer.records("Registry/Query")
    )


@pytest.mark.parametrize("baseline", ["nonpaged", "cache_views"])
def test_both_readings_of_what_was_before_become_the_same(baseline: Any) -> None:
    options: dict[str, Any] = {"memory": 14 * MIB}
    before, _ = measure(Ws2003(registry_backing=baseline), **options)
    after, _ = measure(Ws2003(registry_backing=baseline), PageableRegistry(), **options)
    assert before["paged"] == after["nonpaged"] == 0
    assert before["nonpaged"] == (4 * MIB if baseline == "nonpaged" else 0)
    assert after["paged"] == 8 * MIB


def test_views_cannot_hold_more_than_their_limit() -> None:
    limit = 512 * KIB
    baseline = Ws2003(registry_backing="cache_views", registry_limit=limit)
    measured, machine = measure(baseline, application=0, cold_queries=1.0, pause=MILLISECOND)
    assert 0 < measured["resident"] <= limit
    assert machine.registry.held * 4096 <= limit


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="no room for hive"):
        measure(Ws2003(registry_limit=0), memory=4 * MIB)
    with pytest.raises(UserError, match="at least a part"):
        measure(Ws2003(registry_limit=100 * KIB))
    with pytest.raises(ValueError, match="out of range"):
        Queries(programs=0)


@pytest.mark.skipif(not HWLOC.is_dir(), reason="the real descriptions are not here")
@pytest.mark.parametrize("file", sorted(HWLOC.glob("*.xml")), ids=lambda file: file.stem)
def test_it_runs_on_real_machines(file: Path) -> None:
    options: dict[str, Any] = {"hardware": str(file), "memory": 14 * MIB}
    before, _ = measure(Ws2003(registry_limit=0), **options)
    after, _ = measure(Ws2003(system_working_set_minimum=0), PageableRegistry(), **options)
    assert (before["nonpaged"], after["nonpaged"]) == (8 * MIB, 0)
    assert after["resident"] < before["resident"]
