"""The conformance kit: the rules that every plugin keeps, checked on its own experiments.

    test_conformance = conformance("feedback")          # in a test file: one test a rule

    for rule in conformance_rules("feedback"):          # anywhere else
        rule.check()

A rule that is broken says what was seen, where, and how to mend it. Where nothing can be judged (a plugin
that states no neutral options) it says so too, and pytest shows a skip: nothing passes in silence.

The rules share their runs, one seed an arm; where a claim would fail by that alone, all its seeds are run.
`docs/testing.md` lists the rules.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import os
import pickle
import random
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import attrs

from ntlab.errors import NtlabError, PluginError, SimulationError, UserError
from ntlab.hooks import Mode
from ntlab.lab.experiment import Arm, Claim, Experiment, find_experiment, resolve
from ntlab.lab.options import Place, build_from, options_written, type_name, written
from ntlab.lab.registry import InstalledPlugin, Registry, installed
from ntlab.lab.results import ClaimResult, judge
from ntlab.lab.runner import Job, Run, jobs_of, observe, simulate
from ntlab.lab.tables import counted
from ntlab.plugin import implemented, options_of
from ntlab.quantities import MILLISECOND, Duration
from ntlab.testing.faults import Faults
from ntlab.topology import Tables, load

if TYPE_CHECKING:
    from ntlab.machine import Machine

HASH_SEED = "4242"
"""What strings hash by in the other process; here it is anything else."""
PYTHON = sys.executable
"""The Python of the other process: this one, or one that can import what this one has installed."""
GLIMPSE = 40 * MILLISECOND
"""How long a run of others' is looked at, to see whether a plugin changes what does not use it: two ticks of
the clock. Of n plugins each looks at n of them, so they are to be short."""
TRIED_BLINDLY = 2
"""In how many runs a hook is muted before it is found out where it is asked at all."""
FAULT_SEEDS = 3
"""How many sequences of random faults a plugin must survive."""
FAULTS_FOR = Duration(100 * MILLISECOND)
"""How long each of them lasts, from each boot on."""
SHOWN = 8
"""How many findings one failure tells."""

T = TypeVar("T")
Finding: TypeAlias = tuple[str, str]
"""What was seen, and how to mend it."""
_Plugins: TypeAlias = dict[str, Mapping[str, Any]]
"""Plugins by name, with their options."""


class Broken(AssertionError):
    """A rule is broken. The message is whole: it needs no traceback."""


class NotShown(Exception):
    """Nothing can be judged here, and why."""


@attrs.frozen
class Rule:
    """One rule for one plugin. `says` is what the rule demands."""

    plugin: str
    name: str
    says: str
    _findings: Callable[[], Iterator[Finding]] = attrs.field(repr=False, eq=False)

    def check(self) -> None:
        """Raises Broken with all that was seen, or NotShown where nothing can be judged."""
        lines = [f"plugin {self.plugin!r} breaks the rule {self.name!r}: {self.says}"]
        try:
            found = list(self._findings())
        except NtlabError as error:
            found = [(str(error), "mend that first: nothing can be judged before")]
        for seen, mend in found[:SHOWN]:
            lines += [f"  seen: {seen}", f"  mend: {mend}"]
        if len(found) > SHOWN:
            lines.append(f"  and {len(found) - SHOWN} more like these")
        if found:
            raise Broken("\n".join(lines))


def conformance(
    plugin: str,
    *,
    experiments: Sequence[str] | None = None,
    idle: Mapping[str, str] | None = None,
) -> Callable[..., None]:
    """A pytest test of an installed plugin, one item a rule: ``test_conformance = conformance("NAME")``.

    The arguments are those of `conformance_rules`.
    """
    import pytest

    rules = conformance_rules(plugin, experiments=experiments, idle=idle)

    @pytest.mark.parametrize("rule", rules, ids=lambda rule: rule.name)
    def test_conformance(rule: Rule) -> None:
        end: Callable[[str], Any] | None = None
        told = ""
        try:
            rule.check()
        except Broken as broken:
            end, told = partial(pytest.fail, pytrace=False), str(broken)
        except NotShown as reason:
            end, told = pytest.skip, str(reason)
        if end is not None:  # outside of the handlers, so that nothing else is told
            end(told)

    return test_conformance


def conformance_rules(
    plugin: str,
    *,
    experiments: Sequence[str] | None = None,
    idle: Mapping[str, str] | None = None,
) -> list[Rule]:
    """The rules for an installed plugin. Nothing is imported or run before the first `check`.

    `experiments` are names or files; by default those that the plugin ships or, where it ships none, those
    of its distribution that use it. `idle` names hooks that no experiment needs, and says why that is so.
    """
    kit = _Kit(plugin, experiments, dict(idle or {}))
    return [Rule(plugin, name, says, partial(check, kit)) for name, (says, check) in _RULES.items()]


# -- runs, shared by the rules of all plugins ----------------------------------------------------------------


class _Session:
    """Runs made in this process, by what they are made of."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.shared_draws: set[str] = set()
        """The runs that drew from the random numbers that all of Python shares."""
        self._runs: dict[str, Run] = {}
        self._asked: dict[str, set[tuple[str, str]]] = {}
        self._tables: dict[str, Tables] = {}

    def tables(self, hardware: str) -> Tables:
        if hardware not in self._tables:
            self._tables[hardware] = load(hardware).freeze()
        return self._tables[hardware]

    def run(self, job: Job, *, again: bool = False) -> Run:
        """A run, made once; or `again`."""
        key = _key(job)
        if again or key not in self._runs:
            before = random.getstate()
            self._runs[key] = _tamed(simulate, job, self.tables(job.hardware))
            if random.getstate() != before:
                self.shared_draws.add(key)
        return attrs.evolve(self._runs[key], experiment=job.experiment, arm=job.arm.name)

    def cost(self, job: Job) -> int:
        """How much is to do in a run that has been made, in events: no clock decides what is tried first."""
        return self._runs[_key(job)].events

    def asked(self, job: Job) -> set[tuple[str, str]]:
        """Whose hooks are asked in a run: (plugin, hook). Raises NtlabError where that cannot be seen."""
        key = _key(job)
        if key not in self._asked:
            checked = attrs.evolve(job, hooks="checked")
            self._asked[key] = _tamed(observe, checked, self.tables(job.hardware), _ever_asked)
        return self._asked[key]


