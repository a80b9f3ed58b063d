"""P6: how many processors are unparked and which, who may run on parked ones, what it costs and saves."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import ntlab
from judging import failing
from ntlab.errors import UserError
from ntlab.hooks import hookimpl
from ntlab.lab.registry import installed
from ntlab.lab.statistics import estimate
from ntlab.machine import Compute, Machine, Power, Request, Sleep, Thread
from ntlab.plugin import plugin
from ntlab.testing import boot, conformance, small_tables
from ntlab.topology import Tables, load
from ntlab_core_parking import CoreParking
from ntlab_core_parking.workloads import Requests
from ntlab_ws2003 import Ws2003

MS = 1_000_000
STUDY = Path(__file__).parents[2] / "benchmarks" / "core_parking_study.py"
HWLOC = Path(__file__).parents[3] / "shared" / "data" / "hwloc"

test_conformance = conformance(
    "core_parking",
    idle={
        "choose_thread": "few leave a parked processor while others wait; see test_a_parked_processor",
        "hardware_changed": "nothing comes or goes; see test_a_processor_that_comes",
        "power_policy": "the baseline asks first in all arms; see test_neutral_options",
    },
)


@pytest.mark.parametrize(
    ("experiment", "changes", "fail"),
    [
        (
            "core-parking",
            {"core_parking.min_cores": "100 %"},
            {
                "core-parking-power",
                "core-parking-energy",
                "core-parking-sleep",
                "core-parking-parked",
                "core-parking-awake",
            },
        ),
        (
            "core-parking",
            {"packages.core_parking.prefer_packages": False},
            {"core-parking-power", "core-parking-energy", "core-parking-sleep"},
        ),
        ("core-parking-knee", {"ws2003.idle_states": "first"}, {"core-parking-knee-power"}),
        (
            "core-parking-c1",
            {"deep_on.core_parking.min_cores": "100 %", "on.core_parking.min_cores": "100 %"},
            {"core-parking-needs-deep-states", "core-parking-c1-tail"},
        ),
        (
            "core-parking-numa",
            {"strict.core_parking.numa_override": "whole_node"},
            {
                "core-parking-remote",
                "core-parking-stalls",
                "core-parking-refill",
                "core-parking-remote-response",
                "core-parking-remote-power",
            },
        ),
        (
            "core-parking-burst",
            {"all.core_parking.increase_policy": "single"},
            {"core-parking-ramp", "core-parking-burst-response"},
        ),
        (
            "core-parking-burst",
            {"slow.core_parking.time_check": "50 ms"},
            {"core-parking-ramp", "core-parking-burst-response"},
        ),
        (
            "core-parking-clocks",
            {"core_parking.performance": "none"},
            {"core-parking-clocks-power", "core-parking-clocks-response"},
        ),
    ],
)
def test_each_claim_fails_without_what_it_is_about(
    experiment: str, changes: dict[str, Any], fail: set[str]
) -> None:
    result = ntlab.run(experiment, set=changes)
    assert {found.claim.id for found in result.claims if not found.holds} == fail


@pytest.mark.parametrize(
    ("change", "fail"),
    [
        ({"core_parking.min_cores": "100 %"}, {"queue", "wake", "concurrency"}),
        ({"ws2003.idle_states": "first"}, {"wake"}),
    ],
)
def test_messages_wait_for_processors_only_if_those_are_parked(
    change: dict[str, Any], fail: set[str]
) -> None:
    if "core-parking-ports" not in installed().experiment_files:
        pytest.skip("it needs a plugin that is not installed")
    assert failing("core-parking-ports", change) == {f"core-parking-ports-{claim}" for claim in fail}


def booted(rules: CoreParking, tables: Tables | None = None, **baseline: Any) -> tuple[Machine, Power]:
    machine = boot(
        plugins=[Ws2003(power=True, **baseline), rules], tables=tables or small_tables(16, nodes=2)
    )
    assert machine.power is not None
    return machine, machine.power


def hogs(machine: Machine, *affinities: int | None, ideal: int | None = None) -> list[Thread]:
    process = machine.create_process("hogs")

    def program() -> Iterator[Request]:
        while True:
            yield Compute(1000 * MS)

    return [machine.create_thread(process, program(), affinity=mask, ideal=ideal) for mask in affinities]


def unparked(machine: Machine) -> list[int]:
    assert machine.power is not None
    return [p.index for p in machine.processors if not machine.power.parked >> p.index & 1]


# -- how many -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "scope", "expected"),
    [
        (0.10, "node", 2),  # one of each eight: a screen of R2 shows 6 of 8 parked, on two packages of four
        (0.10, "system", 2),
        (0.25, "node", 4),
        (0.0, "node", 1),
        (0.30, "node", 6),
        (0.30, "system", 5),
    ],
)
def test_an_idle_machine_is_parked_down_to_the_minimum(share: float, scope: Any, expected: int) -> None:
    machine, _ = booted(CoreParking(min_cores=share, scope=scope))
    machine.run(2000 * MS)
    assert len(unparked(machine)) == expected
    machine.check()


def test_two_packages_of_four_at_light_load_have_six_parked() -> None:
    """The screen of R2 that facts 7.7 cite."""
    machine, _ = booted(CoreParking(), small_tables(8, nodes=2))
    machine.run(2000 * MS)
    assert unparked(machine) == [0, 4]


def test_a_quarter_of_a_node_of_16_is_four() -> None:
    machine, _ = booted(CoreParking(min_cores=0.25), small_tables(32, nodes=2))
    machine.run(2000 * MS)
    assert unparked(machine) == [0, 1, 2, 3, 16, 17, 18, 19]


def test_the_maximum_is_raised_to_the_minimum_and_counts_from_the_start() -> None:
    with pytest.warns(UserWarning, match="core_parking.max_cores: 25% is raised to min_cores, 50%"):
        machine, _ = booted(CoreParking(min_cores=0.5, max_cores=0.25, scope="system"))
    assert unparked(machine) == list(range(8))


@pytest.mark.parametrize(
    ("policy", "check", "rounds"),
    [
        ("ideal", 50, [4, 7, 12, 16]),  # each ceil(n / 0.6)
        ("single", 50, list(range(4, 17))),
        ("all", 50, [4, 16]),
        ("ideal", 100, [4, 7, 12, 16]),
    ],
)
@pytest.mark.parametrize("checks", [1, 3])
def test_the_ramp_takes_so_many_checks_for_each_step(
    policy: Any, check: int, rounds: list[int], checks: int
) -> None:
    """Exact: sixteen threads that never stop, on a machine that was idle."""
    machine, power = booted(
        CoreParking(
            min_cores=0.25, scope="system", numa_override="off", increase_policy=policy,
            increase_time=checks, time_check=check * MS, overutilisation_threshold=1.0,
        )
    )  # fmt: skip
    start = 20 * check * MS
    machine.run(start)
    assert len(unparked(machine)) == 4
    hogs(machine, *[None] * 16)
    for step, expected in enumerate(rounds):
        machine.run(start + step * checks * check * MS + check * MS // 2)
        assert len(unparked(machine)) == expected, step
        machine.check()
    assert power.parking_changed == start + (len(rounds) - 1) * checks * check * MS


@pytest.mark.parametrize(("policy", "expected"), [("ideal", 8), ("single", 15), ("all", 4)])
def test_how_many_are_parked_at_a_time(policy: Any, expected: int) -> None:
    """Three threads that never stop: 3 / 0.4 processors bring the mean utility to the threshold."""
    machine, _ = booted(CoreParking(min_cores=0.25, scope="system", decrease_policy=policy))
    hogs(machine, *[None] * 3)
    machine.run(475 * MS)
    assert len(unparked(machine)) == 16
    machine.run(525 * MS)
    assert len(unparked(machine)) == expected


def test_between_the_thresholds_nothing_changes() -> None:
    machine, power = booted(CoreParking())
    hogs(machine, *[None] * 8)
    machine.run(5000 * MS)
    assert power.parked == 0


def test_nobody_looks_while_nothing_happens_and_again_when_it_does() -> None:
    machine, _ = booted(CoreParking(min_cores=0.25, scope="system", numa_override="off"))
    machine.run()
    ended = machine.engine.now
    assert ended % (50 * MS) == 0
    assert ended < 1000 * MS
    machine.run(10_020 * MS)
    events = machine.engine.events
    hogs(machine, *[None] * 16)
    machine.run(10_120 * MS)
    assert machine.engine.events > events
    assert len(unparked(machine)) == 4
    machine.run(10_170 * MS)  # full in the checks at 10.1, 10.15; that at 10.05 has seen it 30 of 50 ms
    assert len(unparked(machine)) == 4
    machine.run(10_220 * MS)
    assert len(unparked(machine)) == 7


# -- which --------------------------------------------------------------------------------------------------


def test_packages_in_use_come_first() -> None:
    """The same load, spread over both packages at first."""
    for prefer, packages in ((True, {0}), (False, {0, 1})):
        machine, _ = booted(
            CoreParking(min_cores=0.25, scope="system", numa_override="off", prefer_packages=prefer)
        )
        for index in (0, 8):
            hogs(machine, None, ideal=index)
        machine.run(2000 * MS)
        assert {machine.tables.package_of[index] for index in unparked(machine)} == packages


def test_what_is_unparked_stays_where_it_is() -> None:
    """Ten of sixteen: one package, and two of the other, however busy these are."""
    limits: dict[str, Any] = {"min_cores": 0.6, "max_cores": 0.6, "scope": "system", "numa_override": "off"}
    machine, power = booted(CoreParking(**limits, overutilisation_threshold=1.0))
    assert unparked(machine) == list(range(10))
    changed = power.parking_changed
    for index in (8, 9):
        hogs(machine, 1 << index)
    machine.run(3000 * MS)
    assert power.parking_changed == changed


def test_second_threads_of_a_core_come_last() -> None:
    tables = small_tables(8, siblings=2)
    machine, _ = booted(CoreParking(min_cores=0.5, siblings="last"), tables)
    machine.run(2000 * MS)
    assert unparked(machine) == [0, 2, 4, 6]
    machine, _ = booted(CoreParking(min_cores=0.5), tables)
    machine.run(2000 * MS)
    assert unparked(machine) == [0, 1, 2, 3]


def test_a_parked_processor_with_much_to_do_is_wanted() -> None:
    """A thread bound to processor 13 runs there, parked or not; the engine sees that and unparks it."""
    machine, _ = booted(CoreParking(min_cores=0.25, scope="system"))
    machine.run(1000 * MS)
    assert unparked(machine) == [0, 1, 2, 3]
    (bound,) = hogs(machine, 1 << 13)
    assert bound.processor is machine.processors[13]
    machine.run(1040 * MS)
    assert 13 not in unparked(machine)
    machine.run(1060 * MS)
    assert 13 in unparked(machine)
    assert len(unparked(machine)) == 4


def test_a_processor_that_often_gets_bound_threads_is_remembered() -> None:
    rules = CoreParking(min_cores=0.25, scope="system", affinity_history=4)
    machine, _ = booted(rules)
    machine.run(1000 * MS)

    def blinking() -> Iterator[Request]:
        for _ in range(200):
            yield Compute(MS)
            yield Sleep(9 * MS)

    machine.create_thread(machine.create_process("p"), blinking(), affinity=1 << 13)
    machine.run(1175 * MS)
    assert 13 not in unparked(machine)  # in three checks it was given threads
    machine.run(1225 * MS)
    assert 13 in unparked(machine)


# -- who may run on parked ones -----------------------------------------------------------------------------


def test_hard_affinity_always_wins() -> None:
    machine, _ = booted(CoreParking(min_cores=0.25, scope="system"))
    machine.run(1000 * MS)
    mask = 1 << 14 | 1 << 15
    threads = hogs(machine, mask, mask, mask)
    assert [thread.processor and thread.processor.index for thread in threads[:2]] == [14, 15]
    machine.run(1400 * MS)
    machine.check()
    assert all(machine.scheduler.run_time(thread) > 100 * MS for thread in threads)


@pytest.mark.parametrize(
    ("override", "own_busy", "expected"),
    [
        ("whole_node", False, {8}),
        ("ideal_node", False, {8}),
        ("off", False, {0}),
    ],
)
def test_a_thread_of_a_node_that_is_parked_as_a_whole(
    override: Any, own_busy: bool, expected: set[int]
) -> None:
    machine, _ = booted(CoreParking(min_cores=0.25, scope="system", numa_override=override))
    machine.run(1000 * MS)
    assert unparked(machine) == [0, 1, 2, 3]
    (thread,) = hogs(machine, None, ideal=8)
    assert {thread.processor and thread.processor.index} == expected


@pytest.mark.parametrize(("override", "there"), [("whole_node", 0), ("ideal_node", 1), ("off", 0)])
def test_a_thread_of_a_node_whose_unparked_processors_are_busy(override: Any, there: int) -> None:
    machine, _ = booted(CoreParking(min_cores=0.25, numa_override=override))
    machine.run(1000 * MS)
    assert unparked(machine) == [0, 1, 8, 9]
    threads = hogs(machine, None, None, None, ideal=8)
    nodes = [machine.tables.node_of[thread.processor.index] for thread in threads if thread.processor]
    assert nodes == [1, 1, there]


def test_threads_wait_for_unparked_processors_near_them() -> None:
    machine, _ = booted(CoreParking(min_cores=0.25, numa_override="off"))
    machine.run(1000 * MS)
    hogs(machine, *[None] * 4, ideal=0)
    waiting = hogs(machine, *[None] * 4, ideal=8)
    places = [thread.processor.index for thread in waiting if thread.processor]
    assert set(places) <= {8, 9}
    assert machine.scheduler.idle_mask == machine.power.parked  # type: ignore[union-attr]


def test_a_parked_processor_takes_no_threads_from_others() -> None:
    """One that is parked while it runs a bound thread, and has nothing to do afterwards while others wait."""
    machine, _ = booted(CoreParking(min_cores=0.25, scope="system", numa_override="off"))
    machine.run(1000 * MS)
    assert unparked(machine) == [0, 1, 2, 3]
    process = machine.create_process("bound")
    machine.create_thread(process, iter([Compute(5 * MS)]), affinity=1 << 9)
    bound = [machine.create_thread(process, iter([Compute(20 * MS)]), affinity=3 << 10) for _ in range(3)]
    hogs(machine, *[None] * 8)
    machine.run(1008 * MS)
    assert machine.scheduler.waiting_queues
    assert machine.scheduler.idle_mask >> 9 & 1
    # But it takes those that may run on parked ones only: the third of them does not wait for a turn.
    machine.run(1022 * MS)
    assert [thread.run_time for thread in bound[:2]] == [20 * MS] * 2
    assert bound[2].processor is not None
    assert machine.scheduler.run_time(bound[2]) > MS
    machine.check()


@plugin(name="growing", summary="Processors may be added.", release="ws2008")
class Growing:
    @hookimpl
    def partition_support(self) -> bool:
        return True


def test_a_processor_that_comes_is_parked_like_the_others_and_may_be_needed() -> None:
    rules = CoreParking(min_cores=0.25, scope="system", numa_override="off")
    machine = boot(plugins=[Ws2003(power=True), Growing(), rules], tables=small_tables(8, nodes=2))
    machine.partitioning.set_aside(2)
    machine.run(1000 * MS)
    assert unparked(machine) == [0, 1]
    machine.engine.at(1000 * MS, lambda _: machine.partitioning.add_processor() and None)
    machine.run(1001 * MS)
    machine.check()
    assert 6 in unparked(machine)  # it has come, and nobody has looked yet
    hogs(machine, *[None] * 8)
    machine.run(3000 * MS)
    machine.check()
    assert unparked(machine) == list(range(7))


# -- oracles ------------------------------------------------------------------------------------------------


def measure(tables: Tables, until: int, *plugins: object, seed: int = 1, **options: Any) -> dict[str, float]:
    machine = boot(plugins=plugins, tables=tables, seed=seed)
    workload = Requests(**options)
    workload.start(machine)
    machine.run(until)
    machine.check()
    return {metric.name: metric.value for metric in workload.measure(machine)}


def erlang(servers: int, load: float) -> tuple[float, float]:
    """The probability to wait, and the mean response over the service time (facts 14.2)."""
    blocked = 1.0
    for k in range(1, servers + 1):
        blocked = load * blocked / (k + load * blocked)
    wait = blocked / (1 - load / servers * (1 - blocked))
    return wait, 1 + wait / (servers - load)


@pytest.mark.parametrize(
    ("servers", "watts", "response"),
    [(16, 106.0, 1.0000), (12, 94.8, 1.0001), (8, 73.6, 1.0148), (6, 68.0, 1.1424), (5, 65.2, 1.5541)],
)
def test_the_table_of_power_and_response(servers: int, watts: float, response: float) -> None:
    """Facts 7.5: 16 cores in two packages, load 4, idle ones in C1 (3 us to leave), parked ones in C6."""
    assert erlang(servers, 4)[1] == pytest.approx(response, abs=5e-5)
    part = servers / 16
    limits: dict[str, Any] = {"min_cores": part, "max_cores": part, "scope": "system", "numa_override": "off"}
    found = [
        measure(
            load("xeon-2s").freeze(),
            1500 * MS,
            Ws2003(power=True, idle_states="first_unless_parked"),
            *([CoreParking(**limits)] if part < 1 else []),
            seed=seed,
            load=0.25,
            service=2 * MS,
            warm_up=100 * MS,
        )
        for seed in range(4)
    ]
    for run in found:
        # The load that the draws made; each core more that is busy draws 7 W more than one in C1.
        load_then = run["throughput"] * run["mean"] / run["slowdown"] / 1e9
        assert run["power"] == pytest.approx(watts + 7 * (load_then - 4), abs=0.7)
    mean = estimate([run["slowdown"] for run in found])
    assert mean.low - 0.01 <= response <= mean.high + 0.01


def test_watts_are_in_the_proportion_that_is_published() -> None:
    """A Xeon X5550 draws 95 W at most and 10 W when idle."""
    power = load("nehalem-2s").freeze().power
    busy = next(state.power for state in power.performance if state.speed == 2667)
    all_busy, all_asleep = power.package + 4 * busy, power.asleep + 4 * power.idle[-1].power
    assert all_busy / all_asleep == pytest.approx(95 / 10, rel=0.01)


def test_only_the_proportions_of_watts_matter() -> None:
    """With all of them seven times as high, energy is seven times as high, and nothing else is another."""
    tables = load("nehalem-2s").freeze()
    power = tables.power
    sevenfold = power._replace(
        idle=tuple(state._replace(power=7 * state.power, energy=7 * state.energy) for state in power.idle),
        performance=tuple(state._replace(power=7 * state.power) for state in power.performance),
        active=7 * power.active,
        package=7 * power.package,
        asleep=7 * power.asleep,
    )
    once, seven = (
        measure(each, 900 * MS, Ws2003(power=True), CoreParking(), load=0.2, service=MS, warm_up=100 * MS)
        for each in (tables, replace(tables, power=sevenfold))
    )
    assert seven.pop("power") == pytest.approx(7 * once.pop("power"), rel=1e-12)
    assert seven.pop("joules") == pytest.approx(7 * once.pop("joules"), rel=1e-12)
    assert seven == once


def test_stalls_are_those_of_local_and_remote_accesses() -> None:
    """1 + r (R - 1), with r as it came out: 65 ns in the node, 106 ns from the other."""
    found = measure(
        load("xeon-2s").freeze(), 1500 * MS, Ws2003(power=True),
        CoreParking(scope="system", numa_override="off"), load=0.1, service=MS, tenants=32, stalled=0.5,
    )  # fmt: skip
    assert 0.3 < found["remote_share"] < 0.6
    assert found["latency"] == pytest.approx(65 * (1 + found["remote_share"] * (106 / 65 - 1)), rel=1e-3)


def test_neutral_options_ask_for_nothing() -> None:
    machine = boot(plugins=[Ws2003(), CoreParking(min_cores=1.0)], tables=small_tables(4))
    assert machine.power is None
    machine = boot(plugins=[Ws2003(), CoreParking()], tables=small_tables(4))
    assert machine.power is not None


# -- clocks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "busy", "expected"),
    [
        ("ideal", 1.0, 0),  # more than any clock can do below 60 %: the fastest
        ("rocket", 1.0, 0),
        ("single", 1.0, 0),
        ("ideal", 0.2, 5),  # 0.2 of 2667 MHz is 0.33 of 1600
        ("rocket", 0.2, 5),
        ("single", 0.2, 2),
        ("ideal", 0.3, 3),  # 0.3 of 2667 MHz is 800 MHz: 0.4 of 2000, so 2133 MHz
        ("ideal", 0.5, 1),
    ],
)
def test_the_clock_after_one_check(policy: Any, busy: float, expected: int) -> None:
    machine, power = booted(CoreParking(min_cores=1.0, performance=policy), load("nehalem-2s").freeze())

    def program() -> Iterator[Request]:
        while True:
            yield Compute(round(busy * 10 * MS))
            if busy < 1:
                yield Sleep(round((1 - busy) * 10 * MS) - 3_000)  # and 3 us to wake

    machine.create_thread(machine.create_process("p"), program(), affinity=1)
    machine.run(51 * MS)
    assert power.asked(machine.processors[0]) == expected
    machine.check()


@pytest.mark.parametrize(("parked", "expected"), [("none", 1), ("lowest", 5), ("highest", 0)])
def test_the_clock_of_parked_processors(parked: Any, expected: int) -> None:
    machine, power = booted(CoreParking(parked_performance=parked), load("nehalem-2s").freeze())
    machine.run(2000 * MS)
    assert {power.asked(p) for p in machine.processors if power.parked & p.bit} == {expected}


# -- the study --------------------------------------------------------------------------------------------


@pytest.mark.skipif(not STUDY.is_file(), reason="only in the sources")
def test_the_study_is_run_and_drawn(tmp_path: Path) -> None:
    pytest.importorskip("ntlab_smt")
    spec = importlib.util.spec_from_file_location("core_parking_study", STUDY)
    assert spec is not None
    assert spec.loader is not None
    study = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(study)
    axes = {"workload.load": ["10 %", "40 %"], "hardware": ["uni"]}
    ntlab.sweep(study.EXPERIMENT, axes | {"workload.tenants": [4]}, out=tmp_path, seeds=1)
    study.draw(tmp_path, tmp_path)
    rows = (tmp_path / "core-parking.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * len(study.ARMS)
    picture = ElementTree.parse(tmp_path / "core-parking-load.svg").getroot()
    lines = picture.findall("{http://www.w3.org/2000/svg}polyline")
    machines = len({*study.MACHINES, "uni"})
    assert len(lines) == machines * (2 * (len(study.ARMS) - 1) + 2 * len(study.ARMS))
    assert sum(line.get("points") != "" for line in lines) * machines == len(lines)


# -- mistakes and machines ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"core_parking.decrease_threshold": "60 %"}, "it would oscillate"),
        ({"core_parking.performance_decrease": "80 %"}, "it would oscillate"),
        ({"core_parking.min_cores": "101 %"}, "not a share"),
        ({"core_parking.increase_threshold": -1}, "not a share"),
        ({"core_parking.time_check": "0 ms"}, "at least"),
        ({"core_parking.increase_policy": "rocket"}, "expected ideal, single or all|'ideal', 'single'"),
        ({"core_parking.increase_time": 101}, "1 to 100"),
        ({"core_parking.overutilisation_weighting": 0}, "1 to 1000"),
        ({"core_parking.min_cores": 0, "core_parking.max_cores": 0}, "leaves no processor unparked"),
        ({"ws2003.power": False}, "unknown metric 'power'"),
        ({"duration": "1 ms"}, "no request has ended"),
    ],
)
def test_mistakes_are_one_line(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        ntlab.run("core-parking", set=setting, seeds=1)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not HWLOC.is_dir(), reason="the real descriptions are not here")
@pytest.mark.parametrize("file", sorted(HWLOC.glob("*.xml")), ids=lambda file: file.stem)
def test_it_runs_on_real_machines(file: Path) -> None:
    tables = load(str(file)).freeze()
    options: dict[str, Any] = {"load": 0.05, "service": 20 * MS, "law": "constant", "warm_up": 600 * MS}
    off = measure(tables, 900 * MS, Ws2003(power=True), **options)
    rules = CoreParking(scope="system", numa_override="off")
    on = measure(tables, 900 * MS, Ws2003(power=True), rules, **options)
    assert off["parked"] == off["settled"] == 0
    if tables.processors > 8:
        assert on["parked"] > tables.processors / 2
        assert on["power"] < 1.05 * off["power"]
