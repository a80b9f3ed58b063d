"""What is installed: plugins by name, their workloads and experiments, and the order they are asked in.

A plugin is found by an entry point of the group ``ntlab.plugins`` whose name is the plugin's name. Its
package may hold ``experiments/*.toml`` beside it. Nothing is imported until it is needed, so one broken
plugin does not hinder the others.
"""

from __future__ import annotations

import difflib
import heapq
import importlib
import importlib.util
import inspect
import multiprocessing
import re
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, cached_property
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import attrs

from ntlab._version import __version__
from ntlab.errors import PluginError, UnknownNameError, UnknownSpecificationError, UserError
from ntlab.lab.options import options_written
from ntlab.lab.prints import note, prints_on_stderr
from ntlab.plugin import RELEASES, PluginInfo, WorkloadInfo, implemented, plugin_info, workload_info

GROUP = "ntlab.plugins"
SLOW_IMPORT = 0.3
"""Seconds of work."""
SLOW_IMPORT_WAITING = 1.5
"""Seconds by the clock, which a busy machine makes long."""


@attrs.frozen(slots=False)
class InstalledPlugin:
    """One installed plugin, not imported until `info` is asked for."""

    name: str
    distribution: str
    version: str
    _entry: metadata.EntryPoint = attrs.field(repr=False, eq=False)
    _rival: str = ""
    """Another distribution that brings a plugin of this name: then neither can be used."""

    @cached_property
    def info(self) -> PluginInfo:
        """What the plugin says of itself. Raises PluginError where it cannot be imported or is no plugin."""
        if self._rival:
            raise PluginError(
                f"is brought by two distributions, {self.distribution!r} and {self._rival!r}: uninstall one",
                plugin=self.name,
            )
        with prints_on_stderr(lambda package: self.name):
            return self._info()

    def _info(self) -> PluginInfo:
        try:
            cls = self._loaded()
        except PluginError:
            raise
        except (Exception, SystemExit) as error:
            made_for = f" ({self.made_for})" if isinstance(error, ImportError) and self.made_for else ""
            raise PluginError(
                f"cannot be imported from the distribution {self.distribution!r}: "
                f"{type(error).__name__}: {error}{made_for}",
                plugin=self.name,
            ) from error
        info = plugin_info(cls)
        if info.name != self.name:
            raise PluginError(
                f"the distribution {self.distribution!r} registers it under this name, but its class "
                f"says name={info.name!r}",
                plugin=self.name,
            )
        _check_defaults(info.cls, "the plugin", self.name)
        for name in _unmarked(info):
            note(
                f"plugin {self.name!r} has a method {name!r}, which nobody asks, though a hook is called so: "
                "mark it @hookimpl, or call it otherwise"
            )
        return info

    def _loaded(self) -> type:
        """The plugin's class, imported. One that takes long delays every command, so the user is told."""
        importlib.import_module("ntlab.machine")  # which every plugin needs, and none shall answer for
        begun, busy = time.perf_counter(), time.process_time()
        cls: type = self._entry.load()
        took = time.perf_counter() - begun
        slow = time.process_time() - busy > SLOW_IMPORT or took > SLOW_IMPORT_WAITING
        if slow and multiprocessing.parent_process() is None:  # which has told of it
            note(
                f"plugin {self.name!r} takes {took:.1f} s to import, in every command: its package "
                f"{self.package!r} could import what is slow inside the functions that use it "
                f"(python -X importtime -c 'import {self.package}' shows what that is)"
            )
        return cls

    @property
    def package(self) -> str:
        """The top package that the plugin is in."""
        return self._entry.module.partition(".")[0]

    @property
    def made_for(self) -> str:
        """Which ntlab the plugin's distribution requires, and which this one is; "" where it does not say."""
        required = self._entry.dist.requires if self._entry.dist is not None else None
        ours = [each for each in required or () if re.match(r"ntlab\b(?!-)", each, re.IGNORECASE)]
        return f"this is ntlab {__version__}; it requires {', '.join(ours)}" if ours else ""

    def explained(self, error: UnknownSpecificationError) -> PluginError:
        """The same error, with what the plugin's distribution says of the ntlab that it is made for."""
        what = f"{error.what} ({self.made_for or f'this is ntlab {__version__}'})"
        return PluginError(what, plugin=error.plugin, hook=error.hook)

    @cached_property
    def workloads(self) -> dict[str, WorkloadInfo]:
        """The workloads the plugin brings, by their name without the plugin's."""
        described = [workload_info(cls) for cls in self.info.workloads]
        for info in described:
            _check_defaults(info.cls, f"the workload {info.name!r}", self.name)
            for needed in ("start", "measure"):
                if not callable(getattr(info.cls, needed, None)):
                    raise PluginError(
                        f"the workload {info.name!r} has no method {needed!r}", plugin=self.name
                    )
        return {info.name: info for info in described}

    def check(self) -> InstalledPlugin:
        """The plugin itself, if all that it says of itself can be used. Raises PluginError."""
        for workload in self.workloads.values():
            views_of(workload.cls(), self.name)
        views_of(self.info.cls(), self.name)
        return self

    @property
    def hooks(self) -> list[str]:
        """The hooks the plugin answers, by name."""
        return sorted(implemented(self.info.cls).values())

    @cached_property
    def folder(self) -> Path | None:
        """The folder of the package that holds the plugin; found without importing it."""
        top, *rest = self._entry.module.split(".")
        spec = importlib.util.find_spec(top)
        if spec is None or not spec.submodule_search_locations:
            return None
        folder = Path(next(iter(spec.submodule_search_locations)))
        for part in rest:
            if not (folder / part).is_dir():
                break
            folder = folder / part
        return folder