def _tamed(run: Callable[..., T], *arguments: Any) -> T:
    """A run that ends with an exception is a broken machine, even where nobody is blamed for it."""
    try:
        return run(*arguments)
    except NtlabError:
        raise
    except Exception as error:
        raise SimulationError(f"{type(error).__name__}: {error}") from error


_latest: _Session | None = None


def _session() -> _Session:
    global _latest
    if _latest is None or _latest.registry is not installed():
        _latest = _Session(installed())
    return _latest


def _key(job: Job) -> str:
    arm = job.arm
    made_of = list(arm.plugins.items()), arm.workload, arm.hardware, job.use, job.duration, job.seed
    return repr((made_of, job.hooks, job.muted))


# -- a plugin under test -------------------------------------------------------------------------------------


class _Kit:
    def __init__(self, name: str, experiments: Sequence[str] | None, idle: dict[str, str]) -> None:
        self.name = name
        self.idle = idle
        self._named = experiments

    @cached_property
    def session(self) -> _Session:
        return _session()

    @property
    def plugin(self) -> InstalledPlugin:
        return installed().plugin(self.name)

    @cached_property
    def experiments(self) -> list[Experiment]:
        """The experiments in which the plugin is looked at, each with one seed. Raises NtlabError."""
        registry = installed()
        files = registry.experiment_files
        if self._named is not None:
            return [_resolved(name, registry) for name in self._named]
        own = [name for name, (owner, _) in files.items() if owner == self.name]
        if own:
            return [_resolved(name, registry) for name in own]
        siblings = {p.name for p in registry.plugins() if p.distribution == self.plugin.distribution}
        near = [_resolved(name, registry) for name, (owner, _) in files.items() if owner in siblings]
        return [one for one in near if any(self.name in arm.plugins for arm in one.arms.values())]

    @cached_property
    def base(self) -> dict[str, list[tuple[Job, Run]]]:
        """Each experiment's runs, those that use the plugin first.

        So the arms without it are run in a process that it has been run in. Raises NtlabError.
        """
        found = {}
        for experiment in self.experiments:
            jobs = sorted(jobs_of(experiment, "direct"), key=lambda job: -len(job.arm.plugins))
            jobs.sort(key=lambda job: self.name not in job.arm.plugins)
            found[experiment.name] = [(job, self.session.run(job)) for job in jobs]
        return found

    def runs(self, *, on: bool) -> list[tuple[Job, Run]]:
        """The runs with the plugin, or those without. Raises NotShown where there is none."""
        try:
            base = self.base
        except NtlabError as error:
            raise NotShown(f"its experiments do not run, see the rule 'experiments' ({error})") from None
        found = [
            (job, run) for runs in base.values() for job, run in runs if on == (self.name in job.arm.plugins)
        ]
        if not found:
            which = "uses it" if on else "is without it"
            raise NotShown(f"no arm of its experiments {which}: nothing to compare")
        return found

    @cached_property
    def elsewhere(self) -> _Elsewhere:
        return _elsewhere(self)

    def one_of_each_workload(self) -> list[tuple[Job, Run]]:
        """The cheapest run with the plugin, of each workload."""
        return list({job.use: (job, run) for job, run in self.cheapest_first()[::-1]}.values())[::-1]

    def cheapest_first(self) -> list[tuple[Job, Run]]:
        return sorted(self.runs(on=True), key=lambda pair: self.session.cost(pair[0]))

    def muted(self, job: Job, *hooks: str) -> Job:
        """The same run with the plugin, or some of its hooks, not asked."""
        if self.name not in job.arm.plugins:
            return job
        return attrs.evolve(job, muted=tuple(f"{self.name}.{hook}" for hook in hooks) or (self.name,))


