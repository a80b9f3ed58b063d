"""D1: the claims, that they fail without the mechanism, the closed form, and other machines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ntlab
from ntlab.errors import UserError
from ntlab.machine import Machine
from ntlab.quantities import MIB
from ntlab.testing import boot, conformance, small_tables
from ntlab.topology import load
from ntlab_hot_add_memory import HotAddMemory
from ntlab_hot_add_memory.workloads import Outgrown
from ntlab_ws2003 import Ws2003

HWLOC = Path(__file__).parents[3] / "shared" / "data" / "hwloc"

test_conformance = conformance("hot_add_memory")


def measure(machine: Machine, **options: Any) -> dict[str, float]:
    workload = Outgrown(**options)
    workload.start(machine)
    machine.run()
    machine.check()
    return {metric.name: metric.value for metric in workload.measure(machine)}


def test_every_claim_fails_where_no_edition_takes_memory() -> None:
    result = ntlab.run("dp-add-memory", set={"hot_add_memory.edition": "standard"}, seeds=1)
    assert [found.claim.id for found in result.claims if found.holds] == []


@settings(max_examples=5)
@given(st.integers(0, 99), st.integers(1, 3), st.integers(20, 120))
def test_a_read_faults_with_the_share_of_the_data_that_is_not_in_memory(
    seed: int, units: int, unit: int
) -> None:
    machine = boot(
        plugins=[Ws2003(paging_file=4 * MIB), HotAddMemory()], tables=small_tables(memory=8 * MIB), seed=seed
    )
    found = measure(machine, data=400, room=100, units=units, unit=unit, reads=800)
    for stage in range(units + 1):
        absent = max(0.0, 1 - (100 + stage * unit) / 400)
        # Six standard deviations; and what an I/O under way keeps from others.
        assert abs(found[f"fault_share_{stage}"] - absent) < 6 * (0.25 / 800) ** 0.5 + 0.02
    assert found["added"] == units * unit
    assert machine.memory.installed == 8 * MIB // 4096 + units * unit


def test_no_other_kernel_takes_it() -> None:
    for plugins in ([], [HotAddMemory(edition="standard")]):
        machine = boot(plugins=[Ws2003(), *plugins])
        assert not machine.partitioning.supports("add memory")
        with pytest.raises(UserError, match="is to add memory while it runs"):
            machine.partitioning.add_memory(0, MIB)
    machine = boot(plugins=[Ws2003(), HotAddMemory()])
    assert machine.partitioning.supports("add memory")
    assert not machine.partitioning.supports("add processor")


def test_mistakes_are_named() -> None:
    def begin(message: str, file: int = MIB, **options: Any) -> None:
        machine = boot(plugins=[Ws2003(paging_file=file)], tables=small_tables(memory=4 * MIB))
        with pytest.raises(UserError, match=message):
            Outgrown(**options).start(machine)

    begin("700 pages for 600; expected fewer than the data", room=700)
    begin("the machine has no paging file", file=0, room=300)
    begin("2000 pages for 3000; .* at most the 1024 that a node has", room=2000, data=3000)
    begin("the paging file is too small", room=300, data=1000)


@pytest.mark.skipif(not HWLOC.is_dir(), reason="the real descriptions are not here")
@pytest.mark.parametrize("file", sorted(HWLOC.glob("*.xml"))[:3], ids=lambda file: file.stem)
def test_it_runs_on_real_machines(file: Path) -> None:
    tables = load(str(file)).freeze()
    found = measure(
        boot(plugins=[Ws2003(paging_file=4 * MIB), HotAddMemory()], tables=tables),
        data=200, room=100, units=2, unit=60, reads=100, node=tables.nodes - 1,
    )  # fmt: skip
    assert found["fault_share_last"] == 0 < found["fault_share_first"]
    assert found["used_share"] > 0.7
