"""Sweeps: an experiment over a grid of settings and machines, every run kept where a data frame reads it.

A *point* of the grid is one value of each axis; there, each arm runs with each seed. Whatever makes up a run
(the arm's options, the machine, the versions of ntlab and of the plugins) is its *definition*: a run that is
in the store with the same definition and seed is not made again. So a sweep that was interrupted goes on
where it stopped, and a larger grid takes over what a smaller one has.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from ntlab.errors import UnknownNameError, UserError
from ntlab.hooks import Mode
from ntlab.lab.api import Interrupted, Progress, load_hardware
from ntlab.lab.experiment import Arm, Experiment, find_experiment, resolve
from ntlab.lab.options import parse_values
from ntlab.lab.registry import installed
from ntlab.lab.results import versions
from ntlab.lab.runner import Job, hooks_mode
from ntlab.lab.statistics import Estimate, estimate
from ntlab.lab.store import Store, point_text
from ntlab.lab.tables import Report, Table, counted, format_estimate, format_setting
from ntlab.lab.workers import execute

if TYPE_CHECKING:
    from ntlab.topology import Topology

HARDWARE = "hardware"
"""The axis that is no setting."""
SHOWN = 6
"""How many metrics a table shows unless they are named."""

Point = dict[str, Any]
"""A value for each axis."""


def parse_axis(text: str) -> tuple[str, list[Any]]:
    """Key and values of ``--over KEY=V,V,...``, the values as those of ``--set``."""
    key, equals, values = text.partition("=")
    if not equals or not key.strip() or not values.strip():
        raise UserError(f"{text!r} is no axis", where="--over", expected="KEY=VALUE,VALUE,...")
    return key.strip(), parse_values(values)


@attrs.frozen(kw_only=True)
class Grid:
    """An experiment's file as it is, and what is varied."""

    document: Mapping[str, Any]
    source: str
    plugin: str | None
    axes: dict[str, tuple[Any, ...]]
    hardware: str | None
    settings: Mapping[str, Any]
    seeds: int | None
    _tried: dict[str, Experiment] = attrs.field(factory=dict, init=False, repr=False, eq=False)

    def __len__(self) -> int:
        return math.prod(len(values) for values in self.axes.values())

    def __iter__(self) -> Iterator[Point]:
        for values in product(*self.axes.values()):
            yield dict(zip(self.axes, values, strict=True))

    def experiment(self, point: Point) -> Experiment:
        """The experiment at a point. Raises UserError naming the setting."""
        tried = self._tried.pop(point_text(point), None)
        return self._resolved(point) if tried is None else tried

    def _resolved(self, point: Point) -> Experiment:
        hardware = point.get(HARDWARE, self.hardware)
        return resolve(
            self.document,
            installed(),
            source=self.source,
            folder=Path(self.source).parent,
            plugin=self.plugin,
            hardware=None if hardware is None else os.fspath(hardware),
            settings={**self.settings, **{key: value for key, value in point.items() if key != HARDWARE}},
            seeds=self.seeds,
        )

    def check(self) -> list[Experiment]:
        """Try each value of each axis once, the others at their first ones. Raises UserError."""
        first = next(iter(self))
        others = [{**first, key: value} for key, values in self.axes.items() for value in values[1:]]
        for point in (first, *others):
            self._tried[point_text(point)] = self._resolved(point)
        return list(self._tried.values())