def _resolved(name: str, registry: Registry, seeds: int | None = 1) -> Experiment:
    document, source, owner = find_experiment(name, registry)
    return resolve(document, registry, source=source, folder=Path(source).parent, plugin=owner, seeds=seeds)


def _with_plugins(job: Job, plugins: Mapping[str, Mapping[str, Any]]) -> Job:
    """The same run with these plugins, in the order in which they are asked."""
    registry = installed()
    whole = {}
    for name in registry.solve(plugins):
        cls = registry.plugin(name).info.cls
        whole[name] = options_written(build_from(cls, plugins[name], Place(name)))
    return attrs.evolve(job, arm=attrs.evolve(job.arm, plugins=whole))


def _where(job: Job) -> str:
    return f"experiment {job.experiment!r}, arm {job.arm.name!r}, seed {job.seed}"


def _quoted(text: str) -> str:
    first = text.strip().splitlines()[0] if text.strip() else text
    return repr(first if len(first) <= 60 else f"{first[:57]}...")


# -- rules ---------------------------------------------------------------------------------------------------


def _described(kit: _Kit) -> Iterator[Finding]:
    plugin = kit.plugin
    info = plugin.info
    try:
        plugin.check()
    except PluginError as error:
        yield str(error), "what `views()` returns is shown by 'ntlab run EXPERIMENT --view NAME'"
    if not _says_something(info.summary, info.name):
        yield f"the summary is {info.summary!r}", "@plugin(summary=...): one line that says what it changes"
    if not _readme(plugin):
        yield (
            f"there is no README.md beside {info.cls.__module__}, and none in the distribution "
            f"{plugin.distribution!r}",
            "write one: what it changes, its options, what its experiments show, what it does not model",
        )
    for workload in plugin.workloads.values():
        if not _says_something(workload.summary, workload.name):
            yield (
                f"the summary of the workload {workload.name!r} is {workload.summary!r}",
                "@workload(summary=...): one line that says what it does",
            )
    try:
        experiments = kit.experiments
    except NtlabError:
        return  # the rule "experiments" tells
    for experiment in experiments:
        for claim in experiment.claims:
            if not claim.ledger and not claim.source:
                yield (
                    f"claim {claim.id!r} of {experiment.source} says neither 'ledger' nor 'source'",
                    "say where its numbers come from, a document or a closed form; if from nowhere, say that",
                )


def _says_something(text: str, name: str) -> bool:
    words = [word for word in text.split() if word.strip(".,:;").lower() != name.lower()]
    return len(words) >= 2 and "\n" not in text.strip()


def _readme(plugin: InstalledPlugin) -> bool:
    if plugin.folder is not None and any(plugin.folder.glob("README*")):
        return True
    with contextlib.suppress(metadata.PackageNotFoundError):
        package = metadata.metadata(plugin.distribution).json
        return bool(package.get("description"))
    return False


WRONG_KIND = {"no": {"such": "option"}}
"""A value that no option takes, of whatever type."""
TYPES = "annotate it with a type that ntlab checks, see docs/plugins.md"


def _options(kit: _Kit) -> Iterator[Finding]:
    plugin = kit.plugin
    mentioned = _mentioned(plugin)
    described = [(plugin.info.cls, plugin.name)]
    described += [(one.cls, f"{plugin.name}.{one.name}") for one in plugin.workloads.values()]
    for cls, owner in described:
        for field in options_of(cls):
            here = f"option {field.name!r} of {owner!r}"
            if not _says_something(field.metadata["help"], field.name):
                yield (
                    f"{here}: its help is {field.metadata['help']!r}",
                    "say what it changes, and in what unit",
                )
            if not mentioned & {field.name, "asdict", "astuple", "__dict__"}:
                yield (
                    f"{here}: no code of the package reads it",
                    f"use self.{field.name}, or delete the option",
                )
            for value, wrong in _trials(field, getattr(cls(), field.name)):
                try:
                    said = _refusal(cls, field.name, value)
                except Exception as error:
                    what = f"{type(error).__name__}: {error}"
                    yield (
                        f"{here}: {value!r}, {wrong or 'its default'}, raises {what}",
                        f"{TYPES}; a validator raises ValueError",
                    )
                    continue
                if said is not None and not wrong:
                    yield (
                        f"{here}: its default {value!r}, written in an experiment, is refused ({said})",
                        TYPES,
                    )
                elif said is None and wrong:
                    yield f"{here}: {value!r}, {wrong}, is accepted", TYPES