def _unmarked(info: PluginInfo) -> list[str]:
    """The methods of a plugin that are called as hooks are, and are none."""
    from ntlab.hooks import specifications, specified

    hooks = {name for module in (*specifications(), *info.hookspecs) for name in specified(module)}
    return [
        name
        for name, member in inspect.getmembers(info.cls, inspect.isfunction)
        if name in hooks and not hasattr(member, "ntlab_impl")
    ]


def _check_defaults(cls: type, what: str, plugin: str) -> None:
    """Options without a default, with one that they refuse, or of a type that is not known."""
    try:
        options_written(cls())
    except Exception as error:
        raise PluginError(
            f"{what} cannot be built with its defaults: {type(error).__name__}: {error}", plugin=plugin
        ) from error


def views_of(part: Any, plugin: str) -> dict[str, Callable[[Any], str]]:
    """The views of an instance of a plugin or of a workload. Raises PluginError where they are none."""
    if not hasattr(part, "views"):
        return {}
    what = f"{type(part).__name__}.views()"
    try:
        views = part.views()
    except Exception as error:
        raise PluginError(f"{what}: {type(error).__name__}: {error}", plugin=plugin) from error
    if isinstance(views, dict) and all(isinstance(key, str) and callable(views[key]) for key in views):
        return views
    raise PluginError(
        f"{what} returned {views!r}; expected a dictionary from names to functions", plugin=plugin
    )


@attrs.frozen
class Relation:
    """That plugin `first` is asked before plugin `then`. Which of the two says so, `by`, and how."""

    first: str
    then: str
    by: str
    how: Literal["requires", "before", "after"]

    def __str__(self) -> str:
        other = self.then if self.by == self.first else self.first
        return f"{self.by} {'requires' if self.how == 'requires' else f'says {self.how}'} {other}"


