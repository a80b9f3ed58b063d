"""Where the time of an experiment's runs goes: by kind of event, by hook and plugin; and their memory."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from ntlab.lab.api import prepare
from ntlab.lab.runner import Job, jobs_of, observe
from ntlab.lab.tables import Report, Table, as_columns, format_value
from ntlab.quantities import SECOND, format_duration, format_size

if TYPE_CHECKING:
    from ntlab.machine import Machine
    from ntlab.topology import Tables

MEASURING = "boot, the engine, and measuring"


@attrs.frozen(kw_only=True)
class Cost:
    """What one kind of event, or one plugin's hook, cost: how often it was, and ns of real time.

    `plugin` is "" for an event. Time in a hook counts there and not for the event in which it is asked.
    """

    what: str
    plugin: str
    count: int
    time: int


@attrs.frozen(kw_only=True)
class ArmProfile:
    """One run: `simulated` ns in `events` events, made in `spent` ns of real time; `rest` is the engine's.

    `memory` is what Python had allocated for it at the most, in bytes, measured in a second run.
    """

    arm: str
    simulated: int
    events: int
    spent: int
    rest: int
    memory: int
    costs: tuple[Cost, ...]

    @property
    def events_per_second(self) -> float:
        """Events in a simulated second."""
        return self.events / self.simulated * SECOND if self.simulated else 0.0


@attrs.frozen(kw_only=True, repr=False)
class ProfileReport(Report):
    """The runs of an experiment's arms with the first seed, most expensive things first."""

    experiment: str
    arms: tuple[ArmProfile, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "experiment": self.experiment,
            "arms": [
                {**attrs.asdict(arm), "events_per_simulated_second": arm.events_per_second}
                for arm in self.arms
            ],
        }

    def columns(self) -> dict[str, list[Any]]:
        """One row for each arm and what it spent time on."""
        return as_columns([{"arm": arm.arm, **attrs.asdict(cost)} for arm in self.arms for cost in arm.costs])

    def tables(self) -> list[Table]:
        tables = []
        for arm in self.arms:
            facts = [
                ["simulated", format_duration(arm.simulated)],
                ["events", f"{arm.events}"],
                ["events a simulated second", f"{arm.events_per_second:.4g}"],
                ["real time, measuring included", format_duration(arm.spent)],
                ["peak memory", format_size(arm.memory)],
            ]
            tables.append(Table([f"{self.experiment}, {arm.arm}, seed 1", ""], facts))
            rows = [
                [cost.what, cost.plugin, str(cost.count), *_share(cost.time, arm.spent)] for cost in arm.costs
            ]
            rows.append([MEASURING, "", "", *_share(arm.rest, arm.spent)])
            tables.append(Table(["event or hook", "plugin", "times>", "time>", "share>"], rows))
        return tables


def _share(time: int, of: int) -> list[str]:
    return [format_value(time, "ns"), f"{100 * time / of:.1f} %" if of else ""]


def profile(
    experiment: str | os.PathLike[str],
    arm: str | None = None,
    hardware: str | os.PathLike[str] | None = None,
    set: Mapping[str, Any] | None = None,
) -> ProfileReport:
    """Run each arm of an experiment, or one, with its first seed, and see where the time goes.

    The trace is that of any other run; how long things take is of course another time for every computer.
    The arguments are those of `ntlab.run`.
    """
    resolved, hardware_by_name = prepare(experiment, hardware, set, 1)
    arms = None if arm is None else [resolved.arm(arm).name]
    tables = {name: topology.freeze() for name, topology in hardware_by_name.items()}
    return ProfileReport(
        experiment=resolved.name,
        arms=tuple(_profiled(job, tables[job.hardware]) for job in jobs_of(resolved, "profiled", arms)),
    )


def _profiled(job: Job, tables: Tables) -> ArmProfile:
    from ntlab.machine.profile import ProfiledEngine

    def seen(machine: Machine) -> ArmProfile:
        assert isinstance(machine.engine, ProfiledEngine)
        spent = machine.engine.profile
        total = spent.stop()
        costs = [
            Cost(what=what, plugin="", count=one.count, time=one.time) for what, one in spent.events.items()
        ]
        costs += [
            Cost(what=hook, plugin=plugin, count=one.count, time=one.time)
            for (plugin, hook), one in spent.hooks.items()
        ]
        return ArmProfile(
            arm=job.arm.name,
            simulated=machine.engine.now,
            events=machine.engine.events,
            spent=total,
            rest=spent.rest.time,
            memory=0,
            costs=tuple(sorted(costs, key=lambda cost: (-cost.time, cost.what, cost.plugin))),
        )

    found = observe(job, tables, seen)
    return attrs.evolve(found, memory=_memory(attrs.evolve(job, hooks="direct"), tables))


def _memory(job: Job, tables: Tables) -> int:
    """What is allocated for a run at the most, bytes, beside what was there before."""
    tracing = tracemalloc.is_tracing()
    if not tracing:
        tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        observe(job, tables, lambda machine: None)
        _, peak = tracemalloc.get_traced_memory()
        return peak - before
    finally:
        if not tracing:
            tracemalloc.stop()
