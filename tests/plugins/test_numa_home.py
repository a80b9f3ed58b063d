"""N4 and N5: the claims, that they fail without the mechanism, and the rules by themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ntlab
from judging import failing, options
from ntlab.errors import UserError
from ntlab.hooks import Mode
from ntlab.lab.registry import installed
from ntlab.machine import Machine, RunOn, Touch
from ntlab.testing import boot, conformance
from ntlab.topology import Tables, Topology, load
from ntlab_numa_home import NumaHome
from ntlab_numa_home.paged import PagedOut
from ntlab_numa_home.workloads import Wanderers
from ntlab_ws2003 import Ws2003

HWLOC = Path(__file__).parents[3] / "shared" / "data" / "hwloc"


def flat(nodes: int, *, memory: int = 1 << 24) -> Tables:
    """Nodes of one processor each, in a ring: the farther, the slower."""
    topology = Topology("ring")
    for _ in range(nodes):
        topology.add_processor(topology.add_core(topology.add_node(memory=memory)))
    topology.latency_ns = [
        [100 + 50 * min((n - m) % nodes, (m - n) % nodes) for m in range(nodes)] for n in range(nodes)
    ]
    return topology.freeze()


def measure(
    tables: Tables,
    plugins: Sequence[object],
    *,
    seed: int = 1,
    hooks: Mode = "direct",
    trace: bool = False,
    **options: Any,
) -> tuple[dict[str, float], Machine]:
    machine = boot(plugins=plugins, tables=tables, seed=seed, hooks=hooks, trace=trace)
    workload = Wanderers(**options)
    workload.start(machine)
    machine.run()
    machine.memory.check()
    assert not machine.threads
    return {metric.name: metric.value for metric in workload.measure(machine)}, machine


def judge(name: str, **change: Any) -> set[str]:
    """Which claims of a shipped experiment fail; `change` overrides the plugin's options in all arms."""
    changes = options("numa_home", change)
    if name == "numa-fallback":
        changes["workload.bursts"] = 4  # enough for its claims, in less time
    return failing(name, changes)


with_groups = pytest.mark.skipif(
    "processor_groups" not in installed().names(), reason="the experiment needs processor_groups"
)
FALLBACK = {
    "numa-fallback-near",
    "numa-fallback-displaces",
    "numa-fallback-latency",
    "numa-fallback-invariant",
}


def test_who_does_not_time_the_ways_goes_as_far_as_the_firmware_lets_him() -> None:
    fail = {"numa-distances-slit", "numa-distances-latency", "numa-distances-noise"}
    for change in ({"distances": "flat"}, {"fallback": "any"}):
        assert judge("numa-distances", **change) == fail


@with_groups
def test_without_its_limit_server_2008_would_know_the_nodes_of_256_processors() -> None:
    assert judge("numa-64lp", processor_limit=0) == {"numa-64lp-remote", "numa-64lp-latency"}


@pytest.mark.skipif(not HWLOC.is_dir(), reason="the real descriptions are not here")
def test_the_experiments_on_a_machine_of_64_nodes() -> None:
    """A real Itanium, whose firmware tells the truth of two distances: believing it is as good as timing."""
    file = str(HWLOC / "256ia64-64n2s2c.xml")
    distances = ntlab.run("numa-distances", hardware=file, seeds=1, set={"numa_home.noise": 0})
    far = {name: arm.metrics["far_share"].mean for name, arm in distances.arms.items()}
    assert far["measured"] == far["slit"] < far["flat"]
    moved = ntlab.run("numa-moved", hardware=file, seeds=1)
    assert {claim.claim.id for claim in moved.claims if claim.holds} >= {"numa-moved-remote"}


@with_groups
@pytest.mark.skipif(not HWLOC.is_dir(), reason="the real descriptions are not here")
def test_server_2008_on_a_machine_of_64_nodes() -> None:
    large = ntlab.run("numa-64lp", hardware=str(HWLOC / "256ia64-64n2s2c.xml"), seeds=1)
    remote = {name: arm.metrics["remote_share"].mean for name, arm in large.arms.items()}
    assert remote["ws2008"] == pytest.approx(63 / 64, abs=0.02)
    assert remote["r2"] == 0