def _trials(field: attrs.Attribute[Any], default: Any) -> Iterator[tuple[Any, str]]:
    """Values for an option, as an experiment writes them, and what is wrong with each, "" for nothing."""
    if default is not None:
        yield written(default, field.type), ""
    yield WRONG_KIND, f"which is no {type_name(field.type)}"
    for bound, step in (("minimum", -1), ("maximum", 1)):
        limit = field.metadata[bound]
        if limit is not None:
            yield written(limit + step, field.type), f"beyond its {bound} {written(limit, field.type)}"


def _refusal(cls: type, option: str, value: Any) -> UserError | None:
    try:
        build_from(cls, {option: value}, Place("option"))
    except UserError as error:
        return error
    return None


def _mentioned(plugin: InstalledPlugin) -> set[str]:
    """The names of attributes, and the texts, in a plugin's code: all by which an option can be read."""
    files = set(plugin.folder.rglob("*.py")) if plugin.folder is not None else set()
    for cls in (plugin.info.cls, *plugin.info.workloads):
        for base in cls.__mro__:
            if base is not object and (source := inspect.getsourcefile(base)) is not None:
                files.add(Path(source))
    found = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
            elif isinstance(node, ast.ImportFrom):
                found.update(alias.name for alias in node.names)
    return found


def _experiments(kit: _Kit) -> Iterator[Finding]:
    try:
        experiments = kit.experiments
    except NtlabError as error:
        yield str(error), "mend the file: `ntlab run FILE.toml` says the same"
        return
    if not any(kit.name in arm.plugins for one in experiments for arm in one.arms.values()):
        yield (
            "no experiment uses it" if not experiments else f"no arm of {_names(experiments)} uses it",
            "ship one in the folder 'experiments' of its package, with an arm that uses it and one that does "
            "not; or name some: conformance(..., experiments=[...])",
        )
        return
    try:
        base = kit.base
    except NtlabError as error:
        yield str(error), "`ntlab run` of the experiment says the same"
        return
    for experiment in experiments:
        for claim in experiment.claims:
            found = _judged(kit, experiment, claim, [run for _, run in base[experiment.name]])
            if not found.holds:
                yield _told(found), "claim what it shows, or mend the mechanism"


def _names(experiments: Iterable[Experiment]) -> str:
    return ", ".join(repr(one.name) for one in experiments)


def _judged(
    kit: _Kit, experiment: Experiment, claim: Claim, runs: list[Run], *, muted: bool = False
) -> ClaimResult:
    """A claim by one seed; where that is not what is wanted, by all the seeds of its experiment."""
    found = judge(claim, experiment, runs)
    wanted = not muted or claim.control
    whole = _resolved(experiment.source, installed(), seeds=None)
    if found.holds == wanted or whole.seeds == 1:
        return found
    jobs = jobs_of(whole, "direct", claim.expectation.arms)
    return judge(claim, whole, [kit.session.run(kit.muted(job) if muted else job) for job in jobs])


def _told(found: ClaimResult) -> str:
    measured = ", ".join(f"{arm} = {value.mean:.6g}" for arm, value in found.arms.items())
    seeds = next(iter(found.arms.values())).n
    return (
        f"claim {found.claim.id!r} of experiment {found.experiment!r} "
        f"{'holds' if found.holds else 'fails'}: {found.claim.expectation.text}; "
        f"{found.claim.metric} over {counted(seeds, 'seed')}: {measured}"
    )


def _deterministic(kit: _Kit) -> Iterator[Finding]:
    for job, run in kit.one_of_each_workload():
        again = kit.session.run(job, again=True)
        if again.digest != run.digest:
            yield (
                f"{_where(job)}: run twice here, digest {run.digest[:12]}, then {again.digest[:12]}",
                "what a plugin or workload remembers belongs into state(...) fields: classes and modules "
                "outlive a run",
            )
            return
    elsewhere = kit.elsewhere
    for job, run in kit.runs(on=True):
        if (there := elsewhere.digests[_key(job)]) != run.digest:
            yield _difference(kit, job, run, there)
            return


def _off(kit: _Kit) -> Iterator[Finding]:
    elsewhere = kit.elsewhere
    judged = 0
    with contextlib.suppress(NotShown):
        for job, run in kit.runs(on=False):
            judged += 1
            there = elsewhere.digests[_key(job)]
            if there != run.digest:
                yield _difference(kit, job, run, there)
                return
    for job in _bystanders(kit):
        untouched = elsewhere.glimpses.get(_key(job))
        if untouched is not None:
            judged += 1
            here = _glimpse(job, kit.session.tables(job.hardware))
            if here != untouched and (alone := _alone(kit, job, glimpse=True)) != here:
                yield _touched(job, alone, here or "none: it breaks")
                return
    if not judged:
        raise NotShown("every run here uses it: there is nothing that it should leave alone")


