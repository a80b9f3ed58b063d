"""PerfTrack as a plugin: it listens to the records of whatever else runs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

import ntlab
from ntlab import read_options
from ntlab.hooks import hookimpl
from ntlab.machine import Machine
from ntlab.plugin import Metric, option, plugin, state
from ntlab.quantities import Duration
from ntlab.tracing import EventType
from ntlab.tracing.records import known_types
from ntlab_perf_track.report import report
from ntlab_perf_track.scenarios import (
    MOST,
    Ear,
    Matcher,
    Outcome,
    Scenario,
    check_scenarios,
    event_named,
    is_known,
    percentile,
    wilson,
)
from ntlab_perf_track.workloads import TRACES, Replay, Synthetic

PROBE_VECTOR = 0xD7
"""The vector of the interrupts that stand for what a probe costs."""


@attrs.frozen(kw_only=True)
class ScenarioFile:
    """A file of scenarios: ``[[scenarios]]`` tables with the keys of `Scenario`."""

    scenarios: tuple[Scenario, ...]


@plugin(
    name="perf_track",
    summary="Up to 300 scenarios, each a start and an end event, are timed and held against goals.",
    release=None,  # it came with 2008 R2, but what watches a machine must not make it one
    ledger=("K8",),
    neutral={"scenarios": [], "file": "", "probe_cost": "0 ns"},
    workloads=(Synthetic, Replay),
)
class PerfTrack:
    """It only listens: nothing that is simulated changes by it, unless probes have a cost."""

    scenarios: tuple[Scenario, ...] = option(default=(), help="What is timed, and its goals.")
    file: str = option(default="", help="More scenarios: a TOML file, or a shipped one's name; empty: none.")
    probe_cost: Duration = option(
        default=Duration(0),
        help="What each record of a start or an end costs the processor that it names (else the first).",
        minimum=0,
    )

    _machine: Machine = attrs.field(init=False, repr=False)
    _matchers: list[Matcher] = state(list)
    _over: bool = state(bool)

    def _follow(self) -> str:
        """Have a matcher for each scenario. Returns where they are written. Raises UserError."""
        scenarios, where = list(self.scenarios), "perf_track.scenarios"
        if self.file:
            shipped = TRACES / f"{self.file}.toml"
            path = shipped if shipped.exists() else Path(self.file)
            scenarios += read_options(path, ScenarioFile).scenarios
            where = self.file
        check_scenarios(scenarios, where)
        if len(scenarios) > MOST:
            told = f"{len(scenarios)} scenarios, of which PerfTrack has up to {MOST}"
            warnings.warn(told, stacklevel=1)
        self._matchers = [Matcher(scenario) for scenario in scenarios]
        return where

    @hookimpl
    def machine_created(self, machine: Machine) -> None:
        self._machine = machine
        where = self._follow()
        ears: dict[int, Ear] = {}
        for matcher in self._matchers:
            scenario = matcher.scenario
            if scenario.sample < 1:
                matcher.draw_from(machine.streams.stream("perf_track", scenario.name))
            here = f"{where}: scenario {scenario.name!r}"
            start = self._event(scenario.start, f"{here}: start")
            end = self._event(scenario.end, f"{here}: end")
            ears.setdefault(start.id, Ear(start)).starts(matcher, f"{here}: start")
            ears.setdefault(end.id, Ear(end)).ends(matcher, f"{here}: end")
        for ear in ears.values():
            machine.tracer.subscribe(ear.event, self._subscriber(ear))

    def _event(self, name: str, where: str) -> EventType:
        known = known_types()
        if not is_known(name, known):
            ntlab.plugins()  # what is installed, but not used here, has events that do not happen
            known = known_types()
        return event_named(name, known, where)

    def _subscriber(self, ear: Ear) -> Callable[[tuple[int, ...]], None]:
        fields = ear.event.fields
        cpu = fields.index("cpu") + 2 if "cpu" in fields else None
        vector = fields.index("vector") + 2 if "vector" in fields else None
        cost, hear = self.probe_cost, ear.hear

        def heard(record: tuple[int, ...]) -> None:
            if self._over or (vector is not None and record[vector] == PROBE_VECTOR):
                return
            probes = hear(record)
            if cost and probes:
                processor = record[cpu] if cpu is not None else 0
                self._machine.engine.soon(self._charge, (processor, cost * probes))

        return heard

    def _charge(self, probes: tuple[int, int]) -> None:
        index, cost = probes
        self._machine.interrupts.interrupt(self._machine.processors[index], cost, vector=PROBE_VECTOR)

    @hookimpl
    def bug_checked(self) -> None:
        self._over = True  # the machine that boots next has a PerfTrack of its own

    def outcomes(self, machine: Machine) -> list[Outcome]:
        """What has become of the scenarios so far, in their order."""
        if not self._matchers:
            self._follow()  # nobody has asked it to listen, so there was nothing to hear
        return [matcher.outcome(machine.engine.now) for matcher in self._matchers]

    def measure(self, machine: Machine) -> Iterator[Metric]:
        """Beside what the workload measures. Times of what did not occur are 0, and it met its goal."""
        outcomes = self.outcomes(machine)
        if not outcomes:
            return
        yield Metric("scenarios_missed", sum(not outcome.met for outcome in outcomes))
        for outcome in outcomes:
            name = outcome.scenario.name
            times = outcome.times or [0]
            low, high = wilson(outcome.within, outcome.judged)
            yield Metric(f"{name}.count", len(outcome.durations))
            yield Metric(f"{name}.timeouts", outcome.timeouts)
            yield Metric(f"{name}.flagged", sum(outcome.flags.values()))
            yield Metric(f"{name}.mean", sum(times) / len(times), "ns")
            for percent in (50, 95, 99):
                yield Metric(f"{name}.p{percent}", percentile(times, percent / 100), "ns")
            yield Metric(f"{name}.within", outcome.within / outcome.judged if outcome.judged else 1.0)
            yield Metric(f"{name}.within_low", low)
            yield Metric(f"{name}.within_high", high)
            yield Metric(f"{name}.met", int(outcome.met))

    def views(self) -> dict[str, Callable[[Machine], str]]:
        return {"perf-track": lambda machine: report(self.outcomes(machine))}