def sweep(
    experiment: str | os.PathLike[str],
    over: Mapping[str, Iterable[Any]],
    hardware: str | os.PathLike[str] | None = None,
    set: Mapping[str, Any] | None = None,
    seeds: int | None = None,
    jobs: int = 1,
    cluster: str | None = None,
    hooks: Mode | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Sweep:
    """Run an experiment at every point of a grid and keep each run.

    `over` has the values of each axis: {"workload.threads": [1, 2, 4], "hardware": ["uni", "smp-4"]}; its
    keys are those of `set`, and "hardware". `cluster` is the address of a Dask scheduler whose workers make
    the runs, in place of `jobs` processes; the result is the same to the bit. `out` is a folder for the
    store, EXPERIMENT.sweep.sqlite: finished runs are in it at once, and are not made again by the next sweep.
    The other arguments, and what is raised, are those of `ntlab.run`.
    """
    if jobs < 1:
        raise UserError(f"{jobs} jobs", where="--jobs", expected="at least 1")
    document, source, plugin = find_experiment(experiment, installed())
    grid = Grid(
        document=document,
        source=source,
        plugin=plugin,
        axes=_checked_axes(over),
        hardware=None if hardware is None else os.fspath(hardware),
        settings=set or {},
        seeds=seeds,
    )
    mode = hooks_mode(hooks)
    tried = grid.check()
    topologies = load_hardware(tried, grid.hardware)
    store = Store(None if out is None else Path(out) / f"{tried[0].name}.sweep.sqlite")
    found = Sweep(grid=grid, experiment=tried[0], store=store)
    work = _Work(found, topologies, mode, progress)
    try:
        tables = {name: topology.freeze() for name, topology in topologies.items()}
        with closing(execute(work.jobs(), tables, min(jobs, work.total), cluster)) as finished:
            for run in finished:
                store.add(run)
                work.tell(f"{run.arm} {run.seed}")
    except KeyboardInterrupt:
        count = found.runs
        raise Interrupted(found, count, store.file if count else None) from None
    finally:
        store.settle()
    return found


def _checked_axes(over: Mapping[str, Iterable[Any]]) -> dict[str, tuple[Any, ...]]:
    axes = {key: tuple(values) for key, values in over.items()}
    if not axes:
        raise UserError("there is no axis", where="--over", expected="KEY=VALUE,VALUE,...")
    for key, values in axes.items():
        if not values:
            raise UserError("there is no value", where=f"--over: {key}", expected="at least one")
        for value in values:
            if values.count(value) > 1:
                raise UserError(f"{value!r} is there twice", where=f"--over: {key}")
    return axes


class _Work:
    """The runs of a sweep that are not in its store yet, and how far it is."""

    def __init__(
        self, found: Sweep, topologies: Mapping[str, Topology], hooks: Mode, progress: Progress | None
    ) -> None:
        from ntlab.topology import to_profile

        self._found, self._hooks, self._progress = found, hooks, progress
        self._versions = versions([found.experiment], installed())
        self._profiles = {name: to_profile(topology) for name, topology in topologies.items()}
        self._digests = {name: _digest(profile) for name, profile in self._profiles.items()}
        self.total = len(found.grid) * len(found.experiment.arms) * found.experiment.seeds
        self._done = 0

    def tell(self, last: str) -> None:
        """One more is finished."""
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self.total, last)

    def jobs(self) -> Iterator[Job]:
        """The runs to be made; each is made once, although several points may have it."""
        store, grid = self._found.store, self._found.grid
        made = store.finished()
        for point in grid:
            experiment = grid.experiment(point)
            for arm in experiment.arms.values():
                definition = self._define(experiment, arm)
                store.place(point, arm.name, arm.hardware, definition)
                for seed in range(1, experiment.seeds + 1):
                    if (definition, seed) in made:
                        self.tell(f"{arm.name} {seed}")
                        continue
                    made.add((definition, seed))
                    yield Job(
                        experiment=definition,
                        arm=arm,
                        use=experiment.use,
                        duration=experiment.duration,
                        seed=seed,
                        hooks=self._hooks,
                    )

    def _define(self, experiment: Experiment, arm: Arm) -> str:
        """Keep all that a run of this arm is made of. Returns what it is called."""
        content = {
            "use": experiment.use,
            "duration": experiment.duration,
            "plugins": list(arm.plugins.items()),
            "workload": arm.workload,
            "hardware": self._digests[arm.hardware],
            "versions": self._versions,
        }
        text = json.dumps(content, sort_keys=True)
        definition = _digest(text)
        self._found.store.define(definition, text, self._digests[arm.hardware], self._profiles[arm.hardware])
        return definition


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@attrs.frozen(kw_only=True, repr=False)
class Sweep(Report):
    """What a sweep gave. `store` has every run; `experiment` is that of the first point."""

    grid: Grid
    experiment: Experiment
    store: Store
    shown: tuple[str, ...] = ()

    def showing(self, metrics: Sequence[str]) -> Sweep:
        """The same, with these metrics (or counters) in its table. Raises UnknownNameError."""
        for metric in metrics:
            if metric not in self.store.measures:
                raise UnknownNameError("metric", metric, self.store.measures, where="--metric")
        return attrs.evolve(self, shown=tuple(metrics))

    @property
    def runs(self) -> int:
        """How many runs of the grid are finished."""
        return self.store.count(list(self.grid), self.experiment.seeds)

    def columns(self) -> dict[str, list[Any]]:
        """One row for each point, arm and seed: the axes, what was measured, and the digest."""
        return self.store.columns(list(self.grid), self.experiment.seeds)

    def _points(self) -> Iterator[tuple[Point, str, dict[str, Estimate]]]:
        """Each point and arm with its estimates over the seeds, in the order of the grid."""
        columns = self.columns()
        measured = {name: known.column for name, known in self.store.measures.items()}
        rows: dict[tuple[str, str], list[int]] = {}
        for at, arm in enumerate(columns["arm"]):
            rows.setdefault((columns["point"][at], arm), []).append(at)
        for point in self.grid:
            for arm in self.experiment.arms:
                mine = rows.get((point_text(point), arm), [])
                values = {name: [columns[column][at] for at in mine] for name, column in measured.items()}
                yield (
                    point,
                    arm,
                    {name: estimate(of) for name, of in values.items() if of and None not in of},
                )

    def to_json(self) -> dict[str, Any]:
        return {
            "experiment": self.experiment.name,
            "over": {key: list(values) for key, values in self.grid.axes.items()},
            "seeds": self.experiment.seeds,
            "store": None if self.store.file is None else str(self.store.file),
            "points": [
                {
                    "point": point,
                    "arm": arm,
                    "measured": {
                        name: {**value.to_json(), "unit": self.store.measures[name].unit}
                        for name, value in estimates.items()
                    },
                }
                for point, arm, estimates in self._points()
            ],
        }

    def tables(self) -> list[Table]:
        measures = self.store.measures
        metrics = [name for name, known in measures.items() if not known.counter]
        shown = self.shown or metrics[:SHOWN]
        rows = [
            [
                *map(format_setting, point.values()),
                arm,
                *(format_estimate(of[name], measures[name].unit) if name in of else "" for name in shown),
            ]
            for point, arm, of in self._points()
        ]
        left = len(metrics) - len(shown)
        more = f", {left} more metrics" if left > 0 and not self.shown else ""
        headings = [*self.grid.axes, "arm", *(f"{name}>" for name in shown)]
        title = f"{self.experiment.name}, {counted(self.experiment.seeds, 'seed')}{more}"
        return [Table(headings, rows, title)]