def _difference(kit: _Kit, job: Job, run: Run, there: str) -> Finding:
    """Why a run gives another digest in another process: found out by changing one thing at a time."""
    alone, hashed = (_alone(kit, job, hash_seed=seed) for seed in ("0", HASH_SEED))
    if hashed != alone:
        return (
            f"{_where(job)}: digest {alone[:12]} with PYTHONHASHSEED=0, {hashed[:12]} with {HASH_SEED}",
            "sort what comes out of a set or of hash() before it decides anything",
        )
    plain = _alone(kit, attrs.evolve(job, hooks="plain"))
    if plain != alone:
        return (
            f"{_where(job)}: digest {alone[:12]} with hooks called directly, {plain[:12]} with hooks='plain'",
            "a hook must not ask how it is called",
        )
    if sys.executable != PYTHON and (other := _alone(kit, job, python=PYTHON)) != alone:
        return (
            f"{_where(job)}: digest {alone[:12]} with {sys.executable}, {other[:12]} with {PYTHON}",
            "let nothing decide that one Python does in another way than the next",
        )
    if kit.name not in job.arm.plugins:
        return _touched(job, alone, run.digest)
    return (
        f"{_where(job)}: digest {alone[:12]} alone in a new process; after others {run.digest[:12]} here, "
        f"{there[:12]} elsewhere",
        "what a run leaves behind changes the next: keep it in state(...) fields, in no class or module",
    )


def _touched(job: Job, alone: str, here: str) -> Finding:
    return (
        f"{_where(job)}, which does not use it: digest {alone[:12]} in a process of its own, {here[:12]} "
        "here, where the plugin was imported and run",
        "change nothing outside of your own instance: patch no class or module, leave nothing behind in one",
    )


def _neutral(kit: _Kit) -> Iterator[Finding]:
    neutral = kit.plugin.info.neutral
    if neutral is None:
        raise NotShown(
            "it states no neutral options; if some switch it off, say so: @plugin(neutral={...}), and see "
            "that nothing changes then"
        )
    for option, value in neutral.items():
        if (said := _refusal(kit.plugin.info.cls, option, value)) is not None:
            yield f"neutral {option!r}: {said}", "write it as in an experiment, quantities with their unit"
            return
    judged = 0
    users = _users(kit.name)
    for job, _ in kit.runs(on=True):
        plugins = job.arm.plugins
        if any(name in users for name in plugins if name != kit.name):
            continue  # another plugin needs it, so there is no such arm without it
        judged += 1
        switched_off = _with_plugins(job, {**plugins, kit.name: {**plugins[kit.name], **neutral}})
        without = _with_plugins(job, {name: set for name, set in plugins.items() if name != kit.name})
        off, absent = kit.session.run(switched_off), kit.session.run(without)
        if off.digest != absent.digest:
            options = ", ".join(f"{name} = {value!r}" for name, value in neutral.items())
            yield (
                f"{_where(job)}: with {options} digest {off.digest[:12]}, without the plugin "
                f"{absent.digest[:12]} ({_first_difference(off, absent)})",
                "answer None, draw nothing and trace nothing when switched off; or state other options",
            )
    if not judged:
        raise NotShown("other plugins need it wherever it is used")


def _first_difference(one: Run, other: Run) -> str:
    for name, value in {**one.metrics, **one.counters}.items():
        theirs = {**other.metrics, **other.counters}.get(name)
        if theirs != value:
            return f"{name}: {value:.6g} against {'nothing' if theirs is None else f'{theirs:.6g}'}"
    return "its measurements are the same: what differs is only seen in the trace"


def _own_means(kit: _Kit) -> Iterator[Finding]:
    if kit.elsewhere.printed:
        yield (
            f"in a new process, importing and running it printed {_quoted(kit.elsewhere.printed)}",
            "print nothing: output belongs to whoever runs ntlab; trace an event, or offer a view",
        )
    draws = kit.session.shared_draws
    for job, _ in kit.runs(on=True):
        if _key(job) in draws:
            quiet = kit.muted(job)
            kit.session.run(quiet)
            if _key(quiet) not in draws or job.use.partition(".")[0] == kit.name:
                yield (
                    f"{_where(job)}: it drew from the random numbers that all of Python shares",
                    'draw from machine.streams.stream("NAME", ...), NAME being yours: no other draws move',
                )
                break
    for job, _ in kit.one_of_each_workload():
        error, mine = _checked(kit, job)
        if mine:
            yield f"{_where(job)}, hooks='checked': {error}", "`ntlab run EXPERIMENT --check` shows it again"


def _faults(kit: _Kit) -> Iterator[Finding]:
    survived = 0
    error: NtlabError | None = None
    for job, _ in kit.one_of_each_workload():
        for seed in range(1, FAULT_SEEDS + 1):
            error, mine = _checked(kit, attrs.evolve(job, seed=seed), faults=True)
            survived += error is None
            if error is not None and mine:
                yield (
                    f"{_where(attrs.evolve(job, seed=seed))}, with random faults: {error}",
                    "any machine may do what Faults() does: find what was taken for granted",
                )
                return
    if not survived:
        raise NotShown(f"others break first: {error}")


