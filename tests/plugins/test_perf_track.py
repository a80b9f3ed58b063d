"""K8: scenarios against known durations and a matcher written apart (scheduling facts 12, 14.17); claims."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ntlab
from ntlab.errors import UserError
from ntlab.lab.experiment import find_experiment, resolve
from ntlab.lab.registry import installed
from ntlab.lab.results import judge
from ntlab.lab.runner import jobs_of, simulate
from ntlab.machine import Compute, Machine, Request, Sleep
from ntlab.quantities import MICROSECOND, MILLISECOND, SECOND, Duration, Share
from ntlab.testing import boot, conformance, small_tables
from ntlab.topology import load
from ntlab.tracing import Tracer
from ntlab_perf_track import PerfTrack, Scenario
from ntlab_perf_track.scenarios import Matcher, Outcome, percentile, wilson
from ntlab_perf_track.workloads import Replay, Synthetic, emit, read_trace
from ntlab_ws2003 import Ws2003

HWLOC = Path(__file__).parents[3] / "shared" / "data" / "hwloc"
MS = MILLISECOND


def scenario(**more: Any) -> Scenario:
    figures = {"name": "menu", "start": "Lab-PerfTrack/Start", "end": "Lab-PerfTrack/Stop", "key": ("key",)}
    return Scenario(**{"goal": Duration(100 * MS), **figures, **more})


def matched(events: list[tuple[int, str, int]], end: int = 0, **more: Any) -> Outcome:
    """What becomes of (time in ms, "start" or "stop", key)."""
    matcher = Matcher(scenario(**more))
    for time, what, key in events:
        (matcher.starts if what == "start" else matcher.ends)(time * MS, (key,))
    return matcher.outcome(max(end, *(time for time, _, _ in events)) * MS)


def in_ms(outcome: Outcome) -> list[int]:
    return [duration // MS for duration in outcome.durations]


# -- pairs


def test_a_start_and_its_end() -> None:
    found = matched([(0, "start", 1), (5, "start", 2), (20, "stop", 2), (30, "stop", 1)])
    assert in_ms(found) == [15, 30]
    assert found.timeouts == sum(found.flags.values()) == 0


@pytest.mark.parametrize(
    ("overlap", "durations", "flag"),
    [("duplicate", [40], 1), ("oldest", [40, 50], 0), ("newest", [20, 70], 0)],
)
def test_two_starts_of_one_key(overlap: str, durations: list[int], flag: int) -> None:
    found = matched([(0, "start", 1), (20, "start", 1), (40, "stop", 1), (70, "stop", 1)], overlap=overlap)
    assert in_ms(found) == durations
    assert found.flags["duplicate starts"] == found.flags["duplicate ends"] == flag


def test_a_start_without_an_end_times_out_and_is_never_dropped() -> None:
    found = matched([(0, "start", 1), (0, "start", 2), (700, "stop", 1), (800, "start", 2)], timeout=500 * MS)
    assert (found.durations, found.waited, found.cut) == ((), (500 * MS, 500 * MS, 0), 1)
    assert found.flags["late ends"] == 1
    assert found.flags["duplicate starts"] == 0  # the first had timed out by then


def test_what_the_end_of_the_run_cuts_short_is_judged_where_it_missed_already() -> None:
    found = matched([(0, "start", 1), (850, "start", 2), (880, "start", 3), (890, "stop", 3)], end=900)
    assert (found.waited, found.cut, found.undecided) == ((900 * MS, 50 * MS), 2, 1)
    assert (found.within, found.judged) == (1, 2)


def test_strange_ends_are_told_apart() -> None:
    events = [(0, "stop", 1), (10, "start", 1), (20, "stop", 1), (30, "stop", 1), (40, "stop", 2)]
    found = matched(events)
    assert found.flags == {
        "duplicate starts": 0,
        "duplicate ends": 1,
        "late ends": 0,
        "ends without a start": 2,
    }
    assert in_ms(found) == [10]
    assert sum(matched(events, stray_ends="ignore").flags.values()) == 0


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.booleans(), st.integers(0, 3)), max_size=40),
    st.sampled_from(["duplicate", "oldest", "newest"]),
    st.integers(100, 160),
)
def test_no_start_is_lost_whatever_comes(
    steps: list[tuple[int, bool, int]], overlap: Any, timeout: int
) -> None:
    """Against a list of all that is open, searched from its beginning each time."""
    matcher = Matcher(scenario(overlap=overlap, timeout=Duration(timeout * MS)))
    open_ones: list[tuple[int, int]] = []
    durations, waited, starts, repeated, now = [], [], 0, 0, 0
    for step, is_start, key in steps:
        now += step * MS
        for each in [each for each in open_ones if each[1] == key and now - each[0] > timeout * MS]:
            open_ones.remove(each)
            waited.append(timeout * MS)
        mine = [each for each in open_ones if each[1] == key]
        if is_start:
            matcher.starts(now, (key,))
            starts += 1
            if mine and overlap == "duplicate":
                repeated += 1
            else:
                open_ones.append((now, key))
        else:
            matcher.ends(now, (key,))
            if mine:
                one = mine[-1] if overlap == "newest" else mine[0]
                open_ones.remove(one)
                durations.append(now - one[0])
    found = matcher.outcome(now)
    assert list(found.durations) == durations
    left = [min(now - began, timeout * MS) for began, _ in open_ones]
    assert sorted(found.waited) == sorted(waited + left)
    assert found.flags["duplicate starts"] == repeated
    assert starts == len(found.durations) + found.timeouts + repeated
    assert sum(found.bands) == found.judged <= len(found.times)


def test_a_part_of_the_starts_is_followed_with_their_ends() -> None:
    matcher = Matcher(scenario(sample=Share(0.25)))
    matcher.draw_from(random.Random(1))
    for key in range(2000):
        matcher.starts(key * MS, (key,))
        matcher.ends(key * MS + 5, (key,))
    found = matcher.outcome(2000 * MS)
    assert set(found.durations) == {5}
    assert 400 < len(found.durations) < 600
    assert sum(found.flags.values()) == found.timeouts == 0


# -- figures


def test_percentiles_by_nearest_rank() -> None:
    ordered = list(range(1, 101))
    assert [percentile(ordered, share) for share in (0.5, 0.95, 0.99, 1.0)] == [50, 95, 99, 100]
    assert [percentile([7], share) for share in (0.01, 0.5, 1.0)] == [7, 7, 7]
    assert [percentile([1, 2, 3], share) for share in (0.33, 0.34, 0.5, 0.67)] == [1, 2, 2, 3]


@pytest.mark.parametrize(
    ("within", "total", "low", "high"),
    [(0, 10, 0.0, 0.27753), (10, 10, 0.72247, 1.0), (81, 263, 0.25529, 0.36620), (15, 148, 0.06242, 0.16052)],
)
def test_wilsons_interval_as_it_is_published(within: int, total: int, low: float, high: float) -> None:
    """Newcombe 1998, table I (the last two); one-sided cases by hand: z^2 / (n + z^2)."""
    assert wilson(within, total) == pytest.approx((low, high), abs=2e-4)


@given(st.integers(1, 500), st.data())
def test_wilsons_interval_is_where_the_score_test_turns(total: int, data: st.DataObject) -> None:
    within = data.draw(st.integers(0, total))
    low, high = wilson(within, total)
    share = within / total
    assert 0 <= low <= share <= high <= 1
    for end in (low, high):
        if 0 < end < 1:
            assert abs(share - end) / math.sqrt(end * (1 - end) / total) == pytest.approx(1.959964, rel=1e-5)


def test_wilsons_interval_covers_as_often_as_it_says() -> None:
    """Exactly, over all outcomes of the binomial law: on average over shares close to 95 %."""
    total = 60
    covered = []
    for percent in range(5, 96):
        p = Fraction(percent, 100)
        chance = Fraction(0)
        for k in range(total + 1):
            low, high = wilson(k, total)
            if low <= p <= high:
                chance += math.comb(total, k) * p**k * (1 - p) ** (total - k)
        covered.append(float(chance))
    assert min(covered) > 0.92
    assert sum(covered) / len(covered) == pytest.approx(0.95, abs=0.004)


def test_a_goal_is_met_or_missed_and_how_sure_that_is() -> None:
    def outcome(within: int, total: int, **more: Any) -> Outcome:
        times = (50 * MS,) * within + (200 * MS,) * (total - within)
        return Outcome(scenario=scenario(**more), durations=times, waited=(), cut=0, undecided=0, flags={})

    assert [(o.met, o.unsure) for o in (outcome(95, 100), outcome(94, 100))] == [(True, True), (False, True)]
    assert [(o.met, o.unsure) for o in (outcome(999, 1000), outcome(500, 1000))] == [
        (True, False),
        (False, False),
    ]
    assert (outcome(0, 0).met, outcome(0, 0).unsure) == (True, True)
    assert outcome(7, 10).bands == (7, 3, 0)
    assert outcome(7, 10, poor=Duration(150 * MS)).bands == (7, 0, 3)
    assert outcome(9, 10, target=Share(0.9)).met


# -- traces


def watched(workload: Any, *scenarios: Scenario, **more: Any) -> tuple[Machine, PerfTrack, dict[str, float]]:
    tracker = PerfTrack(scenarios=scenarios, **more)
    machine = boot(1, [Ws2003(), tracker], trace=True)
    workload.start(machine)
    machine.run()
    machine.stop()
    return machine, tracker, {metric.name: metric.value for metric in tracker.measure(machine)}


@pytest.mark.parametrize("latency", ["exponential", "uniform", "fixed"])
def test_a_synthetic_trace_is_found_again_exactly(latency: Any) -> None:
    workload = Synthetic(latency=latency, lost_ends=Share(0.1), lost_starts=Share(0.1), repeated=Share(0.2))
    machine, _, _ = watched(workload, scenario(name="synthetic"))
    got = {metric.name: metric.value for metric in workload.measure(machine)}
    assert got["wrong"] == 0
    assert got["known"] > 1000


def test_without_scenarios_nothing_is_measured() -> None:
    machine, tracker, got = watched(Replay())
    assert got == {}
    assert tracker.views()["perf-track"](machine).startswith("no scenario is defined")


def test_what_is_wrong_is_counted() -> None:
    workload = Synthetic(latency="fixed", instances=10)
    machine, _, _ = watched(workload, scenario(name="synthetic", sample=Share(1e-9)))
    assert {metric.name: metric.value for metric in workload.measure(machine)}["wrong"] == 10


def test_the_shipped_trace() -> None:
    machine, tracker, got = watched(Replay(), file="example")
    menu, window, search = tracker.outcomes(machine)
    assert [d // MS for d in menu.durations] == [40, 45, 50, 30, 300, 20, 60, 50, 1500, 80, 50]
    assert menu.bands == (9, 1, 1)
    assert [d // MS for d in window.durations] == [50, 400]
    assert ([d // MS for d in search.durations], search.waited) == ([200, 300], (5 * SECOND,))
    assert got["scenarios_missed"] == 2
    assert (got["menu.p50"], got["menu.p95"]) == (50 * MS, 1500 * MS)
    assert (got["menu.flagged"], got["search.flagged"]) == (1, 1)
    text = tracker.views()["perf-track"](machine)
    assert text.startswith("2 of 3 scenarios miss their goal\n")
    assert [line.split()[0] for line in text.splitlines()[3:6]] == ["menu", "search", "window"]
    assert "menu: 1 duplicate ends" in text


def test_durations_of_threads_by_the_schedule() -> None:
    """One processor, turns of 187.5 ms, three hogs: each is away for two turns at a time."""
    away = scenario(
        name="away", start="Thread/CSwitch", end="NT Kernel Logger/Thread/CSwitch", key=("old_tid",),
        end_key=("new_tid",), stray_ends="ignore",
    )  # fmt: skip
    tracker = PerfTrack(scenarios=(away,))
    machine = boot(1, [Ws2003(), tracker])
    process = machine.create_process("hogs")
    for _ in range(3):
        machine.create_thread(process, iter([Compute(SECOND)]))
    machine.run(SECOND)
    (found,) = tracker.outcomes(machine)
    assert set(found.durations) == {375 * MS}
    assert len(found.durations) == 3


def test_300_scenarios_of_one_event_are_each_found_by_what_they_ask_for() -> None:
    texts = {"start_where": {"scenario": "menu"}, "end_where": {"scenario": "menu"}}
    many = [scenario(name=str(n), start_where={"key": n}, end_where={"key": n}) for n in range(298)]
    all_of_them, menus = scenario(name="all"), scenario(name="menus", **texts)
    machine, tracker, _ = watched(Replay(), *many, all_of_them, menus)
    counts = {found.scenario.name: len(found.durations) for found in tracker.outcomes(machine)}
    lines = read_trace("example")
    assert counts["menus"] == 11
    for n in range(12):
        ends = sum(line.stop and line.key == n for line in lines)
        assert counts[str(n)] <= ends
        assert bool(counts[str(n)]) == any(line.key == n and not line.stop for line in lines)
    assert sum(counts[str(n)] for n in range(298)) == counts["all"]


# -- the observer


def sleepers(machine: Machine, threads: int = 3, rounds: int = 20) -> None:
    def program() -> Iterator[Request]:
        for _ in range(rounds):
            yield Compute(3 * MS)
            yield Sleep(MS)

    process = machine.create_process("sleepers")
    for _ in range(threads):
        machine.create_thread(process, program())


TO_RUN = scenario(
    name="to run", start="Dispatcher/ReadyThread", end="Thread/CSwitch", key=("tid",), end_key=("new_tid",),
    stray_ends="ignore",
)  # fmt: skip


def observed(*plugins: object, processors: int = 1) -> Machine:
    machine = boot(processors, [Ws2003(), *plugins], trace=True)
    sleepers(machine)
    machine.run()
    machine.stop()
    return machine


@pytest.mark.parametrize("processors", [1, 2])
def test_who_only_listens_changes_nothing(processors: int) -> None:
    tracker = PerfTrack(scenarios=(TO_RUN,))
    alone, watched = observed(processors=processors), observed(tracker, processors=processors)
    assert alone.tracer.digest() == watched.tracer.digest()
    assert alone.engine.now == watched.engine.now
    assert tracker.outcomes(watched)[0].durations
    assert watched.release == alone.release == "ws2003"


def test_probes_cost_what_they_are_said_to() -> None:
    """The one processor is never idle, so it is longer by each probe; and the probes see other times."""
    cost = 10 * MICROSECOND
    free, dear = (PerfTrack(scenarios=(TO_RUN,), probe_cost=Duration(each)) for each in (0, cost))
    before, after = observed(free), observed(dear)
    probes = round(sum(p.interrupt_time for p in after.processors) / cost)
    assert sum(p.interrupt_time for p in before.processors) == 0
    recorded = list(after.tracer.records("Thread/CSwitch", "Dispatcher/ReadyThread"))
    assert probes == len(recorded)
    ended = [max(r.time for r in machine.tracer.records("Thread/End")) for machine in (before, after)]
    assert 0 < ended[1] - ended[0] <= probes * cost
    assert sum(dear.outcomes(after)[0].durations) > sum(free.outcomes(before)[0].durations)


def test_a_probe_of_interrupts_does_not_see_itself() -> None:
    service = scenario(
        name="isr", start="PerfInfo/ISR", end="PerfInfo/DPC", key=("cpu",), start_where={"vector": 7}
    )
    everything = attrs.evolve(service, name="all", start_where={})
    tracker = PerfTrack(scenarios=(service, everything), probe_cost=Duration(MICROSECOND))
    machine = boot(1, [Ws2003(), tracker])
    for at in range(5):
        machine.engine.at(
            at * MS, lambda _: machine.interrupts.interrupt(machine.processors[0], 5 * MICROSECOND, vector=7)
        )
    machine.run()
    assert machine.processors[0].interrupts == 10
    assert machine.processors[0].interrupt_time == 5 * (5 + 2) * MICROSECOND


def test_a_machine_that_restarts_is_watched_anew() -> None:
    tracker = PerfTrack(scenarios=(scenario(),))
    machine = Machine(small_tables(1), [Ws2003(), tracker], tracer=Tracer(keep=True)).boot()
    machine.engine.at(MS, lambda _: emit(machine, False, "menu", 1))
    machine.engine.at(2 * MS, lambda _: machine.bug_check(0xE2))
    machine.run()
    again = machine.restart(SECOND)
    again.engine.at(2 * SECOND, lambda _: emit(again, False, "menu", 2))
    again.engine.at(3 * SECOND, lambda _: emit(again, True, "menu", 2))
    again.run()
    (new,) = [plugin for plugin in again.plugins if isinstance(plugin, PerfTrack)]
    assert new.outcomes(again)[0].durations == (SECOND,)
    assert tracker.outcomes(machine)[0].durations == ()
    assert tracker.outcomes(machine)[0].timeouts == 1


# -- mistakes


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ({"goal": Duration(0)}, "scenario 'menu': a goal of 0 ns; expected more than 0"),
        ({"goal": Duration(-5)}, "a goal of -5 ns"),
        ({"end": "Lab-PerfTrack/Start"}, "its start is its end; expected two events"),
        ({"target": Share(0)}, "a target of 0"),
        ({"timeout": Duration(1)}, "a timeout of 1 ns, before the goal"),
        ({"poor": Duration(1)}, "poor from 1 ns on, before the goal"),
        ({"sample": Share(0)}, "a sample of nothing"),
        ({"end_key": ("key", "scenario")}, "2 fields in end_key; expected 1, as in key"),
        ({"start": "Lab-PerfTrack/Strat"}, "start: unknown event 'Lab-PerfTrack/Strat'"),
        ({"key": ("kex",)}, "start: unknown field of Start 'kex'.*'key'"),
        ({"end_key": ("kex",)}, "end: unknown field of Stop 'kex'"),
        ({"start_where": {"scenario": 3}}, "scenario = 3; expected text"),
        ({"end_where": {"key": "a"}}, "key = 'a'; expected a whole number"),
    ],
)
def test_scenarios_that_mean_nothing_are_refused(figures: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        boot(1, [Ws2003(), PerfTrack(scenarios=(scenario(**figures),))])


def test_two_scenarios_of_one_name_are_refused_and_more_than_300_are_told() -> None:
    with pytest.raises(UserError, match="two scenarios are called 'menu'"):
        boot(1, [PerfTrack(scenarios=(scenario(), scenario()))])
    many = tuple(scenario(name=f"menu {number}") for number in range(301))
    with pytest.warns(UserWarning, match="301 scenarios, of which PerfTrack has up to 300"):
        machine = boot(1, [PerfTrack(scenarios=many)])
    (tracker,) = machine.plugins
    assert isinstance(tracker, PerfTrack)
    assert "PerfTrack has up to 300 scenarios" in tracker.views()["perf-track"](machine)
    boot(1, [PerfTrack(scenarios=many[:300])])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("5 ms menu start 1\n4 ms menu stop 1", "line 2: the clock goes back, from 5000000 to 4000000 ns"),
        ("5 ms menu begin 1", "line 1: '5 ms menu begin 1'; expected TIME UNIT SCENARIO"),
        ("5 ms menu start", "line 1: '5 ms menu start'; expected"),
        ("# none\n5 menu start 1 2", "line 2: '5 menu start 1 2'; expected"),
        ("five ms menu start 1", "line 1: 'five ms' is not a duration"),
        ("-5 ms menu start 1", "line 1: '-5 ms menu start 1'; expected"),
        ("5 ms menu start ²", "line 1: '5 ms menu start ²'; expected"),
        ("5 ms menu start -1", "line 1: '5 ms menu start -1'; expected"),
        (f"5 ms menu start {1 << 63}", "line 1: "),
    ],
)
def test_bad_traces_are_refused_in_one_line(tmp_path: Path, lines: str, message: str) -> None:
    file = tmp_path / "bad.trace"
    file.write_text(lines, encoding="utf-8")
    with pytest.raises(UserError, match=message) as error:
        read_trace(str(file))
    assert "bad.trace" in str(error.value)
    assert "\n" not in str(error.value)


def test_more_instances_than_all_cannot_go_wrong() -> None:
    with pytest.raises(UserError, match=r"synthetic: 110% of the instances.*expected 100 % at most"):
        Synthetic(lost_ends=Share(0.8), lost_starts=Share(0.2), repeated=Share(0.1)).start(boot(1))


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be read: No such file.*one of: example"):
        read_trace("exmaple")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        read_trace(str(tmp_path / "bytes"))
    with pytest.raises(UserError, match="cannot be read"):
        boot(1, [PerfTrack(file="none.toml")])
    bad = tmp_path / "bad.toml"
    bad.write_text('[[scenarios]]\nname = "a"\nstart = "x"\nend = "y"\ngoal = 5\n')
    with pytest.raises(UserError, match=r"bad.toml: scenarios.\[0\].goal: 5 is not a duration"):
        boot(1, [PerfTrack(file=str(bad))])


# -- experiments


@pytest.mark.parametrize(
    ("name", "mechanism"),
    [
        ("perf-track", "perf_track"),
        ("perf-track-goals", "perf_track"),
        ("perf-track-replay", "perf_track"),
        ("perf-track-observer", "perf_track"),
        ("perf-track-boot", "perf_track"),
        ("perf-track-boot", "parallel_boot"),
        ("perf-track-fair-share", "perf_track"),
        ("perf-track-fair-share", "fair_share"),
        ("perf-track-ports", "perf_track"),
        ("perf-track-ports", "completion_ports"),
    ],
)
def test_no_claim_holds_without_its_mechanism(name: str, mechanism: str) -> None:
    registry = installed()
    if name not in registry.experiment_files:
        pytest.skip("a plugin that it uses is not installed")
    document, source, plugin = find_experiment(name, registry)
    experiment = resolve(document, registry, source=source, plugin=plugin, seeds=1)
    tables = load(experiment.hardware).freeze()
    runs = [
        simulate(attrs.evolve(job, muted=(mechanism,) if mechanism in job.arm.plugins else ()), tables)
        for job in jobs_of(experiment, "direct")
    ]
    for claim in experiment.claims:
        assert not judge(claim, experiment, runs).holds, claim.id


@pytest.mark.parametrize("file", sorted(HWLOC.glob("*.xml"))[:3], ids=lambda file: file.stem)
def test_on_real_machines_of_other_shapes(file: Path) -> None:
    for name in ("perf-track", "perf-track-replay"):
        result = ntlab.run(name, hardware=str(file), seeds=1)
        assert all(claim.holds for claim in result.claims), name
    result = ntlab.run("perf-track-observer", hardware=str(file), seeds=1)
    unwatched, watched = (result.arms[arm].metrics["time"].mean for arm in ("unwatched", "watched"))
    assert unwatched == watched


test_conformance = conformance(
    "perf_track", idle={"bug_checked": "a crash: see test_a_machine_that_restarts_is_watched_anew"}
)
