"""Runs: one arm with one seed is one simulated machine, here or in another process.

`simulate` is the only place where the laboratory meets the machine.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from ntlab.errors import NtlabError, PluginError, UnknownNameError, UnknownSpecificationError, UserError
from ntlab.hooks import Mode
from ntlab.lab.culprits import blamed, raised_by_plugin, told
from ntlab.lab.experiment import Arm, Experiment
from ntlab.lab.options import Place, build_from
from ntlab.lab.prints import note, prints_on_stderr
from ntlab.lab.registry import installed, views_of
from ntlab.lab.views import VIEWS
from ntlab.plugin import Metric, PluginInfo, implemented, plugin_info, renewed

if TYPE_CHECKING:
    from ntlab.machine import Machine
    from ntlab.machine.checks import Checks
    from ntlab.topology import Tables
    from ntlab.tracing import Tracer

T = TypeVar("T")

HOOKS: tuple[Mode, ...] = ("direct", "plain", "checked")
"""How hooks can be asked for to be called. A profile is asked for otherwise: see `ntlab.lab.profiling`."""
HOOKS_VARIABLE = "NTLAB_HOOKS"
PATIENCE = 2
"""Seconds that may pass again without a word."""


@attrs.frozen(kw_only=True)
class Job:
    """One run to be made. `hardware` names the tables that are handed to the worker apart.

    `muted` names plugins ("PLUGIN") and hooks of theirs ("PLUGIN.HOOK") that are built but never asked, on
    the machine, its children and whatever boots after a crash: what becomes of a claim without the mechanism.
    """

    experiment: str
    arm: Arm
    use: str
    duration: int | None
    seed: int
    hooks: Mode
    muted: tuple[str, ...] = ()

    @property
    def hardware(self) -> str:
        return self.arm.hardware


@attrs.frozen(kw_only=True)
class Run:
    """What one run gave. `digest` is that of its trace; `time` the simulated ns, `events` the events."""

    experiment: str
    arm: str
    seed: int
    digest: str
    time: int
    events: int
    metrics: dict[str, float]
    units: dict[str, str]
    counters: dict[str, float]

    def value(self, name: str) -> float:
        """A metric, or a counter. Raises KeyError."""
        return self.metrics[name] if name in self.metrics else self.counters[name]


def jobs_of(experiment: Experiment, hooks: Mode, arms: Sequence[str] | None = None) -> list[Job]:
    """The runs of an experiment, of these arms or all; seeds are 1, 2, ..."""
    return [
        Job(
            experiment=experiment.name,
            arm=arm,
            use=experiment.use,
            duration=experiment.duration,
            seed=seed,
            hooks=hooks,
        )
        for arm in experiment.arms.values()
        if arms is None or arm.name in arms
        for seed in range(1, experiment.seeds + 1)
    ]


@contextlib.contextmanager
def _quiet_collector() -> Iterator[None]:
    """Let the garbage collector look seldom while a machine runs, and once when it has lived.

    What existed before is set aside, so looking costs what the machine is worth, not what is imported. This
    decorates what makes a run: when that has returned, nothing holds the machine any more.
    """
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)
    try:
        yield
    finally:
        gc.collect()
        gc.unfreeze()
        gc.set_threshold(*thresholds)


@_quiet_collector()
def simulate(job: Job, tables: Tables) -> Run:
    """Make one run. Raises PluginError, naming plugin and hook, where a plugin raises."""
    from ntlab.tracing import Tracer

    tracer = Tracer()

    def measured(machine: Machine) -> Run:
        metrics = _measured(parts.workload, machine, job.use)
        return Run(
            experiment=job.experiment,
            arm=job.arm.name,
            seed=job.seed,
            digest=tracer.digest(),
            time=machine.engine.now,
            events=machine.engine.events,
            metrics={metric.name: metric.value for metric in metrics},
            units={metric.name: metric.unit for metric in metrics},
            counters=machine.counters(),
        )

    try:
        parts = _Parts(job)
        return _lived(job, parts, tables, tracer, measured)
    except NtlabError as error:
        error.run = (job.arm.name, job.seed)
        raise


def views(job: Job) -> list[str]:
    """The names of the views of a run: those that all have, and those that its plugins and workload offer."""
    return sorted({*VIEWS, *_Parts(job).views()})


@_quiet_collector()
def view(job: Job, tables: Tables, name: str) -> str:
    """Make one run, keeping its records, and return one of its views: a text."""
    from ntlab.tracing import Tracer

    parts = _Parts(job)
    offered = parts.views()
    if name not in offered:
        own = VIEWS[name]()
        parts.plugins[:0] = own.beside
        return _lived(job, parts, tables, Tracer(keep=True), own.text, own.watch)
    plugin, text_of = offered[name]
    text = _lived(job, parts, tables, Tracer(keep=True), text_of)
    if not isinstance(text, str):
        raise PluginError(f"its view {name!r} gave {text!r}; expected a text", plugin=plugin)
    return text


@_quiet_collector()
def observe(
    job: Job,
    tables: Tables,
    seen: Callable[[Machine], T],
    beside: Sequence[object] = (),
    *,
    keep: bool = False,
) -> T:
    """Make one run, and return what `seen` sees of its machine; with `keep`, its records are kept.

    `beside` are more plugins, asked first.
    """
    from ntlab.tracing import Tracer

    parts = _Parts(job)
    parts.plugins[:0] = beside
    return _lived(job, parts, tables, Tracer(keep=keep), seen)


class _Parts:
    """The plugins and the workload of one run, built anew for it: they hold what they remember."""

    def __init__(self, job: Job) -> None:
        registry = installed()
        self._names = [*job.arm.plugins, job.use.partition(".")[0]]
        with prints_on_stderr(registry.owner_of_package):
            self.plugins = [
                build_from(_muted(registry.plugin(name).info, job.muted), options, Place(name))
                for name, options in job.arm.plugins.items()
            ]
            self.workload: Any = build_from(registry.workload(job.use).cls, job.arm.workload, Place(job.use))

    def renewed(self) -> _Parts:
        """The same again, as they are before a run."""
        again = copy.copy(self)
        again.plugins = [renewed(plugin) for plugin in self.plugins]
        again.workload = renewed(self.workload)
        return again

    def views(self) -> dict[str, tuple[str, Callable[[Machine], str]]]:
        """The views by name, each with the plugin that offers it."""
        found: dict[str, tuple[str, Callable[[Machine], str]]] = {}
        for plugin, part in zip(self._names, (*self.plugins, self.workload), strict=True):
            found |= {name: (plugin, text_of) for name, text_of in views_of(part, plugin).items()}
        return found


def _muted(info: PluginInfo, muted: Sequence[str]) -> type:
    """The class of a plugin; or one like it, with those of its hooks that are `muted` left unmarked."""
    whole = info.name in muted
    hooks = {name.removeprefix(f"{info.name}.") for name in muted if name.startswith(f"{info.name}.")}
    if not whole and not hooks:
        return info.cls

    def unmarked(name: str) -> Callable[..., Any]:
        # The plugin may call its own method; only pluggy no longer sees it.
        return lambda self, *arguments: getattr(super(twin, self), name)(*arguments)

    marks = implemented(info.cls)
    for hook in hooks:
        if hook not in marks.values():
            raise UnknownNameError(f"hook of plugin {info.name!r}", hook, marks.values(), where="muted")
    quiet = {name: unmarked(name) for name, hook in marks.items() if whole or hook in hooks}
    twin: Any = type(info.cls.__name__, (info.cls,), quiet)
    twin.ntlab_plugin = attrs.evolve(info, cls=twin)
    return twin  # type: ignore[no-any-return]


def _lived(
    job: Job,
    parts: _Parts,
    tables: Tables,
    tracer: Tracer,
    seen: Callable[[Machine], T],
    watch: Callable[[Machine], None] = lambda machine: None,
) -> T:
    """What `seen` sees of a machine that has lived this run through; `watch` sees it before it runs."""
    life = _Life(job, parts, tables, tracer, watch)
    begun = time.monotonic()
    with prints_on_stderr(installed().owner_of_package):
        try:
            return life.live(seen)
        except UnknownSpecificationError as error:
            raise installed().plugin(error.plugin).explained(error) from error
        except (PluginError, UserError):
            raise
        except (Exception, SystemExit) as error:
            culprit = _culprit(error, life, time.monotonic() - begun)
            if culprit is None:
                raise
            raise culprit from error


class _Life:
    """A run, and the machine that it has come to. In the mode "checked", the machine is looked at after each
    event from the event `closely_from` on."""

    def __init__(
        self,
        job: Job,
        parts: _Parts,
        tables: Tables,
        tracer: Tracer,
        watch: Callable[[Machine], None],
        closely_from: int | None = None,
    ) -> None:
        self.job = job
        self.parts = parts
        self.tables = tables
        self.tracer = tracer
        self.watch = watch
        self.closely_from = closely_from
        self.machine: Machine | None = None

    def live(self, seen: Callable[[Machine], T]) -> T:
        from ntlab.machine import Machine

        job, parts = self.job, self.parts
        # pluggy asks what was registered last first.
        plugins = parts.plugins[::-1]
        machine = Machine(self.tables, plugins, seed=job.seed, tracer=self.tracer, hooks=job.hooks)
        self.machine = machine
        if machine.checks is not None:
            machine.checks.know(job.use.partition(".")[0], type(parts.workload))
            if self.closely_from is not None:
                machine.checks.look_closely(self.closely_from)
        machine.boot()
        parts.workload.start(machine)
        self.watch(machine)
        machine.run(job.duration)
        while machine.crash is not None and hasattr(parts.workload, "restart"):
            # A crash ends a machine; a workload that wants to go on after it boots the next one.
            again = parts.workload.restart(machine)
            if again is None:
                break
            self.machine = machine = again
            if job.duration is None or machine.engine.now < job.duration:
                self.watch(machine)
                machine.run(job.duration)
        machine.stop()
        return seen(machine)

    def again(self, closely_from: int | None = None) -> _Life:
        """The same run from its beginning, checked."""
        from ntlab.tracing import Tracer

        job = attrs.evolve(self.job, hooks="checked")
        return _Life(job, self.parts.renewed(), self.tables, Tracer(), self.watch, closely_from)

    @property
    def checks(self) -> Checks | None:
        return self.machine.checks if self.machine is not None else None


def _culprit(error: BaseException, life: _Life, took: float) -> PluginError | None:
    """Whose fault an exception is, which ended a run that took so many seconds.

    Where ntlab raised it, the cause may have been anybody's, and earlier: so the run is made again, checked,
    and once more, closely looked at where it went wrong.
    """
    registry = installed()
    names = (*life.job.arm.plugins, life.job.use.partition(".")[0])
    used = [registry.plugin(name) for name in dict.fromkeys(names)]
    traced = blamed(error, life.machine, used)
    if raised_by_plugin(error, used):
        return traced
    if took > PATIENCE:
        note("a run has failed; it is made again, checked, to see whose doing that was")
    if life.checks is None:
        life = life.again()
        try:
            life.live(lambda machine: None)
        except PluginError as found:
            return found
        except (Exception, SystemExit):
            pass  # that we know
    if life.checks is not None:
        life = life.again(life.checks.right_until)
        try:
            life.live(lambda machine: None)
        except PluginError as found:
            return found
        except (Exception, SystemExit) as last:
            if life.checks is not None:
                acting = life.checks.acting()
                return (
                    life.checks.culprit()
                    or blamed(last, life.machine, used)
                    or traced
                    or (told(last, acting) if acting else None)
                )
    return traced


def _measured(workload: Any, machine: Machine, use: str) -> list[Metric]:
    """What the workload measures, and then those plugins that do so, too."""
    metrics = _checked(workload.measure(machine), use)
    for plugin in machine.plugins:
        measure = getattr(plugin, "measure", None)
        if measure is not None:
            name = plugin_info(plugin).name
            more = _checked(measure(machine), name)
            known = {metric.name for metric in metrics}
            for metric in more:
                if metric.name in known:
                    raise PluginError(f"it measures {metric.name!r}, as others do", plugin=name)
            metrics += more
    return metrics


def _checked(measured: object, use: str) -> list[Metric]:
    """The metrics of a workload or plugin. Raises PluginError for anything else."""
    plugin = use.partition(".")[0]
    if not isinstance(measured, Iterable):
        raise PluginError(f"{use!r} measured {measured!r}; expected Metrics", plugin=plugin)
    metrics = list(measured)
    for metric in metrics:
        if not isinstance(metric, Metric):
            raise PluginError(f"{use!r} measured {metric!r}; expected a Metric", plugin=plugin)
        if sum(other.name == metric.name for other in metrics) > 1:
            wrong = "twice"
        elif not isinstance(metric.value, (int, float)) or not math.isfinite(metric.value):
            wrong = f"as {metric.value!r}"
        else:
            continue
        raise PluginError(f"{use!r} measured {metric.name!r} {wrong}", plugin=plugin)
    return metrics


def hooks_mode(asked: str | None = None) -> Mode:
    """How hooks are called: as asked, else by the environment variable NTLAB_HOOKS, else directly."""
    where = "" if asked is not None else HOOKS_VARIABLE
    mode = asked if asked is not None else os.environ.get(HOOKS_VARIABLE) or "direct"
    for known in HOOKS:
        if mode == known:
            return known
    raise UnknownNameError("hook mode", mode, HOOKS, where=where)