def _checked(kit: _Kit, job: Job, *, faults: bool = False) -> tuple[NtlabError | None, bool]:
    """What the mode "checked" finds in a run, and whether that is this plugin's doing."""
    error = _error(kit, job, faults)
    if isinstance(error, PluginError):
        return error, kit.name in _blamed(error)
    return error, error is not None and _error(kit, kit.muted(job), faults) is None


def _blamed(error: NtlabError) -> list[str]:
    """The plugins that an error names."""
    return error.plugin.split(" or ") if isinstance(error, PluginError) else []


def _error(kit: _Kit, job: Job, faults: bool) -> NtlabError | None:
    beside = [Faults(until=FAULTS_FOR)] if faults else []
    try:
        tables = kit.session.tables(job.hardware)
        _tamed(observe, attrs.evolve(job, hooks="checked"), tables, lambda machine: None, beside)
    except NtlabError as error:
        return error
    return None


def _claims(kit: _Kit) -> Iterator[Finding]:
    judged = 0
    kit.runs(on=True)
    for experiment in kit.experiments:
        arms = experiment.arms
        settings = {repr(arm.plugins.get(kit.name)) for arm in arms.values()}
        own = experiment.plugin in (kit.name, None)
        if len(settings) == 1 or (not own and repr(None) not in settings):
            continue  # it is on in all arms: the experiment is about something else
        for claim in experiment.claims:
            if not any(kit.name in arms[arm].plugins for arm in claim.expectation.arms):
                continue
            judged += 1
            try:
                jobs = [kit.muted(job) for job in jobs_of(experiment, "direct", claim.expectation.arms)]
                runs = [kit.session.run(job) for job in jobs]
                found = _judged(kit, experiment, claim, runs, muted=True)
            except NtlabError:
                continue  # without the mechanism there is not even a measurement
            if found.holds and not claim.control:
                yield (
                    f"with no hook of it asked, {_told(found)}",
                    "claim what only the mechanism gives; or, if this is rightly about something else, say "
                    f"'control = true' in {experiment.source}",
                )
            elif claim.control and not found.holds and own:
                yield (
                    f"marked as a control, but with no hook of it asked, {_told(found)}",
                    f"it is about the mechanism: take 'control = true' out of {experiment.source}",
                )
    if not judged:
        raise NotShown("no claim compares arms with it and without it")


def _hooks(kit: _Kit) -> Iterator[Finding]:
    answered = list(implemented(kit.plugin.info.cls).values())
    for hook in kit.idle:
        if hook not in answered:
            yield f"idle={{{hook!r}: ...}}, but it answers no such hook", "take it out of the test"
    few = kit.one_of_each_workload()
    runs = few + [pair for pair in kit.cheapest_first() if pair not in few]
    idle = [hook for hook in answered if hook in kit.idle]
    if idle and not any(_misses(kit, *pair, *idle) for pair in few):
        answered = [hook for hook in answered if hook not in idle]  # all at once is quicker than one by one
    for hook in answered:
        found = next(_missing(kit, few if hook in kit.idle else runs, hook), None)
        needed = found and found[0]
        if found:
            runs.sort(key=lambda pair: pair is not found)  # it may show the next hook too
        if needed is None and hook not in kit.idle:
            yield (
                f"hook {hook!r}: without it, nothing changes in any run of {_names(kit.experiments)}",
                "exercise it in an experiment, or delete it; if it is there for what no experiment does, "
                f'say conformance(..., idle={{"{hook}": "why"}})',
            )
        elif needed is not None and hook in kit.idle:
            yield (
                f"hook {hook!r} is said to be idle ({kit.idle[hook]}), but it changes {_where(needed)}",
                "take it out of the test's idle=...",
            )


def _missing(kit: _Kit, runs: Sequence[tuple[Job, Run]], hook: str) -> Iterator[tuple[Job, Run]]:
    """The runs in which anything changes when that hook is not asked; those that never ask it come last."""
    yield from (pair for pair in runs[:TRIED_BLINDLY] if _misses(kit, *pair, hook))
    later: list[tuple[Job, Run]] = []
    for job, run in runs[TRIED_BLINDLY:]:
        try:
            asked = (kit.name, hook) in kit.session.asked(job)
        except NtlabError:
            asked = True  # another rule tells
        if not asked:
            later.append((job, run))
        elif _misses(kit, job, run, hook):
            yield job, run
    yield from (pair for pair in later if _misses(kit, *pair, hook))


def _misses(kit: _Kit, job: Job, run: Run, *hooks: str) -> bool:
    """Whether anything changes in a run when these hooks are not asked."""
    try:
        without = kit.session.run(kit.muted(job, *hooks))
    except NtlabError:
        return True
    return (without.digest, without.metrics, without.counters) != (run.digest, run.metrics, run.counters)


# -- beside others -------------------------------------------------------------------------------------------