@pytest.mark.parametrize(
    ("left_out", "fail"),
    [
        ({"fallback": "any"}, FALLBACK - {"numa-fallback-invariant"}),
        ({"allocation": "current", "noise": 0}, FALLBACK - {"numa-fallback-displaces"}),
    ],
)
def test_each_rule_carries_its_own_claims(left_out: dict[str, Any], fail: set[str]) -> None:
    assert judge("numa-fallback", **left_out) == fail


# -- closed forms -----------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(away=st.floats(0, 1), seed=st.integers(0, 99))
def test_latency_is_the_mean_over_where_the_pages_are(away: float, seed: int) -> None:
    """Before: remote share and latency follow from where each thread was, which the trace tells."""
    tables = flat(5)
    measured, machine = measure(tables, [Ws2003()], seed=seed, trace=True, away=away, bursts=4, burst=8)
    pages: Counter[tuple[int, int]] = Counter()
    homes = {thread: node for node, thread in enumerate(sorted(tids(machine)))}
    for record in machine.tracer.records("PageFault/DemandZeroFault"):
        pages[homes[int(record["tid"])], int(record["node"])] += int(record["pages"])
    total = sum(pages.values())
    assert total == 5 * 4 * 8
    remote = sum(count for (home, node), count in pages.items() if home != node)
    assert measured["remote_share"] == measured["stranded_share"] == remote / total
    mean = sum(count * tables.latency[home][node] for (home, node), count in pages.items()) / total
    assert measured["latency"] == pytest.approx(mean, rel=1e-6)
    ideal, _ = measure(tables, [Ws2003(), NumaHome()], seed=seed, away=away, bursts=4, burst=8)
    assert (ideal["remote_share"], ideal["latency"]) == (0, 100)


def tids(machine: Machine) -> set[int]:
    """The workload's threads. Their ideal processors go round from node 0."""
    return {
        int(record["tid"])
        for record in machine.tracer.records("Thread/Start")
        if str(record["name"]).startswith("wanderers")
    }


def test_overflow_fills_the_nodes_by_distance() -> None:
    tables = flat(7, memory=1 << 20)  # 256 pages a node
    machine = boot(plugins=[Ws2003(), NumaHome()], tables=tables)
    process = machine.create_process("big")
    region = machine.memory.space(process).allocate(1000)
    assert region is not None
    machine.create_thread(process, iter([RunOn(1 << 5), Touch(region, accesses=0)]), ideal=2)
    machine.run()
    assert region.pages_by_node() == {2: 256, 1: 256, 3: 256, 0: 232}


def test_a_single_node_has_nothing_remote() -> None:
    for plugins in ([Ws2003()], [Ws2003(), NumaHome()]):
        measured, _ = measure(flat(1), plugins, away=1.0)
        assert (measured["remote_share"], measured["stranded_share"], measured["latency"]) == (0, 0, 100)


# -- options ----------------------------------------------------------------------------------------------


test_conformance = conformance("numa_home")


def test_above_its_limit_the_machine_is_one_node() -> None:
    """Pages come from anywhere, each node in proportion to its memory, wherever the thread is at home."""
    topology = Topology("unequal")
    for memory in (1 << 24, 3 << 24, 0):
        topology.add_processor(topology.add_core(topology.add_node(memory=memory)))
    tables = topology.freeze()
    plain, _ = measure(tables, [Ws2003(), NumaHome(processor_limit=3)], burst=1)
    assert plain["remote_share"] == pytest.approx(1 / 3)  # the node without memory has none of its own
    shares = Counter[int]()
    for seed in range(40):
        plugins = [Ws2003(), NumaHome(processor_limit=2)]
        _, machine = measure(tables, plugins, seed=seed, trace=True, burst=1)
        for record in machine.tracer.records("PageFault/DemandZeroFault"):
            shares[int(record["node"])] += 1
    assert shares.total() == 40 * 3 * 20
    assert shares[0] / shares.total() == pytest.approx(0.25, abs=0.03)
    assert shares[2] == 0


