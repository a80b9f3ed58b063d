"""P5: which groups there are, exactly (facts 6 and 14.16), who is where, and the claims."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import ntlab
from judging import failing
from ntlab.errors import UserError
from ntlab.hooks import hookimpl
from ntlab.lab.registry import installed
from ntlab.machine import Machine
from ntlab.plugin import plugin
from ntlab.quantities import MILLISECOND
from ntlab.testing import boot, bursts, conformance
from ntlab.topology import Tables, Topology, load, profiles
from ntlab_processor_groups import Hogs, ProcessorGroups
from ntlab_ws2003 import Ws2003

HWLOC = Path(__file__).parents[3] / "shared" / "data" / "hwloc"
SERVER_2008 = {"groups": 1, "surplus": "unused"}


def nodes(*sizes: int, threads: int = 1) -> Tables:
    """A node of that many processors for each size."""
    topology = Topology("sizes")
    for size in sizes:
        node = topology.add_node(memory=1 << 20)
        for _ in range(size // threads):
            core = topology.add_core(node)
            for _ in range(threads):
                topology.add_processor(core)
    return topology.freeze()


def booted(tables: Tables, *, architecture: str = "x64", **options: Any) -> Machine:
    return boot(plugins=[Ws2003(architecture=architecture), ProcessorGroups(**options)], tables=tables)


def sizes(machine: Machine) -> list[int]:
    return [mask.bit_count() for mask in machine.groups.masks]


# -- which groups


@pytest.mark.parametrize(
    ("hardware", "expected"),
    [
        ([16] * 16, [64] * 4),
        ([16] * 8, [64] * 2),
        ([24] * 6, [48] * 3),
        ([80] * 2, [40] * 4),
        ([8, 8], [16]),
        ([64], [64]),
        ([64, 1], [64, 1]),
    ],
)
def test_2008_r2(hardware: list[int], expected: list[int]) -> None:
    machine = booted(nodes(*hardware))
    assert sizes(machine) == expected
    assert machine.scheduler.all_mask.bit_count() == sum(hardware)


def test_what_2008_r2_refuses_and_what_becomes_of_it_else() -> None:
    with pytest.raises(
        UserError, match=r"has 240 processors in 5 groups.*at most 4 groups of 64, or surplus"
    ):
        booted(nodes(*[24] * 10))
    machine = booted(nodes(*[24] * 10), surplus="unused")
    assert sizes(machine) == [48] * 4
    assert len(machine.processors) == 192
    with pytest.raises(UserError, match="has 272 processors in 5 groups"):
        booted(nodes(*[16] * 17))
    with pytest.raises(UserError, match=r"node 0 of sizes has 80 processors.*at most 64, or split_nodes"):
        booted(nodes(80), split_nodes=False)


def test_a_later_release_goes_up_to_2048_processors() -> None:
    tables = nodes(*[64] * 32, threads=2)
    machine = booted(tables, groups=32)
    assert sizes(machine) == [64] * 32
    assert machine.create_process("p").affinity == (1 << 64) - 1
    assert machine.create_process("q").affinity == ((1 << 64) - 1) << 64
    with pytest.raises(UserError, match="has 2048 processors in 32 groups"):
        booted(tables)
    with pytest.raises(UserError, match=r"has 2049 processors in 33 groups.*at most 32"):
        booted(nodes(*[64] * 32, 1), groups=32)


@pytest.mark.parametrize(("processors", "started"), [(64, 64), (65, 64), (8, 8)])
def test_2003_and_2008_start_64(processors: int, started: int) -> None:
    machine = booted(nodes(processors), groups=1, surplus="unused")
    assert sizes(machine) == [started]
    assert len(machine.processors) == started


def test_2008_is_refused_more_where_that_is_wanted() -> None:
    with pytest.raises(UserError, match=r"demo-256 has 256 processors.*at most 64, or surplus = 'unused'"):
        booted(load("demo-256").freeze(), groups=1)


def test_a_32_bit_kernel_starts_32() -> None:
    with pytest.raises(UserError, match=r"has 40 processors.*at most 32"):
        booted(nodes(40), architecture="x86")
    assert sizes(booted(nodes(40), architecture="x86", surplus="unused")) == [32]
    assert sizes(booted(nodes(32), architecture="x86")) == [32]


def test_groups_as_small_as_a_boot_option_makes_them() -> None:
    assert sizes(booted(nodes(4, 4), group_size=4)) == [4, 4]
    assert sizes(booted(nodes(8), group_size=2, groups=8)) == [2] * 4
    with pytest.raises(UserError, match=r"groups of 48 processors.*a power of two, or 0"):
        booted(nodes(8), group_size=48)


def fits(tables: Tables, machine: Machine, limit: int) -> None:
    """Nodes whole unless they are too large, groups not too large, as few as can be."""
    masks = machine.groups.masks
    assert sum(masks) == (1 << tables.processors) - 1
    assert max(sizes(machine)) <= limit
    for node in tables.node_mask:
        if node.bit_count() <= limit:
            assert sum(bool(mask & node) for mask in masks) <= 1
    assert len(masks) >= -(-tables.processors // limit)


@pytest.mark.parametrize("name", sorted(profiles()))
def test_every_machine_of_ours(name: str) -> None:
    tables = load(name).freeze()
    machine = booted(tables)
    fits(tables, machine, 64)
    assert len(machine.groups.masks) == -(-tables.processors // 64)


@pytest.mark.skipif(not HWLOC.is_dir(), reason="the real descriptions are not here")
@pytest.mark.parametrize("file", sorted(HWLOC.glob("*.xml")), ids=lambda file: file.stem)
@pytest.mark.parametrize("limit", [64, 8])
def test_every_real_machine(file: Path, limit: int) -> None:
    tables = load(file).freeze()
    machine = booted(tables, group_size=limit, groups=32)
    fits(tables, machine, limit)
    if limit < 64:
        return
    workload = Hogs(threads=(tables.processors,), aware=True)
    workload.start(machine)
    machine.run(50 * MILLISECOND)
    machine.check()
    measured = {metric.name: metric.value for metric in workload.measure(machine)}
    assert measured["used"] == tables.processors
    assert len(booted(tables, groups=1, surplus="unused").processors) == min(64, tables.processors)


# -- who is where


def test_processes_by_turns_threads_in_their_creators_group() -> None:
    machine = booted(load("demo-256").freeze())
    processes = [machine.create_process(str(k)) for k in range(6)]
    assert [machine.groups.spanned(process.affinity) for process in processes] == [
        [0],
        [1],
        [2],
        [3],
        [0],
        [1],
    ]
    threads = [machine.create_thread(processes[2], bursts(10)) for _ in range(100)]
    assert {thread.affinity for thread in threads} == {machine.groups.masks[2]}
    assert {thread.ideal // 64 for thread in threads} == {2}
    assert machine.create_thread(machine.system_process, bursts(10)).affinity == machine.groups.masks[0]


def test_a_preferred_node_is_in_the_group_and_takes_nobodys_turn() -> None:
    topology = Topology("one without processors")
    for processors in (2, 2, 0):
        node = topology.add_node(memory=1 << 20)
        for _ in range(processors):
            topology.add_processor(topology.add_core(node))
    machine = booted(topology.freeze(), group_size=2)
    wishes = [1, None, 1, None, 2]
    assert [machine.create_process("p", node=node).affinity for node in wishes] == [12, 3, 12, 12, 3]


def test_all_in_the_first_group() -> None:
    machine = booted(nodes(2, 2), group_size=2, assignment="first")
    assert {machine.create_process("p").affinity for _ in range(3)} == {3}


def test_how_many_processors_can_be_added() -> None:
    for options, limit in [({}, 256), (SERVER_2008, 64), ({"groups": 32}, 2048), ({"group_size": 0}, None)]:
        machine = booted(nodes(2), **options)
        assert machine.hooks.processor_limit(machine) == limit


def test_who_states_a_lower_limit_is_heeded() -> None:
    @plugin(name="four", summary="Licensed for four.")
    class Four:
        @hookimpl
        def processor_limit(self) -> int:
            return 4

    for options, limit in [({}, 4), ({"group_size": 2, "groups": 1}, 2), ({"group_size": 0}, 4)]:
        plugins = [Ws2003(), Four(), ProcessorGroups(**options)]  # type: ignore[arg-type]
        machine = boot(plugins=plugins, tables=nodes(2))
        assert machine.hooks.processor_limit(machine) == limit


def test_impossible_workloads() -> None:
    for threads in ((), (4, 0)):
        with pytest.raises(UserError, match=r"hogs.threads.*one process at least"):
            Hogs(threads=threads).start(booted(nodes(2)))


def test_a_run_that_ends_before_its_threads_do_has_no_makespan() -> None:
    with pytest.raises(UserError, match=r"duration: \d+ of \d+ threads have ended; expected a longer one"):
        ntlab.run("groups-price", set={"duration": "1 ms"})


# -- the claims


def test_each_rule_carries_its_claims() -> None:
    none = {"processor_groups.group_size": 0}
    used, throughput, imbalance = (f"groups-256-{name}" for name in ("used", "throughput", "imbalance"))
    assert failing("groups-256", none) == {used, throughput, imbalance}
    assert failing("groups-256", {"processor_groups.groups": 4}) == {used}
    assert failing("groups-processes", {"processor_groups.assignment": "first"}) == {
        "groups-processes-throughput",
        "groups-processes-two-each",
        "groups-processes-balance",
    }
    assert failing("groups-price", none) == {"groups-price-makespan"}
    assert failing("groups-uneven", none) == {"groups-uneven-throughput", "groups-uneven-imbalance"}


def test_it_takes_programs_that_know_of_groups() -> None:
    assert {"groups-256-used", "groups-256-throughput"} <= failing("groups-256", {"workload.aware": False})
    assert failing("groups-price", {"workload.aware": True}) == {"groups-price-makespan"}


@pytest.mark.skipif("fair_share" not in installed().names(), reason="the experiment needs fair_share")
def test_groups_are_why_fair_shares_are_not_fair() -> None:
    both = {"groups-fair-share-first", "groups-fair-share-second"}
    assert failing("groups-fair-share", {"processor_groups.group_size": 0}) == both
    assert failing("groups-fair-share", {"processor_groups.assignment": "first"}) == both


@pytest.mark.skipif("numa_home" not in installed().names(), reason="the experiment needs numa_home")
def test_groups_are_why_nobody_goes_far() -> None:
    assert failing("groups-numa", {"processor_groups.group_size": 0}) == {"groups-numa-latency"}
    assert "groups-numa-latency" in failing("groups-numa", {"numa_home.allocation": "current"})


@pytest.mark.skipif(not HWLOC.is_dir(), reason="the real descriptions are not here")
def test_the_experiments_on_a_real_machine() -> None:
    """An Itanium server of 256 processors in 64 nodes, sixteen of which make a group."""
    for name in ("groups-256", "groups-processes", "groups-price", "groups-uneven"):
        result = ntlab.run(name, hardware=str(HWLOC / "256ia64-64n2s2c.xml"))
        assert all(found.holds for found in result.claims), name


test_conformance = conformance("processor_groups", idle={"processor_limit": "no processor is added"})
