"""P4: what cores of two do against the expectation over all places (facts 5 and 14.8), and the claims."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ntlab
from judging import failing
from ntlab.errors import UserError
from ntlab.lab.registry import installed
from ntlab.machine import Machine
from ntlab.machine.threads import Compute
from ntlab.quantities import MILLISECOND
from ntlab.testing import boot, bursts, conformance, small_tables
from ntlab.topology import Tables, Topology, load
from ntlab_smt import Bursts, Hogs, Smt, aware, blind
from ntlab_smt.workloads import Watch
from ntlab_ws2003 import Ws2003

HWLOC = Path(__file__).parents[3] / "shared" / "data" / "hwloc"
BLIND: Final = ("ideal_node", "ideal", "last")
"""Windows 2000: siblings are processors like all others."""
METRICS = ("throughput", "misplaced")


def ws(known: bool) -> Ws2003:
    return Ws2003() if known else Ws2003(placement=BLIND)


def machine_of(cores: int, known: bool, siblings: int = 2, **options: Any) -> Machine:
    return boot(plugins=[ws(known), Smt(**options)], tables=small_tables(cores * siblings, siblings=siblings))


def done(machine: Machine, ideals: Sequence[int], time: int = 8 * MILLISECOND) -> tuple[Fraction, int]:
    """What threads with these ideal processors do, in cores, and how long one of them was misplaced."""
    watch = Watch(machine, [mask for mask in machine.tables.core_mask if mask])
    ends = 0

    def program() -> Any:
        nonlocal ends
        while True:
            yield Compute(MILLISECOND)
            ends += 1

    process = machine.create_process("p")
    for ideal in ideals:
        machine.create_thread(process, program(), ideal=ideal)
    machine.run(time)
    machine.check()
    watch.account()
    machine.run(time + 10)  # rounded up, a burst may end some ns later
    return Fraction(ends * MILLISECOND, time), watch.misplaced


# -- the oracle


@pytest.mark.parametrize(
    ("cores", "threads", "without", "with_it"),
    [(2, 2, 1.750, 2), (4, 4, 3.357, 4), (4, 6, 4.393, 4.5), (8, 8, 6.6, 8), (4, 8, 5, 5), (4, 1, 1, 1)],
)
def test_gold(cores: int, threads: int, without: float, with_it: float) -> None:
    assert blind(cores, threads, 1.25) == pytest.approx(without, abs=0.0005)
    assert aware(cores, threads, 1.25) == with_it


@pytest.mark.parametrize(("cores", "threads"), [(2, 2), (2, 3), (3, 3), (4, 4), (4, 6)])
@pytest.mark.parametrize("throughput", [1.25, 1.0])
def test_the_mean_over_all_places_is_the_expectation_exactly(
    cores: int, threads: int, throughput: float
) -> None:
    if throughput == 1.25 or cores < 4:
        places = list(combinations(range(2 * cores), threads))
        found = [done(machine_of(cores, False, throughput=(throughput,)), place) for place in places]
        assert float(sum(each[0] for each in found) / len(places)) == pytest.approx(
            blind(cores, threads, throughput), abs=1e-12
        )


@settings(max_examples=40)
@given(st.data())
def test_with_idle_cores_first_the_places_asked_for_do_not_matter(data: st.DataObject) -> None:
    cores = data.draw(st.integers(1, 6))
    ideals = data.draw(st.lists(st.integers(0, 2 * cores - 1), min_size=1, max_size=2 * cores))
    got, misplaced = done(machine_of(cores, True), ideals)
    assert got == aware(cores, len(ideals), 1.25)
    assert misplaced == 0


@settings(max_examples=30)
@given(st.lists(st.integers(0, 7), min_size=1, max_size=8, unique=True))
def test_who_knows_nothing_of_cores_goes_where_it_is_asked_to(ideals: list[int]) -> None:
    got, misplaced = done(machine_of(4, False), ideals)
    pairs = sum(2 * core in ideals and 2 * core + 1 in ideals for core in range(4))
    idle = any(2 * core not in ideals and 2 * core + 1 not in ideals for core in range(4))
    assert got == pairs * Fraction(5, 4) + len(ideals) - 2 * pairs
    assert misplaced == (8 * MILLISECOND if pairs and idle else 0)


def test_affinity_may_force_two_threads_on_one_core() -> None:
    machine = machine_of(2, True)
    watch = Watch(machine, machine.tables.core_mask)
    process = machine.create_process("bound", affinity=0b11)
    for _ in range(2):
        machine.create_thread(process, bursts(5 * MILLISECOND))
    machine.run()
    watch.account()
    assert machine.engine.now == watch.misplaced == 8 * MILLISECOND


def test_nobody_moves_a_running_thread_to_a_core_that_falls_idle() -> None:
    """Three threads on two cores: when the one alone ends, the others still share theirs."""
    machine = machine_of(2, True)
    watch = Watch(machine, machine.tables.core_mask)
    process = machine.create_process("p")
    for work in (5, 1, 5):
        machine.create_thread(process, bursts(work * MILLISECOND))
    machine.run()
    watch.account()
    assert machine.engine.now == 8 * MILLISECOND
    assert watch.misplaced == 7 * MILLISECOND


def test_a_core_of_four_does_what_is_stated_last_for_more() -> None:
    got, _ = done(machine_of(1, True, siblings=4, throughput=(1.25, 1.5)), range(4))
    assert got == Fraction(3, 2)
    got, _ = done(machine_of(1, True, siblings=4, throughput=(1.25, 1.5)), range(2))
    assert got == Fraction(5, 4)


@pytest.mark.skipif(not HWLOC.is_dir(), reason="the real descriptions are not here")
@pytest.mark.parametrize("known", [False, True])
def test_on_every_real_machine(known: bool) -> None:
    """As many threads as cores, each asking for a processor of the first half of all."""
    for path in sorted(HWLOC.glob("*.xml")):
        tables = load(path).freeze()
        siblings = max(map(len, tables.core_processors))
        cores = sum(map(bool, tables.core_mask))
        machine = boot(plugins=[ws(known), Smt()], tables=tables)
        order = sorted(range(tables.processors), key=lambda i: (tables.core_of[i], i))
        got, misplaced = done(machine, order[:cores])
        if siblings == 1 or known:
            assert got == cores
            assert misplaced == 0
        else:
            assert got == cores // siblings * Fraction(5, 4) + cores % siblings
            assert misplaced > 0


# -- what cannot be


def uneven() -> Tables:
    topology = Topology("uneven")
    node = topology.add_node(memory=1 << 20)
    for processors in (2, 1):
        core = topology.add_core(node)
        for _ in range(processors):
            topology.add_processor(core)
    return topology.freeze()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"throughput": (0.9,)}, "2 processors of a core do 0.9 times.*expected 1 or more, or allow_loss"),
        ({"throughput": (2.5,)}, "2 processors of a core do 2.5 times.*expected at most 2"),
        ({"throughput": (1.5, 3.5)}, "3 processors of a core do 3.5 times.*expected at most 3"),
        ({"throughput": (0.0,), "allow_loss": True}, "2 processors of a core do 0 times.*more than 0"),
        ({"throughput": (float("nan"),)}, "2 processors of a core do nan times.*expected at most 2"),
    ],
)
def test_impossible_cores(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        boot(plugins=[ws(True), Smt(**options)], tables=small_tables(4, siblings=4))


def test_a_loss_that_is_declared() -> None:
    assert done(machine_of(1, True, throughput=(0.75,), allow_loss=True), range(2))[0] == Fraction(3, 4)


def test_uneven_cores_must_be_declared() -> None:
    with pytest.raises(UserError, match=r"uneven has cores of 1 and of 2 processors.*uneven_cores = true"):
        boot(plugins=[ws(True), Smt()], tables=uneven())
    machine = boot(plugins=[ws(True), Smt(uneven_cores=True)], tables=uneven())
    assert done(machine, [0, 1, 2])[0] == Fraction(9, 4)
    assert boot(plugins=[Smt(throughput=())], tables=uneven()).siblings.throughput == ()


def test_impossible_workloads() -> None:
    machine = boot(plugins=[ws(True), Smt()], tables=small_tables(4, siblings=2))
    with pytest.raises(UserError, match=r"3 cores.*at most 2"):
        Hogs(cores=3).start(machine)
    with pytest.raises(UserError, match=r"5 threads.*at most 4"):
        Hogs(threads=5).start(machine)
    with pytest.raises(UserError, match=r"3 cores.*at most 2"):
        Bursts(cores=3).start(machine)


# -- the claims


def test_each_claim_of_places_needs_a_core_that_is_shared() -> None:
    assert failing("smt", {"smt.throughput": [2.0]}) == {
        "smt-throughput",
        "smt-throughput-many",
        "smt-worst-case",
    }


def test_and_a_scheduler_that_knows_of_it() -> None:
    """Told to 2003, too, that a processor is a processor, no arm is better than another."""
    lost = {"smt-throughput", "smt-throughput-many", "smt-no-core-idles"}
    assert failing("smt", {"ws2003.placement": list(BLIND)}) == lost
    assert failing("smt-bursts", {"ws2003.placement": list(BLIND)}) == {
        "smt-bursts-slowdown",
        "smt-bursts-remainder",
    }


@pytest.mark.skipif("core_parking" not in installed().names(), reason="the experiment needs core_parking")
def test_parking_enforces_whole_cores_only_where_siblings_are_parked_first() -> None:
    both = {"smt-parking-enforces", "smt-parking-slowdown"}
    assert both <= failing("smt-parking", {"core_parking.siblings": "alike"})
    for change in ({"core_parking.min_cores": "100 %"}, {"smt.throughput": [2.0]}):
        assert failing("smt-parking", change) == {*both, "smt-parking-many"}


def test_who_shares_data_gains_by_sharing_a_core_only_where_lines_must_travel() -> None:
    both = {"smt-shared-data", "smt-shared-data-lines"}
    assert failing("smt-shared-data", {"workload.data": "64 B"}) == both
    assert failing("smt-shared-data", {"smt.throughput": [2.0]}) == {"smt-shared-data"}


@pytest.mark.skipif(not HWLOC.is_dir(), reason="the real descriptions are not here")
def test_the_experiments_on_a_real_machine() -> None:
    """Two processors of six cores of two threads."""
    file = str(HWLOC / "24em64t-2n6c2t-pci.xml")
    result = ntlab.run("smt-shared-data", hardware=file)
    assert all(found.holds for found in result.claims)
    arms = ntlab.run("smt", hardware=file, seeds=2).arms
    throughput, misplaced = ({n: arm.metrics[m].mean for n, arm in arms.items()} for m in METRICS)
    assert (throughput["aware"], throughput["aware_six"], throughput["aware_eight"]) == (4, 4.5, 8)
    assert throughput["blind"] == pytest.approx(blind(4, 4, 1.25), abs=0.15)
    assert misplaced["aware"] == misplaced["aware_six"] == misplaced["aware_eight"] == 0


test_conformance = conformance("smt")