def test_the_limit_changes_nothing_on_a_machine_within_it() -> None:
    tables = load("opteron-4s").freeze()

    def digest(**options: Any) -> str:
        _, machine = measure(tables, [Ws2003(), NumaHome(**options)], trace=True, starved=0.2)
        return machine.tracer.digest()

    assert digest() == digest(processor_limit=8) != digest(processor_limit=7)


def orders(tables: Tables, **options: Any) -> list[list[int]]:
    """In which order the others are tried, for each home."""
    machine = boot(plugins=[Ws2003(), NumaHome(**options)], tables=tables)
    return [list(machine.hooks.fallback_order(machine.memory, home)) for home in range(tables.nodes)]


def test_what_is_known_of_distances_is_the_order() -> None:
    tables = load("nehalem-ex-8s").freeze()
    by_number = [[node for node in range(8) if node != home] for home in range(8)]
    for home, measured in enumerate(orders(tables)):
        assert sorted(measured) == by_number[home]
        assert [tables.latency[home][node] for node in measured] == [200] * 3 + [260] * 4
    assert orders(tables, noise=0) == [list(row[1:]) for row in tables.nearest]
    assert orders(tables, distances="slit") == orders(tables, distances="flat") == by_number


def test_a_firmware_that_says_nothing_leaves_the_nodes_in_their_order() -> None:
    tables = flat(5)
    assert tables.distances is None
    assert orders(tables, distances="slit")[2] == [0, 1, 3, 4]
    assert orders(tables, noise=0)[2] == [1, 3, 0, 4]


@settings(max_examples=20, deadline=None)
@given(noise=st.floats(0, 1), seed=st.integers(0, 99))
def test_timing_errs_by_no_more_than_its_noise(noise: float, seed: int) -> None:
    """Nodes whose latencies differ by more than both errors are never confused."""
    tables = load("superdome").freeze()
    machine = boot(plugins=[Ws2003(), NumaHome(noise=noise)], tables=tables, seed=seed)
    found = machine.hooks.fallback_order(machine.memory, 5)
    for position, before in enumerate(found):
        for after in found[position + 1 :]:
            assert tables.latency[5][before] * (1 - noise) <= tables.latency[5][after] * (1 + noise)
    assert machine.hooks.fallback_order(machine.memory, 5) == found


def test_timing_errs_to_both_sides() -> None:
    """Of 16 latencies that are 479 ns but for a few, some are taken for less and some for more."""
    tables = load("superdome").freeze()
    plugin = NumaHome(noise=0.1)
    machine = boot(plugins=[Ws2003(), plugin], tables=tables)
    found = [
        ns / true for ns, true in zip(plugin._distances(machine.memory, 3), tables.latency[3], strict=True)
    ]
    assert 0.9 <= min(found) < 0.95
    assert 1.05 < max(found) <= 1.1


@pytest.mark.skipif(not HWLOC.is_dir(), reason="the real descriptions are not here")
def test_a_firmware_that_tells_the_truth_is_as_good_as_timing() -> None:
    tables = load(str(HWLOC / "256ia64-64n2s2c.xml")).freeze()
    assert tables.distances is not None
    assert orders(tables, distances="slit") == orders(tables, noise=0) != orders(tables, distances="flat")


def test_mistakes_are_named() -> None:
    tables = load("opteron-4s").freeze()
    with pytest.raises(UserError, match="headroom"):
        measure(tables, [Ws2003()], starved=0.1, headroom=1.0)
    with pytest.raises(UserError, match="memory is full"):
        measure(flat(2, memory=1 << 20), [Ws2003(paging_file=0)], bursts=10)
    with pytest.raises(ValueError, match="out of range"):
        NumaHome(processor_limit=-1)


@pytest.mark.skipif(not HWLOC.is_dir(), reason="the real descriptions are not here")
@pytest.mark.parametrize("file", sorted(HWLOC.glob("*.xml")), ids=lambda file: file.stem)
def test_it_runs_on_real_machines(file: Path) -> None:
    tables = load(str(file)).freeze()
    before, _ = measure(tables, [Ws2003()], away=0.4, bursts=4)
    after, _ = measure(tables, [Ws2003(), NumaHome()], away=0.4, bursts=4)
    assert after["remote_share"] == 0
    assert (before["remote_share"] > 0.2) == (tables.nodes > 1)


