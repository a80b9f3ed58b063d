"""The laboratory's functions, as `import ntlab` offers them; the command line prints what they return."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from ntlab.errors import NtlabError, PluginError, UnknownNameError, UserError
from ntlab.hooks import Mode
from ntlab.lab import runner
from ntlab.lab.experiment import Claim, Experiment, find_experiment, resolve
from ntlab.lab.listings import ExperimentList, PluginList
from ntlab.lab.order import PluginOrder, order_of
from ntlab.lab.reference import HookReference, read_hooks
from ntlab.lab.registry import Registry, installed
from ntlab.lab.results import ClaimsReport, Output, Result, check_run, judge, read_result, versions
from ntlab.lab.runner import Job, Run, hooks_mode, jobs_of
from ntlab.lab.tables import Report, Table, as_columns
from ntlab.lab.workers import execute

if TYPE_CHECKING:
    from ntlab.lab.ablation import Ablation, Levels
    from ntlab.machine import Machine
    from ntlab.topology import Topology

R = TypeVar("R", bound=Result)

Progress = Callable[[int, int, str], None]
"""Told how many runs are finished, of how many, and which is the last one."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while an experiment ran. `result` has the finished runs, so many, `file` is where they are kept.

    `file` is None without a folder to write to, and where no run is finished.
    """

    def __init__(self, result: Report, finished: int, file: Path | None) -> None:
        super().__init__()
        self.result = result
        self.finished = finished
        self.file = file


def run(
    experiment: str | os.PathLike[str],
    hardware: str | os.PathLike[str] | None = None,
    set: Mapping[str, Any] | None = None,
    seeds: int | None = None,
    jobs: int = 1,
    hooks: Mode | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Result:
    """Run an experiment: the name of a shipped one, or a TOML file.

    `hardware` (a profile's name, or a file) and `seeds` replace the experiment's own. `set` changes options:
    {"workload.threads": 8, "numa_home.allocation": "current"}, in every arm that has them; with an arm's
    name in front ("after.workload.threads") in that one only. `jobs` processes share the work; the result is
    the same for any number. `hooks` is "direct", "plain" or "checked", which checks every answer of a plugin
    and the machine itself (default: the variable NTLAB_HOOKS, else "direct"). `out` is a folder for the
    result file; finished runs are there at once.

    Raises UserError for a mistake in what is asked, before anything runs where that is possible, and
    PluginError, naming plugin and hook, where a plugin raises. Ctrl-C raises `Interrupted`, a
    KeyboardInterrupt that carries the finished runs.
    """
    resolved, hardware_by_name = prepare(experiment, hardware, set, seeds)
    mode = hooks_mode(hooks)
    output = None if out is None else Output(Path(out))
    return _run(resolved, hardware_by_name, jobs, mode, output, progress, Result)


def ablate(
    experiment: str | os.PathLike[str],
    metric: str,
    base: str | None = None,
    full: str | None = None,
    factors: Iterable[str] | Mapping[str, Levels | None] = (),
    split: Iterable[str] = (),
    runs: int = 1024,
    order: int = 2,
    hardware: str | os.PathLike[str] | None = None,
    set: Mapping[str, Any] | None = None,
    seeds: int | None = None,
    jobs: int = 1,
    hooks: Mode | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Ablation:
    """Which of the differences between two arms cause the effect: run their combinations and compare.

    `base` and `full` are the arms (default: the experiment's first and last), `metric` is what is looked at.
    Each plugin that only one of them uses and each option that they set differently is a factor. `factors`
    joins some ("NAME+NAME"), adds or changes one ("NAME=OFF,ON", or {"NAME": (OFF, ON)}), or says which are
    switched by themselves ("NAME") and which, the rest, together. A plugin in `split` that only `full` uses
    is taken apart: `base` gets it too, with its neutral options, and each other option is a factor.

    There are at most `runs` runs. If all combinations are more, a fraction of them is run, and what it cannot
    tell apart is said. `order` is the most factors of an interaction that is shown. The other arguments, and
    what is raised, are those of `run`; the result file, NAME.ablation.json, can be run again too.
    """
    from ntlab.lab.ablation import Ablation, Check, parse_factor, plan

    machine = None if hardware is None else os.fspath(hardware)
    resolved = _resolve(experiment, machine, set, seeds)
    asked = factors.items() if isinstance(factors, Mapping) else [parse_factor(text) for text in factors]
    planned, combinations = plan(
        resolved,
        installed(),
        base=base,
        full=full,
        factors=list(asked),
        split=list(split),
        runs=runs,
        order=order,
    )

    def make(**parts: Any) -> Ablation:
        return Ablation(plan=planned, metric=metric, **parts)

    mode = hooks_mode(hooks)
    output = None if out is None else Output(Path(out))
    try:
        return _run(
            combinations,
            load_hardware([combinations], machine),
            jobs,
            mode,
            output,
            progress,
            make,
            Check(planned, resolved.use, metric),
        )
    except (UserError, PluginError) as error:
        if error.run is not None:
            arm, seed = error.run
            on = " and ".join(planned.on(arm)) or "nothing"
            error.args = (f"{error} (seed {seed}, with {on} on)",)
        raise


def view(
    experiment: str | os.PathLike[str],
    name: str,
    arm: str | None = None,
    hardware: str | os.PathLike[str] | None = None,
    set: Mapping[str, Any] | None = None,
    hooks: Mode | None = None,
) -> dict[str, str]:
    """Run an experiment with its first seed and return one of its views, as text, for each arm that has it.

    A view is a text about a run. All have those of `ntlab.lab.views`, such as "schedule" and "memory".
    Plugins and workloads offer more, such as a listing of its I/O, by a method ``views()``: a dictionary from
    names to functions of the machine. For `arm` only that one is run.
    """
    resolved, hardware_by_name = prepare(experiment, hardware, set, 1)
    work = jobs_of(resolved, hooks_mode(hooks), None if arm is None else [resolved.arm(arm).name])
    offered = {job.arm.name: runner.views(job) for job in work}
    if not any(name in names for names in offered.values()):
        raise UnknownNameError("view", name, {view for names in offered.values() for view in names})
    return {
        job.arm.name: runner.view(job, hardware_by_name[job.hardware].freeze(), name)
        for job in work
        if name in offered[job.arm.name]
    }


def perfetto(
    experiment: str | os.PathLike[str],
    file: str | os.PathLike[str],
    arm: str | None = None,
    hardware: str | os.PathLike[str] | None = None,
    set: Mapping[str, Any] | None = None,
    hooks: Mode | None = None,
) -> dict[str, Path]:
    """Run an experiment with its first seed and write a trace of it that the Perfetto viewer opens.

    Returns the file of each arm: `file` if it is the only one, else NAME.ARM.ENDING for NAME.ENDING. For
    `arm` only that one is run. Raises UserError for a file that cannot be written.
    """
    from ntlab.lab.perfetto import write_trace
    from ntlab.lab.watch import Log, Watch

    resolved, hardware_by_name = prepare(experiment, hardware, set, 1)
    work = jobs_of(resolved, hooks_mode(hooks), None if arm is None else [resolved.arm(arm).name])
    path = Path(file)
    files = {
        job.arm.name: path if len(work) == 1 else path.with_name(f"{path.stem}.{job.arm.name}{path.suffix}")
        for job in work
    }
    for job in work:
        place, watch = files[job.arm.name], Watch()

        def write(machine: Machine, place: Path = place, log: Log = watch.log) -> None:
            try:
                with place.open("wb") as out:
                    write_trace(machine, log, out)
            except OSError as error:
                raise UserError(f"cannot be written: {error.strerror}", where=str(place)) from None

        runner.observe(job, hardware_by_name[job.hardware].freeze(), write, [watch], keep=True)
    return files


def claims(
    ids: Iterable[str] = (),
    jobs: int = 1,
    hooks: Mode | None = None,
    progress: Progress | None = None,
) -> ClaimsReport:
    """Run the shipped experiments and judge their claims: all, or those that `ids` name.

    An ID is a claim's, a ledger row, or the name of an experiment or plugin. Only the arms that these claims
    need are run. Raises UnknownNameError for an ID that nothing answers to, and UserError or PluginError for
    an experiment among them that cannot be run; of the others, one that is broken is nobody's concern.
    """
    mode = hooks_mode(hooks)
    chosen = _choose(tuple(ids), installed())
    hardware = load_hardware([experiment for experiment, _ in chosen])
    work = []
    for experiment, some in chosen:
        arms = {arm for claim in some for arm in claim.expectation.arms}
        work += jobs_of(experiment, mode, sorted(arms))
    by_name = {experiment.name: experiment for experiment, _ in chosen}
    runs = _collect(work, by_name, hardware, jobs, progress, None)
    return ClaimsReport(
        claims=tuple(
            judge(claim, experiment, [run for run in runs if run.experiment == experiment.name])
            for experiment, some in chosen
            for claim in some
        )
    )


def rerun(
    result: str | os.PathLike[str],
    jobs: int = 1,
    hooks: Mode | None = None,
    progress: Progress | None = None,
) -> Rerun:
    """Make the runs of a result file again, from what the file holds, and compare their digests."""
    registry = installed()
    path = Path(result)
    kept = read_result(path)
    experiment = resolve(kept.definition, registry, source=str(path), plugin=kept.plugin)
    with tempfile.TemporaryDirectory() as folder:
        hardware = {}
        for at, (name, profile) in enumerate(kept.profiles.items()):
            file = Path(folder) / f"{at}.toml"
            file.write_text(profile, encoding="utf-8")
            hardware[name] = _load(str(file), f"{path}: profiles")
    for arm in experiment.arms.values():
        if arm.hardware not in hardware:
            raise UnknownNameError("hardware", arm.hardware, hardware, where=f"{path}: profiles")
    jobs_by_run = {
        (job.arm.name, job.seed): job for job in jobs_of(experiment, hooks_mode(hooks or kept.hooks))
    }
    recorded = {(run.arm, run.seed): run.digest for run in kept.runs}
    if not recorded:
        raise UserError("holds no finished run", where=f"{path}: runs")
    for arm_name, seed in recorded:
        if (arm_name, seed) not in jobs_by_run:
            raise UserError(
                f"{arm_name!r} with seed {seed} is no run of its experiment", where=f"{path}: runs"
            )
    work = [job for run, job in jobs_by_run.items() if run in recorded]
    runs = _collect(work, {experiment.name: experiment}, hardware, jobs, progress, None)
    here = versions([experiment], registry)
    return Rerun(
        experiment=experiment.name,
        digests={(run.arm, run.seed): (recorded[run.arm, run.seed], run.digest) for run in runs},
        versions=_differences(kept.versions, here),
    )


def plugins(*names: str) -> PluginList:
    """The installed plugins, or those of these names, with their options, hooks and workloads.

    Without names, plugins that cannot be used are left out: they are the list's `faults`.
    """
    registry = installed()
    if names:
        return PluginList(plugins=tuple(registry.plugin(name).check() for name in names))
    usable, faults = registry.usable()
    return PluginList(plugins=usable, faults=faults)


def plugin_order(experiment: str | os.PathLike[str], arm: str | None = None) -> PluginOrder:
    """In which order the plugins of an experiment are asked, and why; and who is called by each hook.

    Raises UserError, as `run` would, where there is no such order, and PluginError for a plugin at fault.
    """
    resolved = _resolve(experiment)
    return order_of(resolved, resolved.arms if arm is None else [resolved.arm(arm).name])


def hook_reference(*names: str) -> HookReference:
    """The hooks that are specified here, or those of these names, and who implements each.

    Plugins that cannot be used are left out: they are the reference's `faults`.
    """
    reference = read_hooks(installed())
    return reference.of(names) if names else reference


def experiments() -> ExperimentList:
    """The experiments that the installed plugins ship.

    Those that cannot be read, or whose plugins are broken, are left out: they are the list's `faults`.
    """
    shipped, faults = _shipped(installed())
    return ExperimentList(experiments=tuple(shipped), faults=_distinct(faults.values()))


@attrs.frozen(kw_only=True, repr=False)
class Rerun(Report):
    """What running a result again gave. `digests` has, for each arm and seed, the digest then and now."""

    experiment: str
    digests: dict[tuple[str, int], tuple[str, str]]
    versions: dict[str, tuple[str, str]]
    """What had another version then: name -> (then, now)."""

    @property
    def same(self) -> bool:
        return all(then == now for then, now in self.digests.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "experiment": self.experiment,
            "same": self.same,
            "runs": [
                {"arm": arm, "seed": seed, "recorded": then, "digest": now, "same": then == now}
                for (arm, seed), (then, now) in self.digests.items()
            ],
            "versions": {name: {"recorded": then, "now": now} for name, (then, now) in self.versions.items()},
        }

    def columns(self) -> dict[str, list[Any]]:
        return as_columns(self.to_json()["runs"])

    def tables(self) -> list[Table]:
        rows = [
            [arm, str(seed), now[:16], "same" if then == now else f"was {then[:16]}"]
            for (arm, seed), (then, now) in self.digests.items()
        ]
        tables = [Table(["arm", "seed>", "digest", ""], rows, self.experiment)]
        if self.versions:
            changed = [[name, then, now] for name, (then, now) in self.versions.items()]
            tables.append(Table(["other versions", "then", "now"], changed))
        return tables


def prepare(
    experiment: str | os.PathLike[str],
    hardware: str | os.PathLike[str] | None,
    settings: Mapping[str, Any] | None,
    seeds: int | None,
) -> tuple[Experiment, dict[str, Topology]]:
    """The experiment as the user wants it run, checked, and its hardware."""
    asked = None if hardware is None else os.fspath(hardware)
    resolved = _resolve(experiment, asked, settings, seeds)
    return resolved, load_hardware([resolved], asked)


def _resolve(
    experiment: str | os.PathLike[str],
    hardware: str | None = None,
    settings: Mapping[str, Any] | None = None,
    seeds: int | None = None,
) -> Experiment:
    registry = installed()
    document, source, plugin = find_experiment(experiment, registry)
    return resolve(
        document,
        registry,
        source=source,
        folder=Path(source).parent,
        plugin=plugin,
        hardware=hardware,
        settings=settings,
        seeds=seeds,
    )


def _run(
    experiment: Experiment,
    hardware: Mapping[str, Topology],
    jobs: int,
    hooks: Mode,
    output: Output | None,
    progress: Progress | None,
    make: Callable[..., R],
    check: Callable[[Run], None] | None = None,
) -> R:
    """Make the runs of an experiment. `check` sees each as it comes, before it is kept."""
    from ntlab.topology import to_profile

    work = jobs_of(experiment, hooks)
    runs: list[Run] = []

    def result() -> R:
        place = {(job.arm.name, job.seed): at for at, job in enumerate(work)}
        return make(
            experiment=experiment,
            runs=tuple(sorted(runs, key=lambda run: place[run.arm, run.seed])),
            hooks=hooks,
            profiles={name: to_profile(topology) for name, topology in hardware.items()},
            versions=versions([experiment], installed()),
        )

    def keep(run: Run) -> None:
        if check is not None:
            check(run)
        runs.append(run)
        if output is not None:
            output.add(experiment, run)

    try:
        _collect(work, {experiment.name: experiment}, hardware, jobs, progress, keep)
    except KeyboardInterrupt:
        partial = result()
        file = None if output is None else output.finish(partial)
        raise Interrupted(partial, len(runs), file) from None
    finished = result()
    if output is not None:
        output.finish(finished)
    return finished


def _collect(
    work: Sequence[Job],
    experiments: Mapping[str, Experiment],
    hardware: Mapping[str, Topology],
    jobs: int,
    progress: Progress | None,
    keep: Callable[[Run], None] | None,
) -> list[Run]:
    """Make these runs, check each as it comes, and return them in the order of `work`."""
    if jobs < 1:
        raise UserError(f"{jobs} jobs", where="--jobs", expected="at least 1")
    tables = {name: topology.freeze() for name, topology in hardware.items()}
    done: dict[tuple[str, str, int], Run] = {}
    first: dict[tuple[str, str], Run] = {}
    with closing(execute(work, tables, min(jobs, len(work)))) as finished:
        for run in finished:
            done[run.experiment, run.arm, run.seed] = run
            check_run(run, experiments[run.experiment], first.setdefault((run.experiment, run.arm), run))
            if keep is not None:
                keep(run)
            if progress is not None:
                progress(len(done), len(work), f"{run.experiment} {run.arm} {run.seed}")
    return [done[job.experiment, job.arm.name, job.seed] for job in work]


def load_hardware(experiments: Iterable[Experiment], asked: str | None = None) -> dict[str, Topology]:
    """Each hardware that the experiments name, loaded once. `asked` is what the user named instead."""
    found: dict[str, Topology] = {}
    for experiment in experiments:
        for arm in experiment.arms.values():
            if arm.hardware not in found:
                where = "--hardware" if arm.hardware == asked else f"{experiment.source}: hardware"
                found[arm.hardware] = _load(arm.hardware, where)
    return found


def _load(hardware: str, where: str) -> Topology:
    from ntlab.topology import load

    try:
        return load(hardware)
    except UnknownNameError as error:
        if error.where:
            raise
        raise UserError(error.what, where=where, expected=error.expected) from None


def _shipped(registry: Registry) -> tuple[list[Experiment], dict[str, NtlabError]]:
    """Every shipped experiment, by plugin and file; and why some cannot be used. Claims' IDs are unique."""
    found = []
    faults: dict[str, NtlabError] = dict(registry.experiment_faults)
    owner: dict[str, str] = {}
    for name, (plugin, _) in registry.experiment_files.items():
        try:
            document, source, _ = find_experiment(name, registry)
            experiment = resolve(document, registry, source=source, folder=Path(source).parent, plugin=plugin)
            for claim in experiment.claims:
                if claim.id in owner:
                    what = f"has a claim {claim.id!r}, as experiment {owner[claim.id]!r} has"
                    raise PluginError(f"experiment {name!r} {what}", plugin=plugin)
        except (UserError, PluginError) as error:
            faults[name] = error
            continue
        owner |= {claim.id: name for claim in experiment.claims}
        found.append(experiment)
    return found, faults


def _choose(ids: Sequence[str], registry: Registry) -> list[tuple[Experiment, list[Claim]]]:
    """The claims that IDs name, by experiment; all, if there are none."""
    shipped, faults = _shipped(registry)
    known: dict[str, None] = {}
    chosen = []
    for experiment in shipped:
        some = []
        for claim in experiment.claims:
            names = [claim.id, claim.ledger, experiment.name, experiment.plugin or ""]
            known.update(dict.fromkeys(name for name in names if name))
            if not ids or any(name in ids for name in names):
                some.append(claim)
        if some:
            chosen.append((experiment, some))
    for name, fault in faults.items():
        names = _names_of(name, registry)
        known.update(dict.fromkeys(names))
        if not ids or any(name in ids for name in names):
            raise fault
    for name in ids:
        if name not in known:
            raise UnknownNameError("claim", name, known)
    return chosen


def _names_of(name: str, registry: Registry) -> list[str]:
    """What the claims of an experiment that cannot be resolved are asked for by, as far as that is known."""
    if name not in registry.experiment_files:
        return [name]
    document, _, plugin = find_experiment(name, registry)
    claims = document.get("claims")
    claims = [claim for claim in claims if isinstance(claim, dict)] if isinstance(claims, list) else []
    ledger = document.get("ledger")
    rows = [*(ledger if isinstance(ledger, list) else []), *(claim.get("ledger") for claim in claims)]
    names = [name, plugin, *rows, *(claim.get("id") for claim in claims)]
    return [known for known in names if isinstance(known, str)]


def _distinct(faults: Iterable[NtlabError]) -> tuple[NtlabError, ...]:
    """Without those that say the same: one broken plugin makes several experiments unusable."""
    return tuple({str(fault): fault for fault in faults}.values())


def _differences(then: object, now: object, name: str = "") -> dict[str, tuple[str, str]]:
    if isinstance(then, dict) and isinstance(now, dict):
        found: dict[str, tuple[str, str]] = {}
        for key in sorted({*then, *now}):
            found |= _differences(then.get(key), now.get(key), f"{name}.{key}" if name else key)
        return found
    return {} if then == now else {name: (str(then), str(now))}