@attrs.frozen(slots=False)
class Registry:
    """The installed plugins. `installed()` gives that of this environment."""

    _plugins: Mapping[str, InstalledPlugin]

    def names(self) -> list[str]:
        return sorted(self._plugins)

    def owner_of_package(self, package: str) -> str:
        """The plugin, or plugins, that a top package brings; "" for none."""
        return " or ".join(name for name, plugin in self._plugins.items() if plugin.package == package)

    def plugin(self, name: str, where: str = "") -> InstalledPlugin:
        """The plugin of that name. Raises UnknownNameError."""
        if name not in self._plugins:
            raise UnknownNameError("plugin", name, self._plugins, where=where)
        return self._plugins[name]

    def plugins(self) -> list[InstalledPlugin]:
        """All of them, by name."""
        return [self._plugins[name] for name in self.names()]

    def usable(self) -> tuple[tuple[InstalledPlugin, ...], tuple[PluginError, ...]]:
        """The plugins that can be used, by name, and what is wrong with the others."""
        usable, faults = [], []
        for plugin in self.plugins():
            try:
                usable.append(plugin.check())
            except PluginError as error:
                faults.append(error)
        return tuple(usable), tuple(faults)

    def workload(self, use: str, where: str = "") -> WorkloadInfo:
        """The workload that an experiment calls PLUGIN.WORKLOAD. Raises UserError."""
        owner, dot, name = use.partition(".")
        if not dot:
            raise UserError(f"{use!r} is no workload", where=where, expected="PLUGIN.WORKLOAD")
        workloads = self.plugin(owner, where).workloads
        if name not in workloads:
            raise UnknownNameError("workload", name, workloads, where=where)
        return workloads[name]

    @property
    def experiment_files(self) -> dict[str, tuple[str, Path]]:
        """Every shipped experiment's name, with the plugin that ships it and its file.

        Where a package holds several plugins, the one whose workload an experiment uses ships it.
        """
        return self._experiments[0]

    @property
    def experiment_faults(self) -> dict[str, UserError | PluginError]:
        """What is wrong with shipped experiments that cannot be told from their files, by name."""
        return self._experiments[1]

    @cached_property
    def _experiments(self) -> tuple[dict[str, tuple[str, Path]], dict[str, UserError | PluginError]]:
        packages: dict[Path, list[str]] = {}
        for plugin in self.plugins():
            if plugin.folder is not None:
                packages.setdefault(plugin.folder, []).append(plugin.name)
        found: dict[str, tuple[str, Path]] = {}
        faults: dict[str, UserError | PluginError] = {}
        for folder, plugins in packages.items():
            for file in sorted((folder / "experiments").glob("*.toml")):
                try:
                    content = read_toml(file)
                    name, workload = content.get("name"), content.get("workload")
                    if not isinstance(name, str):
                        raise UserError("the key 'name' is missing or no text", where=str(file))
                except UserError as error:
                    faults[file.stem] = error
                    continue
                use = str(workload.get("use")) if isinstance(workload, dict) else ""
                owner = use.partition(".")[0]
                plugin_name = owner if owner in plugins else plugins[0]
                if name in found:
                    faults[name] = PluginError(
                        f"ships an experiment {name!r}, which plugin {found[name][0]!r} ships too",
                        plugin=plugin_name,
                    )
                else:
                    found[name] = (plugin_name, file)
        return {name: where for name, where in found.items() if name not in faults}, faults

    def preset(self, release: str, where: str = "") -> list[str]:
        """The plugins of a release: all that came with it or before it, by what they say of themselves.

        Where two of them conflict, the one of the later release replaces the other.
        """
        if release not in RELEASES:
            raise UnknownNameError("release", release, RELEASES, where=where)
        try:
            infos = {name: self.plugin(name).info for name in self.names()}
        except PluginError as error:
            raise UserError(
                f"which plugins belong to {release!r} cannot be told: {error}",
                where=where,
                expected="that plugin mended or uninstalled, or the plugins named instead of a release",
            ) from error
        members = [name for name in infos if infos[name].age <= RELEASES.index(release)]
        return [
            name
            for name in members
            if not any(infos[other].age > infos[name].age and self.conflict(name, other) for other in members)
        ]

    def solve(self, names: Iterable[str], where: str = "") -> list[str]:
        """The plugins in the order in which their hooks are asked. The same for any order of `names`.

        A plugin is asked before those it requires, since it refines what they say, unless one of the two
        says otherwise by `after` or `before`. What that leaves open: later releases first, then by name.
        Raises UserError for a missing plugin, a conflict or a cycle.
        """
        infos = {name: self.plugin(name, where).info for name in sorted(set(names))}
        for name, info in infos.items():
            for needed in info.requires:
                if needed not in infos:
                    raise self._missing(name, needed, where)
            for other in infos:
                if other > name and (by := self.conflict(name, other)):
                    said = " and ".join(repr(plugin) for plugin in by)
                    raise UserError(
                        f"the plugins {name!r} and {other!r} conflict, as {said} say{'s' * (len(by) == 1)}",
                        where=where,
                        expected="one of them",
                    )
        return self.order(infos, where)

    def order(self, names: Iterable[str], where: str = "") -> list[str]:
        """As `solve`, of plugins that need not be fit to be used together. Raises UserError for a cycle."""
        infos = {name: self.plugin(name, where).info for name in sorted(set(names))}
        return _topological(infos, self.relations(infos), where)

    def relations(self, names: Iterable[str]) -> list[Relation]:
        """What these plugins say of the order among themselves."""
        infos = {name: self.plugin(name).info for name in sorted(set(names))}
        said = []
        for name, info in infos.items():
            said += [Relation(name, later, name, "before") for later in info.before]
            said += [Relation(earlier, name, name, "after") for earlier in info.after]
        contrary = {(relation.then, relation.first) for relation in said}
        said += [
            Relation(name, needed, name, "requires")
            for name, info in infos.items()
            for needed in info.requires
            if (name, needed) not in contrary
        ]
        return [relation for relation in said if relation.first in infos and relation.then in infos]

    def why(self, order: Sequence[str]) -> list[str]:
        """For each plugin of a solved order but the last: why it is asked before the one that follows."""
        said = {(relation.first, relation.then): str(relation) for relation in self.relations(order)}
        # The one that follows waited for this one, or for none: then it came after by release or name.
        return [said.get((one, then)) or self._by_age(one, then) for one, then in pairwise(order)]

    def _by_age(self, one: str, then: str) -> str:
        first, second = self.plugin(one).info, self.plugin(then).info
        if first.age == second.age:
            return "name"
        return "later release" if first.release else "of no release"

    def idle(self, names: Iterable[str]) -> list[str]:
        """What these plugins say of plugins that are not installed: of no effect, and perhaps misspelt."""
        found = []
        for name in names:
            info = self.plugin(name).info
            for how, others in (
                ("before", info.before),
                ("after", info.after),
                ("conflicts", info.conflicts),
            ):
                for other in others:
                    if other not in self._plugins:
                        near = difflib.get_close_matches(other, self._plugins, n=1)
                        hint = f"; did you mean {near[0]!r}?" if near else ""
                        found.append(f"{name} says {how} {other!r}, which is not installed{hint}")
        return found

    def _missing(self, name: str, needed: str, where: str) -> UserError:
        if needed in self._plugins:
            return UserError(
                f"plugin {name!r} requires plugin {needed!r}, which is not used",
                where=where,
                expected=f"{needed!r} among the plugins too",
            )
        near = difflib.get_close_matches(needed, self._plugins, n=1, cutoff=0.5)
        return UserError(
            f"plugin {name!r} requires plugin {needed!r}, which is not installed"
            + (f" ({near[0]!r} is)" if near else ""),
            where=where,
            expected=f"a distribution that brings it; {self.plugin(name).distribution!r} should depend on it",
        )

    def required(self, name: str) -> list[str]:
        """The plugins that one requires, and those that they require."""
        found: list[str] = []
        waiting = list(self.plugin(name).info.requires)
        while waiting:
            needed = waiting.pop(0)
            if needed not in found:
                found.append(needed)
                waiting += self.plugin(needed).info.requires
        return found

    def conflict(self, one: str, other: str) -> list[str]:
        """Who of the two says that they conflict."""
        return [by for by, of in ((one, other), (other, one)) if of in self.plugin(by).info.conflicts]