# -- memory that comes back from the paging file -------------------------------------------------------------

with_paging = pytest.mark.skipif(
    not {"paging_writes", "standby_migration"} <= set(installed().names()),
    reason="the experiment needs plugins that are not installed",
)
SMALL = {"max_cluster": "64 KiB", "max_read": "64 KiB", "gather_neighbours": False, "fill_cluster": False}


@with_paging
@pytest.mark.parametrize(
    ("change", "fail"),
    [
        (
            {f"paging_writes.{option}": value for option, value in SMALL.items()},
            {"mixed", "home-large", "migrate", "reads", "worth"},
        ),
        ({"standby_migration.minimum_benefit": "1 h"}, {"migrate", "worth"}),
        ({"workload.moved": "for_good"}, {"node", "mixed", "home-large", "migrate", "worth"}),
    ],
)
def test_claims_about_paging_fail_without_what_they_are_about(change: dict[str, Any], fail: set[str]) -> None:
    """Large transfers, moving standby pages, threads that are away. The kit takes this plugin away."""
    assert failing("numa-paging", change) == {f"numa-paging-{claim}" for claim in fail}


@with_paging
@pytest.mark.skipif(not HWLOC.is_dir(), reason="the real descriptions are not here")
def test_large_reads_mix_the_memory_of_64_real_nodes() -> None:
    """A read of 1 MiB holds pieces of 16 nodes there, too: the other 48 wait for their own reads."""
    file = str(HWLOC / "256ia64-64n2s2c.xml")
    found = ntlab.run("numa-paging", hardware=file, seeds=1, set={"workload.pieces": 2})
    remote = {name: arm.metrics["remote_share"].mean for name, arm in found.arms.items()}
    assert remote["large_home"] == pytest.approx(15 / 16, abs=0.05)
    assert (remote["home"], remote["after"], remote["moved_before"], remote["moved_home"]) == (0, 0, 0, 1)


@with_paging
@settings(max_examples=15, deadline=None)
@given(
    nodes=st.integers(1, 5),
    pieces=st.integers(1, 6),
    piece=st.sampled_from([1, 5, 16, 64]),
    away=st.sampled_from([0.0, 0.5]),
    ours=st.booleans(),
    seed=st.integers(0, 99),
)
def test_pages_are_where_the_trace_says_that_their_reader_was(
    nodes: int, pieces: int, piece: int, away: float, ours: bool, seed: int
) -> None:
    """A page is as far away as the node that its reader had it brought to; the rest is whose page it is."""
    registry = installed()
    others = [registry.plugin("paging_writes").info.cls()] + [NumaHome()] * ours
    machine = boot(plugins=[Ws2003(), *others], tables=flat(nodes), seed=seed, trace=True)
    workload = PagedOut(pieces=pieces, piece=piece * 4096, away=away)
    workload.start(machine)
    machine.run()
    machine.check()
    measured = {metric.name: metric.value for metric in workload.measure(machine)}
    (space,) = machine.memory.spaces.values()
    (region,) = space.regions
    elsewhere = 0
    for record in machine.tracer.records("Allocate"):
        for page in range(int(record["page"]), int(record["page"]) + int(record["pages"])):
            if region.first <= page < region.stop:  # what was filled was filled at home
                elsewhere += int(record["home"]) != (page - region.first) // piece % nodes
    total = nodes * pieces * piece
    assert measured["stranded_share"] == measured["remote_share"] == elsewhere / total
    assert measured["reads"] <= pieces * nodes


def test_mistakes_about_paging_are_named() -> None:
    with pytest.raises(UserError, match="no paging file"):
        PagedOut().start(boot(plugins=[Ws2003(paging_file=0)]))
    with pytest.raises(UserError, match="commit limit"):
        PagedOut(pieces=1 << 20).start(boot(plugins=[Ws2003()]))
    machine = boot(plugins=[Ws2003()])
    workload = PagedOut()
    workload.start(machine)
    machine.run(1000)
    with pytest.raises(UserError, match="duration: the run ended before"):
        workload.measure(machine)
