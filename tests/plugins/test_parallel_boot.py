"""K5: boots against bounds, schedules and paths worked out apart (scheduling facts 13); mistakes; claims."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ntlab
from ntlab.errors import SimulationError, UserError
from ntlab.hooks import hookimpl
from ntlab.machine import DiskModel, Startup, Task
from ntlab.plugin import plugin
from ntlab.quantities import MILLISECOND, SECOND, Duration, Rate, Size
from ntlab.testing import boot, conformance
from ntlab_parallel_boot import ParallelBoot
from ntlab_parallel_boot.dependencies import bounds, random_graph, read_graph
from ntlab_parallel_boot.workloads import Boot, RandomBoot
from ntlab_ws2003 import Ws2003

HWLOC = Path(__file__).parents[3] / "shared" / "data" / "hwloc"
MS = MILLISECOND


def task(name: str, *needs: str, **figures: Any) -> Task:
    return Task(name=name, needs=needs, **figures)


def booted(
    tasks: Sequence[Task], processors: int = 4, *plugins: object, disk: str | DiskModel = "sata7k2"
) -> Startup:
    machine = boot(processors, [Ws2003(), *plugins], trace=True, hooks="checked")
    startup = Startup(machine, tasks, disk)
    startup.begin()
    machine.run()
    machine.check()
    return startup


def took(*arguments: Any, **keywords: Any) -> int:
    return booted(*arguments, **keywords).ended


# -- one by one, and beside each other


def longest_path(tasks: Sequence[Task], own: dict[str, int]) -> int:
    """By trying every path."""
    needs = {each.name: each.needs for each in tasks}

    def way(name: str) -> int:
        return own[name] + max((way(need) for need in needs[name]), default=0)

    return max(way(name) for name in needs)


def test_one_by_one_a_boot_takes_the_sum_of_its_tasks() -> None:
    tasks = read_graph("drivers")[0]
    startup = booted(tasks, 8)
    assert startup.ended == sum(each.cpu + each.wait for each in tasks) == 5200 * MS
    runs = list(startup.runs.values())
    assert all(a.ended <= b.started or b.ended <= a.started for a, b in itertools.combinations(runs, 2))


def test_beside_each_other_each_starts_when_what_it_needs_is_done() -> None:
    tasks = read_graph("drivers")[0]
    startup = booted(tasks, 8, ParallelBoot())
    assert startup.ended == longest_path(tasks, {each.name: each.cpu + each.wait for each in tasks})
    for run in startup.runs.values():
        assert run.started == max((startup.runs[need].ended for need in run.task.needs), default=0)
        assert run.ended == run.started + run.own_time


def list_schedule(tasks: Sequence[Task], processors: int) -> dict[str, tuple[int, int]]:
    """When each task runs if a free processor takes the first in the list that may start (Graham)."""
    spans: dict[str, tuple[int, int]] = {}
    now = 0
    while len(spans) < len(tasks):
        running = sum(end > now for _, end in spans.values())
        for each in tasks:
            may = all(need in spans and spans[need][1] <= now for need in each.needs)
            if each.name not in spans and may and running < processors:
                spans[each.name] = (now, now + each.cpu)
                running += each.cpu > 0
        now = min((end for _, end in spans.values() if end > now), default=now)
    return spans


@st.composite
def graphs(draw: st.DrawFn, *, mixed: bool = False) -> list[Task]:
    tasks = []
    for number in range(draw(st.integers(1, 14))):
        needs = draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set()
        figures: dict[str, Any] = {"cpu": draw(st.integers(1, 40)) * MS}
        if mixed:
            figures["wait"] = draw(st.integers(0, 40)) * MS
            figures["read"] = draw(st.integers(0, 300)) * 1024
            figures["processors"] = draw(st.integers(1, 2))
        tasks.append(task(f"t{number}", *(f"t{need}" for need in sorted(needs)), **figures))
    return tasks


@settings(max_examples=60)
@given(graphs(), st.integers(1, 5))
def test_so_many_at_a_time_is_list_scheduling(tasks: list[Task], processors: int) -> None:
    startup = booted(tasks, processors, ParallelBoot(limit=processors))
    assert {name: (run.started, run.ended) for name, run in startup.runs.items()} == list_schedule(
        tasks, processors
    )


@settings(max_examples=40)
@given(
    graphs(mixed=True), st.integers(2, 5), st.sampled_from(["sata7k2", "ssd"]), st.booleans(), st.booleans()
)
def test_no_boot_leaves_its_bounds(
    tasks: list[Task], processors: int, disk: str, longest_first: bool, boosts: bool
) -> None:
    order = "critical_path" if longest_first else "listed"
    machine = boot(processors, [Ws2003(boosts=boosts), ParallelBoot(order=order)])
    startup = Startup(machine, tasks, disk)
    startup.begin()
    machine.run()
    found = bounds(startup)
    own = {name: run.own_time for name, run in startup.runs.items()}
    assert found.length == longest_path(tasks, own) == sum(own[name] for name in found.path)
    assert found.work == sum(each.cpu * each.processors for each in tasks)
    assert found.lower <= startup.ended <= found.upper
    for name, slack in found.slack.items():
        assert (slack == 0) >= (name in found.path)
        assert longest_path(tasks, {**own, name: own[name] + slack}) == found.length
        assert longest_path(tasks, {**own, name: own[name] + slack + 1}) == found.length + 1


@pytest.mark.parametrize("processors", [1, 2, 4, 8])
def test_sixty_tasks_of_given_sums_are_inside_the_bounds_of_graham_and_brent(processors: int) -> None:
    for seed in range(5):
        machine = boot(processors, [Ws2003(), ParallelBoot()], seed=seed)
        workload = RandomBoot()
        workload.start(machine)
        machine.run()
        got = {metric.name: metric.value for metric in workload.measure(machine)}
        total, path = Fraction(12_100 * MS), 1_800 * MS
        assert got["tasks_done"] == 60
        assert (got["work"], got["longest_path"]) == (total, path)
        lower, upper = (
            max(total / processors, path),
            total / processors + path * (1 - Fraction(1, processors)),
        )
        assert lower <= got["boot_time"] <= upper
        assert got["above_lower"] == got["boot_time"] - lower
        assert got["below_upper"] == int(upper) - got["boot_time"]


@given(st.integers(1, 40), st.integers(1, 30), st.integers(0, 100), st.integers(0, 1 << 30))
def test_drawn_graphs_have_the_sums_that_are_asked_for(count: int, path: int, more: int, seed: int) -> None:
    figures = {"count": count, "total": (path + more) * MS, "longest": path * MS, "step": MS}
    try:
        tasks = random_graph(random.Random(seed), **figures, where="here")
    except UserError:
        others = count - max(1, min(count // 5, path))
        assert more < others or more > others * path
        return
    own = {each.name: each.cpu for each in tasks}
    assert (len(own), sum(own.values()), min(own.values()) >= MS) == (count, figures["total"], True)
    # Names are in the order of a schedule: the paths are too many to try each.
    ends: dict[str, int] = {}
    for each in tasks:
        ends[each.name] = own[each.name] + max((ends[need] for need in each.needs), default=0)
    assert max(ends.values()) == figures["longest"]


@pytest.mark.parametrize("name", [each.name for each in read_graph("drivers")[0]])
@pytest.mark.parametrize("delay", [1, 100 * MS, 1500 * MS, 2 * SECOND])
def test_a_slow_driver_delays_by_all_or_by_what_exceeds_its_slack(name: str, delay: int) -> None:
    def ended(*plugins: object, **slow: Any) -> int:
        machine = boot(10, [Ws2003(), *plugins])
        workload = Boot(graph="drivers", **slow)
        workload.start(machine)
        machine.run()
        return machine.startups[0].ended

    slow = {"slow": name, "delay": Duration(delay)}
    slack = bounds(booted(read_graph("drivers")[0], 10, ParallelBoot())).slack[name]
    assert ended(**slow) == ended() + delay
    assert ended(ParallelBoot(), **slow) == ended(ParallelBoot()) + max(0, delay - slack)


@pytest.mark.parametrize(
    ("graph", "processors", "units"),
    [("graham", 3, 12), ("graham", 4, 15), ("graham-shorter", 3, 13), ("graham-freer", 3, 16)],
)
def test_grahams_anomalies(graph: str, processors: int, units: int) -> None:
    assert took(read_graph(graph)[0], processors, ParallelBoot(limit=processors)) == units * 100 * MS


def test_the_longest_way_first_is_the_better_order() -> None:
    tasks = [*(task(f"short {i}", cpu=10 * MS) for i in range(4)), task("long", cpu=20 * MS)]
    assert took(tasks, 2, ParallelBoot(limit=2)) == 40 * MS
    assert took(tasks, 2, ParallelBoot(limit=2, order="critical_path")) == 30 * MS


def test_only_tasks_of_some_kinds_beside_each_other() -> None:
    tasks = [task(f"driver {i}", kind="driver", wait=10 * MS) for i in range(3)]
    tasks += [task(f"service {i}", kind="service", wait=10 * MS) for i in range(3)]
    assert took(tasks, 4, ParallelBoot(kinds=("driver",))) == 30 * MS
    assert took(tasks, 4, ParallelBoot(kinds=())) == took(tasks) == 60 * MS
    assert took(tasks, 4, ParallelBoot()) == 10 * MS


# -- what tasks use


def test_the_disk_is_one_for_all() -> None:
    plain = DiskModel(capacity=Size(1 << 30), rate=Rate(1 << 20))
    tasks = [task(f"t{i}", read=64 * 1024) for i in range(8)]
    startup = booted(tasks, 8, ParallelBoot(), disk=plain)
    assert sum(run.disk_time for run in startup.runs.values()) == 8 * SECOND // 16
    assert 0 <= startup.ended - SECOND // 2 <= 100_000  # the interrupts
    assert startup.disk.reads == 8


def test_a_task_of_several_processors_works_on_all_of_them() -> None:
    startup = booted([task("wide", cpu=10 * MS, processors=4, wait=5 * MS)], 4)
    assert startup.ended == 15 * MS
    assert startup.runs["wide"].cpu_time == 40 * MS
    assert (
        booted([task(f"t{i}", cpu=10 * MS, processors=4) for i in range(2)], 4, ParallelBoot()).ended
        == 20 * MS
    )


def test_a_task_that_does_nothing_takes_no_time() -> None:
    assert took([task("a"), task("b", "a"), task("c", "b", "a", "a", cpu=MS)]) == MS


@plugin(name="on_demand", summary="Services start when they are needed.", release="ws2008r2")
class OnDemand:
    @hookimpl
    def task_starts_at_boot(self, task: Task) -> bool | None:
        return False if task.kind == "service" else None


def test_what_is_left_out_is_not_started_unless_something_needs_it() -> None:
    tasks = [task("driver", kind="driver", cpu=MS), task("a", cpu=MS), task("b", "a", cpu=MS)]
    tasks += [task("c", "b", cpu=MS), task("logon", "b", kind="logon", cpu=MS)]
    startup = booted(tasks, 4, OnDemand())
    assert list(startup.runs) == ["driver", "a", "b", "logon"]
    assert startup.left_out == {"c"}
    assert startup.ended == 4 * MS
    alone = booted([task("a", cpu=MS)], 1, OnDemand())
    assert (alone.runs, alone.ended) == ({}, 0)
    assert bounds(alone).upper == bounds(alone).length == 0


def test_records_tell_the_story() -> None:
    tasks = [task("a", kind="driver", cpu=MS), task("b", "a", kind="logon", wait=MS), task("c", "b", cpu=MS)]
    startup = booted(tasks)
    told = [
        (record.time // MS, record.name, *record.fields.values())
        for record in startup.machine.tracer.records("Task/Start", "Task/Stop", "100")
    ]
    assert told == [
        (0, "Task/Start", "a", "driver"),
        (1, "Task/Stop", "a", MS, 0),
        (1, "Task/Start", "b", "logon"),
        (2, "Task/Stop", "b", 0, 0),
        (2, "Task/Start", "c", "service"),
        (3, "Task/Stop", "c", MS, 0),
        (3, "100", 3 * MS, 2 * MS),
    ]


def test_a_broken_boot_is_noticed() -> None:
    startup = booted([task("a", cpu=MS), task("b", "a", cpu=MS)])
    startup.runs["b"].started = 0
    with pytest.raises(SimulationError, match="'b' started before all that it needs was done"):
        startup.machine.check()


# -- from a user's file


def experiment(folder: Path, graph: str, *more: str) -> Path:
    (folder / "mine.toml").write_text(graph)
    file = folder / "experiment.toml"
    options = ["[workload]", 'use = "parallel_boot.boot"', f"graph = {str(folder / 'mine.toml')!r}", *more]
    file.write_text(
        "\n".join(['name = "mine"', 'hardware = "smp-4"', *options, "[plugins.ws2003]", "[arms.one]"])
    )
    return file


GOOD = """
[[tasks]]
name = "first"
kind = "driver"
cpu = "1.5 ms"
[[tasks]]
name = "second"
needs = ["first"]
wait = "2 s"
"""


def test_a_graph_of_ones_own(tmp_path: Path) -> None:
    (run,) = ntlab.run(experiment(tmp_path, GOOD)).runs
    assert run.value("boot_time") == 2_001_500_000


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (GOOD + '[[tasks]]\nname = "first"', "two tasks are called 'first'"),
        (GOOD + '[[tasks]]\nname = "a"\nneeds = ["secnd"]', "needs of 'a': unknown task 'secnd'.*'second'"),
        (GOOD + '[[tasks]]\nname = "a"\nneeds = ["a"]', "tasks need each other: 'a' needs 'a'"),
        (
            '[[tasks]]\nname = "a"\nneeds = ["b"]\n[[tasks]]\nname = "b"\nneeds = ["c"]\n'
            '[[tasks]]\nname = "c"\nneeds = ["a"]',
            "need each other: ('a' needs 'b' needs 'c' needs 'a'|'b' .* 'b'|'c' .* 'c'); expected no cycle",
        ),
        (GOOD + '[[tasks]]\nname = "a"\ncpu = "-1 ms"', "task 'a' has cpu = -1000000 ns; expected 0 or more"),
        (GOOD + '[[tasks]]\nname = "a"\nwait = "-1 s"', "task 'a' has wait = -1000000000 ns"),
        (GOOD + '[[tasks]]\nname = "a"\nread = "-1 KiB"', "task 'a' has read = -1024 B"),
        (GOOD + '[[tasks]]\nname = "a"\nprocessors = 5', "'a' needs 5 processors; expected 1 to 4"),
        (GOOD + '[[tasks]]\nname = "a"\nread = "1 TiB"', "bytes are read of a disk of"),
        (GOOD + '[[tasks]]\nname = "a"\ncpu = 3', r"tasks.\[2\].cpu: 3 is not a duration"),
        (GOOD + '[[tasks]]\nname = "a"\nneed = ["first"]', "unknown key 'need'.*'needs'"),
        (GOOD + '[[tasks]]\ncpu = "3 ms"', r"tasks.\[2\]: the key 'name' is missing"),
        (GOOD + '[[tasks]]\nname = "a"\nkind = "drivr"', "'drivr' is no choice here"),
        (GOOD + '[[tasks]]\nname = ""', "task 3 has no name"),
        ("tasks = []", "there is no task"),
        ("[[tasks]", "is not valid TOML"),
    ],
)
def test_bad_graphs_are_refused_in_one_line(tmp_path: Path, graph: str, message: str) -> None:
    file = experiment(tmp_path, graph)
    with pytest.raises(UserError, match=message) as error:
        ntlab.run(file)
    assert "mine.toml" in str(error.value)
    assert "\n" not in str(error.value).rstrip()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"graph": "servr"}, "there is no graph 'servr'; expected a file, or one of: compute"),
        ({"slow": "netwrk", "delay": Duration(1)}, "slow: unknown task 'netwrk'"),
        ({"delay": Duration(1)}, "slow: unknown task ''"),
        ({"processors": 5}, "workload.processors: 5 processors; expected at most 4"),
        ({"disk": "floppy"}, "unknown disk 'floppy'"),
    ],
)
def test_impossible_boots_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Boot(**{"graph": "drivers", **options}).start(boot(4))


def test_a_boot_that_is_not_over_measures_nothing() -> None:
    machine = boot(4, [Ws2003()])
    workload = Boot(graph="drivers")
    workload.start(machine)
    machine.run(SECOND)
    with pytest.raises(UserError, match="duration: the boot is not over after 1 s; expected a longer one"):
        list(workload.measure(machine))


def test_sums_that_no_graph_has_are_refused() -> None:
    with pytest.raises(UserError, match="no graph of 2 tasks takes"):
        RandomBoot(tasks=2, total=Duration(SECOND), longest=Duration(100 * MS)).start(boot(4))


# -- what is shown, on other machines too


def test_the_view_shows_the_critical_path_and_each_task() -> None:
    machine = boot(8, [Ws2003(), ParallelBoot()])
    workload = Boot(graph="drivers")
    workload.start(machine)
    view = workload.views()["boot"]
    machine.run(300 * MS)
    assert "not over; under way: storage, network, sound, usb, graphics" in view(machine)
    machine.run()
    lines = view(machine).splitlines()
    assert lines[0] == "10 tasks on 8 processors: up after 2.7 s, logged on after 2.7 s"
    assert "critical path 2.7 s; bounds 2.7 s to" in lines[1]
    at = lines.index("critical path")
    assert [line.split()[0] for line in lines[at + 3 : at + 8]] == [
        "bus",
        "storage",
        "disk",
        "system",
        "desktop",
    ]
    assert any(line.split()[:2] == ["camera", "driver"] and "1.5 s  " in line for line in lines)


@pytest.mark.parametrize("file", sorted(HWLOC.glob("*.xml"))[:3], ids=lambda file: file.stem)
@pytest.mark.parametrize("name", ["parallel-boot", "parallel-boot-slow-driver"])
def test_on_real_machines_of_other_shapes(file: Path, name: str) -> None:
    result = ntlab.run(name, hardware=str(file), seeds=1)
    before, after = (result.arms[arm].metrics["boot_time"].mean for arm in ("before", "after"))
    assert after < before
    assert result.arms["after"].metrics["below_upper"].mean >= 0


test_conformance = conformance("parallel_boot")
