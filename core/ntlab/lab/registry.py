"""What is installed: plugins by name, their workloads and experiments, and the order they are asked in.

A plugin is found by an entry point of the group ``ntlab.plugins`` whose name is the plugin's name. Its
package may hold ``experiments/*.toml`` beside it. Nothing is imported until it is needed, so one broken
plugin does not hinder the others.
"""

from __future__ import annotations

import heapq
import importlib.util
import inspect
import tomllib
from collections.abc import Callable, Iterable, Mapping
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import attrs

from ntlab.errors import PluginError, UnknownNameError, UserError
from ntlab.lab.options import options_written
from ntlab.plugin import RELEASES, PluginInfo, WorkloadInfo, plugin_info, workload_info

GROUP = "ntlab.plugins"


@attrs.frozen(slots=False)
class InstalledPlugin:
    """One installed plugin, not imported until `info` is asked for."""

    name: str
    distribution: str
    version: str
    _entry: metadata.EntryPoint = attrs.field(repr=False, eq=False)

    @cached_property
    def info(self) -> PluginInfo:
        """What the plugin says of itself. Raises PluginError where it cannot be imported or is no plugin."""
        try:
            cls = self._entry.load()
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"cannot be imported from the distribution {self.distribution!r}: "
                f"{type(error).__name__}: {error}",
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
        return info

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

    @property
    def hooks(self) -> list[str]:
        """The hooks the plugin answers, by name."""
        marked = [
            (name, options)
            for name, member in inspect.getmembers(self.info.cls, callable)
            if (options := getattr(member, "ntlab_impl", None)) is not None
        ]
        return sorted(options["specname"] or name for name, options in marked)

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


@attrs.frozen(slots=False)
class Registry:
    """The installed plugins. `installed()` gives that of this environment."""

    _plugins: Mapping[str, InstalledPlugin]

    def names(self) -> list[str]:
        return sorted(self._plugins)

    def plugin(self, name: str, where: str = "") -> InstalledPlugin:
        """The plugin of that name. Raises UnknownNameError."""
        if name not in self._plugins:
            raise UnknownNameError("plugin", name, self._plugins, where=where)
        return self._plugins[name]

    def plugins(self) -> list[InstalledPlugin]:
        """All of them, by name."""
        return [self._plugins[name] for name in self.names()]

    def workload(self, use: str, where: str = "") -> WorkloadInfo:
        """The workload that an experiment calls PLUGIN.WORKLOAD. Raises UserError."""
        owner, dot, name = use.partition(".")
        if not dot:
            raise UserError(f"{use!r} is no workload", where=where, expected="PLUGIN.WORKLOAD")
        workloads = self.plugin(owner, where).workloads
        if name not in workloads:
            raise UnknownNameError("workload", name, workloads, where=where)
        return workloads[name]

    @cached_property
    def experiment_files(self) -> dict[str, tuple[str, Path]]:
        """Every shipped experiment's name, with the plugin that ships it and its file.

        Where a package holds several plugins, the one whose workload an experiment uses ships it.
        """
        packages: dict[Path, list[str]] = {}
        for plugin in self.plugins():
            if plugin.folder is not None:
                packages.setdefault(plugin.folder, []).append(plugin.name)
        found: dict[str, tuple[str, Path]] = {}
        for folder, plugins in packages.items():
            for file in sorted((folder / "experiments").glob("*.toml")):
                content = read_toml(file)
                name, workload = content.get("name"), content.get("workload")
                if not isinstance(name, str):
                    raise UserError("the key 'name' is missing or no text", where=str(file))
                use = str(workload.get("use")) if isinstance(workload, dict) else ""
                owner = use.partition(".")[0]
                plugin_name = owner if owner in plugins else plugins[0]
                if name in found:
                    raise PluginError(
                        f"ships an experiment {name!r}, which plugin {found[name][0]!r} ships too",
                        plugin=plugin_name,
                    )
                found[name] = (plugin_name, file)
        return found

    def preset(self, release: str, where: str = "") -> list[str]:
        """The plugins of a release: all that came with it or before it, by what they say of themselves.

        Where two of them conflict, the one of the later release replaces the other.
        """
        if release not in RELEASES:
            raise UnknownNameError("release", release, RELEASES, where=where)
        age = {name: RELEASES.index(self.plugin(name).info.release) for name in self.names()}
        members = [name for name in self.names() if age[name] <= RELEASES.index(release)]
        return [
            name
            for name in members
            if not any(age[other] > age[name] and self._conflict(name, other) for other in members)
        ]

    def solve(self, names: Iterable[str], where: str = "") -> list[str]:
        """The plugins in the order in which their hooks are asked. The same for any order of `names`.

        A plugin is asked before those it requires, since it refines what they say, unless one of the two
        says otherwise by `after` or `before`. What that leaves open: later releases first, then by name.
        Raises UserError for a missing plugin, a conflict or a cycle.
        """
        active = sorted(set(names))
        infos = {name: self.plugin(name, where).info for name in active}
        for name, info in infos.items():
            for needed in info.requires:
                if needed not in infos:
                    raise UserError(
                        f"plugin {name!r} requires plugin {needed!r}, which is not used", where=where
                    )
            for other in active:
                if other > name and self._conflict(name, other):
                    raise UserError(
                        f"the plugins {name!r} and {other!r} conflict", where=where, expected="one"
                    )
        following: dict[str, set[str]] = {name: set() for name in active}
        for name, info in infos.items():
            following[name].update(later for later in info.before if later in infos)
            for earlier in info.after:
                if earlier in infos:
                    following[earlier].add(name)
        for name, info in infos.items():
            for needed in info.requires:
                if name not in following[needed]:
                    following[name].add(needed)
        return _topological(following, infos, where)

    def _conflict(self, one: str, other: str) -> bool:
        return other in self.plugin(one).info.conflicts or one in self.plugin(other).info.conflicts


def _topological(following: Mapping[str, set[str]], infos: Mapping[str, PluginInfo], where: str) -> list[str]:
    waiting_for = dict.fromkeys(following, 0)
    for followers in following.values():
        for name in followers:
            waiting_for[name] += 1

    def key(name: str) -> tuple[int, str]:
        return -RELEASES.index(infos[name].release), name

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
        cycle = " -> ".join(path[path.index(path[-1]) :])
        raise UserError(f"the order of the plugins is a cycle: {cycle}", where=where)
    return order


@cache
def installed() -> Registry:
    """What is installed here. Raises PluginError where two distributions bring a plugin of one name."""
    found: dict[str, InstalledPlugin] = {}
    for entry in sorted(metadata.entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        distribution = entry.dist.name if entry.dist is not None else "unknown"
        version = entry.dist.version if entry.dist is not None else "unknown"
        known = found.get(entry.name)
        if known is not None:
            raise PluginError(
                f"is brought by two distributions: {known.distribution!r} and {distribution!r}",
                plugin=entry.name,
            )
        found[entry.name] = InstalledPlugin(entry.name, distribution, version, entry)
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