def _beside_others(kit: _Kit) -> Iterator[Finding]:
    mine = kit.plugin.info
    judged = 0
    crowds = [(job, crowd) for job, _ in kit.one_of_each_workload() for crowd in _crowds(job.arm)]
    for job, whole in crowds:
        crowd, alone = _company(kit, job, whole)
        if len(crowd) == len(job.arm.plugins):
            continue
        judged += 1
        try:
            asked = _asked(_with_plugins(job, crowd), kit)
        except NtlabError as error:
            if alone is None and kit.name not in _blamed(error):
                continue  # nobody knows whether it is this plugin's doing
            others = ", ".join(name for name in crowd if name not in job.arm.plugins)
            yield (
                f"{_where(job)}, with {others} on too: {error}",
                "do not rely on being alone, others answer hooks too; if that cannot be, say conflicts=(...)",
            )
            continue
        for plugin, hook in sorted((alone or set()) - asked):
            info = installed().plugin(plugin).info
            older = info.age < mine.age
            declared = plugin in mine.before or mine.name in info.after or _gives_way(info.cls, hook)
            if not (older or declared or plugin in installed().required(mine.name)):
                yield (
                    f"{_where(job)}: hook {hook!r} of plugin {plugin!r} is asked without it, never with it",
                    "answer None where it is not yours to decide; or declare that it comes first: "
                    f'before=("{plugin}",), or conflicts=("{plugin}",)',
                )
    if not judged:
        raise NotShown("no other plugin that is installed can be on with it")


def _gives_way(cls: type, hook: str) -> bool:
    """Whether a plugin says by `trylast` that others may answer in its place."""
    return any(
        getattr(cls, method).ntlab_impl["trylast"]
        for method, name in implemented(cls).items()
        if name == hook
    )


def _company(kit: _Kit, job: Job, crowd: _Plugins) -> tuple[_Plugins, set[tuple[str, str]] | None]:
    """A crowd without those that break even without the plugin under test, and whose hooks are asked then;
    None where the experiment is none without it."""
    while True:
        without = {name: options for name, options in crowd.items() if name not in _users(kit.name)}
        try:
            return crowd, _asked(_with_plugins(job, without), kit)
        except NtlabError as error:
            gone = {user for name in _blamed(error) if name in without for user in _users(name)}
            if not gone or gone.intersection(job.arm.plugins):
                return crowd, None
            crowd = {name: options for name, options in crowd.items() if name not in gone}


def _crowds(arm: Arm) -> Iterator[_Plugins]:
    """The plugins of an arm with as many others as can be on with them, until each was in some such crowd."""
    others = [plugin.name for plugin in _usable() if plugin.name not in arm.plugins]
    nothing: Mapping[str, Any] = {}
    left = others
    while left:
        crowd: _Plugins = dict(arm.plugins)
        for name in dict.fromkeys([*left, *others]):
            wanted = dict.fromkeys([*installed().required(name), name], nothing) | crowd
            with contextlib.suppress(NtlabError):  # it conflicts
                installed().solve(wanted)
                crowd = wanted
        if crowd.keys().isdisjoint(left):
            return
        yield crowd
        left = [name for name in left if name not in crowd]


def _users(name: str) -> set[str]:
    """The plugins that cannot be without a plugin, itself too."""
    return {name, *(plugin.name for plugin in _usable() if name in installed().required(plugin.name))}


def _usable() -> list[InstalledPlugin]:
    """The installed plugins, without those that cannot even be imported."""
    found = []
    for plugin in installed().plugins():
        with contextlib.suppress(NtlabError):
            plugin.info  # noqa: B018
            found.append(plugin)
    return found


def _asked(job: Job, kit: _Kit) -> set[tuple[str, str]]:
    """Whose first-result hooks were asked in a run: (plugin, hook). The run is checked all along."""

    def seen(machine: Machine) -> set[tuple[str, str]]:
        hooks = vars(machine.manager.hook)
        return {(name, hook) for name, hook in _ever_asked(machine) if hooks[hook].spec.opts["firstresult"]}

    return _tamed(observe, attrs.evolve(job, hooks="checked"), kit.session.tables(job.hardware), seen)


def _ever_asked(machine: Machine) -> set[tuple[str, str]]:
    assert machine.checks is not None
    return machine.checks.ever


# -- other processes -----------------------------------------------------------------------------------------


@attrs.frozen
class _Elsewhere:
    """What a new process gave. `glimpses` are of runs that do not use the plugin, made before its import."""

    digests: dict[str, str]
    glimpses: dict[str, str]
    printed: str


def _elsewhere(kit: _Kit) -> _Elsewhere:
    """The runs of a plugin's experiments in a new process: other hashes, hooks called by pluggy's own loop,
    another order, those without it first, and perhaps another Python."""
    on = [job for job, _ in kit.runs(on=True)]
    off: list[Job] = []
    with contextlib.suppress(NotShown):
        off = [job for job, _ in kit.runs(on=False)]
    return _ask_elsewhere(kit, [*off, *reversed(on)], _bystanders(kit), "plain", HASH_SEED, PYTHON)