def _topological(
    infos: Mapping[str, PluginInfo], relations: Sequence[Relation], where: str = ""
) -> list[str]:
    following: dict[str, set[str]] = {name: set() for name in infos}
    for relation in relations:
        following[relation.first].add(relation.then)
    waiting_for = dict.fromkeys(infos, 0)
    for followers in following.values():
        for name in followers:
            waiting_for[name] += 1

    def key(name: str) -> tuple[int, str]:
        return -infos[name].age, name

    ready = [key(name) for name, count in waiting_for.items() if count == 0]
    heapq.heapify(ready)
    order: list[str] = []
    while ready:
        _, name = heapq.heappop(ready)
        order.append(name)
        for later in sorted(following[name]):
            waiting_for[later] -= 1
            if waiting_for[later] == 0:
                heapq.heappush(ready, key(later))
    if len(order) < len(following):
        # Walking on from any plugin that is left, always to one that is left, ends in a cycle.
        left = {name: sorted(later - set(order)) for name, later in following.items() if name not in order}
        left = {name: later for name, later in left.items() if later}
        path = [min(left)]
        while path[-1] not in path[:-1]:
            path.append(next(name for name in left[path[-1]] if name in left))
        cycle = path[path.index(path[-1]) :]
        said = [
            next(str(relation) for relation in relations if (relation.first, relation.then) == step)
            for step in pairwise(cycle)
        ]
        raise UserError(
            f"the order of the plugins is a cycle: {' -> '.join(cycle)} ({', '.join(said)})",
            where=where,
            expected="that one of them says otherwise",
        )
    return order


@cache
def installed() -> Registry:
    """What is installed here."""
    found: dict[str, InstalledPlugin] = {}
    read: dict[object, tuple[str, str]] = {None: ("unknown", "unknown")}
    for entry in sorted(metadata.entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        if entry.dist is not None and entry.dist not in read:  # it is parsed anew whenever it is looked at
            described = entry.dist.metadata
            read[entry.dist] = described["Name"], described["Version"]
        distribution, version = read[entry.dist]
        known = found.get(entry.name)
        found[entry.name] = (
            InstalledPlugin(entry.name, distribution, version, entry)
            if known is None
            else attrs.evolve(known, rival=distribution)
        )
    return Registry(found)


def read_toml(file: Path) -> dict[str, Any]:
    """A TOML file as a dictionary. Raises UserError naming the file and the line."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(file)) from None
    except UnicodeDecodeError as error:
        raise UserError(f"is not UTF-8 text: {error.reason}", where=str(file)) from None
    except (ValueError, RecursionError) as error:  # a number or a nesting may be longer than Python reads
        raise UserError(f"is not valid TOML: {error}", where=str(file)) from None