def _alone(
    kit: _Kit, job: Job, *, hash_seed: str = "0", python: str = sys.executable, glimpse: bool = False
) -> str:
    """The digest of a run in a process of its own, called as it says itself."""
    asked: tuple[Sequence[Job], Sequence[Job]] = ((), [job]) if glimpse else ([job], ())
    found = _ask_elsewhere(kit, *asked, None, hash_seed, python)
    return (found.glimpses if glimpse else found.digests)[_key(job)]


def _bystanders(kit: _Kit) -> list[Job]:
    """One run of every other plugin, in none of which this one has a part."""
    registry = installed()
    found: dict[str, Job] = {}
    for name, (owner, _) in registry.experiment_files.items():
        if owner in found or registry.plugin(owner).folder == kit.plugin.folder:
            continue
        try:
            jobs = jobs_of(_resolved(name, registry), "direct")
        except NtlabError:
            continue  # whoever ships it is told
        for job in jobs:
            if not _users(kit.name).intersection(job.arm.plugins):
                found[owner] = job
    return list(found.values())


def _glimpse(job: Job, tables: Tables) -> str | None:
    """The digest of the beginning of a run; None where it breaks, of which whoever ships it is told."""
    short = GLIMPSE if job.duration is None else min(job.duration, GLIMPSE)
    try:
        digest: str = _tamed(observe, attrs.evolve(job, duration=short), tables, _digest)
    except NtlabError:
        return None
    return digest


def _digest(machine: Machine) -> str:
    return machine.tracer.digest()


def _ask_elsewhere(
    kit: _Kit,
    jobs: Sequence[Job],
    glimpses: Sequence[Job],
    hooks: Mode | None,
    hash_seed: str,
    python: str,
) -> _Elsewhere:
    tables = {job.hardware: kit.session.tables(job.hardware) for job in (*jobs, *glimpses)}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "runs"
        file.write_bytes(pickle.dumps((jobs, glimpses, hooks, tables, kit.plugin.info.cls.__module__)))
        process = subprocess.run(
            [python, "-m", __name__, str(file)],
            env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(_path())},
            capture_output=True,
            text=True,
            check=False,
        )
        if process.returncode:
            last = (process.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise Broken(f"plugin {kit.name!r}: its runs end in a new process, though not here: {last}")
        digests, glimpsed = pickle.loads(file.read_bytes())
    _, _, printed = process.stderr.partition(f"plugin {kit.name!r} prints")
    # What plugins print goes to stderr, after a note; past Python's own stdout it still goes to stdout.
    return _Elsewhere(digests, glimpsed, process.stdout or printed.partition("\n")[2])


def _path() -> list[str]:
    """Where this process imports from, without what any Python brings itself."""
    own = {
        sysconfig.get_path("stdlib"),
        sysconfig.get_path("platstdlib"),
        sysconfig.get_config_var("DESTSHARED"),
    }
    return [place for place in sys.path if place and place not in own]


def _serve(file: Path) -> None:
    """In the other process: make the runs that a file describes, and leave their digests in it."""
    jobs, glimpses, hooks, tables, module = pickle.loads(file.read_bytes())
    glimpsed = {}
    for job in glimpses:
        digest = _glimpse(job, tables[job.hardware])
        if digest is None:
            continue
        if module in sys.modules:
            break  # something else imports the plugin: what follows is not untouched
        glimpsed[_key(job)] = digest
    digests = {}
    for job in jobs:
        asked = job if hooks is None else attrs.evolve(job, hooks=hooks)
        digests[_key(job)] = simulate(asked, tables[job.hardware]).digest
    file.write_bytes(pickle.dumps((digests, glimpsed)))


_RULES: dict[str, tuple[str, Callable[[_Kit], Iterator[Finding]]]] = {
    "described": ("it says what it is, and where its claims come from.", _described),
    "options": ("every option is explained, read, and refuses what it cannot take.", _options),
    "experiments": ("its experiments run, and what they claim holds.", _experiments),
    "deterministic": (
        "one arm and seed give one digest, here and elsewhere, however strings hash and hooks are called.",
        _deterministic,
    ),
    "off": ("what does not use it is as if it were not installed, bit for bit.", _off),
    "neutral": ("with its neutral options it changes nothing, bit for bit.", _neutral),
    "own-means": (
        "it answers as hooks specify, draws from its own random streams, changes nothing of others, and "
        "prints nothing.",
        _own_means,
    ),
    "faults": ("whatever happens around it, the machine stays consistent.", _faults),
    "claims": ("its claims fail when its hooks are not asked.", _claims),
    "hooks": ("each of its hooks matters in some experiment.", _hooks),
    "beside-others": (
        "it works with all other plugins on, and silences none that it does not name.",
        _beside_others,
    ),
}

if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
